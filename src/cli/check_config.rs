//! `ringroom check-config`: every setting in force, as a TOML file that could be given back with `--config`, or as JSON.
//! A password is masked in both.

use clap::Args;
use serde_json::json;

use super::{
    answer,
    serve::checked,
    settings::{ForServer, Settings},
};
use crate::{
    config::{Config, KEYS, Key, Kind, Typed},
    failure::Failure,
};

pub(super) const NOTES: &str = "\
Examples:
  ringroom check-config
  ringroom check-config --config /etc/ringroom.toml && systemctl restart ringroom
  ringroom check-config --json

Exit code 2 and one message when something is wrong. The database is not asked.";

#[derive(Args)]
pub(super) struct CheckConfig {
    /// Answer with one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings<ForServer>,
}

impl CheckConfig {
    pub(super) fn run(self) -> Result<(), Failure> {
        let typed = self.settings.gather()?;
        let config = checked(&typed)?;
        let entry = |key: &Key| {
            let from = typed.given(key.name).from.to_string();
            (key.name.to_owned(), json!({ "value": value(key, &typed, &config), "from": from }))
        };
        let mut object: serde_json::Map<_, _> = KEYS.iter().map(entry).collect();
        object.insert("tables".into(), json!(config.database.names));
        answer(self.json, object, || as_toml(&typed, &config))
    }
}

/// The value in force, as a file would have it, without a password.
fn value(key: &Key, typed: &Typed, config: &Config) -> toml::Value {
    let text = &typed.given(key.name).text;
    match key.kind {
        Kind::DatabaseUrl => config.database.url.to_string().into(),
        Kind::Origins => config.origins.clone().into(),
        kind if kind.is_number() => text.parse::<i64>().map_or(text.as_str().into(), toml::Value::Integer),
        _ => text.as_str().into(),
    }
}

fn as_toml(typed: &Typed, config: &Config) -> String {
    let mut text = String::from("# What is in force, and where it comes from. Passwords are masked.\n");
    for key in KEYS {
        let assignment = format!("{} = {}", key.name, value(key, typed, config));
        text += &format!("{assignment:50} # {}\n", typed.given(key.name).from);
    }
    text += "\n[tables]\n";
    text += &toml::to_string(&config.database.names).unwrap_or_default();
    text.trim_end().to_owned()
}
