//! A turn's messages while their fate is open: whose they are, and what becomes of them.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::{
    identity::User,
    shard::{conn::ConnId, room::Batch},
    writer::Why,
};

/// Who says something in a room whose home this is.
pub(super) struct Sender<'a> {
    /// The shard that it sits on.
    pub(super) shard: usize,
    pub(super) conn: ConnId,
    /// The room's slot.
    pub(super) room: u32,
    pub(super) user: &'a User,
}

/// One message of a turn: whose it is and how long its frame is.
pub(super) struct Origin {
    /// The shard that its sender sits on.
    pub(super) shard: usize,
    pub(super) conn: ConnId,
    pub(super) room: u32,
    pub(super) frame_len: u32,
}

/// A turn that is being filled, or that is over and not settled.
#[derive(Default)]
pub(super) struct Unsettled {
    pub(super) origins: Vec<Origin>,
    pub(super) rooms: Vec<u32>,
    /// The journal's number of its first message.
    pub(super) first_sequence: u64,
    /// Messages whose outcome is known, and which of them failed.
    known: usize,
    pub(super) unsaved: Vec<(u32, Why)>,
    /// It was broadcast before it is saved, and its records are nowhere else.
    pub(super) is_broadcast: bool,
    pub(super) records: Bytes,
    /// It waits only for older turns to be settled.
    pub(super) is_settled: bool,
}

impl Unsettled {
    /// The turn after this one, with room for as much.
    pub(super) fn next(&self) -> Unsettled {
        Unsettled {
            origins: Vec::with_capacity(self.origins.len()),
            rooms: Vec::with_capacity(self.rooms.len()),
            ..Unsettled::default()
        }
    }

    /// What stands for a settled turn until older ones are.
    pub(super) fn settled(first_sequence: u64) -> Unsettled {
        Unsettled { first_sequence, is_settled: true, ..Unsettled::default() }
    }

    /// What became of some of its messages. When that is known of all, those that failed, in rising order: the journal may
    /// refuse a turn's end before it refuses its beginning.
    pub(super) fn learn(&mut self, messages: Range<u64>, is_held: bool) -> Option<Vec<(u32, Why)>> {
        self.known += (messages.end - messages.start) as usize;
        if !is_held {
            self.unsaved.extend(messages.map(|message| (message as u32, Why::GivenUp)));
        }
        if self.known < self.origins.len() {
            return None;
        }
        self.unsaved.sort_unstable();
        Some(std::mem::take(&mut self.unsaved))
    }
}

/// The batch of a room, less the frames of messages that are not saved.
pub(super) fn without_unsaved(batch: &Batch, room: u32, origins: &[Origin], unsaved: &[(u32, Why)]) -> Batch {
    let mut frames = BytesMut::with_capacity(batch.frames.len());
    let mut messages = 0;
    let mut at = 0;
    for (number, origin) in origins.iter().enumerate().filter(|(_, origin)| origin.room == room) {
        let frame = at..at + origin.frame_len as usize;
        at = frame.end;
        if unsaved.binary_search_by_key(&(number as u32), |(message, _)| *message).is_err() {
            frames.extend_from_slice(&batch.frames[frame]);
            messages += 1;
        }
    }
    Batch { frames: frames.freeze(), messages }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_journal_refuses_is_not_broadcast_in_whatever_order_it_does_so() {
        let origin = || Origin { shard: 0, conn: ConnId::default(), room: 0, frame_len: 1 };
        for parts in [[0..2, 2..3, 3..4], [3..4, 2..3, 0..2], [2..3, 0..2, 3..4]] {
            let mut turn = Unsettled { origins: (0..4).map(|_| origin()).collect(), ..Unsettled::default() };
            let learnt = parts.map(|part| {
                let is_held = part == (2..3);
                turn.learn(part, is_held)
            });
            let [None, None, Some(unsaved)] = learnt else { panic!("{learnt:?}") };
            let batch = Batch { frames: Bytes::from_static(b"abcd"), messages: 4 };
            let left = without_unsaved(&batch, 0, &turn.origins, &unsaved);
            assert_eq!(left, Batch { frames: Bytes::from_static(b"c"), messages: 1 });
        }
    }
}
