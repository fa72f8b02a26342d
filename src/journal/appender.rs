//! The writing side of one shard's journal, without its I/O: what to write where, when to sync, what then is held.
//!
//! In: records, the ends of turns, and what became of the operations. Out: the [`Op`]s to do next, and in the order of the
//! records an [`Outcome`] for each: held or refused. Owned by the shard; it knows no files and no clock.
//!
//! ```text
//!   append -> open -> queue -> in write -> unsynced -> held
//!               `turn's end      `Op::Write   `Op::Sync
//! ```
//!
//! - At most one write and one sync are under way, and they overlap: a sync covers what was written before it began, and
//!   what is written meanwhile waits for the next. So one sync serves all messages of a turn, and under load of many.
//! - The next segment's file is made ready while the present one is filled. A segment is left only when all of it is held.
//! - A write or a sync that fails is not repeated, for nobody knows what it left behind: the segment is left where it was
//!   held last, and what was not held goes to the next one. What fails twice is refused, and then nothing more is taken
//!   until a new file could be made and synced.
//! - What was written and is refused must not be found by the next start. So it is cut off first ([`Op::Cut`]), and as long as
//!   the disk does not even do that its senders are told nothing, for nobody knows; unless something is held in a later
//!   segment, whose header then says the same.

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    Position, Progress,
    record::{self, ALIGNMENT, Record},
    retraction::Retraction,
    segment::{HEADER_BYTES, Header},
    stock::Stock,
};

/// Records of a turn are cut into pieces of about this many bytes, so that a segment can be filled nearly to its end.
const CHUNK_BYTES: usize = 64 * 1024;

/// Bytes that one write holds at most, or one chunk.
const WRITE_BYTES_MAX: usize = 1024 * 1024;

/// Zeros behind the last record: nothing was written from there on.
const END_MARK: [u8; ALIGNMENT] = [0; ALIGNMENT];

/// The fewest files that a journal turns over with: one that is written, one that is ready for what comes then, one that
/// the writer still reads, and one to spare.
pub const SEGMENTS_MIN: u32 = 4;

/// The least size of a segment for records of this length: it must hold some of them, and what cannot be filled.
pub const fn segment_bytes_min(record_bytes_max: usize) -> usize {
    HEADER_BYTES + 2 * (CHUNK_BYTES + record_bytes_max)
}

/// Where a journal begins whose first segment has this number.
pub const fn start(first_number: u32) -> Position {
    Position { segment: first_number, offset: HEADER_BYTES as u32 }
}

/// How a shard's journal is kept.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whose it is.
    pub shard: u32,
    /// The size of a segment's file.
    pub segment_bytes: u32,
    /// How many files there may be at a time, with this shard's share of those that earlier runs left.
    pub segments_max: u32,
    /// The longest record.
    pub record_bytes_max: usize,
    /// Whether a record is held only after a sync, or as soon as it is written.
    pub sync: bool,
}

/// What is to be done with the files. Answered with [`Appender::done`].
#[derive(Debug, PartialEq, Eq)]
pub enum Op {
    /// Make the file of segment `number` ready, and its name durable: out of the file of segment `reuse`, or new.
    Prepare {
        /// The segment.
        number: u32,
        /// A file that nobody needs any more.
        reuse: Option<u32>,
    },
    /// Write all of `bytes`.
    Write {
        /// The segment.
        number: u32,
        /// Where in its file.
        offset: u32,
        /// What.
        bytes: Vec<u8>,
    },
    /// Let everything that was written to the file of segment `number` reach the disk (`fdatasync`).
    Sync {
        /// The segment.
        number: u32,
    },
    /// Let nothing that stands behind `keep` be found any more, nor the file of segment `remove`, and let that reach the
    /// disk. No other operation is under way meanwhile.
    Cut {
        /// Where the last record ends that is held, if there is one.
        keep: Option<Position>,
        /// A segment of which nothing is held.
        remove: Option<u32>,
    },
    /// Remove the file of segment `number`.
    Remove {
        /// The segment.
        number: u32,
    },
}

/// Which operation was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// [`Op::Prepare`].
    Prepare,
    /// [`Op::Write`].
    Write,
    /// [`Op::Sync`].
    Sync,
    /// [`Op::Cut`].
    Cut,
    /// [`Op::Remove`].
    Remove,
}

/// What became of records with consecutive sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which.
    pub sequences: RangeInclusive<u64>,
    /// They are held, or else refused: they will not be found in the journal.
    pub is_held: bool,
}

/// The state of one shard's journal.
pub struct Appender {
    rules: Rules,
    progress: Arc<Progress>,
    next_sequence: u64,
    /// The present turn's records, and the first one's sequence.
    open: BytesMut,
    open_first: u64,
    queue: VecDeque<Chunk>,
    queue_bytes: usize,
    writing: Vec<Chunk>,
    /// Written, but not synced.
    unsynced: VecDeque<Chunk>,
    /// How many of the unsynced the sync under way covers.
    syncing: Option<usize>,
    segment: Segment,
    stock: Stock,
    retraction: Retraction,
    /// Something was refused because the disk failed, and no file could be made since.
    is_broken: bool,
    outcomes: VecDeque<Outcome>,
}

/// Records that are written together.
struct Chunk {
    sequences: RangeInclusive<u64>,
    bytes: Bytes,
    /// Where they end in the segment, once they are written.
    end: u32,
    has_failed: bool,
}

/// The segment that is written to.
struct Segment {
    /// Its number; before the first, one less than that, and there is no file.
    number: u32,
    /// Where the next record goes. Zero: not even its header is written.
    end: u32,
    /// Where what is held of it ends. Zero: nothing is.
    held: u32,
    /// Where what is held of the segment before it ends.
    previous_end: u32,
    /// An operation on it failed.
    has_failed: bool,
}

impl Appender {
    /// A journal whose first segment will be `first_number`, at least 1, and whose first record `first_sequence`.
    pub fn new(rules: Rules, progress: Arc<Progress>, first_number: u32, first_sequence: u64) -> Appender {
        progress.begin(start(first_number));
        // As if the segment before the first were full.
        let full = rules.segment_bytes;
        let stock = Stock::new(rules.segments_max, Arc::clone(&progress));
        let segment = Segment { number: first_number - 1, end: full, held: 0, previous_end: 0, has_failed: false };
        Appender {
            rules,
            progress,
            next_sequence: first_sequence,
            open: BytesMut::new(),
            open_first: first_sequence,
            queue: VecDeque::new(),
            queue_bytes: 0,
            writing: Vec::new(),
            unsynced: VecDeque::new(),
            syncing: None,
            segment,
            stock,
            retraction: Retraction::default(),
            is_broken: false,
            outcomes: VecDeque::new(),
        }
    }

    // ---- Records in, outcomes out -----------------------------------------------------------------------------------

    /// Whether a record of `len` bytes can be taken. What is taken may still be refused, when the disk fails.
    pub fn has_room(&self, len: usize) -> bool {
        !self.is_broken
            && len <= self.rules.record_bytes_max
            && self.queue_bytes + self.open.len() + len <= self.free_bytes()
    }

    /// Whether at least half of it is free, as long as the disk works.
    pub fn is_roomy(&self) -> bool {
        let whole = self.stock.files_max() as usize * self.usable_bytes(HEADER_BYTES);
        !self.is_broken && 2 * self.free_bytes() >= whole
    }

    /// Takes a record; says which sequence it got.
    pub fn append(&mut self, record: &Record<'_>) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        record::encode(&mut self.open, sequence, record);
        if self.open.len() >= CHUNK_BYTES {
            self.end_turn();
        }
        sequence
    }

    /// What was appended is to be written.
    pub fn end_turn(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let sequences = self.open_first..=self.next_sequence - 1;
        self.open_first = self.next_sequence;
        let bytes = self.open.split().freeze();
        self.queue_bytes += bytes.len();
        self.queue.push_back(Chunk { sequences, bytes, end: 0, has_failed: false });
        if self.queue_bytes > self.free_bytes() {
            // The disk failed since they were taken.
            self.refuse_what_does_not_fit();
        }
    }

    /// What became of records since this was asked last. Those that are held come in their order.
    pub fn outcomes(&mut self) -> impl Iterator<Item = Outcome> {
        self.outcomes.drain(..)
    }

    /// Whether [`Appender::outcomes`] has something to say.
    pub fn has_outcomes(&self) -> bool {
        !self.outcomes.is_empty()
    }

    /// Up to where the journal is held.
    pub fn held(&self) -> Position {
        self.progress.held()
    }

    /// Nothing is under way, and nothing waits.
    pub fn is_idle(&self) -> bool {
        let has_written = self.open.is_empty() && self.queue.is_empty() && !self.is_writing();
        has_written && self.stock.is_idle() && self.retraction.is_empty()
    }

    /// What could not be done is tried again. To be called now and then.
    pub fn tick(&mut self) {
        self.stock.tick();
        self.retraction.tick();
    }

    /// The segment that is written, if a restart would have to find its file.
    pub fn present(&self) -> Option<u32> {
        let Segment { number, end, .. } = self.segment;
        (end > 0 && end < self.rules.segment_bytes).then_some(number)
    }

    /// The file of segment `number` is not where a restart would look for it. If that is the present segment, it counts as
    /// failed, and nothing more is taken until a new file could be made. Says whether it is.
    pub fn lost(&mut self, number: u32) -> bool {
        let is_present = self.present() == Some(number) && !self.segment.has_failed;
        if is_present {
            self.segment.has_failed = true;
            self.is_broken = true;
            // It may be gone with the same directory.
            self.stock.renew_spare();
            self.leave_if_failed();
        }
        is_present
    }

    fn is_writing(&self) -> bool {
        !self.writing.is_empty() || !self.unsynced.is_empty()
    }

    /// Bytes of records that can still be written: into the present segment, and into files that are there or may be made.
    fn free_bytes(&self) -> usize {
        let present = if self.segment.has_failed { 0 } else { self.usable_bytes(self.end_when_written()) };
        present + self.stock.files_left() as usize * self.usable_bytes(HEADER_BYTES)
    }

    /// How much of a segment can be counted on behind `from`: a chunk is not divided, so the length of one may be left over.
    fn usable_bytes(&self, from: usize) -> usize {
        let unused = CHUNK_BYTES + self.rules.record_bytes_max;
        (self.rules.segment_bytes as usize).saturating_sub(from + unused)
    }

    /// Where the present segment ends after the write that is under way.
    fn end_when_written(&self) -> usize {
        let from = if self.segment.end == 0 { HEADER_BYTES } else { self.segment.end as usize };
        from + self.writing.iter().map(|chunk| chunk.bytes.len()).sum::<usize>()
    }

    // ---- Operations out ---------------------------------------------------------------------------------------------

    /// What is to be done next, beside what is under way.
    pub fn next_op(&mut self) -> Option<Op> {
        if self.retraction.is_under_way() {
            return None;
        }
        self.sync()
            .or_else(|| self.cut())
            .or_else(|| self.write())
            .or_else(|| self.stock.prepare(self.segment.number + 1))
            .or_else(|| self.stock.remove())
    }

    fn sync(&mut self) -> Option<Op> {
        if self.syncing.is_some() || self.unsynced.is_empty() || self.segment.has_failed {
            return None;
        }
        self.syncing = Some(self.unsynced.len());
        Some(Op::Sync { number: self.segment.number })
    }

    fn cut(&mut self) -> Option<Op> {
        // Removals wait too: with nothing else under way the file that is cut is nobody else's.
        if self.is_writing() || !self.stock.is_idle() {
            return None;
        }
        let Segment { number: segment, held: offset, .. } = self.segment;
        self.retraction.cut((offset > 0).then_some(Position { segment, offset }))
    }

    fn write(&mut self) -> Option<Op> {
        let next = self.queue.front().filter(|_| self.writing.is_empty() && !self.segment.has_failed)?;
        let first_sequence = *next.sequences.start();
        if !self.fits(next) && !self.turn_over() {
            return None;
        }
        let (number, offset) = (self.segment.number, self.segment.end);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.queue_bytes.min(2 * WRITE_BYTES_MAX) + END_MARK.len());
        if offset == 0 {
            let Segment { previous_end, .. } = self.segment;
            bytes.extend_from_slice(&Header { shard: self.rules.shard, number, first_sequence, previous_end }.encode());
        }
        while let Some(chunk) = self.queue.front()
            && (self.writing.is_empty() || bytes.len() + chunk.bytes.len() <= WRITE_BYTES_MAX)
            && offset as usize + bytes.len() + chunk.bytes.len() <= self.rules.segment_bytes as usize
        {
            bytes.extend_from_slice(&chunk.bytes);
            self.queue_bytes -= chunk.bytes.len();
            self.writing
                .extend(self.queue.pop_front().map(|chunk| Chunk { end: offset + bytes.len() as u32, ..chunk }));
        }
        let room = self.rules.segment_bytes as usize - offset as usize - bytes.len();
        bytes.extend_from_slice(&END_MARK[..END_MARK.len().min(room)]);
        Some(Op::Write { number, offset, bytes })
    }

    fn fits(&self, chunk: &Chunk) -> bool {
        self.segment.end as usize + chunk.bytes.len() <= self.rules.segment_bytes as usize
    }

    /// Goes over to the next segment, if all of the present one is held and the file is there.
    fn turn_over(&mut self) -> bool {
        let number = self.segment.number + 1;
        let is_over = !self.is_writing() && self.stock.take(number);
        if is_over {
            let previous_end = self.segment.held;
            if previous_end > 0 {
                self.stock.leave(self.segment.number);
            }
            self.segment = Segment { number, end: 0, held: 0, previous_end, has_failed: false };
        }
        is_over
    }

    // ---- What became of them ----------------------------------------------------------------------------------------

    /// An operation was done, or it failed.
    pub fn done(&mut self, done: Done, is_ok: bool) {
        match done {
            Done::Prepare => self.prepared(is_ok),
            Done::Write if is_ok => self.written(),
            Done::Sync if is_ok => self.synced(),
            Done::Write => {
                self.unsynced.extend(self.writing.drain(..));
                self.segment.has_failed = true;
            }
            Done::Sync => {
                self.syncing = None;
                self.segment.has_failed = true;
            }
            Done::Cut => {
                let sequences = self.retraction.cut_ended(is_ok);
                self.refuse(sequences);
            }
            Done::Remove => self.stock.removed(is_ok, self.segment.number),
        }
        self.leave_if_failed();
    }

    fn prepared(&mut self, is_ok: bool) {
        self.stock.prepared(is_ok, self.segment.number);
        if is_ok {
            self.is_broken = false;
            if self.stock.has(self.segment.number + 1) {
                self.retraction.replaced(self.segment.number + 1);
            }
        } else {
            self.refuse_what_does_not_fit();
        }
    }

    fn written(&mut self) {
        self.segment.end = self.writing.last().map_or(self.segment.end, |chunk| chunk.end);
        self.unsynced.extend(self.writing.drain(..));
        if !self.rules.sync && !self.segment.has_failed {
            self.hold(self.unsynced.len());
        }
    }

    fn synced(&mut self) {
        let count = self.syncing.take().unwrap_or(0);
        self.hold(count);
    }

    /// The oldest chunks that were written are held.
    fn hold(&mut self, count: usize) {
        if count > 0 {
            // They were in an earlier segment, or in another file of this one's number.
            let sequences = self.retraction.overtaken();
            self.refuse(sequences);
        }
        for chunk in self.unsynced.drain(..count) {
            self.segment.held = chunk.end;
            self.outcomes.push_back(Outcome { sequences: chunk.sequences, is_held: true });
        }
        if self.segment.held > 0 {
            self.progress.set_held(Position { segment: self.segment.number, offset: self.segment.held });
        }
    }

    fn leave_if_failed(&mut self) {
        if self.segment.has_failed && self.writing.is_empty() && self.syncing.is_none() {
            self.leave_failed_segment();
        }
    }

    /// Nothing is under way on the segment any more: what was not held goes to the next one, or is refused if that was its
    /// second chance.
    fn leave_failed_segment(&mut self) {
        self.segment.has_failed = false;
        self.segment.end = self.rules.segment_bytes;
        if self.segment.held == 0 {
            // Nothing in it counts: another file takes its number.
            self.retraction.note_ruin(self.segment.number);
            self.segment.number -= 1;
            self.segment.held = self.segment.previous_end;
            self.stock.return_to(self.segment.number);
        }
        let is_second = self.unsynced.iter().any(|chunk| chunk.has_failed);
        for chunk in self.unsynced.drain(..).rev() {
            self.queue_bytes += chunk.bytes.len();
            self.queue.push_front(Chunk { has_failed: true, ..chunk });
        }
        if is_second {
            self.is_broken = true;
            self.stock.distrust_spare();
            self.refuse_from(0);
        } else {
            self.refuse_what_does_not_fit();
        }
    }

    /// There is no file for what goes beyond the present segment and those that can follow it.
    fn refuse_what_does_not_fit(&mut self) {
        let segment_bytes = self.rules.segment_bytes as usize;
        let (mut end, mut files) = (self.end_when_written(), self.stock.files_left());
        let fitting = self.queue.iter().take_while(|chunk| {
            if end + chunk.bytes.len() > segment_bytes && files > 0 {
                (end, files) = (HEADER_BYTES, files - 1);
            }
            end += chunk.bytes.len();
            end <= segment_bytes
        });
        let fitting = fitting.count();
        self.refuse_from(fitting);
    }

    fn refuse_from(&mut self, first: usize) {
        for chunk in self.queue.drain(first..) {
            self.queue_bytes -= chunk.bytes.len();
            match chunk.has_failed {
                // It may be there, as a whole.
                true => self.retraction.add(chunk.sequences),
                false => self.outcomes.push_back(Outcome { sequences: chunk.sequences, is_held: false }),
            }
        }
    }

    fn refuse(&mut self, records: Vec<RangeInclusive<u64>>) {
        let refused = records.into_iter().map(|sequences| Outcome { sequences, is_held: false });
        self.outcomes.extend(refused);
    }
}

#[cfg(test)]
mod tests {
    //! The order of operations, by hand. What becomes of records when these fail is tried with files in
    //! `tests/journal_faults.rs`.

    use uuid::Uuid;

    use super::*;
    use crate::{identity::UserId, store::Row};

    const RULES: Rules =
        Rules { shard: 0, segment_bytes: 128 * 1024, segments_max: 5, record_bytes_max: 1024, sync: true };

    /// A journal, and what it has under way.
    struct Hand {
        appender: Appender,
        progress: Arc<Progress>,
        under_way: Vec<Op>,
    }

    fn kind(op: &Op) -> Done {
        match op {
            Op::Prepare { .. } => Done::Prepare,
            Op::Write { .. } => Done::Write,
            Op::Sync { .. } => Done::Sync,
            Op::Cut { .. } => Done::Cut,
            Op::Remove { .. } => Done::Remove,
        }
    }

    impl Hand {
        fn new(rules: Rules) -> Hand {
            let progress = Arc::new(Progress::default());
            let appender = Appender::new(rules, Arc::clone(&progress), 1, 1);
            let mut hand = Hand { appender, progress, under_way: Vec::new() };
            hand.pump();
            hand
        }

        /// A turn of one record of about a kilobyte, if there is room.
        fn say(&mut self) -> bool {
            let content = &"x".repeat(900);
            let (id, sender) = (Uuid::nil(), UserId::Int(1));
            let row = Row { id, room: id, sender, receiver: None, timestamp: 0, content };
            let has_room = self.appender.has_room(record::encoded_len(3, content.len()));
            if has_room {
                self.appender.append(&Record { row, sender_username: "ann" });
                self.appender.end_turn();
                self.pump();
            }
            has_room
        }

        fn pump(&mut self) {
            while let Some(op) = self.appender.next_op() {
                assert!(self.under_way.iter().all(|other| kind(other) != kind(&op)), "at most one of a kind");
                self.under_way.push(op);
            }
        }

        /// Those under way of this kind, and what follows of the same kind, are done or fail. Says how many they were.
        fn end(&mut self, which: Done, is_ok: bool) -> usize {
            let mut count = 0;
            while let Some(place) = self.under_way.iter().position(|op| kind(op) == which) {
                self.under_way.remove(place);
                self.appender.done(which, is_ok);
                self.pump();
                count += 1;
                assert!(count < 1000, "it is tried again and again");
            }
            count
        }

        /// What is written is held.
        fn hold(&mut self) {
            for kind in [Done::Prepare, Done::Write, Done::Sync] {
                self.end(kind, true);
            }
        }

        /// Everything is done, and all that is held is saved.
        fn settle_and_save(&mut self) {
            while !self.under_way.is_empty() {
                self.hold();
                self.end(Done::Remove, true);
            }
            self.progress.set_saved(self.progress.held());
        }

        fn outcomes(&mut self) -> Vec<(u64, u64, bool)> {
            let plain = |Outcome { sequences, is_held }| (*sequences.start(), *sequences.end(), is_held);
            self.appender.outcomes().map(plain).collect()
        }
    }

    #[test]
    fn one_sync_serves_all_that_was_written_before_it() {
        let mut hand = Hand::new(RULES);
        hand.end(Done::Prepare, true);
        for _ in 0..100 {
            assert!(hand.say());
            hand.end(Done::Write, true);
            hand.end(Done::Prepare, true);
        }
        assert_eq!(hand.outcomes(), []);
        assert_eq!(hand.end(Done::Sync, true), 2, "the one under way, and one for all the rest");
        let outcomes = hand.outcomes();
        assert_eq!((outcomes.len(), outcomes[0], outcomes[99]), (100, (1, 1, true), (100, 100, true)));
        assert!(hand.appender.is_idle());
    }

    #[test]
    fn a_disk_that_fails_every_sync_refuses_all() {
        let mut hand = Hand::new(RULES);
        assert!(hand.say());
        for _ in 0..5 {
            hand.end(Done::Prepare, true);
            hand.end(Done::Write, true);
            hand.end(Done::Sync, false);
        }
        assert_eq!(hand.outcomes(), [], "its bytes are there");
        for is_ok in [false, true] {
            assert_eq!(hand.under_way, [Op::Cut { keep: None, remove: Some(1) }]);
            assert_eq!(hand.end(Done::Cut, is_ok), 1);
            hand.appender.tick();
            hand.pump();
        }
        assert_eq!(hand.outcomes(), [(1, 1, false)]);
        assert!(!hand.say(), "nothing more is taken");
        assert!(!hand.say());
        hand.end(Done::Prepare, true);
        assert!(hand.say(), "a new file could be made and synced");
    }

    #[test]
    fn the_end_of_a_turn_may_be_refused_before_its_beginning() {
        let mut hand = Hand::new(RULES);
        hand.end(Done::Prepare, true);
        let content = &"x".repeat(900);
        let (id, sender) = (Uuid::nil(), UserId::Int(1));
        let row = Row { id, room: id, sender, receiver: None, timestamp: 0, content };
        let mut last = 0;
        while last < 180 {
            assert!(hand.appender.has_room(record::encoded_len(3, content.len())));
            last = hand.appender.append(&Record { row, sender_username: "ann" });
        }
        hand.appender.end_turn();
        hand.pump();
        hand.end(Done::Prepare, false);
        hand.end(Done::Write, false);
        hand.end(Done::Cut, true);
        let outcomes = hand.outcomes();
        assert!(outcomes.iter().all(|(.., is_held)| !is_held) && outcomes[0].0 > 1, "{outcomes:?}");
        assert_eq!(outcomes.last().map(|(first, ..)| *first), Some(1), "{outcomes:?}");
    }

    #[test]
    fn a_segment_whose_file_is_lost_is_left_and_what_was_not_held_goes_to_a_new_one() {
        let mut hand = Hand::new(RULES);
        assert!(hand.say());
        hand.hold();
        hand.hold();
        assert_eq!((hand.outcomes(), hand.appender.present()), (vec![(1, 1, true)], Some(1)));
        assert!(hand.say());
        hand.end(Done::Write, true);
        assert!(!hand.appender.lost(2), "another one may be where it likes");
        assert!(hand.appender.lost(1) && !hand.appender.lost(1), "and it is lost once");
        assert!(!hand.say(), "nothing is taken on the chance that a new file can be made");
        hand.end(Done::Sync, false);
        let renewed = [Op::Prepare { number: 2, reuse: None }];
        assert_eq!(hand.under_way, renewed, "the one that was ready is not trusted");
        assert_eq!(hand.appender.present(), None);
        hand.hold();
        assert_eq!((hand.outcomes(), hand.appender.present()), (vec![(2, 2, true)], Some(2)));
        assert!(hand.say());
    }

    #[test]
    fn a_file_that_could_not_be_made_is_asked_for_at_a_tick_and_not_counted_on() {
        let mut hand = Hand::new(RULES);
        assert_eq!(hand.end(Done::Prepare, false), 1);
        assert!(!hand.say() && hand.under_way.is_empty());
        for _ in 0..3 {
            hand.appender.tick();
            hand.pump();
            assert_eq!(hand.under_way, [Op::Prepare { number: 1, reuse: None }]);
            assert!(!hand.say(), "it may fail again");
            assert_eq!(hand.end(Done::Prepare, false), 1);
        }
        hand.appender.tick();
        hand.pump();
        hand.end(Done::Prepare, true);
        assert!(hand.say());
    }

    #[test]
    fn what_cannot_be_removed_is_left_until_the_next_tick() {
        let mut hand = Hand::new(RULES);
        while hand.progress.held().segment < 4 {
            assert!(hand.say());
            hand.hold();
        }
        hand.settle_and_save();
        hand.pump();
        for _ in 0..3 {
            assert_eq!(hand.under_way, [Op::Remove { number: 1 }]);
            assert_eq!(hand.end(Done::Remove, false), 1);
            hand.appender.tick();
            hand.pump();
        }
        assert_eq!(hand.end(Done::Remove, true), 2, "one of the three is kept to be used again");
        assert!(hand.appender.is_idle());
    }

    #[test]
    fn what_earlier_runs_left_counts_against_the_bound() {
        for (left, expected) in [(0, 20), (7, 13), (16, 4), (1000, 4)] {
            let mut hand = Hand::new(Rules { segments_max: 20, ..RULES });
            hand.progress.set_left(left);
            while hand.say() {
                hand.hold();
            }
            assert_eq!(hand.progress.held().segment, expected, "{left} were left");
            hand.progress.set_left(0);
            assert!(hand.say() || expected == 20, "they are saved");
        }
    }

    #[test]
    fn a_journal_is_roomy_when_half_of_it_is_free() {
        let mut hand = Hand::new(RULES);
        assert!(hand.appender.is_roomy());
        while hand.say() {
            hand.hold();
        }
        assert!(!hand.appender.is_roomy());
        let held = hand.progress.held();
        assert_eq!(held.segment, RULES.segments_max);
        hand.progress.set_saved(Position { segment: 2, offset: 0 });
        assert!(!hand.appender.is_roomy() && hand.appender.has_room(1024));
        hand.settle_and_save();
        assert!(hand.appender.is_roomy());
    }
}
