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

use std::{collections::VecDeque, ops::RangeInclusive, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{
    Position, Progress,
    record::{self, ALIGNMENT, Record},
    segment::{HEADER_BYTES, Header},
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
    /// How many files there may be at a time.
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
    spare: Spare,
    /// The segments before it whose files are there.
    old: VecDeque<u32>,
    /// The file that is being removed.
    removing: Option<u32>,
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

/// The file of the next segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spare {
    /// Not asked for.
    None,
    /// Under way, perhaps out of an old file.
    Coming { number: u32, reuse: Option<u32> },
    /// There.
    Ready { number: u32 },
    /// It could not be made; [`Appender::tick`] lets it be tried again.
    Failed,
}

impl Appender {
    /// A journal whose first segment will be `first_number`, at least 1, and whose first record `first_sequence`.
    pub fn new(rules: Rules, progress: Arc<Progress>, first_number: u32, first_sequence: u64) -> Appender {
        progress.begin(start(first_number));
        // As if the segment before the first were full.
        let full = rules.segment_bytes;
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
            spare: Spare::None,
            old: VecDeque::new(),
            removing: None,
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
        let is_preparing = matches!(self.spare, Spare::Coming { .. });
        self.open.is_empty() && self.queue.is_empty() && !self.is_writing() && !is_preparing && self.removing.is_none()
    }

    /// What could not be done is tried again. To be called now and then.
    pub fn tick(&mut self) {
        if self.spare == Spare::Failed {
            self.spare = Spare::None;
        }
    }

    fn is_writing(&self) -> bool {
        !self.writing.is_empty() || !self.unsynced.is_empty()
    }

    /// Bytes of records that can still be written: into the present segment, and into files that are there or may be made.
    fn free_bytes(&self) -> usize {
        // A chunk is not divided, so this much of a segment may be left unused.
        let unused = CHUNK_BYTES + self.rules.record_bytes_max;
        let of_segment = |from: usize| (self.rules.segment_bytes as usize).saturating_sub(from + unused);
        let in_write: usize = self.writing.iter().map(|chunk| chunk.bytes.len()).sum();
        let present = if self.segment.has_failed { 0 } else { of_segment(self.segment.end as usize + in_write) };
        let files = match self.spare {
            Spare::Failed => 0,
            Spare::Ready { .. } | Spare::Coming { .. } => 1 + self.files_allowed(),
            Spare::None => self.files_allowed(),
        };
        present + files as usize * of_segment(HEADER_BYTES)
    }

    /// How many files may be made, counting those that may be used again.
    fn files_allowed(&self) -> u32 {
        let has_spare = matches!(self.spare, Spare::Ready { .. } | Spare::Coming { .. });
        let there = self.old.len() as u32 + 1 + u32::from(has_spare) + u32::from(self.removing.is_some());
        self.rules.segments_max.saturating_sub(there) + self.files_reusable()
    }

    /// How many of the oldest files nobody needs any more.
    fn files_reusable(&self) -> u32 {
        let saved = self.progress.saved().segment;
        self.old.iter().take_while(|number| **number < saved).count() as u32
    }

    // ---- Operations out ---------------------------------------------------------------------------------------------

    /// What is to be done next, beside what is under way.
    pub fn next_op(&mut self) -> Option<Op> {
        self.sync().or_else(|| self.write()).or_else(|| self.prepare()).or_else(|| self.remove())
    }

    fn sync(&mut self) -> Option<Op> {
        if self.syncing.is_some() || self.unsynced.is_empty() || self.segment.has_failed {
            return None;
        }
        self.syncing = Some(self.unsynced.len());
        Some(Op::Sync { number: self.segment.number })
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
        let is_over = self.spare == Spare::Ready { number } && !self.is_writing();
        if is_over {
            self.spare = Spare::None;
            let previous_end = self.segment.held;
            self.old.extend((previous_end > 0).then_some(self.segment.number));
            self.segment = Segment { number, end: 0, held: 0, previous_end, has_failed: false };
        }
        is_over
    }

    fn prepare(&mut self) -> Option<Op> {
        let number = self.segment.number + 1;
        let reuse = match self.spare {
            // Made for the segment after one that then failed as a whole, whose place it takes.
            Spare::Ready { number: other } if other != number => Some(other),
            Spare::None if self.files_reusable() > 0 => self.old.pop_front(),
            Spare::None if self.files_allowed() > 0 => None,
            _ => return None,
        };
        self.spare = Spare::Coming { number, reuse };
        Some(Op::Prepare { number, reuse })
    }

    /// Of the files that nobody needs, one is kept to be the next segment's.
    fn remove(&mut self) -> Option<Op> {
        if self.removing.is_some() || self.files_reusable() < 2 {
            return None;
        }
        self.removing = self.old.pop_front();
        self.removing.map(|number| Op::Remove { number })
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
            Done::Remove => {
                let number = self.removing.take();
                self.restore(number.filter(|_| !is_ok));
            }
        }
        if self.segment.has_failed && self.writing.is_empty() && self.syncing.is_none() {
            self.leave_failed_segment();
        }
    }

    fn prepared(&mut self, is_ok: bool) {
        let Spare::Coming { number, reuse } = self.spare else { return };
        if is_ok {
            self.spare = Spare::Ready { number };
            self.is_broken = false;
        } else {
            self.spare = Spare::Failed;
            self.restore(reuse);
            self.refuse_what_does_not_fit();
        }
    }

    /// An old file is still there.
    fn restore(&mut self, number: Option<u32>) {
        if let Some(number) = number.filter(|number| *number < self.segment.number) {
            let place = self.old.partition_point(|other| *other < number);
            self.old.insert(place, number);
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
        for chunk in self.unsynced.drain(..count) {
            self.segment.held = chunk.end;
            self.outcomes.push_back(Outcome { sequences: chunk.sequences, is_held: true });
        }
        if self.segment.held > 0 {
            self.progress.set_held(Position { segment: self.segment.number, offset: self.segment.held });
        }
    }

    /// Nothing is under way on the segment any more: what was not held goes to the next one, or is refused if that was its
    /// second chance.
    fn leave_failed_segment(&mut self) {
        self.segment.has_failed = false;
        self.segment.end = self.rules.segment_bytes;
        if self.segment.held == 0 {
            // Nothing in it counts: another file takes its number.
            self.segment.number -= 1;
            self.segment.held = self.segment.previous_end;
            if self.old.back() == Some(&self.segment.number) {
                self.old.pop_back();
            }
        }
        let is_second = self.unsynced.iter().any(|chunk| chunk.has_failed);
        for chunk in self.unsynced.drain(..).rev() {
            self.queue_bytes += chunk.bytes.len();
            self.queue.push_front(Chunk { has_failed: true, ..chunk });
        }
        if is_second {
            self.is_broken = true;
            // Whatever file is there, it proves nothing: a new one must be made.
            self.spare = if matches!(self.spare, Spare::Ready { .. }) { Spare::Failed } else { self.spare };
            self.refuse_from(0);
        } else if self.spare == Spare::Failed {
            self.refuse_what_does_not_fit();
        }
    }

    /// There is no file for what goes beyond the present segment.
    fn refuse_what_does_not_fit(&mut self) {
        let mut end = self.segment.end as usize + self.writing.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
        let fitting = self.queue.iter().take_while(|chunk| {
            end += chunk.bytes.len();
            end <= self.rules.segment_bytes as usize
        });
        let fitting = fitting.count();
        self.refuse_from(fitting);
    }

    fn refuse_from(&mut self, first: usize) {
        for chunk in self.queue.drain(first..) {
            self.queue_bytes -= chunk.bytes.len();
            self.outcomes.push_back(Outcome { sequences: chunk.sequences, is_held: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
    use uuid::Uuid;

    use super::*;
    use crate::{
        identity::UserId,
        journal::scan::{Found, Scan},
        store::Row,
    };

    const RULES: Rules =
        Rules { shard: 0, segment_bytes: 128 * 1024, segments_max: 5, record_bytes_max: 1024, sync: true };

    /// A disk that does what it is told when the test says so, and as badly as the test says.
    #[derive(Default)]
    struct Disk {
        files: BTreeMap<u32, File>,
    }

    #[derive(Clone, Default)]
    struct File {
        /// What a reader sees.
        bytes: Vec<u8>,
        /// What is there after a power loss, whatever happens.
        durable: Vec<u8>,
        /// What the sync under way will make durable.
        syncing: Vec<u8>,
    }

    impl Disk {
        fn begin(&mut self, op: &Op) {
            if let Op::Sync { number } = op {
                let file = self.files.get_mut(number).expect("a file to sync");
                file.syncing = file.bytes.clone();
            }
        }

        fn finish(&mut self, op: &Op, is_ok: bool, random: &mut StdRng) -> Done {
            match op {
                Op::Prepare { number, reuse } => {
                    if is_ok {
                        let file = reuse.and_then(|old| self.files.remove(&old)).unwrap_or_default();
                        self.files.insert(*number, file);
                    }
                    Done::Prepare
                }
                Op::Write { number, offset, bytes } => {
                    let written = if is_ok { bytes.len() } else { random.random_range(0..bytes.len()) };
                    let (file, start) = (self.files.get_mut(number).expect("a file to write"), *offset as usize);
                    let end = start + written;
                    assert!(start + bytes.len() <= RULES.segment_bytes as usize, "beyond the segment's end");
                    file.bytes.resize(file.bytes.len().max(end), 0);
                    file.bytes[start..end].copy_from_slice(&bytes[..written]);
                    Done::Write
                }
                Op::Sync { number } => {
                    let file = self.files.get_mut(number).expect("a file to sync");
                    if is_ok {
                        file.durable = std::mem::take(&mut file.syncing);
                    }
                    Done::Sync
                }
                Op::Remove { number } => {
                    if is_ok {
                        self.files.remove(number);
                    }
                    Done::Remove
                }
            }
        }

        /// Of what was not synced, each sector reached the disk or did not.
        fn lose_power(&mut self, random: &mut StdRng) {
            for file in self.files.values_mut() {
                let mut left = file.durable.clone();
                left.resize(file.bytes.len().max(left.len()), 0);
                for sector in (0..file.bytes.len()).step_by(512).filter(|_| random.random()) {
                    let sector = sector..(sector + 512).min(file.bytes.len());
                    left[sector.clone()].copy_from_slice(&file.bytes[sector]);
                }
                file.bytes = left;
            }
        }

        /// Sequences and texts of all records that a reader finds.
        fn read(&self) -> HashMap<u64, String> {
            let headers: BTreeMap<u32, Header> = self
                .files
                .iter()
                .filter_map(|(number, file)| Some((*number, Header::decode(&file.bytes).ok()?)))
                .filter(|(number, header)| header.number == *number)
                .collect();
            let mut all = HashMap::new();
            for (number, header) in &headers {
                let end = headers.get(&(number + 1)).map(|next| next.previous_end);
                for found in Scan::new(&self.files[number].bytes, header.first_sequence, end) {
                    if let Found::Record { sequence, record, .. } = found {
                        all.insert(sequence, record.row.content.to_owned());
                    }
                }
            }
            all
        }
    }

    fn record(content: &str) -> Record<'_> {
        let row =
            Row { id: Uuid::nil(), room: Uuid::nil(), sender: UserId::Int(1), receiver: None, timestamp: 0, content };
        Record { row, sender_username: "ann" }
    }

    /// A journal at work, with everything that happens in an order that the seed says.
    struct Trial {
        random: StdRng,
        appender: Appender,
        progress: Arc<Progress>,
        disk: Disk,
        under_way: Vec<Op>,
        /// The texts of those appended, held and refused.
        appended: HashMap<u64, String>,
        held: Vec<u64>,
        refused: Vec<u64>,
    }

    impl Trial {
        fn new(seed: u64, rules: Rules) -> Trial {
            let progress = Arc::new(Progress::default());
            Trial {
                random: StdRng::seed_from_u64(seed),
                appender: Appender::new(rules, Arc::clone(&progress), 1, 1),
                progress,
                disk: Disk::default(),
                under_way: Vec::new(),
                appended: HashMap::new(),
                held: Vec::new(),
                refused: Vec::new(),
            }
        }

        fn append(&mut self) {
            let text = format!("{}", self.random.next_u64()).repeat(self.random.random_range(1..40));
            if self.appender.has_room(record::encoded_len(3, text.len())) {
                let sequence = self.appender.append(&record(&text));
                assert!(self.appended.insert(sequence, text).is_none());
            }
        }

        fn pump(&mut self) {
            while let Some(op) = self.appender.next_op() {
                self.disk.begin(&op);
                self.under_way.push(op);
            }
        }

        fn complete_one(&mut self, failures: f64) {
            if self.under_way.is_empty() {
                return;
            }
            let op = self.under_way.swap_remove(self.random.random_range(0..self.under_way.len()));
            let is_ok = !self.random.random_bool(failures);
            let done = self.disk.finish(&op, is_ok, &mut self.random);
            self.appender.done(done, is_ok);
            for Outcome { sequences, is_held } in self.appender.outcomes() {
                if is_held { self.held.extend(sequences) } else { self.refused.extend(sequences) }
            }
            assert!(self.held.is_sorted(), "what is held is held in order");
            self.pump();
        }

        /// The writer has saved what is held, so that files may be used again.
        fn save(&mut self) {
            self.progress.set_saved(self.progress.held());
            self.held.clear();
        }

        fn run(&mut self, steps: usize, failures: f64) {
            for _ in 0..steps {
                match self.random.random_range(0..10) {
                    0..4 => (0..self.random.random_range(1..30)).for_each(|_| self.append()),
                    4 => self.appender.tick(),
                    5 if self.random.random_bool(0.1) => self.save(),
                    _ => self.complete_one(failures),
                }
                self.appender.end_turn();
                self.pump();
                assert!(self.disk.files.len() <= RULES.segments_max as usize + 1, "{:?}", self.disk.files.keys());
            }
        }

        /// Lets everything end, on a disk that works.
        fn settle(&mut self) {
            for _ in 0..10_000 {
                self.appender.tick();
                self.pump();
                self.complete_one(0.0);
            }
            assert!(self.appender.is_idle() || self.appender.files_allowed() == 0);
        }

        fn expect_held_on_disk(&self) {
            let found = self.disk.read();
            for sequence in &self.held {
                assert_eq!(found.get(sequence), self.appended.get(sequence), "record {sequence} is not held");
            }
        }
    }

    #[test]
    fn what_is_held_survives_a_power_loss_at_any_moment_on_a_disk_that_fails() {
        for seed in 0..300 {
            let mut trial = Trial::new(seed, RULES);
            let failures = [0.0, 0.02, 0.3][seed as usize % 3];
            let steps = trial.random.random_range(10..600);
            trial.run(steps, failures);
            trial.disk.lose_power(&mut trial.random);
            trial.expect_held_on_disk();
        }
    }

    #[test]
    fn without_syncs_what_is_held_survives_the_process() {
        for seed in 0..200 {
            let mut trial = Trial::new(seed, Rules { sync: false, ..RULES });
            trial.run(300, [0.0, 0.1][seed as usize % 2]);
            assert!(trial.under_way.iter().all(|op| !matches!(op, Op::Sync { .. })));
            trial.expect_held_on_disk();
        }
    }

    #[test]
    fn every_record_is_held_or_refused_once_and_a_healthy_disk_refuses_none() {
        for seed in 0..200 {
            let mut trial = Trial::new(seed, RULES);
            let failures = [0.0, 0.2][seed as usize % 2];
            trial.run(300, failures);
            // Those that were saved on the way are not counted twice, so all is counted here at once.
            let saved: usize = trial.appended.len() - trial.held.len() - trial.refused.len();
            trial.save();
            trial.settle();
            trial.save();
            trial.settle();
            let mut refused = trial.refused.clone();
            refused.sort_unstable();
            refused.dedup();
            assert_eq!(refused.len(), trial.refused.len(), "refused twice");
            assert!(failures > 0.0 || refused.is_empty(), "seed {seed}: {} of {}", refused.len(), saved);
            assert!(trial.appender.has_room(1000), "seed {seed}: it takes records again once there is room");
        }
    }

    #[test]
    fn a_full_journal_takes_nothing_until_the_writer_has_saved() {
        let mut trial = Trial::new(7, RULES);
        let mut rounds = 0;
        while trial.appender.has_room(1024) {
            trial.append();
            trial.appender.end_turn();
            trial.pump();
            trial.complete_one(0.0);
            rounds += 1;
            assert!(rounds < 100_000, "it has a bound");
        }
        trial.settle();
        assert_eq!(trial.disk.files.len(), RULES.segments_max as usize);
        assert!(trial.refused.is_empty(), "what was taken was held");
        trial.expect_held_on_disk();
        trial.save();
        trial.settle();
        assert!(trial.appender.has_room(1024));
    }

    #[test]
    fn a_disk_that_fails_every_sync_refuses_all_and_keeps_no_files() {
        let mut trial = Trial::new(7, RULES);
        trial.append();
        trial.appender.end_turn();
        for _ in 0..50 {
            trial.appender.tick();
            trial.pump();
            let Some(op) = trial.under_way.pop() else { continue };
            let is_ok = !matches!(op, Op::Sync { .. });
            let done = trial.disk.finish(&op, is_ok, &mut trial.random);
            trial.appender.done(done, is_ok);
        }
        let outcomes: Vec<_> = trial.appender.outcomes().collect();
        assert_eq!(outcomes, [Outcome { sequences: 1..=1, is_held: false }]);
        assert!(trial.disk.files.len() <= 2, "{:?}", trial.disk.files.keys());
        assert!(trial.appender.has_room(1000), "a new file could be made and synced");
    }

    #[test]
    fn one_sync_serves_all_that_was_written_before_it() {
        let mut trial = Trial::new(7, RULES);
        trial.pump();
        trial.complete_one(0.0);
        let mut syncs = 0;
        for _ in 0..100 {
            trial.append();
            trial.appender.end_turn();
            trial.pump();
            // Writes are done at once; syncs wait.
            while let Some(at) = trial.under_way.iter().position(|op| !matches!(op, Op::Sync { .. })) {
                let op = trial.under_way.remove(at);
                let done = trial.disk.finish(&op, true, &mut trial.random);
                trial.appender.done(done, true);
                trial.pump();
            }
        }
        while trial.under_way.iter().any(|op| matches!(op, Op::Sync { .. })) {
            syncs += 1;
            trial.complete_one(0.0);
        }
        assert_eq!((syncs, trial.held.len()), (2, 100), "the one under way, and one for all the rest");
    }
}
