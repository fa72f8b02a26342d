//! The JSON that clients receive.
//!
//! In: ids, names and texts. Out: whole WebSocket text frames at the end of the batch that the caller owns, each written
//! once and never moved or copied again when its length is a usual one. Keys stand in the order that clients are promised.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};
use uuid::{Uuid, fmt::Hyphenated};

use super::InputError;
use crate::{
    identity::{RoomId, User, UserId},
    stamp::{RFC_3339_BYTES, put_rfc3339},
    store::Micros,
    ws::encode,
};

/// The bytes of an envelope beside its message and name: keys, quotes, three ids and a timestamp, and a few to spare.
const ENVELOPE_BYTES: usize = 160 + 3 * Hyphenated::LENGTH + RFC_3339_BYTES;

/// A message on its way to the members of a room, or out of the table.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The text, exactly as it was sent.
    pub message: &'a str,
    /// Who sent it.
    pub sender: UserId,
    /// The name of the sender.
    pub sender_username: &'a str,
    /// The message's id.
    pub id: Uuid,
    /// When it was stamped.
    pub timestamp: Micros,
    /// Whom it addresses, if anyone in particular.
    pub receiver: Option<UserId>,
}

/// The first frame of a connection.
pub fn established(out: &mut BytesMut, room: RoomId, user: &User) {
    let frame = encode::begin_text(out);
    out.put_slice(br#"{"type":"connection_established","message":"Connected to chat room "#);
    put_uuid(out, room);
    out.put_slice(br#"","user_id":"#);
    put_user_id(out, user.id);
    out.put_slice(br#","username":"#);
    put_string(out, &user.username);
    out.put_u8(b'}');
    encode::end(out, frame);
}

/// The frame that tells a sender why its message was not taken.
pub fn error(out: &mut BytesMut, error: InputError) {
    let frame = encode::begin_text(out);
    out.put_slice(br#"{"type":"error","message":"#);
    put_string(out, error.message());
    out.put_slice(br#","code":"#);
    put_string(out, error.code());
    out.put_u8(b'}');
    encode::end(out, frame);
}

/// The frame of a message that is broadcast.
pub fn chat_message(out: &mut BytesMut, envelope: &Envelope<'_>) {
    out.reserve(ENVELOPE_BYTES + envelope.message.len() + envelope.sender_username.len());
    let frame = encode::begin_text(out);
    chat_message_json(out, envelope);
    encode::end(out, frame);
}

/// The payload of [`chat_message`] alone, for the history.
pub fn chat_message_json(out: &mut BytesMut, envelope: &Envelope<'_>) {
    out.put_slice(br#"{"type":"chat_message","message":"#);
    put_string(out, envelope.message);
    out.put_slice(br#","sender_id":"#);
    put_user_id(out, envelope.sender);
    out.put_slice(br#","sender_username":"#);
    put_string(out, envelope.sender_username);
    out.put_slice(br#","message_id":""#);
    put_uuid(out, envelope.id);
    out.put_slice(br#"","timestamp":""#);
    put_rfc3339(out, envelope.timestamp);
    out.put_slice(br#"","receiver_id":"#);
    match envelope.receiver {
        Some(receiver) => put_user_id(out, receiver),
        None => out.put_slice(b"null"),
    }
    out.put_u8(b'}');
}

/// In lower case with hyphens, without quotes.
fn put_uuid(out: &mut BytesMut, id: Uuid) {
    out.put_slice(id.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]).as_bytes());
}

/// A JSON string whatever the database keeps: a client need not know, and JavaScript cannot hold every `bigint`.
fn put_user_id(out: &mut BytesMut, id: UserId) {
    out.put_u8(b'"');
    match id {
        UserId::Uuid(id) => put_uuid(out, id),
        UserId::Int(id) => write!(out, "{id}").expect("a buffer takes all that is written"),
    }
    out.put_u8(b'"');
}

/// A JSON string (RFC 8259 section 7): quotes, backslashes and control characters are escaped, all else stays as it is.
pub fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = first_to_escape(rest) {
        out.put_slice(&rest[..at]);
        put_escaped(out, rest[at]);
        rest = &rest[at + 1..];
    }
    out.put_slice(rest);
    out.put_u8(b'"');
}

/// Where the first byte is that a JSON string cannot hold as it is. Blocks are tested whole, in vector registers.
fn first_to_escape(bytes: &[u8]) -> Option<usize> {
    let (blocks, _) = bytes.as_chunks::<16>();
    let clean = blocks.iter().take_while(|block| !block.iter().fold(false, |any, byte| any | needs_escape(*byte)));
    let start = 16 * clean.count();
    bytes[start..].iter().position(|byte| needs_escape(*byte)).map(|at| start + at)
}

#[inline(always)]
fn needs_escape(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

fn put_escaped(out: &mut BytesMut, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
            return out.put_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
        }
    };
    out.put_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Uuid = Uuid::from_u128(0x6f1e8a52_7d1c_4b1f_9d7e_0b9f2f1d3c4a);

    /// The payload of the one frame that `write` makes.
    fn payload(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        let header = if out[1] < 126 { 2 } else { 4 };
        assert_eq!(out[0], 0x81, "a whole text frame");
        String::from_utf8(out[header..].to_vec()).expect("UTF-8")
    }

    fn envelope(message: &str) -> Envelope<'_> {
        Envelope {
            message,
            sender: UserId::Uuid(ROOM),
            sender_username: "alice",
            id: ROOM,
            timestamp: 1_704_110_400_123_456,
            receiver: None,
        }
    }

    #[test]
    fn the_first_frame_greets() {
        let user = User { id: UserId::Int(7), username: "Z\u{f6}e \"z\"".into() };
        assert_eq!(
            payload(|out| established(out, ROOM, &user)),
            "{\"type\":\"connection_established\",\"message\":\"Connected to chat room 6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a\",\
             \"user_id\":\"7\",\"username\":\"Z\u{f6}e \\\"z\\\"\"}"
        );
    }

    #[test]
    fn errors_carry_their_words_and_code() {
        assert_eq!(
            payload(|out| error(out, InputError::TypeUnknown)),
            r#"{"type":"error","message":"Unknown message type","code":"unknown_type"}"#
        );
        for input_error in InputError::ALL {
            let json: serde_json::Value = serde_json::from_str(&payload(|out| error(out, *input_error))).expect("JSON");
            assert_eq!(json["code"], input_error.code());
        }
    }

    #[test]
    fn a_broadcast_has_its_keys_in_order() {
        assert_eq!(
            payload(|out| chat_message(out, &envelope("Hello, world!"))),
            "{\"type\":\"chat_message\",\"message\":\"Hello, world!\",\
             \"sender_id\":\"6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a\",\"sender_username\":\"alice\",\
             \"message_id\":\"6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a\",\"timestamp\":\"2024-01-01T12:00:00.123456Z\",\
             \"receiver_id\":null}"
        );
        for (receiver, expected) in [(UserId::Int(i64::MIN), "-9223372036854775808"), (UserId::Uuid(ROOM), "6f1e8a52-")]
        {
            let json = payload(|out| chat_message(out, &Envelope { receiver: Some(receiver), ..envelope("") }));
            assert!(json.contains(&format!(r#""receiver_id":"{expected}"#)), "{json}");
        }
    }

    #[test]
    fn the_history_holds_the_same_bytes_and_they_were_reserved() {
        let envelope = Envelope { receiver: Some(UserId::Uuid(ROOM)), ..envelope("again") };
        let mut history = BytesMut::new();
        chat_message_json(&mut history, &envelope);
        assert_eq!(history, payload(|out| chat_message(out, &envelope)));
        assert!(history.len() + 14 <= ENVELOPE_BYTES + "again".len() + "alice".len());
    }

    #[test]
    fn every_character_reads_back_wherever_it_stands() {
        let all: Vec<char> =
            (0..=0x2fff_u32).chain([0xfffd, 0xffff, 0x1_f600, 0x10_ffff]).filter_map(char::from_u32).collect();
        for before in 0..40 {
            for character in &all[..0x90] {
                let text = format!("{}{character}{}", "x".repeat(before), "y".repeat(17));
                let mut out = BytesMut::new();
                put_string(&mut out, &text);
                assert_eq!(serde_json::from_slice::<String>(&out).ok(), Some(text));
            }
        }
        let text: String = all.iter().collect();
        let mut out = BytesMut::new();
        put_string(&mut out, &text);
        assert_eq!(serde_json::from_slice::<String>(&out).ok().as_ref(), Some(&text));
        assert_eq!(out.len(), text.len() + 2 + 5 * 27 + 7, "only control characters, quote and backslash grow");
    }
}
