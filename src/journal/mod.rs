//! The journal: what keeps a message from the moment it is broadcast until the database has it.
//!
//! ```text
//!   shard: a turn's records -> appender -> one write, fdatasync -> held: broadcast
//!                                               |
//!                          DATA_DIR/journal/SSSS-NNNNNNNNNN.journal
//!                                               |
//!   writer: tail, from `saved` to `held` -> transactions -> saved: segments below are used again or removed
//!   control: pending, what is held and not saved, for a room's history
//!   start-up: recovery, what an earlier run left -> the writer, in the background
//! ```
//!
//! Each shard has a journal of its own, and only that shard writes it: append-only *segments*, of one size. Nothing about
//! it is shared but two positions, which are atomics: [`Progress`].

pub mod appender;
pub mod error;
pub mod pending;
pub mod place;
pub mod record;
pub mod recovery;
mod retraction;
pub mod scan;
pub mod segment;
mod stock;
pub mod survey;
pub mod tail;

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

/// The segments that earlier runs left, as long as the database lacks some of them. Whoever has saved one takes it out of the
/// list, and then removes its file.
pub type Leftovers = Arc<Mutex<Vec<recovery::Old>>>;

/// A place in a shard's journal: a segment, and an offset into its file. Places sort in the order of writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The segment's number; the first is 1.
    pub segment: u32,
    /// Bytes from the start of its file.
    pub offset: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.segment, self.offset)
    }
}

/// How far the journal of one shard has come. Written by one thread each, read by all.
#[derive(Debug, Default)]
pub struct Progress {
    held: AtomicU64,
    saved: AtomicU64,
    left: AtomicU32,
}

impl Progress {
    /// Nothing is held, and nothing is saved; the first record will be at `position`.
    pub fn begin(&self, position: Position) {
        self.set_held(position);
        self.set_saved(position);
    }

    /// Up to here everything may be broadcast, and read from the files. Set by the shard.
    pub fn held(&self) -> Position {
        unpack(self.held.load(Ordering::Acquire))
    }

    /// The shard's word that everything before `position` is held. What it wrote to the files before is seen by whoever
    /// reads the position.
    pub fn set_held(&self, position: Position) {
        self.held.store(pack(position), Ordering::Release);
    }

    /// Up to here everything is in the database, or among the dead letters. Set by the writer.
    pub fn saved(&self) -> Position {
        unpack(self.saved.load(Ordering::Acquire))
    }

    /// The writer's word that nobody needs the journal before `position` any more.
    pub fn set_saved(&self, position: Position) {
        self.saved.store(pack(position), Ordering::Release);
    }

    /// This shard's share of the files that earlier runs left: they count against the bound too.
    pub fn left(&self) -> u32 {
        self.left.load(Ordering::Relaxed)
    }

    /// Set by the writer, which removes them.
    pub fn set_left(&self, files: u32) {
        self.left.store(files, Ordering::Relaxed);
    }
}

fn pack(Position { segment, offset }: Position) -> u64 {
    u64::from(segment) << 32 | u64::from(offset)
}

fn unpack(word: u64) -> Position {
    Position { segment: (word >> 32) as u32, offset: word as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_survives_the_word_it_is_kept_in() {
        let progress = Progress::default();
        assert_eq!((progress.held(), progress.saved()), (Position::default(), Position::default()));
        let position = Position { segment: u32::MAX, offset: 7 };
        progress.set_held(position);
        progress.set_saved(Position { segment: 1, offset: u32::MAX });
        assert_eq!(progress.held(), position);
        assert!(progress.saved() < progress.held());
    }
}
