//! Finds the value of one JSON string field in a message without parsing it: messages of one server look alike, so the
//! field is where it was last time, and that is checked with one comparison. Where it is not, it is searched for.

use memchr::memmem::Finder;

/// From which end of a message the place of a field is counted: the end that no text of varying length separates from it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    /// The field's place is the same counted from the message's first byte.
    Start,
    /// The field's place is the same counted from the message's last byte.
    End,
}

/// One field of interest, and where it was seen last.
pub(crate) struct Field {
    key: Finder<'static>,
    anchor: Anchor,
    /// The key up to and with the value's opening quote, as this server writes it.
    lead: Vec<u8>,
    distance: usize,
}

impl Field {
    /// A field by its key with quotes: `"message_id"`.
    pub(crate) fn new(quoted_key: &'static str, anchor: Anchor) -> Self {
        Self { key: Finder::new(quoted_key), anchor, lead: Vec::new(), distance: usize::MAX }
    }

    /// The first `N` bytes of the field's string value, when the message has the field and its value is that long.
    #[inline]
    pub(crate) fn value<'a, const N: usize>(&mut self, message: &'a [u8]) -> Option<&'a [u8; N]> {
        let at = match self.remembered(message) {
            Some(at) => at,
            None => self.search(message)?,
        };
        message.get(at..)?.first_chunk()
    }

    #[inline]
    fn remembered(&self, message: &[u8]) -> Option<usize> {
        let at = match self.anchor {
            Anchor::Start => self.distance,
            Anchor::End => message.len().checked_sub(self.distance)?,
        };
        (message.get(at.checked_sub(self.lead.len())?..at)? == self.lead).then_some(at)
    }

    #[cold]
    fn search(&mut self, message: &[u8]) -> Option<usize> {
        let key_at = self.key.find(message)?;
        let after_key = key_at + self.key.needle().len();
        let gap = message[after_key..].iter().position(|byte| !matches!(byte, b':' | b' '))?;
        let quote = after_key + gap;
        if gap == 0 || message[quote] != b'"' {
            return None;
        }
        let at = quote + 1;
        self.lead = message[key_at..at].to_vec();
        self.distance = match self.anchor {
            Anchor::Start => at,
            Anchor::End => message.len() - at,
        };
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_value_however_the_server_spaces_its_json() {
        for (message, want) in [
            (r#"{"message":"abcdef","message_id":"0123"}"#, Some(b"0123")),
            (r#"{"message": "abc", "message_id": "4567", "timestamp": "x"}"#, Some(b"4567")),
            (r#"{"message":"a \"message_id\": \"no\"","message_id":"89ab"}"#, Some(b"89ab")),
            (r#"{"message_id":null}"#, None),
            (r#"{"message_id":"x"#, None),
            (r#"{"type":"error","message":"no"}"#, None),
            ("", None),
        ] {
            let mut field = Field::new("\"message_id\"", Anchor::End);
            assert_eq!(field.value::<4>(message.as_bytes()), want, "{message}");
        }
    }

    #[test]
    fn is_right_again_after_the_place_has_changed() {
        for anchor in [Anchor::Start, Anchor::End] {
            let mut field = Field::new("\"id\"", anchor);
            for (message, want) in [
                (r#"{"id":"aaaa","z":1}"#, b"aaaa"),
                (r#"{"id":"bbbb","z":1}"#, b"bbbb"),
                (r#"{"y":22,"id":"cccc","z":1}"#, b"cccc"),
                (r#"{"y":22,"id":"dddd","z":12345}"#, b"dddd"),
                (r#"{"id": "eeee"}"#, b"eeee"),
            ] {
                assert_eq!(field.value::<4>(message.as_bytes()), Some(want), "{message} {anchor:?}");
            }
        }
    }
}
