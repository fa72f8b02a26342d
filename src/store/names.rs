//! What the tables and columns are called: configuration section `[tables]`.
//!
//! The defaults are those of ringroom's own migrations, which are a Django chat application's. Plain text; the quoting
//! that makes it safe in a statement is here, the statements are below `postgres`.

use serde::{Deserialize, Serialize};

macro_rules! names {
    ($($(#[$doc:meta])* $key:ident = $default:literal,)*) => {
        /// Names of the tables and columns that ringroom reads and writes. A table may be given as `schema.table`.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Names {
            $($(#[$doc])* pub $key: String,)*
        }

        impl Default for Names {
            fn default() -> Self {
                Names { $($key: $default.to_owned(),)* }
            }
        }

        impl Names {
            /// Every key of the section with its name.
            fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
                [$((stringify!($key), self.$key.as_str()),)*].into_iter()
            }

            /// The same names as identifiers, ready to stand in a statement.
            pub(super) fn quoted(&self) -> Names {
                Names { $($key: quoted(&self.$key),)* }
            }
        }
    };
}

names! {
    /// Table of users.
    users = "account_user",
    /// Its key: `uuid`, `bigint` or `integer`, found out by looking.
    user_id = "id",
    /// The name that other members see.
    user_name = "username",
    /// Whether the user may connect.
    user_active = "is_active",
    /// Table of tokens.
    tokens = "authtoken_token",
    /// The token itself.
    token_key = "key",
    /// Whose it is.
    token_user = "user_id",
    /// When it was made.
    token_created = "created",
    /// Table of rooms.
    rooms = "chat_chatroom",
    /// Its key, a `uuid`.
    room_id = "id",
    /// What people call the room; only the command line reads it.
    room_name = "name",
    /// Table of who is a member of which room.
    members = "chat_chatroom_members",
    /// The room.
    member_room = "chatroom_id",
    /// The user. When no column is called so, the members table's one foreign key to the users table is taken.
    member_user = "user_id",
    /// Table of messages.
    messages = "chat_message",
    /// Its key, a `uuid`.
    message_id = "id",
    /// The room it was sent to.
    message_room = "room_id",
    /// Who sent it.
    message_sender = "sender_id",
    /// Whom it addresses; may be null.
    message_receiver = "receiver_id",
    /// When it was sent, `timestamp with time zone`.
    message_timestamp = "timestamp",
    /// Its text.
    message_content = "content",
}

/// The keys that name tables; the others name columns.
pub(super) const TABLES: [&str; 5] = ["users", "tokens", "rooms", "members", "messages"];

impl Names {
    /// A text for the operator when a name can belong to nothing: empty, or with a NUL character.
    pub fn check(&self) -> Result<(), String> {
        let bad = |(key, name): &(&str, &str)| {
            let dotted = !TABLES.contains(key) && name.contains('.');
            dotted || name.contains('\0') || name.split('.').any(str::is_empty)
        };
        match self.all().find(bad) {
            Some((key, name)) => Err(format!("tables.{key} = {name:?} is no name of a table or column")),
            None => Ok(()),
        }
    }

    /// The name under a key of the section.
    pub(super) fn get(&self, key: &str) -> &str {
        self.all().find(|(known, _)| *known == key).map_or("", |(_, name)| name)
    }
}

/// `name`, or each part of `schema.table`, as an identifier in a statement.
pub(super) fn quoted(name: &str) -> String {
    name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_overrides_what_it_names_and_nothing_else() {
        let names: Names = toml::from_str("member_user = 'customuser_id'\nmessages = 'im.message'").unwrap();
        let expected = Names { member_user: "customuser_id".into(), messages: "im.message".into(), ..Names::default() };
        assert_eq!(names, expected);
        let error = toml::from_str::<Names>("mesages = 'x'").unwrap_err().to_string();
        assert!(error.contains("mesages"), "{error}");
    }

    #[test]
    fn an_identifier_cannot_leave_its_quotes() {
        assert_eq!(quoted("timestamp"), r#""timestamp""#);
        assert_eq!(quoted(r#"x"; DROP TABLE y; --"#), r#""x""; DROP TABLE y; --""#);
        assert_eq!(quoted("im.message"), r#""im"."message""#);
        assert_eq!(quoted(r#"a".b"#), r#""a"""."b""#);
    }

    #[test]
    fn a_name_of_nothing_is_told_with_its_key() {
        assert_eq!(Names::default().check(), Ok(()));
        for bad in ["", "a\0", ".message", "im."] {
            let names = Names { messages: bad.into(), ..Names::default() };
            assert!(names.check().unwrap_err().contains("tables.messages"), "{bad:?}");
        }
        let names = Names { message_id: "im.id".into(), ..Names::default() };
        assert!(names.check().unwrap_err().contains("tables.message_id"));
    }
}
