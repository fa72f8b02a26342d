//! Reads a segment's records out of its bytes, past whatever is damaged.
//!
//! In: the bytes of a file, and what its header and its successor say of them. Out: its records in order, and the places
//! where none can be read. Pure, and at ease with any bytes.
//!
//! Behind a damaged place the next record is looked for at every multiple of [`ALIGNMENT`]. A text cannot pass for one:
//! a record's head, with a sequence within [`SEQUENCES_AHEAD_MAX`], holds a zero byte, and the protocol refuses texts
//! with one. For the same reason hardly a place needs its checksum computed, and what is whole is summed once.

use std::ops::Range;

use super::{
    record::{ALIGNMENT, Decoded, HEAD_BYTES, Record, decode},
    segment::HEADER_BYTES,
};

/// How far a record's sequence may be above the one that was expected; more than a journal can come to hold.
pub const SEQUENCES_AHEAD_MAX: u64 = 1 << 48;

/// Every write puts as many zeros behind its last record, where the file has room for them.
const END_MARK_BYTES: usize = 8;

/// What stands in a segment, in order. Offsets count from the start of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A record, and where it is.
    Record {
        /// Its bytes in the file.
        at: Range<u32>,
        /// Its number.
        sequence: u64,
        /// The message.
        record: Record<'a>,
    },
    /// Bytes that once were records, with records or another segment behind them. They may reach beyond the file, when
    /// that was cut.
    Damaged(Range<u32>),
    /// The last write, of which only a part reached the file. Nothing comes after it.
    Torn(Range<u32>),
}

/// The way through one segment.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    /// The file, up to `end`.
    bytes: &'a [u8],
    /// Where its records end, if that is known.
    end: Option<u32>,
    at: usize,
    next_sequence: u64,
}

impl<'a> Scan<'a> {
    /// Through the segment in `bytes` (its whole file), whose records have sequences from `first_sequence` on and end at
    /// `end`; without an end, where the first thing stands that is no record and has none behind it.
    pub fn new(bytes: &'a [u8], first_sequence: u64, end: Option<u32>) -> Scan<'a> {
        let len = bytes.len().min(end.unwrap_or(u32::MAX) as usize);
        Scan { bytes: &bytes[..len], end, at: HEADER_BYTES, next_sequence: first_sequence }
    }

    /// The same for a file whose header cannot be read: that is its first damage.
    pub fn without_header(bytes: &'a [u8], first_sequence: u64, end: Option<u32>) -> Scan<'a> {
        Scan { at: 0, ..Scan::new(bytes, first_sequence, end) }
    }

    fn record_here(&mut self) -> Option<Found<'a>> {
        let (sequence, record, len) = whole_record(self.bytes, self.at, self.expected())?;
        let at = self.at as u32..(self.at + len) as u32;
        // A file may be cut between a record and the zeros that fill it up; nothing is missing then.
        self.at = (self.at + len).next_multiple_of(ALIGNMENT);
        self.next_sequence = sequence.saturating_add(1);
        Some(Found::Record { at, sequence, record })
    }

    /// Goes on to the next record, or to the end, and says what lies between.
    fn skip(&mut self) -> Option<Found<'a>> {
        let start = self.at;
        if let Some(next) = self.next_place(self.expected()) {
            self.at = next;
            return Some(Found::Damaged(start as u32..next as u32));
        }
        self.at = self.limit();
        if let Some(end) = self.end {
            return Some(Found::Damaged(start as u32..end));
        }
        let torn = start as u32..self.torn_end(start) as u32;
        match torn.is_empty() {
            true => None,
            // A file is not given its first bytes without the whole of its header.
            false if start == 0 && self.bytes.len() >= HEADER_BYTES => Some(Found::Damaged(torn)),
            false => Some(Found::Torn(torn)),
        }
    }

    /// Where a write ends that began at `start` and did not reach the file as a whole: before the zeros up to the end of
    /// the file, or before the first record of an earlier use of it.
    fn torn_end(&self, start: usize) -> usize {
        let old = 0..self.next_sequence;
        let rest = &self.bytes[start..];
        let is_unwritten = start > 0 && rest.iter().take(END_MARK_BYTES).all(|byte| *byte == 0);
        if is_unwritten || whole_record(self.bytes, start, old.clone()).is_some() {
            return start;
        }
        let written = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Scan { at: start, ..self.clone() }.next_place(old).unwrap_or(start + written)
    }

    /// The first place behind this one where a record stands whose sequence is one of these.
    fn next_place(&self, sequences: Range<u64>) -> Option<usize> {
        let mut places = (self.at + ALIGNMENT..self.bytes.len()).step_by(ALIGNMENT);
        places.find(|at| whole_record(self.bytes, *at, sequences.clone()).is_some())
    }

    fn expected(&self) -> Range<u64> {
        self.next_sequence..self.next_sequence.saturating_add(SEQUENCES_AHEAD_MAX)
    }

    fn limit(&self) -> usize {
        self.end.map_or(self.bytes.len(), |end| end as usize)
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        if self.at >= self.limit() {
            return None;
        }
        self.record_here().or_else(|| self.skip())
    }
}

/// The record at a place, if there is one with such a sequence: its sequence, itself, its length.
fn whole_record(bytes: &[u8], at: usize, sequences: Range<u64>) -> Option<(u64, Record<'_>, usize)> {
    let bytes = bytes.get(at..)?;
    let (_, sequence) = bytes.first_chunk::<HEAD_BYTES>()?.split_last_chunk::<8>()?;
    if !sequences.contains(&u64::from_le_bytes(*sequence)) {
        return None;
    }
    match decode(bytes) {
        Decoded::Record { sequence, record, len } => Some((sequence, record, len)),
        Decoded::End | Decoded::Bad => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::{BufMut, BytesMut};
    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
    use uuid::Uuid;

    use super::*;
    use crate::{
        identity::UserId,
        journal::{record::encode, segment::Header},
        store::Row,
    };

    /// A segment with these records, and an end mark.
    fn segment(records: &[(u64, &str)]) -> BytesMut {
        let header = Header { shard: 0, number: 2, first_sequence: 1, previous_end: 0 };
        let mut out = BytesMut::from(&header.encode()[..]);
        records.iter().for_each(|(sequence, text)| put(&mut out, *sequence, text));
        out.put_bytes(0, END_MARK_BYTES);
        out
    }

    fn put(out: &mut BytesMut, sequence: u64, content: &str) {
        let (sender, id) = (UserId::Int(1), Uuid::from_u128(sequence.into()));
        let row = Row { id, room: Uuid::nil(), sender, receiver: None, timestamp: 0, content };
        encode(out, sequence, &Record { row, sender_username: "zoe" });
    }

    /// What a scan finds, as text: `1 one`, `damaged 64..168`.
    fn found(bytes: &[u8], end: Option<u32>) -> Vec<String> {
        found_from(1, bytes, end)
    }

    fn found_from(first_sequence: u64, bytes: &[u8], end: Option<u32>) -> Vec<String> {
        Scan::new(bytes, first_sequence, end).map(words).collect()
    }

    fn words(found: Found<'_>) -> String {
        match found {
            Found::Record { sequence, record, .. } => format!("{sequence} {}", record.row.content),
            Found::Damaged(at) => format!("damaged {at:?}"),
            Found::Torn(at) => format!("torn {at:?}"),
        }
    }

    /// Where the records of [`three`] begin, and where the last one ends.
    const PLACES: [usize; 4] = [64, 168, 272, 376];

    fn three() -> BytesMut {
        let bytes = segment(&[(1, "one"), (2, "two"), (5, "five")]);
        assert_eq!(bytes.len(), PLACES[3] + END_MARK_BYTES);
        bytes
    }

    const WHOLE: [&str; 3] = ["1 one", "2 two", "5 five"];

    #[test]
    fn whole_records_are_found_up_to_the_end() {
        let mut bytes = three();
        assert_eq!(found(&bytes, None), WHOLE);
        assert_eq!(found(&bytes[..PLACES[3]], None), WHOLE, "a full file has no room for the mark");
        assert_eq!(found(&bytes, Some(PLACES[3] as u32)), WHOLE);
        assert_eq!(found(&bytes, Some(PLACES[2] as u32)), WHOLE[..2], "what is behind the end is void");
        assert_eq!(
            found_from(3, &bytes, Some(PLACES[1] as u32)),
            ["damaged 64..168"],
            "that is no record of this file"
        );
        bytes.put_bytes(0, 4096);
        assert_eq!(found(&bytes, None), WHOLE);
        assert_eq!(found(&[], None), [""; 0]);
        assert_eq!(found(&bytes[..HEADER_BYTES], None), [""; 0]);
    }

    #[test]
    fn what_an_earlier_use_left_is_neither_record_nor_torn() {
        let mut old = segment(&[(1, "old 1"), (2, "old 2"), (3, "old 3"), (4, "old 4")]);
        let mut new = segment(&[(7, "seven"), (8, "eight")]);
        let end = new.len() - END_MARK_BYTES;
        old[..end].copy_from_slice(&new[..end]);
        assert_eq!(found_from(7, &old, None), ["7 seven", "8 eight"], "without a mark");
        old[end..new.len()].fill(0);
        assert_eq!(found_from(7, &old, None), ["7 seven", "8 eight"], "behind the mark");
        // Half of a third record reached it, which ends where an old one begins.
        new.truncate(end);
        put(&mut new, 9, "nine");
        old[end..end + 40].copy_from_slice(&new[end..end + 40]);
        assert_eq!(found_from(7, &old, None), ["7 seven", "8 eight", "torn 272..376"]);
    }

    #[test]
    fn damage_is_skipped_and_the_rest_is_found() {
        let end = PLACES[3] as u32;
        for (first, last, lost) in [(0, 1, "damaged 64..168"), (1, 2, "damaged 168..272"), (0, 2, "damaged 64..272")] {
            for (what, byte) in [("zeros", 0), ("ones", 0xff), ("text", b' ')] {
                let mut bytes = three();
                bytes[PLACES[first]..PLACES[last]].fill(byte);
                let mut expected = WHOLE.map(str::to_owned).to_vec();
                expected.splice(first..last, [lost.to_owned()]);
                assert_eq!(found(&bytes, None), expected, "{what}");
                assert_eq!(found(&bytes, Some(end)), expected, "{what}");
            }
        }
        for byte in [0, 0xff] {
            let mut bytes = three();
            bytes[PLACES[2]..PLACES[3]].fill(byte);
            assert_eq!(found(&bytes, Some(end)), ["1 one", "2 two", "damaged 272..376"], "the end is known");
        }
    }

    #[test]
    fn a_file_that_ends_before_its_records_is_damaged() {
        let bytes = three();
        let end = Some(PLACES[3] as u32);
        for (cut, expected) in [(0, "damaged 64..376"), (64, "damaged 64..376"), (65, "damaged 64..376")] {
            assert_eq!(found(&bytes[..cut], end), [expected], "{cut}");
        }
        assert_eq!(found(&bytes[..PLACES[2]], end), ["1 one", "2 two", "damaged 272..376"]);
        assert_eq!(found(&bytes[..PLACES[3] - 1], end), WHOLE, "the zeros that fill a record up hold nothing");
    }

    #[test]
    fn a_last_write_that_is_not_whole_is_torn() {
        let whole = three();
        for cut in PLACES[2] + 1..PLACES[3] {
            let is_whole = cut >= PLACES[3] - usize::from(whole[PLACES[3] - 1] == 0);
            let torn = format!("torn 272..{}", cut - whole[..cut].iter().rev().take_while(|byte| **byte == 0).count());
            let expected = if is_whole { WHOLE } else { ["1 one", "2 two", &torn] };
            assert_eq!(found(&whole[..cut], None), expected, "{cut}");
            let mut preallocated = whole[..cut].to_vec();
            preallocated.resize(4096, 0);
            assert_eq!(found(&preallocated, None), expected, "{cut}, zeros behind");
        }
        assert_eq!(found(&whole[..PLACES[2]], None), WHOLE[..2]);
    }

    #[test]
    fn lengths_that_lie_lead_nowhere() {
        for len in [0, 1, 7, 8, 79, 80, 85, 192, 272, 296, 4096, 1 << 20, i32::MAX as u32, u32::MAX - 15, u32::MAX] {
            for (at, name) in [(0, "first"), (1, "middle"), (2, "last")] {
                let mut bytes = three();
                bytes[PLACES[at]..PLACES[at] + 4].copy_from_slice(&len.to_le_bytes());
                let mut expected = WHOLE.map(str::to_owned).to_vec();
                let what = if at == 2 { "torn" } else { "damaged" };
                let end = if at == 2 { PLACES[3] - 1 } else { PLACES[at + 1] };
                expected[at] = format!("{what} {}..{end}", PLACES[at]);
                assert_eq!(found(&bytes, None), expected, "{name} is {len}");
            }
        }
    }

    #[test]
    fn every_value_of_every_byte_harms_its_own_record_alone() {
        let whole = three();
        for at in HEADER_BYTES..whole.len() {
            for change in 1..=255 {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                let harmed = (at - HEADER_BYTES) / 104;
                let all = found(&bytes, None);
                let records: Vec<_> = all.iter().filter(|words| WHOLE.contains(&words.as_str())).collect();
                let others: Vec<_> = (0..3).filter(|i| *i != harmed).map(|i| WHOLE[i]).collect();
                // The zeros that fill a record up are the only bytes without meaning.
                if [166, 167, 270, 271, 375].contains(&at) {
                    assert_eq!(all, WHOLE, "{at} ^ {change}");
                } else {
                    assert_eq!(records, others.iter().collect::<Vec<_>>(), "{at} ^ {change}: {all:?}");
                    let what = if harmed < 2 { "damaged" } else { "torn" };
                    assert_eq!(
                        all.iter().filter(|words| words.starts_with(what)).count(),
                        1,
                        "{at} ^ {change}: {all:?}"
                    );
                    assert_eq!(all.len(), records.len() + 1, "{at} ^ {change}: {all:?}");
                }
            }
        }
    }

    #[test]
    fn a_file_without_a_header_still_has_its_records() {
        let without =
            |bytes: &[u8], first, end| -> Vec<_> { Scan::without_header(bytes, first, end).map(words).collect() };
        let mut bytes = three();
        for byte in [0xff, 0] {
            bytes[..HEADER_BYTES].fill(byte);
            assert_eq!(without(&bytes, 0, None), ["damaged 0..64", "1 one", "2 two", "5 five"]);
            assert_eq!(without(&bytes, 0, Some(272)), ["damaged 0..64", "1 one", "2 two"]);
            assert_eq!(without(&bytes, 2, None), ["damaged 0..168", "2 two", "5 five"], "one is of an earlier use");
        }
        bytes[..20].fill(1);
        assert_eq!(without(&bytes[..20], 0, None), ["torn 0..20"], "a file's first write, cut short");
        assert_eq!(without(&bytes[..20], 0, Some(272)), ["damaged 0..272"], "its successor says that there was more");
        assert_eq!(without(&bytes[..100], 0, None), ["damaged 0..96"], "there is more than a header");
        for unused in [0, 20, 64, 4096] {
            assert_eq!(without(&vec![0; unused], 0, None), [""; 0], "{unused} zeros were made ready");
        }
    }

    #[test]
    fn any_bytes_will_do() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..20_000 {
            let mut bytes = three();
            for _ in 0..random.random_range(1..8) {
                let (at, len) = (random.random_range(0..bytes.len()), random.random_range(1..40));
                let end = bytes.len().min(at + len);
                random.fill_bytes(&mut bytes[at..end]);
            }
            let end = [None, Some(random.random_range(0..500)), Some(u32::MAX)][random.random_range(0..3)];
            let first = [0, 1, 3, u64::MAX][random.random_range(0..4)];
            for scan in [Scan::new(&bytes, first, end), Scan::without_header(&bytes, first, end)] {
                check_order(scan);
            }
        }
        // A header may say so, and a checksum be right.
        let bytes = segment(&[(u64::MAX - 1, "last"), (u64::MAX, "none")]);
        check_order(Scan::new(&bytes, u64::MAX - 1, None));
    }

    /// Whatever is found lies one behind the other, and records rise.
    fn check_order(scan: Scan<'_>) {
        let (mut at, mut last) = (0, None);
        for found in scan {
            let (Found::Record { at: range, .. } | Found::Damaged(range) | Found::Torn(range)) = &found;
            assert!(at <= range.start && range.start < range.end, "{found:?} behind {at}");
            at = range.end;
            if let Found::Record { sequence, .. } = found {
                assert!(last < Some(sequence));
                last = Some(sequence);
            }
        }
    }

    #[test]
    fn behind_damage_a_sequence_far_off_is_no_record() {
        let near = segment(&[(1, "one"), (SEQUENCES_AHEAD_MAX, "far")]);
        assert_eq!(found(&near, None).len(), 2);
        let far = segment(&[(1, "one"), (SEQUENCES_AHEAD_MAX + 2, "too far")]);
        assert_eq!(found(&far, None), ["1 one", "torn 168..274"]);
    }

    #[test]
    fn looking_for_the_next_record_sums_up_hardly_anything() {
        const LENGTH: u32 = 256 * 1024;
        let mut bytes = segment(&[(1, "one")]);
        while bytes.len() < 1024 * 1024 {
            bytes.put_u32_le(LENGTH);
        }
        let started = Instant::now();
        assert_eq!(found(&bytes, None), ["1 one"]);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}
