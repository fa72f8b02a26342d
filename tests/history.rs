//! A room's history over HTTP: who may read it, page by page, in the very words that were broadcast.

#![allow(clippy::unwrap_used)]

mod support;

use ringroom::identity::RoomId;
use serde_json::Value;
use support::{
    client::{Client, Raw},
    place::{Person, Place},
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
