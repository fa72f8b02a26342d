//! A running server's journal comes to harm, or is wanted by a second server, or was written by a later version: each costs
//! what it must and no more, and the operator is told.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use ringroom::{
    journal::segment::{Header, file_name},
    store::SeededRoom,
};
use support::{
    DEADLINE,
    client::Client,
    hold::Hold,
    place::Place,
    server::{Ended, Server},
};

/// Waits until the room's table holds so many messages, and says which.
fn saved(place: &Place, room: uuid::Uuid, count: usize) -> Vec<String> {
    let until = Instant::now() + DEADLINE;
    loop {
        let texts = place.texts(room);
        if texts.len() >= count {
            return texts;
        }
        assert!(Instant::now() < until, "only {} of {count} are saved", texts.len());
        sleep(Duration::from_millis(20));
    }
}

/// Every file of the journal but the lock, and of what is below it.
fn files(journal: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let list = |directory: PathBuf| fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path());
    let all = list(journal.into()).chain(list(journal.join("damaged")));
    let all = all.filter(|path| path.is_file() && !path.ends_with("lock"));
    all.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

#[test]
fn a_record_that_is_harmed_before_it_is_saved_is_kept_aside_and_all_others_are_saved() {
    let mut place = Place::sqlite();
    let rooms = place.seed(1, 2);
    let (room, users) = (rooms[0].room, &rooms[0].users);
    let server = Server::start(&place, &["--shards", "1", "--database-query-timeout-seconds", "1"]);
    let mut clients = [0, 1].map(|user| Client::join(server.address, room, &users[user].token));
    let mut say = |text: &str| {
        clients[0].say(text);
        clients.iter_mut().for_each(|client| assert_eq!(client.hears(), text));
    };

    let lock = Hold::writers_of(&place);
    say("the first");
    // The writer has read it, and reads no further before it is saved.
    server.wait_for_log("the database is away");
    let texts: Vec<_> = (2..12).map(|number| format!("message {number} of twelve")).collect();
    texts.iter().for_each(|text| say(text));
    let path = place.folder().join("journal").join(file_name(0, 1));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(texts[4].len()).position(|bytes| bytes == texts[4].as_bytes()).unwrap();
    bytes[at] = b'M';
    fs::write(&path, bytes).unwrap();
    drop(lock);

    let mut expected = vec!["the first".to_owned()];
    expected.extend(texts.iter().filter(|text| **text != texts[4]).cloned());
    assert_eq!(saved(&place, room, expected.len()), expected);
    say("and all goes on");
    expected.push("and all goes on".into());
    assert_eq!(saved(&place, room, expected.len()), expected);
    drop(clients);

    let ended = server.stop();
    assert_eq!(ended.counter("journal_damaged"), 1, "{}", ended.log);
    assert_eq!(ended.log.matches("does not read back as it was written").count(), 1, "{}", ended.log);
    assert!(!ended.log.contains("of twelve"), "a message's text is in the log");
    let left = files(&place.folder().join("journal"));
    let [(path, bytes)] = left.iter().collect::<Vec<_>>()[..] else { panic!("{:?}", left.keys()) };
    assert!(path.parent().unwrap().ends_with("damaged"), "{path:?}");
    let kept = texts[4].replacen('m', "M", 1);
    assert!(bytes.windows(kept.len()).any(|bytes| bytes == kept.as_bytes()));
}

/// A server that must not start.
fn refused(place: &Place) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringroom"));
    for (name, _) in env::vars().filter(|(name, _)| name.starts_with("RINGROOM_") || name == "DATABASE_URL") {
        command.env_remove(name);
    }
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(place.folder());
    command.env("RINGROOM_DATABASE_URL", &place.url).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let until = Instant::now() + DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("it serves");
        }
        sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    Ended { code: output.status.code(), log: String::from_utf8(output.stderr).unwrap() }
}

#[test]
fn a_second_server_is_told_who_has_the_journal_and_leaves_it_alone() {
    let mut place = Place::sqlite();
    let rooms = place.seed(1, 1);
    let (room, user) = (rooms[0].room, &rooms[0].users[0]);
    let server = Server::start(&place, &[]);
    let mut client = Client::join(server.address, room, &user.token);
    client.say("one");
    assert_eq!(client.hears(), "one");

    let second = refused(&place);
    let words = format!("in use by process {}", server.pid().as_raw_nonzero());
    assert!(second.code == Some(2) && second.log.contains(&words), "{second:?}");

    client.say("two");
    assert_eq!(client.hears(), "two");
    client.leave();
    server.stop();
    assert_eq!(place.texts(room), ["one", "two"]);
}

const QUICK: [&str; 6] = ["--shards", "1", "--drain-seconds", "0", "--database-query-timeout-seconds", "1"];

/// A server whose database is away, and a member who has said something that only the journal holds.
fn talking(place: &mut Place) -> (Server, Hold, Client, SeededRoom) {
    let room = place.seed(1, 1).remove(0);
    let server = Server::start(place, &QUICK);
    let mut client = Client::join(server.address, room.room, &room.users[0].token);
    let hold = Hold::writers_of(place);
    client.say("before");
    assert_eq!(client.hears(), "before");
    (server, hold, client, room)
}

/// Says this until it is refused: what was written before anybody could notice counts as held.
fn say_until_refused(client: &mut Client, text: &str) -> usize {
    let until = Instant::now() + DEADLINE;
    for heard in 0.. {
        client.say(text);
        let answer = client.json();
        if answer["code"] == "not_saved" {
            return heard;
        }
        assert!(Instant::now() < until, "{answer}");
        sleep(Duration::from_millis(20));
    }
    unreachable!()
}

/// Says this until it is not refused.
fn say_until_heard(client: &mut Client, text: &str) {
    let until = Instant::now() + DEADLINE;
    loop {
        client.say(text);
        let answer = client.json();
        if answer["message"] == text {
            return;
        }
        assert!(answer["code"] == "not_saved" && Instant::now() < until, "{answer}");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_journal_that_is_renamed_under_a_server_is_missed_and_used_again_when_it_is_back() {
    let mut place = Place::sqlite();
    let (server, hold, mut client, room) = talking(&mut place);
    let (journal, elsewhere) = (place.folder().join("journal"), place.folder().join("elsewhere"));
    fs::rename(&journal, &elsewhere).unwrap();
    let heard = say_until_refused(&mut client, "meanwhile");
    server.wait_for_log("no longer at its place");
    // A new directory is not this server's: anybody could take it.
    fs::create_dir(&journal).unwrap();
    let several_ticks = Instant::now() + Duration::from_secs(1);
    while Instant::now() < several_ticks {
        assert_eq!(say_until_refused(&mut client, "in vain"), 0);
    }
    assert_eq!(files(&journal), BTreeMap::new());
    fs::remove_dir(&journal).unwrap();
    fs::rename(&elsewhere, &journal).unwrap();
    say_until_heard(&mut client, "after");
    server.wait_for_log("the journal can be written again");
    let log = server.kill_9().log;
    assert_eq!(log.matches("no longer at its place").count(), 1, "{log}");
    drop(hold);
    let server = Server::start(&place, &QUICK);
    let texts = saved(&place, room.room, heard + 2);
    assert_eq!((&*texts[0], &*texts[heard + 1], texts.len()), ("before", "after", heard + 2), "{texts:?}");
    server.stop();
}

#[test]
fn a_journal_that_is_removed_under_a_server_is_missed() {
    let mut place = Place::sqlite();
    let (server, hold, mut client, room) = talking(&mut place);
    fs::remove_dir_all(place.folder().join("journal")).unwrap();
    say_until_refused(&mut client, "meanwhile");
    server.wait_for_log("no longer at its place");
    let ended = server.stop();
    assert!(ended.counter("journal_failures") > 0, "{}", ended.log);
    drop(hold);
    let server = Server::start(&place, &["--shards", "1"]);
    let mut client = Client::join(server.address, room.room, &room.users[0].token);
    client.say("after");
    assert_eq!(client.hears(), "after");
    assert_eq!(saved(&place, room.room, 1).last().map(String::as_str), Some("after"));
    server.stop();
}

/// One file alone: the next one takes its place, and nobody notices but the operator.
#[test]
fn a_segment_that_is_removed_under_a_server_is_left_for_a_new_one() {
    let mut place = Place::sqlite();
    let (server, hold, mut client, room) = talking(&mut place);
    fs::remove_file(place.folder().join("journal").join(file_name(0, 1))).unwrap();
    server.wait_for_log("no longer at its place");
    say_until_heard(&mut client, "after");
    server.wait_for_log("the journal can be written again");
    let log = server.kill_9().log;
    assert_eq!(log.matches("no longer at its place").count(), 1, "{log}");
    drop(hold);
    let server = Server::start(&place, &["--shards", "1"]);
    assert_eq!(saved(&place, room.room, 1), ["after"]);
    server.stop();
}

#[test]
fn a_segment_that_cannot_be_read_for_a_while_is_told_once_and_saved_when_it_can() {
    let mut place = Place::sqlite();
    let room = place.seed(1, 1).remove(0);
    let small = ["--journal-segment-bytes", "1048576", "--messages-per-second", "0"];
    let server = Server::start(&place, &[&QUICK[..], &small].concat());
    let mut client = Client::join(server.address, room.room, &room.users[0].token);
    let hold = Hold::writers_of(&place);
    let journal = place.folder().join("journal");
    let text = "x".repeat(4000);
    let mut said = 0;
    // The fourth is made ready when the third one is begun. The writer has the first one open, and not the second.
    while !journal.join(file_name(0, 4)).exists() {
        client.say(&text);
        assert_eq!(client.hears(), text);
        said += 1;
        assert!(said < 2000, "the segments do not fill");
    }
    let (path, away) = (journal.join(file_name(0, 2)), place.folder().join("away"));
    fs::rename(&path, &away).unwrap();
    drop(hold);
    server.wait_for_log("a journal cannot be read");
    client.say("meanwhile");
    assert_eq!(client.hears(), "meanwhile");
    fs::rename(&away, &path).unwrap();
    server.wait_for_log("the journal can be read again");
    let texts = saved(&place, room.room, said + 1);
    assert_eq!((texts.len(), texts.last().map(String::as_str)), (said + 1, Some("meanwhile")));
    let ended = server.stop();
    assert!(ended.counter("journal_unread") > 0, "{}", ended.log);
    assert_eq!(ended.log.matches("a journal cannot be read").count(), 1, "{}", ended.log);
}

#[test]
fn a_journal_of_a_later_version_is_left_as_it_is() {
    let place = Place::sqlite();
    let journal = place.folder().join("journal");
    fs::create_dir_all(&journal).unwrap();
    let header = Header { shard: 0, number: 1, first_sequence: 1, previous_end: 0 };
    // Empty, so that it would be removed; harmed, so that it would be kept aside.
    fs::write(journal.join(file_name(0, 1)), header.encode()).unwrap();
    fs::write(journal.join(file_name(0, 2)), [0xff; 4096]).unwrap();
    let mut newer = Header { number: 3, ..header }.encode();
    (newer[8], newer[12]) = (2, newer[12] ^ 1);
    fs::write(journal.join(file_name(0, 3)), newer).unwrap();

    let before = files(&journal);
    let ended = refused(&place);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    for words in [&file_name(0, 3), "format 2", "start the newer ringroom once"] {
        assert!(ended.log.contains(words), "{words:?}: {}", ended.log);
    }
    assert_eq!(files(&journal), before);
}
