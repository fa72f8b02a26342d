//! The opening handshake (RFC 6455 section 4) and every way to refuse it.
//!
//! In: the bytes that a new connection has sent so far. Out: what its request asks for, and the bytes of the answer. The
//! shard that accepted the connection calls this on its own thread. Which paths, tokens and origins are welcome is
//! decided elsewhere; nothing here logs, because a request carries a token.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Bytes, BytesMut};
use tungstenite::{
    Error,
    error::{CapacityError, ProtocolError},
    handshake::{derive_accept_key, machine::TryParse},
    http::{
        HeaderMap, HeaderValue,
        header::{
            CONNECTION, CONTENT_LENGTH, HOST, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING,
            UPGRADE,
        },
    },
};

pub use tungstenite::handshake::server::Request;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $status:literal, $headers:ident, $label:literal, $text:literal;)*) => {
        /// Why a connection is answered with HTTP and closed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
            /// Every refusal, in the order of their counters.
            pub const ALL: &[Refusal] = &[$(Refusal::$name,)*];

            /// The name of its counter.
            pub const fn label(self) -> &'static str { match self { $(Refusal::$name => $label,)* } }

            /// The whole answer, after which the connection is closed.
            pub fn response(self) -> Bytes {
                let (status, headers, text) = match self { $(Refusal::$name => ($status, $headers, $text),)* };
                Bytes::from(format!(
                    "HTTP/1.1 {status}\r\n{headers}Content-Type: text/plain; charset=utf-8\r\n\
                     Content-Length: {}\r\n\r\n{text}\n",
                    text.len() + 1
                ))
            }
        }
    };
}

const CLOSE: &str = "Connection: close\r\n";
/// RFC 9110 section 15.5.22 asks for `Upgrade`, section 7.8 for its connection option, RFC 6455 section 4.4 for the
/// version.
const UPGRADE_NEEDED: &str = "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
const RETRY: &str = "Connection: close\r\nRetry-After: 5\r\n";

refusals! {
    /// Not HTTP/1, or not well-formed.
    Malformed = "400 Bad Request", CLOSE, "malformed",
        "This is not a well-formed HTTP/1.1 request. Is the client speaking TLS or HTTP/2 to a plain port?";
    /// HTTP/1.1 asks for exactly one `Host` (RFC 9112 section 3.2).
    HostMissing = "400 Bad Request", CLOSE, "host_missing",
        "The request must have exactly one Host header.";
    /// RFC 6455 section 4.2.1: sixteen bytes in base64, once.
    KeyInvalid = "400 Bad Request", CLOSE, "key_invalid",
        "The request must have exactly one Sec-WebSocket-Key header, of sixteen random bytes in base64.";
    /// A body before the first frame would be taken for frames.
    BodyOnUpgrade = "400 Bad Request", CLOSE, "body_on_upgrade",
        "A WebSocket upgrade cannot carry a body.";
    /// The page that connects was not loaded from a place in the allow-list.
    OriginForbidden = "403 Forbidden", CLOSE, "origin_forbidden",
        "Pages of this origin may not connect. Whoever runs the server can add it to the allowed origins.";
    /// Nothing is served here.
    NotFound = "404 Not Found", CLOSE, "not_found",
        "There is nothing here. A chat room is at /ws/chat/{room}/, where {room} is its UUID.";
    /// The head did not arrive in time.
    Timeout = "408 Request Timeout", CLOSE, "timeout",
        "The request did not arrive in time.";
    /// A chat room asked for as if it were a page.
    NotAnUpgrade = "426 Upgrade Required", UPGRADE_NEEDED, "not_an_upgrade",
        "This is a WebSocket address: connect with a WebSocket client. If you did, a proxy on the way may have removed \
         the headers Connection: Upgrade and Upgrade: websocket.";
    /// Any version but 13.
    WrongVersion = "426 Upgrade Required", UPGRADE_NEEDED, "wrong_version",
        "The WebSocket version must be 13 (RFC 6455).";
    /// The head is over its limit in bytes or in lines.
    HeadTooLarge = "431 Request Header Fields Too Large", CLOSE, "head_too_large",
        "The request line and headers are too large. Large cookies of the same site are a usual cause.";
    /// As many connections are open as may be.
    Full = "503 Service Unavailable", RETRY, "full",
        "The server is full. Try again later.";
    /// Too many connections are being opened.
    TooManyAttempts = "503 Service Unavailable", RETRY, "too_many_attempts",
        "Too many connection attempts. Try again later.";
}

/// What the first bytes of a connection amount to.
pub enum Head<'a> {
    /// Not all of the head is there.
    Incomplete,
    /// A WebSocket upgrade, for any path. Its version and key are for [`accept`] to check, after the path was found to
    /// exist.
    Upgrade {
        /// The request. Its `Debug` would print a token: never log it.
        request: Box<Request>,
        /// The bytes of the head; what follows is the client's first frames.
        len: usize,
    },
    /// Any other well-formed request, in HTTP/1.0 or 1.1.
    Http {
        /// The request target as it was sent. It may hold a token: never log it.
        target: &'a str,
        /// The bytes of the head; what follows is the request's body or the next request.
        len: usize,
    },
    /// A request that can only be refused.
    Bad(Refusal),
}

impl fmt::Debug for Head<'_> {
    /// Says what kind of request it is, and nothing of its content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Head::Incomplete => f.write_str("Incomplete"),
            Head::Upgrade { len, .. } => write!(f, "Upgrade {{ len: {len} }}"),
            Head::Http { len, .. } => write!(f, "Http {{ len: {len} }}"),
            Head::Bad(refusal) => write!(f, "Bad({refusal:?})"),
        }
    }
}

/// Reads the head of the first request out of all that a connection has sent so far. A head of more than `bytes_max`
/// bytes is refused, complete or not.
pub fn parse(received: &[u8], bytes_max: usize) -> Head<'_> {
    match Request::try_parse(received) {
        Ok(None) if received.len() >= bytes_max => Head::Bad(Refusal::HeadTooLarge),
        Ok(None) => Head::Incomplete,
        Ok(Some((len, _))) if len > bytes_max => Head::Bad(Refusal::HeadTooLarge),
        Ok(Some((len, request))) if is_upgrade(request.headers()) => upgrade(request, len),
        // tungstenite knows no requests but GET in HTTP/1.1, and hides how long another's head is.
        Ok(Some(_)) | Err(Error::Protocol(ProtocolError::WrongHttpMethod | ProtocolError::WrongHttpVersion)) => {
            plain(received, bytes_max).unwrap_or_else(Head::Bad)
        }
        Err(Error::Capacity(CapacityError::TooManyHeaders)) => Head::Bad(Refusal::HeadTooLarge),
        Err(_) => Head::Bad(Refusal::Malformed),
    }
}

/// Is this meant as a WebSocket upgrade? Both headers are lists, may be spread over several lines, and know no case
/// (RFC 9110 section 7.8).
fn is_upgrade(headers: &HeaderMap) -> bool {
    let lists = |name, wanted: &str| list(headers, name).any(|item| item.eq_ignore_ascii_case(wanted));
    lists(CONNECTION, "upgrade") && lists(UPGRADE, "websocket")
}

/// The items of a comma-separated header, over all of its lines; those that are not text are left out.
pub fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

/// The value of a header that must be there exactly once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).into_iter();
    values.next().filter(|_| values.next().is_none())
}

fn upgrade<'a>(request: Request, len: usize) -> Head<'a> {
    let headers = request.headers();
    if only(headers, &HOST).is_none() {
        return Head::Bad(Refusal::HostMissing);
    }
    if headers.contains_key(TRANSFER_ENCODING) || headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0") {
        return Head::Bad(Refusal::BodyOnUpgrade);
    }
    Head::Upgrade { request: Box::new(request), len }
}

/// Finds target and end of a head whose request line and headers are known to be well-formed.
fn plain(received: &[u8], bytes_max: usize) -> Result<Head<'_>, Refusal> {
    let start = received.iter().position(|byte| !b"\r\n".contains(byte)).ok_or(Refusal::Malformed)?;
    let line = received[start..].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let headers_start = start + line.len() + 1;
    let (headers_bytes, headers) = match HeaderMap::try_parse(received.get(headers_start..).unwrap_or_default()) {
        Ok(Some(parsed)) => parsed,
        _ => return Err(Refusal::Malformed),
    };
    let line = str::from_utf8(line).map_err(|_| Refusal::Malformed)?;
    let mut words = line.split_ascii_whitespace().skip(1);
    let (Some(target), Some(version)) = (words.next(), words.next()) else { return Err(Refusal::Malformed) };
    if version != "HTTP/1.0" && only(&headers, &HOST).is_none() {
        return Err(Refusal::HostMissing);
    }
    let len = headers_start + headers_bytes;
    if len > bytes_max { Err(Refusal::HeadTooLarge) } else { Ok(Head::Http { target, len }) }
}

/// The 101 response to `request`, with the sub-protocol that was chosen of those offered, if any.
///
/// # Errors
/// [`Refusal::WrongVersion`] and [`Refusal::KeyInvalid`].
pub fn accept(request: &Request, protocol: Option<&'static str>) -> Result<Bytes, Refusal> {
    let headers = request.headers();
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::WrongVersion);
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes())).ok_or(Refusal::KeyInvalid)?;
    // Written out: tungstenite's own way, a map of headers that is filled and then printed, took 0.7 us more.
    let mut bytes = BytesMut::with_capacity(192);
    bytes.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ",
    );
    bytes.extend_from_slice(derive_accept_key(key.as_bytes()).as_bytes());
    if let Some(protocol) = protocol {
        bytes.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        bytes.extend_from_slice(protocol.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n\r\n");
    Ok(bytes.freeze())
}

/// Sixteen bytes in base64.
fn is_key(key: &[u8]) -> bool {
    let mut decoded = [0; 18];
    key.len() == 24 && BASE64_STANDARD.decode_slice(key, &mut decoded) == Ok(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 8192;
    const GOOD: &str = "GET /any?token=secret HTTP/1.1\r\nHost: example\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    #[track_caller]
    fn check(head: &str, expected: &str) {
        assert_eq!(format!("{:?}", parse(head.as_bytes(), BYTES_MAX)), expected, "{head}");
    }

    /// `GOOD` with one of its lines replaced.
    fn with(line: &str, instead: &str) -> String {
        assert!(GOOD.contains(line), "{line}");
        GOOD.replace(line, instead)
    }

    fn accepted(head: &str) -> Result<String, Refusal> {
        match parse(head.as_bytes(), BYTES_MAX) {
            Head::Upgrade { request, .. } => {
                accept(&request, None).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_upgrade_is_answered_as_the_rfc_computes_it() {
        let response = accepted(GOOD).expect("a good request").to_lowercase();
        assert!(response.starts_with("http/1.1 101 switching protocols\r\n"), "{response}");
        // RFC 6455 section 1.3.
        assert!(response.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{response}");
        assert!(response.contains("\r\nconnection: upgrade\r\n") && response.contains("\r\nupgrade: websocket\r\n"));
        assert!(response.ends_with("\r\n\r\n") && !response.contains("protocol:"));

        let Head::Upgrade { request, len } = parse(GOOD.as_bytes(), BYTES_MAX) else { panic!("an upgrade") };
        assert_eq!((len, request.uri().path()), (GOOD.len(), "/any"));
        let response = accept(&request, Some("ringroom.v1")).expect("a good request");
        assert!(String::from_utf8_lossy(&response).contains("\r\nSec-WebSocket-Protocol: ringroom.v1\r\n\r\n"));
    }

    #[test]
    fn a_head_may_come_byte_by_byte_and_with_frames_behind_it() {
        for len in 0..GOOD.len() {
            check(&GOOD[..len], "Incomplete");
        }
        check(&format!("{GOOD}\u{1}\u{2}"), &format!("Upgrade {{ len: {} }}", GOOD.len()));
        check(&format!("\r\n{GOOD}"), &format!("Upgrade {{ len: {} }}", GOOD.len() + 2));
    }

    #[test]
    fn upgrades_are_known_however_they_are_spelled() {
        for (line, instead) in [
            ("Connection: keep-alive, Upgrade", "Connection: keep-alive\r\nConnection: foo,\t uPgRaDe ,"),
            ("Connection: keep-alive, Upgrade", "CONNECTION:Upgrade"),
            ("Upgrade: websocket", "uPGRADE: h2c\r\nupgrade: foo, WebSocket"),
            ("GET /any", "GET http://example/any"),
            ("\r\n", "\n"),
            ("Host: example", "Host: example\r\nContent-Length: 0"),
        ] {
            assert!(accepted(&with(line, instead)).is_ok(), "{instead}");
        }
    }

    #[test]
    fn other_requests_go_to_the_http_side_with_their_target() {
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "/"),
            ("GET /a?b=c HTTP/1.0\r\n\r\n", "/a?b=c"),
            ("\r\nPOST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "/p"),
            ("DELETE /lf HTTP/1.1\nHost: a\n\n", "/lf"),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "*"),
            (&with("Upgrade: websocket", "Upgrade: h2c"), "/any?token=secret"),
            (&with("Connection: keep-alive, Upgrade", "Connection: keep-alive"), "/any?token=secret"),
            (&with("GET ", "POST "), "/any?token=secret"),
            (&with("HTTP/1.1", "HTTP/1.0"), "/any?token=secret"),
        ] {
            let Head::Http { target, len } = parse(head.as_bytes(), BYTES_MAX) else { panic!("{head}") };
            assert_eq!(target, expected);
            assert!(head[..len].ends_with("\n\n") || head[..len].ends_with("\r\n\r\n"), "{head}");
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        let bad = |refusal: Refusal| format!("Bad({refusal:?})");
        for head in [
            "\x16\x03\x01\x02",
            "PRI * HTTP/2.0\r\n\r\n",
            "GET /any HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET /any HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET /any\r\n\r\n",
            "GET  HTTP/1.1\r\nHost: a\r\n\r\n",
            "G@T\0/ HTTP/1.1\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            check(head, &bad(Refusal::Malformed));
        }
        check("GET / HTTP/1.1\r\n\r\n", &bad(Refusal::HostMissing));
        check(&with("Host: example\r\n", ""), &bad(Refusal::HostMissing));
        check(&with("Host: example", "Host: a\r\nHost: b"), &bad(Refusal::HostMissing));
        check(&with("Host: example", "Host: a\r\nContent-Length: 5"), &bad(Refusal::BodyOnUpgrade));
        check(&with("Host: example", "Host: a\r\nTransfer-Encoding: chunked"), &bad(Refusal::BodyOnUpgrade));
    }

    #[test]
    fn large_heads_are_refused_complete_or_not() {
        let large = with("Host: example", &format!("Host: example\r\nCookie: {}", "x".repeat(BYTES_MAX)));
        check(&large, "Bad(HeadTooLarge)");
        check(&large[..BYTES_MAX - 1], "Incomplete");
        check(&large[..BYTES_MAX], "Bad(HeadTooLarge)");
        check(&large.replace("GET ", "PUT "), "Bad(HeadTooLarge)");
        check(&with("Host: example", &format!("Host: example\r\n{}", "a: b\r\n".repeat(130))), "Bad(HeadTooLarge)");
        let frames = format!("{GOOD}{}", "x".repeat(BYTES_MAX));
        check(&frames, &format!("Upgrade {{ len: {} }}", GOOD.len()));
    }

    #[test]
    fn version_and_key_are_checked_before_the_101() {
        for (line, instead, refusal) in [
            ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8", Refusal::WrongVersion),
            ("Sec-WebSocket-Version: 13\r\n", "", Refusal::WrongVersion),
            (
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8",
                Refusal::WrongVersion,
            ),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", Refusal::KeyInvalid),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                Refusal::KeyInvalid,
            ),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", Refusal::KeyInvalid),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j====", Refusal::KeyInvalid),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR==", Refusal::KeyInvalid),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSEh", Refusal::KeyInvalid),
            ("dGhlIHNhbXBsZSBub25jZQ==", "!", Refusal::KeyInvalid),
        ] {
            assert_eq!(accepted(&with(line, instead)), Err(refusal), "{instead}");
        }
    }

    #[test]
    fn refusals_are_whole_responses() {
        for (at, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, at);
            let response = refusal.response();
            let response = str::from_utf8(&response).expect("ASCII");
            let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
            assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{response}");
            assert!(head.contains("\r\nConnection: close"), "{response}");
            assert_eq!(head.contains("426 "), head.contains("Upgrade: websocket\r\nSec-WebSocket-Version: 13"));
            assert_eq!(head.contains("503 "), head.contains("Retry-After: "));
            assert!(Refusal::ALL[..at].iter().all(|other| other.label() != refusal.label()));
        }
    }

    #[test]
    fn no_part_of_a_request_is_printed() {
        for head in [GOOD.to_owned(), with("websocket", "h2c")] {
            assert!(!format!("{:?}", parse(head.as_bytes(), BYTES_MAX)).contains("secret"));
        }
    }
}
