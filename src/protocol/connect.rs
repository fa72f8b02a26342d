//! Which room a request asks for, and whose token it brings.
//!
//! In: an upgrade request. Out: a [`ChatRequest`], or the refusal of a path that is none of ours. The shard that accepted
//! the connection calls this once a connection. Whether the room exists and the token is any good is asked elsewhere.

use std::borrow::Cow;

use tungstenite::http::{
    HeaderMap, Uri,
    header::{AUTHORIZATION, ORIGIN, SEC_WEBSOCKET_PROTOCOL},
};
use uuid::{Uuid, fmt::Hyphenated};

use crate::{
    identity::{RoomId, Token},
    ws::handshake::{Refusal, Request, list},
};

/// The sub-protocol that the server selects when it is offered.
pub const SUBPROTOCOL: &str = "ringroom.v1";

/// A request to enter a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatRequest {
    /// The room of the path.
    pub room: RoomId,
    /// The token, when one was presented that a database can hold.
    pub token: Option<Token>,
    /// The sub-protocol to answer with.
    pub selected_protocol: Option<&'static str>,
}

impl ChatRequest {
    /// Reads room and token.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when the path is not `/ws/chat/{room}/` with a UUID.
    pub fn read(request: &Request) -> Result<ChatRequest, Refusal> {
        let room = room(request.uri().path()).ok_or(Refusal::NotFound)?;
        let offers_ours = list(request.headers(), SEC_WEBSOCKET_PROTOCOL).any(|offer| offer == SUBPROTOCOL);
        let selected_protocol = offers_ours.then_some(SUBPROTOCOL);
        Ok(ChatRequest { room, token: token(request), selected_protocol })
    }
}

/// What a request without an upgrade is refused with, if its target is a room's and so nothing of the HTTP side's.
pub fn refusal_without_upgrade(target: &str) -> Option<Refusal> {
    let target: Uri = target.parse().ok()?;
    room(target.path()).map(|_| Refusal::NotAnUpgrade)
}

/// `/ws/chat/{room}/`: the UUID in its form with hyphens and any case, the last slash optional.
fn room(path: &str) -> Option<RoomId> {
    let name = path.strip_prefix("/ws/chat/")?;
    let name = name.strip_suffix('/').unwrap_or(name);
    (name.len() == Hyphenated::LENGTH).then(|| Uuid::try_parse(name).ok()).flatten()
}

/// The token of the first place that holds one. When that one cannot be a token, no other place is asked.
fn token(request: &Request) -> Option<Token> {
    let key = query_token(request.uri().query().unwrap_or_default())
        .or_else(|| header_token(request.headers()).map(Cow::Borrowed))
        .or_else(|| subprotocol_token(request).map(Cow::Borrowed))?;
    Token::new(str::from_utf8(&key).ok()?)
}

/// The first `token` of a query that is not empty.
fn query_token(query: &str) -> Option<Cow<'_, [u8]>> {
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("token="));
    values.filter(|value| !value.is_empty()).map(percent_decoded).next()
}

/// Decodes as forms are encoded: `%41` is `A`, `+` is a space, and a `%` without two hexadecimal digits is itself.
fn percent_decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), after)
            }
            (b'+', after) => (b' ', after),
            (byte, after) => (*byte, after),
        };
        decoded.push(byte);
        rest = after;
    }
    Cow::Owned(decoded)
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// `Authorization: Token KEY`, or `Bearer KEY`.
pub fn header_token(headers: &HeaderMap) -> Option<&[u8]> {
    let keys = headers.get_all(AUTHORIZATION).into_iter().filter_map(|line| {
        let (scheme, key) = line.to_str().ok()?.split_once(' ')?;
        let known = scheme.eq_ignore_ascii_case("token") || scheme.eq_ignore_ascii_case("bearer");
        known.then_some(key.trim())
    });
    keys.filter(|key| !key.is_empty()).map(str::as_bytes).next()
}

/// `Sec-WebSocket-Protocol: …, token.KEY`.
fn subprotocol_token(request: &Request) -> Option<&[u8]> {
    let keys = list(request.headers(), SEC_WEBSOCKET_PROTOCOL).filter_map(|offer| offer.strip_prefix("token."));
    keys.filter(|key| !key.is_empty()).map(str::as_bytes).next()
}

/// Where the page that connects was loaded from. `None`: the client is no browser. An origin that is not text, or not
/// alone, is `""`, which no allow-list holds.
pub fn origin(request: &Request) -> Option<&str> {
    let mut origins = request.headers().get_all(ORIGIN).into_iter();
    let first = origins.next()?;
    Some(if origins.next().is_none() { first.to_str().unwrap_or_default() } else { "" })
}

/// May a page from `origin` connect? Without an allow-list any may. A client without an origin is no browser, and so no
/// page is using its user's rights.
pub fn origin_allowed(origin: Option<&str>, allowed: &[String]) -> bool {
    let Some(origin) = origin else { return true };
    allowed.is_empty() || allowed.iter().any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::handshake::{Head, parse};

    const ROOM: &str = "6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a";

    fn request(target: &str, headers: &str) -> Box<Request> {
        let head =
            format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{headers}\r\n");
        match parse(head.as_bytes(), 8192) {
            Head::Upgrade { request, .. } => request,
            other => panic!("{other:?}: {head}"),
        }
    }

    #[track_caller]
    fn check_token(query: &str, headers: &str, expected: Option<&str>) {
        let request = request(&format!("/ws/chat/{ROOM}/{query}"), headers);
        let token = ChatRequest::read(&request).expect("a room").token;
        assert_eq!(token.as_ref().map(Token::expose), expected, "{query} {headers}");
    }

    #[test]
    fn rooms_are_uuids_with_hyphens() {
        let id = ROOM.parse().expect("a UUID");
        for path in
            [format!("/ws/chat/{ROOM}/"), format!("/ws/chat/{ROOM}"), format!("/ws/chat/{}/", ROOM.to_uppercase())]
        {
            assert_eq!(ChatRequest::read(&request(&path, "")).map(|chat| chat.room), Ok(id), "{path}");
            assert_eq!(ChatRequest::read(&request(&format!("http://a{path}?x"), "")).map(|chat| chat.room), Ok(id));
            assert_eq!(refusal_without_upgrade(&path), Some(Refusal::NotAnUpgrade));
        }
        for path in [
            "/",
            "/ws/chat/",
            "/ws/chat",
            "/ws/chat/lobby/",
            &format!("/ws/chat/{ROOM}//"),
            &format!("/ws/chat/{ROOM}/x"),
            &format!("/ws/chat/{{{ROOM}}}"),
            &format!("/ws/chat/{}", ROOM.replace('-', "")),
            &format!("/WS/chat/{ROOM}/"),
            &format!("/ws/chat//{ROOM}/"),
            "/ws/chat/6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4g/",
        ] {
            assert_eq!(refusal_without_upgrade(path), None, "{path}");
            if !path.contains('{') {
                assert_eq!(ChatRequest::read(&request(path, "")), Err(Refusal::NotFound), "{path}");
            }
        }
    }

    #[test]
    fn the_first_token_found_wins() {
        let header = "Authorization: Token fromheader\r\n";
        let offer = "Sec-WebSocket-Protocol: ringroom.v1, token.fromoffer\r\n";
        check_token("?token=fromquery", &format!("{offer}{header}"), Some("fromquery"));
        check_token("", &format!("{offer}{header}"), Some("fromheader"));
        check_token("?token=", &format!("Authorization: Token \r\n{offer}"), Some("fromoffer"));
        check_token("?x=token=y&token=first&token=second", "", Some("first"));
        check_token("?token=&token=second", "", Some("second"));
        check_token("?Token=x&tokens=y&token", "", None);
        check_token("", "", None);
    }

    #[test]
    fn tokens_are_found_however_they_are_spelled() {
        check_token("?token=%61b%2Bc%4a", "", Some("ab+cJ"));
        check_token("?token=100%&a", "", Some("100%"));
        check_token("?token=%zz%4", "", Some("%zz%4"));
        check_token("", "authorization: bEaReR   abc \r\n", Some("abc"));
        check_token("", "Authorization: Basic YTpi\r\nAuthorization: TOKEN abc\r\n", Some("abc"));
        check_token("", "Sec-WebSocket-Protocol: other\r\nSec-WebSocket-Protocol: token., token.abc\r\n", Some("abc"));
    }

    #[test]
    fn what_cannot_be_a_token_is_none_and_ends_the_search() {
        let header = "Authorization: Token good\r\n";
        for query in ["?token=a+b", "?token=%00", "?token=%ff", "?token=%C3%A9", &format!("?token={}", "x".repeat(129))]
        {
            check_token(query, header, None);
        }
    }

    #[test]
    fn our_subprotocol_is_selected_when_offered() {
        let selected = |headers| {
            let request = request(&format!("/ws/chat/{ROOM}/"), headers);
            ChatRequest::read(&request).expect("a room").selected_protocol
        };
        assert_eq!(selected("Sec-WebSocket-Protocol: token.abc,ringroom.v1\r\n"), Some(SUBPROTOCOL));
        assert_eq!(selected("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: ringroom.v1\r\n"), Some(SUBPROTOCOL));
        assert_eq!(selected("Sec-WebSocket-Protocol: ringroom.v2, token.abc\r\n"), None);
        assert_eq!(selected(""), None);
    }

    #[test]
    fn origins_are_checked_against_the_list_if_there_is_one() {
        let allowed = ["https://chat.example".to_owned(), "http://localhost:8000/".to_owned()];
        for (headers, listed) in [
            ("", true),
            ("Origin: https://chat.example\r\n", true),
            ("Origin: HTTPS://Chat.Example\r\n", true),
            ("Origin: http://localhost:8000\r\n", true),
            ("Origin: http://chat.example\r\n", false),
            ("Origin: https://chat.example.evil\r\n", false),
            ("Origin: null\r\n", false),
            ("Origin: \r\n", false),
            ("Origin: https://chat.example\r\nOrigin: https://evil\r\n", false),
            ("Origin: https://ch\u{e4}t.example\r\n", false),
        ] {
            let request = request("/", headers);
            assert_eq!(origin_allowed(origin(&request), &allowed), listed, "{headers}");
            assert!(origin_allowed(origin(&request), &[]), "{headers}");
        }
    }
}
