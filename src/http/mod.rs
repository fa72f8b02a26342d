//! HTTP on the chat's own port: the chat page, a room's history, and a sign of life.
//!
//! Shards accept every connection; one whose request is not a WebSocket upgrade comes here with the bytes already read
//! ([`HandedOver`]), is answered once and closed. What needs the database is asked through [`Rooms`]. All of it runs on
//! the control thread; it never touches the message path, writes nothing, and sets no cookie.
//!
//! - [`connection`]: one socket, one request, its deadlines
//! - [`history`]: `GET /api/rooms/{room}/messages`
//! - [`page`]: `GET /`, embedded, with the policy that lets it run

mod connection;
mod history;
mod page;

use std::{future::Future, sync::Arc};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::Semaphore;
use uuid::Uuid;

pub use self::connection::{HandedOver, serve};
use crate::{
    auth::Admission,
    identity::{RoomId, Token},
    metrics::Counters,
    store::Saved,
};

/// The most HTTP connections answered at one time; one more is told to come back (503).
///
/// A connection costs a file descriptor and some 20 KiB of buffers, and asks the database at most twice.
pub const CONNECTIONS_MAX: usize = 256;

/// What HTTP asks of the rest of the server. Cheap to clone: each request takes one.
pub trait Rooms: Clone + Send + Sync + 'static {
    /// May the holder of this token read this room?
    fn admit(&self, token: Option<Token>, room: RoomId) -> impl Future<Output = Admission> + Send;

    /// At most `limit` messages of a room, newest first: those before the message `before`, or the newest.
    fn history(&self, room: RoomId, before: Option<Uuid>, limit: u16) -> impl Future<Output = History> + Send;
}

/// A stretch of a room's history, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum History {
    /// Newest first.
    Messages(Vec<Saved>),
    /// The room holds no message with the id given as `before`.
    UnknownMessage,
    /// The database cannot be asked.
    Unavailable,
}

/// The HTTP side of one process.
#[derive(Clone, Debug)]
pub struct Http {
    app: Router,
    places: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl Http {
    /// Builds the routes. Nothing runs until a connection is handed over.
    pub fn new(rooms: impl Rooms, counters: Arc<Counters>) -> Http {
        Http { app: routes(rooms), places: Arc::new(Semaphore::new(CONNECTIONS_MAX)), counters }
    }

    /// Answers a connection in a task of its own, or at once with 503 when too many are open.
    ///
    /// Call it inside a tokio runtime with I/O and time enabled; it does not block.
    pub fn accept(&self, mut connection: HandedOver) {
        connection.passage.leave_the_shards();
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.counters.http_refused.up();
            return connection::refuse(connection);
        };
        let (app, counters) = (self.app.clone(), Arc::clone(&self.counters));
        tokio::spawn(async move {
            if !serve(connection, app, place).await {
                counters.http_timed_out.up();
            }
        });
    }
}

/// Every path that is served. A path or method beside these is 404.
fn routes<R: Rooms>(rooms: R) -> Router {
    Router::new()
        .route("/", get(page::page).fallback(nothing_here))
        .route("/healthz", get("ok").fallback(nothing_here))
        .route("/api/rooms/{room}/messages", get(history::messages::<R>).fallback(nothing_here))
        .fallback(nothing_here)
        .layer(map_response(guard))
        .with_state(rooms)
}

async fn nothing_here() -> Failure {
    Failure::NOT_FOUND
}

/// Headers for every answer: believe the stated type, tell no other site where the reader was, let no other site embed
/// or read this, and keep nothing unless the answer says otherwise.
async fn guard(mut response: Response) -> Response {
    const GUARDS: [(HeaderName, HeaderValue); 3] = [
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    ];
    let headers = response.headers_mut();
    headers.extend(GUARDS);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// An answer other than success: its status, and the words for `{"error":"…"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure(StatusCode, &'static str);

impl Failure {
    const NOT_FOUND: Failure = Failure(StatusCode::NOT_FOUND, "Nothing is served here");
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(status, words) = self;
        let body = format!(r#"{{"error":"{words}"}}"#);
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        match status {
            // RFC 9110 11.6.1 wants a challenge with every 401; no browser asks its user for a scheme called Token.
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Token"))
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"))
            }
            _ => None,
        };
        response
    }
}

#[cfg(test)]
mod tests;
