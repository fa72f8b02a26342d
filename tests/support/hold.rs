//! Somebody else's lock on the table of messages: as long as it is held nobody can save, and everybody can read.

use std::{thread, time::Instant};

use rusqlite::Connection;

use super::{DEADLINE, client::eventually, place::Place, postgres};

/// A lock that keeps writers out. Dropping it lets them in.
pub enum Hold {
    Sqlite(Connection),
    /// By a session that sleeps, to be ended from this URL.
    Postgres(String),
}

impl Hold {
    /// Locks, when whoever is writing has done.
    pub fn writers_of(place: &Place) -> Hold {
        let Some(path) = place.url.strip_prefix("sqlite:") else { return Hold::postgres(&place.url) };
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(DEADLINE).unwrap();
        // In a database with a write-ahead log readers go on all the same (sqlite.org/lang_transaction.html).
        connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
        Hold::Sqlite(connection)
    }

    fn postgres(url: &str) -> Hold {
        let own = url.to_owned();
        thread::spawn(move || {
            postgres::query(&own, "BEGIN; LOCK TABLE chat_message IN SHARE MODE; SELECT pg_sleep(120)").is_ok()
        });
        eventually("the table is locked", || match postgres::query(url, &format!("SELECT 1 {HOLDERS}")) {
            Ok(rows) if !rows.is_empty() => Ok(()),
            other => Err(std::io::Error::other(format!("{other:?}"))),
        });
        Hold::Postgres(url.to_owned())
    }
}

/// The sessions that hold such a lock here.
const HOLDERS: &str = "FROM pg_locks
    WHERE relation = 'chat_message'::regclass AND mode = 'ShareLock' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

impl Drop for Hold {
    fn drop(&mut self) {
        match self {
            Hold::Sqlite(connection) => drop(connection.execute_batch("ROLLBACK")),
            // Postgres may have been stopped meanwhile, and the lock is gone with it.
            Hold::Postgres(url) => {
                let began = Instant::now();
                let end = format!("SELECT pg_terminate_backend(pid) {HOLDERS}");
                while postgres::query(url, &end).is_ok_and(|ended| !ended.is_empty()) && began.elapsed() < DEADLINE {}
            }
        }
    }
}
