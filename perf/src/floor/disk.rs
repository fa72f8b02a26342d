//! What the disk can do at best: a write and `fdatasync`, one after the other, from one thread.
//!
//! In: a directory. Out: how long each took. Its files are removed at the end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::belongings::Owned;

/// Bytes of the file whose blocks are there already, as of a segment of ringroom's journal.
const FILE_BYTES: usize = 16 << 20;

/// Where a write goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    /// The end of a file, which grows by it: the sync also writes the file's new length and blocks.
    Append,
    /// Blocks that are there and have been written before, as of ringroom's journal.
    Overwrite,
}

impl Place {
    /// All.
    pub(super) const ALL: [Self; 2] = [Self::Append, Self::Overwrite];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Overwrite => "overwrite",
        }
    }
}

/// A file of its own, which goes when this goes.
struct Scratch {
    file: File,
    _owned: Owned,
}

impl Scratch {
    fn make(directory: &Path, place: Place) -> io::Result<Self> {
        let path = directory.join(format!("ringroom-perf-floor-{}-{}", std::process::id(), place.name()));
        let make = |path: &Path| File::options().read(true).write(true).create_new(true).open(path);
        let (owned, file) = Owned::make(path, make)?;
        let scratch = Self { file, _owned: owned };
        if place == Place::Overwrite {
            scratch.file.write_all_at(&vec![0; FILE_BYTES], 0)?;
        }
        scratch.file.sync_all()?;
        Ok(scratch)
    }
}

/// Writes `bytes` bytes and syncs them, again and again for `time`; how long each took goes to `took_ns`.
///
/// # Errors
/// No file can be made in the directory, or the disk fails.
pub(super) fn measure(
    directory: &Path,
    place: Place,
    bytes: usize,
    time: Duration,
    took_ns: &mut Histogram<u64>,
) -> Result<(), String> {
    let failed = |error: io::Error| format!("--directory {}: {error}", directory.display());
    let scratch = Scratch::make(directory, place).map_err(failed)?;
    let (content, mut at) = (vec![b'x'; bytes], 0);
    let began = Instant::now();
    while began.elapsed() < time {
        if place == Place::Overwrite && at + bytes > FILE_BYTES {
            at = 0;
        }
        let start = Instant::now();
        scratch.file.write_all_at(&content, at as u64).and_then(|()| scratch.file.sync_data()).map_err(failed)?;
        took_ns.saturating_record(start.elapsed().as_nanos() as u64);
        at += bytes;
    }
    Ok(())
}
