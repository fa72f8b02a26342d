//! Look-ups in an SQLite file: ids and tokens in, users, memberships and saved messages out.
//!
//! Asked by the control thread, done on tokio's blocking threads, one at a time: there is one connection, behind a mutex
//! that only those threads take. Each call reads one snapshot.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row, params};
use tokio::{task::spawn_blocking, time::timeout};
use uuid::Uuid;

use super::{Id, failure, open_migrated};
use crate::{
    identity::{RoomId, Token, User, UserId},
    store::{Database, Saved, Stamp, StoreError},
};

/// The reading side of an SQLite file.
#[derive(Debug)]
pub struct Reader {
    connection: Arc<Mutex<Connection>>,
    path: Arc<Path>,
    query_timeout: Duration,
}

impl Reader {
    pub(in crate::store) fn open(path: &Path, database: &Database) -> Result<Reader, StoreError> {
        let connection = open_migrated(path, database)?;
        connection.pragma_update(None, "query_only", true).map_err(|error| failure(&error, path))?;
        // In KiB when negative. The kernel's page cache holds the file anyhow; the default keeps another 2 MiB of it.
        connection.pragma_update(None, "cache_size", -256).map_err(|error| failure(&error, path))?;
        Ok(Reader {
            connection: Arc::new(Mutex::new(connection)),
            path: path.into(),
            query_timeout: database.query_timeout,
        })
    }

    pub(in crate::store) async fn users_by_token(&self, tokens: &[Token]) -> Result<Vec<Option<User>>, StoreError> {
        const QUERY: &str = "
            SELECT u.id, u.username FROM authtoken_token t JOIN account_user u ON u.id = t.user_id
            WHERE t.key = ?1 AND u.is_active";
        let tokens = tokens.to_vec();
        self.read(move |snapshot| {
            let mut query = snapshot.prepare_cached(QUERY)?;
            let mut user = |token: &Token| query.query_one([token.expose()], user).optional();
            tokens.iter().map(&mut user).collect()
        })
        .await
    }

    pub(in crate::store) async fn memberships(&self, pairs: &[(RoomId, UserId)]) -> Result<Vec<bool>, StoreError> {
        const QUERY: &str = "SELECT 1 FROM chat_chatroom_members WHERE chatroom_id = ?1 AND user_id = ?2";
        let pairs = pairs.to_vec();
        self.read(move |snapshot| {
            let mut query = snapshot.prepare_cached(QUERY)?;
            let mut is_member = |(room, user): &(RoomId, UserId)| match user {
                UserId::Uuid(user) => query.exists([Id(*room), Id(*user)]),
                UserId::Int(_) => Ok(false),
            };
            pairs.iter().map(&mut is_member).collect()
        })
        .await
    }

    pub(in crate::store) async fn stamp(&self, room: RoomId, id: Uuid) -> Result<Option<Stamp>, StoreError> {
        const QUERY: &str = "SELECT timestamp FROM chat_message WHERE room_id = ?1 AND id = ?2";
        self.read(move |snapshot| {
            let timestamp = snapshot.query_one(QUERY, [Id(room), Id(id)], |row| row.get(0)).optional()?;
            Ok(timestamp.map(|timestamp| Stamp { timestamp, id }))
        })
        .await
    }

    pub(in crate::store) async fn history(
        &self,
        room: RoomId,
        before: Stamp,
        limit: u16,
    ) -> Result<Vec<Saved>, StoreError> {
        const QUERY: &str = "
            SELECT m.id, m.sender_id, u.username, m.receiver_id, m.timestamp, m.content
            FROM chat_message m JOIN account_user u ON u.id = m.sender_id
            WHERE m.room_id = ?1 AND (m.timestamp, m.id) < (?2, ?3)
            ORDER BY m.timestamp DESC, m.id DESC LIMIT ?4";
        self.read(move |snapshot| {
            let mut query = snapshot.prepare_cached(QUERY)?;
            let rows = query.query_map(params![Id(room), before.timestamp, Id(before.id), limit], saved)?;
            rows.collect()
        })
        .await
    }

    /// Does something with one snapshot of the file, on a blocking thread.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> SqlResult<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let connection = self.connection.clone();
        let done = spawn_blocking(move || {
            // A panic under the lock cannot leave a connection in a state that SQLite does not clean up itself.
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let snapshot = connection.transaction()?;
            work(&snapshot)
        });
        match timeout(self.query_timeout, done).await {
            Ok(Ok(outcome)) => outcome.map_err(|error| failure(&error, &self.path)),
            Ok(Err(error)) => Err(StoreError::Unavailable(format!("a look-up in SQLite was cut short ({error})"))),
            Err(_) => Err(StoreError::Unavailable(format!(
                "{} did not answer within {:?}: is its disk overloaded?",
                self.path.display(),
                self.query_timeout
            ))),
        }
    }
}

fn user(row: &Row<'_>) -> SqlResult<User> {
    Ok(User { id: UserId::Uuid(row.get::<_, Id>(0)?.0), username: row.get(1)? })
}

fn saved(row: &Row<'_>) -> SqlResult<Saved> {
    Ok(Saved {
        id: row.get::<_, Id>(0)?.0,
        sender: UserId::Uuid(row.get::<_, Id>(1)?.0),
        sender_username: row.get(2)?,
        receiver: row.get::<_, Option<Id>>(3)?.map(|Id(id)| UserId::Uuid(id)),
        timestamp: row.get(4)?,
        content: row.get(5)?,
    })
}
