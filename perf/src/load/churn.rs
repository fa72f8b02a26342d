//! Connections that come and go: who leaves when, and how long it takes whoever comes in their seat to be greeted. Only
//! members that just listen are exchanged, and never the first of a room. It knows no socket.

use hdrhistogram::Histogram;

use super::lateness;
use super::plan::Plan;
use crate::report::{ChurnReport, Latency};

/// The seats that change hands, and what became of that.
pub(super) struct Churn {
    per_second: f64,
    interval_ns: f64,
    seats: Vec<usize>,
    /// Seats whose turn has come so far.
    turns: u64,
    begin_ns: u64,
    /// When each member began to connect last.
    began_ns: Vec<u64>,
    left: u64,
    came: u64,
    /// Seats passed over, because nobody sat in them when their turn came.
    vacant: u64,
    connect: Histogram<u64>,
}

impl Churn {
    /// The churn of this plan, from `begin_ns` on; none if it asks for none.
    ///
    /// # Errors
    /// Never: the histogram's bounds are sound.
    pub(super) fn new(plan: &Plan, begin_ns: u64) -> Result<Option<Self>, String> {
        if plan.churn_per_second <= 0.0 {
            return Ok(None);
        }
        Ok(Some(Self {
            per_second: plan.churn_per_second,
            interval_ns: 1e9 / plan.churn_per_second,
            seats: plan.passing_members(),
            turns: 0,
            begin_ns,
            began_ns: vec![0; plan.rooms * plan.members],
            left: 0,
            came: 0,
            vacant: 0,
            connect: lateness::histogram(3)?,
        }))
    }

    /// The load begins anew: turns that came while it paused are not made up for.
    pub(super) fn resume(&mut self, now_ns: u64) {
        self.begin_ns = now_ns - (self.turns as f64 * self.interval_ns).min(now_ns as f64) as u64;
    }

    /// When the next one leaves.
    pub(super) fn due_ns(&self) -> u64 {
        self.begin_ns.saturating_add(((self.turns + 1) as f64 * self.interval_ns) as u64)
    }

    /// Whose turn it is to leave, and on to the next.
    pub(super) fn take(&mut self) -> usize {
        let seat = self.seats[self.turns as usize % self.seats.len()];
        self.turns += 1;
        seat
    }

    /// Nobody sat where the turn was.
    pub(super) fn vacant(&mut self) {
        self.vacant += 1;
    }

    /// The connection in `seat` is over, and another begins.
    pub(super) fn exchanged(&mut self, seat: usize, now_ns: u64) {
        self.left += 1;
        self.began_ns[seat] = now_ns;
    }

    /// Whoever came to `seat` is greeted.
    pub(super) fn came(&mut self, seat: usize, now_ns: u64) {
        self.came += 1;
        self.connect.saturating_record((now_ns - self.began_ns[seat]).max(1));
    }

    /// What there is to report.
    pub(super) fn report(&self) -> ChurnReport {
        ChurnReport {
            connections_per_second_asked: self.per_second,
            left: self.left,
            came: self.came,
            vacant: self.vacant,
            greeting: Latency::of(&self.connect),
        }
    }
}
