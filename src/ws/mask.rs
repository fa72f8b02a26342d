//! Masking (RFC 6455 section 5.3): every payload byte of a client is XORed with one of four key bytes.
//!
//! In: a payload, or any part of one, and its place in the payload. Out: the same bytes, unmasked where they lie. It
//! never allocates and never needs the payload whole.

/// The bytes that are unmasked in one step: four 16-byte registers, which every 64-bit target has or imitates.
const BLOCK_BYTES: usize = 64;

/// Unmasks `bytes` in place. `offset` is how many bytes of the same payload came before them; only its remainder by four
/// matters. Masking is its own inverse.
#[inline]
pub fn unmask(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    let key = rotated(key, offset);
    let (blocks, rest) = bytes.as_chunks_mut::<BLOCK_BYTES>();
    for block in blocks {
        xor_words(block, key);
    }
    let words_len = rest.len() & !3;
    let (words, tail) = rest.split_at_mut(words_len);
    xor_words(words, key);
    for (byte, key) in tail.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// The key as bytes at `offset` see it.
fn rotated(key: [u8; 4], offset: usize) -> [u8; 4] {
    std::array::from_fn(|at| key[(offset + at) & 3])
}

/// XORs whole words; inlined with a constant length it becomes vector instructions without a loop.
#[inline(always)]
fn xor_words(bytes: &mut [u8], key: [u8; 4]) {
    let key64 = u64::from(u32::from_ne_bytes(key)) * 0x1_0000_0001;
    let (pairs, rest) = bytes.as_chunks_mut::<8>();
    for pair in pairs {
        *pair = (u64::from_ne_bytes(*pair) ^ key64).to_ne_bytes();
    }
    let (words, _) = rest.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(key)).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(bytes: &mut [u8], key: [u8; 4], offset: usize) {
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[(offset + at) % 4];
        }
    }

    #[test]
    fn every_length_and_offset_agrees_with_byte_by_byte() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let payload: Vec<u8> = (0..300_u32).map(|at| (at * 7) as u8).collect();
        for len in 0..=payload.len() {
            for offset in 0..8 {
                let (mut fast, mut slow) = (payload[..len].to_vec(), payload[..len].to_vec());
                unmask(&mut fast, key, offset);
                naive(&mut slow, key, offset);
                assert_eq!(fast, slow, "{len} bytes at offset {offset}");
            }
        }
    }

    #[test]
    fn a_payload_may_be_unmasked_in_parts() {
        let key = [1, 2, 4, 8];
        let whole: Vec<u8> = (0..=255).collect();
        let mut expected = whole.clone();
        unmask(&mut expected, key, 0);
        for split in 0..whole.len() {
            let mut parts = whole.clone();
            let (first, second) = parts.split_at_mut(split);
            unmask(second, key, split);
            unmask(first, key, 0);
            assert_eq!(parts, expected, "split at {split}");
        }
    }
}
