//! What is asked of a server, as far as a planner can know it: rooms of some kinds, how many sit in each, how often
//! something is said there, and how long it is. Plain values.

use ringroom::identity::UserId;
use ringroom::protocol::output::{self, Envelope};
use uuid::Uuid;

/// Rooms that are alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Class {
    pub(crate) rooms: f64,
    /// Members of each that are connected.
    pub(crate) members: f64,
    /// Said in each.
    pub(crate) messages_per_second: f64,
    pub(crate) text_bytes: f64,
    /// Share of the messages that arrive here and are kept here: 1, but for a replica of a room whose home is elsewhere.
    pub(crate) here: f64,
}

/// Everything that is asked of one shard, or of all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Demand {
    pub(crate) classes: Vec<Class>,
}

impl Demand {
    /// Rooms of one kind.
    pub(crate) fn of(rooms: f64, members: f64, messages_per_second: f64, text_bytes: f64) -> Self {
        Self { classes: vec![Class { rooms, members, messages_per_second, text_bytes, here: 1.0 }] }
    }

    /// The same rooms and members, who say `factor` times as much.
    pub(crate) fn louder(&self, factor: f64) -> Self {
        let louder = |class: &Class| Class { messages_per_second: class.messages_per_second * factor, ..*class };
        Self { classes: self.classes.iter().map(louder).collect() }
    }

    pub(crate) fn rooms(&self) -> f64 {
        self.sum(|_| 1.0)
    }

    pub(crate) fn connections(&self) -> f64 {
        self.sum(|class| class.members)
    }

    /// Messages a second that arrive.
    pub(crate) fn messages(&self) -> f64 {
        self.sum(|class| class.messages_per_second * class.here)
    }

    /// Bytes a second of their texts.
    pub(crate) fn text_bytes(&self) -> f64 {
        self.sum(|class| class.messages_per_second * class.here * class.text_bytes)
    }

    pub(crate) fn deliveries(&self) -> f64 {
        self.sum(|class| class.messages_per_second * class.members)
    }

    /// Bytes a second of all deliveries, as frames.
    pub(crate) fn sent_bytes(&self) -> f64 {
        self.sum(|class| class.messages_per_second * class.members * frame_bytes(class.text_bytes))
    }

    /// The sum over all rooms of what `each` says of one.
    pub(crate) fn sum(&self, each: impl Fn(&Class) -> f64) -> f64 {
        self.classes.iter().map(|class| class.rooms * each(class)).sum()
    }
}

/// Bytes of a user's name, where nobody says how long names are: those of `ringroom seed`.
pub(crate) const NAME_BYTES: usize = 25;

/// Bytes of a broadcast message's frame, by the code that writes it.
pub(crate) fn frame_bytes(text_bytes: f64) -> f64 {
    let (text, name) = ("x".repeat(text_bytes.round() as usize), "n".repeat(NAME_BYTES));
    let mut frame = bytes::BytesMut::new();
    let envelope = Envelope {
        message: &text,
        sender: UserId::Uuid(Uuid::nil()),
        sender_username: &name,
        id: Uuid::nil(),
        timestamp: 0,
        receiver: None,
    };
    output::chat_message(&mut frame, &envelope);
    frame.len() as f64
}

/// Bytes of a message's record in the journal, by the code that writes it.
pub(crate) fn record_bytes(text_bytes: f64) -> f64 {
    ringroom::journal::record::encoded_len(NAME_BYTES, text_bytes.round() as usize) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_over_all_rooms_of_all_kinds() {
        let mut demand = Demand::of(10.0, 20.0, 3.0, 100.0);
        demand.classes.push(Class { rooms: 1.0, members: 50.0, messages_per_second: 4.0, text_bytes: 10.0, here: 0.5 });
        assert_eq!((demand.rooms(), demand.connections()), (11.0, 250.0));
        assert_eq!((demand.messages(), demand.deliveries()), (32.0, 800.0));
        assert_eq!(demand.text_bytes(), 3020.0);
        assert_eq!(demand.louder(2.0).messages(), 64.0);
        assert_eq!(demand.sent_bytes(), 600.0 * frame_bytes(100.0) + 200.0 * frame_bytes(10.0));
    }

    #[test]
    fn bytes_grow_with_the_text() {
        assert_eq!(frame_bytes(164.0) - frame_bytes(64.0), 100.0);
        assert!((280.0..340.0).contains(&frame_bytes(64.0)), "{}", frame_bytes(64.0));
        assert_eq!(record_bytes(1064.0) - record_bytes(64.0), 1000.0);
    }
}
