//! Dead letters: messages that were broadcast, and that the database then refused for good.
//!
//! In: refused records, from the writer thread. Out: `DATA_DIR/dead-letters.jsonl`, a line of JSON for each, on the
//! disk when [`DeadLetters::append`] returns; the journal may forget them then. `ringroom dead-letters` lists them,
//! tries them again ([`retry`]) and drops them, whether a server runs or not. Blocks for as long as the disk takes.
//!
//! - **Once**: a message whose letter is there already, for the journal was replayed, gets no second one.
//! - **Whole or not at all**: what could not be written whole is cut off again, and the caller may try again.
//! - **Nothing is repaired in silence**: a line that is no letter, such as one whose writer was killed, is reported and
//!   kept as it is.

pub mod file;
pub mod letter;
pub mod retry;

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use uuid::Uuid;

use self::{
    file::{LetterFile, Lines, Lock},
    letter::Letter,
};
use crate::{failure::Failure, journal::record::Record, store::Micros};

/// The appending side of the file. Belongs to the writer thread.
#[derive(Debug)]
pub struct DeadLetters {
    file: LetterFile,
    /// What the file held when it was last looked at, or written here.
    seen: Seen,
    /// A file whose bytes behind this length are of an append that failed, and could not be cut off then.
    spoilt: Option<(File, u64)>,
}

/// What a file holds.
#[derive(Debug, Default)]
struct Seen {
    /// `None` when it must be looked at again.
    state: Option<State>,
    /// Whose letters are in it.
    ids: HashSet<Uuid>,
    /// Its last line does not end: the next letter must not be glued to it.
    is_torn: bool,
}

/// A file that others may have replaced or changed: not, as long as these are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl State {
    fn of(file: &File) -> io::Result<State> {
        let metadata = file.metadata()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Ok(State { inode: metadata.ino(), len: metadata.len(), modified })
    }
}

impl DeadLetters {
    /// Opens the file in a server's data directory, making both if need be, and tells the log what is in it: how many
    /// letters wait, and which lines are none.
    ///
    /// # Errors
    /// The file cannot be made, read or locked.
    pub fn open(data_dir: &Path) -> Result<DeadLetters, Failure> {
        let mut letters = DeadLetters { file: LetterFile::of(data_dir), seen: Seen::default(), spoilt: None };
        letters.begin(data_dir).map_err(|error| {
            let path = letters.file.path().display();
            Failure::unusable(format!(
                "{path} cannot be opened ({error}): messages that the database refuses are kept there; check that \
                 `data_dir` is right and that this user may read and write it"
            ))
        })?;
        if !letters.seen.ids.is_empty() {
            tracing::warn!(
                letters = letters.seen.ids.len(),
                "messages that the database refused wait for a decision: see `ringroom dead-letters list`"
            );
        }
        Ok(letters)
    }

    fn begin(&mut self, data_dir: &Path) -> io::Result<()> {
        fs::create_dir_all(data_dir)?;
        let lock = self.file.lock()?;
        let file = self.file.open(&lock)?;
        self.look(&file)
    }

    /// Adds a letter for each refused message that has none yet; the second of a pair is the reason. Returns how many
    /// were added. On `Ok` the letters of all of these messages are on the disk.
    ///
    /// # Errors
    /// Of the disk, full or broken: no letter was added, and the same may be tried again.
    pub fn append(&mut self, refused: &[(&Record<'_>, &str)]) -> io::Result<usize> {
        if refused.is_empty() {
            return Ok(0);
        }
        let lock = self.file.lock()?;
        let file = self.file.open(&lock)?;
        self.cut_off_what_failed()?;
        self.look(&file)?;
        let (bytes, ids) = self.lines_for(refused);
        self.write(file, &bytes, lock)?;
        self.seen.is_torn &= bytes.is_empty();
        let added = ids.len();
        self.seen.ids.extend(ids);
        Ok(added)
    }

    /// The lines to be written, and whose letters they are.
    fn lines_for(&self, refused: &[(&Record<'_>, &str)]) -> (Vec<u8>, HashSet<Uuid>) {
        let now = now();
        let (mut bytes, mut ids) = (Vec::new(), HashSet::new());
        for (record, reason) in refused {
            let id = record.row.id;
            if self.seen.ids.contains(&id) || !ids.insert(id) {
                continue;
            }
            if bytes.is_empty() && self.seen.is_torn {
                bytes.push(b'\n');
            }
            Letter::new(record, reason, now).put(&mut bytes);
        }
        (bytes, ids)
    }

    /// Writes and syncs. Also when there is nothing to write: letters found in the file may be of a process that was
    /// killed before it had synced them.
    fn write(&mut self, mut file: File, bytes: &[u8], _: Lock) -> io::Result<()> {
        let State { len, .. } = State::of(&file)?;
        self.seen.state = None;
        let written = file.write_all(bytes).and_then(|()| file.sync_data()).and_then(|()| State::of(&file));
        match written {
            Ok(state) => self.seen.state = Some(state),
            Err(error) => {
                self.spoilt = Some((file, len));
                // If this fails too, it is tried again before the next append.
                let _ = self.cut_off_what_failed();
                return Err(error);
            }
        }
        Ok(())
    }

    /// After a sync that failed, bytes that can still be read may not be on the disk, and no later sync tells. If the
    /// file has been rewritten since, what is cut off is part of it no more.
    fn cut_off_what_failed(&mut self) -> io::Result<()> {
        if let Some((file, len)) = &self.spoilt {
            file.set_len(*len)?;
        }
        self.spoilt = None;
        Ok(())
    }

    /// Reads the file unless it is as it was last seen.
    fn look(&mut self, file: &File) -> io::Result<()> {
        let state = State::of(file)?;
        if self.seen.state == Some(state) {
            return Ok(());
        }
        let mut seen = Seen { state: Some(state), ..Seen::default() };
        for line in Lines::of(file.try_clone()?)? {
            let line = line?;
            seen.is_torn = !line.is_ended();
            match line.letter {
                Ok(letter) => drop(seen.ids.insert(letter.id)),
                Err(_) => report(&self.file, line.number, seen.is_torn),
            }
        }
        // Whoever made or replaced the file may have been killed before its name was on the disk.
        self.file.sync_name()?;
        self.seen = seen;
        Ok(())
    }
}

/// Tells of a line that is no letter, without quoting it.
fn report(file: &LetterFile, line: usize, is_torn: bool) {
    let (path, line) = (file.path().display(), line);
    match is_torn {
        true => tracing::warn!(
            %path,
            line,
            "the last dead letter is cut off, as by a crash while it was written; it is kept, on a line of its own"
        ),
        false => tracing::warn!(%path, line, "a line is no dead letter; it is kept: see `ringroom dead-letters list`"),
    }
}

fn now() -> Micros {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros::try_from(since_1970.as_micros()).unwrap_or(Micros::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{
        dead_letters::file::Verdict,
        identity::{RoomId, UserId},
        store::Row,
    };

    /// A data directory of the test's own.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Place {
            let path = std::env::temp_dir().join(format!("ringroom-letters-{}", Uuid::new_v4()));
            Place(path.join("data"))
        }

        fn open(&self) -> DeadLetters {
            DeadLetters::open(&self.0).unwrap()
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path()).unwrap()
        }

        fn path(&self) -> PathBuf {
            self.0.join("dead-letters.jsonl")
        }

        fn texts(&self) -> Vec<String> {
            let lines = LetterFile::of(&self.0).lines().unwrap().into_iter().flatten();
            lines.map(|line| line.unwrap().letter.map_or_else(|_| "?".into(), |letter| letter.text)).collect()
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.parent().unwrap());
        }
    }

    fn record(id: u128, content: &str) -> Record<'_> {
        let (id, sender) = (Uuid::from_u128(id), UserId::Int(9));
        let row = Row { id, room: RoomId::nil(), sender, receiver: None, timestamp: 1_704_110_400_123_456, content };
        Record { row, sender_username: "ann" }
    }

    fn append(letters: &mut DeadLetters, messages: &[(u128, &str)]) -> usize {
        let records: Vec<_> = messages.iter().map(|(id, text)| record(*id, text)).collect();
        letters.append(&records.iter().map(|record| (record, "no")).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_letter_holds_all_of_its_message() {
        let place = Place::new();
        let before = now();
        assert_eq!(append(&mut place.open(), &[(1, "one")]), 1);
        let letter = Letter::read(place.text().as_bytes()).unwrap();
        assert_eq!(letter.row(), record(1, "one").row);
        assert_eq!((&*letter.sender_username, &*letter.reason), ("ann", "no"));
        assert!((before..=now()).contains(&letter.refused_at));
        for name in ["dead-letters.jsonl", "dead-letters.lock"] {
            assert_eq!(fs::metadata(place.0.join(name)).unwrap().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_message_has_one_letter_however_often_it_is_refused() {
        let place = Place::new();
        let mut letters = place.open();
        assert_eq!(append(&mut letters, &[(1, "one"), (2, "two"), (1, "one")]), 2);
        assert_eq!(append(&mut letters, &[(2, "two")]), 0);
        assert_eq!(append(&mut letters, &[]), 0);
        let mut later = place.open();
        assert_eq!(append(&mut later, &[(1, "one"), (3, "three")]), 1);
        assert_eq!(append(&mut letters, &[(3, "three"), (4, "four")]), 1, "another process's letters are seen");
        assert_eq!(place.texts(), ["one", "two", "three", "four"]);
    }

    #[test]
    fn a_letter_that_was_dropped_may_come_again() {
        let place = Place::new();
        let mut letters = place.open();
        append(&mut letters, &[(1, "one"), (2, "two")]);
        let is_first = |letter: &Letter| letter.id == Uuid::from_u128(1);
        let verdict = |letter: &Letter| if is_first(letter) { Verdict::Remove } else { Verdict::Keep };
        assert_eq!(LetterFile::of(&place.0).rewrite(verdict).unwrap(), 1);
        assert_eq!(place.texts(), ["two"]);
        assert_eq!(append(&mut letters, &[(2, "two"), (1, "one")]), 1);
        assert_eq!(place.texts(), ["two", "one"]);
        fs::remove_file(place.path()).unwrap();
        assert_eq!(append(&mut letters, &[(2, "two")]), 1, "nor is a removed file missed");
    }

    #[test]
    fn a_line_cut_off_anywhere_is_kept_apart() {
        let place = Place::new();
        append(&mut place.open(), &[(1, "one"), (2, "tw\u{f6}")]);
        let whole = fs::read(place.path()).unwrap();
        let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for cut in first..whole.len() {
            fs::write(place.path(), &whole[..cut]).unwrap();
            let mut letters = place.open();
            append(&mut letters, &[(2, "tw\u{f6}"), (3, "three")]);
            append(&mut letters, &[(4, "four")]);
            let expected = match whole.len() - cut {
                // Only the line end was lost, or the whole line.
                1 => vec!["one", "tw\u{f6}", "three", "four"],
                _ if cut == first => vec!["one", "tw\u{f6}", "three", "four"],
                _ => vec!["one", "?", "tw\u{f6}", "three", "four"],
            };
            assert_eq!(place.texts(), expected, "cut at {cut}");
            assert_eq!(fs::read(place.path()).unwrap()[..cut], whole[..cut], "what was there stays");
        }
    }

    #[test]
    fn rewriting_keeps_what_it_cannot_read() {
        let place = Place::new();
        append(&mut place.open(), &[(1, "one"), (2, "two")]);
        fs::write(place.path(), place.text() + "not a letter\n\u{0}\u{0}").unwrap();
        let file = LetterFile::of(&place.0);
        let untouched = fs::metadata(place.path()).unwrap().ino();
        assert_eq!(file.rewrite(|_| Verdict::Keep).unwrap(), 0);
        assert_eq!(fs::metadata(place.path()).unwrap().ino(), untouched, "nothing changed, nothing written");
        let verdict = |letter: &Letter| match &*letter.text {
            "one" => Verdict::KeepWith("other".into()),
            _ => Verdict::Remove,
        };
        assert_eq!(file.rewrite(verdict).unwrap(), 1);
        let text = place.text();
        let (letter, rest) = text.split_once('\n').unwrap();
        assert_eq!(Letter::read(letter.as_bytes()).unwrap().reason, "other");
        assert_eq!(rest, "not a letter\n\u{0}\u{0}\n");
        assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&place.0).unwrap().count(), 2, "no other file is left");
    }

    #[test]
    fn what_failed_and_could_not_be_cut_off_is_cut_off_later() {
        let place = Place::new();
        let mut letters = place.open();
        append(&mut letters, &[(1, "one")]);
        let spoil = |letters: &mut DeadLetters, text| {
            let file = fs::OpenOptions::new().write(true).open(place.path()).unwrap();
            let len = file.metadata().unwrap().len();
            append(letters, &[(2, text)]);
            letters.spoilt = Some((file, len));
        };
        spoil(&mut letters, "not surely on the disk");
        assert_eq!(append(&mut letters, &[(2, "two")]), 1);
        assert_eq!(place.texts(), ["one", "two"]);

        LetterFile::of(&place.0)
            .rewrite(|letter| if letter.text == "two" { Verdict::Remove } else { Verdict::Keep })
            .unwrap();
        spoil(&mut letters, "rewritten");
        LetterFile::of(&place.0).rewrite(|_| Verdict::KeepWith("other".into())).unwrap();
        assert_eq!(append(&mut letters, &[(3, "three")]), 1);
        assert_eq!(place.texts(), ["one", "rewritten", "three"], "a file that was replaced is left alone");
    }

    #[test]
    fn a_place_that_cannot_be_written_is_one_message() {
        let place = Place::new();
        fs::create_dir_all(place.path()).unwrap();
        let message = DeadLetters::open(&place.0).unwrap_err().to_string();
        assert!(message.contains("dead-letters.jsonl") && message.contains("`data_dir`"), "{message}");
        assert_eq!(
            LetterFile::of(&place.0.join("nowhere")).rewrite(|_| Verdict::Remove).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
