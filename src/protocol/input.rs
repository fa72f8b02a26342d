//! A client's text becomes a chat message, or the error that the client is told.
//!
//! In: the payload of a text frame, already UTF-8. Out: a [`ChatMessage`] that borrows from it, or an [`InputError`]. Each
//! shard owns one [`Parser`] and its buffers; on the way of a good message it allocates nothing. It never decides who
//! is a member or whether a sender is too fast: it only has the words for that.
//!
//! simd-json reads the text in place. What it refuses is read again by serde_json, slowly and without unescaping what
//! nobody asked for, because a few things are JSON and yet too much for simd-json: lone surrogates, numbers beyond 64
//! bits, nesting beyond 1,024. Python's `json`, which clients of the original application were written against, takes
//! all of them.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use simd_json::{Buffers, Node, StaticNode, Tape};

use crate::identity::UserId;

macro_rules! input_errors {
    ($($(#[$doc:meta])* $name:ident = $message:literal, $code:literal;)*) => {
        /// Why a message is not taken. The connection stays open, and only the sender is told. When several apply, the
        /// first in this order is told.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum InputError { $($(#[$doc])* $name,)* }

        impl InputError {
            /// Every error, in the order in which they are looked for.
            pub const ALL: &[InputError] = &[$(InputError::$name,)*];

            /// The words for a person.
            pub const fn message(self) -> &'static str { match self { $(InputError::$name => $message,)* } }

            /// The word for a program.
            pub const fn code(self) -> &'static str { match self { $(InputError::$name => $code,)* } }
        }
    };
}

input_errors! {
    /// Not JSON, something after the JSON, or nothing at all.
    NotJson = "Invalid JSON format", "invalid_json";
    /// JSON, but not an object.
    NotAnObject = "Message must be a JSON object", "invalid_json";
    /// No `type`.
    TypeMissing = "Message type is required", "missing_type";
    /// A `type` other than `chat_message`.
    TypeUnknown = "Unknown message type", "unknown_type";
    /// `message` is absent or not a string.
    MessageNotAString = "Message must be a string", "invalid_message";
    /// `message` is empty or holds only white space.
    MessageEmpty = "Message cannot be empty", "empty_message";
    /// `message` holds NUL or a lone surrogate, which no database text can.
    MessageInvalid = "Message contains invalid characters", "invalid_message";
    /// `message` has too many characters.
    MessageTooLong = "Message is too long", "message_too_long";
    /// `receiver_id` is neither null nor the id of a user.
    ReceiverInvalid = "Invalid receiver_id", "invalid_receiver";
    /// `receiver_id` names nobody in the room.
    ReceiverNotMember = "Receiver is not a member of this chat room", "invalid_receiver";
    /// The sender is over its rate.
    RateLimited = "Too many messages", "rate_limited";
    /// The message could not be made durable.
    NotSaved = "Message could not be saved", "not_saved";
}

/// A message as a client sent it.
#[derive(Debug, PartialEq, Eq)]
pub struct ChatMessage<'a> {
    /// The text: not only white space, no NUL, within its limit. It is borrowed from the frame, except after a detour
    /// through the slow path.
    pub message: Cow<'a, str>,
    /// Whom it addresses, if anyone in particular. Not yet checked to be a member.
    pub receiver: Option<UserId>,
}

/// Reads messages, one after the other, with the same buffers.
pub struct Parser {
    buffers: Buffers,
    tape: Tape<'static>,
    /// The text as it came: parsing in place may leave it changed when it fails.
    copy: Vec<u8>,
}

impl Parser {
    /// A parser whose buffers hold messages of usual size, and grow with larger ones.
    pub fn new() -> Parser {
        const USUAL_BYTES: usize = 4096;
        Parser { buffers: Buffers::new(USUAL_BYTES), tape: Tape(Vec::new()), copy: Vec::with_capacity(USUAL_BYTES) }
    }

    /// Reads one message. `text` is changed: strings are unescaped where they lie. `message_chars_max` counts Unicode
    /// characters.
    ///
    /// # Errors
    /// The first [`InputError`] that applies, of those that show in the text itself.
    pub fn parse<'a>(&mut self, text: &'a mut [u8], message_chars_max: usize) -> Result<ChatMessage<'a>, InputError> {
        self.copy.clear();
        self.copy.extend_from_slice(text);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let fields = match simd_json::fill_tape(text, &mut self.buffers, &mut tape) {
            Ok(()) => Fields::of_tape(&tape.0),
            Err(_) => Fields::of_text(&self.copy),
        };
        self.tape = tape.reset();
        fields?.check(message_chars_max)
    }
}

impl Default for Parser {
    fn default() -> Self {
        Parser::new()
    }
}

/// The value of a key that matters.
#[derive(Debug, Default)]
enum Field<'a> {
    #[default]
    Absent,
    Null,
    Text(Cow<'a, str>),
    /// A string that holds a lone surrogate and so has no UTF-8.
    Surrogate,
    Integer(i64),
    /// A number that is no id, a boolean, an array, an object.
    Other,
}

/// The keys that matter, as the two ways of reading leave them. Of a repeated key the last counts.
#[derive(Debug, Default)]
struct Fields<'a> {
    kind: Field<'a>,
    message: Field<'a>,
    receiver: Field<'a>,
}

impl<'a> Fields<'a> {
    fn set(&mut self, key: &[u8], value: Field<'a>) {
        match key {
            b"type" => self.kind = value,
            b"message" => self.message = value,
            b"receiver_id" => self.receiver = value,
            _ => {}
        }
    }

    /// The fast way: out of what simd-json made of the text.
    fn of_tape(nodes: &[Node<'a>]) -> Result<Fields<'a>, InputError> {
        let Some((Node::Object { .. }, mut rest)) = nodes.split_first() else {
            return Err(InputError::NotAnObject);
        };
        let mut fields = Fields::default();
        while let [Node::String(key), value, ..] = rest {
            fields.set(key.as_bytes(), Field::of_node(value));
            let inner = match value {
                Node::Object { count, .. } | Node::Array { count, .. } => *count,
                Node::String(_) | Node::Static(_) => 0,
            };
            rest = rest.get(2 + inner..).unwrap_or_default();
        }
        Ok(fields)
    }

    /// The slow way: the text may be no JSON at all, or only more than simd-json takes.
    fn of_text<'t>(text: &'t [u8]) -> Result<Fields<'a>, InputError> {
        let json: &'t RawValue = serde_json::from_slice(text).map_err(|_| InputError::NotJson)?;
        if !json.get().starts_with('{') {
            return Err(InputError::NotAnObject);
        }
        serde_json::from_str(json.get()).map_err(|_| InputError::NotJson)
    }

    /// Asks what the fields must fulfil, in the order of [`InputError`].
    fn check(self, message_chars_max: usize) -> Result<ChatMessage<'a>, InputError> {
        match self.kind {
            Field::Absent => return Err(InputError::TypeMissing),
            Field::Text(kind) if kind == "chat_message" => {}
            _ => return Err(InputError::TypeUnknown),
        }
        let message = match self.message {
            Field::Text(message) => message,
            Field::Surrogate => return Err(InputError::MessageInvalid),
            _ => return Err(InputError::MessageNotAString),
        };
        check_message(&message, message_chars_max)?;
        let receiver = match self.receiver {
            Field::Absent | Field::Null => None,
            Field::Integer(id) => Some(UserId::Int(id)),
            Field::Text(id) => Some(id.parse().map_err(|_| InputError::ReceiverInvalid)?),
            Field::Surrogate | Field::Other => return Err(InputError::ReceiverInvalid),
        };
        Ok(ChatMessage { message, receiver })
    }
}

fn check_message(message: &str, chars_max: usize) -> Result<(), InputError> {
    if message.chars().all(is_space) {
        return Err(InputError::MessageEmpty);
    }
    if message.as_bytes().contains(&0) {
        return Err(InputError::MessageInvalid);
    }
    // A text has at most as many characters as bytes, so most need no counting.
    if message.len() > chars_max && message.chars().count() > chars_max {
        return Err(InputError::MessageTooLong);
    }
    Ok(())
}

/// White space as Python's `str.strip` has it: Unicode's, and the four separators of ASCII.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

impl<'a> Field<'a> {
    fn of_node(node: &Node<'a>) -> Field<'a> {
        match *node {
            Node::String(text) => Field::Text(Cow::Borrowed(text)),
            Node::Static(StaticNode::Null) => Field::Null,
            Node::Static(StaticNode::I64(number)) => Field::Integer(number),
            Node::Static(StaticNode::U64(number)) => number.try_into().map_or(Field::Other, Field::Integer),
            _ => Field::Other,
        }
    }

    /// The field of a JSON value that is known to be well-formed.
    fn of_json(json: &str) -> Field<'a> {
        match json.as_bytes().first() {
            Some(b'n') => Field::Null,
            Some(b'"') => match serde_json::from_str(json) {
                Ok(JsonString(bytes)) => {
                    String::from_utf8(bytes).map_or(Field::Surrogate, |text| Field::Text(text.into()))
                }
                Err(_) => Field::Other,
            },
            _ => json.parse().map_or(Field::Other, Field::Integer),
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor(Fields::default()))
    }
}

struct FieldsVisitor<'a>(Fields<'a>);

impl<'de, 'a> Visitor<'de> for FieldsVisitor<'a> {
    type Value = Fields<'a>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<Fields<'a>, M::Error> {
        while let Some(JsonString(key)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            self.0.set(&key, Field::of_json(value.get()));
        }
        Ok(self.0)
    }
}

/// A JSON string as bytes: serde_json then lets lone surrogates pass, spelled as UTF-8 would spell them if it could.
struct JsonString(Vec<u8>);

impl<'de> Deserialize<'de> for JsonString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = JsonString;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<JsonString, E> {
                Ok(JsonString(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;

    const CHARS_MAX: usize = 20;
    const ID: &str = "6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a";

    fn parsed(text: &[u8]) -> Result<(String, Option<UserId>), InputError> {
        let mut text = text.to_vec();
        let message = Parser::new().parse(&mut text, CHARS_MAX)?;
        Ok((message.message.into_owned(), message.receiver))
    }

    #[track_caller]
    fn check(text: impl AsRef<[u8]>, expected: Result<&str, InputError>) {
        let text = text.as_ref();
        let parsed = parsed(text).map(|(message, _)| message);
        assert_eq!(parsed.as_deref().map_err(|error| *error), expected, "{}", String::from_utf8_lossy(text));
    }

    #[track_caller]
    fn check_message(json: &str, expected: Result<&str, InputError>) {
        check(format!(r#"{{"type":"chat_message","message":{json}}}"#), expected);
    }

    #[track_caller]
    fn check_receiver(json: &str, expected: Result<Option<UserId>, InputError>) {
        let text = format!(r#"{{"type":"chat_message","message":"hi","receiver_id":{json}}}"#);
        assert_eq!(parsed(text.as_bytes()).map(|(_, receiver)| receiver), expected, "{text}");
    }

    #[test]
    fn what_is_no_json_is_said_to_be_none() {
        for text in [
            "",
            " ",
            "\0",
            "{",
            "}",
            "{}x",
            "{} {}",
            "{,}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{'a':1}",
            "[1,]",
            "nul",
            "tru",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"a\nb\"",
            "01",
            "-",
            "+1",
            "1.",
            ".5",
            "1e",
            "0x1",
            "NaN",
            "{\"a\":NaN}",
            "{\"a\":-Infinity}",
            "\u{feff}{}",
            "{\"type\":\"chat_message\",\"message\":\"hi\"}\0",
            "\u{a0}{}",
            "\x0c{}",
            "{\"\\u12\":1}",
            "/**/{}",
        ] {
            check(text, Err(InputError::NotJson));
        }
    }

    #[test]
    fn json_that_is_no_object_is_said_to_be_json() {
        for text in [
            "[]",
            "null",
            "true",
            " 1 ",
            "-0",
            "1e999",
            "\"{}\"",
            "[{}]",
            "123456789012345678901234567890",
            "\"\\ud800\"",
        ] {
            check(text, Err(InputError::NotAnObject));
        }
    }

    #[test]
    fn errors_are_told_in_the_order_of_the_table() {
        check("{}", Err(InputError::TypeMissing));
        check(r#"{"message":5,"receiver_id":5.5}"#, Err(InputError::TypeMissing));
        check(r#"{"TYPE":"chat_message","message":"hi"}"#, Err(InputError::TypeMissing));
        for kind in ["null", "1", "\"\"", "\"chat\"", "\"chat_message \"", "[\"chat_message\"]", "\"\\udc00\""] {
            check(format!(r#"{{"message":5,"type":{kind}}}"#), Err(InputError::TypeUnknown));
        }
        check(r#"{"type":"chat_message"}"#, Err(InputError::MessageNotAString));
        let receiver_too = r#"","receiver_id":"nobody"#;
        check_message(&format!(r#"" \u0085{receiver_too}""#), Err(InputError::MessageEmpty));
        check_message(&format!(r#""\u0000 {}{receiver_too}""#, "x".repeat(CHARS_MAX)), Err(InputError::MessageInvalid));
        check_message(&format!(r#""{}{receiver_too}""#, "x".repeat(CHARS_MAX + 1)), Err(InputError::MessageTooLong));
        check_message(&format!(r#""hi{receiver_too}""#), Err(InputError::ReceiverInvalid));
    }

    #[test]
    fn messages_are_strings_with_something_in_them() {
        for json in ["null", "1", "true", "{}", "[\"hi\"]", "1e999"] {
            check_message(json, Err(InputError::MessageNotAString));
        }
        for json in [r#""""#, r#"" ""#, r#""\t\r\n\u000b\f""#, r#""\u001c\u001f\u2003\u3000""#] {
            check_message(json, Err(InputError::MessageEmpty));
        }
        for json in
            [r#""\u0000""#, r#""a\u0000b""#, r#""\ud800""#, r#""a\udc00""#, r#""\ud83dx\ude00""#, r#""\udc00\ud800""#]
        {
            check_message(json, Err(InputError::MessageInvalid));
        }
        check_message(r#"" hi ""#, Ok(" hi "));
        check_message(r#""\u0001\u200b""#, Ok("\u{1}\u{200b}"));
        check_message(r#""\ud83d\ude00 \u00e9\/\\\"""#, Ok("\u{1f600} \u{e9}/\\\""));
        check_message("\"\u{1f600}\u{7f}\u{ffff}\"", Ok("\u{1f600}\u{7f}\u{ffff}"));
    }

    #[test]
    fn the_limit_counts_characters_not_bytes() {
        for character in ["x", "\u{e9}", "\u{1f600}"] {
            check_message(&format!("\"{}\"", character.repeat(CHARS_MAX)), Ok(&character.repeat(CHARS_MAX)));
            check_message(&format!("\"{}\"", character.repeat(CHARS_MAX + 1)), Err(InputError::MessageTooLong));
        }
    }

    #[test]
    fn receivers_are_ids_or_nobody() {
        let id = ID.parse().expect("an id");
        check_receiver("null", Ok(None));
        check_receiver(&format!("\"{ID}\""), Ok(Some(id)));
        check_receiver(&format!("\"{}\"", ID.to_uppercase()), Ok(Some(id)));
        check_receiver("\"42\"", Ok(Some(UserId::Int(42))));
        check_receiver("42", Ok(Some(UserId::Int(42))));
        check_receiver("-9223372036854775808", Ok(Some(UserId::Int(i64::MIN))));
        for json in
            ["\"\"", "\"alice\"", "4.5", "9223372036854775808", "1e999", "true", "{}", "[]", "\"\\ud800\"", "\" 42\""]
        {
            check_receiver(json, Err(InputError::ReceiverInvalid));
        }
    }

    #[test]
    fn other_keys_are_ignored_and_the_last_of_a_repeated_key_wins() {
        let hi = r#""type":"chat_message","message":"hi""#;
        for extra in
            ["1e999", "123456789012345678901234567890", "\"\\ud800\"", "{\"type\":[{\"message\":1}]}", "[[],{}]", "-0"]
        {
            check(format!(r#"{{"x":{extra},{hi}}}"#), Ok("hi"));
            check(format!(r#"{{{hi},"x":{extra},"":0}}"#), Ok("hi"));
        }
        check(format!(r#"{{"\udfff":1,"\u0000":2,{hi}}}"#), Ok("hi"));
        check(format!(r#"{{"type":1,"message":2,"receiver_id":3.5,{hi},"receiver_id":null}}"#), Ok("hi"));
        check(format!(r#"{{{hi},"message":"ho"}}"#), Ok("ho"));
        check(format!(r#"{{{hi},"message":null}}"#), Err(InputError::MessageNotAString));
        check(format!(r#"{{{hi},"m\u0065ssage":"h\u006f"}}"#), Ok("ho"));
        check(format!(" \t\r\n{{{hi}}}\n "), Ok("hi"));
    }

    #[test]
    fn nesting_costs_no_stack() {
        for depth in [10, 1_023, 1_024, 1_025, 32_000] {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            check(&open, Err(InputError::NotJson));
            check(format!("{open}{close}"), Err(InputError::NotAnObject));
            check(format!(r#"{{"x":{open}{close},"type":"chat_message","message":"hi"}}"#), Ok("hi"));
            check(format!(r#"{{"type":"chat_message","message":{open}{close}}}"#), Err(InputError::MessageNotAString));
            check("{\"a\":".repeat(depth), Err(InputError::NotJson));
        }
    }

    #[test]
    fn one_parser_reads_many_messages() {
        let mut parser = Parser::new();
        for (text, expected) in [
            (r#"{"type":"chat_message","message":"one"}"#, Some("one")),
            (r#"{"type":"chat_message","message":"t\u0077o\"#, None),
            (r#"{"type":"chat_message","message":"t\u0077o","x":1e999}"#, Some("two")),
            (r#"{"type":"chat_message","message":"three"}"#, Some("three")),
        ] {
            let mut text = text.as_bytes().to_vec();
            let message = parser.parse(&mut text, CHARS_MAX);
            assert_eq!(message.ok().map(|message| message.message.into_owned()).as_deref(), expected);
        }
    }

    /// What PROTOCOL.md says, in the plainest way, out of a JSON library that builds a tree. `None`: it cannot tell.
    fn naive(text: &[u8]) -> Option<Result<(String, Option<UserId>), InputError>> {
        if serde_json::from_slice::<IgnoredAny>(text).is_err() {
            return Some(Err(InputError::NotJson));
        }
        let value: Value = serde_json::from_slice(text).ok()?;
        // serde_json makes -0 a float, so it cannot tell -0, an integer, from -0.0.
        let is_minus_zero = value["receiver_id"].as_f64().is_some_and(|id| id == 0.0 && id.is_sign_negative());
        (!is_minus_zero).then(|| naive_fields(&value))
    }

    fn naive_fields(value: &Value) -> Result<(String, Option<UserId>), InputError> {
        let object = value.as_object().ok_or(InputError::NotAnObject)?;
        let kind = object.get("type").ok_or(InputError::TypeMissing)?;
        if kind != "chat_message" {
            return Err(InputError::TypeUnknown);
        }
        let message = object.get("message").and_then(Value::as_str).ok_or(InputError::MessageNotAString)?;
        if message.trim_matches(is_space).is_empty() {
            return Err(InputError::MessageEmpty);
        }
        if message.contains('\0') {
            return Err(InputError::MessageInvalid);
        }
        if message.chars().count() > CHARS_MAX {
            return Err(InputError::MessageTooLong);
        }
        let receiver = match object.get("receiver_id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) => Some(id.parse().map_err(|_| InputError::ReceiverInvalid)?),
            Some(id) => Some(UserId::Int(id.as_i64().ok_or(InputError::ReceiverInvalid)?)),
        };
        Ok((message.to_owned(), receiver))
    }

    /// A document out of pieces that matter, often well-formed, often nearly.
    fn random_text(random: &mut StdRng) -> Vec<u8> {
        const VALUES: &[&str] = &[
            "\"chat_message\"",
            "\"hi\"",
            "\"\"",
            "\" \"",
            "null",
            "true",
            "false",
            "1",
            "-0",
            "0.1e-5",
            "1e999",
            "-12345678901234567890",
            "18446744073709551615",
            "9223372036854775807",
            "\"\\u0000\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud800\"",
            "\"\\\\\\\"\"",
            "{}",
            "[]",
            "[1,[2,{\"type\":3}]]",
            "{\"a\":{\"b\":\"c\"}}",
            "\"6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a\"",
            "\"\u{1f600}\u{e9}\"",
            "\"7\"",
            "\"twenty-one characters!\"",
            "\"a text that is longer than sixty-four bytes, so that it spans two blocks of the parser\"",
        ];
        const KEYS: &[&str] = &["\"type\"", "\"message\"", "\"receiver_id\"", "\"x\"", "\"t\\u0079pe\"", "\"\\udfff\""];
        let mut pick = |from: &[&'static str]| from[random.random_range(0..from.len())];
        let mut text = String::from("{\"type\":\"chat_message\",\"message\":\"hi\"");
        if pick(&["", "", "x"]).is_empty() {
            text = format!("{{{}:{}", pick(KEYS), pick(VALUES));
        }
        while pick(&["more", "more", ""]) == "more" {
            text += &format!(
                "{}{}{}:{}{}",
                pick(&[",", ", ", ",\n\t"]),
                pick(KEYS),
                pick(&["", " "]),
                pick(&["", " "]),
                pick(VALUES)
            );
        }
        text += "}";
        let mut bytes = text.into_bytes();
        for _ in 0..random.random_range(0..3_u8) {
            let at = random.random_range(0..bytes.len());
            const BYTES: &[u8] = b"\"\\{}[]:,0e-. \n\x01u1ntf";
            match random.random_range(0..6_u8) {
                0 => bytes[at] = BYTES[random.random_range(0..BYTES.len())],
                1 => bytes.insert(at, BYTES[random.random_range(0..BYTES.len())]),
                2 => drop(bytes.remove(at)),
                3 => bytes.truncate(at.max(1)),
                _ => {}
            }
        }
        bytes
    }

    #[test]
    fn both_ways_of_reading_agree_with_a_naive_one() {
        let seed =
            std::env::var("RINGROOM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
        println!("RINGROOM_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut parser = Parser::new();
        let mut taken = 0;
        for _ in 0..50_000 {
            let text = random_text(&mut random);
            if std::str::from_utf8(&text).is_err() {
                continue;
            }
            let shown = String::from_utf8_lossy(&text);
            let mut in_place = text.clone();
            let fast = parser.parse(&mut in_place, CHARS_MAX).map(|m| (m.message.into_owned(), m.receiver));
            let slow = Fields::of_text(&text)
                .and_then(|fields| fields.check(CHARS_MAX))
                .map(|m| (m.message.into_owned(), m.receiver));
            assert_eq!(fast, slow, "{shown}");
            match naive(&text) {
                Some(expected) => assert_eq!(fast, expected, "{shown}"),
                None => assert_ne!(fast, Err(InputError::NotJson), "{shown}"),
            }
            taken += usize::from(fast.is_ok());
        }
        assert!(taken > 1_000, "{taken} of the documents were messages");
    }
}
