//! A member of a room, as its connection knows it, and what it is held to.

use std::{sync::Arc, time::Duration};

use crate::{
    identity::{User, UserId},
    shard::room::Cursor,
    store::Micros,
};

/// The bounds that a message is held to.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Unicode characters of a message's text.
    pub message_chars_max: usize,
    /// Bytes of a WebSocket message.
    pub message_bytes_max: usize,
    /// Bytes of a room's log kept for slow members.
    pub lag_bytes_max: usize,
    /// Members of a room on one shard; beyond, other shards take some. 0 is never.
    pub spill_members: u64,
    /// The shortest time between two messages of a connection, on average; zero is no limit.
    pub message_period: Duration,
    /// Messages that may come at once before the period counts.
    pub message_burst: u32,
    /// Rejected messages in a row before the connection is closed.
    pub errors_max: u32,
    /// Messages of this shard that may wait in memory to be saved or journalled.
    pub unsettled_max: usize,
    /// Bytes of their frames. Their records take as much once more.
    pub unsettled_bytes_max: usize,
    /// Origins that may connect; none listed is any.
    pub origins: Vec<String>,
    /// For how long a receiver that was found to be a member is taken for one, and a sender whom the database refused is
    /// refused by the shard.
    pub lookup_cache: Duration,
}

/// A member of a room, as its connection knows it.
pub struct Member {
    pub(super) user: Arc<User>,
    /// The room's slot.
    pub(super) room: u32,
    pub(super) cursor: Cursor,
    /// Messages that were accepted and are not settled.
    pub(super) unsettled: u32,
    /// Rejected messages since one was saved.
    pub(super) strikes: u32,
    /// When the rate lets the next message through, if no burst is left (the theoretical arrival time of GCRA).
    pub(super) allowed_at: Micros,
    /// A message that waits to hear if its receiver is a member.
    pub(super) waiting: Option<Box<(String, UserId)>>,
}

/// The generic cell rate algorithm: a message may come as early as a full burst before its theoretical arrival time
/// `allowed_at`, which is moved on if it may.
pub(super) fn within_rate(allowed_at: &mut Micros, rules: &Rules, now: Micros) -> bool {
    let period = rules.message_period.as_micros() as Micros;
    let burst = period * Micros::from(rules.message_burst);
    // Further ahead than a burst it cannot be, unless the clock was set back; for that nobody is made to wait.
    let ahead = Some(*allowed_at - now).filter(|ahead| (0..=burst).contains(ahead)).unwrap_or(0);
    if ahead > burst - period {
        return false;
    }
    *allowed_at = now + ahead + period;
    true
}

/// One message a second, or three at once.
#[cfg(test)]
pub(super) fn rules() -> Rules {
    Rules {
        message_chars_max: 1,
        message_bytes_max: 1,
        lag_bytes_max: 1,
        spill_members: 0,
        message_period: Duration::from_secs(1),
        message_burst: 3,
        errors_max: 1,
        unsettled_max: 1,
        unsettled_bytes_max: 1,
        origins: Vec::new(),
        lookup_cache: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (rules, mut allowed_at) = (rules(), 0);
        let mut passes = |now| within_rate(&mut allowed_at, &rules, now);
        let now = 1000 * SECOND;
        assert_eq!([now, now, now, now].map(&mut passes), [true, true, true, false]);
        assert_eq!([now + SECOND, now + SECOND].map(&mut passes), [true, false]);
        assert_eq!([0; 4].map(|_| passes(now + 60 * SECOND)), [true, true, true, false]);
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nobody() {
        let (rules, mut allowed_at) = (rules(), 1000 * SECOND);
        let mut passes = |now| within_rate(&mut allowed_at, &rules, now);
        assert_eq!([0; 4].map(|_| passes(10 * SECOND)), [true, true, true, false]);
    }
}
