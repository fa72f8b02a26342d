//! What the commands of administration share: a configuration, a log, a connection to the database, a runtime to wait on.
//! And `ringroom migrate`.

use serde_json::json;
use tokio::runtime;

use super::{Asked, answer, start_log};
use crate::{
    config::Config,
    failure::Failure,
    store::{Admin, Migrated, StoreError},
};

pub(super) const MIGRATE_NOTES: &str = "\
Examples:
  DATABASE_URL=postgres://chat@db.example/chat ringroom migrate
  ringroom migrate --database-url sqlite:/var/lib/ringroom/chat.db

What was done already is not done again. Tables that a Django application made are left as they are.";

pub(super) fn migrate(Asked { json, settings }: Asked) -> Result<(), Failure> {
    let config = settings.check()?;
    start_log(&config);
    let done = block_on(async { Admin::create(&config.database).await?.migrate().await })?;
    let (mut applied, mut there) = (Vec::new(), Vec::new());
    for migrated in done {
        match migrated {
            Migrated::Applied(name) => applied.push(name),
            Migrated::AlreadyThere(name) => there.push(name),
        }
    }
    answer(json, json!({ "applied": applied, "already_there": there }), || match (&applied[..], &there[..]) {
        ([], []) => "the database is up to date".into(),
        _ => {
            let applied = applied.iter().map(|name| format!("applied {name}"));
            let there = there.iter().map(|name| format!("{name}: tables of another application are used as they are"));
            applied.chain(there).collect::<Vec<_>>().join("\n")
        }
    })
}

impl Asked {
    /// Connects to the database and does the work.
    pub(super) fn with_admin<T>(
        self,
        work: impl AsyncFnOnce(&mut Admin) -> Result<T, StoreError>,
    ) -> Result<T, Failure> {
        with_admin(&self.settings.check()?, work)
    }
}

/// Connects to the database and does the work.
pub(super) fn with_admin<T>(
    config: &Config,
    work: impl AsyncFnOnce(&mut Admin) -> Result<T, StoreError>,
) -> Result<T, Failure> {
    start_log(config);
    block_on(async { work(&mut Admin::open(&config.database).await?).await })
}

/// Waits for work on the database, on this thread.
pub(super) fn block_on<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T, Failure>
where
    Failure: From<E>,
{
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("no runtime for the database: {error}")))?;
    Ok(runtime.block_on(work)?)
}

impl From<StoreError> for Failure {
    /// Either way nothing was done, and something has to change first.
    fn from(error: StoreError) -> Failure {
        Failure::unusable(error.text())
    }
}
