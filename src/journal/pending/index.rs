//! Where the messages of each room lie in one file of the journal.
//!
//! In: the records of a segment in order, as somebody reads them. Out: the places of one room's. Pure; eight bytes a record,
//! so that a journal of a gigabyte, in messages of a few hundred bytes, costs some 30 MB.

use std::ops::Range;

use crate::identity::RoomId;

/// The records of a file, or of a stretch of it.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: Vec<Entry>,
    /// Where the last record ends.
    end: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// A part of the room's id. Another room may have the same: a record says itself whose it is.
    room: u32,
    at: u32,
}

impl Index {
    /// Adds a record, which lies behind all that are known.
    pub(super) fn push(&mut self, room: RoomId, at: Range<u32>) {
        self.entries.push(Entry { room: part_of(room), at: at.start });
        self.end = at.end;
    }

    /// Adds what `later` knows, all of it behind what is known here.
    pub(super) fn append(&mut self, mut later: Index) {
        if !later.entries.is_empty() {
            self.entries.append(&mut later.entries);
            self.end = later.end;
        }
    }

    /// Forgets the records that begin below `offset`.
    pub(super) fn forget_below(&mut self, offset: u32) {
        let below = self.entries.partition_point(|entry| entry.at < offset);
        self.entries.drain(..below);
    }

    /// Where the room's records lie, and perhaps those of another, in order. What was damaged behind a record belongs to its
    /// place.
    pub(super) fn places(&self, room: RoomId) -> impl Iterator<Item = Range<u32>> {
        let ends = self.entries.iter().skip(1).map(|entry| entry.at).chain([self.end]);
        let places = self.entries.iter().zip(ends);
        places.filter(move |(entry, _)| entry.room == part_of(room)).map(|(entry, end)| entry.at..end)
    }
}

fn part_of(room: RoomId) -> u32 {
    let (high, low) = room.as_u64_pair();
    let both = high ^ low;
    (both ^ both >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_finds_its_records_and_no_forgotten_ones() {
        let rooms = [1, 2].map(RoomId::from_u128);
        let places = |index: &Index, room: RoomId| index.places(room).collect::<Vec<_>>();
        let mut index = Index::default();
        index.push(rooms[0], 64..100);
        index.push(rooms[1], 100..200);
        index.append(Index::default());
        let mut later = Index::default();
        later.push(rooms[0], 200..300);
        index.append(later);
        assert_eq!(places(&index, rooms[0]), [64..100, 200..300]);
        assert_eq!(places(&index, rooms[1]), vec![100..200]);
        index.forget_below(100);
        assert_eq!(places(&index, rooms[0]), vec![200..300]);
        index.forget_below(300);
        assert_eq!((places(&index, rooms[0]), places(&index, rooms[1])), (vec![], vec![]));
    }
}
