//! What a shard's chat and the other threads tell each other.
//!
//! Only letters: who posts them, and what follows from them, is told where they are posted and read.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Parcel;
use crate::{
    auth::Admission,
    http::HandedOver,
    identity::{RoomId, Token, UserId},
    shard::{
        conn::{ConnId, Taken},
        mailbox::Postbox,
    },
    writer::{Settled, Turn},
};

/// What other threads tell a shard.
pub enum Mail {
    /// A connection whose room lives here.
    Adopt(Box<Adoption>),
    /// The control thread's answer to [`Question::Admit`].
    Admitted(Box<Admittance>, Admission),
    /// The control thread's answer to [`Question::Receiver`]: a member, not one, or the database cannot be asked.
    Receiver(ConnId, UserId, Option<bool>),
    /// What another shard has for this one, of rooms that both of them have members of.
    Parcel(Box<Parcel>),
    /// The writer's answer to a turn.
    Settled(Settled),
    /// The database refused a message of this sender in this room, which had been broadcast.
    Refused(RoomId, UserId),
    /// What was broadcast and only memory has yet: the records of the turns that the writer has not settled.
    Unsaved(oneshot::Sender<Vec<Bytes>>),
    /// Close everything over this time, and end.
    Drain(Duration),
}

/// What a shard asks of the control thread.
pub enum Question {
    /// May the holder of this token enter this room?
    Admit {
        /// Who asks.
        shard: usize,
        /// The connection that waits, and its room.
        admittance: Box<Admittance>,
        /// What it presented.
        token: Token,
    },
    /// Is this user a member of this room?
    Receiver {
        /// Who asks.
        shard: usize,
        /// The connection whose message waits.
        conn: ConnId,
        /// The room.
        room: RoomId,
        /// The user that the message addresses.
        user: UserId,
    },
    /// A request that is not for a chat room.
    Http(HandedOver),
}

/// A connection on its way to the shard of its room.
pub struct Adoption {
    pub(super) taken: Taken,
    pub(super) accept: Bytes,
    pub(super) room: RoomId,
    pub(super) token: Option<Token>,
}

/// A client that waits to be let into a room.
pub struct Admittance {
    pub(super) conn: ConnId,
    pub(super) room: RoomId,
    /// The bytes that accept the upgrade.
    pub(super) accept: Bytes,
}

impl Admittance {
    /// The room that it waits for.
    pub fn room(&self) -> RoomId {
        self.room
    }
}

/// Where a shard's letters go.
pub struct Posts {
    /// Every shard, this one too.
    pub shards: Vec<Postbox<Mail>>,
    /// The control thread.
    pub control: Postbox<Question>,
    /// The writer.
    pub writer: Postbox<Box<Turn>>,
}
