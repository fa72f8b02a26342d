//! The upgrade to a WebSocket from the client's side (RFC 6455 section 4.1): the request as bytes, the answer checked.

use tungstenite::handshake::{client::generate_key, derive_accept_key};

use crate::fixtures::Seat;
use crate::url::Url;

/// Longest answer to an upgrade that is read.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 << 10;

/// An upgrade under way: the request to send, and the answer that proves it was understood.
pub(crate) struct Upgrade {
    /// The request head, whole.
    pub(crate) request: String,
    accept: String,
}

impl Upgrade {
    /// The request for `seat`, as the first clients of this chat send it: the token in the query.
    pub(crate) fn new(url: &Url, seat: Seat<'_>) -> Self {
        let key = generate_key();
        let request = format!(
            "GET {}/ws/chat/{}/?token={} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n",
            url.prefix, seat.room, seat.token, url.host
        );
        Self { request, accept: derive_accept_key(key.as_bytes()) }
    }

    /// How many bytes of `answer` are its head; `None` while it has not all arrived.
    ///
    /// # Errors
    /// The answer is a refusal, or not one to this request.
    pub(crate) fn check(&self, answer: &[u8]) -> Result<Option<usize>, String> {
        let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else {
            return if answer.len() > ANSWER_BYTES_MAX { Err("an endless answer head".into()) } else { Ok(None) };
        };
        let head = String::from_utf8_lossy(&answer[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("101") {
            return Err(format!("the upgrade was refused: {status}"));
        }
        let accepted = lines
            .filter_map(|line| line.split_once(':'))
            .any(|(name, value)| name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == self.accept);
        if accepted { Ok(Some(end + 4)) } else { Err("the upgrade's Sec-WebSocket-Accept is wrong or missing".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_answer_to_this_request_and_no_other() {
        let url: Url = "ws://127.0.0.1:8000".parse().unwrap();
        let upgrade = Upgrade::new(&url, Seat { room: "r", username: "u", token: "t" });
        assert!(upgrade.request.starts_with("GET /ws/chat/r/?token=t HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"));
        let good = format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept:  {}\r\n\r\n", upgrade.accept);
        assert_eq!(upgrade.check(format!("{good}frames").as_bytes()), Ok(Some(good.len())));
        for cut in 0..good.len() {
            assert_eq!(upgrade.check(&good.as_bytes()[..cut]), Ok(None), "{cut}");
        }
        for bad in ["HTTP/1.1 503 Busy\r\n\r\n", "HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: x\r\n\r\n", "\r\n\r\n"] {
            assert!(upgrade.check(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(upgrade.check(&[b'x'; ANSWER_BYTES_MAX + 1]).is_err());
    }
}
