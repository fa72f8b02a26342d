//! Administration of a Postgres database: migrations, users, tokens, rooms, members, fixtures.
//!
//! Each change is one statement or one transaction. Tables made by Django have no defaults, so every column that
//! ringroom knows is given a value, and a table that demands more is refused before anything is tried.

use tokio_postgres::{Client, Config, Row, types::ToSql};
use uuid::Uuid;

use super::{
    connect, failure,
    schema::{self, Schema},
    wire::{IdType, Key},
    within,
};
use crate::{
    identity::{RoomId, Token, User, UserId},
    store::{
        Database, Migrated, Names, Seeded, StoreError,
        admin::{exists_already, no_such_user, random_hex},
        migration::{self, Migration, POSTGRES},
        names::{TABLES, quoted},
    },
};

/// An administrator's connection.
#[derive(Debug)]
pub struct Admin {
    client: Client,
    names: Names,
    /// What the tables look like, once something but a migration was asked.
    schema: Option<Schema>,
}

/// The advisory lock that holds while a migration runs.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"ringroom");

/// What to do about a table of users that demands more than ringroom knows.
const USE_DJANGO: &str = ", or make users with your application and only tokens and members here";

impl Admin {
    pub(in crate::store) async fn open(config: &Config, database: &Database) -> Result<Admin, StoreError> {
        let (client, _) = within(database.connect_timeout, database, connect(config, database)).await?;
        Ok(Admin { client, names: database.names.clone(), schema: None })
    }

    pub(in crate::store) async fn migrate(&mut self) -> Result<Vec<Migrated>, StoreError> {
        let mut done = Vec::new();
        for migration in POSTGRES {
            done.extend(self.apply(migration).await?);
        }
        Ok(done)
    }

    /// Runs or records one migration, unless it is recorded.
    async fn apply(&mut self, migration: &Migration) -> Result<Option<Migrated>, StoreError> {
        const RECORD: &str = "CREATE TABLE IF NOT EXISTS ringroom_migrations (
            version integer PRIMARY KEY, name text NOT NULL, applied timestamptz NOT NULL DEFAULT now())";
        let transaction = self.client.transaction().await.map_err(asked)?;
        let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
        transaction.batch_execute(&lock).await.map_err(asked)?;
        let latest = schema::latest_migration(transaction.client()).await?;
        migration::check_recorded(latest, POSTGRES)?;
        if latest >= Some(migration.version) {
            return Ok(None);
        }
        let made_elsewhere = migration.version == 1 && made_elsewhere(transaction.client(), &self.names).await?;
        transaction.batch_execute(RECORD).await.map_err(asked)?;
        if !made_elsewhere {
            transaction.batch_execute(migration.sql).await.map_err(asked)?;
        }
        let record = "INSERT INTO ringroom_migrations (version, name) VALUES ($1, $2)";
        transaction.execute(record, &[&migration.version, &migration.name]).await.map_err(asked)?;
        transaction.commit().await.map_err(asked)?;
        Ok(Some(match made_elsewhere {
            true => Migrated::AlreadyThere(migration.name),
            false => Migrated::Applied(migration.name),
        }))
    }

    pub(in crate::store) async fn create_user(&mut self, name: &str, id: Option<UserId>) -> Result<User, StoreError> {
        let id_type = self.schema().await?.user_id;
        if id.is_some_and(|id| !id_type.holds(id)) {
            return Err(StoreError::Refused(format!("the users table's ids are of type {}", id_type.sql())));
        }
        let id = id.or_else(|| new_id(id_type));
        let rows = self.insert_users(&[name], id.as_slice()).await.map_err(|error| taken(error, "user", name))?;
        let row = rows.first().ok_or_else(|| no_such_user(name))?;
        Ok(User { id: get::<Key>(row, 0)?.0, username: name.into() })
    }

    /// Inserts users, with ids in the same order or none at all; answers rows of id and name.
    async fn insert_users(&mut self, names: &[&str], ids: &[UserId]) -> Result<Vec<Row>, Refusal> {
        let query = insert_users(self.schema().await?, ids.is_empty())?;
        let ids = ids.iter().copied().map(Key).collect::<Vec<_>>();
        let parameters: &[&(dyn ToSql + Sync)] = if ids.is_empty() { &[&names] } else { &[&names, &ids] };
        Ok(self.client.query(&query, parameters).await?)
    }

    pub(in crate::store) async fn list_users(&mut self) -> Result<Vec<(User, bool)>, StoreError> {
        let Names { users, user_id, user_name, user_active, .. } = &self.schema().await?.sql;
        let query = format!("SELECT {user_id}, {user_name}, {user_active} FROM {users} ORDER BY {user_name}");
        let user = |row: &Row| {
            Ok((User { id: get::<Key>(row, 0)?.0, username: get::<String>(row, 1)?.into() }, get::<bool>(row, 2)?))
        };
        self.client.query(&query, &[]).await.map_err(asked)?.iter().map(user).collect()
    }

    pub(in crate::store) async fn deactivate_user(&mut self, name: &str) -> Result<(), StoreError> {
        let Names { users, user_name, user_active, .. } = &self.schema().await?.sql;
        let query = format!("UPDATE {users} SET {user_active} = false WHERE {user_name} = $1");
        match self.client.execute(&query, &[&name]).await.map_err(asked)? {
            0 => Err(no_such_user(name)),
            _ => Ok(()),
        }
    }

    pub(in crate::store) async fn create_token(&mut self, user: &str) -> Result<(Token, bool), StoreError> {
        let id = self.user_ids(&[user]).await?;
        if let Some(token) = self.token_of(&id).await? {
            return Ok((token, false));
        }
        let made = self.insert_tokens(&[random_hex::<20>()?], &id).await? == 1;
        // Of two who make it at once, one finds the other's.
        let token = self.token_of(&id).await?;
        let missing = || StoreError::Refused(format!("the token of {user:?} was deleted while it was being made"));
        Ok((token.ok_or_else(missing)?, made))
    }

    async fn token_of(&mut self, user: &[Key]) -> Result<Option<Token>, StoreError> {
        let Names { tokens, token_key, token_user, .. } = &self.schema().await?.sql;
        let query = format!("SELECT {token_key} FROM {tokens} WHERE {token_user} = ANY ($1) LIMIT 1");
        let rows = self.client.query(&query, &[&user]).await.map_err(asked)?;
        let unusable =
            || StoreError::Refused("the user's token in the database is none that a client could send".into());
        rows.first().map(|row| Token::new(get(row, 0)?).ok_or_else(unusable)).transpose()
    }

    async fn insert_tokens(&mut self, keys: &[String], users: &[Key]) -> Result<u64, StoreError> {
        let query = insert_tokens(self.schema().await?)?;
        self.client.execute(&query, &[&keys, &users]).await.map_err(asked)
    }

    pub(in crate::store) async fn revoke_token(&mut self, user: &str) -> Result<bool, StoreError> {
        let id = self.user_ids(&[user]).await?;
        let Names { tokens, token_user, .. } = &self.schema().await?.sql;
        let query = format!("DELETE FROM {tokens} WHERE {token_user} = ANY ($1)");
        Ok(self.client.execute(&query, &[&id]).await.map_err(asked)? > 0)
    }

    pub(in crate::store) async fn create_room(&mut self, name: &str, id: Option<RoomId>) -> Result<RoomId, StoreError> {
        let id = id.unwrap_or_else(Uuid::new_v4);
        self.insert_rooms(&[id], &[name]).await.map_err(|error| taken(error, "room", name))?;
        Ok(id)
    }

    async fn insert_rooms(&mut self, ids: &[RoomId], names: &[&str]) -> Result<(), Refusal> {
        let query = insert_rooms(self.schema().await?)?;
        self.client.execute(&query, &[&ids, &names]).await?;
        Ok(())
    }

    pub(in crate::store) async fn list_rooms(&mut self) -> Result<Vec<(RoomId, String, u64)>, StoreError> {
        let schema = self.schema().await?;
        schema.need("rooms", "room_name")?;
        let Names { rooms, room_id, room_name, members, member_room, .. } = &schema.sql;
        let query = format!(
            "SELECT r.{room_id}, r.{room_name}, (SELECT count(*) FROM {members} m WHERE m.{member_room} = r.{room_id})
             FROM {rooms} r ORDER BY r.{room_name}, r.{room_id}"
        );
        let room = |row: &Row| Ok((get(row, 0)?, get(row, 1)?, get::<i64>(row, 2)?.unsigned_abs()));
        self.client.query(&query, &[]).await.map_err(asked)?.iter().map(room).collect()
    }

    /// The rooms with this id or, if none has it, with this name.
    pub(in crate::store) async fn rooms_called(&mut self, room: &str) -> Result<Vec<RoomId>, StoreError> {
        let schema = self.schema().await?;
        let Names { rooms, room_id, room_name, .. } = &schema.sql;
        let by_id = format!("SELECT {room_id} FROM {rooms} WHERE {room_id} = $1");
        let by_name = format!("SELECT {room_id} FROM {rooms} WHERE {room_name} = $1 ORDER BY {room_id}");
        let nameable = schema.need("rooms", "room_name");
        if let Ok(id) = Uuid::try_parse(room)
            && self.client.query_opt(&by_id, &[&id]).await.map_err(asked)?.is_some()
        {
            return Ok(vec![id]);
        }
        nameable?;
        self.client.query(&by_name, &[&room]).await.map_err(asked)?.iter().map(|row| get(row, 0)).collect()
    }

    pub(in crate::store) async fn add_members(&mut self, room: RoomId, users: &[&str]) -> Result<u64, StoreError> {
        let ids = self.user_ids(users).await?;
        let query = insert_members(self.schema().await?)?;
        self.client.execute(&query, &[&vec![room; ids.len()], &ids]).await.map_err(|error| match sqlstate(&error) {
            "23503" => StoreError::Refused(format!("there is no room {room}: see `ringroom room list`")),
            _ => asked(error),
        })
    }

    pub(in crate::store) async fn remove_members(&mut self, room: RoomId, users: &[&str]) -> Result<u64, StoreError> {
        let ids = self.user_ids(users).await?;
        let Names { members, member_room, member_user, .. } = &self.schema().await?.sql;
        let query = format!("DELETE FROM {members} WHERE {member_room} = $1 AND {member_user} = ANY ($2)");
        self.client.execute(&query, &[&room, &ids]).await.map_err(asked)
    }

    /// The ids of users, all of whom must exist.
    async fn user_ids(&mut self, users: &[&str]) -> Result<Vec<Key>, StoreError> {
        let Names { users: table, user_id, user_name, .. } = &self.schema().await?.sql;
        let query = format!("SELECT {user_name}, {user_id} FROM {table} WHERE {user_name} = ANY ($1::text[])");
        let rows = self.client.query(&query, &[&users]).await.map_err(asked)?;
        let found = rows.iter().map(|row| get::<&str>(row, 0)).collect::<Result<Vec<_>, _>>()?;
        match users.iter().find(|name| !found.contains(name)) {
            Some(name) => Err(no_such_user(name)),
            None => rows.iter().map(|row| get(row, 1)).collect(),
        }
    }

    pub(in crate::store) async fn seed(&mut self, rooms: u32, users_per_room: u32) -> Result<Seeded, StoreError> {
        let (names, mut seeded) = Seeded::plan(rooms, users_per_room)?;
        // What cannot be inserted is told before anything is.
        let schema = self.schema().await?;
        let id_type = schema.user_id;
        let (new_users, new_tokens) = (insert_users(schema, id_type == IdType::Int)?, insert_tokens(schema)?);
        let (new_rooms, new_members) = (insert_rooms(schema)?, insert_members(schema)?);

        let usernames: Vec<_> = seeded.users().map(|user| user.username.as_str()).collect();
        let keys: Vec<_> = seeded.users().map(|user| user.token.as_str()).collect();
        let room_ids: Vec<_> = seeded.rooms.iter().map(|room| room.room).collect();
        let room_of_each: Vec<_> = seeded.rooms.iter().flat_map(|room| room.users.iter().map(|_| room.room)).collect();
        let ids: Vec<_> = usernames.iter().filter_map(|_| new_id(id_type)).map(Key).collect();

        let transaction = self.client.transaction().await.map_err(asked)?;
        let users: &[&(dyn ToSql + Sync)] = if ids.is_empty() { &[&usernames] } else { &[&usernames, &ids] };
        let mut made = std::collections::HashMap::with_capacity(usernames.len());
        for row in transaction.query(&new_users, users).await.map_err(asked)? {
            made.insert(get::<String>(&row, 1)?, get::<Key>(&row, 0)?);
        }
        let ids: Vec<_> = usernames.iter().filter_map(|name| made.get(*name)).collect();
        transaction.execute(&new_tokens, &[&keys, &ids]).await.map_err(asked)?;
        transaction.execute(&new_rooms, &[&room_ids, &names]).await.map_err(asked)?;
        transaction.execute(&new_members, &[&room_of_each, &ids]).await.map_err(asked)?;
        transaction.commit().await.map_err(asked)?;

        for user in seeded.rooms.iter_mut().flat_map(|room| &mut room.users) {
            user.id = made.get(&user.username).map(|Key(id)| id.to_string()).unwrap_or_default();
        }
        Ok(seeded)
    }

    /// What the tables look like.
    async fn schema(&mut self) -> Result<&Schema, StoreError> {
        let schema = match self.schema.take() {
            Some(schema) => schema,
            None => Schema::probe(&self.client, &self.names).await?,
        };
        Ok(self.schema.insert(schema))
    }
}

/// Whether another application made the five tables. Some of them alone are nobody's schema.
async fn made_elsewhere(client: &Client, names: &Names) -> Result<bool, StoreError> {
    let found = schema::existing(client, names).await?;
    if found.len() == TABLES.len() {
        return Ok(true);
    }
    if !found.is_empty() {
        let list = |there: bool| {
            let keys = TABLES.iter().filter(|key| found.contains(key) == there);
            keys.map(|key| format!("{:?}", names.get(key))).collect::<Vec<_>>().join(", ")
        };
        return Err(StoreError::Refused(format!(
            "the database has {} and lacks {}, so these are not the tables of a chat application: \
             correct section [tables], or give ringroom a database of its own",
            list(true),
            list(false)
        )));
    }
    if *names != Names::default() {
        return Err(StoreError::Refused(
            "none of the tables named in section [tables] is there, and ringroom makes tables under its default names only: \
             correct the section to fit your application's tables, or remove it"
                .into(),
        ));
    }
    Ok(false)
}

/// `INSERT` of users from arrays of names and, unless the database numbers them itself, ids; answers id and name.
fn insert_users(schema: &Schema, numbered: bool) -> Result<String, StoreError> {
    // `!` marks a Django password that no log-in matches; the rest keeps its reset links apart.
    let password = format!("'!{}'", random_hex::<20>()?);
    let known = [
        (schema.name("user_name"), "n.name"),
        (schema.name("user_active"), "true"),
        ("is_staff", "false"),
        ("is_superuser", "false"),
        ("password", password.as_str()),
        ("first_name", "''"),
        ("last_name", "''"),
        ("email", "''"),
        ("date_joined", "now()"),
    ];
    let id = (!numbered).then_some((schema.name("user_id"), "n.id"));
    let source = match numbered {
        true => "unnest($1::text[]) AS n (name)".to_owned(),
        false => format!("unnest($1::text[], $2::{}[]) AS n (name, id)", schema.user_id.sql()),
    };
    let insert = insert_from(schema, "users", &known.into_iter().chain(id).collect::<Vec<_>>(), &source, USE_DJANGO)?;
    Ok(format!("{insert} RETURNING {}, {}", schema.sql.user_id, schema.sql.user_name))
}

/// `INSERT` of tokens from arrays of keys and users; a user who has one keeps it.
fn insert_tokens(schema: &Schema) -> Result<String, StoreError> {
    let columns = [
        (schema.name("token_key"), "n.key"),
        (schema.name("token_user"), "n.id"),
        (schema.name("token_created"), "now()"),
    ];
    let source = format!("unnest($1::text[], $2::{}[]) AS n (key, id)", schema.user_id.sql());
    Ok(insert_from(schema, "tokens", &columns, &source, "")? + " ON CONFLICT DO NOTHING")
}

/// `INSERT` of rooms from arrays of ids and names.
fn insert_rooms(schema: &Schema) -> Result<String, StoreError> {
    schema.need("rooms", "room_name")?;
    let columns = [(schema.name("room_id"), "n.id"), (schema.name("room_name"), "n.name")];
    insert_from(schema, "rooms", &columns, "unnest($1::uuid[], $2::text[]) AS n (id, name)", "")
}

/// `INSERT` of members from arrays of rooms and users; who is a member stays one.
fn insert_members(schema: &Schema) -> Result<String, StoreError> {
    let columns = [(schema.name("member_room"), "n.room"), (schema.name("member_user"), "n.id")];
    let source = format!("unnest($1::uuid[], $2::{}[]) AS n (room, id)", schema.user_id.sql());
    Ok(insert_from(schema, "members", &columns, &source, "")? + " ON CONFLICT DO NOTHING")
}

/// `INSERT INTO table (…) SELECT … FROM source` of those columns that the table has.
fn insert_from(
    schema: &Schema,
    table: &str,
    columns: &[(&str, &str)],
    source: &str,
    advice: &str,
) -> Result<String, StoreError> {
    let given = columns.iter().filter(|(name, _)| schema.has(table, name)).collect::<Vec<_>>();
    let names = given.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    schema.insertable(table, &names, advice)?;
    let columns = names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
    let values = given.iter().map(|(_, value)| *value).collect::<Vec<_>>().join(", ");
    Ok(format!("INSERT INTO {} ({columns}) SELECT {values} FROM {source}", schema.sql.get(table)))
}

/// A fresh id, unless the database numbers users itself. Version 4, as Django makes them.
fn new_id(id_type: IdType) -> Option<UserId> {
    (id_type == IdType::Uuid).then(|| UserId::Uuid(Uuid::new_v4()))
}

/// An insert that was refused: by ringroom before it was sent, or by Postgres.
enum Refusal {
    Before(StoreError),
    Sent(tokio_postgres::Error),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        Refusal::Before(error)
    }
}

impl From<tokio_postgres::Error> for Refusal {
    fn from(error: tokio_postgres::Error) -> Refusal {
        Refusal::Sent(error)
    }
}

/// The error for a user or room that could not be made.
fn taken(refusal: Refusal, what: &str, name: &str) -> StoreError {
    match refusal {
        Refusal::Before(error) => error,
        Refusal::Sent(error) if sqlstate(&error) == "23505" => exists_already(what, name),
        Refusal::Sent(error) => asked(error),
    }
}

fn asked(error: tokio_postgres::Error) -> StoreError {
    failure::asking(&error)
}

/// The server's error code, empty when the error is not the server's.
fn sqlstate(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

/// A column of an answer.
fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, nth: usize) -> Result<T, StoreError> {
    row.try_get(nth).map_err(|error| failure::asking(&error))
}
