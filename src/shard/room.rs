//! A room: a log of sealed batches, and members that are cursors into it.
//!
//! In: messages, already encoded as frames. Out: for a member, whatever of the log it has not been sent. Pure; it knows no
//! sockets. Owned by the room's shard.
//!
//! ```text
//!   open batch --seal, end of turn--> held, by the turn's number --durable--> log  [base ......... end)
//!                                                                            members' cursors ^
//! ```
//!
//! There is no queue per member. The log keeps what some member still has to be sent, at most `lag_bytes_max`; when it
//! must let go of a batch, the members behind it are told by [`Log::after`] to have fallen out.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{conn::ConnId, ring::Outgoing};
use crate::identity::RoomId;

/// A room with at least one member, or with messages whose fate is open.
pub struct Room {
    /// The room's id.
    pub id: RoomId,
    /// Its members' connections; those that ended in the present turn may still be among them.
    pub members: Vec<ConnId>,
    /// What is broadcast.
    pub log: Log,
    /// Members that have not been sent the whole log.
    pub behind: u32,
    /// This turn's messages, one frame behind the other.
    open: BytesMut,
    open_messages: u32,
    held: VecDeque<Held>,
}

/// Messages of one turn and one room.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// Their frames, one behind the other.
    pub frames: Bytes,
    /// How many they are.
    pub messages: u32,
}

/// A sealed batch that waits for its durability.
struct Held {
    turn: u64,
    batch: Batch,
}

impl Room {
    /// An empty room.
    pub fn new(id: RoomId) -> Room {
        Room {
            id,
            members: Vec::new(),
            log: Log::default(),
            behind: 0,
            open: BytesMut::new(),
            open_messages: 0,
            held: VecDeque::new(),
        }
    }

    /// Nobody is here and nothing is under way: the room need not be kept.
    pub fn is_deserted(&self) -> bool {
        self.members.is_empty() && self.held.is_empty() && self.open_is_empty()
    }

    /// No message came in this turn.
    pub fn open_is_empty(&self) -> bool {
        self.open_messages == 0
    }

    /// Appends one message's frame to the open batch; says how long it is.
    pub fn append(&mut self, write: impl FnOnce(&mut BytesMut)) -> u32 {
        let before = self.open.len();
        write(&mut self.open);
        self.open_messages += 1;
        (self.open.len() - before) as u32
    }

    /// The end of a turn: its messages become a batch that waits.
    pub fn seal(&mut self, turn: u64) {
        let batch = Batch { frames: std::mem::take(&mut self.open).freeze(), messages: self.open_messages };
        self.open_messages = 0;
        self.held.push_back(Held { turn, batch });
    }

    /// The turn's batch, out of those that wait. Turns that are saved come in order; one that failed may come before
    /// an older one whose fate is still open.
    pub fn release(&mut self, turn: u64) -> Option<Batch> {
        let place = self.held.iter().position(|held| held.turn == turn)?;
        self.held.remove(place).map(|held| held.batch)
    }

    /// The batch enters the log: every member lacks it.
    pub fn broadcast(&mut self, batch: Batch) {
        self.log.push(batch);
        self.behind = self.members.len() as u32;
    }

    /// A member that was behind has been sent the whole log, or has left. After the last one nobody needs the log.
    pub fn one_caught_up(&mut self) {
        self.behind = self.behind.saturating_sub(1);
        if self.behind == 0 {
            self.log.clear();
        }
    }
}

/// Where a member is in a log: the number of the batch that it is to be sent next.
pub type Cursor = u64;

/// The batches that some member has not been sent yet.
#[derive(Default)]
pub struct Log {
    batches: VecDeque<Batch>,
    /// The number of the oldest batch kept.
    base: Cursor,
    bytes: usize,
}

/// What a member is to be sent.
pub enum After {
    /// Nothing: it has everything.
    Nothing,
    /// These bytes, which take it to the cursor and hold so many messages.
    Send(Outgoing, Cursor, u32),
    /// It fell out of the window: what it needs next is gone.
    FellOut,
}

impl Log {
    /// Where the next batch will be.
    pub fn end(&self) -> Cursor {
        self.base + self.batches.len() as u64
    }

    fn push(&mut self, batch: Batch) {
        self.bytes += batch.frames.len();
        self.batches.push_back(batch);
    }

    /// The batch that a member at `cursor` needs next is no longer kept.
    pub fn is_gone(&self, cursor: Cursor) -> bool {
        cursor < self.base
    }

    /// What a member at `cursor` has not been sent: one send, of one batch or of several gathered.
    pub fn after(&self, cursor: Cursor) -> After {
        if self.is_gone(cursor) {
            return After::FellOut;
        }
        let start = (cursor - self.base) as usize;
        let end = self.batches.len().min(start + Outgoing::PARTS_MAX);
        if start >= end {
            return After::Nothing;
        }
        let batches = self.batches.range(start..end);
        let messages = batches.clone().map(|batch| batch.messages).sum();
        let outgoing = match end - start {
            1 => Outgoing::One(self.batches[start].frames.clone()),
            _ => Outgoing::many(batches.map(|batch| batch.frames.clone()).collect()),
        };
        After::Send(outgoing, self.base + end as u64, messages)
    }

    /// Keeps at most `bytes_max`, but always the newest batch. True if it had to let go of any.
    pub fn trim(&mut self, bytes_max: usize) -> bool {
        let base = self.base;
        while self.bytes > bytes_max
            && self.batches.len() > 1
            && let Some(oldest) = self.batches.pop_front()
        {
            self.bytes -= oldest.frames.len();
            self.base += 1;
        }
        self.base > base
    }

    /// Everyone has been sent everything.
    pub fn clear(&mut self) {
        self.base = self.end();
        self.batches.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(text: &'static str, messages: u32) -> Batch {
        Batch { frames: Bytes::from_static(text.as_bytes()), messages }
    }

    fn sent(log: &Log, cursor: Cursor) -> Option<(usize, Cursor, u32)> {
        match log.after(cursor) {
            After::Send(outgoing, cursor, messages) => Some((outgoing.len(), cursor, messages)),
            _ => None,
        }
    }

    #[test]
    fn a_member_is_sent_what_it_lacks_in_one_piece() {
        let mut log = Log::default();
        let early = log.end();
        log.push(batch("one", 1));
        let late = log.end();
        log.push(batch("three", 3));
        assert_eq!(sent(&log, early), Some((8, 2, 4)));
        assert_eq!(sent(&log, late), Some((5, 2, 3)));
        assert!(matches!(log.after(log.end()), After::Nothing));
        log.clear();
        assert!(matches!(log.after(2), After::Nothing) && log.end() == 2);
    }

    #[test]
    fn a_member_far_behind_is_sent_a_bounded_number_of_batches() {
        let mut log = Log::default();
        (0..Outgoing::PARTS_MAX + 1).for_each(|_| log.push(batch("x", 1)));
        let parts = Outgoing::PARTS_MAX;
        assert_eq!(sent(&log, 0), Some((parts, parts as u64, parts as u32)));
        assert_eq!(sent(&log, parts as u64), Some((1, parts as u64 + 1, 1)));
    }

    #[test]
    fn a_member_behind_the_window_has_fallen_out() {
        let mut log = Log::default();
        (0..4).for_each(|_| log.push(batch("four", 1)));
        assert!(log.trim(8));
        assert!(matches!(log.after(1), After::FellOut));
        assert_eq!(sent(&log, 2), Some((8, 4, 2)));
        assert!(!log.trim(8), "it fits now");
        log.trim(0);
        assert_eq!(sent(&log, 3), Some((4, 4, 1)), "the newest batch stays, however small the window");
    }

    #[test]
    fn turns_may_fail_out_of_order() {
        let mut room = Room::new(RoomId::nil());
        for (turn, text) in [(7, "seven"), (9, "nine")] {
            assert_eq!(room.append(|frames| frames.extend_from_slice(text.as_bytes())), text.len() as u32);
            room.seal(turn);
        }
        assert_eq!(room.release(9), Some(batch("nine", 1)));
        assert_eq!(room.release(8), None);
        assert!(!room.is_deserted());
        assert_eq!(room.release(7), Some(batch("seven", 1)));
        assert!(room.is_deserted());
    }
}
