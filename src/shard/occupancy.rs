//! How full the server is: the one thing that all shards count together.
//!
//! Connections move between shards, so no shard can know alone. Every shard writes, at the beginning and the end of a
//! connection and never for a message; every shard reads when it accepts. The counts stand alone and order no other memory
//! (`Relaxed`), and accepts of several shards in the same instant may overshoot a bound by as many.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::ws::handshake::Refusal;

/// Connections of the whole server, and their bounds.
#[derive(Debug)]
pub struct Occupancy {
    conns: AtomicUsize,
    /// Those whose request is not answered yet.
    asking: AtomicUsize,
    conns_max: usize,
    asking_max: usize,
}

impl Occupancy {
    /// An empty server.
    pub fn new(conns_max: usize, asking_max: usize) -> Occupancy {
        Occupancy { conns: AtomicUsize::new(0), asking: AtomicUsize::new(0), conns_max, asking_max }
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
}
