//! When the messages of an open loop are due, and whose they are. Pure: it is told the time.

use super::plan::Plan;

/// The clock of an open loop: message `k` goes to room `k % rooms`, whose senders take turns. While the load ramps up the
/// rate rises linearly from 0.
pub(super) struct Schedule {
    rooms: usize,
    senders: usize,
    interval_ns: f64,
    /// How long the rate rises, and how many messages are due meanwhile.
    ramp_ns: f64,
    ramp_messages: f64,
    begin_ns: u64,
    next: u64,
}

impl Schedule {
    /// The clock of `per_second` messages in each room, from `begin_ns` on.
    pub(super) fn new(plan: &Plan, per_second: f64, begin_ns: u64) -> Self {
        let interval_ns = 1e9 / (per_second * plan.rooms as f64);
        let ramp_ns = plan.ramp.as_nanos() as f64;
        // The mean rate of the ramp is half the rate.
        let ramp_messages = ramp_ns / interval_ns / 2.0;
        Self { rooms: plan.rooms, senders: plan.senders, interval_ns, ramp_ns, ramp_messages, begin_ns, next: 0 }
    }

    /// When the next message is due.
    pub(super) fn due_ns(&self) -> u64 {
        let message = self.next as f64;
        let after_ns = if message < self.ramp_messages {
            // A rate that rises linearly has sent t^2 * rate / (2 * ramp) messages by t.
            self.ramp_ns * (message / self.ramp_messages).sqrt()
        } else {
            self.ramp_ns + (message - self.ramp_messages) * self.interval_ns
        };
        self.begin_ns.saturating_add(after_ns as u64)
    }

    /// The sender whose message is due next, as its place among all senders; and on to the one after it.
    pub(super) fn take(&mut self) -> usize {
        let (room, turn) = (self.next as usize % self.rooms, self.next as usize / self.rooms);
        self.next += 1;
        room * self.senders + turn % self.senders
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::Pace;

    fn schedule(ramp_seconds: u64) -> Schedule {
        let ramp = Duration::from_secs(ramp_seconds);
        Schedule::new(&Plan { rooms: 2, senders: 3, ramp, ..Plan::new(Pace::Open { per_second: 50.0 }) }, 50.0, 1000)
    }

    /// Messages due in each of the first `seconds` seconds.
    fn due_by_second(mut schedule: Schedule, seconds: usize) -> Vec<u32> {
        let mut due = vec![0; seconds];
        while let Some(count) = due.get_mut(((schedule.due_ns() - 1000) / 1_000_000_000) as usize) {
            *count += 1;
            schedule.take();
        }
        due
    }

    #[test]
    fn the_rate_rises_linearly_and_then_holds() {
        assert_eq!(due_by_second(schedule(0), 3), [100, 100, 100]);
        let due = due_by_second(schedule(4), 6);
        for (got, want) in due.iter().zip([12.5, 37.5, 62.5, 87.5, 100.0, 100.0]) {
            assert!((f64::from(*got) - want).abs() <= 1.0, "{due:?}");
        }
    }

    #[test]
    fn rooms_and_their_senders_take_turns() {
        let mut schedule = schedule(0);
        let turns: Vec<usize> = (0..8).map(|_| schedule.take()).collect();
        assert_eq!(turns, [0, 3, 1, 4, 2, 5, 0, 3]);
    }
}
