//! When the messages of an open loop are due, and whose they are. Pure: it is told the time.

use super::plan::Plan;

/// The clock of an open loop: message `k` goes to room `k % rooms`, whose senders take turns.
pub(super) struct Schedule {
    rooms: usize,
    senders: usize,
    interval_ns: f64,
    begin_ns: u64,
    next: u64,
}

impl Schedule {
    pub(super) fn new(plan: &Plan, per_second: f64, begin_ns: u64) -> Self {
        let interval_ns = 1e9 / (per_second * plan.rooms as f64);
        Self { rooms: plan.rooms, senders: plan.senders, interval_ns, begin_ns, next: 0 }
    }

    pub(super) fn due_ns(&self) -> u64 {
        self.begin_ns + (self.next as f64 * self.interval_ns) as u64
    }

    /// The sender whose message is due next, as its place among all senders; and on to the one after it.
    pub(super) fn take(&mut self) -> usize {
        let (room, turn) = (self.next as usize % self.rooms, self.next as usize / self.rooms);
        self.next += 1;
        room * self.senders + turn % self.senders
    }
}
