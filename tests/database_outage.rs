//! Postgres dies, and comes back: nobody is told that a message was saved which is not in the table, nothing is told
//! twice, no two members see different things, and the server needs nobody's help to go on.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use rand::RngExt;
use ringroom::store::SeededRoom;
use support::{
    DEADLINE,
    client::{Client, Raw},
    load::{Load, check_settled},
    place::Place,
    postgres::{self, PASSWORD, Postgres},
    random,
    server::{Ended, Server},
};

/// What the server may take beside its configured times, on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

struct Outage {
    postgres: Postgres,
    place: Place,
    rooms: Vec<SeededRoom>,
}

impl Outage {
    fn new(what: &str, rooms: u32, users: u32) -> Option<Outage> {
        let postgres = Postgres::start_with(what, &["fsync=on"])?;
        let mut place = Place::postgres(postgres.create_database("chat"));
        let rooms = place.seed(rooms, users);
        Some(Outage { postgres, place, rooms })
    }

    fn join(&self, server: &Server, user: usize) -> Client {
        Client::join(server.address, self.rooms[0].room, &self.rooms[0].users[user].token)
    }

    /// `kill -9`, and all connections to it are gone.
    fn crash(&mut self) {
        self.postgres.kill_9();
        sleep(Duration::from_millis(200));
    }

    fn texts(&self) -> Vec<String> {
        self.place.texts(self.rooms[0].room)
    }

    /// Neither the database's password nor anybody's token is in the log.
    fn check_secrets(&self, log: &str) {
        let tokens = self.rooms.iter().flat_map(|room| &room.users).map(|user| user.token.as_str());
        for secret in tokens.chain([PASSWORD]) {
            assert!(!log.contains(secret), "a secret is in the log:\n{log}");
        }
    }
}

fn lines(log: &str, words: &str) -> usize {
    log.lines().filter(|line| line.contains(words)).count()
}

#[test]
fn what_was_broadcast_survives_every_crash_of_postgres() {
    let Some(mut outage) = Outage::new("kill -9 of Postgres under load", 3, 4) else { return };
    let mut random = random();
    let server = Server::start(&outage.place, &["--durability", "commit", "--save-timeout-seconds", "2"]);
    let load = Load::start(&server, &outage.rooms, 2, 0);
    for _ in 0..4 {
        load.wait_for(50);
        sleep(Duration::from_millis(random.random_range(0..1500)));
        outage.postgres.kill_9();
        sleep(Duration::from_millis(random.random_range(1000..3000)));
        outage.postgres.restart();
    }
    load.wait_for(50);
    let accounts = load.settle();
    check_settled(&accounts, |room| outage.place.saved(room));
    let not_saved: usize = accounts.iter().map(|account| account.not_saved).sum();
    let said: usize = accounts.iter().map(|account| account.sent.len()).sum();
    println!("{said} messages said, {not_saved} of them answered with not_saved");

    let Ended { log, .. } = server.stop();
    assert_eq!((lines(&log, "the database is away"), lines(&log, "the database is back")), (4, 4), "{log}");
    outage.check_secrets(&log);
}

#[test]
fn senders_are_told_within_the_save_timeout_and_all_goes_on_afterwards() {
    let Some(mut outage) = Outage::new("an outage longer than the save timeout", 1, 4) else { return };
    let settings = [
        "--durability",
        "commit",
        "--save-timeout-seconds",
        "1",
        "--auth-timeout-seconds",
        "2",
        "--auth-cache-seconds",
        "60",
    ];
    let server = Server::start(&outage.place, &settings);
    let (room, users) = (outage.rooms[0].room, outage.rooms[0].users.clone());
    let (mut talks, mut listens) = (outage.join(&server, 0), outage.join(&server, 1));

    outage.crash();
    let away = Instant::now();
    for text in ["a plum", "a quince", "a medlar"] {
        talks.say(text);
        let said = Instant::now();
        assert_eq!(talks.json()["code"], "not_saved");
        // The database is tried again at most every two seconds, and what waits is looked at then.
        let waited = said.elapsed();
        assert!(waited < Duration::from_secs(3) + SLACK, "{text}: told only after {waited:?}");
    }
    let mut unknown = Client::connect(server.address, room, &users[2].token);
    assert_eq!(unknown.closed().0, 1013, "a token that must be asked for");
    outage.join(&server, 1).leave();
    let answer = history(&server, &outage, 1);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains(r#"{"error":"#), "{answer}");
    assert!(Raw::answer(server.address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200 "));

    sleep(Duration::from_secs(4).saturating_sub(away.elapsed()));
    outage.postgres.restart();
    talks.say("a pear");
    assert_eq!((talks.hears(), listens.hears()), ("a pear".into(), "a pear".into()));
    let answer = history(&server, &outage, 3);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("a pear"), "{answer}");
    outage.join(&server, 2).leave();
    talks.leave();
    listens.leave();
    assert_eq!(outage.texts(), ["a pear"], "what was answered not_saved is not in the table");

    let Ended { log, .. } = server.stop();
    assert_eq!((lines(&log, "the database is away"), lines(&log, "the database is back")), (1, 1), "{log}");
    outage.check_secrets(&log);
    for text in ["a plum", "a quince", "a medlar", "a pear"] {
        assert!(!log.contains(text), "a message's text is in the log:\n{log}");
    }
}

/// The room's history, asked for by one of its users.
fn history(server: &Server, outage: &Outage, user: usize) -> String {
    let (room, token) = (outage.rooms[0].room, &outage.rooms[0].users[user].token);
    let request = format!("GET /api/rooms/{room}/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Token {token}\r\n\r\n");
    Raw::answer(server.address, request)
}

const STOPPING: [&str; 8] =
    ["--durability", "commit", "--drain-seconds", "1", "--save-timeout-seconds", "2", "--close-timeout-seconds", "1"];

/// Drain, save timeout and close timeout of [`STOPPING`], and the slack.
fn time_to_stop() -> Duration {
    Duration::from_secs(1 + 2 + 1) + SLACK
}

#[test]
fn a_server_without_its_database_still_stops_in_time() {
    let Some(mut outage) = Outage::new("SIGTERM while Postgres is away", 1, 2) else { return };
    let mut server = Server::start(&outage.place, &STOPPING);
    let mut client = outage.join(&server, 0);
    outage.crash();
    client.say("nobody will see this");
    server.terminate();
    let ended = server.wait_for(time_to_stop()).expect("it ends in time");
    assert_eq!(ended.code, Some(0));
    outage.check_secrets(&ended.log);
    // Told, or left open by the end of the connection; never broadcast.
    while let Some(Ok(message)) = client.hear(DEADLINE) {
        assert_eq!(message["code"], "not_saved");
    }
    outage.postgres.restart();
    assert!(outage.texts().is_empty());
}

/// A client whose message waits in Postgres for a lock, which is held until `release` or the end of Postgres.
fn stuck(server: &Server, outage: &Outage) -> (Client, JoinHandle<bool>) {
    let mut client = outage.join(server, 0);
    let url = outage.place.url.clone();
    let lock = "BEGIN; LOCK TABLE chat_message; SELECT pg_sleep(60)";
    let holder = thread::spawn(move || postgres::query(&url, lock).is_ok());
    let locks = |kind: &str| format!("SELECT 1 FROM pg_locks WHERE relation = 'chat_message'::regclass AND {kind}");
    wait_for_row(&outage.place.url, &locks("granted AND mode = 'AccessExclusiveLock'"));
    client.say("saved or not?");
    wait_for_row(&outage.place.url, &locks("NOT granted"));
    (client, holder)
}

/// A client with a message of which nobody knows if it is saved: Postgres was killed in the middle of the transaction.
fn in_doubt(server: &Server, outage: &mut Outage) -> Client {
    let (client, holder) = stuck(server, outage);
    outage.crash();
    assert!(!holder.join().unwrap());
    client
}

fn wait_for_row(url: &str, sql: &str) {
    let until = Instant::now() + DEADLINE;
    while postgres::query(url, sql).unwrap().is_empty() {
        assert!(Instant::now() < until, "{sql}: no row came");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_transaction_in_doubt_is_settled_when_the_database_is_back() {
    let Some(mut outage) = Outage::new("a transaction in doubt, and Postgres back", 1, 2) else { return };
    let server = Server::start(&outage.place, &STOPPING);
    let mut client = in_doubt(&server, &mut outage);
    // Longer than the save timeout: that it may be saved keeps it from being given up.
    assert!(client.hear(Duration::from_secs(3)).is_none());
    outage.postgres.restart();
    assert_eq!(client.hears(), "saved or not?");
    assert_eq!(outage.texts(), ["saved or not?"]);
    server.stop();
}

#[test]
fn a_transaction_in_doubt_does_not_keep_the_server_from_stopping() {
    let Some(mut outage) = Outage::new("SIGTERM with a transaction in doubt", 1, 2) else { return };
    let mut server = Server::start(&outage.place, &STOPPING);
    let mut client = in_doubt(&server, &mut outage);
    server.terminate();
    let ended = server.wait_for(time_to_stop()).expect("it ends in time");
    // What was under way is not saved as far as anyone knows, so it is no success.
    assert_eq!((ended.code, lines(&ended.log, "may or may not be saved")), (Some(1), 1), "{}", ended.log);
    outage.check_secrets(&ended.log);
    assert_eq!(client.closed().0, 1012, "and nothing was said about its message");
}

#[test]
fn a_second_signal_ends_a_server_at_once_also_while_it_waits_for_its_database() {
    let Some(outage) = Outage::new("a second SIGTERM while Postgres does not answer", 1, 2) else { return };
    let mut server = Server::start(&outage.place, &STOPPING);
    let (client, _) = stuck(&server, &outage);
    drop(client);
    server.terminate();
    // Its shards have given up waiting by now; the writer has not.
    assert!(server.wait_for(Duration::from_secs(6)).is_none(), "the database has `database_query_timeout_seconds`");
    server.terminate();
    let ended = server.wait_for(SLACK).expect("it ends at once");
    assert_eq!(ended.code, Some(1));
}
