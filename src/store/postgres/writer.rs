//! New messages into the table: a batch in, one statement and one round trip a batch.
//!
//! Belongs to the writer thread. The statement is its own transaction: Postgres commits it before it says that it is
//! ready for the next, and that is when deferred foreign keys are checked, so a row that they refuse fails here.

use tokio::time::timeout;
use tokio_postgres::{Config, Statement, types::ToSql};

use super::{
    Session, failure, late,
    wire::{Key, Moment},
    within,
};
use crate::store::{Database, InsertError, Names, Row, StoreError};

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
        let link = match self.link.take() {
            Some(link) if link.session.usable() => link,
            _ => Link::open(&self.config, &self.database)
                .await
                .map_err(|error| InsertError::NotSent(error.text().to_owned()))?,
        };
        let limit = self.database.query_timeout;
        match timeout(limit, link.insert(rows)).await {
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
        let insert = format!(
            "INSERT INTO {messages} ({message_id}, {message_room}, {message_sender}, {message_receiver},
                                     {message_timestamp}, {message_content})
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::{id_type}[], $4::{id_type}[],
                                  $5::timestamptz[], $6::text[])
             ON CONFLICT ({message_id}) DO NOTHING"
        );
        let insert = session.client.prepare(&insert).await.map_err(|error| failure::asking(&error))?;
        Ok(Link { session, insert })
    }

    async fn insert(&self, rows: &[Row<'_>]) -> Result<(), InsertError> {
        let user_id = self.session.schema.user_id;
        let misfit = |row: &&Row<'_>| !user_id.holds(row.sender) || row.receiver.is_some_and(|id| !user_id.holds(id));
        if let Some(row) = rows.iter().find(misfit) {
            return Err(InsertError::Refused(format!(
                "message {} names a user by an id of another type than the users table's, {}",
                row.id,
                user_id.sql()
            )));
        }
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let rooms: Vec<_> = rows.iter().map(|row| row.room).collect();
        let senders: Vec<_> = rows.iter().map(|row| Key(row.sender)).collect();
        let receivers: Vec<_> = rows.iter().map(|row| row.receiver.map(Key)).collect();
        let timestamps: Vec<_> = rows.iter().map(|row| Moment(row.timestamp)).collect();
        let contents: Vec<_> = rows.iter().map(|row| row.content).collect();
        let columns: [&(dyn ToSql + Sync); 6] = [&ids, &rooms, &senders, &receivers, &timestamps, &contents];
        self.session.client.execute(&self.insert, &columns).await.map_err(|error| failure::inserting(&error))?;
        Ok(())
    }
}
