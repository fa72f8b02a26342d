//! The frames that the server sends (RFC 6455 section 5.2: whole, unmasked), written straight into a batch.
//!
//! In: payloads, or a payload that is being written. Out: bytes at the end of the caller's `BytesMut`, which belongs to
//! the shard that sends it. Nothing here keeps state between calls, and a payload is copied at most once.

use bytes::{BufMut, BytesMut};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

/// The longest payload of a control frame (RFC 6455 section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// The longest header without a masking key: two bytes and a length of 64 bits.
const HEADER_BYTES_MAX: usize = 10;

/// What [`begin_text`] sets aside: the header of a payload of 126 to 65,535 bytes, as nearly every chat message is.
const HEADER_BYTES_USUAL: usize = 4;

/// Writes the header of a whole frame whose `payload_bytes` bytes of payload the caller writes next.
pub fn put_header(out: &mut BytesMut, opcode: OpCode, payload_bytes: usize) {
    let (header, len) = header(opcode, payload_bytes);
    out.put_slice(&header[..len]);
}

/// A whole text message in one frame.
pub fn text(out: &mut BytesMut, payload: &str) {
    put_frame(out, OpCode::Data(Data::Text), payload.as_bytes());
}

/// A whole binary message in one frame.
pub fn binary(out: &mut BytesMut, payload: &[u8]) {
    put_frame(out, OpCode::Data(Data::Binary), payload);
}

/// A ping: the server's have no payload, so all of them are the same bytes.
pub static PING: [u8; 2] = [0x89, 0];

/// The answer to a ping, with the payload of the ping (RFC 6455 section 5.5.3); one beyond [`CONTROL_BYTES_MAX`] is cut there.
pub fn pong(out: &mut BytesMut, payload: &[u8]) {
    put_frame(out, OpCode::Control(Control::Pong), &payload[..payload.len().min(CONTROL_BYTES_MAX)]);
}

/// A close frame. Without a code the frame is empty, and so is the answer to an empty close frame. A reason that does
/// not fit is cut between two characters.
pub fn close(out: &mut BytesMut, code: Option<u16>, reason: &str) {
    let Some(code) = code else {
        return put_header(out, OpCode::Control(Control::Close), 0);
    };
    let mut reason_bytes = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(reason_bytes) {
        reason_bytes -= 1;
    }
    let reason = &reason[..reason_bytes];
    put_header(out, OpCode::Control(Control::Close), 2 + reason.len());
    out.put_u16(code);
    out.put_slice(reason.as_bytes());
}

/// A frame that [`begin_text`] opened and [`end`] will close.
#[must_use = "a frame that is begun must be ended, or the batch holds four bytes of nonsense"]
#[derive(Debug)]
pub struct Mark {
    /// Where the frame begins in the buffer.
    start: usize,
}

/// Opens a text frame of a length not known yet: write its payload into `out`, then call [`end`].
pub fn begin_text(out: &mut BytesMut) -> Mark {
    let start = out.len();
    out.put_bytes(0, HEADER_BYTES_USUAL);
    Mark { start }
}

/// Closes the frame that `mark` opened: all that was written into `out` since is its payload. A payload of an unusual
/// length is moved to make its header fit: under 126 bytes by two, over 65,535 by six.
pub fn end(out: &mut BytesMut, mark: Mark) {
    let payload_start = mark.start + HEADER_BYTES_USUAL;
    let payload_bytes = out.len() - payload_start;
    let (header, len) = header(OpCode::Data(Data::Text), payload_bytes);
    if len > HEADER_BYTES_USUAL {
        out.put_bytes(0, len - HEADER_BYTES_USUAL);
    }
    if len != HEADER_BYTES_USUAL {
        out.copy_within(payload_start..payload_start + payload_bytes, mark.start + len);
        out.truncate(mark.start + len + payload_bytes);
    }
    out[mark.start..mark.start + len].copy_from_slice(&header[..len]);
}

fn put_frame(out: &mut BytesMut, opcode: OpCode, payload: &[u8]) {
    out.reserve(HEADER_BYTES_MAX + payload.len());
    put_header(out, opcode, payload.len());
    out.put_slice(payload);
}

/// The header's bytes, and how many of them there are.
#[inline]
fn header(opcode: OpCode, payload_bytes: usize) -> ([u8; HEADER_BYTES_MAX], usize) {
    let head = FrameHeader { opcode, ..FrameHeader::default() };
    let mut bytes = [0; HEADER_BYTES_MAX];
    head.format(payload_bytes as u64, &mut &mut bytes[..]).expect("a header without a key has at most ten bytes");
    (bytes, head.len(payload_bytes as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::from(&b"before"[..]);
        write(&mut out);
        assert_eq!(&out[..6], b"before", "what was in the batch stays");
        out[6..].to_vec()
    }

    #[test]
    fn headers_are_as_short_as_the_length_allows() {
        // RFC 6455 5.2: the minimal number of bytes must be used.
        for (payload_bytes, expected) in [
            (0, &[0x81, 0][..]),
            (125, &[0x81, 125]),
            (126, &[0x81, 126, 0, 126]),
            (65_535, &[0x81, 126, 0xff, 0xff]),
            (65_536, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            assert_eq!(written(|out| put_header(out, OpCode::Data(Data::Text), payload_bytes)), expected);
        }
    }

    #[test]
    fn a_frame_written_between_two_marks_equals_one_written_whole() {
        for len in [0, 1, 124, 125, 126, 127, 65_534, 65_535, 65_536, 70_000] {
            let payload: String = ('a'..='z').cycle().take(len).collect();
            let piecewise = written(|out| {
                let mark = begin_text(out);
                out.put_slice(payload.as_bytes());
                end(out, mark);
            });
            assert!(piecewise == written(|out| text(out, &payload)), "{len} bytes");
        }
    }

    #[test]
    fn close_frames_carry_code_and_reason_within_their_bound() {
        assert_eq!(written(|out| close(out, None, "unsaid")), [0x88, 0]);
        assert_eq!(written(|out| close(out, Some(1000), "")), [0x88, 2, 0x03, 0xe8]);
        assert_eq!(written(|out| close(out, Some(4001), "no")), [0x88, 4, 0x0f, 0xa1, b'n', b'o']);
        let long = written(|out| close(out, Some(1000), &"é".repeat(100)));
        assert_eq!(long[1], 124, "123 bytes would split the last é");
        assert!(std::str::from_utf8(&long[4..]).is_ok());
    }

    #[test]
    fn pings_pongs_and_binary_messages() {
        assert_eq!(written(|out| put_header(out, OpCode::Control(Control::Ping), 0)), PING);
        assert_eq!(written(|out| pong(out, b"")), [0x8a, 0]);
        assert_eq!(written(|out| pong(out, &[7; 200])).len(), 2 + CONTROL_BYTES_MAX);
        assert_eq!(written(|out| binary(out, &[0xff])), [0x82, 1, 0xff]);
    }
}
