//! The segments that lie in a journal's directory, and what is in each.
//!
//! In: files. Out: one [`Segment`] a file, in order, and its [`Contents`] once its bytes were scanned. Changes nothing;
//! start-up and the command line see the journal through it. Blocking.

use std::{
    fs::{self, DirEntry, File},
    io::{ErrorKind, Read},
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    error::JournalError,
    scan::{Found, Scan},
    segment::{BadHeader, HEADER_BYTES, Header, parse_file_name},
};
use crate::store::Micros;

/// Records are read again in pieces of at most so many bytes, or of one record.
pub const PIECE_BYTES_MAX: u32 = 1024 * 1024;

/// A segment's file.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The file.
    pub path: PathBuf,
    /// Whose it is, by its name.
    pub shard: u32,
    /// Its number, by its name.
    pub number: u32,
    /// What it begins with.
    pub header: Result<Header, BadHeader>,
    /// Where its records end, if its successor tells.
    pub end: Option<u32>,
    /// No record in it has a lower sequence.
    pub first_sequence: u64,
}

/// The segments in a directory, by shard and number. Files of other names are no part of the journal.
///
/// # Errors
/// When a file is of a newer version, or the directory or a header cannot be read.
pub fn survey(directory: &Path) -> Result<Vec<Segment>, JournalError> {
    let unreadable = || JournalError::io("read", directory);
    let mut segments = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable())? {
        segments.extend(segment(&entry.map_err(unreadable())?)?);
    }
    segments.sort_by_key(|segment| (segment.shard, segment.number));
    for at in 0..segments.len() {
        let (before, rest) = segments.split_at_mut(at);
        let Some((segment, behind)) = rest.split_first_mut() else { break };
        segment.end = behind.first().and_then(|next| segment.end_by(next));
        segment.first_sequence = segment.lowest_sequence(before);
    }
    Ok(segments)
}

/// The segment of a file, if it is one and is still there: a server may run.
fn segment(entry: &DirEntry) -> Result<Option<Segment>, JournalError> {
    let Some((shard, number)) = entry.file_name().to_str().and_then(parse_file_name) else { return Ok(None) };
    let path = entry.path();
    if path.is_dir() {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    let read = File::open(&path).and_then(|file| file.take(HEADER_BYTES as u64).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(JournalError::io("read", &path))?,
    };
    let header = Header::decode(&bytes);
    match header {
        Err(BadHeader::Newer(version)) => Err(JournalError::Newer { file: path, version }),
        _ => Ok(Some(Segment { path, shard, number, header, end: None, first_sequence: 0 })),
    }
}

impl Segment {
    /// Its name.
    pub fn name(&self) -> String {
        super::segment::file_name(self.shard, self.number)
    }

    /// Its header, if it has one of its own and not that of an earlier use of the file.
    pub fn own_header(&self) -> Option<&Header> {
        let is_own = |header: &&Header| (header.shard, header.number) == (self.shard, self.number);
        self.header.as_ref().ok().filter(is_own)
    }

    /// Was the file made ready, out of an earlier segment's, and not used yet?
    pub fn is_ready(&self) -> bool {
        self.header.is_ok() && self.own_header().is_none() && self.end.is_none()
    }

    fn end_by(&self, next: &Segment) -> Option<u32> {
        let is_successor = (next.shard, next.number.checked_sub(1)) == (self.shard, Some(self.number));
        let end = next.own_header().filter(|_| is_successor)?.previous_end;
        (end != 0).then_some(end)
    }

    /// As the header says. Without one, what lies there of an earlier use is still told apart: a file is used again only
    /// when its records are older than those of the segment before.
    fn lowest_sequence(&self, before: &[Segment]) -> u64 {
        let headers = before.iter().filter(|other| other.shard == self.shard).filter_map(Segment::own_header);
        let least = headers.map(|header| header.first_sequence).max().unwrap_or(0);
        self.own_header().map_or(least, |header| header.first_sequence)
    }

    /// Reads the whole file into `bytes`, in the place of what was there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, bytes: &mut Vec<u8>) -> Result<(), JournalError> {
        bytes.clear();
        // Offsets have 32 bits: nothing of a segment lies beyond.
        let read = File::open(&self.path).and_then(|file| file.take(u64::from(u32::MAX)).read_to_end(bytes));
        read.map(drop).map_err(JournalError::io("read", &self.path))
    }

    /// What stands in its bytes.
    pub fn scan<'a>(&self, bytes: &'a [u8]) -> Scan<'a> {
        match self.own_header() {
            Some(_) => Scan::new(bytes, self.first_sequence, self.end),
            None => Scan::without_header(bytes, self.first_sequence, self.end),
        }
    }
}

/// What a scan found, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Where the records are, in order: pieces of whole records, none above [`PIECE_BYTES_MAX`] but of one record.
    pub pieces: Vec<Range<u32>>,
    /// How many records there are.
    pub messages: u64,
    /// The first and the last one's sequence.
    pub sequences: Option<(u64, u64)>,
    /// The least and the greatest timestamp.
    pub times: Option<(Micros, Micros)>,
    /// Places where records were that cannot be read.
    pub damaged: Vec<Range<u32>>,
    /// What is there of a last write that did not reach the file as a whole.
    pub torn: Option<Range<u32>>,
}

impl Contents {
    /// Takes in the next thing that was found.
    pub fn add(&mut self, found: &Found<'_>) {
        match found {
            Found::Record { at, sequence, record } => {
                self.messages += 1;
                self.sequences = Some((self.sequences.map_or(*sequence, |(first, _)| first), *sequence));
                let time = record.row.timestamp;
                self.times = Some(self.times.map_or((time, time), |(low, high)| (low.min(time), high.max(time))));
                match self.pieces.last_mut() {
                    Some(piece) if piece.end == at.start && at.end - piece.start <= PIECE_BYTES_MAX => {
                        piece.end = at.end
                    }
                    _ => self.pieces.push(at.clone()),
                }
            }
            Found::Damaged(range) => self.damaged.push(range.clone()),
            Found::Torn(range) => self.torn = Some(range.clone()),
        }
    }
}

impl<'a> FromIterator<Found<'a>> for Contents {
    fn from_iter<T: IntoIterator<Item = Found<'a>>>(found: T) -> Contents {
        found.into_iter().fold(Contents::default(), |mut contents, found| {
            contents.add(&found);
            contents
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{identity::UserId, journal::record::Record, store::Row};

    fn found(at: Range<u32>, sequence: u64, timestamp: Micros) -> Found<'static> {
        let (id, sender) = (Uuid::nil(), UserId::Int(1));
        let row = Row { id, room: id, sender, receiver: None, timestamp, content: "" };
        Found::Record { at, sequence, record: Record { row, sender_username: "" } }
    }

    #[test]
    fn pieces_are_of_whole_records_and_bounded() {
        let half = PIECE_BYTES_MAX / 2;
        let places = [
            64..64 + half,
            64 + half..64 + 2 * half,
            64 + 2 * half..64 + 3 * half,
            // Damage between, then a record that is longer than a piece may be.
            64 + 4 * half..64 + 5 * half,
            64 + 5 * half..64 + 9 * half,
            64 + 9 * half..72 + 9 * half,
        ];
        let damage = Found::Damaged(64 + 3 * half..64 + 4 * half);
        let records =
            places.iter().cloned().zip(3..).map(|(at, sequence)| found(at, sequence, 10 - sequence as Micros));
        let contents: Contents = records.clone().take(3).chain([damage]).chain(records.skip(3)).collect();
        let expected = [64..64 + 2 * half, places[2].clone(), places[3].clone(), places[4].clone(), places[5].clone()];
        assert_eq!(contents.pieces, expected);
        assert_eq!((contents.messages, contents.sequences, contents.times), (6, Some((3, 8)), Some((2, 7))));
        assert_eq!((contents.damaged.len(), contents.torn), (1, None));
    }
}
