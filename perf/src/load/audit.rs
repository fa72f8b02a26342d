//! What is proved of a connection that is not there from the first message to the last: one that came late, left early, or
//! lags. What it received in a row, its stretch, must be a stretch of what its room's first member received.
//!
//! The hash of a stretch is a difference of two prefix hashes ([`sequence::after`]), so a connection keeps a count and a
//! hash, and a room the first member's prefix hashes of its last messages. A stretch is anchored when its first message is
//! found among them, and judged when the first member has received its last. What is under way meanwhile waits in a list.

use crate::sequence::{self, Sequence};

/// Prefix hashes kept in all rooms together, and the fewest and the most in one: 32 MiB, or 4,096 messages a room.
const PREFIXES_MAX: usize = 4 << 20;
const ROOM_PREFIXES: std::ops::RangeInclusive<usize> = 4096..=1 << 20;

/// Faults that are kept in words.
const FAULTS_MAX: usize = 10;

/// A room's order: prefix hashes of the first member's last messages.
struct Order {
    prefixes: Box<[u64]>,
    /// Messages that the first member has received.
    count: u64,
    /// Connections that are open, and whose first message the first member has not received.
    unanchored: Vec<usize>,
    /// Stretches that are over and not judged.
    ended: Vec<Ended>,
}

/// What a connection receives in a row.
#[derive(Clone, Copy)]
struct Stretch {
    /// Whether its connection is greeted and not over.
    open: bool,
    /// Messages sent to the room when it began: more cannot stand before its first.
    sent_before: u64,
    /// Its first message, when it has come.
    first: Option<u64>,
    /// Where it begins.
    anchor: Option<Anchor>,
}

#[derive(Clone, Copy)]
struct Anchor {
    /// Messages of the room before its first.
    before: u64,
    /// The first member's hash after those.
    prefix: u64,
}

struct Ended {
    member: usize,
    stretch: Stretch,
    sequence: Sequence,
}

/// All stretches of a load.
pub(super) struct Audit {
    members_per_room: usize,
    orders: Vec<Order>,
    /// Each member's present one.
    stretches: Vec<Stretch>,
    faults: Vec<(usize, String)>,
    faults_untold: u64,
    /// Stretches found whole.
    whole: u64,
}

impl Order {
    fn new(prefixes: usize) -> Self {
        Self { prefixes: vec![0; prefixes].into(), count: 0, unanchored: Vec::new(), ended: Vec::new() }
    }

    fn push(&mut self, prefix: u64) {
        self.count += 1;
        let at = self.count as usize % self.prefixes.len();
        self.prefixes[at] = prefix;
    }

    /// The hash of the first `count` messages, when it is still, and already, known.
    fn prefix(&self, count: u64) -> Option<u64> {
        let known = count <= self.count && self.count - count < self.prefixes.len() as u64;
        known.then(|| self.prefixes[count as usize % self.prefixes.len()])
    }

    /// Where the latest message of this fingerprint stands, if that is known.
    fn find(&self, fingerprint: u64) -> Option<Anchor> {
        (0..self.count).rev().map_while(|before| Some(before).zip(self.prefix(before))).find_map(|(before, prefix)| {
            let after = self.prefix(before + 1)?;
            (after == sequence::after(prefix, 1, fingerprint)).then_some(Anchor { before, prefix })
        })
    }

    /// Whether the message that the first member received last is the one of this fingerprint.
    fn last_is(&self, fingerprint: u64) -> Option<Anchor> {
        let before = self.count.checked_sub(1)?;
        let (prefix, after) = (self.prefix(before)?, self.prefix(self.count)?);
        (after == sequence::after(prefix, 1, fingerprint)).then_some(Anchor { before, prefix })
    }
}

impl Stretch {
    /// What is wrong with the stretch whose messages `sequence` has taken in. `None`: it cannot be told yet, for the first
    /// member has not received all of it.
    fn judge(&self, sequence: &Sequence, order: &Order) -> Option<Result<(), String>> {
        let Some(anchor) = self.anchor else {
            return self.first.is_none().then_some(Ok(()));
        };
        if anchor.before > self.sent_before {
            let missing = anchor.before - self.sent_before;
            return Some(Err(format!("a gap: {missing} messages sent after it was greeted did not come")));
        }
        if sequence.falls() > 0 {
            return Some(Err(format!("message ids did not rise {} times", sequence.falls())));
        }
        let end = anchor.before + sequence.count();
        if end > order.count {
            return None;
        }
        Some(match order.prefix(end) {
            Some(prefix) if prefix == sequence::after(anchor.prefix, sequence.count(), sequence.hash()) => Ok(()),
            Some(_) => Err("a gap, a duplicate or another order than at the room's first member".into()),
            None => Err(format!("over {} messages behind the room's first member: not verified", order.prefixes.len())),
        })
    }
}

impl Audit {
    /// The audit of so many rooms and members.
    pub(super) fn new(rooms: usize, members_per_room: usize) -> Self {
        let prefixes = (PREFIXES_MAX / rooms).clamp(*ROOM_PREFIXES.start(), *ROOM_PREFIXES.end());
        Self::with_prefixes(rooms, members_per_room, prefixes)
    }

    fn with_prefixes(rooms: usize, members_per_room: usize, prefixes: usize) -> Self {
        let unborn = Stretch { open: false, sent_before: 0, first: None, anchor: None };
        Self {
            members_per_room,
            orders: (0..rooms).map(|_| Order::new(prefixes)).collect(),
            stretches: vec![unborn; rooms * members_per_room],
            faults: Vec::new(),
            faults_untold: 0,
            whole: 0,
        }
    }

    /// `member` is greeted, and its room has been sent `sent` messages so far.
    pub(super) fn greeted(&mut self, member: usize, sent: u64) {
        self.stretches[member] = Stretch { open: true, sent_before: sent, first: None, anchor: None };
    }

    /// `member` received the first message after its greeting.
    pub(super) fn first(&mut self, member: usize, fingerprint: u64) {
        let order = &mut self.orders[member / self.members_per_room];
        let anchor = order.find(fingerprint);
        let stretch = &mut self.stretches[member];
        (stretch.first, stretch.anchor) = (Some(fingerprint), anchor);
        if anchor.is_none() {
            order.unanchored.push(member);
        }
    }

    /// The first member of `room` received a message; its hash is now `prefix`.
    pub(super) fn witnessed(&mut self, room: usize, prefix: u64) {
        let order = &mut self.orders[room];
        order.push(prefix);
        if !order.unanchored.is_empty() || !order.ended.is_empty() {
            self.revisit(room);
        }
    }

    #[cold]
    fn revisit(&mut self, room: usize) {
        let order = &mut self.orders[room];
        let mut unanchored = std::mem::take(&mut order.unanchored);
        unanchored.retain(|member| {
            let stretch = &mut self.stretches[*member];
            stretch.anchor = stretch.first.and_then(|first| order.last_is(first));
            stretch.anchor.is_none()
        });
        order.unanchored = unanchored;
        let ended = std::mem::take(&mut order.ended);
        for mut over in ended {
            let order = &self.orders[room];
            if over.stretch.anchor.is_none() {
                over.stretch.anchor = over.stretch.first.and_then(|first| order.last_is(first));
            }
            self.judge(over);
        }
    }

    /// The connection of `member` is over, and received what `sequence` has taken in. If it was never greeted there is no
    /// stretch.
    pub(super) fn ended(&mut self, member: usize, sequence: Sequence) {
        if !std::mem::take(&mut self.stretches[member].open) {
            return;
        }
        self.orders[member / self.members_per_room].unanchored.retain(|other| *other != member);
        let stretch = self.stretches[member];
        self.judge(Ended { member, stretch, sequence });
    }

    fn judge(&mut self, over: Ended) {
        let order = &mut self.orders[over.member / self.members_per_room];
        match over.stretch.judge(&over.sequence, order) {
            None => order.ended.push(over),
            Some(Ok(())) => self.whole += 1,
            Some(Err(why)) => self.fault(over.member, why),
        }
    }

    fn fault(&mut self, member: usize, why: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push((member, why));
        } else {
            self.faults_untold += 1;
        }
    }

    /// Whether `member`, whose connection is open, has received all of the `sent` messages from its first on.
    pub(super) fn has_all(&self, member: usize, sequence: &Sequence, sent: u64) -> bool {
        let stretch = &self.stretches[member];
        match stretch.anchor {
            Some(anchor) => anchor.before + sequence.count() >= sent,
            None => stretch.first.is_none() && sent <= stretch.sent_before,
        }
    }

    /// The load is over, and `member` still connected: it must have all of the `sent` messages from its first on.
    pub(super) fn stayed(&mut self, member: usize, sequence: Sequence, sent: u64) {
        if self.has_all(member, &sequence, sent) {
            return self.ended(member, sequence);
        }
        let stretch = self.stretches[member];
        let why = match (stretch.first, stretch.anchor) {
            (Some(_), None) => "its first message is none of those that the room's first member received".into(),
            (_, anchor) => {
                let owed = sent - anchor.map_or(stretch.sent_before, |anchor| anchor.before);
                format!("{} deliveries for {owed} messages sent since it came: a gap", sequence.count())
            }
        };
        self.fault(member, why);
    }

    /// Stretches found whole, and what was wrong with others: whose they are, and in words.
    pub(super) fn close(mut self) -> (u64, Vec<(usize, String)>, u64) {
        for room in 0..self.orders.len() {
            for over in std::mem::take(&mut self.orders[room].ended) {
                self.fault(over.member, "it received what the room's first member did not".into());
            }
        }
        (self.whole, self.faults, self.faults_untold)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::sequence::{MessageId, fingerprint};

    fn id(number: u64) -> MessageId {
        format!("{:08x}-0000-4000-8000-000000000000", number * 0x9e37_79b9 % 0xffff_ffff)
            .into_bytes()
            .try_into()
            .unwrap()
    }

    /// Member 0 receives 1 to `sent`; member 1 is greeted when `sent_before` have been sent, and receives `got`. Which of
    /// them is ahead is left to chance.
    fn audit(
        sent: u64,
        sent_before: u64,
        got: &[u64],
        stays: bool,
        prefixes: usize,
        rng: &mut SmallRng,
    ) -> Vec<String> {
        let mut audit = Audit::with_prefixes(1, 2, prefixes);
        let (mut first, mut other) = (Sequence::new(), Sequence::new());
        let mut got = got.iter();
        let lead = rng.random_range(0.0..1.0);
        audit.greeted(1, sent_before);
        let (mut witnessed, mut over) = (0, false);
        while witnessed < sent || !over {
            if witnessed < sent && (over || rng.random_bool(lead)) {
                witnessed += 1;
                first.push(&id(witnessed));
                audit.witnessed(0, first.hash());
            } else if let Some(number) = got.next() {
                other.push(&id(*number));
                if other.count() == 1 {
                    audit.first(1, fingerprint(&id(*number)));
                }
            } else {
                over = true;
                if !stays {
                    audit.ended(1, other);
                }
            }
        }
        if stays {
            audit.stayed(1, other, sent);
        }
        let (whole, faults, untold) = audit.close();
        assert_eq!((whole as usize + faults.len(), untold), (1, 0), "{faults:?}");
        faults.into_iter().map(|(_, why)| why).collect()
    }

    #[test]
    fn a_stretch_is_whole_or_what_is_wrong_is_told() {
        let seed = rand::random();
        let mut rng = SmallRng::seed_from_u64(seed);
        for (sent_before, got, stays, word) in [
            (0, &[1, 2, 3, 4, 5, 6, 7, 8][..], true, None),
            (3, &[4, 5, 6, 7, 8], true, None),
            // It was greeted before all that had been sent was broadcast.
            (5, &[4, 5, 6, 7, 8], true, None),
            (8, &[], true, None),
            (3, &[], false, None),
            (3, &[4], false, None),
            (3, &[4, 5, 6], false, None),
            (3, &[4, 5, 6], true, Some("a gap")),
            (3, &[], true, Some("a gap")),
            (3, &[5, 6, 7, 8], true, Some("a gap")),
            (3, &[5, 6], false, Some("a gap")),
            (3, &[4, 6, 7, 8], false, Some("a gap")),
            (3, &[4, 6, 7, 8], true, Some("a gap")),
            (3, &[4, 4, 5, 6], false, Some("a duplicate")),
            (3, &[4, 5, 5, 6, 7], true, Some("a duplicate")),
            (3, &[4, 6, 5, 7, 8], true, Some("another order")),
            (3, &[4, 5, 6, 7, 8, 8], true, Some("did not")),
            (3, &[9, 5, 6, 7, 8], true, Some("none of those")),
            (3, &[9], false, Some("did not")),
        ] {
            for _ in 0..50 {
                let faults = audit(8, sent_before, got, stays, 64, &mut rng);
                let right = match word {
                    Some(word) => faults.iter().any(|fault| fault.contains(word)),
                    None => faults.is_empty(),
                };
                assert!(right, "{got:?} after {sent_before}, stays: {stays}, seed {seed}: {faults:?}");
            }
        }
    }

    #[test]
    fn what_lags_too_far_is_not_called_whole() {
        let mut audit = Audit::with_prefixes(1, 2, 16);
        let (mut first, mut other) = (Sequence::new(), Sequence::new());
        audit.greeted(1, 0);
        for number in 1..=40 {
            first.push(&id(number));
            audit.witnessed(0, first.hash());
            if number <= 4 {
                other.push(&id(number));
                if number == 1 {
                    audit.first(1, fingerprint(&id(1)));
                }
            }
        }
        audit.ended(1, other);
        let (whole, faults, _) = audit.close();
        assert!(whole == 0 && faults[0].1.contains("not verified"), "{faults:?}");
    }
}
