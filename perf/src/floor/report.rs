//! What `floor` found, as text and as JSON.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Way, disk::Place, histogram};
use crate::report::{CLIENT_BUSY_MAX, Latency, Verdict, grouped, write_verdict};

/// What `floor` found.
#[derive(Debug, Serialize)]
pub(crate) struct FloorReport {
    /// Sockets.
    pub(crate) members: usize,
    /// In one send.
    pub(crate) messages: usize,
    pub(crate) send_bytes: usize,
    pub(crate) batches_per_second_asked: Option<f64>,
    /// Of each way in each round.
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
    pub(crate) cpu: Option<usize>,
    pub(crate) client_cpu: Option<usize>,
    pub(crate) figures: Vec<Figure>,
    /// Ways that this kernel does not have.
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) write_bytes: usize,
    /// Empty without a directory.
    pub(crate) fdatasync: Vec<SyncFigure>,
    /// At all sockets, warm-ups included.
    pub(crate) bytes_verified: u64,
    pub(crate) faults: Vec<String>,
}

/// One way: medians over the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) way: Way,
    /// Of the sending thread and of what the kernel started for it.
    pub(crate) cpu_ns_per_delivery: f64,
    pub(crate) cpu_ns_per_delivery_by_round: Vec<f64>,
    pub(crate) cpu_ns_per_send: f64,
    /// The part of it in the kernel's own threads.
    pub(crate) worker_ns_per_send: f64,
    /// CPU beside the loop of `send` in the same round.
    pub(crate) ratio_to_send: f64,
    /// Share of a core.
    pub(crate) sender_busy: f64,
    pub(crate) reader_busy: f64,
    pub(crate) batches_per_second: f64,
    pub(crate) sends_per_second: f64,
    pub(crate) deliveries_per_second: f64,
    /// From its first send to when the kernel has taken the last.
    pub(crate) batch: Latency,
}

/// A way that was not measured.
#[derive(Debug, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) way: Way,
    pub(crate) why: String,
}

/// The rounds of one place.
pub(super) struct Synced {
    pub(super) place: Place,
    pub(super) took_ns: Histogram<u64>,
}

/// How long a write and its `fdatasync` took.
#[derive(Debug, Serialize)]
pub(crate) struct SyncFigure {
    pub(crate) place: Place,
    pub(crate) syncs_per_second: f64,
    pub(crate) latency: Latency,
}

impl Synced {
    pub(super) fn new(place: Place) -> Self {
        Self { place, took_ns: histogram() }
    }

    pub(super) fn figure(&self) -> SyncFigure {
        let syncs_per_second = 1e9 / self.took_ns.mean().max(1.0);
        SyncFigure { place: self.place, syncs_per_second, latency: Latency::of(&self.took_ns) }
    }
}

impl Verdict for FloorReport {
    fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl Display for FloorReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_plan(f)?;
        writeln!(
            f,
            "{:<16} {:>11} {:>7} {:>8} {:>11} {:>13} {:>9} {:>9} {:>6} {:>6}",
            "way", "ns/delivery", "/ send", "ns/send", "sends/s", "deliveries/s", "p50 us", "p99 us", "busy", "reader"
        )?;
        self.figures.iter().try_for_each(|figure| writeln!(f, "{figure}"))?;
        for LeftOut { way, why } in &self.left_out {
            writeln!(f, "left out    {}: {why}", way.name())?;
        }
        if self.batches_per_second_asked.is_none() && self.figures.iter().any(|one| one.reader_busy > CLIENT_BUSY_MAX) {
            writeln!(f, "note        the readers' core is full: what is a second is their limit, the CPU is not")?;
        }
        match &self.directory {
            None => writeln!(f, "fdatasync   not measured: say where with --directory")?,
            Some(directory) => {
                writeln!(f, "fdatasync   after a write of {} bytes, in {}", self.write_bytes, directory.display())?;
            }
        }
        for SyncFigure { place, syncs_per_second, latency } in &self.fdatasync {
            writeln!(f, "{:<11} {latency}; {}/s", place.name(), grouped(*syncs_per_second))?;
        }
        let verified = grouped(self.bytes_verified as f64);
        write_verdict(f, &self.faults, &format!("{verified} bytes, as many at each socket as it was sent"))
    }
}

impl FloorReport {
    fn write_plan(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { members, messages, send_bytes, seconds, rounds, .. } = self;
        writeln!(f, "floor       {members} sockets, {send_bytes} bytes a send: messages {messages}")?;
        let pace = match self.batches_per_second_asked {
            Some(rate) => format!("{rate} batches/s"),
            None => "as fast as they are read".into(),
        };
        let cpu = |cpu: Option<usize>| cpu.map_or("any CPU".into(), |cpu| format!("CPU {cpu}"));
        let (from, to) = (cpu(self.cpu), cpu(self.client_cpu));
        writeln!(f, "            {pace}; sent on {from}, read on {to}; {rounds} rounds of {seconds} s, medians")
    }
}

impl Display for Figure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { way, cpu_ns_per_delivery, ratio_to_send, cpu_ns_per_send, batch, .. } = self;
        let (sends, deliveries) = (grouped(self.sends_per_second), grouped(self.deliveries_per_second));
        let (busy, reader) = (self.sender_busy * 100.0, self.reader_busy * 100.0);
        write!(
            f,
            "{:<16} {cpu_ns_per_delivery:>11.0} {ratio_to_send:>7.2} {cpu_ns_per_send:>8.0} {sends:>11} {deliveries:>13} \
             {:>9.0} {:>9.0} {busy:>5.0}% {reader:>5.0}%",
            way.name(),
            batch.p50_us,
            batch.p99_us
        )
    }
}
