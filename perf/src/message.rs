//! The chat messages that the load sends: finished masked frames in which only a number changes from one to the next,
//! and what such a message looks like when it comes back.

use crate::frame;

/// The shortest message text that holds what an echo is known by: a run's tag, the sender, the number.
pub(crate) const TEXT_BYTES_MIN: usize = 24;

/// The longest message text: what a server takes by default, in characters.
pub(crate) const TEXT_BYTES_MAX: usize = 4096;

/// The first bytes of a message text.
pub(crate) type Mark = [u8; TEXT_BYTES_MIN];

const OPENING: &str = r#"{"type":"chat_message","message":""#;

/// Where in the payload the number stands: after the tag and the sender, eight digits each.
const NUMBER_AT: usize = OPENING.len() + 16;

/// One sender's message, ready to be sent again and again.
pub(crate) struct Template {
    frame: Vec<u8>,
    mask: [u8; 4],
    /// Where in the frame the payload begins.
    payload_at: usize,
    mark: Mark,
}

impl Template {
    /// A message of `text_bytes` characters for `sender` of the run `tag`. `text_bytes` is at least [`TEXT_BYTES_MIN`].
    pub(crate) fn new(tag: u32, sender: u32, text_bytes: usize) -> Self {
        let text = format!("{:x<text_bytes$}", format!("{tag:08x}{sender:08x}{:08x}", 0));
        let json = format!(r#"{OPENING}{text}","receiver_id":null}}"#);
        let mask = (tag ^ sender.rotate_left(16) | 0x0101_0101).to_be_bytes();
        let mut frame = Vec::with_capacity(json.len() + 14);
        frame::write_masked(frame::TEXT, json.as_bytes(), mask, &mut frame);
        let payload_at = frame.len() - json.len();
        let mut mark = [0; TEXT_BYTES_MIN];
        mark.copy_from_slice(&text.as_bytes()[..TEXT_BYTES_MIN]);
        Self { frame, mask, payload_at, mark }
    }

    /// Appends the frame of message `number`.
    pub(crate) fn write(&self, number: u32, out: &mut Vec<u8>) {
        let at = out.len() + self.payload_at + NUMBER_AT;
        out.extend_from_slice(&self.frame);
        for (i, digit) in hex(number).into_iter().enumerate() {
            out[at + i] = digit ^ self.mask[(NUMBER_AT + i) % 4];
        }
    }

    /// The number of the message whose text begins with `mark`, when this sender sent it.
    #[inline]
    pub(crate) fn number(&self, mark: &Mark) -> Option<u32> {
        (mark[..16] == self.mark[..16]).then(|| mark[16..].iter().fold(0, |number, digit| number << 4 | nibble(*digit)))
    }
}

fn hex(number: u32) -> [u8; 8] {
    std::array::from_fn(|i| b"0123456789abcdef"[(number >> (28 - 4 * i) & 0xf) as usize])
}

#[inline]
fn nibble(digit: u8) -> u32 {
    u32::from(if digit >= b'a' { digit - b'a' + 10 } else { digit.wrapping_sub(b'0') }) & 0xf
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
    fn a_message_is_the_json_of_the_protocol_and_knows_its_number() {
        let mut text = Field::new("\"message\"", Anchor::Start);
        for bytes in [24, 25, 26, 27, 64, 200, 4096] {
            let template = Template::new(0xdead_beef, 7, bytes);
            for number in [0, 1, 0x9abc_def0, u32::MAX] {
                let mut out = vec![1, 2, 3];
                template.write(number, &mut out);
                let json = unmask(&out[3..]);
                let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
                assert_eq!(value["type"], "chat_message");
                assert_eq!(value["message"].as_str().unwrap().len(), bytes);
                assert!(value["receiver_id"].is_null());
                assert_eq!(template.number(text.value(&json).unwrap()), Some(number), "{bytes}");
            }
        }
    }

    #[test]
    fn a_message_of_another_sender_or_run_is_not_an_echo() {
        let template = Template::new(1, 2, 24);
        for (tag, sender) in [(1, 3), (2, 2)] {
            assert_eq!(template.number(&Template::new(tag, sender, 24).mark), None);
        }
    }
}
