//! A disk is full, the embedded database's or the journal's, or the journal may not grow any more: senders are told, nobody
//! is shown a message that is not in the table afterwards, and once there is room again all goes on by itself.
//!
//! A limit on the size of the server's files stands for the disk: it needs no rights, and SQLite and the journal meet it at
//! the same writes. A write lock on the SQLite file stands for a database that is away.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use ringroom::store::SeededRoom;
use rustix::process::{Resource, Rlimit, prlimit};
use support::{
    DEADLINE,
    client::Client,
    hold::Hold,
    load::{Account, Load, check_settled},
    place::Place,
    server::{Ended, Server},
};

/// Files of at most 1 MiB, which the write-ahead log soon is; and no signal at the limit, for a disk sends none.
const SMALL_DISK: &str = "trap '' XFSZ; ulimit -S -f 1024";

/// Files of the server may have so many bytes from now on, or any number.
fn limit_files(server: &Server, bytes: Option<u64>) {
    prlimit(Some(server.pid()), Resource::Fsize, Rlimit { current: bytes, maximum: None }).unwrap();
}

fn lines(log: &str, words: &str) -> usize {
    log.lines().filter(|line| line.contains(words)).count()
}

#[test]
fn a_full_disk_costs_no_message_that_anyone_was_shown() {
    let mut place = Place::sqlite();
    let rooms = place.seed(2, 3);
    let server = Server::start_after(SMALL_DISK, &place, &["--durability", "commit", "--save-timeout-seconds", "1"]);
    let load = Load::start(&server, &rooms, 2, 0);
    load.wait_for(10);
    load.wait_for_refusals(20);
    // Everybody hears what became of their messages while the disk is as full as it was.
    let mut accounts = load.settle();
    check_settled(&accounts, |room| place.saved(room));

    limit_files(&server, None);
    let load = Load::start(&server, &rooms, 2, 1);
    load.wait_for(100);
    for (account, later) in accounts.iter_mut().zip(load.settle()) {
        account.join(later);
    }
    check_settled(&accounts, |room| place.saved(room));

    let Ended { log, .. } = server.stop();
    // A small transaction may find room where a larger one did not, so it may be away more than once.
    let away = ["the database is away", "the database is back"].map(|words| lines(&log, words));
    assert!(away[0] > 0 && away[0] == away[1], "{log}");
}

/// Waits until the table has as many messages as were heard, and holds them against each other.
fn check_saved(place: &Place, accounts: &[Account]) {
    for account in accounts {
        let until = Instant::now() + DEADLINE;
        while place.saved(account.room).len() < account.heard.len() && Instant::now() < until {
            sleep(Duration::from_millis(20));
        }
    }
    check_settled(accounts, |room| place.saved(room));
}

/// No new file of the journal may be as large as it must, from the start; later nothing can be written to the one there is.
#[test]
fn a_full_disk_under_the_journal_costs_no_message_that_anyone_was_shown() {
    let mut place = Place::sqlite();
    let rooms = place.seed(2, 3);
    let server = Server::start_after("trap '' XFSZ; ulimit -S -f 8192", &place, &["--shards", "1"]);
    let load = Load::start(&server, &rooms, 2, 0);
    for bytes in [None, Some(4096)] {
        if bytes.is_some() {
            limit_files(&server, bytes);
        }
        load.wait_for_refusals(20);
        limit_files(&server, None);
        load.wait_for(200);
    }
    let accounts = load.settle();
    check_saved(&place, &accounts);

    let Ended { log, .. } = server.stop();
    let words = ["Free space on the disk", "the journal can be written again", "the journal is full"];
    assert_eq!(words.map(|words| lines(&log, words)), [2, 2, 0], "{log}");
}

/// Says long messages until one is refused, and hears them. What was heard.
fn fill(client: &mut Client, place: &Place, room: &SeededRoom) -> Vec<String> {
    const AT_ONCE: usize = 16;
    let mut heard = Vec::new();
    for round in 0.. {
        assert!(round < 1000, "{}: the journal has no bound", place.kind);
        for message in 0..AT_ONCE {
            client.say(&format!("{} {round} {message} ", room.users[0].username).repeat(100));
        }
        let mut refused = 0;
        for _ in 0..AT_ONCE {
            let answer = client.json();
            match answer["message"].as_str() {
                Some(text) if answer["type"] == "chat_message" => heard.push(text.to_owned()),
                _ => {
                    assert_eq!(answer["code"], "not_saved", "{answer}");
                    refused += 1;
                }
            }
        }
        if refused == AT_ONCE {
            break;
        }
    }
    heard
}

#[test]
fn a_journal_at_its_bound_takes_nothing_until_the_database_is_back() {
    let mut place = Place::sqlite();
    let rooms = place.seed(2, 3);
    let settings = ["--shards", "1", "--journal-segment-bytes", "1048576", "--journal-bytes-max", "4194304"];
    let server = Server::start(&place, &[&settings[..], &["--database-query-timeout-seconds", "1"]].concat());
    let mut client = Client::join(server.address, rooms[0].room, &rooms[0].users[0].token);
    let lock = Hold::writers_of(&place);
    let load = Load::start(&server, &rooms[1..], 2, 0);
    let heard = fill(&mut client, &place, &rooms[0]);
    assert!(heard.len() > 500, "{}", heard.len());
    load.wait_for_refusals(100);
    assert_eq!(lines(&server.log(), "the journal is full"), 1);

    drop(lock);
    server.wait_for_log("the journal takes messages again");
    load.wait_for(200);
    check_saved(&place, &load.settle());
    assert!(place.texts(rooms[0].room) == heard, "what was heard, once and in order");
    client.say("and on it goes");
    assert_eq!(client.hears(), "and on it goes");
    client.leave();

    let Ended { log, .. } = server.stop();
    let told = ["the journal is full", "the journal takes messages again"].map(|words| lines(&log, words));
    assert_eq!(told, [1, 1], "{log}");
    let away = ["the database is away; messages wait", "the database is back"].map(|words| lines(&log, words));
    assert_eq!(away, [1, 1], "{log}");
}
