//! Administration of an SQLite file: migrations, users, tokens, rooms, members, fixtures.
//!
//! Each change is one transaction, which takes the file's write lock at once. Blocks its thread; belongs to a command.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::{Id, create, failure, latest_migration, open};
use crate::{
    identity::{RoomId, Token, User, UserId},
    store::{
        Database, Micros, Migrated, Seeded, StoreError,
        admin::{exists_already, no_such_user, random_hex},
        migration::{self, Migration, SQLITE},
    },
};

/// An administrator's connection.
#[derive(Debug)]
pub struct Admin {
    connection: Connection,
    path: PathBuf,
}

/// What a change does not get done for: SQLite's refusal, or ours.
enum Refusal {
    Sql(rusqlite::Error),
    Ours(StoreError),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Refusal {
        Refusal::Sql(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::Ours(error)
    }
}

impl Admin {
    pub(in crate::store) fn open(path: &Path, database: &Database) -> Result<Admin, StoreError> {
        Ok(Admin { connection: open(path, database)?, path: path.into() })
    }

    pub(in crate::store) fn create(path: &Path, database: &Database) -> Result<Admin, StoreError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| {
                StoreError::Refused(format!("cannot make the folder {} ({error}): choose another", folder.display()))
            })?;
        }
        Ok(Admin { connection: create(path, database)?, path: path.into() })
    }

    pub(in crate::store) fn migrate(&mut self) -> Result<Vec<Migrated>, StoreError> {
        let mut done = Vec::new();
        for migration in SQLITE {
            done.extend(self.change(|change| apply(change, migration))?);
        }
        Ok(done)
    }

    pub(in crate::store) fn create_user(&mut self, name: &str, id: Option<UserId>) -> Result<User, StoreError> {
        let id = match id {
            None => Uuid::new_v4(),
            Some(UserId::Uuid(id)) => id,
            Some(UserId::Int(_)) => return Err(StoreError::Refused("ids of users are UUIDs in SQLite".into())),
        };
        self.change(|change| insert_user(change, id, name).map_err(|error| taken(error, "user", name)))?;
        Ok(User { id: UserId::Uuid(id), username: name.into() })
    }

    pub(in crate::store) fn list_users(&mut self) -> Result<Vec<(User, bool)>, StoreError> {
        let user =
            |row: &Row<'_>| Ok((User { id: UserId::Uuid(row.get::<_, Id>(0)?.0), username: row.get(1)? }, row.get(2)?));
        self.list("SELECT id, username, is_active FROM account_user ORDER BY username", user)
    }

    pub(in crate::store) fn deactivate_user(&mut self, name: &str) -> Result<(), StoreError> {
        self.change(|change| {
            match change.execute("UPDATE account_user SET is_active = 0 WHERE username = ?1", [name])? {
                0 => Err(no_such_user(name).into()),
                _ => Ok(()),
            }
        })
    }

    pub(in crate::store) fn create_token(&mut self, user: &str) -> Result<(Token, bool), StoreError> {
        let fresh = random_hex::<20>()?;
        let (key, made) = self.change(|change| {
            let id = user_id(change, user)?;
            let present =
                change.query_one("SELECT key FROM authtoken_token WHERE user_id = ?1", [id], |row| row.get(0));
            match present.optional()? {
                Some(key) => Ok((key, false)),
                None => insert_token(change, &fresh, id).map(|()| (fresh, true)).map_err(Refusal::from),
            }
        })?;
        let unusable =
            || StoreError::Refused("the user's token in the database is none that a client could send".into());
        Ok((Token::new(&key).ok_or_else(unusable)?, made))
    }

    pub(in crate::store) fn revoke_token(&mut self, user: &str) -> Result<bool, StoreError> {
        self.change(|change| {
            let id = user_id(change, user)?;
            Ok(change.execute("DELETE FROM authtoken_token WHERE user_id = ?1", [id])? > 0)
        })
    }

    pub(in crate::store) fn create_room(&mut self, name: &str, id: Option<RoomId>) -> Result<RoomId, StoreError> {
        let id = id.unwrap_or_else(Uuid::new_v4);
        self.change(|change| insert_room(change, id, name).map_err(|error| taken(error, "room", name)))?;
        Ok(id)
    }

    pub(in crate::store) fn list_rooms(&mut self) -> Result<Vec<(RoomId, String, u64)>, StoreError> {
        const QUERY: &str = "
            SELECT r.id, r.name, (SELECT count(*) FROM chat_chatroom_members m WHERE m.chatroom_id = r.id)
            FROM chat_chatroom r ORDER BY r.name, r.id";
        let room = |row: &Row<'_>| Ok((row.get::<_, Id>(0)?.0, row.get(1)?, row.get::<_, i64>(2)?.unsigned_abs()));
        self.list(QUERY, room)
    }

    /// The rooms with this id or, if none has it, with this name.
    pub(in crate::store) fn rooms_called(&mut self, room: &str) -> Result<Vec<RoomId>, StoreError> {
        self.change(|change| {
            let mut named = change.prepare("SELECT id FROM chat_chatroom WHERE name = ?1 ORDER BY id")?;
            if let Ok(id) = Uuid::try_parse(room)
                && change.prepare("SELECT 1 FROM chat_chatroom WHERE id = ?1")?.exists([Id(id)])?
            {
                return Ok(vec![id]);
            }
            Ok(named.query_map([room], |row| row.get(0).map(|Id(id)| id))?.collect::<SqlResult<_>>()?)
        })
    }

    pub(in crate::store) fn add_members(&mut self, room: RoomId, users: &[&str]) -> Result<u64, StoreError> {
        self.change(|change| {
            if !change.prepare("SELECT 1 FROM chat_chatroom WHERE id = ?1")?.exists([Id(room)])? {
                return Err(StoreError::Refused(format!("there is no room {room}: see `ringroom room list`")).into());
            }
            let mut added = 0;
            for user in users {
                added += insert_member(change, room, user_id(change, user)?)? as u64;
            }
            Ok(added)
        })
    }

    pub(in crate::store) fn remove_members(&mut self, room: RoomId, users: &[&str]) -> Result<u64, StoreError> {
        const DELETE: &str = "DELETE FROM chat_chatroom_members WHERE chatroom_id = ?1 AND user_id = ?2";
        self.change(|change| {
            let mut removed = 0;
            for user in users {
                removed += change.execute(DELETE, [Id(room), user_id(change, user)?])? as u64;
            }
            Ok(removed)
        })
    }

    pub(in crate::store) fn seed(&mut self, rooms: u32, users_per_room: u32) -> Result<Seeded, StoreError> {
        let (names, mut seeded) = Seeded::plan(rooms, users_per_room)?;
        self.change(|change| {
            for (room, name) in seeded.rooms.iter_mut().zip(&names) {
                insert_room(change, room.room, name)?;
                for user in &mut room.users {
                    let id = Uuid::new_v4();
                    user.id = id.to_string();
                    insert_user(change, id, &user.username)?;
                    insert_token(change, &user.token, Id(id))?;
                    insert_member(change, room.room, Id(id))?;
                }
            }
            Ok(())
        })?;
        Ok(seeded)
    }

    /// Rows of a query without parameters.
    fn list<T>(&self, query: &str, read: impl Fn(&Row<'_>) -> SqlResult<T>) -> Result<Vec<T>, StoreError> {
        let rows = || -> SqlResult<_> { self.connection.prepare(query)?.query_map([], |row| read(row))?.collect() };
        rows().map_err(|error| self.told(error))
    }

    /// One transaction: committed when `work` succeeds, undone when it does not.
    fn change<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> Result<T, Refusal>) -> Result<T, StoreError> {
        let done = || -> Result<T, Refusal> {
            let change = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let outcome = work(&change)?;
            change.commit()?;
            Ok(outcome)
        };
        done().map_err(|refusal| match refusal {
            Refusal::Ours(error) => error,
            Refusal::Sql(error) => self.told(error),
        })
    }

    fn told(&self, error: rusqlite::Error) -> StoreError {
        match error {
            rusqlite::Error::SqliteFailure(_, Some(text)) if text.starts_with("no such table") => {
                StoreError::Refused(format!("{} lacks tables: run `ringroom migrate`", self.path.display()))
            }
            error => failure(&error, &self.path),
        }
    }
}

/// Runs one migration, unless it is recorded.
fn apply(change: &Transaction<'_>, migration: &Migration) -> Result<Option<Migrated>, Refusal> {
    const RECORD: &str = "
        CREATE TABLE IF NOT EXISTS ringroom_migrations (
            version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied INTEGER NOT NULL
        ) STRICT";
    let latest = latest_migration(change)?;
    migration::check_recorded(latest, SQLITE)?;
    if latest >= Some(migration.version) {
        return Ok(None);
    }
    let tables = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    if latest.is_none() && change.query_one(tables, [], |row| row.get::<_, i64>(0))? > 0 {
        let text = "the file is another application's database: give ringroom a file of its own";
        return Err(StoreError::Refused(text.into()).into());
    }
    change.execute_batch(RECORD)?;
    change.execute_batch(migration.sql)?;
    let record = "INSERT INTO ringroom_migrations (version, name, applied) VALUES (?1, ?2, ?3)";
    change.execute(record, params![migration.version, migration.name, now()])?;
    Ok(Some(Migrated::Applied(migration.name)))
}

fn insert_user(change: &Transaction<'_>, id: Uuid, name: &str) -> SqlResult<()> {
    const INSERT: &str = "INSERT INTO account_user (id, username, is_active, date_joined) VALUES (?1, ?2, 1, ?3)";
    change.prepare_cached(INSERT)?.execute(params![Id(id), name, now()]).map(|_| ())
}

fn insert_token(change: &Transaction<'_>, key: &str, user: Id) -> SqlResult<()> {
    const INSERT: &str = "INSERT INTO authtoken_token (key, created, user_id) VALUES (?1, ?2, ?3)";
    change.prepare_cached(INSERT)?.execute(params![key, now(), user]).map(|_| ())
}

fn insert_room(change: &Transaction<'_>, id: RoomId, name: &str) -> SqlResult<()> {
    const INSERT: &str = "INSERT INTO chat_chatroom (id, name) VALUES (?1, ?2)";
    change.prepare_cached(INSERT)?.execute(params![Id(id), name]).map(|_| ())
}

/// How many members that made: none when the user was one already.
fn insert_member(change: &Transaction<'_>, room: RoomId, user: Id) -> SqlResult<usize> {
    const INSERT: &str = "
        INSERT INTO chat_chatroom_members (chatroom_id, user_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    change.prepare_cached(INSERT)?.execute(params![Id(room), user])
}

/// The id of a user, who must exist.
fn user_id(change: &Transaction<'_>, name: &str) -> Result<Id, Refusal> {
    let id = change.query_one("SELECT id FROM account_user WHERE username = ?1", [name], |row| row.get(0));
    id.optional()?.ok_or_else(|| no_such_user(name).into())
}

/// The error for a user or room that could not be made.
fn taken(error: rusqlite::Error, what: &str, name: &str) -> Refusal {
    // SQLITE_CONSTRAINT_UNIQUE and SQLITE_CONSTRAINT_PRIMARYKEY
    match error.sqlite_extended_error_code() {
        Some(2067 | 1555) => exists_already(what, name).into(),
        _ => error.into(),
    }
}

fn now() -> Micros {
    // A clock before 1970 is worth no error here: nothing reads these but people.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as Micros)
}
