//! Messages that the database refused after they had been broadcast: their letters are kept, whatever happens to the
//! process or the disk, come back into the table when the database takes them, and go when somebody says so.
//!
//! On every database: SQLite, Postgres as ringroom migrates it, and Postgres as a Django application made it, with user
//! ids of type uuid and bigint.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rand::RngExt;
use ringroom::{
    dead_letters::{
        DeadLetters,
        file::{LetterFile, Verdict},
        letter::Letter,
    },
    identity::{RoomId, UserId},
    journal::record::Record,
    store::{Database, InsertError, Names, Row, Saved, Writer},
};
use serde_json::{Value, json};
use support::{
    DEADLINE,
    place::{Person, Place},
    postgres, random,
    server::Server,
};
use uuid::Uuid;

const NOON: i64 = 1_704_110_400_123_456;

fn row<'a>(room: RoomId, sender: UserId, content: &'a str) -> Row<'a> {
    Row { id: Uuid::now_v7(), room, sender, receiver: None, timestamp: NOON, content }
}

fn record<'a>(row: Row<'a>) -> Record<'a> {
    Record { row, sender_username: "ann" }
}

/// Adds a letter for each row.
fn append(folder: &Path, rows: &[Row<'_>]) {
    let records: Vec<Record<'_>> = rows.iter().copied().map(record).collect();
    let refused: Vec<_> = records.iter().map(|record| (record, "refused at first")).collect();
    assert_eq!(DeadLetters::open(folder).unwrap().append(&refused).unwrap(), rows.len());
}

fn file(folder: &Path) -> PathBuf {
    folder.join("dead-letters.jsonl")
}

fn letters(folder: &Path) -> Vec<Letter> {
    let lines = LetterFile::of(folder).lines().unwrap().into_iter().flatten();
    lines.map(|line| line.unwrap().letter.unwrap()).collect()
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringroom");

/// `ringroom dead-letters` on a database and a data directory; it is to end by itself, and soon.
fn command(url: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &DEADLINE.as_secs().to_string(), PROGRAM]);
    set_up(command, url, folder, arguments)
}

fn set_up(mut command: Command, url: &str, folder: &Path, arguments: &[&str]) -> Command {
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("RINGROOM_") || name == "DATABASE_URL") {
        command.env_remove(name);
    }
    command.env("RINGROOM_DATABASE_URL", url).stdin(Stdio::null());
    command.arg("dead-letters").args(arguments).arg("--data-dir").arg(folder);
    command
}

/// Removes one letter, as `ringroom dead-letters drop` does.
fn remove(folder: &Path, id: Uuid) -> usize {
    let verdict = |letter: &Letter| if letter.id == id { Verdict::Remove } else { Verdict::Keep };
    LetterFile::of(folder).rewrite(verdict).unwrap()
}

fn run(place: &Place, arguments: &[&str]) -> Output {
    command(&place.url, place.folder(), arguments).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(place: &Place, arguments: &[&str]) -> String {
    let output = run(place, arguments);
    assert!(output.status.success(), "{}, {arguments:?}: {}", place.kind, errors(&output));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn answer(place: &Place, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(place, &[arguments, &["--json"]].concat())).unwrap()
}

fn retry(place: &Place) -> Value {
    answer(place, &["retry", "--all"])
}

fn as_saved(row: &Row<'_>, sender: &Person) -> Saved {
    Saved {
        id: row.id,
        sender: row.sender,
        sender_username: sender.name.as_str().into(),
        receiver: row.receiver,
        timestamp: row.timestamp,
        content: row.content.into(),
    }
}

#[test]
fn letters_come_back_into_the_table_once_it_takes_them() {
    for mut place in Place::everywhere("retrying dead letters") {
        let kind = place.kind;
        let [ann, bob] = place.people(["ann", "bob"]);
        let (there, missing) = (place.room([&ann, &bob]), RoomId::new_v4());
        let mut rows =
            [row(missing, ann.id, "one\n\u{1f600}"), row(there, bob.id, "two"), row(missing, bob.id, "three")];
        rows[0].receiver = Some(bob.id);
        rows[2].timestamp = NOON + 1;
        append(place.folder(), &rows);

        assert_eq!(retry(&place), json!({"saved": 1, "refused": 2}), "{kind}");
        assert_eq!(place.saved(there), [as_saved(&rows[1], &bob)], "{kind}");
        let left = letters(place.folder());
        assert_eq!(left.iter().map(Letter::row).collect::<Vec<_>>(), [rows[0], rows[2]], "{kind}");
        assert!(left.iter().all(|letter| letter.reason != "refused at first"), "{kind}: {left:?}");
        let told = text(&place, &["retry", &rows[0].id.to_string()]);
        assert!(told.starts_with("saved 0; still refused 1"), "{kind}: {told}");

        place.room_with_id(missing, [&ann, &bob]);
        assert_eq!(answer(&place, &["retry", &rows[2].id.to_string()]), json!({"saved": 1, "refused": 0}), "{kind}");
        // As if the one before had been killed between the database and the file.
        let before = fs::read(file(place.folder())).unwrap();
        assert_eq!(retry(&place), json!({"saved": 1, "refused": 0}), "{kind}");
        fs::write(file(place.folder()), before).unwrap();
        assert_eq!(retry(&place), json!({"saved": 1, "refused": 0}), "{kind}");
        assert_eq!(place.saved(missing), [as_saved(&rows[0], &ann), as_saved(&rows[2], &bob)], "{kind}");
        assert_eq!(fs::read(file(place.folder())).unwrap(), b"", "{kind}");
        assert_eq!(text(&place, &["retry", "--all"]), "there are no dead letters");
    }
}

#[test]
fn letters_are_retried_and_dropped_beside_a_running_server() {
    for mut place in Place::everywhere("retrying beside a server") {
        let ann = place.person("ann");
        let room = place.room([&ann]);
        append(place.folder(), &[row(room, ann.id, "late"), row(RoomId::nil(), ann.id, "lost")]);
        let server = Server::start(&place, &[]);
        assert_eq!(retry(&place), json!({"saved": 1, "refused": 1}), "{}", place.kind);
        assert_eq!(answer(&place, &["drop", "--all"]), json!({"dropped": 1}), "{}", place.kind);
        server.stop();
        assert_eq!(place.texts(room), ["late"], "{}", place.kind);
    }
}

#[test]
fn letters_are_listed_whole_or_at_a_glance() {
    let place = Place::sqlite();
    assert_eq!((text(&place, &["list"]).as_str(), file(place.folder()).exists()), ("", false));
    let long = "x\u{1b}[2J".to_owned() + &"y".repeat(100);
    let rows = [row(RoomId::nil(), UserId::Int(i64::MAX), &long), row(RoomId::nil(), UserId::Uuid(Uuid::max()), "b")];
    append(place.folder(), &rows);
    let listed = answer(&place, &["list"]);
    let [first, second] = listed["letters"].as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!((&first["text"], &first["sender"], &first["receiver"]), (&json!(long), &json!(i64::MAX), &Value::Null));
    assert_eq!((&second["sender"], &second["timestamp"]), (&json!(Uuid::max()), &json!("2024-01-01T12:00:00.123456Z")));
    assert_eq!(listed["unreadable"], json!([]));

    let lines = text(&place, &["list"]);
    let first = lines.lines().next().unwrap();
    for part in [rows[0].id.to_string(), rows[0].room.to_string(), "ann".into(), "refused at first".into()] {
        assert!(first.contains(&part), "{first} lacks {part}");
    }
    assert!(first.ends_with("y…") && !lines.contains('\u{1b}') && lines.lines().count() == 2, "{lines}");
}

#[test]
fn what_is_dropped_must_be_named() {
    let place = Place::sqlite();
    let rows = ["a", "b", "c"].map(|text| row(RoomId::nil(), UserId::Int(1), text));
    append(place.folder(), &rows);
    let (first, stranger) = (rows[0].id.to_string(), Uuid::new_v4().to_string());
    for arguments in [
        &["drop"][..],
        &["retry"],
        &["drop", "--all", &first],
        &["drop", "no-id"],
        &["drop", &first, &stranger],
        &["retry", &stranger],
    ] {
        assert_eq!(run(&place, arguments).status.code(), Some(2), "{arguments:?}");
        assert_eq!(letters(place.folder()).len(), 3, "{arguments:?}");
    }
    assert_eq!(text(&place, &["drop", &first, &first]), "dropped 1");
    assert_eq!(letters(place.folder()).iter().map(Letter::row).collect::<Vec<_>>(), rows[1..]);
    assert_eq!(answer(&place, &["drop", "--all"]), json!({"dropped": 2}));
    assert_eq!(answer(&place, &["drop", "--all"]), json!({"dropped": 0}));
}

#[test]
fn lines_that_are_no_letters_are_told_and_kept() {
    let mut place = Place::sqlite();
    let ann = place.person("ann");
    let room = place.room([&ann]);
    append(place.folder(), &[row(room, ann.id, "one")]);
    let whole = fs::read_to_string(file(place.folder())).unwrap();
    let torn = &whole[..whole.len() / 2];
    fs::write(file(place.folder()), format!("{whole}{torn}")).unwrap();
    append(place.folder(), &[row(room, ann.id, "two")]);

    let told = |arguments: &[&str]| {
        let output = run(&place, arguments);
        assert!(output.status.success(), "{}", errors(&output));
        assert!(errors(&output).contains("line 2 of") && !errors(&output).contains("line 1 "), "{}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let listed: Value = serde_json::from_str(&told(&["list", "--json"])).unwrap();
    assert_eq!((listed["letters"].as_array().unwrap().len(), &listed["unreadable"][0]["line"]), (2, &json!(2)));
    assert_eq!(told(&["retry", "--all", "--json"]).trim(), r#"{"refused":0,"saved":2}"#);
    assert_eq!(fs::read_to_string(file(place.folder())).unwrap(), format!("{torn}\n"));
    assert_eq!(place.texts(room).len(), 2);
}

#[test]
fn while_the_database_is_away_nothing_changes() {
    let place = Place::sqlite();
    append(place.folder(), &[row(RoomId::nil(), UserId::Int(1), "kept")]);
    let before = fs::read(file(place.folder())).unwrap();
    for (url, code) in [("postgres://ann:SECRET@127.0.0.1:1/chat", 1), ("sqlite:/nowhere/chat.db", 2)] {
        let output = command(url, place.folder(), &["retry", "--all"]).output().unwrap();
        let errors = errors(&output);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{errors}");
        assert!(errors.lines().count() == 1 && !errors.contains("SECRET"), "{errors}");
        assert_eq!(fs::read(file(place.folder())).unwrap(), before);
    }
}

#[test]
fn a_retry_that_is_killed_loses_nothing_and_saves_nothing_twice() {
    const LETTERS: usize = 400;
    let mut random = random();
    for mut place in Place::everywhere("killing a retry") {
        let ann = place.person("ann");
        let (room, missing) = (place.room([&ann]), RoomId::new_v4());
        let texts: Vec<String> = (0..LETTERS).map(|nth| format!("{nth:03}")).collect();
        // Every eighth is refused, so that a retry takes many transactions.
        let room_of = |nth: usize| if nth.is_multiple_of(8) { missing } else { room };
        let rows: Vec<Row<'_>> = (0..LETTERS)
            .map(|nth| Row { timestamp: NOON + nth as i64, ..row(room_of(nth), ann.id, &texts[nth]) })
            .collect();
        append(place.folder(), &rows);
        for _ in 0..8 {
            let mut program = set_up(Command::new(PROGRAM), &place.url, place.folder(), &["retry", "--all"]);
            let mut child = program.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            thread::sleep(Duration::from_millis(random.random_range(5..120)));
            let _ = child.kill();
            child.wait().unwrap();
            let held = letters(place.folder()).len();
            assert!(held >= LETTERS / 8, "{}: {held}", place.kind);
        }
        retry(&place);
        assert_eq!(letters(place.folder()).len(), LETTERS / 8, "{}", place.kind);
        place.room_with_id(missing, [&ann]);
        assert_eq!(retry(&place), json!({"saved": LETTERS / 8, "refused": 0}), "{}", place.kind);
        let mut all = [place.texts(room), place.texts(missing)].concat();
        all.sort_unstable();
        assert_eq!(all, texts, "{}", place.kind);
    }
}

#[test]
fn letters_that_come_while_others_go_are_not_lost() {
    const LETTERS: usize = 600;
    const BY_PROCESSES: usize = 40;
    let place = Place::sqlite();
    let folder = place.folder();
    let (sender, ids) = mpsc::channel::<Uuid>();
    let (done, to_process) = mpsc::channel::<Uuid>();
    let (kept, removed) = thread::scope(|scope| {
        let appending = scope.spawn(move || {
            let mut letters = DeadLetters::open(folder).unwrap();
            let (mut kept, mut removed) = (Vec::new(), 0);
            for nth in 0..LETTERS {
                let record = record(row(RoomId::nil(), UserId::Int(nth as i64), "text"));
                assert_eq!(letters.append(&[(&record, "no")]).unwrap(), 1);
                match nth % 3 {
                    0 => kept.push(record.row.id),
                    1 => sender.send(record.row.id).unwrap(),
                    _ if removed < BY_PROCESSES => {
                        removed += 1;
                        done.send(record.row.id).unwrap();
                    }
                    _ => kept.push(record.row.id),
                }
            }
            kept
        });
        let thread = scope.spawn(move || ids.into_iter().map(|id| remove(folder, id)).sum::<usize>());
        let url = &place.url;
        let processes = scope.spawn(move || {
            let drop = |id: Uuid| {
                let output = command(url, folder, &["drop", &id.to_string()]).output().unwrap();
                assert!(output.status.success(), "{}", errors(&output));
                1
            };
            to_process.into_iter().map(drop).sum::<usize>()
        });
        (appending.join().unwrap(), thread.join().unwrap() + processes.join().unwrap())
    });
    assert_eq!(letters(folder).iter().map(|letter| letter.id).collect::<Vec<_>>(), kept);
    assert_eq!(removed, LETTERS - kept.len());
}

/// A limit on the size of files stands for a full disk. It holds for a process, so this test runs itself in one.
#[test]
fn a_full_disk_leaves_whole_letters_and_takes_the_next_when_there_is_room() {
    const NAME: &str = "a_full_disk_leaves_whole_letters_and_takes_the_next_when_there_is_room";
    let Some(folder) = env::var_os("RINGROOM_TEST_FULL_DISK") else {
        let place = Place::sqlite();
        let mut command = Command::new("bash");
        command.args(["-c", "trap '' XFSZ; ulimit -S -f 4; exec \"$0\" --exact \"$1\" --nocapture"]);
        command.arg(env::current_exe().unwrap()).arg(NAME).env("RINGROOM_TEST_FULL_DISK", place.folder());
        let output = command.output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
        return;
    };
    let folder = PathBuf::from(folder);
    let mut dead = DeadLetters::open(&folder).unwrap();
    let text = "x".repeat(900);
    let records: Vec<_> = (0..6).map(|nth| record(row(RoomId::nil(), UserId::Int(nth), &text))).collect();
    let refused: Vec<_> = records.iter().map(|record| (record, "no")).collect();
    assert_eq!(dead.append(&refused[..2]).unwrap(), 2);
    let before = fs::read(file(&folder)).unwrap();
    for _ in 0..3 {
        // Two fit and the third does in part: a batch is added whole or not at all.
        dead.append(&refused[2..]).unwrap_err();
        assert_eq!(fs::read(file(&folder)).unwrap(), before);
    }
    assert_eq!(dead.append(&refused[1..3]).unwrap(), 1);
    dead.append(&refused[3..]).unwrap_err();

    // To keep them all and say more of each takes room that is not there: the file stays as it is.
    let longer = "reason".repeat(400);
    let verdict = |_: &Letter| Verdict::KeepWith(longer.clone());
    LetterFile::of(&folder).rewrite(verdict).unwrap_err();
    assert!(!folder.join("dead-letters.jsonl.new").exists());
    assert_eq!(remove(&folder, records[0].row.id), 1);
    assert_eq!(dead.append(&refused[3..4]).unwrap(), 1);
    assert_eq!(letters(&folder).iter().map(Letter::row).collect::<Vec<_>>(), [1, 2, 3].map(|nth| records[nth].row));
}

fn insert(url: &str, rows: &[Row<'_>]) -> Result<(), InsertError> {
    let url = url.parse().unwrap();
    let database = Database { url, names: Names::default(), connect_timeout: DEADLINE, query_timeout: DEADLINE };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Writer::open(&database).await.unwrap().insert(rows).await })
}

#[test]
fn messages_of_rooms_and_people_that_are_gone_are_refused_for_good() {
    for mut place in Place::everywhere("refused rows") {
        let kind = place.kind;
        let [ann, bob] = place.people(["ann", "bob"]);
        let (kept, gone) = (place.room([&ann, &bob]), place.room([&ann]));
        insert(&place.url, &[row(gone, ann.id, "before"), row(kept, bob.id, "before")]).unwrap();
        place.sql(&format!(
            "DELETE FROM chat_message;
             DELETE FROM chat_chatroom_members WHERE chatroom_id = '{gone}';
             DELETE FROM chat_chatroom WHERE id = '{gone}';
             DELETE FROM chat_chatroom_members WHERE user_id = '{bob}';
             DELETE FROM authtoken_token WHERE user_id = '{bob}';
             DELETE FROM account_user WHERE id = '{bob}';",
            bob = bob.id,
        ));
        let to_bob = Row { receiver: Some(bob.id), ..row(kept, ann.id, "to bob") };
        for bad in [row(gone, ann.id, "room gone"), row(kept, bob.id, "sender gone"), to_bob] {
            let error = insert(&place.url, &[row(kept, ann.id, "good"), bad]).unwrap_err();
            assert!(matches!(error, InsertError::Refused(_)), "{kind}, {}: {error:?}", bad.content);
            assert!(!error.text().contains(bad.content), "{kind}: {error}");
        }
        assert_eq!(place.texts(kept), [""; 0], "{kind}");
    }
}

#[test]
fn a_text_that_the_databases_encoding_cannot_hold_is_refused_for_good() {
    let Some(cluster) = postgres::shared("a LATIN1 database") else { return };
    let make = "CREATE DATABASE latin_letters ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    postgres::execute(&cluster.url(), make).unwrap();
    let mut place = Place::postgres(cluster.url().replace("/postgres", "/latin_letters"));
    let ann = place.person("ann");
    let room = place.room([&ann]);
    let rows = ["caf\u{e9}", "\u{1f600}", "plain"].map(|text| row(room, ann.id, text));
    let error = insert(&place.url, &rows).unwrap_err();
    assert!(matches!(&error, InsertError::Refused(text) if text.contains("22P05")), "{error:?}");

    append(place.folder(), &rows);
    assert_eq!(retry(&place), json!({"saved": 2, "refused": 1}));
    assert!(letters(place.folder())[0].reason.contains("22P05"));
    let mut texts = place.texts(room);
    texts.sort_unstable();
    assert_eq!(texts, ["caf\u{e9}", "plain"]);
}
