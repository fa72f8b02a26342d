//! What the peers in Rust have in common: who may sit where, and what is answered to a message. Text in, text out; it
//! reads one file and does no other I/O.
//!
//! A peer does less than ringroom, and is flattered by that: users, tokens and rooms come from the file that `ringroom
//! seed` wrote and stay in memory, no message is journalled or saved, a receiver is not checked, a field of a wrong type
//! is told as bad JSON, and nothing limits who sends how much.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;

use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The longest text of a message, in characters.
const CHARS_MAX: usize = 4096;

/// A user, as others see one.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    pub id: String,
    pub username: String,
    token: String,
}

#[derive(Deserialize)]
struct SeededRoom {
    room: String,
    users: Vec<User>,
}

#[derive(Deserialize)]
struct Fixtures {
    rooms: Vec<SeededRoom>,
}

/// Why a connection is closed as soon as it is open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Closed {
    Unauthorized,
    NotAMember,
}

impl Closed {
    pub fn code(self) -> u16 {
        match self {
            Self::Unauthorized => 4001,
            Self::NotAMember => 4003,
        }
    }

    pub fn reason(self) -> &'static str {
        match self {
            Self::Unauthorized => "Unauthorized",
            Self::NotAMember => "Not a member of this chat room",
        }
    }
}

/// Every room and its members, by token.
pub struct Chat {
    rooms: HashMap<String, HashMap<String, User>>,
}

/// What a message leads to.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// This goes to all members of the room.
    Broadcast(String),
    /// This goes to the sender alone.
    Refusal(String),
}

impl Chat {
    /// Reads what `--fixtures FILE` on the command line names.
    pub fn from_args() -> Result<Self, String> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [flag, path] = args.as_slice() else { return Err("usage: --fixtures FILE".into()) };
        if flag != "--fixtures" {
            return Err("usage: --fixtures FILE".into());
        }
        let text = fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        let fixtures: Fixtures = serde_json::from_slice(&text).map_err(|error| format!("{path}: {error}"))?;
        let members = |users: Vec<User>| users.into_iter().map(|user| (user.token.clone(), user)).collect();
        Ok(Self { rooms: fixtures.rooms.into_iter().map(|room| (room.room, members(room.users))).collect() })
    }

    pub fn rooms(&self) -> impl Iterator<Item = &str> {
        self.rooms.keys().map(String::as_str)
    }

    /// The member of `room` whose token this is.
    pub fn enter(&self, room: &str, token: &str) -> Result<&User, Closed> {
        if let Some(user) = self.rooms.get(room).and_then(|members| members.get(token)) {
            return Ok(user);
        }
        let known = self.rooms.values().any(|members| members.contains_key(token));
        Err(if known { Closed::NotAMember } else { Closed::Unauthorized })
    }
}

impl User {
    /// What a member is told first.
    pub fn greeting(&self, room: &str) -> String {
        json(&Greeting {
            kind: "connection_established",
            message: format!("Connected to chat room {room}"),
            user_id: &self.id,
            username: &self.username,
        })
    }

    /// What this user's message leads to.
    pub fn say(&self, text: &[u8]) -> Answer {
        match Incoming::read(text) {
            Ok(incoming) => Answer::Broadcast(json(&Outgoing {
                kind: "chat_message",
                message: incoming.message.as_deref().unwrap_or_default(),
                sender_id: &self.id,
                sender_username: &self.username,
                message_id: Uuid::now_v7(),
                timestamp: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
                receiver_id: incoming.receiver_id.as_deref(),
            })),
            Err((message, code)) => Answer::Refusal(json(&Refusal { kind: "error", message, code })),
        }
    }
}

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(rename = "type")]
    kind: Option<Cow<'a, str>>,
    message: Option<Cow<'a, str>>,
    receiver_id: Option<Cow<'a, str>>,
}

impl<'a> Incoming<'a> {
    /// A message that may be broadcast, or what is wrong with it and the code for that.
    fn read(text: &'a [u8]) -> Result<Self, (&'static str, &'static str)> {
        let incoming: Self = serde_json::from_slice(text).map_err(|_| ("Invalid JSON format", "invalid_json"))?;
        match incoming.kind.as_deref() {
            Some("chat_message") => {}
            Some(_) => return Err(("Unknown message type", "unknown_type")),
            None => return Err(("Message type is required", "missing_type")),
        }
        let message = incoming.message.as_deref().ok_or(("Message must be a string", "invalid_message"))?;
        if message.trim().is_empty() {
            return Err(("Message cannot be empty", "empty_message"));
        }
        if message.len() > CHARS_MAX && message.chars().count() > CHARS_MAX {
            return Err(("Message is too long", "message_too_long"));
        }
        Ok(incoming)
    }
}

#[derive(Serialize)]
struct Greeting<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: String,
    user_id: &'a str,
    username: &'a str,
}

#[derive(Serialize)]
struct Outgoing<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
    sender_id: &'a str,
    sender_username: &'a str,
    #[serde(serialize_with = "hyphenated")]
    message_id: Uuid,
    timestamp: String,
    receiver_id: Option<&'a str>,
}

fn hyphenated<S: serde::Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

#[derive(Serialize)]
struct Refusal {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'static str,
    code: &'static str,
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and ids become JSON")
}
