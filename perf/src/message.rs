//! The chat messages that the load sends: masked frames put together from pieces made beforehand, for any length of text,
//! and what such a message tells when it comes back: whose it is, its number, and when it was due.

use crate::frame;

/// The shortest message text: what a message is known by, in characters of [`DIGITS`]: four for the run's tag, four for
/// the sender, six for the number, ten for the time.
pub(crate) const TEXT_BYTES_MIN: usize = 24;

/// The longest message text: what a server takes by default, in characters.
pub(crate) const TEXT_BYTES_MAX: usize = 4096;

/// The first bytes of a message text.
pub(crate) type Mark = [u8; TEXT_BYTES_MIN];

/// Tag and sender, as they stand in the mark.
pub(crate) type Author = [u8; 8];

const OPENING: &[u8] = br#"{"type":"chat_message","message":""#;
const CLOSING: &[u8] = br#"","receiver_id":null}"#;

/// 64 digits that no JSON writer escapes.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_";

/// The value of each digit; what is none counts as 0.
const VALUES: [u8; 256] = {
    let (mut values, mut value) = ([0; 256], 0);
    while value < 64 {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// What every message of a run is made from.
pub(crate) struct Template {
    tag: [u8; 4],
    mask: [u8; 4],
    opening: Vec<u8>,
    /// The longest text's filler, as it stands after the mark.
    filler: Vec<u8>,
    /// What stands after the text, by the text's length modulo 4.
    closings: [Vec<u8>; 4],
}

impl Template {
    /// The messages of the run `tag`, of which 24 bits count.
    pub(crate) fn new(tag: u32) -> Self {
        let mask = (tag.rotate_left(16) | 0x0101_0101).to_be_bytes();
        let masked = |at, bytes: &[u8]| (at..).zip(bytes).map(|(i, byte)| byte ^ mask[i % 4]).collect();
        Self {
            tag: digits(u64::from(tag)),
            mask,
            opening: masked(0, OPENING),
            filler: masked(OPENING.len() + TEXT_BYTES_MIN, &[b'x'; TEXT_BYTES_MAX - TEXT_BYTES_MIN]),
            closings: std::array::from_fn(|len| masked(OPENING.len() + len, CLOSING)),
        }
    }

    /// What the messages of `sender` begin with.
    pub(crate) fn author(&self, sender: u32) -> Author {
        let (mut author, who) = ([0; 8], digits::<4>(u64::from(sender)));
        author[..4].copy_from_slice(&self.tag);
        author[4..].copy_from_slice(&who);
        author
    }

    /// Appends the frame of message `number` of `author`, due at `due_ns`, with a text of `text_bytes` characters, which
    /// are within [`TEXT_BYTES_MIN`] and [`TEXT_BYTES_MAX`].
    pub(crate) fn write(&self, author: &Author, number: u32, due_ns: u64, text_bytes: usize, out: &mut Vec<u8>) {
        let mut mark: Mark = [0; TEXT_BYTES_MIN];
        mark[..8].copy_from_slice(author);
        mark[8..14].copy_from_slice(&digits::<6>(u64::from(number)));
        mark[14..].copy_from_slice(&digits::<10>(due_ns));
        (OPENING.len()..).zip(&mut mark).for_each(|(i, byte)| *byte ^= self.mask[i % 4]);
        let payload_bytes = OPENING.len() + text_bytes + CLOSING.len();
        frame::write_head(frame::TEXT, payload_bytes, self.mask, out);
        out.extend_from_slice(&self.opening);
        out.extend_from_slice(&mark);
        out.extend_from_slice(&self.filler[..text_bytes - TEXT_BYTES_MIN]);
        out.extend_from_slice(&self.closings[text_bytes % 4]);
    }

    /// The sender of the message whose text begins with `mark`, when it is of this run.
    #[inline]
    pub(crate) fn sender(&self, mark: &Mark) -> Option<u32> {
        (mark[..4] == self.tag).then(|| value(&mark[4..8]) as u32)
    }
}

/// A message's number among those of its author.
#[inline]
pub(crate) fn number(mark: &Mark) -> u32 {
    value(&mark[8..14]) as u32
}

/// When a message was due.
#[inline]
pub(crate) fn due_ns(mark: &Mark) -> u64 {
    value(&mark[14..])
}

fn digits<const N: usize>(value: u64) -> [u8; N] {
    std::array::from_fn(|i| DIGITS[(value >> (6 * (N - 1 - i)) & 63) as usize])
}

#[inline]
fn value(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |value, digit| value << 6 | u64::from(VALUES[*digit as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Anchor, Field};

    fn unmask(frame: &[u8]) -> Vec<u8> {
        let head = if frame[1] & 0x7f == 126 { 8 } else { 6 };
        frame[head..].iter().enumerate().map(|(i, byte)| byte ^ frame[head - 4 + i % 4]).collect()
    }

    #[test]
    fn a_message_is_the_json_of_the_protocol_and_knows_itself() {
        let mut text = Field::new("\"message\"", Anchor::Start);
        let template = Template::new(0xdead_beef);
        for bytes in [24, 25, 26, 27, 28, 64, 68, 69, 70, 71, 200, 4096] {
            for (sender, sent, time_ns) in
                [(0, 0, 0), (7, 0x9abc_def0, 123_456_789_012), ((1 << 24) - 1, u32::MAX, (1 << 60) - 1)]
            {
                let mut out = vec![1, 2, 3];
                template.write(&template.author(sender), sent, time_ns, bytes, &mut out);
                let json = unmask(&out[3..]);
                let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
                assert_eq!(value["type"], "chat_message");
                assert_eq!(value["message"].as_str().unwrap().len(), bytes);
                assert!(value["receiver_id"].is_null());
                let mark = text.value(&json).unwrap();
                assert_eq!(mark[..8], template.author(sender));
                assert_eq!(
                    (template.sender(mark), number(mark), due_ns(mark)),
                    (Some(sender), sent, time_ns),
                    "{bytes}"
                );
            }
        }
    }

    #[test]
    fn a_message_of_another_run_is_not_ours() {
        let (ours, theirs) = (Template::new(1), Template::new(2));
        let mut mark = [b'0'; TEXT_BYTES_MIN];
        for (template, want) in [(&ours, Some(3)), (&theirs, None)] {
            mark[..8].copy_from_slice(&template.author(3));
            assert_eq!(ours.sender(&mark), want);
        }
        assert_ne!(ours.author(3), ours.author(4));
    }
}
