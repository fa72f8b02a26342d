//! One file of the journal: its name and its header.
//!
//! Pure. A segment is [`HEADER_BYTES`] of header, then records, then zeros or whatever the file held before.
//!
//! The header is written together with the first records, so a file that was only made ready has none, or that of the
//! segment it was before. It says where its predecessor ended: everything that stands there is behind this place only
//! because a write or a sync of it failed, and was written again here or refused.

use std::fmt;

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 64;

/// What a journal's files begin with.
const MAGIC: [u8; 8] = *b"ringroom";

/// The version of the format that this program writes, and the newest that it reads.
pub const VERSION: u32 = 1;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose journal it belongs to.
    pub shard: u32,
    /// Its number: one more than that of its predecessor.
    pub number: u32,
    /// No record in it has a lower sequence; what does is left of an earlier use of the file.
    pub first_sequence: u64,
    /// Where the records of its predecessor end, as an offset into that file; zero for the first of a run.
    pub previous_end: u32,
}

/// Why a file's header could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHeader {
    /// There is none: the file was made ready and not used.
    Unused,
    /// It was written by a later version of the program.
    Newer(u32),
    /// Something is written there, and it is not a header.
    Damaged,
}

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadHeader::Unused => f.write_str("it is empty"),
            BadHeader::Newer(version) => write!(
                f,
                "it is in format {version}, and this ringroom knows formats up to {VERSION}: start the newer ringroom once, \
                 so that it saves what the journal holds, or move the journal away"
            ),
            BadHeader::Damaged => f.write_str("its header is damaged"),
        }
    }
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.shard.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.previous_end.to_le_bytes());
        let checksum = checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header out of a file's first bytes.
    ///
    /// # Errors
    /// When there is none that this version can read.
    pub fn decode(bytes: &[u8]) -> Result<Header, BadHeader> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(if bytes.iter().all(|byte| *byte == 0) { BadHeader::Unused } else { BadHeader::Damaged });
        };
        if *bytes == [0; HEADER_BYTES] {
            return Err(BadHeader::Unused);
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        // The version is looked at before the checksum: a later one may keep that elsewhere.
        if bytes[..8] == MAGIC && word(8) > VERSION && word(8) < 1 << 16 {
            // One that sums up as a header of this version is one, and its version was harmed.
            let mut mended = *bytes;
            mended[8..12].copy_from_slice(&VERSION.to_le_bytes());
            let is_ours = word(12) == checksum(&mended);
            return Err(if is_ours { BadHeader::Damaged } else { BadHeader::Newer(word(8)) });
        }
        if bytes[..8] != MAGIC || word(8) != VERSION || word(12) != checksum(bytes) {
            return Err(BadHeader::Damaged);
        }
        Ok(Header {
            shard: word(16),
            number: word(20),
            first_sequence: u64::from(word(24)) | u64::from(word(28)) << 32,
            previous_end: word(32),
        })
    }
}

/// Over everything but the checksum itself.
fn checksum(header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

/// The name of a segment's file. Names sort as shards and numbers do.
pub fn file_name(shard: u32, number: u32) -> String {
    format!("{shard:04}-{number:010}.journal")
}

/// The shard and number that a file's name says; `None` for a file that is no segment.
pub fn parse_file_name(name: &str) -> Option<(u32, u32)> {
    let (shard, number) = name.strip_suffix(".journal")?.split_once('-')?;
    let (shard, number) = (shard.parse().ok()?, number.parse().ok()?);
    (file_name(shard, number) == name).then_some((shard, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { shard: 3, number: 5, first_sequence: 1 << 40, previous_end: 7 };

    #[test]
    fn a_header_reads_back_and_every_bit_of_it_counts() {
        let bytes = HEADER.encode();
        assert_eq!(Header::decode(&bytes), Ok(HEADER));
        for bit in 0..8 * HEADER_BYTES {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_no_header_says_why() {
        assert_eq!(Header::decode(&[]), Err(BadHeader::Unused));
        assert_eq!(Header::decode(&[0; 4096]), Err(BadHeader::Unused));
        assert_eq!(Header::decode(b"ringroom"), Err(BadHeader::Damaged));
        let mut newer = HEADER.encode();
        newer[8] = 2;
        assert_eq!(Header::decode(&newer), Err(BadHeader::Damaged), "nothing but the version is another");
        newer[12] ^= 1;
        assert_eq!(Header::decode(&newer), Err(BadHeader::Newer(2)));
        assert!(BadHeader::Newer(2).to_string().contains("format 2"));
    }

    #[test]
    fn names_say_shard_and_number() {
        assert_eq!(file_name(3, 5), "0003-0000000005.journal");
        assert_eq!(parse_file_name(&file_name(256, u32::MAX)), Some((256, u32::MAX)));
        for other in ["lock", "0003-5.journal", "0003-0000000005.journal.bad", "-.journal", "a-b.journal"] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }
}
