//! What a client meets when it connects: every row of the contract's table, over plain sockets, so that each byte of the
//! answer shows.

#![allow(clippy::unwrap_used)]

mod support;

use std::{thread, time::Duration, time::Instant};

use ringroom::identity::RoomId;
use support::{
    client::{Client, FIN, Raw, TEXT, chat_message, frame, upgrade},
    place::{Person, Place},
    server::Server,
};

/// A room with one member, on a server of its own.
struct Scene {
    server: Server,
    room: RoomId,
    alice: Person,
    place: Place,
}

impl Scene {
    fn new(flags: &[&str]) -> Scene {
        let mut place = Place::sqlite();
        let alice = place.person("alice");
        let room = place.room([&alice]);
        Scene { server: Server::start(&place, flags), room, alice, place }
    }

    fn path(&self) -> String {
        format!("/ws/chat/{}/?token={}", self.room, self.alice.token)
    }

    /// What comes back for this request until the server ends the connection.
    fn answer(&self, request: impl AsRef<[u8]>) -> String {
        Raw::answer(self.server.address, request)
    }

    /// The close frame behind the handshake's answer to this path.
    fn closed(&self, path: &str) -> (u16, String) {
        let mut raw = Raw::open(self.server.address);
        raw.send(upgrade(path));
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{path}: {head}");
        let frame = raw.frame();
        let (code, reason) = frame.close().unwrap_or_else(|| panic!("{path}: {frame:?}"));
        raw.finish();
        assert!(raw.rest().is_empty(), "{path}: nothing follows a close frame");
        (code, reason.to_owned())
    }

    fn greeting(&self) -> String {
        let (room, Person { id, name, .. }) = (self.room, &self.alice);
        format!(
            r#"{{"type":"connection_established","message":"Connected to chat room {room}","user_id":"{id}","username":"{name}"}}"#
        )
    }
}

/// Is this line among the answer's headers?
fn has(answer: &str, header: &str) -> bool {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().skip(1).any(|line| line.eq_ignore_ascii_case(header))
}

#[test]
fn what_is_no_upgrade_is_answered_with_http() {
    let scene = Scene::new(&[]);
    let (room, good) = (scene.room, upgrade(&scene.path()));
    let with = |line: &str, instead: &str| {
        assert!(good.contains(line), "{line}");
        good.replace(line, instead)
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: chat.example\r\n\r\n");
    let websocket = "Upgrade: websocket";
    let version = "Sec-WebSocket-Version: 13";
    let needed: &[&str] = &[websocket, version];
    for (request, status, headers) in [
        (get(&format!("/ws/chat/{room}/")), "426 Upgrade Required", needed),
        (get(&format!("/ws/chat/{room}")), "426 Upgrade Required", needed),
        (with("Connection: Upgrade", "Connection: keep-alive"), "426 Upgrade Required", needed),
        (with(websocket, "Upgrade: h2c"), "426 Upgrade Required", needed),
        (with("GET ", "POST "), "426 Upgrade Required", needed),
        (with(version, "Sec-WebSocket-Version: 8"), "426 Upgrade Required", &[version]),
        (with(&format!("{version}\r\n"), ""), "426 Upgrade Required", &[version]),
        (with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), "400 Bad Request", &[]),
        (with("Host: chat.example\r\n", ""), "400 Bad Request", &[]),
        (with("Host: ", "Host "), "400 Bad Request", &[]),
        (with("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"), "400 Bad Request", &[]),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\u{7c}\x03\x03".into(), "400 Bad Request", &[]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "400 Bad Request", &[]),
        ("what is this?\r\n\r\n".into(), "400 Bad Request", &[]),
        (with("\r\n\r\n", &format!("\r\nCookie: {}\r\n\r\n", "x".repeat(8192))), "431 ", &[]),
        (with("\r\n\r\n", &format!("\r\nCookie: {}", "x".repeat(8192))), "431 ", &[]),
        (upgrade(&format!("/ws/chat/{room}/more/")), "404 Not Found", &[]),
        (upgrade("/ws/chat/lobby/"), "404 Not Found", &[]),
        (upgrade("/ws/chat/"), "404 Not Found", &[]),
        (upgrade(&format!("/ws/chat/{}/", room.simple())), "404 Not Found", &[]),
        (upgrade("/"), "404 Not Found", &[]),
        (get("/ws/chat/lobby/"), "404 Not Found", &[]),
        (get("/favicon.ico"), "404 Not Found", &[]),
    ] {
        let answer = scene.answer(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}\n{answer}");
        for header in headers {
            assert!(has(&answer, header), "{header}\n{answer}");
        }
        assert!(!answer.contains(&scene.alice.token), "{answer}");
    }
    let ended = scene.server.stop();
    assert_eq!(ended.counter("opened"), 0);
}

#[test]
fn a_head_just_within_its_limit_is_read() {
    let scene = Scene::new(&[]);
    let good = upgrade(&scene.path());
    let padding = "x".repeat(8192 - good.len() - "\r\nCookie: ".len());
    let mut raw = Raw::open(scene.server.address);
    raw.send(good.replace("\r\n\r\n", &format!("\r\nCookie: {padding}\r\n\r\n")));
    raw.greeted();
}

#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let scene = Scene::new(&["--head-timeout-seconds", "1"]);
    let began = Instant::now();
    let mut silent = Raw::open(scene.server.address);
    let mut slow = Raw::open(scene.server.address);
    slow.send("GET /ws/chat/");
    assert_eq!(silent.rest(), b"", "a client that said nothing is told nothing");
    let answer = String::from_utf8(slow.rest()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    let waited = began.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&waited), "{waited:?}");

    // The timeout ends with the head: an open connection is held to it no more.
    let mut member = Client::join(scene.server.address, scene.room, &scene.alice.token);
    thread::sleep(Duration::from_millis(2500));
    member.say("still here");
    assert_eq!(member.hears(), "still here");
}

#[test]
fn a_head_may_come_one_byte_at_a_time() {
    let scene = Scene::new(&[]);
    let mut raw = Raw::open(scene.server.address);
    for byte in upgrade(&scene.path()).bytes() {
        raw.send([byte]);
        thread::yield_now();
    }
    raw.greeted();
}

#[test]
fn frames_may_come_with_the_head() {
    // One shard, so that nothing is handed over; then so many that something almost surely is.
    for shards in ["1", "4"] {
        let scene = Scene::new(&["--shards", shards]);
        let head = upgrade(&scene.path());
        let message = frame(FIN | TEXT, chat_message("early"));
        for cut in [message.len(), 0, 1, 5, message.len() - 1, message.len() + 3, 2 * message.len()] {
            let stream = [head.as_bytes(), &message, &message].concat();
            let (first, second) = stream.split_at(head.len() + cut);
            let mut raw = Raw::open(scene.server.address);
            raw.send(first);
            raw.greeted();
            raw.send(second);
            for _ in 0..2 {
                let heard = raw.frame();
                assert!(heard.text().contains(r#""message":"early""#), "{shards} shards, {cut}: {heard:?}");
            }
        }
        scene.server.stop();
    }
}

#[test]
fn members_are_greeted_however_they_spell_the_room_and_wherever_they_put_the_token() {
    let mut scene = Scene::new(&["--log", "trace"]);
    let (room, token) = (scene.room, scene.alice.token.clone());
    let bob = scene.place.person("bob");
    let plain = format!("/ws/chat/{room}/");
    let (mine, bobs, unknown) = (format!("?token={token}"), format!("?token={}", bob.token), "?token=nobody");
    let authorization = |scheme: &str, token: &str| format!("Authorization: {scheme} {token}\r\n");
    let protocol = |token: &str| format!("Sec-WebSocket-Protocol: ringroom.v1, token.{token}\r\n");
    let welcome = None;
    for (path, headers, refusal) in [
        (format!("{plain}{mine}"), String::new(), welcome),
        (format!("/ws/chat/{}/{mine}", room.to_string().to_uppercase()), String::new(), welcome),
        (format!("/ws/chat/{room}{mine}"), String::new(), welcome),
        (format!("/ws/chat/{room}"), authorization("Token", &token), welcome),
        (plain.clone(), authorization("Bearer", &token), welcome),
        (plain.clone(), protocol(&token), welcome),
        // The first place that holds one wins: query, then header, then sub-protocol.
        (format!("{plain}{mine}"), authorization("Token", &bob.token) + &protocol(&bob.token), welcome),
        (plain.clone(), authorization("Token", &token) + &protocol("nobody"), welcome),
        (format!("{plain}{unknown}"), authorization("Token", &token) + &protocol(&token), Some(4001)),
        (plain.clone(), authorization("Token", "nobody") + &protocol(&token), Some(4001)),
        (format!("{plain}{bobs}"), authorization("Token", &token), Some(4003)),
        (plain.clone(), authorization("Basic", &token), Some(4001)),
        (plain, String::new(), Some(4001)),
    ] {
        let mut raw = Raw::open(scene.server.address);
        raw.send(upgrade(&path).replace("\r\n\r\n", &format!("\r\n{headers}\r\n")));
        let head = raw.head();
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{path} {headers}: {head}");
        // RFC 6455 section 1.3.
        assert!(has(&head, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        let selected = headers.contains("ringroom.v1");
        assert_eq!(has(&head, "Sec-WebSocket-Protocol: ringroom.v1"), selected, "{head}");
        let first = raw.frame();
        match refusal {
            None => assert_eq!(first.text(), scene.greeting(), "{path} {headers}"),
            Some(code) => assert_eq!(first.close().map(|(code, _)| code), Some(code), "{path} {headers}: {first:?}"),
        }
    }
    let ended = scene.server.stop();
    for secret in [&token, &bob.token] {
        assert!(!ended.log.contains(secret.as_str()), "a token is in the log");
    }
    assert_eq!((ended.counter("unauthorized"), ended.counter("not_member")), (4, 1));
}

#[test]
fn strangers_are_told_why_on_an_open_socket() {
    let mut scene = Scene::new(&[]);
    let [bob, eve] = scene.place.people(["bob", "eve"]);
    scene.place.deactivate(&eve);
    let (room, unknown) = (scene.room, RoomId::new_v4());
    let (nobody, stranger) = ((4001, "Unauthorized".to_owned()), (4003, "Not a member of this chat room".to_owned()));
    for (room, token, expected) in [
        (room, "0123456789abcdef0123456789abcdef01234567", &nobody),
        (room, "", &nobody),
        (room, "%00", &nobody),
        (room, &eve.token, &nobody),
        // Who somebody is comes before where they may go.
        (unknown, "nobody", &nobody),
        (unknown, &eve.token, &nobody),
        (room, &bob.token, &stranger),
        (unknown, &bob.token, &stranger),
        (unknown, &scene.alice.token, &stranger),
    ] {
        assert_eq!(&scene.closed(&format!("/ws/chat/{room}/?token={token}")), expected, "{room} {token}");
    }
    assert_eq!(&scene.closed(&format!("/ws/chat/{room}/")), &nobody);
}

#[test]
fn a_database_that_cannot_be_asked_is_no_verdict() {
    let scene = Scene::new(&[]);
    scene.place.sql("ALTER TABLE authtoken_token RENAME TO elsewhere");
    let unavailable = (1013, "Try again later".to_owned());
    assert_eq!(scene.closed(&scene.path()), unavailable);
    assert_eq!(scene.closed(&scene.path()), unavailable);
    scene.place.sql("ALTER TABLE elsewhere RENAME TO authtoken_token");
    let mut client = Client::join(scene.server.address, scene.room, &scene.alice.token);
    client.say("at last");
    assert_eq!(client.hears(), "at last");
    client.leave();
    assert_eq!(scene.server.stop().counter("database_unavailable"), 2);
}

#[test]
fn pages_of_other_origins_are_kept_out() {
    let scene = Scene::new(&["--origins", "https://chat.example,http://localhost:3000"]);
    for (header, status) in [
        ("", 101),
        ("Origin: https://chat.example\r\n", 101),
        ("Origin: http://localhost:3000\r\n", 101),
        ("Origin: http://chat.example\r\n", 403),
        ("Origin: https://chat.example.evil\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: https://chat.example\r\nOrigin: https://evil\r\n", 403),
    ] {
        let mut raw = Raw::open(scene.server.address);
        raw.send(upgrade(&scene.path()).replace("\r\n\r\n", &format!("\r\n{header}\r\n")));
        let head = raw.head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{header}: {head}");
    }
}

#[test]
fn a_full_server_says_so_and_has_room_again_later() {
    let scene = Scene::new(&["--shards", "1", "--connections-max", "3"]);
    let (address, room, token) = (scene.server.address, scene.room, &scene.alice.token);
    let members: Vec<Client> = (0..3).map(|_| Client::join(address, room, token)).collect();
    let answer = scene.answer(upgrade(&scene.path()));
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(has(&answer, "Retry-After: 5"), "{answer}");
    members.into_iter().for_each(Client::leave);
    let began = Instant::now();
    loop {
        let mut raw = Raw::open(address);
        raw.send(upgrade(&scene.path()));
        if raw.head().starts_with("HTTP/1.1 101 ") {
            break;
        }
        assert!(began.elapsed() < support::DEADLINE, "the places of those who left stay taken");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn too_many_attempts_at_once_are_put_off() {
    let scene = Scene::new(&["--shards", "1", "--handshakes-max", "2"]);
    let address = scene.server.address;
    // Members are no attempts, however many.
    let _members: Vec<Client> = (0..5).map(|_| Client::join(address, scene.room, &scene.alice.token)).collect();
    let mut hesitant: Vec<Raw> = (0..2).map(|_| Raw::open(address)).collect();
    hesitant.iter_mut().for_each(|raw| raw.send("GET "));
    // The server accepts in order, so these two are counted before the third.
    let answer = scene.answer(upgrade(&scene.path()));
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(has(&answer, "Retry-After: 5"), "{answer}");
    // Whoever was let in first may go on.
    hesitant[0].send(&upgrade(&scene.path())["GET ".len()..]);
    hesitant[0].greeted();
}
