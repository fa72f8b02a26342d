//! Open files run out: the server takes what it can, turns others away or lets them wait, goes on with those it has, and
//! takes more as soon as some have left.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{self, ErrorKind},
    process::Command,
    thread,
    time::Duration,
};

use ringroom::identity::RoomId;
use rustix::process::{Resource, Rlimit, prlimit};
use support::{
    DEADLINE,
    client::{Client, FIN, Raw, TEXT, chat_message, eventually, frame, upgrade},
    place::Place,
    server::Server,
};

/// What `ulimit -n 116` leaves for clients, with 64 files for the server itself and 16 for each of two shards. A quarter of them
/// is for turning others away.
const FEW: usize = 20;

/// How a server of two shards meets clients when files are short.
struct Crowd {
    server: Server,
    room: RoomId,
    token: String,
}

/// What became of a client.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    Joined,
    TurnedAway,
    /// Nobody has answered it yet.
    Waits,
}

impl Crowd {
    fn new(place: &mut Place, line: &str) -> Crowd {
        let room = place.seed(1, 1).remove(0);
        let server = Server::start_after(line, place, &["--shards", "2"]);
        Crowd { server, room: room.room, token: room.users[0].token.clone() }
    }

    fn knock(&self) -> Raw {
        let mut client = Raw::open(self.server.address);
        client.send(upgrade(&format!("/ws/chat/{}/?token={}", self.room, self.token)));
        client
    }

    fn meet(&self, clients: usize) -> Vec<(Met, Raw)> {
        let clients: Vec<Raw> = (0..clients).map(|_| self.knock()).collect();
        clients.into_iter().map(|client| (met(&client), client)).collect()
    }

    /// Clients' sockets that the server has a file for: of those that wait in the kernel's queue no inode is told (proc_net(5)).
    fn accepted(&self) -> usize {
        let (own_end, listening) = (format!(":{:04X}", self.server.address.port()), "0A");
        let sockets = fs::read_to_string(self.server.proc("net/tcp")).unwrap();
        let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|of| of[1].ends_with(&own_end) && of[3] != listening && of[9] != "0").count()
    }

    fn member(&self) -> Client {
        Client::join(self.server.address, self.room, &self.token)
    }
}

/// Looks at the beginning of the answer, and leaves it unread.
fn met(client: &Raw) -> Met {
    let mut status = [0; 12];
    client.stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let peeked = client.stream.peek(&mut status);
    client.stream.set_read_timeout(Some(DEADLINE)).unwrap();
    match peeked {
        Ok(12) if &status == b"HTTP/1.1 101" => Met::Joined,
        Ok(12) if &status == b"HTTP/1.1 503" => Met::TurnedAway,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Met::Waits,
        other => panic!("{other:?} {}", String::from_utf8_lossy(&status)),
    }
}

fn count(clients: &[(Met, Raw)], what: Met) -> usize {
    clients.iter().filter(|(met, _)| *met == what).count()
}

#[test]
fn a_low_limit_of_open_files_bounds_the_connections_and_nothing_else() {
    let mut place = Place::sqlite();
    let crowd = Crowd::new(&mut place, "ulimit -n 116");
    let clients = crowd.meet(40);
    let joined = count(&clients, Met::Joined);
    // One more if both shards take the last place in the same instant.
    assert!((10..=FEW - FEW / 4 + 1).contains(&joined), "{joined} joined");
    println!("{joined} joined, {} were turned away", count(&clients, Met::TurnedAway));
    // Those who were turned away and do not go take no file that the database, the journal or HTTP may need.
    let sockets = crowd.accepted();
    assert!((joined..=FEW).contains(&sockets), "{sockets} sockets of clients");

    let mut members: Vec<Raw> = clients.into_iter().filter(|(met, _)| *met == Met::Joined).map(|it| it.1).collect();
    members.iter_mut().for_each(Raw::greeted);
    // With all places taken the database and HTTP have what they need.
    members[0].send(frame(FIN | TEXT, chat_message("full house")));
    for member in &mut members {
        assert!(member.frame().text().contains("full house"));
    }
    drop(members);
    eventually("a new one is let in", || match met(&crowd.knock()) {
        Met::Joined => Ok(()),
        other => Err(io::Error::other(format!("{other:?}"))),
    });
    let ended = crowd.server.stop();
    assert!(ended.counter("refused") > 0, "{}", ended.log);
}

/// Far more come at once than there are files for. Nobody is cut off: some wait, and each is told.
#[test]
fn everybody_beyond_a_low_limit_of_open_files_is_answered() {
    const COMING: usize = 300;
    let mut place = Place::sqlite();
    let crowd = Crowd::new(&mut place, "ulimit -n 116");
    let coming: Vec<Raw> = (0..COMING).map(|_| crowd.knock()).collect();
    // Each goes when it was turned away, as a client does that is told `Connection: close`.
    let stay_if_let_in = |mut client: Raw| {
        let head = client.head();
        let is_in = head.starts_with("HTTP/1.1 101 ");
        assert!(is_in || head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: "), "{head}");
        is_in.then_some(client)
    };
    let joined: Vec<Raw> = thread::scope(|scope| {
        let coming: Vec<_> = coming.into_iter().map(|client| scope.spawn(|| stay_if_let_in(client))).collect();
        coming.into_iter().filter_map(|client| client.join().unwrap()).collect()
    });
    let joined_count = joined.len() as u64;
    drop(joined);
    let ended = crowd.server.stop();
    let counters = ["accepted", "opened", "refused", "accepts_failed"].map(|name| ended.counter(name));
    assert_eq!(counters, [COMING as u64, joined_count, COMING as u64 - joined_count, 0], "{}", ended.log);
    assert!(ended.counter("accepts_held_back") > 0, "{}", ended.log);
    let told = ended.log.matches("more clients come than there are open files for").count();
    assert!(told == 1 && ended.log.contains("ulimit -Hn"), "{}", ended.log);
}

#[test]
fn clients_wait_while_files_are_short_and_are_let_in_when_others_leave() {
    let mut place = Place::sqlite();
    let crowd = Crowd::new(&mut place, "");
    let (mut one, mut other) = (crowd.member(), crowd.member());
    let count_files = || fs::read_dir(crowd.server.proc("fd")).unwrap().count() as u64;
    // A shard that has just begun may still be making its journal's files.
    let mut open = count_files();
    support::client::eventually("open files", || {
        let before = std::mem::replace(&mut open, count_files());
        if before == open { Ok(()) } else { Err(std::io::Error::other(format!("{before} then {open}"))) }
    });
    let limit = |files| {
        let limit = Rlimit { current: Some(files), maximum: Some(files) };
        prlimit(Some(crowd.server.pid()), Resource::Nofile, limit).unwrap();
    };
    limit(open + 4);
    // The limit that counts is the one at the time when an accept was asked for, and many are asked for ahead.
    for _ in 0..4 * ringroom::limits::ACCEPTS_IN_FLIGHT {
        Raw::answer(crowd.server.address, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    }

    let clients = crowd.meet(12);
    let (joined, waiting) = (count(&clients, Met::Joined), count(&clients, Met::Waits));
    assert!((1..=6).contains(&joined) && joined + waiting == 12, "{joined} joined, {waiting} wait");
    one.say("it is full");
    assert_eq!((one.hears(), other.hears()), ("it is full".into(), "it is full".into()));

    let (joined, waiting): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(met, _)| *met == Met::Joined);
    drop(joined);
    let mut waiting: Vec<Raw> = waiting.into_iter().map(|(_, client)| client).collect();
    // As many as have left, and then, one by one, all others.
    for _ in 0..waiting.len() {
        let next = eventually("one of those who wait is let in", || {
            let next = waiting.iter().position(|client| met(client) == Met::Joined);
            next.ok_or(io::Error::from(ErrorKind::WouldBlock))
        });
        waiting.swap_remove(next).greeted();
    }
    one.say("all were here");
    assert_eq!((one.hears(), other.hears()), ("all were here".into(), "all were here".into()));
    one.leave();
    other.leave();
    let ended = crowd.server.stop();
    assert!(ended.counter("accepts_failed") > 0, "{}", ended.log);
    assert!(ended.log.matches("cannot accept a connection").count() < 40, "a few lines, not one a failure");
    assert_eq!(ended.counter("opened"), 14);
}

#[test]
fn a_limit_that_leaves_no_connection_is_said_at_the_start() {
    let place = Place::sqlite();
    let output = Command::new("bash")
        .args(["-c", r#"ulimit -n 64; exec timeout 20 "$0" serve --listen 127.0.0.1:0 --shards 2"#])
        .arg(env!("CARGO_BIN_EXE_ringroom"))
        .env("RINGROOM_DATABASE_URL", &place.url)
        .current_dir(place.folder())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.trim_end().lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("64 open files") && said.contains("ulimit -Hn"), "{said}");
}
