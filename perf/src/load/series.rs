//! The load over time: a sample every quarter of a second or, in a long run, so seldom that all samples fit. Reads counts
//! and /proc; the senders wait meanwhile, for some tens of microseconds.

use std::time::Duration;

use super::traffic::Traffic;
use crate::process::{self, CpuTime};
use crate::report::{self, Sample};

/// Time between two samples, when not too many come together.
const INTERVAL: Duration = Duration::from_millis(250);

/// Samples kept.
const SAMPLES_MAX: u32 = 2400;

/// The samples so far, and the counts at the last of them.
pub(super) struct Series<'a> {
    pids: &'a [u32],
    interval_ns: u64,
    begin_ns: u64,
    next_ns: u64,
    last: Counts,
    samples: Vec<Sample>,
}

struct Counts {
    at_ns: u64,
    echoes: u64,
    deliveries: u64,
    own_cpu_ns: u64,
    server: CpuTime,
}

impl Counts {
    fn now(traffic: &Traffic, pids: &[u32]) -> Self {
        Self {
            at_ns: traffic.clock.now_ns(),
            echoes: traffic.echoes,
            deliveries: traffic.deliveries,
            own_cpu_ns: traffic.worked_ns(),
            // A server that has ended is told of where its CPU is accounted for.
            server: CpuTime::read(pids).unwrap_or_default(),
        }
    }
}

impl<'a> Series<'a> {
    /// The series of a run that is planned to last `length` begins now. Half of the room is left for what takes longer.
    pub(super) fn start(traffic: &Traffic, pids: &'a [u32], length: Duration) -> Self {
        let last = Counts::now(traffic, pids);
        let interval_ns = INTERVAL.max(length * 2 / SAMPLES_MAX).as_nanos() as u64;
        let samples = Vec::with_capacity(SAMPLES_MAX as usize);
        Self { pids, interval_ns, begin_ns: last.at_ns, next_ns: last.at_ns + interval_ns, last, samples }
    }

    /// When the next sample is due.
    pub(super) fn due_ns(&self) -> u64 {
        self.next_ns
    }

    /// Whether too little time has passed since the last sample for another one to tell anything.
    pub(super) fn is_fresh(&self, now_ns: u64) -> bool {
        now_ns - self.last.at_ns < self.interval_ns / 10
    }

    /// Seconds since the series began.
    pub(super) fn seconds(&self, at_ns: u64) -> f64 {
        (at_ns - self.begin_ns) as f64 / 1e9
    }

    /// Takes a sample, of a measured time or not; past the room for them, only tells it.
    pub(super) fn sample(&mut self, traffic: &mut Traffic, measured: bool) -> Sample {
        let now = Counts::now(traffic, self.pids);
        let sample = self.between(&now, traffic.lateness.interval(), measured);
        traffic.lateness.tune(sample.deliveries_per_second);
        if self.samples.len() < SAMPLES_MAX as usize {
            self.samples.push(sample);
        }
        // Late is late: no samples are made up for what was missed.
        self.next_ns = now.at_ns + self.interval_ns;
        self.last = now;
        sample
    }

    fn between(&self, now: &Counts, late_ns: Option<(u64, u64)>, measured: bool) -> Sample {
        let last = &self.last;
        let seconds = (now.at_ns - last.at_ns).max(1) as f64 / 1e9;
        let per_second = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
        let used_ns = || now.server.since(&last.server).values().sum::<u64>();
        Sample {
            at_seconds: self.seconds(now.at_ns),
            seconds,
            measured,
            messages_per_second: per_second(last.echoes, now.echoes),
            deliveries_per_second: per_second(last.deliveries, now.deliveries),
            p50_us: late_ns.map(|(p50, _)| report::us(p50)),
            p99_us: late_ns.map(|(_, p99)| report::us(p99)),
            server_cores: (!self.pids.is_empty()).then(|| used_ns() as f64 / 1e9 / seconds),
            server_rss_bytes: process::resident_bytes(self.pids),
            client_busy: per_second(last.own_cpu_ns, now.own_cpu_ns) / 1e9,
        }
    }

    /// All samples.
    pub(super) fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}
