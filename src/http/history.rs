//! `GET /api/rooms/{room}/messages`: a room's messages, for its members.
//!
//! The request comes in from [`super`]'s routes, the messages go out as they were broadcast, newest first. Who is
//! asking is decided before what is asked: somebody without a token learns nothing about rooms, and a stranger to a room
//! nothing about its messages. Runs on the control thread; tokens are read from the `Authorization` header alone,
//! because a URL ends up in logs.

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use uuid::Uuid;

use super::{Failure, History, Rooms};
use crate::{
    auth::Admission,
    identity::Token,
    protocol::{Envelope, connect::header_token, output::chat_message_json},
    store::Saved,
};

/// Messages in an answer when the request does not say.
const LIMIT_DEFAULT: u16 = 50;
/// The most messages in one answer.
const LIMIT_MAX: u16 = 200;

const UNAUTHORIZED: Failure = Failure(StatusCode::UNAUTHORIZED, "A valid token is required");
const NOT_MEMBER: Failure = Failure(StatusCode::FORBIDDEN, "Not a member of this chat room");
const BAD_QUERY: Failure = Failure(StatusCode::BAD_REQUEST, "The query is malformed");
const BAD_LIMIT: Failure = Failure(StatusCode::BAD_REQUEST, "limit must be a whole number from 1 to 200");
const BAD_BEFORE: Failure = Failure(StatusCode::BAD_REQUEST, "before must be the id of a message in this room");
const UNAVAILABLE: Failure = Failure(StatusCode::SERVICE_UNAVAILABLE, "The database cannot be asked; try again");

/// The query as it was typed. A key that is not known is ignored.
#[derive(Deserialize)]
pub(super) struct Asked {
    before: Option<String>,
    limit: Option<String>,
}

pub(super) async fn messages<R: Rooms>(
    State(rooms): State<R>,
    Path(room): Path<String>,
    query: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let room = Uuid::try_parse(&room).map_err(|_| Failure::NOT_FOUND)?;
    match rooms.admit(token(&headers), room).await {
        Admission::Admitted(_) => {}
        Admission::Unauthorized => return Err(UNAUTHORIZED),
        Admission::NotMember => return Err(NOT_MEMBER),
        Admission::Unavailable => return Err(UNAVAILABLE),
    }
    let Query(asked) = query.map_err(|_| BAD_QUERY)?;
    match rooms.history(room, asked.before()?, asked.limit()?).await {
        History::Messages(messages) => Ok(answer(&messages)),
        History::UnknownMessage => Err(BAD_BEFORE),
        History::Unavailable => Err(UNAVAILABLE),
    }
}

impl Asked {
    fn before(&self) -> Result<Option<Uuid>, Failure> {
        self.before.as_deref().map(|id| Uuid::try_parse(id).map_err(|_| BAD_BEFORE)).transpose()
    }

    fn limit(&self) -> Result<u16, Failure> {
        let limit = self.limit.as_deref().map_or(Ok(LIMIT_DEFAULT), str::parse);
        limit.ok().filter(|limit| (1..=LIMIT_MAX).contains(limit)).ok_or(BAD_LIMIT)
    }
}

fn token(headers: &HeaderMap) -> Option<Token> {
    Token::new(str::from_utf8(header_token(headers)?).ok()?)
}

fn answer(messages: &[Saved]) -> Response {
    let mut body = BytesMut::from(&br#"{"messages":["#[..]);
    for (index, saved) in messages.iter().enumerate() {
        if index > 0 {
            body.put_u8(b',');
        }
        chat_message_json(&mut body, &envelope(saved));
    }
    body.put_slice(b"]}");
    ([(header::CONTENT_TYPE, "application/json")], body.freeze()).into_response()
}

fn envelope(saved: &Saved) -> Envelope<'_> {
    Envelope {
        message: &saved.content,
        sender: saved.sender,
        sender_username: &saved.sender_username,
        id: saved.id,
        timestamp: saved.timestamp,
        receiver: saved.receiver,
    }
}
