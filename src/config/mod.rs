//! What a ringroom process is told, in two stages: what was typed ([`Typed`]: file, environment, flags), then what the
//! program needs ([`Config`]: checked once, plain values from there on).
//!
//! Read on the main thread at start-up and passed to the other threads as it is. Nothing re-reads it, and nothing
//! below this module looks at a file, a variable or a flag. [`KEYS`] is the only list of keys: the flags and their
//! help, the variables, `check-config` and the README's table all come from it.

mod keys;
mod typed;

use std::path::PathBuf;

pub use self::{
    keys::{Config, Durability, KEYS, Key, Kind, Scope},
    typed::{Flags, Given, Source, Typed},
};
use crate::{
    failure::Failure,
    store::{Database, DatabaseUrl},
};

impl Config {
    /// Checks everything that was typed, each value and then how they go together. The first offence is the failure.
    pub fn check(typed: &Typed) -> Result<Config, Failure> {
        let config = Config::read(typed, read_database(typed)?)?;
        match config.contradiction() {
            None => Ok(config),
            Some(message) => Err(Failure::unusable(message)),
        }
    }

    /// Two values that cannot hold together, in words.
    fn contradiction(&self) -> Option<String> {
        if self.message_bytes_max < self.message_chars_max {
            return Some(format!(
                "`message_chars_max` ({}) can never be reached with `message_bytes_max` ({}), for a character takes 1 \
                 to 4 bytes: raise the second or lower the first",
                self.message_chars_max, self.message_bytes_max
            ));
        }
        if self.lag_bytes_max < 2 * self.message_bytes_max {
            return Some(format!(
                "`lag_bytes_max` ({}) must be at least twice `message_bytes_max` ({}), or one long message would \
                 close every member that is still sending the one before: raise the first or lower the second",
                self.lag_bytes_max, self.message_bytes_max
            ));
        }
        if self.writer_queue_rows < self.commit_rows_max {
            return Some(format!(
                "`writer_queue_rows` ({}) must hold at least one full commit, `commit_rows_max` ({}): raise the first \
                 or lower the second",
                self.writer_queue_rows, self.commit_rows_max
            ));
        }
        if self.save_timeout <= self.commit_delay {
            return Some(format!(
                "`save_timeout_seconds` ({}) must be longer than `commit_delay_ms` ({}), or every message would be \
                 given up before its commit",
                self.save_timeout.as_secs(),
                self.commit_delay.as_millis()
            ));
        }
        None
    }
}

/// The database, whose default path follows `data_dir`.
fn read_database(typed: &Typed) -> Result<Database, Failure> {
    let Given { text, from } = typed.given("database_url");
    let url = match from {
        Source::Default => DatabaseUrl::Sqlite(typed.read::<PathBuf>("data_dir")?.join("ringroom.db")),
        _ => text.parse().map_err(|error| Failure::unusable(format!("`database_url` ({from}): {error}")))?,
    };
    Ok(Database {
        url,
        names: typed.names()?,
        connect_timeout: typed.read("database_connect_timeout_seconds")?,
        query_timeout: typed.read("database_query_timeout_seconds")?,
    })
}
