//! How connections end: every row of the contract's table that a server can be brought to, the heartbeats that keep the
//! others, and what a member that does not read does to those that do.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    iter,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use ringroom::identity::RoomId;
use support::{
    client::{BINARY, CLOSE, CONTINUE, Client, FIN, PING, PONG, Raw, TEXT, chat_message, frame, upgrade},
    place::{Person, Place},
    server::Server,
};
use tungstenite::Message;

/// A room with alice and bob.
struct Scene {
    server: Server,
    room: RoomId,
    alice: Person,
    bob: Person,
    place: Place,
}

impl Scene {
    fn new(flags: &[&str]) -> Scene {
        let mut place = Place::sqlite();
        let [alice, bob] = place.people(["alice", "bob"]);
        let room = place.room([&alice, &bob]);
        Scene { server: Server::start(&place, flags), room, alice, bob, place }
    }

    fn raw(&self) -> Raw {
        Raw::join(self.server.address, self.room, &self.alice.token)
    }

    fn client(&self, person: &Person) -> Client {
        Client::join(self.server.address, self.room, &person.token)
    }
}

#[test]
fn a_clients_close_is_echoed_with_its_code() {
    let scene = Scene::new(&[]);
    let payload = |code: u16, reason: &str| [&code.to_be_bytes()[..], reason.as_bytes()].concat();
    for (sent, echoed) in [
        (payload(1000, ""), payload(1000, "")),
        (payload(1001, "the tab was closed"), payload(1001, "")),
        (payload(3000, ""), payload(3000, "")),
        (payload(4999, "own"), payload(4999, "")),
        (Vec::new(), Vec::new()),
    ] {
        let mut raw = scene.raw();
        raw.send(frame(FIN | CLOSE, &sent));
        let echo = raw.frame();
        assert_eq!((echo.first, &echo.payload), (FIN | CLOSE, &echoed));
        assert_eq!(raw.frame_or_end(), None, "the server ends the connection (RFC 6455 section 7.1.1)");
    }
    let ended = scene.server.stop();
    assert_eq!((ended.counter("closed_by_peer"), ended.counter("vanished")), (5, 0));
}

#[test]
fn what_was_said_before_a_close_is_kept() {
    let scene = Scene::new(&[]);
    let mut bob = scene.client(&scene.bob);
    let mut raw = scene.raw();
    let close = frame(FIN | CLOSE, 1000_u16.to_be_bytes());
    raw.send([frame(FIN | TEXT, chat_message("last words")), close, frame(FIN | TEXT, chat_message("ghost"))].concat());
    assert_eq!(bob.hears(), "last words");
    // A client that just vanishes, without a close frame, has said what it said as well.
    let mut raw = scene.raw();
    raw.send(frame(FIN | TEXT, chat_message("aaargh")));
    drop(raw);
    assert_eq!(bob.hears(), "aaargh");
    bob.leave();
    let ended = scene.server.stop();
    assert_eq!(scene.place.texts(scene.room), ["last words", "aaargh"]);
    assert_eq!((ended.counter("closed_by_peer"), ended.counter("vanished")), (2, 1));
}

#[test]
fn offences_close_with_their_code() {
    let scene = Scene::new(&["--message-bytes-max", "8192"]);
    let protocol = (1002, "WebSocket protocol error");
    let binary = (1003, "Only text messages are accepted");
    let not_utf8 = (1007, "Text is not UTF-8");
    let too_big = (1009, "Message is too big");
    let text = frame(FIN | TEXT, chat_message("hi"));
    let unmasked = [&[FIN | TEXT, 2], &b"{}"[..]].concat();
    let claims = |len: u64| [&[FIN | TEXT, 0xff][..], &len.to_be_bytes(), &[1, 2, 3, 4]].concat();
    let parts = |first: &[u8], second: &[u8]| [frame(TEXT, first), frame(FIN | CONTINUE, second)].concat();
    for (what, bytes, (code, reason)) in [
        ("a reserved bit", frame(FIN | 0x40 | TEXT, "x"), protocol),
        ("a reserved opcode", frame(FIN | 3, "x"), protocol),
        ("a reserved control opcode", frame(FIN | 11, ""), protocol),
        ("no mask", unmasked, protocol),
        ("a continuation of nothing", frame(FIN | CONTINUE, "x"), protocol),
        ("a message in a message", [frame(TEXT, "x"), text.clone()].concat(), protocol),
        ("a ping in pieces", frame(PING, "x"), protocol),
        ("a long ping", frame(FIN | PING, [0; 126]), protocol),
        ("half a close code", frame(FIN | CLOSE, [3]), protocol),
        ("a close code that is never sent", frame(FIN | CLOSE, 1005_u16.to_be_bytes()), protocol),
        ("a wasteful length", [&[FIN | TEXT, 0xfe, 0, 2, 0, 0, 0, 0][..], b"{}"].concat(), protocol),
        ("binary", frame(FIN | BINARY, "x"), binary),
        ("binary in pieces", frame(BINARY, "x"), binary),
        ("Latin-1", frame(FIN | TEXT, [b'"', 0xe4, b'"']), not_utf8),
        ("a surrogate", frame(FIN | TEXT, [0xed, 0xa0, 0x80]), not_utf8),
        ("a character that does not end", parts(&[0xe2, 0x82], b""), not_utf8),
        ("a character broken between pieces", parts(&[0xe2, 0x82], b"x"), not_utf8),
        ("a close reason in Latin-1", frame(FIN | CLOSE, [3, 232, 0xe4]), not_utf8),
        ("one byte too many", frame(FIN | TEXT, [b' '; 8193]), too_big),
        ("many too many, only claimed", claims(1 << 40), too_big),
        ("too many in pieces", parts(&[b' '; 8000], &[b' '; 193]), too_big),
    ] {
        let mut raw = scene.raw();
        // What comes after the offence is not looked at, however good it is.
        raw.send([bytes, text.clone()].concat());
        let closing = raw.frame();
        assert_eq!(closing.close(), Some((code, reason)), "{what}: {closing:?}");
        raw.finish();
        assert_eq!(raw.frame_or_end(), None, "{what}");
    }
    // Exactly at the limit nothing is wrong but the JSON.
    let mut raw = scene.raw();
    raw.send(parts(&[b' '; 8000], &[b' '; 192]));
    assert!(raw.frame().text().contains("Invalid JSON format"));
    drop(raw);
    assert!(scene.place.texts(scene.room).is_empty());
    let ended = scene.server.stop();
    let counters = ["protocol_error", "binary_message", "not_utf8", "message_too_big", "internal_error"];
    assert_eq!(counters.map(|name| ended.counter(name)), [11, 2, 5, 3, 0], "{}", ended.log);
}

#[test]
fn pings_are_answered_with_their_payload_wherever_they_come() {
    let scene = Scene::new(&[]);
    let mut raw = scene.raw();
    let longest = [0xff; 125];
    for payload in [&b""[..], b"ping", &longest] {
        raw.send(frame(FIN | PING, payload));
        let pong = raw.frame();
        assert_eq!((pong.first, &pong.payload[..]), (FIN | PONG, payload));
    }
    // Between the fragments of a message, in one piece and a byte at a time.
    let message = chat_message("in three pieces");
    let (first, rest) = message.split_at(7);
    let (second, third) = rest.split_at(11);
    let stream = [
        frame(TEXT, first),
        frame(FIN | PING, "one"),
        frame(CONTINUE, second),
        frame(FIN | PONG, "not asked for"),
        frame(FIN | PING, "two"),
        frame(FIN | CONTINUE, third),
    ]
    .concat();
    for piece in [stream.len(), 1] {
        for bytes in stream.chunks(piece) {
            raw.send(bytes);
        }
        for payload in ["one", "two"] {
            let pong = raw.frame();
            assert_eq!((pong.first, &pong.payload[..]), (FIN | PONG, payload.as_bytes()), "pieces of {piece}");
        }
        assert!(raw.frame().text().contains(r#""message":"in three pieces""#));
    }
}

#[test]
fn a_peer_without_a_sign_of_life_is_closed_and_a_quiet_one_is_kept() {
    let scene = Scene::new(&["--ping-interval-seconds", "1", "--close-timeout-seconds", "1"]);
    // Reads, but answers no ping; stops reading the frames; answers pings and says nothing; says something else.
    let mut deaf = scene.raw();
    let absent = scene.raw();
    let mut talker = scene.raw();
    let mut quiet = scene.client(&scene.bob);
    let began = Instant::now();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let answering = scope.spawn(|| quiet.text());
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                talker.send(frame(FIN | PONG, ""));
                thread::sleep(Duration::from_millis(300));
            }
            talker.send(frame(FIN | TEXT, chat_message("you there?")));
        });
        let frames: Vec<_> = iter::from_fn(|| deaf.frame_or_end()).collect();
        let after = began.elapsed();
        // Twice as long again; only then may an assertion end this thread, for the talker waits for it.
        thread::sleep(Duration::from_secs(4));
        is_over.store(true, Ordering::Relaxed);
        let (closing, pings) = frames.split_last().expect("at least a close frame");
        assert_eq!(closing.close(), Some((1008, "No answer to pings")), "{frames:?}");
        assert!(!pings.is_empty() && pings.iter().all(|ping| ping.first == FIN | PING), "{frames:?}");
        assert!((Duration::from_millis(1500)..Duration::from_secs(8)).contains(&after), "{after:?}");
        assert!(answering.join().unwrap().contains("you there?"), "who answers pings is kept");
    });
    drop((absent, talker));
    quiet.leave();
    assert_eq!(scene.server.stop().counter("idle"), 2);
}

#[test]
fn a_restart_is_spread_over_its_time_and_ends_well() {
    let scene = Scene::new(&["--drain-seconds", "3", "--shards", "2"]);
    let mut place = scene.place;
    let carol = place.person("carol");
    let rooms: Vec<RoomId> = (0..8).map(|_| place.room([&carol])).collect();
    let address = scene.server.address;
    let clients: Vec<Client> =
        rooms.iter().flat_map(|room| (0..5).map(|_| Client::join(address, *room, &carol.token))).collect();
    let mut server = scene.server;
    server.terminate();
    let began = Instant::now();
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let close = |mut client: Client| {
            assert_eq!(client.closed(), (1012, "Server is restarting".to_owned()));
            began.elapsed()
        };
        let closing: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || close(client))).collect();
        // Meanwhile nobody new is let in.
        server.wait_for_log("stopping");
        support::client::eventually("the listener is closed", || match std::net::TcpStream::connect(address) {
            Ok(_) => Err(std::io::Error::other("somebody still accepts")),
            Err(_) => Ok(()),
        });
        closing.into_iter().map(|closing| closing.join().unwrap()).collect()
    });
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!(ended.counter("restart"), 40);
    times.sort();
    let seconds: Vec<f32> = times.iter().map(Duration::as_secs_f32).collect();
    // Evenly, as far as a busy machine lets anyone tell: in each third of the time at least a fifth.
    for third in 0..3 {
        let within = seconds.iter().filter(|at| (third as f32..third as f32 + 1.4).contains(at)).count();
        assert!(within >= 8, "too few in second {third}: {seconds:?}");
    }
    assert!((2.0..8.0).contains(seconds.last().unwrap()), "{seconds:?}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let scene = Scene::new(&["--drain-seconds", "60"]);
    let mut members: Vec<Client> = (0..4).map(|_| scene.client(&scene.alice)).collect();
    let mut server = scene.server;
    server.terminate();
    server.wait_for_log("stopping");
    let began = Instant::now();
    server.terminate();
    let ended = server.wait();
    assert_eq!(ended.code, Some(1));
    assert!(ended.log.contains("stopped: ") && began.elapsed() < Duration::from_secs(5), "{}", ended.log);
    for member in &mut members {
        // The first may have been asked to go before.
        while member.socket.read().is_ok() {}
    }
}

#[test]
fn messages_under_way_when_it_stops_are_saved_and_acknowledged_first() {
    let scene = Scene::new(&["--drain-seconds", "2"]);
    let (mut alice, mut bob) = (scene.client(&scene.alice), scene.client(&scene.bob));
    // Somebody else writes to the same file, so the commit has to wait.
    let path = scene.place.url.strip_prefix("sqlite:").unwrap();
    let other = rusqlite::Connection::open(path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    (0..5).for_each(|nth| alice.say(&format!("under way {nth}")));
    alice.socket.send(Message::Ping("seen?".into())).unwrap();
    assert!(matches!(alice.socket.read(), Ok(Message::Pong(_))), "the messages have been read");
    let mut server = scene.server;
    server.terminate();
    server.wait_for_log("stopping");
    thread::sleep(Duration::from_millis(500));
    other.execute_batch("ROLLBACK").unwrap();
    let expected: Vec<String> = (0..5).map(|nth| format!("under way {nth}")).collect();
    assert_eq!(iter::repeat_with(|| alice.hears()).take(5).collect::<Vec<_>>(), expected);
    assert_eq!(alice.closed().0, 1012);
    // Bob owed nothing and may have been asked to go before.
    bob.closed();
    let ended = server.wait();
    assert_eq!((ended.code, ended.counter("rows"), ended.counter("not_saved")), (Some(0), 5, 0), "{}", ended.log);
    assert_eq!(scene.place.texts(scene.room), expected);
}

#[test]
fn whoever_waits_to_be_let_in_when_it_stops_is_turned_away() {
    let Some(mut place) = Place::everywhere("a stop amid look-ups").into_iter().nth(1) else { return };
    let [alice, bob] = place.people(["alice", "bob"]);
    let room = place.room([&alice]);
    let flags = ["--shards", "1", "--drain-seconds", "3", "--auth-cache-seconds", "0"];
    let mut server = Server::start(&place, &flags);
    let mut member = Client::join(server.address, room, &alice.token);
    let url = place.url.clone();
    thread::scope(|scope| {
        // The look-ups wait until well after the signal, and are answered before the member is asked to go.
        let locked = "BEGIN; LOCK TABLE authtoken_token; SELECT pg_sleep(1.5); COMMIT";
        let lock = scope.spawn(move || support::postgres::execute(&url, locked).unwrap());
        thread::sleep(Duration::from_millis(500));
        let mut waiting: Vec<Raw> = [alice.token.as_str(), &bob.token, "nobody"]
            .iter()
            .map(|token| {
                let mut raw = Raw::open(server.address);
                raw.send(upgrade(&format!("/ws/chat/{room}/?token={token}")));
                raw
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        server.terminate();
        for raw in &mut waiting {
            let head = raw.head();
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
        }
        lock.join().unwrap();
        // Each with an answer that comes too late, while its connection is still there.
        assert_eq!(member.closed().0, 1012);
    });
    let ended = server.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert_eq!((ended.counter("opened"), ended.counter("refused")), (1, 3), "{}", ended.log);
}

#[test]
fn many_members_may_leave_at_once() {
    let scene = Scene::new(&["--shards", "1"]);
    let mut bob = scene.client(&scene.bob);
    for round in 0..5 {
        let mut members: Vec<Raw> = (0..60).map(|_| scene.raw()).collect();
        // Every other one, in whatever order; a part with a close frame and a part without.
        let leaving: Vec<Raw> = (0..30).map(|nth| members.remove(nth)).collect();
        for (nth, mut raw) in leaving.into_iter().enumerate() {
            if nth % 3 == 0 {
                raw.send(frame(FIN | CLOSE, 1000_u16.to_be_bytes()));
            }
        }
        let text = format!("who is left in round {round}?");
        bob.say(&text);
        assert_eq!(bob.hears(), text);
        for member in &mut members {
            assert!(member.frame().text().contains(&text), "round {round}");
        }
    }
    bob.leave();
    scene.server.stop();
}

/// Two members talk while a third does not read: it is closed, and they do not feel it.
#[test]
fn a_member_that_does_not_read_is_closed_and_the_others_lose_nothing() {
    const BURST: usize = 100;
    const BURSTS: usize = 25;
    // The window holds a burst of four kilobytes each, and what the others still read of the one before.
    let scene = Scene::new(&["--lag-bytes-max", "1000000", "--close-timeout-seconds", "20"]);
    let mut place = scene.place;
    let carol = place.person("carol");
    let room = place.room([&scene.alice, &scene.bob, &carol]);
    let address = scene.server.address;
    let join = |person: &Person| Client::join(address, room, &person.token);
    let (mut alice, mut bob) = (join(&scene.alice), join(&scene.bob));

    let text = |nth: usize| format!("{nth:06}{}", "x".repeat(4000));
    let mut said = 0;
    // Alice speaks some messages at once, and both hear them: how long that took.
    let mut exchange = |count: usize| {
        let (began, first) = (Instant::now(), said);
        said += count;
        (first..said).for_each(|nth| alice.say(&text(nth)));
        for nth in first..said {
            assert!(alice.hears() == text(nth) && bob.hears() == text(nth), "message {nth} is lost");
        }
        began.elapsed()
    };
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let before = median((0..BURSTS).map(|_| exchange(1)).collect());

    let mut sleeper = join(&carol);
    // Ten megabytes: what the kernel holds for a member that does not read is about five on a default Linux.
    let mut longest = Duration::ZERO;
    let mut beside = || {
        longest = longest.max(exchange(BURST));
        exchange(1)
    };
    let during = median((0..BURSTS).map(|_| beside()).collect());
    // The disk alone makes several milliseconds of difference; whoever waits for a sleeper waits for seconds.
    assert!(during < before * 3 + Duration::from_millis(50), "{before:?} before, {during:?} beside a sleeper");
    assert!(longest < Duration::from_secs(4), "a burst took {longest:?} beside a sleeper");

    // It wakes, finds some old messages, in order and without a gap, and then its end with the reason.
    let (mut heard, mut closed): (Vec<String>, _) = (Vec::new(), None);
    while let Ok(message) = sleeper.socket.read() {
        match message {
            Message::Text(text) => {
                let json: serde_json::Value = serde_json::from_str(&text).unwrap();
                heard.push(json["message"].as_str().unwrap().to_owned());
            }
            Message::Close(frame) => closed = frame,
            _ => {}
        }
    }
    let closed = closed.expect("a close frame");
    assert_eq!((u16::from(closed.code), closed.reason.as_str()), (1013, "Reading too slowly"));
    assert!(heard.len() < BURSTS * (BURST + 1), "the sleeper was never behind");
    assert!(heard.iter().enumerate().all(|(nth, message)| *message == text(BURSTS + nth)), "a gap");
    drop((alice, bob, sleeper));
    let ended = scene.server.stop();
    assert_eq!(ended.counter("too_slow"), 1, "{}", ended.log);
    assert_eq!(ended.counter("rows"), said as u64);
    assert_eq!(place.texts(room).len(), said);
}
