//! New messages into the table: a batch in, one transaction a batch.
//!
//! Belongs to the writer thread. Two ways lead into the table. `INSERT … ON CONFLICT DO NOTHING` takes every batch, in one
//! round trip. A binary COPY takes two, and fails when one row is there already, but costs Postgres about a tenth less: it is
//! for large batches. A batch can be there already only if a connection was lost over it, or a server ended; so a
//! connection begins with INSERT, goes on with COPY once a batch was new in whole, and what a COPY refuses, for whatever
//! reason, an INSERT tries again and judges.
//!
//! Deferred foreign keys are checked by the commit. An INSERT is its own transaction, which Postgres commits before it says
//! that it is ready for the next; of a COPY's own commit the client would not be told, so COPY stands between BEGIN and
//! COMMIT.
//!
//! Measured and left (`perf/`, `persist --candidates`): COPY into a temporary table and an INSERT from there pays for every row
//! twice; a batch sent before the last one's commit is answered gains nothing that could be told from noise.

use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::time::timeout;
use tokio_postgres::{
    Client, Config, Error, Statement,
    types::{ToSql, Type},
};

use super::{
    Session, failure, late,
    wire::{CopyRows, Key, Moment},
    within,
};
use crate::store::{Database, InsertError, Names, Row, StoreError};

/// From so many rows on COPY is worth its second round trip (`perf/record/2026-11-23-2-shared-cores-writer/`).
const COPY_ROWS_MIN: usize = 128;

/// The writing side of a Postgres database.
#[derive(Debug)]
pub struct Writer {
    config: Config,
    database: Database,
    /// Taken out while an insert is under way: an insert that is given up leaves no half-used connection behind.
    link: Option<Link>,
}

#[derive(Debug)]
struct Link {
    session: Session,
    insert: Statement,
    /// `None` where the table takes no COPY, or once it turned out so.
    copy: Option<Copy>,
    /// Whether none of the last batch was in the table before. A connection's first batch may have been sent on the one
    /// that was lost, or before a crash.
    are_new: bool,
}

/// A COPY, and the types of its columns: it converts nothing.
#[derive(Debug)]
struct Copy {
    statement: Statement,
    types: Vec<Type>,
}

impl Writer {
    pub(in crate::store) async fn open(config: &Config, database: &Database) -> Result<Writer, StoreError> {
        let link = Link::open(config, database).await?;
        Ok(Writer { config: config.clone(), database: database.clone(), link: Some(link) })
    }

    pub(in crate::store) async fn insert(&mut self, rows: &[Row<'_>]) -> Result<(), InsertError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut link = match self.link.take() {
            Some(link) if link.session.usable() => link,
            _ => Link::open(&self.config, &self.database).await?,
        };
        let limit = self.database.query_timeout;
        match timeout(limit, link.save(rows)).await {
            Ok(outcome) => {
                // After anything but a bad row, look at the database afresh.
                if matches!(outcome, Ok(()) | Err(InsertError::Refused(_))) {
                    self.link = Some(link);
                }
                outcome
            }
            Err(_) => {
                link.session.abandon(limit);
                Err(InsertError::InDoubt(late(limit)))
            }
        }
    }
}

impl Link {
    async fn open(config: &Config, database: &Database) -> Result<Link, StoreError> {
        let session = Session::open(config, database).await?;
        within(database.connect_timeout, database, Link::prepare(session)).await
    }

    async fn prepare(session: Session) -> Result<Link, StoreError> {
        session.schema.messages_insertable()?;
        let id_type = session.schema.user_id.sql();
        let Names { messages, message_id, message_room, message_sender, .. } = &session.schema.sql;
        let Names { message_receiver, message_timestamp, message_content, .. } = &session.schema.sql;
        let columns = format!(
            "{message_id}, {message_room}, {message_sender}, {message_receiver}, {message_timestamp}, {message_content}"
        );
        let insert = format!(
            "INSERT INTO {messages} ({columns})
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::{id_type}[], $4::{id_type}[],
                                  $5::timestamptz[], $6::text[])
             ON CONFLICT ({message_id}) DO NOTHING"
        );
        let copy = format!("COPY {messages} ({columns}) FROM STDIN (FORMAT binary)");
        let select = format!("SELECT {columns} FROM {messages}");
        // Known beforehand: a COPY that fails before it asks for its rows ends the connection, for `tokio-postgres` then
        // sends one Sync more than it awaits answers.
        let secured = "SELECT row_security_active($1::text::regclass)";
        let (insert, copy, select, secured) = async {
            let client = &session.client;
            let statements = tokio::try_join!(client.prepare(&insert), client.prepare(&copy), client.prepare(&select));
            let (insert, copy, select) = statements?;
            Ok((insert, copy, select, client.query_one(secured, &[messages]).await?))
        }
        .await
        .map_err(|error: Error| failure::asking(&error))?;
        let types = select.columns().iter().map(|column| column.type_().clone()).collect();
        let is_secured: bool = secured.try_get(0).map_err(|error| failure::asking(&error))?;
        let copy = (!is_secured).then_some(Copy { statement: copy, types });
        Ok(Link { session, insert, copy, are_new: false })
    }

    async fn save(&mut self, rows: &[Row<'_>]) -> Result<(), InsertError> {
        let user_id = self.session.schema.user_id;
        let misfit = |row: &&Row<'_>| !user_id.holds(row.sender) || row.receiver.is_some_and(|id| !user_id.holds(id));
        if let Some(row) = rows.iter().find(misfit) {
            return Err(InsertError::Refused(format!(
                "message {} names a user by an id of another type than the users table's, {}",
                row.id,
                user_id.sql()
            )));
        }
        if self.are_new && rows.len() >= COPY_ROWS_MIN && self.copy(rows).await? {
            return Ok(());
        }
        let inserted = self.insert(rows).await.map_err(|error| failure::inserting(&error))?;
        self.are_new = inserted == rows.len() as u64;
        Ok(())
    }

    /// One transaction with a COPY in it, in two round trips. `false` when the COPY was refused and nothing was saved.
    async fn copy(&mut self, rows: &[Row<'_>]) -> Result<bool, InsertError> {
        let Some(copy) = &self.copy else { return Ok(false) };
        let Some(encoded) = copy.encode(rows) else { return Ok(false) };
        let client = &self.session.client;
        // All three are queued at once. After a COPY that failed, COMMIT rolls back, and succeeds.
        let (begun, copied, committed) = tokio::join!(
            biased;
            client.batch_execute("BEGIN"),
            copy.send(client, encoded),
            client.batch_execute("COMMIT"),
        );
        // Without BEGIN the COPY was a transaction of its own, whose end is not told.
        begun.map_err(|error| InsertError::InDoubt(failure::inserting(&error).text().to_owned()))?;
        committed.map_err(|error| failure::inserting(&error))?;
        let Err(error) = copied else { return Ok(true) };
        // No fault of the rows: a view takes no COPY, nor does a table under row security.
        if !matches!(failure::inserting(&error), InsertError::Refused(_)) {
            self.copy = None;
        }
        Ok(false)
    }

    /// The statement that takes every batch; how many of its rows were not in the table.
    async fn insert(&self, rows: &[Row<'_>]) -> Result<u64, Error> {
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let rooms: Vec<_> = rows.iter().map(|row| row.room).collect();
        let senders: Vec<_> = rows.iter().map(|row| Key(row.sender)).collect();
        let receivers: Vec<_> = rows.iter().map(|row| row.receiver.map(Key)).collect();
        let timestamps: Vec<_> = rows.iter().map(|row| Moment(row.timestamp)).collect();
        let contents: Vec<_> = rows.iter().map(|row| row.content).collect();
        let columns: [&(dyn ToSql + Sync); 6] = [&ids, &rooms, &senders, &receivers, &timestamps, &contents];
        self.session.client.execute(&self.insert, &columns).await
    }
}

impl Copy {
    /// The rows as they are sent. `None` when a column is of a type that a value cannot be sent as.
    fn encode(&self, rows: &[Row<'_>]) -> Option<Bytes> {
        /// What a row takes beside its text: two bytes, six lengths, four ids, a point in time.
        const ROW_BYTES: usize = 2 + 6 * 4 + 4 * 16 + 8;
        let texts: usize = rows.iter().map(|row| row.content.len()).sum();
        let mut encoded = CopyRows::with_capacity(32 + rows.len() * ROW_BYTES + texts);
        for row in rows {
            let (sender, receiver) = (Key(row.sender), row.receiver.map(Key));
            let timestamp = Moment(row.timestamp);
            let values: [&dyn ToSql; 6] = [&row.id, &row.room, &sender, &receiver, &timestamp, &row.content];
            encoded.push(&values, &self.types).ok()?;
        }
        Some(encoded.finish())
    }

    /// Sends the rows. The answer tells nothing of a commit.
    async fn send(&self, client: &Client, rows: Bytes) -> Result<(), Error> {
        let mut sink = pin!(client.copy_in(&self.statement).await?);
        sink.send(rows).await?;
        sink.finish().await.map(drop)
    }
}
