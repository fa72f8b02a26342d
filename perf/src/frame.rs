//! WebSocket frames as a client sees them (RFC 6455 section 5): headers of the server's frames found in a run of bytes,
//! and the client's own masked frames written. No I/O, no copy of what is scanned.

/// Opcode of a text frame.
pub(crate) const TEXT: u8 = 0x1;
/// Opcode of a close frame.
pub(crate) const CLOSE: u8 = 0x8;
/// Opcode of a ping frame.
pub(crate) const PING: u8 = 0x9;
/// Opcode of a pong frame.
pub(crate) const PONG: u8 = 0xA;

/// Longest frame taken from a server. A server that sends more is not a chat, and must not make the client grow.
pub(crate) const FRAME_BYTES_MAX: usize = 4 << 20;

/// What stands at the head of a run of bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// A whole frame: its opcode, and where its payload lies.
    Frame { opcode: u8, start: usize, end: usize },
    /// The frame has not all arrived.
    Partial,
    /// The server broke the protocol, or uses a part of it that a chat has no use for.
    Broken(&'static str),
}

/// Finds the frame at the head of `bytes`.
#[inline]
pub(crate) fn scan(bytes: &[u8]) -> Scan {
    let [first, second, rest @ ..] = bytes else { return Scan::Partial };
    let (start, len) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]).min(u64::MAX >> 1) as usize)
        }
        (126 | 127, _) => return check_head(*first, *second).unwrap_or(Scan::Partial),
        (short, _) => (2, usize::from(short)),
    };
    if let Some(broken) = check_head(*first, *second) {
        return broken;
    }
    if len > FRAME_BYTES_MAX {
        return Scan::Broken("a frame over 4 MiB");
    }
    if bytes.len() < start + len {
        return Scan::Partial;
    }
    Scan::Frame { opcode: first & 0x0f, start, end: start + len }
}

#[inline]
fn check_head(first: u8, second: u8) -> Option<Scan> {
    if second & 0x80 != 0 {
        return Some(Scan::Broken("a masked frame from the server"));
    }
    match first & 0xf0 {
        0x80 => None,
        0x00 => Some(Scan::Broken("a fragmented message (not understood here)")),
        _ => Some(Scan::Broken("reserved bits set though no extension was agreed")),
    }
}

/// Appends one final masked frame to `out`.
pub(crate) fn write_masked(opcode: u8, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    write_head(opcode, payload.len(), mask, out);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Appends the header of a final frame whose masked payload of `payload_bytes` is still to follow.
pub(crate) fn write_head(opcode: u8, payload_bytes: usize, mask: [u8; 4], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match payload_bytes {
        short @ 0..126 => out.push(0x80 | short as u8),
        medium @ 126..65536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmasked(opcode: u8, len: usize) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match len {
            0..126 => frame.push(len as u8),
            126..65536 => {
                frame.push(126);
                frame.extend((len as u16).to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.resize(frame.len() + len, b'x');
        frame
    }

    #[test]
    fn finds_frames_of_every_header_length_and_waits_for_the_rest() {
        for (len, start) in [(0, 2), (1, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)] {
            let frame = unmasked(TEXT, len);
            let whole = Scan::Frame { opcode: TEXT, start, end: start + len };
            assert_eq!(scan(&frame), whole, "{len}");
            for cut in (0..frame.len()).take(12).chain([frame.len() - 1]) {
                assert_eq!(scan(&frame[..cut]), Scan::Partial, "{len} cut at {cut}");
            }
            let followed = [frame, unmasked(PING, 3)].concat();
            assert_eq!(scan(&followed), whole, "{len} followed by another");
        }
    }

    #[test]
    fn names_what_a_server_must_not_send() {
        for (bytes, word) in [
            (vec![0x81, 0x81, 0, 0, 0, 0, 0], "masked"),
            (vec![0x81, 0xfe], "masked"),
            (vec![0x01, 0x01, 0], "fragmented"),
            (vec![0xc1, 0x01, 0], "reserved"),
            (vec![0x81, 127, 0, 0, 0, 1, 0, 0, 0, 0], "4 MiB"),
            (vec![0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255], "4 MiB"),
        ] {
            let Scan::Broken(what) = scan(&bytes) else { panic!("{bytes:?} passed") };
            assert!(what.contains(word), "{what} does not say {word}");
        }
    }

    #[test]
    fn a_masked_frame_unmasks_to_what_was_given() {
        for len in [0, 5, 125, 126, 300, 65535, 65536] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut out = Vec::new();
            write_masked(PONG, &payload, [1, 2, 3, 250], &mut out);
            let head = out.len() - len;
            let mask: [u8; 4] = out[head - 4..head].try_into().unwrap();
            let plain: Vec<u8> = out[head..].iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]).collect();
            assert_eq!(out[0], 0x8a);
            assert_eq!(out[1] & 0x80, 0x80);
            assert_eq!(plain, payload);
        }
    }
}
