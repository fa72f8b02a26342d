//! The database, behind the narrowest interface that serves: look-ups in bulk, one transaction of new messages, and
//! what the command line needs to administer rooms, users and tokens.
//!
//! Everything that knows SQL is below this module; nothing above it does. Two databases serve: Postgres, in production
//! and on schemas made by Django, and SQLite, embedded. The [`Reader`] belongs to the control thread, the [`Writer`] to
//! the writer thread, [`Admin`] to the command line; no shard ever touches them.

mod admin;
mod error;
mod migration;
mod names;
mod postgres;
mod sqlite;
mod url;

use std::time::Duration;

use uuid::Uuid;

use crate::identity::{RoomId, Token, User, UserId};

pub use self::{
    admin::{Admin, Seeded, SeededRoom, SeededUser},
    error::{InsertError, StoreError},
    migration::Migrated,
    names::Names,
    url::{BadDatabaseUrl, DatabaseUrl},
};

/// A point in time: microseconds since the Unix epoch, UTC.
pub type Micros = i64;

/// A message as it enters the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// UUIDv7, the primary key.
    pub id: Uuid,
    /// The room it was sent to.
    pub room: RoomId,
    /// Who sent it.
    pub sender: UserId,
    /// Whom it addresses, if anyone in particular.
    pub receiver: Option<UserId>,
    /// When the room's shard stamped it.
    pub timestamp: Micros,
    /// Its text.
    pub content: &'a str,
}

/// A message as it comes out of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The primary key (UUIDv4 in rows that the original application wrote).
    pub id: Uuid,
    /// Who sent it.
    pub sender: UserId,
    /// The sender's name as it is now.
    pub sender_username: Box<str>,
    /// Whom it addresses.
    pub receiver: Option<UserId>,
    /// When it was sent.
    pub timestamp: Micros,
    /// Its text.
    pub content: Box<str>,
}

impl Saved {
    /// Where it stands in its room.
    pub fn stamp(&self) -> Stamp {
        Stamp { timestamp: self.timestamp, id: self.id }
    }
}

/// Where a message stands among those of its room. Stamps sort as a room's history does, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// When it was sent.
    pub timestamp: Micros,
    /// Its id, which settles equal times.
    pub id: Uuid,
}

impl Stamp {
    /// After every message.
    pub const LAST: Stamp = Stamp { timestamp: Micros::MAX, id: Uuid::max() };
}

/// Which database, and how long to wait for it.
#[derive(Clone, Debug)]
pub struct Database {
    /// Where it is.
    pub url: DatabaseUrl,
    /// What its tables and columns are called. SQLite knows only the default names.
    pub names: Names,
    /// How long one attempt to connect may take, looking at the tables included.
    pub connect_timeout: Duration,
    /// How long one query or one insert may take. [`Admin`] waits as long as its work takes.
    pub query_timeout: Duration,
}

/// Look-ups. Any number of calls may be under way at once; share it in an `Arc`.
///
/// A lost connection fails the calls that were waiting on it, and is made anew by the next call: one attempt, shared by
/// all who wait. Needs a tokio runtime with its timer and network drivers.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Reader {
    /// Over one pipelined connection.
    Postgres(Box<postgres::Reader>),
    /// On tokio's blocking threads, so that the caller's thread never waits for the disk.
    Sqlite(sqlite::Reader),
}

impl Reader {
    /// Connects, and looks whether the tables are there and fit.
    pub async fn open(database: &Database) -> Result<Reader, StoreError> {
        Ok(match &database.url {
            DatabaseUrl::Postgres(config) => {
                Reader::Postgres(Box::new(postgres::Reader::open(config, database).await?))
            }
            DatabaseUrl::Sqlite(path) => Reader::Sqlite(sqlite::Reader::open(path, database)?),
        })
    }

    /// Whose tokens these are, in the order asked; `None` for an unknown token and for one of an inactive user. One
    /// query for any number.
    pub async fn users_by_token(&self, tokens: &[Token]) -> Result<Vec<Option<User>>, StoreError> {
        match self {
            Reader::Postgres(reader) => reader.users_by_token(tokens).await,
            Reader::Sqlite(reader) => reader.users_by_token(tokens).await,
        }
    }

    /// Whether each user is a member of the room beside it, in the order asked; `false` also for a room that does not
    /// exist. One query for any number.
    pub async fn memberships(&self, pairs: &[(RoomId, UserId)]) -> Result<Vec<bool>, StoreError> {
        match self {
            Reader::Postgres(reader) => reader.memberships(pairs).await,
            Reader::Sqlite(reader) => reader.memberships(pairs).await,
        }
    }

    /// The stamp of the room's message with this id; `None` when the room has none such in the table.
    pub async fn stamp(&self, room: RoomId, id: Uuid) -> Result<Option<Stamp>, StoreError> {
        match self {
            Reader::Postgres(reader) => reader.stamp(room, id).await,
            Reader::Sqlite(reader) => reader.stamp(room, id).await,
        }
    }

    /// The room's last `limit` messages, or the last ones before `before`, which need not be in the table: newest first.
    pub async fn history(&self, room: RoomId, before: Option<Stamp>, limit: u16) -> Result<Vec<Saved>, StoreError> {
        let before = before.unwrap_or(Stamp::LAST);
        match self {
            Reader::Postgres(reader) => reader.history(room, before, limit).await,
            Reader::Sqlite(reader) => reader.history(room, before, limit).await,
        }
    }
}

/// New messages into the table, a batch a transaction.
///
/// A lost connection is made anew by the next insert: one attempt; the caller backs off. With SQLite the calling thread
/// waits for the disk.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Writer {
    /// Over a connection of its own.
    Postgres(Box<postgres::Writer>),
    /// On the calling thread.
    Sqlite(Box<sqlite::Writer>),
}

impl Writer {
    /// Connects, and looks whether the table of messages is there and fits.
    pub async fn open(database: &Database) -> Result<Writer, StoreError> {
        Ok(match &database.url {
            DatabaseUrl::Postgres(config) => {
                Writer::Postgres(Box::new(postgres::Writer::open(config, database).await?))
            }
            DatabaseUrl::Sqlite(path) => Writer::Sqlite(Box::new(sqlite::Writer::open(path, database)?)),
        })
    }

    /// Saves all of `rows` or none. A row whose id is in the table already is left as it is there, so a batch may be
    /// inserted again after any error. On `Ok` everything is committed, to the disk.
    pub async fn insert(&mut self, rows: &[Row<'_>]) -> Result<(), InsertError> {
        match self {
            Writer::Postgres(writer) => writer.insert(rows).await,
            Writer::Sqlite(writer) => writer.insert(rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The control thread hands look-ups to tasks and to axum's handlers, which must be `Send`.
    #[test]
    fn a_reader_and_its_look_ups_are_send() {
        fn send<T: Send>(_: impl FnOnce(&'static Reader) -> T) {}
        fn shared<T: Send + Sync>() {}
        shared::<Reader>();
        send(|reader| reader.users_by_token(&[]));
        send(|reader| reader.memberships(&[]));
        send(|reader| reader.stamp(Uuid::nil(), Uuid::nil()));
        send(|reader| reader.history(Uuid::nil(), None, 1));
    }
}
