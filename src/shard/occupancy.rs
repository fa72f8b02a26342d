//! How full the server is: the one thing that all shards count together.
//!
//! Connections move between shards, so no shard can know alone. Every shard writes, at the beginning and the end of a
//! connection and never for a message; every shard reads when it accepts. The counts stand alone and order no other memory
//! (`Relaxed`), and accepts of several shards in the same instant may overshoot a bound by as many.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::{limits::ACCEPTS_IN_FLIGHT, ws::handshake::Refusal};

/// Connections of the whole server, and their bounds.
#[derive(Debug)]
pub struct Occupancy {
    conns: AtomicUsize,
    /// Those whose request is not answered yet.
    asking: AtomicUsize,
    conns_max: usize,
    asking_max: usize,
    accepts_each: usize,
    /// Connections up to which accepts are asked for.
    accepting_max: usize,
    is_crowd_told: AtomicBool,
}

impl Occupancy {
    /// An empty server, with open files enough.
    pub fn new(conns_max: usize, asking_max: usize) -> Occupancy {
        Occupancy {
            conns: AtomicUsize::new(0),
            asking: AtomicUsize::new(0),
            conns_max,
            asking_max,
            accepts_each: ACCEPTS_IN_FLIGHT,
            accepting_max: usize::MAX,
            is_crowd_told: AtomicBool::new(false),
        }
    }

    /// The same with so many files for sockets, those of clients that are being turned away among them. Half of what they exceed
    /// the connections by is for accepts in the kernel's hands, which are counted as if all of them came back with a socket.
    pub fn within(self, sockets_max: usize, shards: usize) -> Occupancy {
        let spare = sockets_max.saturating_sub(self.conns_max);
        let accepts_each = (spare / 2 / shards).clamp(1, ACCEPTS_IN_FLIGHT);
        Occupancy { accepts_each, accepting_max: sockets_max.saturating_sub(accepts_each * shards), ..self }
    }

    /// Accepts that a shard may have in the kernel's hands at a time.
    pub fn accepts_each(&self) -> usize {
        self.accepts_each
    }

    /// Whether there is a socket to spare for every accept.
    pub fn may_accept(&self) -> bool {
        self.conns.load(Relaxed) <= self.accepting_max
    }

    /// Clients have to wait before they are even turned away: true for the first who asks, to tell it.
    pub fn is_crowd_news(&self) -> bool {
        !self.is_crowd_told.swap(true, Relaxed)
    }

    /// Why a further connection cannot be taken, if so.
    pub fn refusal(&self) -> Option<Refusal> {
        if self.conns.load(Relaxed) >= self.conns_max {
            return Some(Refusal::Full);
        }
        (self.asking.load(Relaxed) >= self.asking_max).then_some(Refusal::TooManyAttempts)
    }

    /// A connection came to a shard; its request is not answered.
    pub fn enters(&self) {
        self.conns.fetch_add(1, Relaxed);
        self.asking.fetch_add(1, Relaxed);
    }

    /// The request of a connection was answered, or will not be.
    pub fn answered(&self) {
        self.asking.fetch_sub(1, Relaxed);
    }

    /// A connection ended, or left the shards.
    pub fn leaves(&self) {
        self.conns.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_says_what_it_is_full_of() {
        let occupancy = Occupancy::new(2, 1);
        assert_eq!(occupancy.refusal(), None);
        occupancy.enters();
        assert_eq!(occupancy.refusal(), Some(Refusal::TooManyAttempts));
        occupancy.answered();
        assert_eq!(occupancy.refusal(), None);
        occupancy.enters();
        occupancy.answered();
        assert_eq!(occupancy.refusal(), Some(Refusal::Full));
        occupancy.leaves();
        assert_eq!(occupancy.refusal(), None);
    }

    #[test]
    fn accepts_end_where_the_sockets_do() {
        for (conns_max, sockets_max, shards, accepts_each) in [
            (15, 20, 2, 1),
            (100, 132, 2, 8),
            (100, 1000, 2, 32),
            (100, 100, 1, 1),
            (1, 1, 1, 1),
            (9, usize::MAX, 4, 32),
        ] {
            let occupancy = Occupancy::new(conns_max, 9).within(sockets_max, shards);
            assert_eq!(occupancy.accepts_each(), accepts_each, "{conns_max} {sockets_max}");
            // All that were asked for come back at once, again and again.
            while occupancy.may_accept() && occupancy.conns.load(Relaxed) < 2000 {
                (0..accepts_each * shards).for_each(|_| occupancy.enters());
            }
            let conns = occupancy.conns.load(Relaxed);
            assert!((conns_max..=sockets_max).contains(&conns), "{conns_max} {sockets_max}: {conns}");
        }
        let occupancy = Occupancy::new(1, 1);
        assert!(occupancy.is_crowd_news() && !occupancy.is_crowd_news(), "told once");
    }
}
