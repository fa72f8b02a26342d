//! What a load is: how many rooms, members and senders, what sets the pace, for how long. Plain values, checked by the
//! command line.

use std::time::Duration;

/// When the next message leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// When an earlier one has come back: so many are outstanding in a room.
    Closed { outstanding: usize },
    /// By the clock: so many a second in a room.
    Open { per_second: f64 },
}

/// What a load is.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rooms: usize,
    pub(crate) members: usize,
    pub(crate) senders: usize,
    pub(crate) pace: Pace,
    pub(crate) text_bytes: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}
