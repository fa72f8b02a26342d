//! A disk that does with a journal's files what it is told, as badly as a test says, and loses its power when a test says.
//!
//! The files are real ones, so that recovery and the writer's tail read them as they would a server's. What would be there
//! after a loss of power is kept beside them: what the last sync of each file covered, and no more.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rand::{RngExt, rngs::StdRng};
use ringroom::journal::{
    Position,
    appender::{Done, Op},
    segment::file_name,
};

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It fails, and nothing of it was done.
    Fails,
    /// It fails, and a part of it was done: the first half of a write or of what a sync should cover, the new name of a file,
    /// the removal itself; of a cut what is not synced yet.
    Halves,
}

pub const SECTOR_BYTES: usize = 512;

/// A disk with the files of shard 0 of one journal.
pub struct Disk {
    directory: PathBuf,
    segment_bytes: u32,
    /// By segment: what is there after a loss of power, whatever happens.
    durable: BTreeMap<u32, Vec<u8>>,
    /// What the sync under way covers.
    syncing: Vec<u8>,
}

impl Disk {
    pub fn new(directory: &Path, segment_bytes: u32) -> Disk {
        Disk { directory: directory.to_owned(), segment_bytes, durable: BTreeMap::new(), syncing: Vec::new() }
    }

    /// The operation is under way.
    pub fn begin(&mut self, op: &Op) {
        if let Op::Sync { number } = op {
            self.syncing = self.bytes(*number);
        }
    }

    /// The operation is over; says which it was, and if it was done.
    pub fn end(&mut self, op: &Op, fate: Fate) -> (Done, bool) {
        let done = match op {
            Op::Prepare { number, reuse } => {
                if fate != Fate::Fails {
                    self.make(*number, *reuse);
                }
                Done::Prepare
            }
            Op::Write { number, offset, bytes } => {
                let len = [bytes.len(), 0, bytes.len() / 2][fate as usize];
                self.write(*number, *offset, &bytes[..len]);
                Done::Write
            }
            Op::Sync { number } => {
                let len = [self.syncing.len(), 0, self.syncing.len() / 2][fate as usize];
                self.durable.get_mut(number).expect("a file to sync")[..len].copy_from_slice(&self.syncing[..len]);
                Done::Sync
            }
            Op::Cut { keep, remove } => {
                if let Some(Position { segment, offset }) = keep.filter(|_| fate != Fate::Fails) {
                    self.blank(segment, offset, fate == Fate::Done);
                }
                if let Some(number) = remove.filter(|_| fate == Fate::Done) {
                    let _ = fs::remove_file(self.path(number));
                    self.durable.remove(&number);
                }
                Done::Cut
            }
            Op::Remove { number } => {
                if fate != Fate::Fails {
                    let _ = fs::remove_file(self.path(*number));
                    self.durable.remove(number);
                }
                Done::Remove
            }
        };
        (done, fate == Fate::Done)
    }

    fn blank(&mut self, number: u32, from: u32, is_synced: bool) {
        self.write(number, from, &vec![0; (self.segment_bytes - from) as usize]);
        if is_synced {
            let now = self.bytes(number);
            self.durable.insert(number, now);
        }
    }

    fn make(&mut self, number: u32, reuse: Option<u32>) {
        let path = self.path(number);
        if let Some(old) = reuse
            && fs::rename(self.path(old), &path).is_ok()
        {
            let durable = self.durable.remove(&old).expect("what was there");
            self.durable.insert(number, durable);
            return;
        }
        let _ = fs::remove_file(&path);
        File::create_new(path).unwrap().set_len(self.segment_bytes.into()).unwrap();
        self.durable.insert(number, vec![0; self.segment_bytes as usize]);
    }

    /// Bytes reach a file, though perhaps not the disk.
    pub fn write(&self, number: u32, offset: u32, bytes: &[u8]) {
        assert!(offset as usize + bytes.len() <= self.segment_bytes as usize, "beyond the segment's end");
        let file = File::options().write(true).open(self.path(number)).expect("a file to write");
        file.write_all_at(bytes, offset.into()).unwrap();
    }

    /// Everything is gone that no sync covered; or with `lucky`, any sectors of it.
    pub fn lose_power(&mut self, mut lucky: Option<&mut StdRng>) {
        for (number, durable) in &self.durable {
            let (path, now) = (self.path(*number), self.bytes(*number));
            let mut left = durable.clone();
            for at in (0..now.len()).step_by(SECTOR_BYTES) {
                let sector = at..(at + SECTOR_BYTES).min(now.len());
                if lucky.as_mut().is_some_and(|random| random.random()) {
                    left[sector.clone()].copy_from_slice(&now[sector]);
                }
            }
            fs::write(path, left).unwrap();
        }
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.durable.len()
    }

    fn bytes(&self, number: u32) -> Vec<u8> {
        fs::read(self.path(number)).unwrap()
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(file_name(0, number))
    }
}
