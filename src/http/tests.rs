//! What a client sees of HTTP, over real sockets, with rooms that are made up here.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::runtime::Builder;
use uuid::{Uuid, uuid};

use super::*;
use crate::{
    identity::{User, UserId},
    shard::passage::Passage,
};

const ROOM: Uuid = uuid!("6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a");
const EMPTY_ROOM: Uuid = uuid!("00000000-0000-4000-8000-000000000000");
const ALICE: UserId = UserId::Uuid(uuid!("aaaaaaaa-0000-4000-8000-000000000001"));
const DEADLINE: Duration = Duration::from_secs(10);

/// Alice's token is `alice`, and so on; `down` finds the database away. [`ROOM`] holds messages numbered 1 to 300.
#[derive(Clone)]
struct MadeUp;

impl Rooms for MadeUp {
    async fn admit(&self, token: Option<Token>, room: RoomId) -> Admission {
        match (token.as_ref().map(Token::expose), room) {
            (Some("down"), _) => Admission::Unavailable,
            (Some("alice" | "half-down"), ROOM | EMPTY_ROOM) => {
                Admission::Admitted(Arc::new(User { id: ALICE, username: "alice".into() }))
            }
            (Some("alice" | "mallory"), _) => Admission::NotMember,
            _ => Admission::Unauthorized,
        }
    }

    async fn history(&self, room: RoomId, before: Option<Uuid>, limit: u16) -> History {
        if room == EMPTY_ROOM {
            return if before.is_none() { History::Messages(vec![]) } else { History::UnknownMessage };
        }
        let newest = match before.map(|id| id.as_u128()) {
            None => 300,
            Some(number @ 1..=300) => number - 1,
            Some(666) => return History::Unavailable,
            Some(_) => return History::UnknownMessage,
        };
        History::Messages((1..=newest).rev().take(limit.into()).map(saved).collect())
    }
}

fn saved(number: u128) -> Saved {
    Saved {
        id: Uuid::from_u128(number),
        sender: ALICE,
        sender_username: "alice".into(),
        receiver: number.is_multiple_of(2).then_some(ALICE),
        timestamp: 1_709_164_800_000_000 + number as i64,
        content: format!("{number}: \"<b>\u{1f600}\n").into(),
    }
}

/// Runs an [`Http`] on a port of its own until the test ends; gives the clients' end and the counters.
struct Server {
    listener: TcpListener,
    http: Http,
    counters: Arc<Counters>,
    runtime: tokio::runtime::Handle,
}

impl Server {
    fn start() -> Server {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let counters = Arc::<Counters>::default();
        Server { listener, http: Http::new(MadeUp, Arc::clone(&counters)), counters, runtime: handle }
    }

    /// A connection whose server side was handed over after `read` was read from it.
    fn connect(&self, read: &[u8]) -> TcpStream {
        let client = TcpStream::connect(self.listener.local_addr().expect("an address")).expect("a connection");
        client.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let (stream, _) = self.listener.accept().expect("the other end");
        let _inside = self.runtime.enter();
        self.http.accept(HandedOver { stream, read: read.to_vec(), passage: Passage::of_tests() });
        client
    }

    fn ask(&self, request: &str) -> Answer {
        Answer::read(self.connect(request.as_bytes()))
    }

    /// `GET` of a path under [`ROOM`]'s history, with a header line or none.
    fn history(&self, query: &str, header: &str) -> Answer {
        self.ask(&format!("GET /api/rooms/{ROOM}/messages{query} HTTP/1.1\r\nhost: h\r\n{header}\r\n"))
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// Reads until the server closes, as it must after each answer.
    fn read(mut client: TcpStream) -> Answer {
        let mut text = String::new();
        client.read_to_string(&mut text).expect("an answer and the end, before the deadline");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }

    fn ids(&self) -> Vec<u128> {
        let id = |message: &Value| message["message_id"].as_str().and_then(|id| Uuid::try_parse(id).ok());
        let messages = self.json()["messages"].as_array().cloned().expect("messages");
        messages.iter().map(|message| id(message).expect("an id").as_u128()).collect()
    }
}

#[test]
fn every_way_to_ask_has_its_status() {
    let server = Server::start();
    let room = |room: &str, query: &str| format!("/api/rooms/{room}/messages{query}");
    let known = ROOM.to_string();
    let (upper, foreign) = (known.to_uppercase(), Uuid::from_u128(5).to_string());
    let cases = [
        ("GET", "/".to_owned(), "", 200),
        ("HEAD", "/".to_owned(), "", 200),
        ("POST", "/".to_owned(), "", 404),
        ("GET", "/healthz".to_owned(), "", 200),
        ("DELETE", "/healthz".to_owned(), "", 404),
        ("GET", "/healthz/".to_owned(), "", 404),
        ("GET", "/favicon.ico".to_owned(), "", 404),
        ("GET", "/../etc/passwd".to_owned(), "", 404),
        ("GET", room(&known, ""), "alice", 200),
        ("GET", room(&upper, ""), "alice", 200),
        ("POST", room(&known, ""), "alice", 404),
        ("GET", room("lobby", ""), "alice", 404),
        ("GET", room(&known, "/"), "alice", 404),
        ("GET", room(&known, ""), "", 401),
        ("GET", room(&known, "?token=alice"), "", 401),
        ("GET", room(&known, ""), "unknown", 401),
        ("GET", room(&known, "?limit=0"), "unknown", 401),
        ("GET", room(&known, ""), "mallory", 403),
        ("GET", room(&known, "?limit=0"), "mallory", 403),
        ("GET", room(&foreign, ""), "alice", 403),
        ("GET", room(&known, ""), "down", 503),
        ("GET", room(&known, "?limit=1"), "alice", 200),
        ("GET", room(&known, "?limit=200"), "alice", 200),
        ("GET", room(&known, "?limit=0"), "alice", 400),
        ("GET", room(&known, "?limit=201"), "alice", 400),
        ("GET", room(&known, "?limit=-1"), "alice", 400),
        ("GET", room(&known, "?limit=abc"), "alice", 400),
        ("GET", room(&known, "?limit="), "alice", 400),
        ("GET", room(&known, "?limit=99999999999"), "alice", 400),
        ("GET", room(&known, "?limit=1&limit=2"), "alice", 400),
        ("GET", room(&known, "?before="), "alice", 400),
        ("GET", room(&known, "?before=17"), "alice", 400),
        ("GET", room(&known, &format!("?before={}", Uuid::from_u128(301))), "alice", 400),
        ("GET", room(&known, &format!("?before={}", Uuid::from_u128(666))), "alice", 503),
        ("GET", room(&known, "?colour=blue"), "alice", 200),
    ];
    for (method, path, token, status) in cases {
        let header = if token.is_empty() { String::new() } else { format!("authorization: Token {token}\r\n") };
        let answer = server.ask(&format!("{method} {path} HTTP/1.1\r\nhost: h\r\n{header}\r\n"));
        assert_eq!(answer.status, status, "{method} {path} as {token:?}: {}", answer.body);
        for header in ["connection: close", "x-content-type-options: nosniff", "referrer-policy: no-referrer"] {
            assert!(answer.head.contains(header), "{method} {path} lacks {header}: {}", answer.head);
        }
        if status >= 400 {
            assert!(answer.json()["error"].is_string(), "{method} {path}: {}", answer.body);
        }
        assert_eq!(answer.head.contains("www-authenticate: Token"), status == 401, "{}", answer.head);
        assert_eq!(answer.head.contains("retry-after: "), status == 503, "{}", answer.head);
        assert_eq!(answer.head.contains("cache-control: no-store"), path != "/" || status != 200, "{}", answer.head);
    }
}

#[test]
fn a_token_is_read_from_either_scheme_in_any_letter_case() {
    let server = Server::start();
    for (value, status) in [
        ("Token alice", 200),
        ("token alice", 200),
        ("Bearer alice", 200),
        ("BEARER   alice", 200),
        ("Basic alice", 401),
        ("alice", 401),
        ("Token", 401),
        ("Token ", 401),
        ("Token al ice", 401),
        ("Token \u{e9}", 401),
    ] {
        assert_eq!(server.history("", &format!("authorization: {value}\r\n")).status, status, "{value}");
    }
}

#[test]
fn history_is_newest_first_as_broadcast_and_pages_without_gap_or_repeat() {
    let server = Server::start();
    let alice = "authorization: Token alice\r\n";
    let newest = server.history("?limit=2", alice);
    let message = |number: u64, receiver: Value| {
        json!({
            "type": "chat_message", "message": format!("{number}: \"<b>\u{1f600}\n"),
            "sender_id": ALICE.to_string(), "sender_username": "alice",
            "message_id": Uuid::from_u128(number.into()).to_string(),
            "timestamp": format!("2024-02-29T00:00:00.{number:06}Z"), "receiver_id": receiver,
        })
    };
    assert_eq!(newest.json(), json!({"messages": [message(300, json!(ALICE.to_string())), message(299, Value::Null)]}));
    let keys = ["type", "message", "sender_id", "sender_username", "message_id", "timestamp", "receiver_id"];
    let places = keys.map(|key| newest.body.find(&format!("\"{key}\":")).expect("every key"));
    assert!(places.is_sorted(), "keys in the order of the broadcast");

    let (mut seen, mut query) = (server.history("", alice).ids(), String::new());
    assert_eq!(seen.len(), 50);
    while let Some(oldest) = seen.last().filter(|_| query != "the end") {
        let page = server.history(&format!("?limit=70&before={}", Uuid::from_u128(*oldest)), alice).ids();
        query = if page.is_empty() { "the end".into() } else { String::new() };
        seen.extend(page);
    }
    assert_eq!(seen, (1..=300).rev().collect::<Vec<_>>());
}

#[test]
fn an_empty_room_has_an_empty_history() {
    let request =
        format!("GET /api/rooms/{EMPTY_ROOM}/messages HTTP/1.1\r\nhost: h\r\nauthorization: Token alice\r\n\r\n");
    assert_eq!(Server::start().ask(&request).body, r#"{"messages":[]}"#);
}

#[test]
fn a_browser_that_has_the_page_does_not_get_it_again() {
    let server = Server::start();
    let first = server.ask("GET / HTTP/1.1\r\nhost: h\r\n\r\n");
    for header in ["content-security-policy: default-src 'none'; ", "content-type: text/html; charset=utf-8"] {
        assert!(first.head.contains(header), "{}", first.head);
    }
    let etag = first.head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an etag");
    let again = server.ask(&format!("GET / HTTP/1.1\r\nhost: h\r\nif-none-match: {etag}\r\n\r\n"));
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    let other = server.ask("GET / HTTP/1.1\r\nhost: h\r\nif-none-match: \"else\"\r\n\r\n");
    assert_eq!((other.status, other.body), (200, first.body));
}

#[test]
fn a_head_may_arrive_in_two_parts_and_a_second_request_is_not_answered() {
    let server = Server::start();
    let request = "GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n";
    for split in [0, 1, 14, request.len() - 1] {
        let mut client = server.connect(&request.as_bytes()[..split]);
        client.write_all(&request.as_bytes()[split..]).expect("the rest is taken");
        let answer = Answer::read(client);
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"), "split at {split}");
    }
    let twice = server.ask(&request.repeat(2));
    assert_eq!(twice.body, "ok");
}

#[test]
fn a_request_with_a_body_still_sees_its_answer() {
    let server = Server::start();
    let mut client = server.connect(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 60000\r\n\r\n");
    client.write_all(&[b'x'; 60_000]).expect("the body is taken");
    assert_eq!(Answer::read(client).status, 404);
}

#[test]
fn clients_that_do_not_close_keep_nobody_from_an_answer() {
    let server = Server::start();
    let request = "GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n";
    let staying: Vec<_> = (0..CONNECTIONS_MAX).map(|_| server.connect(request.as_bytes())).collect();
    for client in &staying {
        let mut first = [0; 12];
        (&*client).read_exact(&mut first).expect("the answer comes");
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    assert_eq!(server.ask(request).status, 200);
    drop(staying);
}

#[test]
fn one_connection_too_many_is_told_to_come_back() {
    let server = Server::start();
    let waiting: Vec<_> = (0..CONNECTIONS_MAX).map(|_| server.connect(b"GET /healthz HTTP/1.1\r\n")).collect();
    let refused = server.ask("GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n");
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: "));
    assert!(refused.json()["error"].is_string());
    assert_eq!(server.counters.http_refused.get(), 1);
    drop(waiting);
    let freed = Instant::now();
    while server.ask("GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").status != 200 {
        assert!(freed.elapsed() < DEADLINE, "places are given back when their connections end");
        thread::sleep(Duration::from_millis(20));
    }
}
