//! How late messages are: from when each was sent or due to its echo at the sender, and to its receipt at any member. The
//! latter is sampled: a sample stands for as many deliveries as lie, on average, between two of them.

use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Longest latency that is told apart from longer ones.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Deliveries a second that are looked at: a few thousandths of a core.
const SAMPLES_PER_SECOND: f64 = 50_000.0;

/// An empty histogram of nanoseconds, exact to so many digits.
///
/// # Errors
/// Never: the bounds are sound.
pub(super) fn histogram(digits: u8) -> Result<Histogram<u64>, String> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, digits).map_err(|error| error.to_string())
}

/// How late the messages of one measured time are.
pub(super) struct Lateness {
    /// Messages sent or due at or after this count, and before `until_ns`.
    from_ns: u64,
    until_ns: u64,
    pub(super) echo: Histogram<u64>,
    pub(super) delivery: Histogram<u64>,
    /// Of all echoes since the last [`Lateness::interval`].
    interval: Histogram<u64>,
    rng: SmallRng,
    /// Deliveries for each sample, on average.
    stride: u32,
    /// Deliveries until the next sample.
    countdown: u32,
}

impl Lateness {
    /// Nothing counts before [`Lateness::measure`].
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self {
            from_ns: u64::MAX,
            until_ns: u64::MAX,
            echo: histogram(3)?,
            delivery: histogram(3)?,
            interval: histogram(2)?,
            rng: SmallRng::seed_from_u64(0),
            stride: 1,
            countdown: 1,
        })
    }

    /// From here on only what is sent or due in this time counts.
    pub(super) fn measure(&mut self, from_ns: u64, until_ns: u64) {
        (self.from_ns, self.until_ns) = (from_ns, until_ns);
        self.echo.reset();
        self.delivery.reset();
    }

    /// A message that was due at `due_ns` has come back to its sender.
    #[inline]
    pub(super) fn echoed(&mut self, due_ns: u64, now_ns: u64) {
        let late_ns = now_ns.saturating_sub(due_ns).max(1);
        self.interval.saturating_record(late_ns);
        if (self.from_ns..self.until_ns).contains(&due_ns) {
            self.echo.saturating_record(late_ns);
        }
    }

    /// Whether this delivery is to be told to [`Lateness::delivered`].
    #[inline]
    pub(super) fn samples(&mut self) -> bool {
        self.countdown -= 1;
        self.countdown == 0
    }

    /// A sampled message that was due at `due_ns` has come to a member; `None` if the message is not of this run.
    pub(super) fn delivered(&mut self, due_ns: Option<u64>, now_ns: u64) {
        if let Some(due_ns) = due_ns.filter(|due_ns| (self.from_ns..self.until_ns).contains(due_ns)) {
            self.delivery.saturating_record_n(now_ns.saturating_sub(due_ns).max(1), u64::from(self.stride));
        }
        // Random, so that it does not fall into step with the number of members.
        self.countdown = self.rng.random_range(1..2 * self.stride);
    }

    /// Sets how many deliveries a sample stands for, by how many there are a second.
    pub(super) fn tune(&mut self, deliveries_per_second: f64) {
        self.stride = (deliveries_per_second / SAMPLES_PER_SECOND).ceil().clamp(1.0, 1e6) as u32;
    }

    /// Median and 99th percentile in nanoseconds of the echoes since the last call, if there were any.
    pub(super) fn interval(&mut self) -> Option<(u64, u64)> {
        if self.interval.is_empty() {
            return None;
        }
        let quantiles = (self.interval.value_at_quantile(0.5), self.interval.value_at_quantile(0.99));
        self.interval.reset();
        Some(quantiles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deliveries of which every `period`th is late, so that a stride in step with them would see all or none of them.
    #[test]
    fn samples_stand_for_all_deliveries() {
        for (per_second, period) in [(0.0, 10), (1e6, 20), (1e6, 7), (4e6, 80)] {
            let mut lateness = Lateness::new().unwrap();
            lateness.measure(1000, 2000);
            lateness.tune(per_second);
            let all = 400_000;
            for delivery in 0..all {
                if lateness.samples() {
                    let late_ns = if delivery % period == 0 { 1_000_000 } else { 1_000 };
                    lateness.delivered(Some(1500), 1500 + late_ns);
                }
            }
            let (counted, late) = (lateness.delivery.len() as f64, lateness.delivery.count_between(500_000, 2_000_000));
            assert!((counted / f64::from(all) - 1.0).abs() < 0.05, "{counted} of {all} at {per_second}/s");
            let share = late as f64 / counted * f64::from(period);
            assert!((share - 1.0).abs() < 0.2, "{share} of the late ones at {per_second}/s, period {period}");
        }
    }

    #[test]
    fn only_what_was_due_in_the_measured_time_counts() {
        let mut lateness = Lateness::new().unwrap();
        assert_eq!(lateness.interval(), None);
        lateness.measure(1000, 2000);
        for due_ns in [999, 1000, 1999, 2000] {
            lateness.echoed(due_ns, 3000);
            assert!(lateness.samples());
            lateness.delivered(Some(due_ns), 3000);
        }
        assert!(lateness.samples());
        lateness.delivered(None, 3000);
        assert_eq!((lateness.echo.len(), lateness.delivery.len()), (2, 2));
        assert!(lateness.interval().is_some_and(|(p50, p99)| p50 >= 1000 && p99 >= 2000));
        assert_eq!(lateness.interval(), None);
        lateness.measure(2000, 3000);
        assert_eq!((lateness.echo.len(), lateness.delivery.len()), (0, 0));
    }
}
