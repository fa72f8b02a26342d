//! The directory of a journal, and the lock that lets one server at a time have it.
//!
//! In: the data directory. Out: the directory, made if it was missing and held until the [`Place`] is dropped. The lock is
//! the kernel's (`flock`), so it ends with its owner, however that ended. Control thread, once at start-up.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
};

use super::{Progress, error::JournalError, recovery::cut, segment::parse_file_name};

const LOCK: &str = "lock";

/// How often the kernel's list of locks is looked through for one.
const LIST_READS: usize = 4;

/// A journal's directory, which is this process's alone.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    lock: File,
}

/// Where the journal of a data directory is.
pub fn directory_in(data_dir: &Path) -> PathBuf {
    data_dir.join("journal")
}

impl Place {
    /// Takes the journal of a data directory. What is missing of the path is made, for its owner alone.
    ///
    /// # Errors
    /// When another process has it, or the operating system refuses.
    pub fn take(data_dir: &Path) -> Result<Place, JournalError> {
        let directory = directory_in(data_dir);
        make(&directory).map_err(JournalError::io("make", &directory))?;
        let path = directory.join(LOCK);
        let options = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let mut lock = options.open(&path).map_err(JournalError::io("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(JournalError::InUse { pid: named_owner(&directory), directory });
            }
            Err(TryLockError::Error(error)) => return Err(JournalError::io("lock", &path)(error)),
        }
        let named = lock.set_len(0).and_then(|()| writeln!(lock, "{}", process::id()));
        named.map_err(JournalError::io("write", &path))?;
        Ok(Place { directory, lock })
    }

    /// Removes the segments of `shard` from `first` on that are saved as a whole, and those that were only made ready. What
    /// lies behind the last record that is held was refused, and is cut off.
    ///
    /// # Errors
    /// When the directory cannot be read, or a file not removed or cut.
    pub fn sweep(&self, shard: u32, first: u32, progress: &Progress) -> Result<(), JournalError> {
        let (saved, held) = (progress.saved(), progress.held());
        let is_needed = |number: u32| saved < held && (saved.segment..=held.segment).contains(&number);
        for entry in fs::read_dir(&self.directory).map_err(JournalError::io("read", &self.directory))? {
            let entry = entry.map_err(JournalError::io("read", &self.directory))?;
            let Some((of, number)) = entry.file_name().to_str().and_then(parse_file_name) else { continue };
            if of == shard && number >= first && !is_needed(number) {
                fs::remove_file(entry.path()).map_err(JournalError::io("remove", &entry.path()))?;
            } else if of == shard && number == held.segment && number >= first {
                cut(&entry.path(), held.offset)?;
            }
        }
        Ok(())
    }

    /// The directory: `journal` in the data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Place {
    /// Gives the place back even where a process that is just being started has inherited the file.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

/// The process that has the journal, for one that only reads it and must not be in the way of a server that starts: the
/// one named in the lock file, if the kernel's list has that lock of it.
pub fn owner(directory: &Path) -> Option<u32> {
    let pid = named_owner(directory)?;
    let inode = fs::metadata(directory.join(LOCK)).ok()?.ino();
    let is_listed = || {
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        locks.lines().any(|line| is_lock(line, pid, inode))
    };
    // The list comes in pieces: while other locks come and go one may be passed over.
    (0..LIST_READS).any(|_| is_listed()).then_some(pid)
}

/// Is the line, such as `1: FLOCK  ADVISORY  WRITE 18504 fe:00:13680643 0 EOF` (proc_locks(5)), of an exclusive lock that
/// `pid` holds on the file with this inode?
fn is_lock(line: &str, pid: u32, inode: u64) -> bool {
    let words: Vec<_> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", holder, file, ..] = words[..] else { return false };
    let locked = file.rsplit(':').next().and_then(|inode| inode.parse().ok());
    holder.parse() == Ok(pid) && locked == Some(inode)
}

fn named_owner(directory: &Path) -> Option<u32> {
    fs::read_to_string(directory.join(LOCK)).ok()?.trim().parse().ok()
}

/// Makes a directory and what is missing above it, so that they outlast a loss of power.
fn make(directory: &Path) -> io::Result<()> {
    let missing: Vec<_> = directory.ancestors().take_while(|path| is_missing(path)).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    missing.iter().filter_map(|path| path.parent()).try_for_each(sync_directory)
}

fn is_missing(path: &Path) -> bool {
    !path.as_os_str().is_empty() && !path.exists()
}

/// Makes sure that a directory's names, as they are now, outlast a loss of power.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(if path.as_os_str().is_empty() { Path::new(".") } else { path })?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_tells_an_owner_from_others() {
        for (line, expected) in [
            ("1: FLOCK  ADVISORY  WRITE 18504 fe:00:13680643 0 EOF", true),
            ("2: FLOCK  ADVISORY  READ 18504 fe:00:13680643 0 EOF", false),
            ("2: -> FLOCK  ADVISORY  WRITE 18504 fe:00:13680643 0 EOF", false),
            ("3: POSIX  ADVISORY  WRITE 18504 fe:00:13680643 0 EOF", false),
            ("4: FLOCK  ADVISORY  WRITE 1850 fe:00:13680643 0 EOF", false),
            ("5: FLOCK  ADVISORY  WRITE 18504 fe:00:3680643 0 EOF", false),
            ("", false),
        ] {
            assert_eq!(is_lock(line, 18504, 13680643), expected, "{line}");
        }
    }
}
