//! A room's history over HTTP: who may read it, page by page, in the very words that were broadcast; and whole, with what the
//! database has not got yet, whether it is slow or away.

#![allow(clippy::unwrap_used)]

mod support;

use ringroom::identity::RoomId;
use serde_json::Value;
use support::{
    client::{Client, Raw, eventually},
    hold::Hold,
    place::{Person, Place},
    postgres::Postgres,
    server::Server,
};
use uuid::Uuid;

/// Status, head and body of the answer to a GET.
fn get(server: &Server, path: &str, token: Option<&str>) -> (u16, String, String) {
    let authorization = token.map_or(String::new(), |token| format!("Authorization: Token {token}\r\n"));
    let answer =
        Raw::answer(server.address, format!("GET {path} HTTP/1.1\r\nHost: chat.example\r\n{authorization}\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    (head["HTTP/1.1 ".len()..][..3].parse().unwrap(), head.to_lowercase(), body.to_owned())
}

#[test]
fn history_is_for_members_and_in_the_words_of_the_broadcast() {
    for mut place in Place::everywhere("the history") {
        let [alice, bob, eve] = place.people(["alice", "bob", "eve"]);
        place.deactivate(&eve);
        let room = place.room([&alice, &eve]);
        let other = place.room([&alice, &bob]);
        let server = Server::start(&place, &[]);
        let mut client = Client::join(server.address, room, &alice.token);
        let said: Vec<String> = (0..60)
            .map(|nth| {
                client.say(&format!("nth \"{nth}\" \\ ü\n"));
                client.text()
            })
            .collect();
        let mut elsewhere = Client::join(server.address, other, &bob.token);
        elsewhere.say("somewhere else");
        let foreign = id_of(&elsewhere.text());

        check_pages(&server, room, &alice, &said);
        let before = |id: &str| format!("?before={id}");
        for (room, query, token, status, error) in [
            (room, String::new(), None, 401, "A valid token is required"),
            (room, String::new(), Some("nobody"), 401, "A valid token is required"),
            (room, String::new(), Some(&*eve.token), 401, "A valid token is required"),
            // A token in a URL ends up in logs, so for HTTP it does not count.
            (room, format!("?token={}", alice.token), None, 401, "A valid token is required"),
            (room, String::new(), Some(&*bob.token), 403, "Not a member of this chat room"),
            (RoomId::new_v4(), String::new(), Some(&*alice.token), 403, "Not a member of this chat room"),
            (room, "?limit=0".into(), Some(&*alice.token), 400, "limit must be a whole number from 1 to 200"),
            (room, "?limit=201".into(), Some(&*alice.token), 400, "limit must be a whole number from 1 to 200"),
            (room, "?limit=ten".into(), Some(&*alice.token), 400, "limit must be a whole number from 1 to 200"),
            (room, before("7"), Some(&*alice.token), 400, "before must be the id of a message in this room"),
            (room, before(&foreign), Some(&*alice.token), 400, "before must be the id of a message in this room"),
            (
                room,
                before(&Uuid::now_v7().to_string()),
                Some(&*alice.token),
                400,
                "before must be the id of a message in this room",
            ),
            // Who asks is decided before what is asked.
            (room, "?limit=0".into(), None, 401, "A valid token is required"),
            (room, "?limit=0".into(), Some(&*bob.token), 403, "Not a member of this chat room"),
        ] {
            let (got, head, body) = get(&server, &format!("/api/rooms/{room}/messages{query}"), token);
            assert_eq!(body, format!(r#"{{"error":"{error}"}}"#), "{} {query}", place.kind);
            assert_eq!(got, status, "{} {query}", place.kind);
            assert!(head.contains("content-type: application/json"), "{head}");
        }
        [client, elsewhere].into_iter().for_each(Client::leave);
        let ended = server.stop();
        for person in [&alice, &bob, &eve] {
            assert!(!ended.log.contains(&person.token), "a token is in the log");
        }
    }
}

fn check_pages(server: &Server, room: RoomId, member: &Person, said: &[String]) {
    let page = |query: &str| {
        let (status, head, body) = get(server, &format!("/api/rooms/{room}/messages{query}"), Some(&member.token));
        assert_eq!(status, 200, "{query}: {body}");
        assert!(head.contains("content-type: application/json") && head.contains("no-store"), "{head}");
        body
    };
    let expected = |range: std::ops::Range<usize>| {
        let newest_first: Vec<&str> = said[range].iter().rev().map(String::as_str).collect();
        format!(r#"{{"messages":[{}]}}"#, newest_first.join(","))
    };
    let before = |nth: usize| id_of(&said[nth]);
    assert_eq!(page(""), expected(10..60));
    assert_eq!(page("?limit=1"), expected(59..60));
    assert_eq!(page("?limit=200"), expected(0..60));
    assert_eq!(page(&format!("?before={}&limit=7", before(30))), expected(23..30));
    assert_eq!(page(&format!("?limit=50&before={}", before(10).to_uppercase())), expected(0..10));
    assert_eq!(page(&format!("?before={}", before(0))), r#"{"messages":[]}"#);
}

fn id_of(broadcast: &str) -> String {
    let json: Value = serde_json::from_str(broadcast).unwrap();
    json["message_id"].as_str().unwrap().to_owned()
}

#[test]
fn http_serves_a_few_things_and_nothing_else() {
    let mut place = Place::sqlite();
    let alice = place.person("alice");
    let room = place.room([&alice]);
    let server = Server::start(&place, &[]);
    let messages = format!("/api/rooms/{room}/messages");
    for (path, status) in [
        ("/healthz", 200),
        ("/", 200),
        (&*messages, 200),
        ("/api/rooms/lobby/messages", 404),
        (&*format!("{messages}/"), 404),
        ("/api/rooms", 404),
        ("/metrics.txt", 404),
        ("/%2e%2e/etc/passwd", 404),
    ] {
        let (got, _, body) = get(&server, path, Some(&alice.token));
        assert_eq!(got, status, "{path}: {body}");
    }
    for request in [
        format!("POST {messages} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}"),
        format!("DELETE {messages} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        assert!(Raw::answer(server.address, &request).starts_with("HTTP/1.1 404 "), "{request}");
    }
    // What HTTP does with a connection leaves the chat beside it alone.
    let mut client = Client::join(server.address, room, &alice.token);
    client.say("hello");
    assert_eq!(client.hears(), "hello");
    client.leave();
    assert_eq!(server.stop().counter("http"), 10);
}

/// A member, and all that was said in its room.
struct Reader<'a> {
    server: &'a Server,
    room: RoomId,
    token: String,
    said: Vec<String>,
}

impl Reader<'_> {
    /// Says so much more, and hears it.
    fn say(&mut self, client: &mut Client, count: usize) {
        for _ in 0..count {
            client.say(&format!("number {}", self.said.len()));
            self.said.push(client.text());
        }
    }

    /// The last messages before the one with this number, or the last of all: a status, and what the answer must be.
    fn page(&self, before: Option<usize>, limit: usize) -> (u16, String) {
        let query = before.map_or(String::new(), |nth| format!("&before={}", id_of(&self.said[nth])));
        let path = format!("/api/rooms/{}/messages?limit={limit}{query}", self.room);
        let (status, _, body) = get(self.server, &path, Some(&self.token));
        (status, body)
    }

    fn check(&self, before: Option<usize>, limit: usize) {
        let last: Vec<&str> =
            self.said[..before.unwrap_or(self.said.len())].iter().rev().take(limit).map(String::as_str).collect();
        let expected = format!(r#"{{"messages":[{}]}}"#, last.join(","));
        assert_eq!(self.page(before, limit), (200, expected), "before {before:?}, {limit}");
    }
}

/// All that may have broadcast what the database lacks.
const EARLY: [&str; 3] = ["sync", "journal", "none"];

#[test]
fn what_was_just_received_is_in_the_history() {
    for mut place in Place::everywhere("a history right after a message") {
        for durability in EARLY {
            let room = place.seed(1, 1).remove(0);
            let server = Server::start(&place, &["--durability", durability, "--drain-seconds", "0"]);
            let mut client = Client::join(server.address, room.room, &room.users[0].token);
            let token = room.users[0].token.clone();
            let mut reader = Reader { server: &server, room: room.room, token, said: Vec::new() };
            for nth in 0..40 {
                reader.say(&mut client, 1 + nth % 3);
                reader.check(None, 1 + nth % 7);
                reader.check(Some(reader.said.len() - 1), 3);
            }
            reader.check(None, 200);
            client.leave();
            server.stop();
        }
    }
}

#[test]
fn pages_join_what_is_saved_and_what_is_not() {
    for mut place in Place::everywhere("a history across a lock") {
        for durability in EARLY {
            let room = place.seed(1, 1).remove(0);
            // Both shards, the room's and the other.
            let server = Server::start(&place, &["--durability", durability, "--shards", "2", "--drain-seconds", "0"]);
            let mut client = Client::join(server.address, room.room, &room.users[0].token);
            let token = room.users[0].token.clone();
            let mut reader = Reader { server: &server, room: room.room, token, said: Vec::new() };
            reader.say(&mut client, 10);
            let hold = held_when_saved(&place, room.room, 10);
            reader.say(&mut client, 10);
            assert_eq!(place.texts(room.room).len(), 10, "{}, {durability}: the rest cannot be saved", place.kind);
            for before in [None, Some(19), Some(13), Some(11), Some(10), Some(9), Some(5), Some(1), Some(0)] {
                for limit in [1, 3, 10, 11, 20, 200] {
                    reader.check(before, limit);
                }
            }
            drop(hold);
            // While it is being saved, and afterwards.
            while place.texts(room.room).len() < 20 {
                reader.check(None, 20);
                reader.check(Some(13), 7);
            }
            reader.check(None, 200);
            client.leave();
            server.stop();
        }
    }
}

/// A lock that is taken when the table holds so many messages of the room.
fn held_when_saved(place: &Place, room: RoomId, count: usize) -> Hold {
    eventually("the first messages are saved", || match place.texts(room).len() {
        saved if saved == count => Ok(()),
        saved => Err(std::io::Error::other(format!("{saved} of {count}"))),
    });
    Hold::writers_of(place)
}

#[test]
fn without_a_database_a_page_that_can_be_filled_is_given() {
    let Some(mut postgres) = Postgres::start("a history in an outage") else { return };
    for (nth, durability) in EARLY.into_iter().enumerate() {
        let mut place = Place::postgres(postgres.create_database(&format!("chat_{nth}")));
        let room = place.seed(1, 1).remove(0);
        let flags = ["--durability", durability, "--auth-timeout-seconds", "2", "--drain-seconds", "0"];
        let server = Server::start(&place, &flags);
        let mut client = Client::join(server.address, room.room, &room.users[0].token);
        let token = room.users[0].token.clone();
        let mut reader = Reader { server: &server, room: room.room, token, said: Vec::new() };
        reader.say(&mut client, 5);
        drop(held_when_saved(&place, room.room, 5));

        postgres.stop();
        reader.say(&mut client, 8);
        for (before, limit) in [(None, 1), (None, 8), (Some(12), 7), (Some(8), 3), (Some(6), 1)] {
            reader.check(before, limit);
        }
        // What else there is, nobody can say.
        for (before, limit) in [(None, 9), (Some(12), 8), (Some(5), 1), (Some(2), 1)] {
            let (status, body) = reader.page(before, limit);
            assert_eq!(
                (status, body.contains(r#"{"error":"#)),
                (503, true),
                "{durability}, {before:?}, {limit}: {body}"
            );
        }
        postgres.restart();
        eventually("the history is whole again", || match reader.page(None, 200).0 {
            200 => Ok(()),
            status => Err(std::io::Error::other(status.to_string())),
        });
        reader.check(None, 200);
        client.leave();
        server.stop();
        assert_eq!(place.texts(room.room).len(), 13);
    }
}
