//! Who a client is: the ids and the token that name a person.
//!
//! Plain values, made by `store` and carried by every other module; nothing here does I/O. A [`Token`] is a secret and
//! prints as `Token(…)`, whatever asks it to.

use std::{fmt, str::FromStr, sync::Arc};

use uuid::Uuid;

/// A chat room's id.
pub type RoomId = Uuid;

/// A user's id, in whichever type the database keeps it: `uuid`, or `integer`/`bigint` as stock Django user tables do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UserId {
    /// A `uuid` column; in SQLite, text of 36 characters.
    Uuid(Uuid),
    /// An `integer` or `bigint` column.
    Int(i64),
}

impl fmt::Display for UserId {
    /// UUIDs in lower case with hyphens; integers in decimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UserId::Uuid(id) => id.hyphenated().fmt(f),
            UserId::Int(id) => id.fmt(f),
        }
    }
}

/// The text is neither a UUID nor a decimal integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAUserId;

impl fmt::Display for NotAUserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a user id: give a UUID or a whole number")
    }
}

impl std::error::Error for NotAUserId {}

impl FromStr for UserId {
    type Err = NotAUserId;

    fn from_str(text: &str) -> Result<Self, NotAUserId> {
        // A run of 32 digits is a UUID, not a number: ask for the UUID first.
        match Uuid::try_parse(text) {
            Ok(id) => Ok(UserId::Uuid(id)),
            Err(_) => text.parse().map(UserId::Int).map_err(|_| NotAUserId),
        }
    }
}

/// Somebody whose token was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The id in the users table.
    pub id: UserId,
    /// The name other members see.
    pub username: Box<str>,
}

/// A token of the tokens table. A secret: `Debug` hides it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Token(Arc<str>);

impl Token {
    /// The longest key that is worth asking the database for, in bytes; the original's keys have 40.
    pub const BYTES_MAX: usize = 128;

    /// A token as a client presented it. `None` when no database can hold such a key: empty, too long, or with
    /// characters other than visible ASCII.
    pub fn new(key: &str) -> Option<Token> {
        let fits = (1..=Self::BYTES_MAX).contains(&key.len());
        (fits && key.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Token(key.into()))
    }

    /// The key itself, for the database only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_ids_read_back_what_they_print() {
        for text in ["6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a", "42", "-1", "9223372036854775807"] {
            assert_eq!(text.parse::<UserId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "alice", "9223372036854775808", "6f1e8a52-7d1c-4b1f-9d7e"] {
            assert_eq!(text.parse::<UserId>(), Err(NotAUserId), "{text}");
        }
    }

    #[test]
    fn a_token_never_prints_itself() {
        let token = Token::new("0123456789abcdef").expect("a plain key");
        assert_eq!(format!("{token:?} {:#?}", Some(&token)).matches("0123").count(), 0);
        for bad in ["", "with space", "naïve", "line\nbreak", &"x".repeat(Token::BYTES_MAX + 1)] {
            assert_eq!(Token::new(bad), None, "{bad:?}");
        }
    }
}
