//! What one member has received, in 64 bytes: enough to prove, against any other member of its room, that both saw the
//! same messages in the same order, none missing, none twice. Pure.

/// A message id as text.
pub(crate) type MessageId = [u8; 36];

/// What the hash of a sequence is a polynomial in: odd, and one more than twice an odd number, so that exchanged messages
/// change it.
const BASE: u64 = 0x9e37_79b9_7f4a_7c17;

/// The hash of one message by itself.
#[inline]
pub(crate) fn fingerprint(id: &MessageId) -> u64 {
    let mut hash = 0u64;
    for word in [0, 8, 16, 24, 28] {
        // Five overlapping words cover 36 bytes. The slice is 8 long by construction.
        let word = id[word..word + 8].try_into().map_or(0, u64::from_le_bytes);
        hash = (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^ hash >> 32
}

/// The hash of a sequence of which `prefix` is the hash of what comes before its last `count` messages, and `hash` that of
/// those messages by themselves.
#[inline]
pub(crate) fn after(prefix: u64, count: u64, hash: u64) -> u64 {
    let (mut power, mut square, mut left) = (1u64, BASE, count);
    while left > 0 {
        if left & 1 == 1 {
            power = power.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        left >>= 1;
    }
    prefix.wrapping_mul(power).wrapping_add(hash)
}

/// The running digest of a member's deliveries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    count: u64,
    hash: u64,
    last: MessageId,
    /// Deliveries whose id did not rise above the one before.
    falls: u32,
}

impl Sequence {
    /// The digest of nothing received.
    pub(crate) const fn new() -> Self {
        Self { count: 0, hash: 0, last: [0; 36], falls: 0 }
    }

    /// Takes in the next delivery. The order matters to the hash.
    ///
    /// UUIDv7 text in lower case sorts as the ids do; ids of other versions carry no order and are not held to one.
    #[inline]
    pub(crate) fn push(&mut self, id: &MessageId) {
        const VERSION_AT: usize = 14;
        self.hash = self.hash.wrapping_mul(BASE).wrapping_add(fingerprint(id));
        self.count += 1;
        self.falls += u32::from(id[VERSION_AT] == b'7' && *id <= self.last);
        self.last = *id;
    }

    /// Deliveries taken in.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The hash of them, in their order.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Deliveries whose id did not rise above the one before.
    pub(crate) fn falls(&self) -> u32 {
        self.falls
    }

    /// What is wrong with this member's deliveries, beside those of its room's first member and the number of messages
    /// that the room was sent; nothing when they are whole.
    pub(crate) fn fault(&self, first: &Self, sent: u64) -> Option<String> {
        if self.count != sent {
            let kind = if self.count < sent { "a gap" } else { "a duplicate or a stranger's message" };
            return Some(format!("{} deliveries for {sent} messages sent: {kind}", self.count));
        }
        if self.falls > 0 {
            return Some(format!("message ids did not rise {} times", self.falls));
        }
        (self.hash != first.hash).then(|| "not the same messages in the same order as the room's first member".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64, version: char) -> MessageId {
        format!("{n:08x}-0000-{version}000-8000-000000000000").into_bytes().try_into().unwrap()
    }

    fn sequence(version: char, numbers: &[u64]) -> Sequence {
        let mut sequence = Sequence::new();
        numbers.iter().for_each(|n| sequence.push(&id(*n, version)));
        sequence
    }

    #[test]
    fn tells_gaps_duplicates_and_other_orders_from_the_whole() {
        for (version, numbers, word) in [
            ('7', &[1, 2, 3, 4][..], None),
            ('7', &[1, 2, 4], Some("gap")),
            ('7', &[1, 2, 3, 3, 4], Some("duplicate")),
            ('7', &[1, 3, 2, 4], Some("rise")),
            ('7', &[1, 2, 2, 4], Some("rise")),
            ('7', &[1, 2, 3, 5], Some("same")),
            ('4', &[1, 3, 2, 4], Some("same")),
            ('4', &[2, 2, 3, 4], Some("same")),
        ] {
            let first = sequence(version, &[1, 2, 3, 4]);
            let fault = sequence(version, numbers).fault(&first, 4);
            assert_eq!(fault.is_some(), word.is_some(), "{numbers:?}: {fault:?}");
            assert!(fault.unwrap_or_default().contains(word.unwrap_or_default()), "{numbers:?}");
        }
    }

    #[test]
    fn a_sequence_in_two_parts_has_the_hash_of_the_whole() {
        let numbers: Vec<u64> = (1..=40).collect();
        let whole = sequence('4', &numbers).hash();
        for cut in 0..=numbers.len() {
            let (head, rest) = (sequence('4', &numbers[..cut]), sequence('4', &numbers[cut..]));
            assert_eq!(after(head.hash(), rest.count(), rest.hash()), whole, "cut at {cut}");
        }
        for (one, other) in (0..numbers.len()).flat_map(|one| (0..one).map(move |other| (one, other))) {
            let mut exchanged = numbers.clone();
            exchanged.swap(one, other);
            assert_ne!(sequence('4', &exchanged).hash(), whole, "{one} and {other} exchanged");
        }
    }

    #[test]
    fn every_byte_of_an_id_counts() {
        let mut one = Sequence::new();
        one.push(&id(1, '4'));
        for at in 0..36 {
            let mut changed = id(1, '4');
            changed[at] ^= 1;
            let mut other = Sequence::new();
            other.push(&changed);
            assert!(other.fault(&one, 1).is_some(), "byte {at}");
        }
    }
}
