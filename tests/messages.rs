//! What becomes of a message: sent, received, refused; the exact words, on every kind of database, and whether it is really
//! in the table.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ringroom::identity::{RoomId, UserId};
use serde_json::{Value, json};
use support::{
    client::{Client, FIN, Raw, TEXT, chat_message, frame},
    hold::Hold,
    place::{Person, Place},
    server::Server,
};
use uuid::Uuid;

/// A room with alice and bob, and mallory who is a member of none.
struct Scene {
    server: Server,
    room: RoomId,
    alice: Person,
    bob: Person,
    mallory: Person,
    place: Place,
}

impl Scene {
    fn new(mut place: Place, flags: &[&str]) -> Scene {
        let [alice, bob, mallory] = place.people(["alice", "bob \"the\" \\ Bär", "mallory"]);
        let room = place.room([&alice, &bob]);
        let flags = [&["--durability", "commit"], flags].concat();
        Scene { server: Server::start(&place, &flags), room, alice, bob, mallory, place }
    }

    fn everywhere(what: &str, flags: &[&str]) -> impl Iterator<Item = Scene> {
        Place::everywhere(what).into_iter().map(move |place| Scene::new(place, flags))
    }

    fn join(&self, person: &Person) -> Client {
        Client::join(self.server.address, self.room, &person.token)
    }
}

/// What the contract says a message looks like, word by word, but for id and time, which are checked and returned.
#[track_caller]
fn check_broadcast(text: &str, message: &str, sender: &Person, receiver: Option<UserId>) -> (Uuid, i64) {
    let parsed: Value = serde_json::from_str(text).unwrap();
    let id = parsed["message_id"].as_str().unwrap();
    let timestamp = parsed["timestamp"].as_str().unwrap();
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let receiver = receiver.map_or("null".to_owned(), |receiver| format!("\"{receiver}\""));
    // Of a text's escapes each side has its own taste, so it is taken as it came once it is known to mean the same.
    assert_eq!(parsed["message"], message);
    let spelled = text.strip_prefix(r#"{"type":"chat_message","message":"#).expect(text);
    let spelled = &spelled[..spelled.find(r#","sender_id":"#).unwrap()];
    let expected = format!(
        r#"{{"type":"chat_message","message":{spelled},"sender_id":"{}","sender_username":{},"message_id":"{id}","timestamp":"{timestamp}","receiver_id":{receiver}}}"#,
        sender.id,
        quoted(&sender.name),
    );
    assert_eq!(text, expected);

    let uuid = Uuid::try_parse(id).unwrap();
    assert_eq!((uuid.get_version_num(), uuid.hyphenated().to_string().as_str()), (7, id));
    let micros = micros(timestamp);
    let (seconds, nanos) = uuid.get_timestamp().unwrap().to_unix();
    assert_eq!(micros / 1000, seconds as i64 * 1000 + i64::from(nanos) / 1_000_000, "id and timestamp tell one time");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
    assert!((now - micros).abs() < 20_000_000, "{timestamp} is not now");
    (uuid, micros)
}

/// Reads `2024-01-01T12:00:00.123456Z`, and nothing that is not exactly of this form.
#[track_caller]
fn micros(timestamp: &str) -> i64 {
    let form: String = timestamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000000Z");
    let number = |range: std::ops::Range<usize>| timestamp[range].parse::<i64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let months = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days: i64 = (1970..year).map(|year| if leap(year) { 366 } else { 365 }).sum();
    let days = days + months[..month as usize - 1].iter().sum::<i64>() + day - 1;
    let seconds = ((days * 24 + number(11..13)) * 60 + number(14..16)) * 60 + number(17..19);
    seconds * 1_000_000 + number(20..26)
}

const TEXTS: &[&str] = &[
    "Hello, world!",
    "Grüße, 世界 🎉\u{0301}\u{200d}",
    "two\r\nlines\tand a tab",
    "\"quoted\" \\ back / slash </script> \u{2028}",
    "\u{1}\u{1f}\u{7f} control",
    "  spaces around  ",
    "{\"type\":\"error\"}",
    "'; DROP TABLE chat_message; --",
    "%s $1 ?",
];

#[test]
fn a_message_reaches_everyone_and_the_table_as_it_was_sent() {
    for scene in Scene::everywhere("messages", &[]) {
        let (mut alice, mut bob) = (scene.join(&scene.alice), scene.join(&scene.bob));
        let long = "ü".repeat(4096);
        let mut seen = Vec::new();
        for (nth, text) in TEXTS.iter().copied().chain([long.as_str()]).enumerate() {
            let (client, sender) = if nth % 2 == 0 { (&mut alice, &scene.alice) } else { (&mut bob, &scene.bob) };
            client.say(text);
            let heard = alice.text();
            assert_eq!(bob.text(), heard, "{}", scene.place.kind);
            seen.push((check_broadcast(&heard, text, sender, None), sender.clone(), text));
            // It is in the table when it is heard, not some time later.
            let saved = scene.place.saved(scene.room);
            assert_eq!(saved.len(), nth + 1, "{}", scene.place.kind);
            let last = saved.last().unwrap();
            assert_eq!((last.id, last.timestamp), seen[nth].0, "{}", scene.place.kind);
            let sent_by = (last.sender, &*last.sender_username, last.receiver);
            assert_eq!((sent_by, &*last.content), ((sender.id, sender.name.as_str(), None), text));
        }
        assert!(seen.is_sorted_by(|(one, ..), (next, ..)| one < next), "ids and timestamps rise");
        [alice, bob].into_iter().for_each(Client::leave);
        let ended = scene.server.stop();
        let count = TEXTS.len() as u64 + 1;
        let counters = ["messages", "rows", "deliveries", "rejected"].map(|name| ended.counter(name));
        assert_eq!(counters, [count, count, 2 * count, 0], "{}", ended.log);
    }
}

#[test]
fn json_is_taken_in_every_spelling() {
    let scene = Scene::new(Place::sqlite(), &[]);
    let mut alice = scene.join(&scene.alice);
    for (sent, message) in [
        (r#"{"message":"order","type":"chat_message"}"#, "order"),
        (" {\"type\" : \"chat_message\" ,\n\t\"message\":\"space\"} ", "space"),
        (r#"{"type":"chat_message","message":"\u0067\u00fc\ud83c\udf89\/\n"}"#, "gü🎉/\n"),
        (r#"{"type":"chat_message","message":"more","extra":[1,{"message":"inner"}],"nested":{"type":"x"}}"#, "more"),
        (r#"{"type":"x","message":1,"type":"chat_message","message":"last"}"#, "last"),
        (r#"{"\u0074ype":"chat_message","message":"key"}"#, "key"),
        (r#"{"type":"chat_message","message":"null","receiver_id":null}"#, "null"),
        (r#"{"type":"chat_message","message":"big","n":123456789012345678901234567890}"#, "big"),
    ] {
        alice.send(sent);
        check_broadcast(&alice.text(), message, &scene.alice, None);
    }
}

const NOT_JSON: (&str, &str) = ("Invalid JSON format", "invalid_json");
const NOT_AN_OBJECT: (&str, &str) = ("Message must be a JSON object", "invalid_json");
const NO_TYPE: (&str, &str) = ("Message type is required", "missing_type");
const UNKNOWN_TYPE: (&str, &str) = ("Unknown message type", "unknown_type");
const NOT_A_STRING: (&str, &str) = ("Message must be a string", "invalid_message");
const EMPTY: (&str, &str) = ("Message cannot be empty", "empty_message");
const BAD_CHARACTERS: (&str, &str) = ("Message contains invalid characters", "invalid_message");
const TOO_LONG: (&str, &str) = ("Message is too long", "message_too_long");
const BAD_RECEIVER: (&str, &str) = ("Invalid receiver_id", "invalid_receiver");
const NO_MEMBER: (&str, &str) = ("Receiver is not a member of this chat room", "invalid_receiver");
const TOO_MANY: (&str, &str) = ("Too many messages", "rate_limited");
const NOT_SAVED: (&str, &str) = ("Message could not be saved", "not_saved");

fn error((message, code): (&str, &str)) -> String {
    format!(r#"{{"type":"error","message":"{message}","code":"{code}"}}"#)
}

#[test]
fn what_cannot_be_taken_is_explained_to_its_sender_alone() {
    let with = |message: &str| format!(r#"{{"type":"chat_message","message":{message}}}"#);
    let to = |receiver: &str| format!(r#"{{"type":"chat_message","message":"hi","receiver_id":{receiver}}}"#);
    let long = "ü".repeat(4097);
    let refused = [
        (String::new(), NOT_JSON),
        ("hello".into(), NOT_JSON),
        ("{\"type\":\"chat_message\",".into(), NOT_JSON),
        (with("\"hi\"") + "x", NOT_JSON),
        (with("\"hi\"") + "{}", NOT_JSON),
        (with("'hi'"), NOT_JSON),
        ("[]".into(), NOT_AN_OBJECT),
        ("\"hi\"".into(), NOT_AN_OBJECT),
        ("null".into(), NOT_AN_OBJECT),
        ("{}".into(), NO_TYPE),
        (r#"{"message":"hi"}"#.into(), NO_TYPE),
        (r#"{"type":"chat","message":"hi"}"#.into(), UNKNOWN_TYPE),
        (r#"{"type":null,"message":"hi"}"#.into(), UNKNOWN_TYPE),
        (r#"{"type":"chat_message"}"#.into(), NOT_A_STRING),
        (with("null"), NOT_A_STRING),
        (with("5"), NOT_A_STRING),
        (with("[\"hi\"]"), NOT_A_STRING),
        (with("\"\""), EMPTY),
        (with("\" \\t\\n\u{a0}\u{3000}\""), EMPTY),
        (with("\"a\\u0000b\""), BAD_CHARACTERS),
        (with("\"\\ud800\""), BAD_CHARACTERS),
        (with("\"\\udc00 alone\""), BAD_CHARACTERS),
        (chat_message(&long), TOO_LONG),
        (to("\"bob\""), BAD_RECEIVER),
        (to("\"\""), BAD_RECEIVER),
        (to("true"), BAD_RECEIVER),
        (to("[]"), BAD_RECEIVER),
        (to("1.5"), BAD_RECEIVER),
    ];
    for scene in Scene::everywhere("errors", &[]) {
        let (mut alice, mut bob) = (scene.join(&scene.alice), scene.join(&scene.bob));
        for (input, expected) in &refused {
            alice.send(input.as_str());
            assert_eq!(alice.text(), error(*expected), "{input}");
        }
        // Bob was told nothing of all that, or he would hear it now.
        alice.say("good");
        assert_eq!((bob.hears(), alice.hears()), ("good".into(), "good".into()));
        assert_eq!(scene.place.texts(scene.room), ["good"], "{}", scene.place.kind);
        [alice, bob].into_iter().for_each(Client::leave);
        let ended = scene.server.stop();
        assert_eq!(ended.counter("rejected"), refused.len() as u64, "{}", ended.log);
    }
}

#[test]
fn a_receiver_is_a_member_of_the_room() {
    for scene in Scene::everywhere("receivers", &[]) {
        let (mut alice, mut bob) = (scene.join(&scene.alice), scene.join(&scene.bob));
        let (own, bobs, mallorys) = (scene.alice.id, scene.bob.id, scene.mallory.id);
        let text = |id: UserId| json!(id.to_string());
        let mut good = vec![(text(bobs), bobs), (text(own), own), (text(bobs), bobs)];
        let mut bad = vec![text(mallorys), json!(Uuid::new_v4().to_string())];
        // A number names somebody only where user ids are numbers.
        let numbers = [json!("987654"), json!(987_654)];
        match (bobs, mallorys) {
            (UserId::Int(bobs_number), UserId::Int(mallorys_number)) => {
                good.push((json!(bobs_number), bobs));
                bad.push(json!(mallorys_number));
                bad.extend(numbers.clone());
            }
            _ => good.push((json!(bobs.to_string().to_uppercase()), bobs)),
        }
        for (receiver, id) in &good {
            alice.send(json!({"type": "chat_message", "message": "psst", "receiver_id": receiver}).to_string());
            let heard = bob.text();
            assert_eq!(alice.text(), heard);
            let (message, _) = check_broadcast(&heard, "psst", &scene.alice, Some(*id));
            let last = scene.place.saved(scene.room).pop().unwrap();
            assert_eq!((last.id, last.receiver), (message, Some(*id)), "{}", scene.place.kind);
        }
        for receiver in &bad {
            alice.send(json!({"type": "chat_message", "message": "psst", "receiver_id": receiver}).to_string());
            assert_eq!(alice.text(), error(NO_MEMBER), "{} {receiver}", scene.place.kind);
        }
        for receiver in numbers.iter().filter(|receiver| !bad.contains(receiver)) {
            alice.send(json!({"type": "chat_message", "message": "psst", "receiver_id": receiver}).to_string());
            assert_eq!(alice.text(), error(BAD_RECEIVER), "{receiver}");
        }
        assert_eq!(scene.place.texts(scene.room).len(), good.len(), "{}", scene.place.kind);
    }
}

#[test]
fn a_message_that_waits_for_its_receiver_is_not_overtaken() {
    let scene = Scene::new(Place::sqlite(), &[]);
    let mut bob = scene.join(&scene.bob);
    let to = |receiver: &str, text: &str| {
        frame(FIN | TEXT, json!({"type": "chat_message", "message": text, "receiver_id": receiver}).to_string())
    };
    let say = |text: &str| frame(FIN | TEXT, chat_message(text));
    let (bobs, mallorys) = (scene.bob.id.to_string(), scene.mallory.id.to_string());
    let stream = [say("0"), to(&bobs, "1"), say("2"), to(&mallorys, "no"), say("3"), to(&bobs, "4"), say("5")].concat();
    // In one piece, and cut in the middle of a frame that comes while the connection waits.
    for cut in [0, stream.len() / 2, stream.len() - 3] {
        let mut alice = Raw::join(scene.server.address, scene.room, &scene.alice.token);
        alice.send(&stream[..cut]);
        thread::sleep(Duration::from_millis(20));
        alice.send(&stream[cut..]);
        for text in ["0", "1", "2", "3", "4", "5"] {
            assert_eq!(bob.hears(), text, "cut at {cut}");
        }
        let refusals = (0..7).filter(|_| alice.frame().text() == error(NO_MEMBER)).count();
        assert_eq!(refusals, 1);
    }
}

#[test]
fn lengths_are_counted_in_characters() {
    let scene = Scene::new(Place::sqlite(), &["--message-chars-max", "10"]);
    let mut alice = scene.join(&scene.alice);
    for text in ["0123456789", "äöüßÄÖÜẞé世", "🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉"] {
        alice.say(text);
        assert_eq!(alice.hears(), text);
        alice.say(&format!("{text}."));
        assert_eq!(alice.text(), error(TOO_LONG));
    }
}

#[test]
fn whoever_is_too_fast_is_held_back_and_nobody_else() {
    let scene = Scene::new(Place::sqlite(), &["--messages-per-second", "1", "--message-burst", "3"]);
    let (mut alice, mut bob) = (scene.join(&scene.alice), scene.join(&scene.bob));
    let began = Instant::now();
    (0..6).for_each(|_| alice.say("quick"));
    let mut heard: Vec<String> = (0..6).map(|_| alice.text()).collect();
    heard.retain(|text| *text != error(TOO_MANY));
    // A burst of three and no more; on a machine that took its time, one for every second that passed.
    let quick = heard.len();
    assert!((3..=3 + began.elapsed().as_secs() as usize).contains(&quick), "{quick} in {:?}", began.elapsed());
    bob.say("patient");
    (0..quick).for_each(|_| assert_eq!(bob.hears(), "quick"));
    assert_eq!((bob.hears(), alice.hears()), ("patient".into(), "patient".into()));
    thread::sleep(Duration::from_millis(1100));
    alice.say("slower");
    assert_eq!(alice.hears(), "slower");
    assert_eq!(scene.place.texts(scene.room).len(), quick + 2);
}

#[test]
fn too_many_errors_in_a_row_end_the_connection() {
    let scene = Scene::new(Place::sqlite(), &["--errors-max", "3"]);
    let mut alice = scene.join(&scene.alice);
    for _ in 0..3 {
        (0..3).for_each(|_| alice.send("nonsense"));
        (0..3).for_each(|_| assert_eq!(alice.text(), error(NOT_JSON)));
        alice.say("a good one forgives them");
        alice.hears();
    }
    (0..4).for_each(|_| alice.send("nonsense"));
    (0..4).for_each(|_| assert_eq!(alice.text(), error(NOT_JSON)));
    assert_eq!(alice.closed(), (1008, "Too many errors".to_owned()));
    assert_eq!(scene.server.stop().counter("too_many_errors"), 1);
}

#[test]
fn a_message_that_the_database_refuses_is_not_saved_and_harms_no_other() {
    // The writer waits a little before it commits, so that good and bad share a transaction.
    for mut scene in Scene::everywhere("refused messages", &["--commit-delay-ms", "200"]) {
        let doomed = scene.place.room([&scene.alice, &scene.bob]);
        let (mut alice, mut bob) = (scene.join(&scene.alice), scene.join(&scene.bob));
        let address = scene.server.address;
        let mut lost_alice = Client::join(address, doomed, &scene.alice.token);
        let mut lost_bob = Client::join(address, doomed, &scene.bob.token);
        // Deferred foreign keys let the row in and fail the COMMIT.
        scene.place.sql(&format!(
            "DELETE FROM chat_chatroom_members WHERE chatroom_id = '{doomed}';
             DELETE FROM chat_chatroom WHERE id = '{doomed}';"
        ));
        for nth in 0..3 {
            lost_alice.say("into the void");
            bob.say(&format!("good {nth}"));
            lost_bob.say("me too");
        }
        for nth in 0..3 {
            let good = format!("good {nth}");
            assert_eq!((alice.hears(), bob.hears()), (good.clone(), good), "{}", scene.place.kind);
            assert_eq!(lost_alice.text(), error(NOT_SAVED), "{}", scene.place.kind);
            assert_eq!(lost_bob.text(), error(NOT_SAVED), "{}", scene.place.kind);
        }
        assert_eq!(scene.place.texts(scene.room), ["good 0", "good 1", "good 2"], "{}", scene.place.kind);

        // The room comes back, and with it everything as it was.
        scene.place.room_with_id(doomed, [&scene.alice, &scene.bob]);
        lost_alice.say("out of the void");
        assert_eq!((lost_alice.hears(), lost_bob.hears()), ("out of the void".into(), "out of the void".into()));
        assert_eq!(scene.place.texts(doomed), ["out of the void"], "{}", scene.place.kind);
        [alice, bob, lost_alice, lost_bob].into_iter().for_each(Client::leave);
        let ended = scene.server.stop();
        let counters = ["not_saved", "rows_refused", "rows"].map(|name| ended.counter(name));
        assert_eq!(counters, [6, 6, 4], "{}: {}", scene.place.kind, ended.log);
        let commits = ended.counter("commits");
        assert!((1..=8).contains(&commits), "good and bad came in one batch, so {commits} commits are too many");
    }
}

#[test]
fn who_goes_on_sending_to_a_room_that_is_gone_is_closed() {
    let scene = Scene::new(Place::sqlite(), &["--errors-max", "3"]);
    let mut alice = scene.join(&scene.alice);
    let room = scene.room;
    scene.place.sql(&format!(
        "DELETE FROM chat_chatroom_members WHERE chatroom_id = '{room}'; DELETE FROM chat_chatroom WHERE id = '{room}';"
    ));
    for _ in 0..4 {
        alice.say("into the void");
        assert_eq!(alice.text(), error(NOT_SAVED));
    }
    assert_eq!(alice.closed().0, 1008);
    let ended = scene.server.stop();
    assert_eq!((ended.counter("rows_refused"), ended.counter("too_many_errors")), (4, 1), "{}", ended.log);
    let told = ended.log.matches("the database refused a message").count();
    assert_eq!(told, 3, "the first, the second and the fourth are told: {}", ended.log);
}

#[test]
fn long_messages_wait_for_the_database_only_up_to_a_bound() {
    let scene = Scene::new(Place::sqlite(), &["--shards", "1", "--writer-queue-bytes", "10000"]);
    let mut alice = scene.join(&scene.alice);
    for round in ["first", "second"] {
        let hold = Hold::writers_of(&scene.place);
        (0..5).for_each(|_| alice.say(&format!("{round} {}", "x".repeat(4000))));
        // Each is over four thousand bytes: the third passes the bound.
        (0..2).for_each(|_| assert_eq!(alice.json()["code"], "not_saved", "{round}"));
        drop(hold);
        (0..3).for_each(|_| assert!(alice.hears().starts_with(round), "{round}"));
    }
}
