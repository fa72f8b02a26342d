//! What an earlier run left in the journal: found at start-up, mended where it can be, handed to the writer.
//!
//! In: the journal's directory. Out: the records that the database may lack, as places in files, and the numbers that
//! this run goes on with. Runs on the control thread, before any shard, and blocks; one segment is in memory at a time.
//!
//! A last write that did not reach its file as a whole is cut off. Damaged bytes are copied to `damaged/` before anything
//! is changed, so that whatever is done to the segment later, they are there to be looked at.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Write},
    ops::Range,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use tracing::{error, info, warn};

use super::{
    error::JournalError,
    place::{Place, sync_directory},
    survey::{Contents, Segment, survey},
};
use crate::store::Micros;

/// What was found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The segments with records, by shard and number.
    pub segments: Vec<Old>,
    /// The first number for this run's segments, above all that were found; at least 1.
    pub next_number: u32,
    /// The first sequence for this run's records, above all that were found; at least 1.
    pub next_sequence: u64,
    /// The greatest timestamp; this run's must be above.
    pub newest: Option<Micros>,
    /// How many records there are.
    pub messages: u64,
    /// Bytes of last writes that were cut off.
    pub torn_bytes: u64,
    /// What could not be read.
    pub damaged: Vec<Damage>,
}

/// A segment of an earlier run, which has records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Old {
    /// Its file.
    pub path: PathBuf,
    /// The shard that wrote it.
    pub shard: u32,
    /// Its number.
    pub number: u32,
    /// Where its records are: pieces of whole records, to be read one at a time; see
    /// [`PIECE_BYTES_MAX`](super::survey::PIECE_BYTES_MAX).
    pub ranges: Vec<Range<u32>>,
    /// How many records there are.
    pub messages: u64,
    /// The least timestamp.
    pub oldest: Micros,
    /// The greatest timestamp.
    pub newest: Micros,
}

/// Bytes of a segment in which there were records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment's file.
    pub path: PathBuf,
    /// Where in it; beyond its end where it was cut.
    pub range: Range<u32>,
    /// Where they were copied to, if any of them are there.
    pub copy: Option<PathBuf>,
}

impl Old {
    /// The bytes of one of its `ranges`, for [`decode_all`](super::record::decode_all).
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, range: Range<u32>) -> Result<Vec<u8>, JournalError> {
        let mut bytes = vec![0; range.len()];
        let read = File::open(&self.path).and_then(|file| file.read_exact_at(&mut bytes, range.start.into()));
        read.map_err(JournalError::io("read", &self.path))?;
        Ok(bytes)
    }

    /// Removes the file: everything in it is saved.
    ///
    /// # Errors
    /// When it cannot be removed. Then the next start finds it again, which costs time and does no other harm.
    pub fn remove(self) -> Result<(), JournalError> {
        remove(&self.path)
    }
}

/// Looks at every segment, cuts off what is torn, keeps aside what is damaged, and removes what holds no record.
///
/// # Errors
/// When a file is of a newer version, before anything is changed, or when the operating system refuses something.
pub fn recover(place: &Place) -> Result<Recovered, JournalError> {
    let found = survey(place.directory())?;
    let mut recovered = Recovered { next_number: 1, next_sequence: 1, ..Recovered::default() };
    let mut bytes = Vec::new();
    for segment in &found {
        recovered.next_number = recovered.next_number.max(segment.number.saturating_add(1));
        recovered.next_sequence = recovered.next_sequence.max(segment.first_sequence);
        match segment.is_ready() {
            true => remove(&segment.path)?,
            false => recovered.take(place, segment, &mut bytes)?,
        }
    }
    if recovered.messages > 0 {
        let (messages, segments) = (recovered.messages, recovered.segments.len());
        info!(messages, segments, "the journal holds messages of an earlier run, which are saved now");
    }
    Ok(recovered)
}

impl Recovered {
    fn take(&mut self, place: &Place, segment: &Segment, bytes: &mut Vec<u8>) -> Result<(), JournalError> {
        segment.read(bytes)?;
        let contents: Contents = segment.scan(bytes).collect();
        for range in &contents.damaged {
            self.damaged.push(keep_aside(place, segment, range, bytes)?);
        }
        if let Some((_, last)) = contents.sequences {
            self.next_sequence = self.next_sequence.max(last.saturating_add(1));
        }
        if let Some(torn) = &contents.torn {
            self.torn_bytes += torn.len() as u64;
            let (file, bytes) = (segment.path.display(), torn.len());
            warn!(%file, bytes, "the last write of an earlier run did not reach the journal as a whole and is cut off");
        }
        let Some((oldest, newest)) = contents.times else { return self.drop_empty(segment) };
        if let Some(torn) = contents.torn {
            cut(&segment.path, torn.start)?;
        }
        self.newest = self.newest.max(Some(newest));
        self.messages += contents.messages;
        let Segment { path, shard, number, .. } = segment.clone();
        let Contents { pieces: ranges, messages, .. } = contents;
        self.segments.push(Old { path, shard, number, ranges, messages, oldest, newest });
        Ok(())
    }

    /// Removes a segment without records. What its header says of the segment before must outlast it.
    fn drop_empty(&self, segment: &Segment) -> Result<(), JournalError> {
        let is_before = |old: &&Old| (old.shard, old.number.checked_add(1)) == (segment.shard, Some(segment.number));
        if let (Some(header), Some(before)) = (segment.own_header(), self.segments.last().filter(is_before))
            && header.previous_end != 0
        {
            cut(&before.path, header.previous_end)?;
        }
        remove(&segment.path)
    }
}

/// Keeps bytes that this run wrote and cannot read again, and tells the operator.
///
/// # Errors
/// When the copy cannot be written.
pub fn keep_bytes_aside(place: &Place, file: &Path, offset: u32, bytes: &[u8]) -> Result<(), JournalError> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let copy = copy(&place.directory().join("damaged"), &format!("{name}-{offset}"), bytes)?;
    error!(
        file = %file.display(), offset, bytes = bytes.len(), copy = %copy.display(),
        "the journal does not read back as it was written: the messages there are not saved, all others are. Keep the copy, \
         and look at the disk (dmesg, smartctl)"
    );
    Ok(())
}

/// Copies damaged bytes to a file of their own, and tells the operator.
fn keep_aside(place: &Place, segment: &Segment, range: &Range<u32>, bytes: &[u8]) -> Result<Damage, JournalError> {
    let len = bytes.len();
    let there = &bytes[len.min(range.start as usize)..len.min(range.end as usize)];
    let (file, offset, bytes) = (segment.path.display(), range.start, range.len());
    let copy = match there.is_empty() {
        true => None,
        false => Some(copy(&place.directory().join("damaged"), &format!("{}-{offset}", segment.name()), there)?),
    };
    match &copy {
        Some(copy) => error!(
            %file, offset, bytes, copy = %copy.display(),
            "a part of the journal is damaged: the messages in it are not saved, all others are. Keep the copy, look at \
             the disk (dmesg, smartctl); `ringroom journal inspect` tells what is around it until that is saved"
        ),
        None => error!(
            %file, offset, bytes,
            "a file of the journal is cut short: the messages behind are not saved, all others are. Look at the disk and \
             its file system (dmesg, fsck); `ringroom journal inspect` tells what is before it until that is saved"
        ),
    }
    Ok(Damage { path: segment.path.clone(), range: range.clone(), copy })
}

/// Writes the bytes to a file of this name, or of this name and a number where another content has it already.
fn copy(directory: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, JournalError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(JournalError::io("make", directory))?;
    let mut path = directory.join(name);
    for other in 2.. {
        match fs::read(&path) {
            Ok(earlier) if earlier == bytes => return Ok(path),
            Ok(_) => path = directory.join(format!("{name}-{other}")),
            Err(error) if error.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(JournalError::io("read", &path)(error)),
        }
    }
    write_whole(directory, &path, bytes).map_err(JournalError::io("write", &path))?;
    Ok(path)
}

/// Writes a file that is there as a whole or not at all, whatever happens meanwhile.
fn write_whole(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = directory.join("unfinished");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync_directory(directory)?;
    directory.parent().map_or(Ok(()), sync_directory)
}

/// Shortens a file to `len` bytes, if it has more.
pub(super) fn cut(path: &Path, len: u32) -> Result<(), JournalError> {
    let shorten = || {
        let file = File::options().write(true).open(path)?;
        if file.metadata()?.len() > len.into() {
            file.set_len(len.into())?;
            file.sync_all()?;
        }
        Ok(())
    };
    shorten().map_err(JournalError::io("shorten", path))
}

fn remove(path: &Path) -> Result<(), JournalError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(JournalError::io("remove", path)(error)),
        _ => Ok(()),
    }
}
