//! `ringroom serve`: looks whether the machine and the database will do, then hands over to `server`.
//!
//! Its one line on standard output means that connections are accepted, at the address in it.

use super::{
    admin::block_on,
    print,
    settings::{ForServer, Settings},
    start_log,
};
use crate::{
    config::{Config, Key, Typed},
    failure::Failure,
    preflight, server,
    store::{Admin, DatabaseUrl},
    topology::{Topology, cpus_allowed},
};

pub(super) const NOTES: &str = "\
Examples:
  ringroom serve
  ringroom serve --listen 0.0.0.0:8000 --database-url postgres://chat@db.example/chat
  RINGROOM_LOG=debug ringroom serve --config /etc/ringroom.toml --shards 4

When connections are accepted one line is printed, with the address really bound. SIGTERM drains: no new connections,
messages under way are saved, members are asked to come back over `drain_seconds`; a second signal ends at once.

An SQLite database is made and migrated by `serve` itself; for Postgres run `ringroom migrate` first.";

pub(super) fn run(settings: Settings<ForServer>) -> Result<(), Failure> {
    let mut config = checked(&settings.gather()?)?;
    start_log(&config);
    prepare_machine(&mut config)?;
    if let DatabaseUrl::Sqlite(_) = config.database.url {
        block_on(async { Admin::create(&config.database).await?.migrate().await })?;
    }
    let (shards, url) = (shards(&config), config.database.url.to_string());
    server::run(config, move |address| {
        let shards = if shards == 1 { "1 shard".into() } else { format!("{shards} shards") };
        // Nobody reads the line any more: that is no reason to end the server.
        let _ = print(&format!("ringroom is listening on http://{address} ({shards}, {url})"));
    })
}

/// The configuration in force, which must also suit the number of shards that this machine makes of it.
pub(super) fn checked(typed: &Typed) -> Result<Config, Failure> {
    let config = Config::check(typed)?;
    server::journal_rules(&config, shards(&config))?;
    Ok(config)
}

/// Whether kernel, port and open files will do; connections beyond the open files are not promised.
pub(super) fn prepare_machine(config: &mut Config) -> Result<(), Failure> {
    preflight::kernel()?;
    preflight::address(config.listen)?;
    let capacity = preflight::Capacity::reserve(config.connections_max, shards(config))?;
    if let Some(shortfall) = capacity.shortfall {
        // The default asks for more than most machines allow; only one who chose a number needs to hear about it.
        let default = Key::find("connections_max").map(|key| key.default);
        let chosen = default != Some(config.connections_max.to_string().as_str());
        if chosen { tracing::warn!("{shortfall}") } else { tracing::debug!("{shortfall}") }
    }
    (config.connections_max, config.sockets_max) = (capacity.connections, capacity.sockets);
    Ok(())
}

fn shards(config: &Config) -> usize {
    Topology::new(&cpus_allowed(), config.shards).shards()
}
