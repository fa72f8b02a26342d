//! What the tables in front of us look like: found, compared with what ringroom needs, and told apart where
//! applications differ (type of user ids, name of the members table's user column).
//!
//! Reads the catalogue only; runs once a connection.

use std::collections::HashMap;

use tokio_postgres::Client;

use super::{failure, wire::IdType};
use crate::store::{
    Names, StoreError,
    migration::{self, POSTGRES},
    names::TABLES,
};

/// The tables as they are.
#[derive(Debug)]
pub(super) struct Schema {
    /// Every name as an identifier, ready to stand in a statement.
    pub(super) sql: Names,
    /// The type of user ids.
    pub(super) user_id: IdType,
    names: Names,
    tables: HashMap<&'static str, Vec<Column>>,
}

/// A column of a table.
#[derive(Debug)]
struct Column {
    name: String,
    type_name: String,
    /// Whether an INSERT must give it a value: not null and without a default.
    required: bool,
}

/// What a column must be able to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    UserId,
    Uuid,
    Moment,
    Any,
}

/// The columns that a server cannot do without: keys of section `[tables]`.
const NEEDED: [(&str, &str, Kind); 14] = [
    ("users", "user_id", Kind::UserId),
    ("users", "user_name", Kind::Any),
    ("users", "user_active", Kind::Any),
    ("tokens", "token_key", Kind::Any),
    ("tokens", "token_user", Kind::UserId),
    ("rooms", "room_id", Kind::Uuid),
    ("members", "member_room", Kind::Uuid),
    ("members", "member_user", Kind::UserId),
    ("messages", "message_id", Kind::Uuid),
    ("messages", "message_room", Kind::Uuid),
    ("messages", "message_sender", Kind::UserId),
    ("messages", "message_receiver", Kind::UserId),
    ("messages", "message_timestamp", Kind::Moment),
    ("messages", "message_content", Kind::Any),
];

impl Schema {
    /// Looks at the tables, and refuses with a text for the operator when they do not fit.
    pub(super) async fn probe(client: &Client, names: &Names) -> Result<Schema, StoreError> {
        let tables = found_tables(client, names).await?;
        let missing = TABLES.iter().filter(|key| !tables.contains_key(*key)).copied().collect::<Vec<_>>();
        if !missing.is_empty() {
            return Err(no_tables(names, &missing));
        }
        migration::check_recorded(latest_migration(client).await?, POSTGRES)?;

        let mut names = names.clone();
        if !tables["members"].iter().any(|column| column.name == names.member_user)
            && let [only] = keys_to_users(client, &names).await?.as_slice()
        {
            names.member_user = only.clone();
        }
        let mut schema = Schema { sql: names.quoted(), user_id: IdType::Uuid, names, tables };
        schema.user_id = schema.id_type("users", "user_id")?;
        for (table, column, kind) in NEEDED {
            schema.check(table, column, kind)?;
        }
        Ok(schema)
    }

    /// The column under a key of section `[tables]`, or a text that names those there are.
    fn column(&self, table: &str, key: &str) -> Result<&Column, StoreError> {
        let (table_name, name) = (self.names.get(table), self.names.get(key));
        let columns = &self.tables[table];
        columns.iter().find(|column| column.name == name).ok_or_else(|| {
            StoreError::Refused(format!(
                "table {table_name:?} has no column {name:?} but {}: set tables.{key} to the one that serves",
                columns.iter().map(|column| format!("{:?}", column.name)).collect::<Vec<_>>().join(", ")
            ))
        })
    }

    /// An error unless the column is there and of the right type.
    fn check(&self, table: &str, key: &str, kind: Kind) -> Result<(), StoreError> {
        let column = self.column(table, key)?;
        let (fits, expected) = match kind {
            Kind::Any => (true, ""),
            Kind::Uuid => (column.type_name == "uuid", "uuid"),
            Kind::Moment => (column.type_name == "timestamp with time zone", "timestamp with time zone"),
            Kind::UserId => (self.id_type(table, key)? == self.user_id, "the type of the users table's key"),
        };
        if fits { Ok(()) } else { Err(self.wrong_type(table, key, column, expected)) }
    }

    /// Of which type a column of user ids is.
    fn id_type(&self, table: &str, key: &str) -> Result<IdType, StoreError> {
        let column = self.column(table, key)?;
        match column.type_name.as_str() {
            "uuid" => Ok(IdType::Uuid),
            "bigint" | "integer" | "smallint" => Ok(IdType::Int),
            _ => Err(self.wrong_type(table, key, column, "uuid, bigint or integer")),
        }
    }

    fn wrong_type(&self, table: &str, key: &str, column: &Column, expected: &str) -> StoreError {
        StoreError::Refused(format!(
            "column {:?} of table {:?} (tables.{key}) is of type {} and must be {expected}",
            column.name,
            self.names.get(table),
            column.type_name
        ))
    }

    /// Whether a table has a column of this very name.
    pub(super) fn has(&self, table: &str, name: &str) -> bool {
        self.tables[table].iter().any(|column| column.name == name)
    }

    /// An error unless a key's column is there.
    pub(super) fn need(&self, table: &str, key: &str) -> Result<(), StoreError> {
        self.column(table, key).map(|_| ())
    }

    /// An error when a row cannot be inserted by giving these columns alone. `advice` tells what else to do about it.
    pub(super) fn insertable(&self, table: &str, given: &[&str], advice: &str) -> Result<(), StoreError> {
        let lacking = self.tables[table].iter().filter(|column| column.required && !given.contains(&&*column.name));
        let lacking = lacking.map(|column| format!("{:?}", column.name)).collect::<Vec<_>>().join(", ");
        if lacking.is_empty() {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "table {:?} demands values that ringroom does not know: {lacking}; \
             give each a default (ALTER TABLE … ALTER COLUMN … SET DEFAULT …){advice}",
            self.names.get(table)
        )))
    }

    /// As [`insertable`](Schema::insertable), for messages.
    pub(super) fn messages_insertable(&self) -> Result<(), StoreError> {
        let keys = NEEDED.iter().filter(|(table, ..)| *table == "messages");
        let given = keys.map(|(_, key, _)| self.names.get(key)).collect::<Vec<_>>();
        self.insertable("messages", &given, "")
    }

    /// The name under a key, the members' user column as it was found.
    pub(super) fn name(&self, key: &str) -> &str {
        self.names.get(key)
    }
}

/// The columns of those of the five tables that exist, under the tables' keys.
async fn found_tables(client: &Client, names: &Names) -> Result<HashMap<&'static str, Vec<Column>>, StoreError> {
    const COLUMNS: &str = "
        SELECT t.key, a.attname::text, format_type(a.atttypid, NULL),
               a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
        FROM unnest($1::text[], $2::text[]) AS t (key, name)
        JOIN pg_attribute a ON a.attrelid = to_regclass(t.name) AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attrelid, a.attnum";
    names.check().map_err(StoreError::Refused)?;
    let quoted = names.quoted();
    let quoted = TABLES.map(|key| quoted.get(key).to_owned());
    let rows = client.query(COLUMNS, &[&&TABLES[..], &&quoted[..]]).await.map_err(|error| failure::asking(&error))?;
    let mut tables = HashMap::<_, Vec<_>>::new();
    for row in rows {
        let get = |nth| row.try_get::<_, String>(nth).map_err(|error| failure::asking(&error));
        let key = get(0)?;
        let key = TABLES.into_iter().find(|known| *known == key).unwrap_or_default();
        let required = row.try_get(3).map_err(|error| failure::asking(&error))?;
        tables.entry(key).or_default().push(Column { name: get(1)?, type_name: get(2)?, required });
    }
    Ok(tables)
}

/// Which of the five tables exist: their keys.
pub(super) async fn existing(client: &Client, names: &Names) -> Result<Vec<&'static str>, StoreError> {
    let found = found_tables(client, names).await?;
    Ok(TABLES.into_iter().filter(|key| found.contains_key(key)).collect())
}

/// The columns of the members table that are foreign keys to the users table.
async fn keys_to_users(client: &Client, names: &Names) -> Result<Vec<String>, StoreError> {
    const KEYS: &str = "
        SELECT a.attname::text
        FROM pg_constraint c
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        WHERE c.contype = 'f' AND c.conrelid = to_regclass($1) AND c.confrelid = to_regclass($2)
              AND array_length(c.conkey, 1) = 1";
    let sql = names.quoted();
    let rows = client.query(KEYS, &[&sql.members, &sql.users]).await.map_err(|error| failure::asking(&error))?;
    rows.iter().map(|row| row.try_get(0).map_err(|error| failure::asking(&error))).collect()
}

/// The latest recorded migration, or nothing: an application's own database need not know ringroom's record.
pub(super) async fn latest_migration(client: &Client) -> Result<Option<i32>, StoreError> {
    const RECORD: &str = "SELECT to_regclass('ringroom_migrations') IS NOT NULL";
    const LATEST: &str = "SELECT max(version) FROM ringroom_migrations";
    let get = async |query: &str| client.query_one(query, &[]).await.map_err(|error| failure::asking(&error));
    if !get(RECORD).await?.try_get::<_, bool>(0).map_err(|error| failure::asking(&error))? {
        return Ok(None);
    }
    get(LATEST).await?.try_get(0).map_err(|error| failure::asking(&error))
}

/// The text for tables that are not there.
fn no_tables(names: &Names, missing: &[&str]) -> StoreError {
    let listed =
        missing.iter().map(|key| format!("{:?} (tables.{key})", names.get(key))).collect::<Vec<_>>().join(", ");
    StoreError::Refused(format!(
        "the database lacks {listed}: run `ringroom migrate` to make ringroom's own tables, \
         or name your application's in section [tables]"
    ))
}
