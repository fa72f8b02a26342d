//! Postgres: the store in production, on ringroom's own tables or on those of a Django application.
//!
//! A [`Session`] is one connection; [`Reader`], [`Writer`] and [`Admin`] each hold their own and replace it when it is
//! lost. Nothing here decides when to try again.

mod admin;
mod failure;
mod reader;
mod schema;
mod wire;
mod writer;

pub(super) use self::{admin::Admin, reader::Reader, writer::Writer};

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{task::AbortHandle, time::timeout};
use tokio_postgres::{CancelToken, Client, Config, NoTls};

use self::schema::Schema;
use super::{Database, StoreError};

/// One connection, and what was found behind it. Dropping it lets what is under way finish, then disconnects.
#[derive(Debug)]
struct Session {
    client: Client,
    schema: Schema,
    /// The task that moves the connection's bytes.
    driver: AbortHandle,
    /// Set when an answer was bad or late: nobody should start anything more here. Relaxed: it guards no other data.
    broken: AtomicBool,
}

impl Session {
    /// Connects and looks at the tables.
    async fn open(config: &Config, database: &Database) -> Result<Session, StoreError> {
        within(database.connect_timeout, database, async {
            let (client, driver) = connect(config, database).await?;
            let schema = Schema::probe(&client, &database.names).await?;
            Ok(Session { client, schema, driver, broken: AtomicBool::new(false) })
        })
        .await
    }

    /// Whether a new query may be tried.
    fn usable(&self) -> bool {
        !self.broken.load(Ordering::Relaxed) && !self.client.is_closed()
    }

    /// Lets what is under way finish and starts nothing more.
    fn retire(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Gives the connection up at once, with all that is under way on it, and asks the server to do likewise.
    fn abandon(&self, patience: Duration) {
        self.retire();
        self.driver.abort();
        let cancel = |token: CancelToken| async move {
            // Best effort: an overloaded server should not go on working for nobody.
            let _ = timeout(patience, token.cancel_query(NoTls)).await;
        };
        tokio::spawn(cancel(self.client.cancel_token()));
    }
}

/// Connects, and leaves a task behind that moves the connection's bytes until the client is dropped.
async fn connect(config: &Config, database: &Database) -> Result<(Client, AbortHandle), StoreError> {
    let (client, connection) =
        config.connect(NoTls).await.map_err(|error| failure::connecting(&error, &database.url))?;
    // Its error also reaches every query that was waiting, which reports it.
    let driver = tokio::spawn(async move { drop(connection.await) }).abort_handle();
    Ok((client, driver))
}

/// Bounds an attempt to connect.
async fn within<T>(
    limit: Duration,
    database: &Database,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!(
            "{} did not answer within {limit:?}: is the host right, and is a firewall in between, or the server overloaded?",
            database.url
        )))
    })
}

/// The text for a query that took too long.
fn late(limit: Duration) -> String {
    format!("Postgres did not answer within {limit:?}: is it overloaded, or are its tables locked?")
}
