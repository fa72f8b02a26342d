//! Why a journal cannot be taken or read, in words for the operator. Made at start-up and by the command line.

use std::{
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::segment::BadHeader;

/// What is in the way. Nothing of the journal was changed, unless it says so.
#[derive(Debug)]
pub enum JournalError {
    /// Another server has the journal.
    InUse {
        /// The journal's directory.
        directory: PathBuf,
        /// The other process, if it has said who it is.
        pid: Option<u32>,
    },
    /// A file was written by a later version of the program.
    Newer {
        /// Which file.
        file: PathBuf,
        /// The version of its format.
        version: u32,
    },
    /// The operating system refused.
    Io {
        /// What was tried, such as "read".
        what: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Its reason.
        error: io::Error,
    },
}

impl JournalError {
    /// For `map_err`: what was tried with which file.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
        move |error| JournalError::Io { what, path: path.to_owned(), error }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::InUse { directory, pid } => {
                write!(f, "the journal in {} is in use by ", directory.display())?;
                match pid {
                    Some(pid) => write!(f, "process {pid}")?,
                    None => f.write_str("another process")?,
                }
                f.write_str(": one server a data directory; stop that one, or give this one another --data-dir")
            }
            JournalError::Newer { file, version } => write!(f, "{}: {}", file.display(), BadHeader::Newer(*version)),
            JournalError::Io { what, path, error } => {
                write!(f, "cannot {what} {}: {error}; {}", path.display(), advice(error.kind()))
            }
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JournalError::Io { error, .. } => Some(error),
            JournalError::InUse { .. } | JournalError::Newer { .. } => None,
        }
    }
}

fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "is --data-dir the directory that the server was started with?",
        ErrorKind::PermissionDenied => "it must belong to the user that ringroom runs as",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room on its disk and start again",
        ErrorKind::ReadOnlyFilesystem => "mount its file system writable, or choose another --data-dir",
        _ => "look at the disk (dmesg); the messages in the journal are saved only when it can be read again",
    }
}
