//! Reads a segment's records out of its bytes, past whatever is damaged.
//!
//! In: the bytes of a file, and what its header and its successor say of them. Out: its records in order, and the places
//! where none can be read. Pure.

use std::ops::Range;

use super::{
    record::{ALIGNMENT, Decoded, Record, decode},
    segment::HEADER_BYTES,
};

/// What stands in a segment, in order.
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
    /// Bytes that once were records, with records or another segment behind them.
    Damaged(Range<u32>),
    /// The last write, of which only a part reached the file. Nothing comes after it.
    Torn(Range<u32>),
}

/// Reads the segment in `bytes` (its whole file), whose records have sequences from `first_sequence` on and end at `end`;
/// without an end, where the first thing stands that is no record.
pub fn scan(bytes: &[u8], first_sequence: u64, end: Option<u32>) -> impl Iterator<Item = Found<'_>> {
    let is_known = end.is_some();
    let end = end.map_or(bytes.len(), |end| bytes.len().min(end as usize));
    let mut at = HEADER_BYTES.min(end);
    let mut next_sequence = first_sequence;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        if let Some(found) = record_at(&bytes[..end], at, next_sequence) {
            let Found::Record { at: range, sequence, .. } = &found else { return None };
            (at, next_sequence) = (range.end as usize, sequence + 1);
            return Some(found);
        }
        let start = at;
        let behind = (start + ALIGNMENT..end).step_by(ALIGNMENT);
        let next = behind.into_iter().find(|at| record_at(&bytes[..end], *at, next_sequence).is_some());
        at = next.unwrap_or(end);
        let range = start as u32..at as u32;
        let is_clean_end = !is_known && next.is_none() && decode(&bytes[start..end]) == Decoded::End;
        match next.is_some() || is_known {
            true => Some(Found::Damaged(range)),
            false if is_clean_end => None,
            false => Some(Found::Torn(range)),
        }
    })
}

/// The record at a place, if there is one that belongs there.
fn record_at(bytes: &[u8], at: usize, sequence_min: u64) -> Option<Found<'_>> {
    match decode(&bytes[at..]) {
        Decoded::Record { sequence, record, len } if sequence >= sequence_min => {
            Some(Found::Record { at: at as u32..(at + len) as u32, sequence, record })
        }
        _ => None,
    }
}
