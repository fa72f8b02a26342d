//! The file of dead letters: read line by line, appended to, or rewritten, each under one lock.
//!
//! The server appends and the command line rewrites, in processes of their own, so everybody who changes the file
//! holds the lock of the file beside it and opens the file anew. To rewrite is to write another file, sync it and give
//! it the name: whatever ends the process, either the old letters are there or the new ones.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use super::letter::Letter;

/// Where the letters are kept.
#[derive(Clone, Debug)]
pub struct LetterFile {
    folder: PathBuf,
    path: PathBuf,
}

/// A line of the file.
#[derive(Debug)]
pub struct Line {
    /// Its number; the first is 1.
    pub number: usize,
    /// Its bytes, with the line end if there is one.
    pub bytes: Vec<u8>,
    /// What it holds; the error says why it is no letter.
    pub letter: Result<Letter, String>,
}

impl Line {
    /// Whether it ends as a line must; only the file's last may lack that, when its writer was killed.
    pub fn is_ended(&self) -> bool {
        self.bytes.ends_with(b"\n")
    }
}

/// What is to become of a letter when the file is rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays as it is.
    Keep,
    /// It stays, and this is what the database said now.
    KeepWith(String),
    /// It goes.
    Remove,
}

/// Nobody else changes the file while this is held.
#[must_use]
#[derive(Debug)]
pub struct Lock {
    /// Closing it is what unlocks.
    _file: File,
}

impl LetterFile {
    /// The file in a server's data directory. Nothing is made or opened yet.
    pub fn of(data_dir: &Path) -> LetterFile {
        LetterFile { folder: data_dir.into(), path: data_dir.join("dead-letters.jsonl") }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until nobody else changes the file, and keeps everybody else from it.
    pub fn lock(&self) -> io::Result<Lock> {
        let file = private().create(true).truncate(false).write(true).open(self.folder.join("dead-letters.lock"))?;
        // Made by root for a server that runs as somebody else: it must be able to open what it finds.
        if file.metadata()?.uid() == 0 {
            // At worst that server says that it may not.
            let _ = give(&file, &fs::metadata(&self.folder)?);
        }
        file.lock()?;
        Ok(Lock { _file: file })
    }

    /// Opens the file to read it and to append to it, making it if need be.
    pub fn open(&self, _: &Lock) -> io::Result<File> {
        private().create(true).read(true).append(true).open(&self.path)
    }

    /// The lines as they are now; letters that come later are not among them. None where there is no file.
    pub fn lines(&self) -> io::Result<Option<Lines>> {
        if !fs::exists(&self.path)? {
            return Ok(None);
        }
        let _lock = self.lock()?;
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        Lines::of(file).map(Some)
    }

    /// Asks for a verdict on every letter, and writes the file anew if one of them changes anything. Lines that are no
    /// letters stay. Returns how many letters were removed.
    ///
    /// # Errors
    /// The file is as it was.
    pub fn rewrite(&self, mut verdict: impl FnMut(&Letter) -> Verdict) -> io::Result<usize> {
        let lock = self.lock()?;
        let old = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            opened => opened?,
        };
        let owner = old.metadata()?;
        let new_path = self.folder.join("dead-letters.jsonl.new");
        let written = self.write_anew(&new_path, &owner, Lines::of(old)?, &mut verdict);
        let done = written.and_then(|done| {
            if done.changed {
                fs::rename(&new_path, &self.path)?;
                self.sync_name()?;
            }
            Ok(done)
        });
        if !matches!(done, Ok(Rewritten { changed: true, .. })) {
            let _ = fs::remove_file(&new_path);
        }
        drop(lock);
        done.map(|done| done.removed)
    }

    fn write_anew(
        &self,
        path: &Path,
        owner: &Metadata,
        lines: Lines,
        verdict: &mut impl FnMut(&Letter) -> Verdict,
    ) -> io::Result<Rewritten> {
        let file = private().create(true).truncate(true).write(true).open(path)?;
        give(&file, owner)?;
        let mut out = BufWriter::new(file);
        let mut done = Rewritten { changed: false, removed: 0 };
        for line in lines {
            let Line { mut bytes, letter, .. } = line?;
            let verdict = letter.as_ref().map_or(Verdict::Keep, &mut *verdict);
            done.changed |= verdict != Verdict::Keep;
            match (verdict, letter) {
                (Verdict::Remove, _) => {
                    done.removed += 1;
                    continue;
                }
                (Verdict::KeepWith(reason), Ok(letter)) => {
                    bytes.clear();
                    Letter { reason, ..letter }.put(&mut bytes);
                }
                _ => {}
            }
            if !bytes.ends_with(b"\n") {
                bytes.push(b'\n');
            }
            out.write_all(&bytes)?;
        }
        out.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        Ok(done)
    }

    /// After this the file's name leads to it also when the machine has lost its power.
    pub fn sync_name(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

struct Rewritten {
    changed: bool,
    removed: usize,
}

/// The lines of a file, up to the length that it had when it was opened.
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<io::Take<File>>,
    number: usize,
}

impl Lines {
    /// The lines of an open file, from its beginning.
    pub fn of(file: File) -> io::Result<Lines> {
        let len = file.metadata()?.len();
        Ok(Lines { reader: BufReader::new(file.take(len)), number: 0 })
    }
}

impl Iterator for Lines {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<io::Result<Line>> {
        let mut bytes = Vec::new();
        match self.reader.read_until(b'\n', &mut bytes) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => return Some(Err(error)),
        }
        self.number += 1;
        let letter = Letter::read(&bytes).map_err(|error| error.to_string());
        Some(Ok(Line { number: self.number, bytes, letter }))
    }
}

/// For a file that nobody else may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Makes a file belong to whom another belongs to.
fn give(file: &File, like: &Metadata) -> io::Result<()> {
    match file.metadata()?.uid() == like.uid() {
        true => Ok(()),
        false => fchown(file, Some(like.uid()), Some(like.gid())),
    }
}
