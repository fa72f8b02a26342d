//! Look-ups over one pipelined connection: ids and tokens in, users, memberships and saved messages out.
//!
//! Belongs to the control thread. A lost connection is replaced by the next call; calls that wait for the same attempt
//! share its outcome, so a thousand of them make one connection or get one error.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex, time::timeout};
use tokio_postgres::{Config, Row, Statement, types::ToSql};
use uuid::Uuid;

use super::{
    Session, failure, late,
    wire::{IdType, Key, Moment},
    within,
};
use crate::{
    identity::{RoomId, Token, User, UserId},
    store::{Database, Names, Saved, Stamp, StoreError},
};

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The reading side of a Postgres database.
#[derive(Debug)]
pub struct Reader {
    config: Config,
    database: Database,
    /// The connection in use, or why there is none.
    link: Mutex<Result<Arc<Link>, StoreError>>,
    /// Attempts to connect that have ended. Written under the lock of `link`, read before waiting for it: a caller that
    /// finds it changed takes the outcome instead of trying again.
    attempts: AtomicU64,
}

/// A connection with its prepared statements.
#[derive(Debug)]
struct Link {
    session: Session,
    users_by_token: Statement,
    memberships: Statement,
    moment: Statement,
    history: Statement,
}

/// Why a query has no answer.
enum Failure {
    /// The connection ended: on a new one the query may succeed.
    Lost(StoreError),
    Other(StoreError),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::Lost(error) | Failure::Other(error) => error,
        }
    }
}

impl Reader {
    pub(in crate::store) async fn open(config: &Config, database: &Database) -> Result<Reader, StoreError> {
        let link = Link::open(config, database).await?;
        Ok(Reader {
            config: config.clone(),
            database: database.clone(),
            link: Mutex::new(Ok(Arc::new(link))),
            attempts: AtomicU64::new(0),
        })
    }

    pub(in crate::store) async fn users_by_token(&self, tokens: &[Token]) -> Result<Vec<Option<User>>, StoreError> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<&str> = tokens.iter().map(Token::expose).collect();
        let rows = self.query(|link| &link.users_by_token, &[&keys]).await?;
        let mut users = HashMap::with_capacity(rows.len());
        for row in &rows {
            let Key(id) = get(row, 1)?;
            users.insert(get::<&str>(row, 0)?, User { id, username: get::<String>(row, 2)?.into() });
        }
        // Not removed from the map: the same token may be asked for twice.
        Ok(keys.iter().map(|key| users.get(key).cloned()).collect())
    }

    pub(in crate::store) async fn memberships(&self, pairs: &[(RoomId, UserId)]) -> Result<Vec<bool>, StoreError> {
        let mut answers = vec![false; pairs.len()];
        let user_id = self.user_id().await?;
        let askable = pairs.iter().enumerate().filter(|(_, (_, user))| user_id.holds(*user));
        let (mut places, mut rooms, mut users) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (room, user)) in askable {
            places.push(place as i64);
            rooms.push(*room);
            users.push(Key(*user));
        }
        if places.is_empty() {
            return Ok(answers);
        }
        for row in self.query(|link| &link.memberships, &[&places, &rooms, &users]).await? {
            let place: i64 = get(&row, 0)?;
            if let Some(answer) = answers.get_mut(place as usize) {
                *answer = true;
            }
        }
        Ok(answers)
    }

    pub(in crate::store) async fn stamp(&self, room: RoomId, id: Uuid) -> Result<Option<Stamp>, StoreError> {
        let rows = self.query(|link| &link.moment, &[&room, &id]).await?;
        let stamp = |row| get(row, 0).map(|Moment(timestamp)| Stamp { timestamp, id });
        rows.first().map(stamp).transpose()
    }

    pub(in crate::store) async fn history(
        &self,
        room: RoomId,
        before: Stamp,
        limit: u16,
    ) -> Result<Vec<Saved>, StoreError> {
        let parameters: Parameters<'_> = &[&room, &Moment(before.timestamp), &before.id, &i64::from(limit)];
        self.query(|link| &link.history, parameters).await?.iter().map(saved).collect()
    }

    /// Runs a prepared statement; once more when the connection turns out to have ended meanwhile.
    async fn query(
        &self,
        statement: fn(&Link) -> &Statement,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let (link, new) = self.link().await?;
        let limit = self.database.query_timeout;
        match link.query(statement(&link), parameters, limit).await {
            Err(Failure::Lost(_)) if !new => {
                let (link, _) = self.link().await?;
                Ok(link.query(statement(&link), parameters, limit).await?)
            }
            outcome => Ok(outcome?),
        }
    }

    /// The connection in use, made anew if need be, and whether it is new.
    async fn link(&self) -> Result<(Arc<Link>, bool), StoreError> {
        let attempts = self.attempts.load(Ordering::Acquire);
        let mut current = self.link.lock().await;
        match &*current {
            Ok(link) if link.session.usable() => return Ok((link.clone(), false)),
            Err(error) if attempts != self.attempts.load(Ordering::Acquire) => return Err(error.clone()),
            _ => {}
        }
        let outcome = Link::open(&self.config, &self.database).await.map(Arc::new);
        *current = outcome.clone();
        self.attempts.fetch_add(1, Ordering::Release);
        outcome.map(|link| (link, true))
    }

    /// The type of user ids behind the connection in use.
    async fn user_id(&self) -> Result<IdType, StoreError> {
        self.link().await.map(|(link, _)| link.session.schema.user_id)
    }
}

impl Link {
    async fn open(config: &Config, database: &Database) -> Result<Link, StoreError> {
        let session = Session::open(config, database).await?;
        within(database.connect_timeout, database, Link::prepare(session)).await
    }

    async fn prepare(session: Session) -> Result<Link, StoreError> {
        let id_type = session.schema.user_id.sql();
        let Names { users, user_id, user_name, user_active, tokens, token_key, token_user, .. } = &session.schema.sql;
        let Names { members, member_room, member_user, messages, message_id, message_room, .. } = &session.schema.sql;
        let Names { message_sender, message_receiver, message_timestamp, message_content, .. } = &session.schema.sql;
        let prepare =
            async |query: String| session.client.prepare(&query).await.map_err(|error| failure::asking(&error));

        let users_by_token = format!(
            "SELECT t.{token_key}, u.{user_id}, u.{user_name}
             FROM {tokens} t JOIN {users} u ON u.{user_id} = t.{token_user}
             WHERE t.{token_key} = ANY ($1::text[]) AND u.{user_active}"
        );
        let memberships = format!(
            "SELECT a.place FROM unnest($1::bigint[], $2::uuid[], $3::{id_type}[]) AS a (place, room, member)
             WHERE EXISTS (SELECT FROM {members} m WHERE m.{member_room} = a.room AND m.{member_user} = a.member)"
        );
        let moment =
            format!("SELECT {message_timestamp} FROM {messages} WHERE {message_room} = $1 AND {message_id} = $2");
        // The first bound alone can use an index on (room, timestamp); the second settles equal timestamps.
        let history = format!(
            "SELECT m.{message_id}, m.{message_sender}, u.{user_name}, m.{message_receiver}, m.{message_timestamp},
                    m.{message_content}
             FROM {messages} m JOIN {users} u ON u.{user_id} = m.{message_sender}
             WHERE m.{message_room} = $1 AND m.{message_timestamp} <= $2
                   AND (m.{message_timestamp} < $2 OR m.{message_id} < $3)
             ORDER BY m.{message_timestamp} DESC, m.{message_id} DESC LIMIT $4"
        );
        let (users_by_token, memberships, moment, history) =
            tokio::try_join!(prepare(users_by_token), prepare(memberships), prepare(moment), prepare(history))?;
        Ok(Link { session, users_by_token, memberships, moment, history })
    }

    async fn query(
        &self,
        statement: &Statement,
        parameters: Parameters<'_>,
        limit: Duration,
    ) -> Result<Vec<Row>, Failure> {
        match timeout(limit, self.session.client.query(statement, parameters)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) => {
                self.session.retire();
                let told = failure::asking(&error);
                Err(if failure::lost(&error) { Failure::Lost(told) } else { Failure::Other(told) })
            }
            // Answers come in the order asked, so everything behind this query is stuck as well.
            Err(_) => {
                self.session.abandon(limit);
                Err(Failure::Other(StoreError::Unavailable(late(limit))))
            }
        }
    }
}

/// A column of an answer.
fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, nth: usize) -> Result<T, StoreError> {
    row.try_get(nth)
        .map_err(|error| StoreError::Refused(format!("Postgres answered with an unexpected value ({error})")))
}

/// A row of the history.
fn saved(row: &Row) -> Result<Saved, StoreError> {
    let (Key(sender), Moment(timestamp)) = (get(row, 1)?, get(row, 4)?);
    Ok(Saved {
        id: get(row, 0)?,
        sender,
        sender_username: get::<String>(row, 2)?.into(),
        receiver: get::<Option<Key>>(row, 3)?.map(|Key(id)| id),
        timestamp,
        content: get::<String>(row, 5)?.into(),
    })
}
