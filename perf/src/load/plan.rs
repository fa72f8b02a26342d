//! What a load is: how many rooms, members and senders, what sets the pace, for how long. Plain values, checked by the
//! command line.

use std::time::Duration;

use super::sizes::TextBytes;

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
    pub(crate) text_bytes: TextBytes,
    /// What the lengths of texts are drawn with.
    pub(crate) seed: u64,
    /// How long an open loop's rate rises before it holds.
    pub(crate) ramp: Duration,
    /// Load, at the full rate, before the measured time.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// Whether no progress is to be shown, not even on a terminal.
    pub(crate) quiet: bool,
}

impl Plan {
    /// One sender speaks at this pace in a room of ten members, for two seconds and then ten measured ones; nothing else
    /// happens.
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            rooms: 1,
            members: 10,
            senders: 1,
            pace,
            text_bytes: TextBytes::default(),
            seed: 0,
            ramp: Duration::ZERO,
            warm_up: Duration::from_secs(2),
            measured: Duration::from_secs(10),
            quiet: true,
        }
    }

    /// What comes before the measured time at each rate.
    pub(super) fn lead(&self) -> Duration {
        self.ramp + self.warm_up
    }

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
        (self.lead() + self.measured) * self.stages().len() as u32
    }
}
