//! What the command line does to a database: migrate it, and keep its users, tokens, rooms and members.
//!
//! Belongs to a command that runs once and ends, so it waits as long as its work takes and, with SQLite, blocks its
//! thread. Never part of a running server.

use rand::{TryRng, rngs::SysRng};
use serde::Serialize;

use super::{Database, DatabaseUrl, Migrated, StoreError, postgres, sqlite};
use crate::identity::{RoomId, Token, User, UserId};

/// A connection for administration. Names of users and rooms that do not exist are [`StoreError::Refused`].
#[derive(Debug)]
pub enum Admin {
    /// A Postgres server.
    Postgres(Box<postgres::Admin>),
    /// A file.
    Sqlite(sqlite::Admin),
}

/// Calls the method of the database at hand.
macro_rules! both {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match $self {
            Admin::Postgres(admin) => admin.$method($($argument),*).await,
            Admin::Sqlite(admin) => admin.$method($($argument),*),
        }
    };
}

impl Admin {
    /// Connects to a database that exists; the tables may be missing still, for [`migrate`](Admin::migrate) to make.
    pub async fn open(database: &Database) -> Result<Admin, StoreError> {
        Ok(match &database.url {
            DatabaseUrl::Postgres(config) => Admin::Postgres(Box::new(postgres::Admin::open(config, database).await?)),
            DatabaseUrl::Sqlite(path) => Admin::Sqlite(sqlite::Admin::open(path, database)?),
        })
    }

    /// As [`open`](Admin::open), but a missing SQLite file is made, with its folder.
    pub async fn create(database: &Database) -> Result<Admin, StoreError> {
        match &database.url {
            DatabaseUrl::Postgres(_) => Admin::open(database).await,
            DatabaseUrl::Sqlite(path) => Ok(Admin::Sqlite(sqlite::Admin::create(path, database)?)),
        }
    }

    /// Brings the schema up to this version. Tells what was done, nothing when there was nothing to do. Safe to run from
    /// two processes at once.
    pub async fn migrate(&mut self) -> Result<Vec<Migrated>, StoreError> {
        both!(self.migrate())
    }

    /// Makes an active user, who cannot log in to a Django site (no password). Without `id` a new one is chosen.
    pub async fn create_user(&mut self, name: &str, id: Option<UserId>) -> Result<User, StoreError> {
        both!(self.create_user(name, id))
    }

    /// Every user by name, and whether active.
    pub async fn list_users(&mut self) -> Result<Vec<(User, bool)>, StoreError> {
        both!(self.list_users())
    }

    /// Makes a user inactive: the token stays and opens nothing.
    pub async fn deactivate_user(&mut self, name: &str) -> Result<(), StoreError> {
        both!(self.deactivate_user(name))
    }

    /// The user's one token, and whether it was made just now.
    pub async fn create_token(&mut self, user: &str) -> Result<(Token, bool), StoreError> {
        both!(self.create_token(user))
    }

    /// Deletes the user's token. `false` when there was none.
    pub async fn revoke_token(&mut self, user: &str) -> Result<bool, StoreError> {
        both!(self.revoke_token(user))
    }

    /// Makes a room. Without `id` a new one is chosen. Names need not be unique.
    pub async fn create_room(&mut self, name: &str, id: Option<RoomId>) -> Result<RoomId, StoreError> {
        both!(self.create_room(name, id))
    }

    /// Every room by name: id, name, number of members.
    pub async fn list_rooms(&mut self) -> Result<Vec<(RoomId, String, u64)>, StoreError> {
        both!(self.list_rooms())
    }

    /// The room with this id or this name. Refused when none has it, and when several do.
    pub async fn find_room(&mut self, room: &str) -> Result<RoomId, StoreError> {
        let found = both!(self.rooms_called(room))?;
        match found.as_slice() {
            [id] => Ok(*id),
            [] => Err(StoreError::Refused(format!(
                "there is no room {room:?}: see `ringroom room list`, or make it with `ringroom room create`"
            ))),
            several => Err(StoreError::Refused(format!(
                "{} rooms are called {room:?}: name one by its id, of {}",
                several.len(),
                several.iter().map(RoomId::to_string).collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// Makes users members of a room; all of them or, when one does not exist, none. Returns how many were not members
    /// before.
    pub async fn add_members(&mut self, room: RoomId, users: &[&str]) -> Result<u64, StoreError> {
        both!(self.add_members(room, users))
    }

    /// Ends memberships of a room; all of them or, when a user does not exist, none. Returns how many there were.
    pub async fn remove_members(&mut self, room: RoomId, users: &[&str]) -> Result<u64, StoreError> {
        both!(self.remove_members(room, users))
    }

    /// Makes `rooms` new rooms with `users_per_room` new users each, members of that room and with a token: fixtures for
    /// load tests. Names begin with `seed-` and do not repeat, however often this is done.
    pub async fn seed(&mut self, rooms: u32, users_per_room: u32) -> Result<Seeded, StoreError> {
        both!(self.seed(rooms, users_per_room))
    }
}

/// What [`Admin::seed`] made, as a load generator reads it. Holds secrets.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Seeded {
    /// The rooms.
    pub rooms: Vec<SeededRoom>,
}

/// A room and its members.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct SeededRoom {
    /// The room's id.
    pub room: RoomId,
    /// Its members.
    pub users: Vec<SeededUser>,
}

/// A member.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct SeededUser {
    /// The user's id, as text whatever its type.
    pub id: String,
    /// The user's name.
    pub username: String,
    /// The user's token. A secret.
    pub token: String,
}

impl Seeded {
    /// A plan without ids of users: names of rooms, and rooms with named users and their tokens.
    pub(super) fn plan(rooms: u32, users_per_room: u32) -> Result<(Vec<String>, Seeded), StoreError> {
        let run = &random_hex::<5>()?;
        let names = (1..=rooms).map(|room| format!("seed-{run}-{room:04}")).collect::<Vec<_>>();
        let user = |room: &str, nth| -> Result<SeededUser, StoreError> {
            let username = format!("{room}-{nth:04}");
            Ok(SeededUser { id: String::new(), username, token: random_hex::<20>()? })
        };
        let planned = names.iter().map(|name| -> Result<SeededRoom, StoreError> {
            let users = (1..=users_per_room).map(|nth| user(name, nth)).collect::<Result<_, _>>()?;
            Ok(SeededRoom { room: RoomId::new_v4(), users })
        });
        let rooms = planned.collect::<Result<_, _>>()?;
        Ok((names, Seeded { rooms }))
    }

    /// Every user, room by room.
    pub(super) fn users(&self) -> impl Iterator<Item = &SeededUser> {
        self.rooms.iter().flat_map(|room| &room.users)
    }
}

/// `2 * N` hexadecimal digits that nobody can guess, from the operating system's random source. Django REST framework's
/// tokens are forty of them.
pub(super) fn random_hex<const N: usize>() -> Result<String, StoreError> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| StoreError::Refused(format!("the operating system has no random numbers to give: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The text for a user name that no user has.
pub(super) fn no_such_user(name: &str) -> StoreError {
    StoreError::Refused(format!(
        "there is no user {name:?}: see `ringroom user list`, or `ringroom user create {name}`"
    ))
}

/// The text for a user or a room that is there already.
pub(super) fn exists_already(what: &str, name: &str) -> StoreError {
    StoreError::Refused(format!("{what} {name:?} exists already, or another has this id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_forty_hex_digits_and_never_the_same() {
        let (one, other) = (random_hex::<20>().unwrap(), random_hex::<20>().unwrap());
        for key in [&one, &other] {
            assert_eq!(key.len(), 40);
            assert!(key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{key}");
        }
        assert_ne!(one, other);
    }

    #[test]
    fn a_seed_reads_as_load_generators_expect() {
        let users = vec![SeededUser { id: "7".into(), username: "ann".into(), token: "t".into() }];
        let seeded = Seeded { rooms: vec![SeededRoom { room: RoomId::nil(), users }] };
        assert_eq!(
            serde_json::to_string(&seeded).unwrap(),
            r#"{"rooms":[{"room":"00000000-0000-0000-0000-000000000000","users":[{"id":"7","username":"ann","token":"t"}]}]}"#
        );
    }
}
