//! A connection's way from one shard to another, or out of the shards to HTTP.
//!
//! It takes its place in [`Occupancy`] all the while, and none is lost on the way without being counted.

use std::sync::Arc;

use super::occupancy::Occupancy;
use crate::metrics::Counters;

/// Keeps a connection counted while no shard has it. One that is dropped on its way, as when the shard that it was passed to ends
/// without having read its mailbox, is closed bare: then this counts it, on whatever thread that happens.
pub struct Passage {
    occupancy: Arc<Occupancy>,
    counters: Arc<Counters>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    UnderWay,
    /// It has left the shards for good.
    Elsewhere,
    /// A shard has it.
    Over,
}

impl Passage {
    /// A connection leaves the shard that counts here; in `occupancy` it stays.
    pub(super) fn new(occupancy: &Arc<Occupancy>, counters: &Arc<Counters>) -> Passage {
        Passage { occupancy: Arc::clone(occupancy), counters: Arc::clone(counters), stage: Stage::UnderWay }
    }

    /// It comes back to no shard and is in good hands: it goes on to take a place and an open file until this is dropped.
    pub fn leave_the_shards(&mut self) {
        if std::mem::replace(&mut self.stage, Stage::Elsewhere) == Stage::UnderWay {
            self.occupancy.answered();
        }
    }

    /// A shard has it again.
    pub(super) fn end(mut self) {
        self.stage = Stage::Over;
    }

    /// Of a connection that no shard ever had.
    #[cfg(test)]
    pub(crate) fn of_tests() -> Passage {
        let occupancy = Arc::new(Occupancy::new(1, 1));
        occupancy.enters();
        Passage::new(&occupancy, &Arc::default())
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if self.stage == Stage::UnderWay {
            self.occupancy.answered();
            self.counters.lost_on_the_way.up_from_any_thread();
        }
        if self.stage != Stage::Over {
            self.occupancy.leaves();
        }
    }
}
