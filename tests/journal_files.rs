//! What a journal's files may look like at start-up, and what comes out of them: cut at every byte, every byte changed, used
//! before, made by a later version, held by another server. Whatever lies outside the harmed place is recovered, once and
//! in order; nothing else is; and what is reported is what happened. The command line reads them as well, and changes
//! nothing.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader},
    ops::Range,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bytes::{BufMut, BytesMut};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringroom::{
    failure::Failure,
    identity::UserId,
    journal::{
        error::JournalError,
        place::Place,
        record::{self, Record, decode_all},
        recovery::{Recovered, recover},
        segment::{HEADER_BYTES, Header, file_name},
    },
    store::Row,
};
use serde_json::{Value, json};
use uuid::Uuid;

/// No wait in these tests is longer.
const DEADLINE: Duration = Duration::from_secs(20);

const FILE_BYTES: usize = 1024;

/// A data directory of one test's own, in memory where there is such a place.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let shared = Path::new("/dev/shm");
        let parent = if shared.is_dir() { shared.to_owned() } else { env::temp_dir() };
        let path = parent.join(format!("ringroom-{}", Uuid::new_v4()));
        fs::create_dir_all(path.join("journal")).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join("journal").join(name)
    }

    fn write(&self, shard: u32, number: u32, bytes: &[u8]) {
        fs::write(self.file(&file_name(shard, number)), bytes).unwrap();
    }

    fn recover(&self) -> Recovered {
        recover(&Place::take(&self.0).unwrap()).unwrap()
    }

    /// Everything below the journal's directory but the lock, by name.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files =
            |directory: PathBuf| fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
        let all = files(self.file("")).chain(files(self.file("damaged")));
        let all = all.filter(|path| path.is_file() && !path.ends_with("lock"));
        all.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn put(out: &mut BytesMut, sequence: u64, content: &str) {
    let (sender, id) = (UserId::Int(1), Uuid::from_u128(sequence.into()));
    let row = Row { id, room: Uuid::nil(), sender, receiver: None, timestamp: sequence as i64, content };
    record::encode(out, sequence, &Record { row, sender_username: "zoe" });
}

fn header(shard: u32, number: u32, first_sequence: u64, previous_end: usize) -> BytesMut {
    let header = Header { shard, number, first_sequence, previous_end: previous_end as u32 };
    BytesMut::from(&header.encode()[..])
}

/// A segment of an only run, with an end mark.
fn segment(shard: u32, number: u32, records: &[(u64, &str)]) -> BytesMut {
    let mut out = header(shard, number, records.first().map_or(1, |(sequence, _)| *sequence), 0);
    records.iter().for_each(|(sequence, text)| put(&mut out, *sequence, text));
    out.put_bytes(0, 8);
    out
}

fn texts(recovered: &Recovered) -> Vec<String> {
    let mut texts = Vec::new();
    for old in &recovered.segments {
        let mut count = 0;
        for range in &old.ranges {
            let bytes = old.read(range.clone()).unwrap();
            texts.extend(decode_all(&bytes).map(|record| record.row.content.to_owned()));
            count += record_bytes(&bytes);
        }
        assert_eq!(count, old.ranges.iter().map(|range| range.len()).sum::<usize>(), "whole records and nothing else");
    }
    assert_eq!(recovered.messages, texts.len() as u64);
    assert_eq!(recovered.messages, recovered.segments.iter().map(|old| old.messages).sum::<u64>());
    texts
}

fn record_bytes(bytes: &[u8]) -> usize {
    let len = |record: Record<'_>| record::encoded_len(record.sender_username.len(), record.row.content.len());
    decode_all(bytes).map(len).sum::<usize>().min(bytes.len())
}

/// Two segments of a run, as a crash leaves them. Behind the end of the first are bytes that could not be synced and were
/// written again to the second; the second was a segment before.
struct Pair {
    files: [Vec<u8>; 2],
    /// Where each record's bytes are that mean something, and its text.
    records: [Vec<(Range<usize>, &'static str)>; 2],
    /// Where the records of each end.
    ends: [usize; 2],
}

const NUMBERS: [u32; 2] = [4, 5];
const VOID: &str = "void";

impl Pair {
    fn new() -> Pair {
        let mut first = (header(0, NUMBERS[0], 101, 0), Vec::new());
        for (sequence, text) in (101..).zip(["one", "two and a half", "three", "", "five"]) {
            append(&mut first, sequence, text);
        }
        let end = first.0.len();
        append(&mut first, 106, VOID);

        let mut second = (header(0, NUMBERS[1], 106, end), Vec::new());
        for (sequence, text) in (106..).zip(["six, which was not held at first", "seven", "eight"]) {
            append(&mut second, sequence, text);
        }
        let mut files = [first.0, second.0].map(Vec::from);
        let ends = [end, files[1].len()];
        files[0].resize(FILE_BYTES, 0);
        let mut old = header(0, 1, 11, 0);
        (11..)
            .take_while(|sequence| {
                put(&mut old, *sequence, "of an earlier use");
                old.len() < FILE_BYTES
            })
            .for_each(drop);
        files[1].put_bytes(0, 8);
        let kept = files[1].len();
        files[1].extend_from_slice(&old[kept..FILE_BYTES]);
        Pair { files, records: [first.1, second.1], ends }
    }

    fn write(&self, folder: &Folder, files: &[Vec<u8>; 2]) {
        let _ = fs::remove_dir_all(folder.file("damaged"));
        (0..2).for_each(|i| folder.write(0, NUMBERS[i], &files[i]));
    }

    /// The texts that are to be found, where some bytes of the files are not as they were.
    fn expected(&self, is_harmed: impl Fn(usize, &Range<usize>) -> bool) -> Vec<String> {
        // Where the second's header is gone, nothing says that the last record of the first is void.
        let is_end_known = !is_harmed(1, &(0..HEADER_BYTES));
        let all = (0..2).flat_map(|file| self.records[file].iter().map(move |(range, text)| (file, range, *text)));
        let there = all.filter(|(file, range, text)| !(is_harmed(*file, range) || is_end_known && *text == VOID));
        there.map(|(.., text)| text.to_owned()).collect()
    }
}

fn append((out, records): &mut (BytesMut, Vec<(Range<usize>, &'static str)>), sequence: u64, text: &'static str) {
    let start = out.len();
    put(out, sequence, text);
    // Head, the fixed part of a body, name, text; then zeros.
    records.push((start..start + 16 + 80 + "zoe".len() + text.len(), text));
}

/// A second start finds what the first one found, and nothing that is torn; what was kept aside is as it was.
fn check_second(folder: &Folder, first: &Recovered, what: &str) {
    let kept = kept_aside(folder);
    let second = folder.recover();
    assert_eq!(second.segments, first.segments, "{what}");
    assert_eq!((texts(&second), second.torn_bytes), (texts(first), 0), "{what}");
    assert_eq!(kept_aside(folder), kept, "{what}");
}

fn kept_aside(folder: &Folder) -> BTreeMap<PathBuf, Vec<u8>> {
    let directory = folder.file("damaged");
    folder.contents().into_iter().filter(|(path, _)| path.starts_with(&directory)).collect()
}

fn names(contents: BTreeMap<PathBuf, Vec<u8>>) -> Vec<String> {
    contents.into_keys().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// What is kept aside is what stood in the files, and is all of it.
fn check_kept(files: &[Vec<u8>; 2], recovered: &Recovered, what: &str) {
    for damage in &recovered.damaged {
        let file = &files[usize::from(damage.path.ends_with(file_name(0, NUMBERS[1])))];
        let (start, end) = (damage.range.start as usize, damage.range.end as usize);
        let there = &file[start.min(file.len())..end.min(file.len())];
        let kept = damage.copy.as_ref().map(|copy| fs::read(copy).unwrap()).unwrap_or_default();
        assert_eq!(kept, there, "{what}");
    }
}

#[test]
fn a_whole_journal_is_recovered_as_it_is() {
    let (folder, pair) = (Folder::new(), Pair::new());
    pair.write(&folder, &pair.files);
    let before = folder.contents();
    let recovered = folder.recover();
    assert_eq!(texts(&recovered), pair.expected(|_, _| false));
    assert_eq!((recovered.next_number, recovered.next_sequence, recovered.newest), (6, 109, Some(108)));
    assert_eq!((recovered.messages, recovered.torn_bytes, recovered.damaged.len()), (8, 0, 0));
    assert_eq!(folder.contents(), before);
    check_second(&folder, &recovered, "whole");

    let [first, second] = recovered.segments.try_into().unwrap();
    assert_eq!((first.shard, first.number, first.messages, first.oldest, first.newest), (0, 4, 5, 101, 105));
    assert_eq!((second.shard, second.number, second.messages, second.oldest, second.newest), (0, 5, 3, 106, 108));
    assert_eq!(first.ranges.len(), 1);
    assert_eq!(first.ranges[0], 64..pair.ends[0] as u32);
    first.remove().unwrap();
    second.clone().remove().unwrap();
    second.remove().unwrap();
    assert!(folder.contents().is_empty());
    let nothing = folder.recover();
    assert_eq!((nothing.segments.len(), nothing.next_number, nothing.next_sequence, nothing.newest), (0, 1, 1, None));
}

#[test]
fn a_journal_cut_at_any_byte_keeps_what_is_before() {
    let (folder, pair) = (Folder::new(), Pair::new());
    for file in 0..2 {
        for cut in 0..=FILE_BYTES {
            let what = format!("segment {} cut at {cut}", NUMBERS[file]);
            let mut files = pair.files.clone();
            files[file].truncate(cut);
            pair.write(&folder, &files);
            let recovered = folder.recover();
            assert_eq!(texts(&recovered), pair.expected(|f, range| f == file && range.end > cut), "{what}");
            let (torn, damaged) = match file {
                0 => (0, usize::from(cut < pair.records[0][4].0.end)),
                _ => (torn_bytes(&pair, cut), 0),
            };
            assert_eq!((recovered.torn_bytes, recovered.damaged.len()), (torn, damaged), "{what}");
            check_kept(&files, &recovered, &what);
            check_second(&folder, &recovered, &what);
        }
    }
}

/// What of the second file's last record is there when it is cut.
fn torn_bytes(pair: &Pair, cut: usize) -> u64 {
    let ends = pair.records[1].iter().map(|(range, _)| range.end.next_multiple_of(8)).chain([HEADER_BYTES, 0]);
    let last = ends.filter(|end| *end <= cut).max().unwrap();
    let part = &pair.files[1][last..cut.min(pair.ends[1]).max(last)];
    let is_whole = pair.records[1].iter().any(|(range, _)| range.start == last && range.end <= cut);
    if is_whole { 0 } else { part.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1) }
}

#[test]
fn any_changed_byte_costs_its_own_record_alone() {
    let (folder, pair) = (Folder::new(), Pair::new());
    for file in 0..2 {
        for at in 0..FILE_BYTES {
            for change in [0xff, 0x01, 0x80, pair.files[file][at].max(1)] {
                let what = format!("byte {at} of segment {} ^ {change:#x}", NUMBERS[file]);
                let mut files = pair.files.clone();
                files[file][at] ^= change;
                pair.write(&folder, &files);
                let recovered = folder.recover();
                assert_eq!(texts(&recovered), pair.expected(|f, range| f == file && range.contains(&at)), "{what}");
                let kind = (recovered.torn_bytes > 0, recovered.damaged.len());
                assert_eq!(kind, harm(&pair, file, at), "{what}");
                check_kept(&files, &recovered, &what);
                check_second(&folder, &recovered, &what);
            }
        }
    }
}

/// Whether a byte's change looks torn, and how many places it damages.
fn harm(pair: &Pair, file: usize, at: usize) -> (bool, usize) {
    let record = pair.records[file].iter().find(|(range, _)| range.contains(&at));
    let is_mark = (pair.ends[1]..pair.ends[1] + 8).contains(&at);
    match (file, record) {
        _ if at < HEADER_BYTES => (false, 1),
        (0, Some((_, VOID))) => (false, 0),
        // Nothing is behind the last record of a journal: nothing tells a write that was cut off from a damaged one.
        (1, Some((_, "eight"))) => (true, 0),
        (_, Some(_)) => (false, 1),
        (_, None) => (file == 1 && is_mark, 0),
    }
}

#[test]
fn any_two_changed_bytes_cost_their_own_records_alone() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (folder, pair) = (Folder::new(), Pair::new());
    for _ in 0..3000 {
        let mut change =
            || (random.random_range(0..2), random.random_range(0..FILE_BYTES), random.random_range(1..=255u8));
        let changes = [change(), change()];
        let mut files = pair.files.clone();
        changes.iter().for_each(|(file, at, change)| files[*file][*at] ^= change);
        let is_changed = |file: usize, at: usize| files[file][at] != pair.files[file][at];
        pair.write(&folder, &files);
        let what = format!("{changes:?}");
        let recovered = match recover(&Place::take(&folder.0).unwrap()) {
            // Two changed bytes of a header can make it look newer.
            Err(JournalError::Newer { .. }) => {
                let is_version = |(file, at, _): &(usize, _, _)| changes[0].0 == *file && (8..12).contains(at);
                assert!(
                    changes.iter().any(is_version) && changes.iter().all(|(_, at, _)| *at < HEADER_BYTES),
                    "{what}"
                );
                continue;
            }
            recovered => recovered.unwrap(),
        };
        let is_harmed = |file, range: &Range<usize>| range.clone().any(|at| is_changed(file, at));
        assert_eq!(texts(&recovered), pair.expected(is_harmed), "{what}");
        check_kept(&files, &recovered, &what);
        check_second(&folder, &recovered, &what);
    }
}

#[test]
fn what_was_void_stays_void_when_its_successor_goes() {
    let (folder, pair) = (Folder::new(), Pair::new());
    let mut files = pair.files.clone();
    files[1].truncate(HEADER_BYTES + 50);
    pair.write(&folder, &files);
    for _ in 0..2 {
        assert_eq!(texts(&folder.recover()), ["one", "two and a half", "three", "", "five"]);
        assert!(!folder.file(&file_name(0, NUMBERS[1])).exists());
    }
}

#[test]
fn what_an_earlier_use_left_stays_out_even_without_a_header() {
    let (folder, pair) = (Folder::new(), Pair::new());
    let mut files = pair.files.clone();
    files[1][..pair.ends[1]].fill(0xff);
    pair.write(&folder, &files);
    let recovered = folder.recover();
    assert_eq!(texts(&recovered), ["one", "two and a half", "three", "", "five", VOID]);
    assert_eq!(recovered.damaged.len(), 1);
    check_kept(&files, &recovered, "no header, no records");
}

#[test]
fn a_segment_with_a_successor_was_used_whatever_it_begins_with() {
    let folder = Folder::new();
    let first = segment(0, 1, &[(1, "one")]);
    let mut second = segment(0, 2, &[(2, "two"), (3, "three")]);
    let end = second.len() - 8;
    // The first part of the file is still as the first segment of all left it.
    second[..168].copy_from_slice(&segment(0, 0, &[(0, "old")])[..168]);
    let mut third = header(0, 3, 4, end);
    put(&mut third, 4, "four");
    (1..).zip([first, second, third]).for_each(|(number, bytes)| folder.write(0, number, &bytes));
    let recovered = folder.recover();
    assert_eq!(texts(&recovered), ["one", "three", "four"]);
    assert_eq!((recovered.damaged.len(), recovered.damaged[0].range.clone()), (1, 0..168));
    check_second(&folder, &recovered, "the same");
}

#[test]
fn files_without_records_go_and_strangers_stay() {
    let folder = Folder::new();
    let keep = segment(1, 7, &[(70, "kept")]);
    folder.write(1, 7, &keep);
    folder.write(1, 8, &[0; FILE_BYTES]);
    folder.write(1, 9, &[]);
    folder.write(1, 10, &segment(1, 3, &[(30, "of an earlier use")]));
    folder.write(0, 12, &segment(0, 12, &[]));
    fs::write(folder.file("0001-7.journal"), "a stranger").unwrap();
    fs::write(folder.file("notes.txt"), "a stranger").unwrap();
    fs::create_dir(folder.file(&file_name(1, 11))).unwrap();

    let recovered = folder.recover();
    assert_eq!(texts(&recovered), ["kept"]);
    assert_eq!((recovered.next_number, recovered.next_sequence), (13, 71), "above all that was there");
    assert_eq!((recovered.torn_bytes, recovered.damaged.len()), (0, 0));
    let names = names(folder.contents());
    assert_eq!(names, ["0001-0000000007.journal", "0001-7.journal", "notes.txt"]);
}

#[test]
fn segments_come_by_shard_and_number_with_the_newest_of_all() {
    let folder = Folder::new();
    folder.write(2, 1, &segment(2, 1, &[(900, "c")]));
    folder.write(0, 11, &segment(0, 11, &[(40, "b")]));
    folder.write(0, 2, &segment(0, 2, &[(7, "a"), (9, "a too")]));
    let recovered = folder.recover();
    assert_eq!(texts(&recovered), ["a", "a too", "b", "c"]);
    assert_eq!((recovered.next_number, recovered.next_sequence, recovered.newest), (12, 901, Some(900)));
}

#[test]
fn a_segment_of_an_earlier_run_may_be_torn_too() {
    let folder = Folder::new();
    let mut torn = segment(0, 1, &[(1, "one"), (2, "two")]);
    torn.truncate(200);
    folder.write(0, 1, &torn);
    folder.write(0, 2, &segment(0, 2, &[(3, "three")]));
    let recovered = folder.recover();
    assert_eq!((texts(&recovered), recovered.torn_bytes), (vec!["one".to_owned(), "three".to_owned()], 200 - 168));
    assert_eq!(folder.file(&file_name(0, 1)).metadata().unwrap().len(), 168);
}

#[test]
fn other_damage_at_the_same_place_is_kept_beside_the_first() {
    let folder = Folder::new();
    for (byte, copies) in [(1, 1), (1, 1), (2, 2), (1, 2), (2, 2), (3, 3)] {
        let mut bytes = segment(0, 1, &[(1, "one"), (2, "two")]);
        bytes[64..168].fill(byte);
        folder.write(0, 1, &bytes);
        let recovered = folder.recover();
        let copy = recovered.damaged[0].copy.as_ref().unwrap();
        assert_eq!(fs::read(copy).unwrap(), vec![byte; 104]);
        assert_eq!(kept_aside(&folder).len(), copies);
    }
    let names = names(kept_aside(&folder));
    let name = "0000-0000000001.journal-64";
    assert_eq!(names, [name.to_owned(), format!("{name}-2"), format!("{name}-3")]);
}

/// A segment that a later version wrote.
fn newer() -> BytesMut {
    let mut bytes = segment(0, 5, &[(9, "nine")]);
    bytes[8] = 2;
    bytes[12..16].fill(7);
    bytes
}

#[test]
fn a_newer_version_is_refused_with_nothing_changed() {
    let folder = Folder::new();
    let mut torn = segment(0, 4, &[(1, "one"), (2, "two"), (3, "three")]);
    torn[100] ^= 1;
    torn.truncate(300);
    folder.write(0, 3, &[]);
    folder.write(0, 4, &torn);
    folder.write(0, 5, &newer());
    let before = folder.contents();
    let error = recover(&Place::take(&folder.0).unwrap()).unwrap_err();
    assert!(matches!(&error, JournalError::Newer { version: 2, .. }));
    let failure = Failure::from(error);
    assert_eq!(failure.exit_code(), 2);
    let message = failure.to_string();
    assert!(message.contains("0000-0000000005.journal") && message.contains("format 2"), "{message}");
    assert_eq!(folder.contents(), before);
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_what_to_do() {
    let folder = Folder::new();
    folder.write(0, 1, &segment(0, 1, &[(1, "one")]));
    let place = Place::take(&folder.0).unwrap();
    let recovered = recover(&place).unwrap();
    fs::remove_file(&recovered.segments[0].path).unwrap();
    let message = recovered.segments[0].read(64..168).unwrap_err().to_string();
    assert!(message.starts_with("cannot read ") && message.contains("0000-0000000001.journal"), "{message}");
}

#[test]
fn a_journal_is_made_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let data_dir = folder.0.join("not/yet/there");
    let place = Place::take(&data_dir).unwrap();
    assert_eq!(place.directory(), data_dir.join("journal"));
    assert_eq!(place.directory().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::read_to_string(place.directory().join("lock")).unwrap().trim(), process::id().to_string());
}

const HOLD: &str = "RINGROOM_TEST_HOLD";

/// The other process of the next test; nothing by itself.
#[test]
fn holds_a_place_when_told() {
    if let Ok(data_dir) = env::var(HOLD) {
        let place = Place::take(Path::new(&data_dir));
        println!("\nheld: {}", place.is_ok());
        thread::sleep(DEADLINE);
    }
}

#[test]
fn a_second_server_is_told_of_the_first_and_gets_its_place_when_it_dies() {
    let folder = Folder::new();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "holds_a_place_when_told", "--nocapture"]).env(HOLD, &folder.0);
    let mut first = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.find(|line| line.starts_with("held: ")).as_deref(), Some("held: true"));

    let error = Place::take(&folder.0).unwrap_err();
    assert!(matches!(error, JournalError::InUse { pid: Some(pid), .. } if pid == first.id()), "{error}");
    let failure = Failure::from(error);
    let words = format!("is in use by process {}: one server a data directory", first.id());
    assert!(failure.to_string().contains(&words) && failure.exit_code() == 2, "{failure}");
    let told = ringroom(&folder, &["inspect"]);
    assert!(told.errors.contains(&format!("process {} ", first.id())), "{told:?}");

    first.kill().unwrap();
    first.wait().unwrap();
    let until = Instant::now() + DEADLINE;
    while Place::take(&folder.0).is_err() {
        assert!(Instant::now() < until, "the lock outlives its owner");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ringroom(&folder, &["inspect"]).errors, "", "the lock file is there, and nobody has it");
}

#[derive(Debug)]
struct Told {
    code: Option<i32>,
    printed: String,
    errors: String,
}

/// Runs `ringroom journal`, and sees to it that nothing was changed.
fn ringroom(folder: &Folder, arguments: &[&str]) -> Told {
    let before = folder.contents();
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &DEADLINE.as_secs().to_string(), env!("CARGO_BIN_EXE_ringroom"), "journal"]);
    let ours = env::vars().map(|(name, _)| name).filter(|name| name.starts_with("RINGROOM_"));
    ours.chain(["DATABASE_URL".to_owned()]).for_each(|name| {
        command.env_remove(name);
    });
    command.args(arguments).arg("--data-dir").arg(&folder.0).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(folder.contents(), before, "{arguments:?} changed something");
    let [printed, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    Told { code: output.status.code(), printed, errors }
}

/// A journal with a damaged and a torn segment, and one that is ready.
fn harmed() -> Folder {
    let folder = Folder::new();
    let mut damaged = segment(0, 1, &[(1, "one"), (2, "two"), (3, "three")]);
    damaged[170] ^= 1;
    let mut torn = segment(0, 2, &[(4, "four"), (5, "five")]);
    torn.truncate(200);
    folder.write(0, 1, &damaged);
    folder.write(0, 2, &torn);
    folder.write(0, 3, &segment(0, 1, &[(1, "one")]));
    folder
}

#[test]
fn inspecting_shows_each_segment() {
    let told = ringroom(&harmed(), &["inspect"]);
    let expected = "\
0000-0000000001.journal  2 messages, sequences 1 to 3, 376 bytes, 1970-01-01T00:00:00.000001Z to 1970-01-01T00:00:00.000003Z
  0000-0000000001.journal: damaged, 104 bytes at 168
0000-0000000002.journal  1 message, sequences 4 to 4, 168 bytes, 1970-01-01T00:00:00.000004Z to 1970-01-01T00:00:00.000004Z
  0000-0000000002.journal: torn, 32 bytes at 168
0000-0000000003.journal  made ready, not used yet
3 messages in 2 segments, 2 places cannot be read
";
    assert_eq!((told.code, told.printed.as_str(), told.errors.as_str()), (Some(0), expected, ""));

    let folder = harmed();
    let told = ringroom(&folder, &["inspect", "--json"]);
    let answer: Value = serde_json::from_str(&told.printed).unwrap();
    assert_eq!((told.code, told.printed.lines().count()), (Some(0), 1));
    let first = json!({
        "file": "0000-0000000001.journal", "shard": 0, "number": 1, "messages": 2, "first_sequence": 1, "last_sequence": 3,
        "bytes": 376, "oldest": "1970-01-01T00:00:00.000001Z", "newest": "1970-01-01T00:00:00.000003Z",
        "damaged": [{"offset": 168, "bytes": 104}], "torn": null,
    });
    assert_eq!(answer["segments"][0], first);
    assert_eq!(answer["segments"][1]["torn"], json!({"offset": 168, "bytes": 32}));
    assert_eq!(answer["ready"], json!(["0000-0000000003.journal"]));
    assert_eq!((&answer["messages"], &answer["problems"], &answer["in_use_by"]), (&json!(3), &json!(2), &json!(null)));
    assert_eq!(answer["directory"], json!(folder.0.join("journal")));
}

#[test]
fn inspecting_lists_the_messages() {
    let told = ringroom(&harmed(), &["inspect", "--messages"]);
    let lines: Vec<Value> = told.printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<_> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert_eq!((told.code, texts), (Some(0), vec!["one", "three", "four"]));
    let expected = json!({
        "id": Uuid::from_u128(1), "room": Uuid::nil(), "sender": "1", "receiver": null,
        "timestamp": "1970-01-01T00:00:00.000001Z", "text": "one",
    });
    assert_eq!(lines[0], expected);
    assert_eq!(told.errors.lines().count(), 2, "what is not listed is told: {}", told.errors);
}

#[test]
fn verifying_tells_whole_from_harmed_from_unreadable() {
    let folder = Folder::new();
    folder.write(0, 1, &segment(0, 1, &[(1, "one")]));
    let told = ringroom(&folder, &["verify"]);
    let whole = "whole: 1 message in 1 segment\n";
    assert_eq!((told.code, told.printed.as_str(), told.errors.as_str()), (Some(0), whole, ""));

    let folder = harmed();
    let told = ringroom(&folder, &["verify"]);
    let problems =
        "0000-0000000001.journal: damaged, 104 bytes at 168\n0000-0000000002.journal: torn, 32 bytes at 168\n";
    assert_eq!((told.code, told.printed.as_str()), (Some(1), problems));
    assert_eq!(told.errors.lines().count(), 1, "{}", told.errors);
    let told = ringroom(&folder, &["verify", "--json"]);
    let problems = json!([
        {"file": "0000-0000000001.journal", "kind": "damaged", "offset": 168, "bytes": 104},
        {"file": "0000-0000000002.journal", "kind": "torn", "offset": 168, "bytes": 32},
    ]);
    let answer: Value = serde_json::from_str(&told.printed).unwrap();
    assert_eq!((told.code, answer), (Some(1), json!({"whole": false, "messages": 3, "problems": problems})));

    folder.write(0, 5, &newer());
    let missing = Folder::new();
    fs::remove_dir(missing.file("")).unwrap();
    for (folder, words) in [(folder, "format 2"), (missing, "--data-dir")] {
        for command in ["verify", "inspect"] {
            let told = ringroom(&folder, &[command]);
            assert_eq!((told.code, told.printed.as_str(), told.errors.lines().count()), (Some(2), "", 1), "{told:?}");
            assert!(told.errors.contains(words), "{told:?}");
        }
    }
}
