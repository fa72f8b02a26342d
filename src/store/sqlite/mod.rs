//! SQLite: the embedded store, a file beside the process.
//!
//! Write-ahead logging, so reading never waits for writing; every commit is synced to the disk; foreign keys are
//! enforced, at commit. Ids are UUIDs as 36 characters, points in time are integers (see `migrations/sqlite/`). One
//! connection each for [`Reader`], [`Writer`] and [`Admin`]; tables have ringroom's names, always.

mod admin;
mod reader;
mod writer;

pub(super) use self::{admin::Admin, reader::Reader, writer::Writer};

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{
    Connection, ErrorCode, OpenFlags, Result as SqlResult, ToSql,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};
use uuid::Uuid;

use super::{
    Database, Names, StoreError,
    migration::{self, SQLITE},
};

/// Opens a file that exists.
fn open(path: &Path, database: &Database) -> Result<Connection, StoreError> {
    connect(path, database, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// Opens a file, making it if need be.
fn create(path: &Path, database: &Database) -> Result<Connection, StoreError> {
    connect(path, database, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
}

/// Opens a file whose tables are there and are those of this version.
fn open_migrated(path: &Path, database: &Database) -> Result<Connection, StoreError> {
    let connection = open(path, database)?;
    let latest = latest_migration(&connection).map_err(|error| failure(&error, path))?;
    migration::check_recorded(latest, SQLITE)?;
    if latest < Some(SQLITE.len() as i32) {
        return Err(StoreError::Refused(format!("{} lacks tables: run `ringroom migrate`", path.display())));
    }
    Ok(connection)
}

fn connect(path: &Path, database: &Database, flags: OpenFlags) -> Result<Connection, StoreError> {
    if database.names != Names::default() {
        return Err(StoreError::Refused(
            "section [tables] is for Postgres: an SQLite database has ringroom's own names; remove the section".into(),
        ));
    }
    let opened = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX);
    let connection = opened.map_err(|error| failure(&error, path))?;
    prepare(&connection, database.query_timeout).map_err(|error| failure(&error, path))?;
    Ok(connection)
}

/// Settings of a connection. Switching a new file to write-ahead logging does not wait for another process that does
/// the same, so that waiting is done here.
fn prepare(connection: &Connection, patience: Duration) -> SqlResult<()> {
    connection.busy_timeout(patience)?;
    let start = Instant::now();
    while let Err(error) = connection.pragma_update(None, "journal_mode", "wal") {
        if error.sqlite_error_code() != Some(ErrorCode::DatabaseBusy) || start.elapsed() > patience {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// The latest recorded migration.
fn latest_migration(connection: &Connection) -> SqlResult<Option<i32>> {
    // Asked by a query: rusqlite's `table_exists` answers from a cache that another process's change may have passed.
    const RECORD: &str = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'ringroom_migrations'";
    if connection.prepare(RECORD)?.exists([])? {
        connection.query_one("SELECT max(version) FROM ringroom_migrations", [], |row| row.get(0))
    } else {
        Ok(None)
    }
}

/// What an error means for somebody who looks up or administers.
fn failure(error: &rusqlite::Error, path: &Path) -> StoreError {
    let path = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::CannotOpen) => StoreError::Refused(format!(
            "cannot open {path} ({error}): make it with `ringroom migrate`, or check its folder's permissions"
        )),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Refused(format!("{path} is no sound SQLite database ({error}): is the path right?"))
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            StoreError::Unavailable(format!("{path} is locked by another process ({error})"))
        }
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => {
            StoreError::Unavailable(format!("the disk of {path} does not take or give data ({error})"))
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            StoreError::Refused(format!("{path} cannot be written ({error}): check its and its folder's permissions"))
        }
        _ => StoreError::Refused(format!("SQLite refused ({error})")),
    }
}

/// A UUID as it is kept: 36 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(Uuid);

impl ToSql for Id {
    fn to_sql(&self) -> SqlResult<ToSqlOutput<'_>> {
        Ok(self.0.to_string().into())
    }
}

impl FromSql for Id {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Uuid::try_parse(value.as_str()?).map(Id).map_err(FromSqlError::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_kept_as_readable_text() {
        let connection = Connection::open_in_memory().unwrap();
        let id = Id(Uuid::from_u128(0xA1B2_C3D4_0000_4000_8000_0000_0000_00FF));
        let (kept, back): (String, Id) =
            connection.query_one("SELECT ?1, ?1", [id], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(kept, "a1b2c3d4-0000-4000-8000-0000000000ff");
        assert_eq!(back, id);
        assert!(connection.query_one("SELECT 'no id'", [], |row| row.get::<_, Id>(0)).is_err());
    }
}
