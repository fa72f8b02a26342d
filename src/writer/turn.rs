//! What a shard hands to the writer when there is no journal between them, and the answer.
//!
//! In: the messages of one turn. Out: their records, as the journal would keep them. Made on a shard's thread, read on the
//! writer's.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::journal::record::{self, Record};

/// The messages that one shard accepted in one turn.
#[derive(Debug)]
pub struct Turn {
    /// The shard that waits for the answer.
    pub shard: usize,
    /// The shard's number for the turn.
    pub number: u64,
    /// When the turn began to be filled.
    pub began: Instant,
    /// Its messages.
    pub records: Bytes,
    /// How many they are.
    pub count: usize,
}

/// A turn that is being filled.
#[derive(Debug, Default)]
pub struct Filling {
    records: BytesMut,
    count: usize,
    began: Option<Instant>,
}

impl Filling {
    /// Adds a message.
    pub fn push(&mut self, record: &Record<'_>) {
        self.began.get_or_insert_with(Instant::now);
        self.count += 1;
        // The place in the turn stands for a sequence: nothing but a journal needs one.
        record::encode(&mut self.records, self.count as u64, record);
    }

    /// The turn is over: what was pushed since the last one.
    pub fn end(&mut self, shard: usize, number: u64) -> Turn {
        Turn {
            shard,
            number,
            began: self.began.take().unwrap_or_else(Instant::now),
            records: self.records.split().freeze(),
            count: std::mem::take(&mut self.count),
        }
    }
}

/// The writer's answer to a turn: it is saved, all but these messages, which certainly are not.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled {
    /// The shard's number for the turn.
    pub turn: u64,
    /// The messages that were not saved, by their place in the turn, in rising order.
    pub unsaved: Vec<(u32, Why)>,
}

/// Why a message was not saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The database does not take it: its room or its sender is gone.
    Refused,
    /// There was no room for it, or what was to hold it did not do so in time.
    GivenUp,
}
