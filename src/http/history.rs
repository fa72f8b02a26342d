//! `GET /api/rooms/{room}/messages`: a room's saved messages, for its members.
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
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Failure, History, Rooms};
use crate::{
    auth::Admission,
    identity::{Token, UserId},
    store::{Micros, Saved},
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

/// The key of `Authorization: Token KEY` or `Bearer KEY`; scheme names have no letter case (RFC 9110 section 11.1).
fn token(headers: &HeaderMap) -> Option<Token> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let known = ["token", "bearer"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    known.then(|| Token::new(key.trim())).flatten()
}

fn answer(messages: &[Saved]) -> Response {
    let mut body = br#"{"messages":["#.to_vec();
    for (index, saved) in messages.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        write_message(&mut body, saved);
    }
    body.extend_from_slice(b"]}");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// One message, as it was broadcast.
fn write_message(body: &mut Vec<u8>, saved: &Saved) {
    let id = |id: &UserId| id.to_string();
    let object = Broadcast {
        kind: "chat_message",
        message: &saved.content,
        sender_id: id(&saved.sender),
        sender_username: &saved.sender_username,
        message_id: saved.id,
        timestamp: rfc3339(saved.timestamp),
        receiver_id: saved.receiver.as_ref().map(id),
    };
    serde_json::to_writer(body, &object).expect("writing to memory does not fail, and every key is a string");
}

#[derive(Serialize)]
struct Broadcast<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    message: &'a str,
    sender_id: String,
    sender_username: &'a str,
    message_id: Uuid,
    timestamp: String,
    receiver_id: Option<String>,
}

/// UTC with six fractional digits (RFC 3339). Days to dates by the proleptic Gregorian calendar, whose cycle is 400
/// years of 146,097 days; years begin in March here, so that the leap day comes last.
fn rfc3339(at: Micros) -> String {
    let (seconds, micros) = (at.div_euclid(1_000_000), at.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * march_month + 2) / 5 + 1, (march_month + 2) % 12 + 1);
    let year = era * 400 + year + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}
