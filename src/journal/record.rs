//! One message as the journal keeps it, and as a turn carries it to the writer.
//!
//! In: a stamped message. Out: its bytes, and from bytes the message again, borrowed. Pure.
//!
//! ```text
//!   length u32 | CRC-32C u32 | sequence u64 | body | zeros up to a multiple of 8
//!   body: id 16 | room 16 | timestamp i64 | sender 16 | receiver 16 | kinds u32 | name length u32 | name | text
//! ```
//!
//! Numbers are little-endian. The length is the body's. The checksum covers the length, the sequence and the body. A
//! length of zero is no record: it says that nothing was written from there on.

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use crate::{
    identity::UserId,
    store::{Micros, Row, Saved},
};

/// Bytes before a record's body.
pub const HEAD_BYTES: usize = 16;

/// Bytes of a body before its two texts.
const FIXED_BYTES: usize = 16 + 16 + 8 + 16 + 16 + 4 + 4;

/// Records begin at multiples of this.
pub const ALIGNMENT: usize = 8;

/// A message, and how its sender was called when it was broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What becomes a row of the table.
    pub row: Row<'a>,
    /// The sender's name.
    pub sender_username: &'a str,
}

impl Record<'_> {
    /// How many bytes [`encode`] writes for it.
    pub fn encoded_len(&self) -> usize {
        encoded_len(self.sender_username.len(), self.row.content.len())
    }

    /// The message as the table would give it back.
    pub fn saved(&self) -> Saved {
        let Record { row, sender_username } = self;
        Saved {
            id: row.id,
            sender: row.sender,
            sender_username: (*sender_username).into(),
            receiver: row.receiver,
            timestamp: row.timestamp,
            content: row.content.into(),
        }
    }
}

/// What stands at a place of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A record.
    Record {
        /// Its number: rising, though not without gaps, in the journal of a shard.
        sequence: u64,
        /// The message.
        record: Record<'a>,
        /// Bytes up to where the next one may begin.
        len: usize,
    },
    /// The end: nothing was written here.
    End,
    /// Neither: cut off or damaged.
    Bad,
}

/// How many bytes [`encode`] writes for a record with texts of these lengths.
pub const fn encoded_len(name_len: usize, content_len: usize) -> usize {
    (HEAD_BYTES + FIXED_BYTES + name_len + content_len).next_multiple_of(ALIGNMENT)
}

/// Appends a record.
pub fn encode(out: &mut BytesMut, sequence: u64, record: &Record<'_>) {
    let Record { row, sender_username } = record;
    let body_len = FIXED_BYTES + sender_username.len() + row.content.len();
    let (start, len) = (out.len(), encoded_len(sender_username.len(), row.content.len()));
    out.reserve(len);
    out.put_u32_le(body_len as u32);
    out.put_u32_le(0);
    out.put_u64_le(sequence);
    out.put_slice(row.id.as_bytes());
    out.put_slice(row.room.as_bytes());
    out.put_i64_le(row.timestamp);
    let sender = put_user(out, Some(row.sender));
    let receiver = put_user(out, row.receiver);
    out.put_u32_le(u32::from(sender) | u32::from(receiver) << 8);
    out.put_u32_le(sender_username.len() as u32);
    out.put_slice(sender_username.as_bytes());
    out.put_slice(row.content.as_bytes());
    let checksum = checksum(&out[start..]);
    out[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    out.put_bytes(0, start + len - out.len());
}

/// What `bytes` begin with.
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    let Some(head) = bytes.get(..HEAD_BYTES) else {
        return if bytes.iter().all(|byte| *byte == 0) { Decoded::End } else { Decoded::Bad };
    };
    let body_len = u32_at(head, 0) as usize;
    if body_len == 0 {
        return Decoded::End;
    }
    // A file may be cut between a record and the zeros that fill it up; nothing is missing then.
    let len = (HEAD_BYTES + body_len).next_multiple_of(ALIGNMENT).min(bytes.len());
    let whole = &bytes[..(HEAD_BYTES + body_len).min(bytes.len())];
    let is_whole = bytes.len() >= HEAD_BYTES + body_len && u32_at(head, 4) == checksum(whole);
    match is_whole.then(|| body(&whole[HEAD_BYTES..])).flatten() {
        Some(record) => Decoded::Record { sequence: u64_at(head, 8), record, len },
        None => Decoded::Bad,
    }
}

/// The records of bytes that hold nothing else, such as a turn's.
pub fn decode_all(mut bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || match decode(bytes) {
        Decoded::Record { record, len, .. } => {
            bytes = &bytes[len..];
            Some(record)
        }
        Decoded::End | Decoded::Bad => None,
    })
}

/// Over everything but the checksum itself.
fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[8..])
}

const IS_NONE: u8 = 0;
const IS_UUID: u8 = 1;
const IS_INT: u8 = 2;

/// Sixteen bytes, and which kind of id they are.
fn put_user(out: &mut BytesMut, user: Option<UserId>) -> u8 {
    let (kind, bytes) = match user {
        None => (IS_NONE, [0; 16]),
        Some(UserId::Uuid(id)) => (IS_UUID, id.into_bytes()),
        Some(UserId::Int(id)) => (IS_INT, i128::from(id).to_le_bytes()),
    };
    out.put_slice(&bytes);
    kind
}

fn user(kind: u8, bytes: [u8; 16]) -> Option<Option<UserId>> {
    match kind {
        IS_NONE => Some(None),
        IS_UUID => Some(Some(UserId::Uuid(Uuid::from_bytes(bytes)))),
        IS_INT => i64::try_from(i128::from_le_bytes(bytes)).ok().map(|id| Some(UserId::Int(id))),
        _ => None,
    }
}

/// `None` where a checksum is right and the body is not: bytes that no version of this format wrote.
fn body(body: &[u8]) -> Option<Record<'_>> {
    let (fixed, texts) = body.split_at_checked(FIXED_BYTES)?;
    let kinds = u32_at(fixed, 72);
    let (name, text) = texts.split_at_checked(u32_at(fixed, 76) as usize)?;
    let row = Row {
        id: Uuid::from_bytes(array_at(fixed, 0)),
        room: Uuid::from_bytes(array_at(fixed, 16)),
        timestamp: u64_at(fixed, 32) as Micros,
        sender: user(kinds as u8, array_at(fixed, 40))??,
        receiver: user((kinds >> 8) as u8, array_at(fixed, 56))?,
        content: str::from_utf8(text).ok()?,
    };
    Some(Record { row, sender_username: str::from_utf8(name).ok()? })
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: &str) -> Record<'_> {
        Record {
            row: Row {
                id: Uuid::from_u128(1),
                room: Uuid::from_u128(2),
                sender: UserId::Int(-3),
                receiver: Some(UserId::Uuid(Uuid::from_u128(4))),
                timestamp: -5,
                content,
            },
            sender_username: "z\u{f6}e",
        }
    }

    fn encoded(content: &str) -> BytesMut {
        let mut out = BytesMut::new();
        encode(&mut out, 7, &record(content));
        out
    }

    #[test]
    fn a_record_reads_back_whatever_its_length() {
        for len in 0..40 {
            let text = "x".repeat(len);
            let bytes = encoded(&text);
            assert_eq!(bytes.len(), encoded_len(record("").sender_username.len(), len));
            assert!(bytes.len().is_multiple_of(ALIGNMENT));
            let whole = Decoded::Record { sequence: 7, record: record(&text), len: bytes.len() };
            assert_eq!(decode(&bytes), whole);
        }
        let none = Record { row: Row { receiver: None, ..record("").row }, sender_username: "" };
        let mut out = BytesMut::new();
        encode(&mut out, u64::MAX, &none);
        assert_eq!(decode_all(&out).collect::<Vec<_>>(), [none]);
    }

    #[test]
    fn a_turn_reads_back_in_order() {
        let mut out = encoded("one");
        encode(&mut out, 8, &record("two"));
        let texts: Vec<_> = decode_all(&out).map(|record| record.row.content).collect();
        assert_eq!(texts, ["one", "two"]);
    }

    #[test]
    fn every_bit_flipped_and_every_cut_is_noticed() {
        let bytes = encoded("hello");
        let meaningful = HEAD_BYTES + u32_at(&bytes, 0) as usize;
        for bit in 0..8 * meaningful {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(decode(&flipped), Decoded::Record { .. }), "bit {bit}");
        }
        for cut in 1..meaningful {
            assert_eq!(decode(&bytes[..cut]), Decoded::Bad, "cut at {cut}");
        }
        assert_eq!(decode(&[]), Decoded::End);
        assert_eq!(decode(&[0; 64]), Decoded::End);
    }
}
