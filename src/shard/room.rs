//! A room: a log of sealed batches, and members that are cursors into it.
//!
//! In: messages, already encoded as frames. Out: for a member, whatever of the log it has not been sent. Pure; it knows no
//! sockets. Owned by the room's shard, and by every other that has a [replica](super::replica) of the log.
//!
//! ```text
//!   open batch --seal, end of turn--> held, by the turn's number --durable--> log  [base ......... end)
//!                                                                            members' cursors ^
//! ```
//!
//! There is no queue per member. The log keeps what some member still has to be sent, until more than `lag_bytes_max` came
//! after it; when it lets go of a batch, the members behind it are told by [`Log::after`] to have fallen out. How much
//! becomes durable in one moment is not the members' fault: what enters in one turn is one batch, which all of them get.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{
    conn::ConnId,
    replica::{Ended, Part},
    ring::Outgoing,
};
use crate::identity::RoomId;

/// A room with at least one member on some shard, or with messages whose fate is open.
pub struct Room {
    /// The room's id.
    pub id: RoomId,
    /// What of it this shard has.
    pub part: Part,
    /// Its members' connections on this shard; those that ended in the present turn may still be among them.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Their frames, one behind the other.
    pub frames: Bytes,
    /// How many they are.
    pub messages: u32,
}

impl Batch {
    /// Adds what follows. Unless a replica has the bytes too, they are nobody else's yet, and only the other's are copied.
    fn extend(&mut self, other: Batch) {
        let mut frames = BytesMut::from(std::mem::take(&mut self.frames));
        frames.extend_from_slice(&other.frames);
        self.frames = frames.freeze();
        self.messages += other.messages;
    }
}

/// A sealed batch that waits for its durability.
struct Held {
    turn: u64,
    batch: Batch,
}

impl Room {
    /// An empty room, at home.
    pub fn new(id: RoomId) -> Room {
        Room {
            id,
            part: Part::Home(Vec::new()),
            members: Vec::new(),
            log: Log::default(),
            behind: 0,
            open: BytesMut::new(),
            open_messages: 0,
            held: VecDeque::new(),
        }
    }

    /// A replica of the log of a room whose home is another shard.
    pub fn replica(id: RoomId, home: usize, ended: Ended) -> Room {
        Room { part: Part::Replica { home, ended }, ..Room::new(id) }
    }

    /// Nobody is here and nothing is under way.
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
    /// The newest batch entered in this turn and no cursor is past it: what else enters becomes part of it.
    is_growing: bool,
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

    /// Where a member begins that comes now: at the next batch.
    pub fn enter(&mut self) -> Cursor {
        self.is_growing = false;
        self.end()
    }

    fn push(&mut self, batch: Batch) {
        self.bytes += batch.frames.len();
        match self.batches.back_mut().filter(|_| self.is_growing) {
            Some(newest) => newest.extend(batch),
            None => self.batches.push_back(batch),
        }
        self.is_growing = true;
    }

    /// The batch that a member at `cursor` needs next is no longer kept.
    pub fn is_gone(&self, cursor: Cursor) -> bool {
        cursor < self.base
    }

    /// What a member at `cursor` has not been sent: one send, of one batch or of several gathered.
    pub fn after(&mut self, cursor: Cursor) -> After {
        self.is_growing = false;
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

    /// The end of a turn: lets go of the batches after which more than `bytes_max` came, so never of the newest. True if
    /// there were any.
    pub fn trim(&mut self, bytes_max: usize) -> bool {
        self.is_growing = false;
        let base = self.base;
        while let Some(oldest) = self.batches.front().map(|batch| batch.frames.len())
            && self.bytes - oldest > bytes_max
        {
            self.batches.pop_front();
            self.bytes -= oldest;
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

    /// A log with these batches, each of a turn of its own.
    fn log(batches: impl IntoIterator<Item = Batch>) -> Log {
        let mut log = Log::default();
        for batch in batches {
            log.push(batch);
            log.trim(usize::MAX);
        }
        log
    }

    fn sent(log: &mut Log, cursor: Cursor) -> Option<(usize, Cursor, u32)> {
        match log.after(cursor) {
            After::Send(outgoing, cursor, messages) => Some((outgoing.len(), cursor, messages)),
            _ => None,
        }
    }

    #[test]
    fn a_member_is_sent_what_it_lacks_in_one_piece() {
        let mut log = log([batch("one", 1), batch("three", 3)]);
        assert_eq!(sent(&mut log, 0), Some((8, 2, 4)));
        assert_eq!(sent(&mut log, 1), Some((5, 2, 3)));
        assert!(matches!(log.after(log.end()), After::Nothing));
        log.clear();
        assert!(matches!(log.after(2), After::Nothing) && log.end() == 2);
    }

    #[test]
    fn a_member_far_behind_is_sent_a_bounded_number_of_batches() {
        let mut log = log((0..Outgoing::PARTS_MAX + 1).map(|_| batch("x", 1)));
        let parts = Outgoing::PARTS_MAX;
        assert_eq!(sent(&mut log, 0), Some((parts, parts as u64, parts as u32)));
        assert_eq!(sent(&mut log, parts as u64), Some((1, parts as u64 + 1, 1)));
    }

    #[test]
    fn a_member_behind_the_window_has_fallen_out() {
        let mut log = log((0..5).map(|_| batch("four", 1)));
        assert!(log.trim(8));
        assert!(matches!(log.after(1), After::FellOut));
        assert_eq!(sent(&mut log, 2), Some((12, 5, 3)), "no more than the window came after it");
        assert!(!log.trim(8), "it fits now");
        log.trim(0);
        assert_eq!(sent(&mut log, 4), Some((4, 5, 1)), "the newest batch stays, however small the window");
    }

    #[test]
    fn what_enters_in_one_turn_stays_together() {
        let mut log = Log::default();
        let early = log.end();
        (0..3).for_each(|_| log.push(batch("four", 1)));
        assert!(!log.trim(8), "it is more than the window, but nobody had a chance to be sent it");
        assert_eq!(sent(&mut log, early), Some((12, 1, 3)));
        log.push(batch("next", 1));
        assert_eq!(sent(&mut log, early + 1), Some((4, 2, 1)), "what was sent does not grow");
    }

    #[test]
    fn a_member_that_comes_amid_a_turn_misses_nothing_and_gets_nothing_older() {
        let mut log = Log::default();
        log.push(batch("before", 1));
        let cursor = log.enter();
        log.push(batch("after", 1));
        assert_eq!(sent(&mut log, cursor), Some((5, 2, 1)));
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
