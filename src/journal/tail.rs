//! Follows the journal of a running shard, for the writer.
//!
//! In: the shard's files, up to the position that it says is held. Out: whole records, in order, in pieces of a bounded size.
//! Blocking reads, mostly out of the page cache; on the writer thread. It never reads what is not held.

use std::{
    fs::File,
    io,
    ops::ControlFlow,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    Position, Progress,
    record::{ALIGNMENT, Decoded, HEAD_BYTES, decode},
    scan::{Found, Scan},
    segment::{HEADER_BYTES, Header, file_name},
};

/// How much is read at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records.
    pub records: usize,
    /// Bytes, unless one record alone is longer.
    pub bytes: usize,
}

/// Whole records of one segment.
#[derive(Debug)]
pub struct Piece {
    /// The records' bytes.
    pub records: Bytes,
    /// How many they are.
    pub count: usize,
    /// Where they end.
    pub until: Position,
}

/// Bytes that should be records and are not.
#[derive(Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it they begin.
    pub offset: u32,
    /// What they are.
    pub bytes: Vec<u8>,
}

/// Keeps damaged bytes elsewhere.
pub type Aside<'a> = dyn FnMut(&Damage) -> io::Result<()> + 'a;

/// A reader behind one shard's pen.
pub struct Tail {
    directory: PathBuf,
    shard: u32,
    progress: Arc<Progress>,
    at: Position,
    /// The file that `at` is in, once something of it was read, and where its records end if it has a successor.
    file: Option<File>,
    end: Option<u32>,
}

impl Tail {
    /// A reader of what `shard` writes into `directory`, from the place where `progress` says that nothing is saved yet.
    pub fn new(directory: &Path, shard: u32, progress: Arc<Progress>) -> Tail {
        let at = progress.saved();
        Tail { directory: directory.to_owned(), shard, progress, at, file: None, end: None }
    }

    /// There is something to be read.
    pub fn is_behind(&self) -> bool {
        self.at < self.progress.held()
    }

    /// Where it has come to.
    pub fn position(&self) -> Position {
        self.at
    }

    /// Everything before `until` is in the database.
    pub fn saved(&self, until: Position) {
        self.progress.set_saved(until);
    }

    /// So many files of earlier runs count as this journal's.
    pub fn set_left(&self, files: u32) {
        self.progress.set_left(files);
    }

    /// The next records. `None`: all that is held has been read. Damaged ones are handed to `aside` and passed over.
    ///
    /// # Errors
    /// When a file cannot be read; the same place is tried again by the next call.
    pub fn read(&mut self, limits: Limits, aside: &mut Aside<'_>) -> io::Result<Option<Piece>> {
        loop {
            let held = self.progress.held();
            if self.at >= held {
                return Ok(None);
            }
            let end = if self.at.segment == held.segment { held.offset } else { self.end_of_segment(aside)? };
            if self.at.offset >= end {
                self.at = Position { segment: self.at.segment + 1, offset: HEADER_BYTES as u32 };
                (self.file, self.end) = (None, None);
                continue;
            }
            if let ControlFlow::Break(piece) = self.read_segment(end, limits, aside)? {
                return Ok(Some(piece));
            }
        }
    }

    /// Records up to `end` of the present segment, or none where nothing but damage was left.
    fn read_segment(&mut self, end: u32, limits: Limits, aside: &mut Aside<'_>) -> io::Result<ControlFlow<Piece>> {
        let start = self.at.offset;
        let mut bytes = self.bytes(start, end.min(start.saturating_add(limits.bytes.max(HEAD_BYTES) as u32)))?;
        let mut whole = whole_records(&bytes, limits.records);
        if whole.count == 0 {
            // One record that is longer than was asked for, or none.
            bytes = self.bytes(start, end)?;
            whole = whole_records(&bytes, 1);
        }
        if whole.count == 0 {
            self.pass_over_damage(end, aside)?;
            return Ok(ControlFlow::Continue(()));
        }
        self.at.offset += whole.bytes as u32;
        bytes.truncate(whole.bytes);
        Ok(ControlFlow::Break(Piece { records: bytes.into(), count: whole.count, until: self.at }))
    }

    /// Moves to the next record that can be read, or to the segment's end.
    fn pass_over_damage(&mut self, end: u32, aside: &mut Aside<'_>) -> io::Result<()> {
        let file = self.bytes(0, end)?;
        let first_sequence = Header::decode(&file).map_or(0, |header| header.first_sequence);
        let start = self.at.offset;
        let behind = Scan::new(&file, first_sequence, Some(end)).find_map(|found| match found {
            Found::Record { at, .. } if at.start > start => Some(at.start),
            _ => None,
        });
        let behind = behind.unwrap_or(end);
        let bytes = file[start as usize..behind as usize].to_vec();
        aside(&Damage { path: self.path(self.at.segment), offset: start, bytes })?;
        self.at.offset = behind;
        Ok(())
    }

    /// Where the records of the present segment end, which its successor says.
    fn end_of_segment(&mut self, aside: &mut Aside<'_>) -> io::Result<u32> {
        if let Some(end) = self.end {
            return Ok(end);
        }
        let path = self.path(self.at.segment + 1);
        let successor = File::open(&path).map_err(|error| told(error, &path))?;
        let bytes = read_at(&successor, 0, HEADER_BYTES as u32).map_err(|error| told(error, &path))?;
        let end = match Header::decode(&bytes) {
            Ok(header) => header.previous_end,
            Err(_) => {
                let end = self.end_by_records(&successor)?;
                aside(&Damage { path, offset: 0, bytes })?;
                end
            }
        };
        self.end = Some(end);
        Ok(end)
    }

    /// The same, if the successor's header is damaged: the last record that is older than all of the successor's. A refused
    /// one may lie before that.
    fn end_by_records(&mut self, successor: &File) -> io::Result<u32> {
        let all = |file: &File| read_at(file, 0, file.metadata()?.len().try_into().unwrap_or(u32::MAX));
        let next = all(successor)?;
        let first = Scan::without_header(&next, 0, None).find_map(sequence_of).unwrap_or(u64::MAX);
        let path = self.path(self.at.segment);
        let bytes = File::open(&path).and_then(|file| all(&file)).map_err(|error| told(error, &path))?;
        let older = Scan::new(&bytes, 0, None).filter_map(|found| match found {
            Found::Record { at, sequence, .. } if sequence < first => Some(at.end),
            _ => None,
        });
        Ok(older.last().unwrap_or(HEADER_BYTES as u32))
    }

    fn bytes(&mut self, start: u32, end: u32) -> io::Result<Vec<u8>> {
        let path = self.path(self.at.segment);
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(File::open(&path).map_err(|error| told(error, &path))?),
        };
        read_at(file, start, end).map_err(|error| told(error, &path))
    }

    fn path(&self, number: u32) -> PathBuf {
        self.directory.join(file_name(self.shard, number))
    }
}

/// The bytes of a file; zeros where it ends too early. Then somebody cut it short: what is missing is damaged, and the rest
/// can still be read.
fn read_at(file: &File, start: u32, end: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; (end - start) as usize];
    let mut read = 0;
    while let len @ 1.. = file.read_at(&mut bytes[read..], u64::from(start) + read as u64)? {
        read += len;
    }
    Ok(bytes)
}

fn sequence_of(found: Found<'_>) -> Option<u64> {
    match found {
        Found::Record { sequence, .. } => Some(sequence),
        Found::Damaged(_) | Found::Torn(_) => None,
    }
}

fn told(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{} cannot be read: {error}", path.display()))
}

#[derive(Default)]
struct Whole {
    count: usize,
    bytes: usize,
}

/// The records that `bytes` begin with, at most `count_max`.
fn whole_records(bytes: &[u8], count_max: usize) -> Whole {
    let mut whole = Whole::default();
    while whole.count < count_max
        && let Decoded::Record { len, .. } = decode(&bytes[whole.bytes..])
        // Else the bytes end amid the zeros that fill it up.
        && len.is_multiple_of(ALIGNMENT)
    {
        whole.count += 1;
        whole.bytes += len;
    }
    whole
}
