//! New messages into an SQLite file: a batch in, one transaction and one sync of the disk a batch.
//!
//! Runs on the writer thread and blocks it for as long as the disk takes; the next batch gathers meanwhile.

use std::path::{Path, PathBuf};

use rusqlite::{
    Connection, ErrorCode, Result as SqlResult, Statement, TransactionBehavior, ffi::SQLITE_IOERR_WRITE, params,
};

use super::{Id, failure, open_migrated};
use crate::{
    identity::UserId,
    store::{Database, InsertError, Row, StoreError},
};

/// The writing side of an SQLite file.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    database: Database,
    /// `None` after an error that leaves the connection's state in doubt.
    connection: Option<Connection>,
}

/// How far an insert had come when it failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Rows,
    Commit,
}

impl Writer {
    pub(in crate::store) fn open(path: &Path, database: &Database) -> Result<Writer, StoreError> {
        let connection = Some(open_migrated(path, database)?);
        Ok(Writer { path: path.into(), database: database.clone(), connection })
    }

    pub(in crate::store) fn insert(&mut self, rows: &[Row<'_>]) -> Result<(), InsertError> {
        if rows.is_empty() {
            return Ok(());
        }
        rows.iter().try_for_each(check)?;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => open_migrated(&self.path, &self.database)?,
        };
        let outcome = save(&mut connection, rows).map_err(|(stage, error)| meaning(stage, &error, &self.path));
        if matches!(outcome, Ok(()) | Err(InsertError::Refused(_))) && connection.is_autocommit() {
            self.connection = Some(connection);
        }
        outcome
    }
}

/// Refuses what Postgres would refuse, so that a message means the same in both.
fn check(row: &Row<'_>) -> Result<(), InsertError> {
    let numbered = |id| matches!(id, UserId::Int(_));
    if numbered(row.sender) || row.receiver.is_some_and(numbered) {
        return Err(InsertError::Refused(format!(
            "message {} names a user by a number, and ids here are UUIDs",
            row.id
        )));
    }
    if row.content.contains('\0') {
        return Err(InsertError::Refused(format!(
            "message {} holds a NUL character, which no text column can",
            row.id
        )));
    }
    Ok(())
}

/// One transaction. One that is not committed, or that SQLite refuses to commit, is rolled back when it is dropped.
fn save(connection: &mut Connection, rows: &[Row<'_>]) -> Result<(), (Stage, rusqlite::Error)> {
    let filling = |error| (Stage::Rows, error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(filling)?;
    insert_all(&transaction, rows).map_err(filling)?;
    transaction.commit().map_err(|error| (Stage::Commit, error))
}

/// Room after room: neighbours in the batch are neighbours in the index of rooms then.
fn insert_all(connection: &Connection, rows: &[Row<'_>]) -> SqlResult<()> {
    const INSERT: &str = "
        INSERT INTO chat_message (id, room_id, sender_id, receiver_id, timestamp, content)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO NOTHING";
    let mut by_room: Vec<&Row<'_>> = rows.iter().collect();
    by_room.sort_by_key(|row| row.room);
    let mut insertion = connection.prepare_cached(INSERT)?;
    by_room.into_iter().try_for_each(|row| insert(&mut insertion, row))
}

fn insert(insertion: &mut Statement<'_>, row: &Row<'_>) -> SqlResult<()> {
    let uuid = |id| match id {
        UserId::Uuid(id) => Some(Id(id)),
        UserId::Int(_) => None,
    };
    let receiver = row.receiver.and_then(uuid);
    let values = params![Id(row.id), Id(row.room), uuid(row.sender), receiver, row.timestamp, row.content];
    insertion.execute(values).map(|_| ())
}

/// What an error means for the batch.
fn meaning(stage: Stage, error: &rusqlite::Error, path: &Path) -> InsertError {
    let text = || failure(error, path).text().to_owned();
    match (error.sqlite_error_code(), stage) {
        (Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch), _) => {
            InsertError::Refused(text())
        }
        // Of a commit that failed, these alone say that it was undone (sqlite.org/rescode.html).
        (Some(ErrorCode::DatabaseBusy | ErrorCode::DiskFull | ErrorCode::ReadOnly), Stage::Commit) => {
            InsertError::NotSent(text())
        }
        (_, Stage::Rows) => failure(error, path).into(),
        // Of a quota or a limit, which SQLite does not know as a full disk. The last frame of the write-ahead log is what
        // commits, and without all of it in the file nothing is committed (sqlite.org/fileformat2.html, section 4).
        (Some(ErrorCode::SystemIoFailure), Stage::Commit) if extended_code(error) == Some(SQLITE_IOERR_WRITE) => {
            InsertError::NotSent(text())
        }
        (_, Stage::Commit) => InsertError::InDoubt(text()),
    }
}

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}
