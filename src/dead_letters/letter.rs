//! One dead letter: a refused message, when and why it was refused, as one line of JSON.
//!
//! In: a record of the journal and a reason. Out: a line, and from a line the message again, exactly: a user's id is a
//! string where it is a UUID and a number where it is an integer, a point in time has all its microseconds. Pure.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    identity::{RoomId, UserId},
    journal::record::Record,
    store::{Micros, Row},
};

/// A message that the database refused. The fields are the line's keys, in its order; a line with others was written by
/// a ringroom that knows more, and is not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Letter {
    /// When the database first refused it.
    #[serde(with = "moment")]
    pub refused_at: Micros,
    /// What the database said the last time.
    pub reason: String,
    /// The message's id.
    pub id: Uuid,
    /// The room it was sent to.
    pub room: RoomId,
    /// Who sent it.
    #[serde(with = "user")]
    pub sender: UserId,
    /// How the sender was called then.
    pub sender_username: String,
    /// Whom it addresses, if anyone in particular.
    #[serde(with = "maybe_user")]
    pub receiver: Option<UserId>,
    /// When it was sent.
    #[serde(with = "moment")]
    pub timestamp: Micros,
    /// Its text.
    pub text: String,
}

impl Letter {
    /// The letter of a message that was refused at this time, for this reason.
    pub fn new(record: &Record<'_>, reason: &str, refused_at: Micros) -> Letter {
        let Record { row, sender_username } = record;
        Letter {
            refused_at,
            reason: reason.into(),
            id: row.id,
            room: row.room,
            sender: row.sender,
            sender_username: (*sender_username).into(),
            receiver: row.receiver,
            timestamp: row.timestamp,
            text: row.content.into(),
        }
    }

    /// The message as it would enter the table.
    pub fn row(&self) -> Row<'_> {
        let Letter { id, room, sender, receiver, timestamp, ref text, .. } = *self;
        Row { id, room, sender, receiver, timestamp, content: text }
    }

    /// Appends the letter as one line.
    pub fn put(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("strings and numbers always are JSON, and memory takes them");
        out.push(b'\n');
    }

    /// Reads a line, with or without its end.
    ///
    /// # Errors
    /// When it is no letter: cut off, edited into something else, or of a newer ringroom.
    pub fn read(line: &[u8]) -> Result<Letter, serde_json::Error> {
        serde_json::from_slice(line)
    }
}

mod moment {
    //! A point in time: RFC 3339, UTC, six fractional digits.

    use bytes::BytesMut;
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _, ser::Error as _};

    use crate::{
        stamp::{put_rfc3339, read_rfc3339},
        store::Micros,
    };

    pub(super) fn serialize<S: Serializer>(moment: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = BytesMut::new();
        put_rfc3339(&mut text, *moment);
        serializer.serialize_str(str::from_utf8(&text).map_err(S::Error::custom)?)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Micros, D::Error> {
        let text = String::deserialize(deserializer)?;
        let expected = || D::Error::custom("a time is written as 2024-01-01T12:00:00.123456Z");
        read_rfc3339(&text).ok_or_else(expected)
    }
}

/// A user's id as JSON has it.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a user's id is a UUID in a string, or a whole number")]
enum Id {
    Int(i64),
    Uuid(Uuid),
}

impl From<UserId> for Id {
    fn from(id: UserId) -> Id {
        match id {
            UserId::Int(id) => Id::Int(id),
            UserId::Uuid(id) => Id::Uuid(id),
        }
    }
}

impl From<Id> for UserId {
    fn from(id: Id) -> UserId {
        match id {
            Id::Int(id) => UserId::Int(id),
            Id::Uuid(id) => UserId::Uuid(id),
        }
    }
}

mod user {
    //! A user's id.

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Id;
    use crate::identity::UserId;

    pub(super) fn serialize<S: Serializer>(user: &UserId, serializer: S) -> Result<S::Ok, S::Error> {
        Id::from(*user).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UserId, D::Error> {
        Id::deserialize(deserializer).map(UserId::from)
    }
}

mod maybe_user {
    //! A user's id, or `null`.

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Id;
    use crate::identity::UserId;

    pub(super) fn serialize<S: Serializer>(user: &Option<UserId>, serializer: S) -> Result<S::Ok, S::Error> {
        user.map(Id::from).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UserId>, D::Error> {
        Ok(Option::<Id>::deserialize(deserializer)?.map(UserId::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        Letter {
            refused_at: 1_704_110_400_123_456,
            reason: "no such \"room\"".into(),
            id: Uuid::from_u128(1),
            room: Uuid::from_u128(2),
            sender: UserId::Int(7),
            sender_username: "zo\u{eb}".into(),
            receiver: Some(UserId::Uuid(Uuid::from_u128(3))),
            timestamp: 1,
            text: "one\r\ntwo\u{2028}\0\u{1f600}".into(),
        }
    }

    fn line(letter: &Letter) -> Vec<u8> {
        let mut line = Vec::new();
        letter.put(&mut line);
        line
    }

    #[test]
    fn a_letter_is_one_line_that_people_and_jq_can_read() {
        assert_eq!(
            String::from_utf8(line(&letter())).unwrap(),
            "{\"refused_at\":\"2024-01-01T12:00:00.123456Z\",\"reason\":\"no such \\\"room\\\"\",\
             \"id\":\"00000000-0000-0000-0000-000000000001\",\"room\":\"00000000-0000-0000-0000-000000000002\",\
             \"sender\":7,\"sender_username\":\"zo\u{eb}\",\"receiver\":\"00000000-0000-0000-0000-000000000003\",\
             \"timestamp\":\"1970-01-01T00:00:00.000001Z\",\"text\":\"one\\r\\ntwo\u{2028}\\u0000\u{1f600}\"}\n"
        );
    }

    #[test]
    fn every_letter_reads_back_as_it_was() {
        let ids = [UserId::Int(i64::MIN), UserId::Int(i64::MAX), UserId::Int(0), UserId::Uuid(Uuid::max())];
        for sender in ids {
            for receiver in ids.map(Some).into_iter().chain([None]) {
                for timestamp in [0, 1, 1_704_110_400_000_000, 1_704_110_400_999_999, 253_402_300_799_999_999] {
                    let letter = Letter { sender, receiver, timestamp, ..letter() };
                    assert_eq!(Letter::read(&line(&letter)).unwrap(), letter);
                }
            }
        }
        assert_eq!(line(&letter()).iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn a_line_that_is_cut_off_or_of_another_kind_is_no_letter() {
        let whole = line(&letter());
        for cut in 0..whole.len() - 1 {
            assert!(Letter::read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        let text = String::from_utf8(whole).unwrap();
        for (from, to) in [
            ("\"sender\":7", "\"sender\":\"7\""),
            ("\"sender\":7", "\"sender\":7.5"),
            ("\"sender\":7", "\"sender\":9223372036854775808"),
            ("\"sender\":7", "\"sender\":null"),
            (".000001Z", "Z"),
            ("{\"refused_at\"", "{\"topic\":\"x\",\"refused_at\""),
            ("}\n", "}{}\n"),
        ] {
            let other = text.replace(from, to);
            assert!(other != text && Letter::read(other.as_bytes()).is_err(), "{other}");
        }
    }
}
