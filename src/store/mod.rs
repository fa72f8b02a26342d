//! The database, behind the narrowest interface that serves: look-ups in bulk, one transaction of new messages, and
//! what the command line needs to administer rooms, users and tokens.
//!
//! Everything that knows SQL is below this module; nothing above it does. Two databases serve: [`postgres`], in
//! production and on schemas made by Django, and [`sqlite`], embedded.

use uuid::Uuid;

use crate::identity::{RoomId, UserId};

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
