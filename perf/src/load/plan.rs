//! What a load is: how many rooms, members and senders, what sets the pace, for how long. Plain values, checked by the
//! command line.

use std::time::Duration;

/// When the next message leaves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pace {
    /// When an earlier one has come back: so many are outstanding in a room.
    Closed { outstanding: usize },
    /// By the clock: so many a second in a room.
    Open { per_second: f64 },
    /// By the clock, at one rate after another, each measured by itself.
    Steps { per_second: Vec<f64> },
}

/// What a load is.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rooms: usize,
    pub(crate) members: usize,
    pub(crate) senders: usize,
    pub(crate) pace: Pace,
    pub(crate) text_bytes: usize,
    /// Load before the measured time.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

impl Plan {
    /// The rates of an open loop, one after another; none is a closed loop's only one.
    pub(super) fn stages(&self) -> Vec<Option<f64>> {
        match &self.pace {
            Pace::Closed { .. } => vec![None],
            Pace::Open { per_second } => vec![Some(*per_second)],
            Pace::Steps { per_second } => per_second.iter().copied().map(Some).collect(),
        }
    }

    /// How long all stages last, without the waits for what is under way.
    pub(super) fn length(&self) -> Duration {
        (self.warm_up + self.measured) * self.stages().len() as u32
    }
}
