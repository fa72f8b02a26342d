//! Logging everything there is, the server writes no token, no message and no password: not to standard error, and not to
//! where every user of the machine may look.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use support::{
    client::{Client, Raw, upgrade},
    place::Place,
    postgres::{self, PASSWORD},
    server::Server,
};

#[test]
fn no_secret_is_logged_on_sqlite() {
    check(Place::sqlite());
}

#[test]
fn no_secret_is_logged_on_postgres() {
    let Some(cluster) = postgres::shared("logs without secrets") else { return };
    check(Place::postgres(cluster.create_database("secrets")));
}

/// In every message, and nowhere else.
const SAID: &str = "apricot";
/// A token that nobody has.
const UNKNOWN: &str = "no-such-token-at-all";

fn check(mut place: Place) {
    let room = place.seed(1, 4).remove(0);
    let server = Server::start(&place, &["--durability", "commit", "--log", "trace"]);
    let tokens: Vec<&str> = room.users.iter().map(|user| user.token.as_str()).collect();
    let path = format!("/ws/chat/{}/", room.room);
    let mut members = members(&server, &path, &tokens);
    refused(&server, &path);
    talk(&mut members);
    let history = format!(
        "GET /api/rooms/{}/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Token {}\r\n\r\n",
        room.room, tokens[3]
    );
    assert!(Raw::answer(server.address, history).contains(SAID));
    // Its room is gone: the database refuses the row, and may quote it.
    place.sql("DELETE FROM chat_message; DELETE FROM chat_chatroom_members; DELETE FROM chat_chatroom;");
    members[0].say(SAID);
    assert_eq!(members[0].json()["code"], "not_saved");
    members.into_iter().for_each(Client::leave);

    let mut shown = fs::read(server.proc("cmdline")).unwrap();
    shown.extend(server.stop().log.into_bytes());
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("serve") && shown.contains("the database refused a message"), "{shown}");
    for secret in tokens.into_iter().chain([SAID, UNKNOWN, PASSWORD]) {
        assert!(!shown.contains(secret), "{secret:?} is shown in\n{shown}");
    }
}

/// A token in each place where it may be.
fn members(server: &Server, path: &str, tokens: &[&str]) -> Vec<Client> {
    let header = format!("Token {}", tokens[1]);
    let protocols = format!("ringroom.v1, token.{}", tokens[2]);
    let mut members = vec![
        Client::open(server.address, &format!("{path}?token={}", tokens[0]), &[]),
        Client::open(server.address, path, &[("Authorization", &header)]),
        Client::open(server.address, path, &[("Sec-WebSocket-Protocol", &protocols)]),
    ];
    for member in &mut members {
        assert_eq!(member.json()["type"], "connection_established");
    }
    members
}

/// Requests that are answered with a refusal, with a token in them.
fn refused(server: &Server, path: &str) {
    let unknown = format!("{path}?token={UNKNOWN}");
    assert_eq!(Client::open(server.address, &unknown, &[]).closed().0, 4001);
    for request in [
        format!("GET {unknown} HTTP/1.1\r\nno header at all\r\n\r\n"),
        format!("GET {unknown} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /nowhere?token={UNKNOWN} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {UNKNOWN}\r\n\r\n"),
        upgrade(&format!("/ws/chat/no-room/?token={UNKNOWN}")),
    ] {
        let answer = Raw::answer(server.address, request);
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
}

/// Messages and mistakes.
fn talk(members: &mut [Client]) {
    for number in 0..members.len() {
        members[number].say(SAID);
        for member in &mut *members {
            assert_eq!(member.hears(), SAID);
        }
        let stranger = uuid::Uuid::new_v4();
        for mistake in [
            format!("{SAID} is no JSON"),
            format!(r#"{{"type":"chat_message","message":["{SAID}"]}}"#),
            format!(r#"{{"type":"{SAID}"}}"#),
            format!(r#"{{"type":"chat_message","message":"{SAID}","receiver_id":"{SAID}"}}"#),
            format!(r#"{{"type":"chat_message","message":"{SAID}","receiver_id":"{stranger}"}}"#),
        ] {
            members[number].send(mistake);
            assert_eq!(members[number].json()["type"], "error");
        }
    }
}
