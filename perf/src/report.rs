//! What a run found, as text for a person and as JSON for a program. Every figure has its unit in its name.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::process::Memory;
use crate::provenance::Provenance;

/// Above this share of a core the client may be what limits the run.
pub(crate) const CLIENT_BUSY_MAX: f64 = 0.9;

/// What `load` found.
#[derive(Debug, Serialize)]
pub(crate) struct LoadReport {
    pub(crate) rooms: usize,
    pub(crate) members_per_room: usize,
    pub(crate) senders_per_room: usize,
    pub(crate) outstanding_per_room: Option<usize>,
    pub(crate) messages_per_second_per_room_asked: Option<f64>,
    /// As asked: a length, or the distribution that lengths were drawn from with `seed`.
    pub(crate) text_bytes: String,
    pub(crate) text_bytes_mean: f64,
    pub(crate) seed: Option<u64>,
    pub(crate) ramp_seconds: f64,
    pub(crate) seconds: f64,
    pub(crate) messages: u64,
    pub(crate) deliveries: u64,
    pub(crate) messages_per_second: f64,
    pub(crate) deliveries_per_second: f64,
    /// To the message's echo at its sender.
    pub(crate) latency: Latency,
    /// To its receipt at any member that reads as fast as it can; from samples, each weighted with what it stands for.
    pub(crate) delivery_latency: Latency,
    pub(crate) server_cpu: Option<ServerCpu>,
    pub(crate) server_memory: Option<Memory>,
    /// The client never slept. What it spent on waiting counts in neither of the next two.
    pub(crate) client_spins: bool,
    /// Share of one core that the client's thread used.
    pub(crate) client_busy: f64,
    pub(crate) client_ns_per_delivery: f64,
    /// Over the whole run, warm-up and end included.
    pub(crate) messages_verified: u64,
    pub(crate) deliveries_verified: u64,
    /// Connections that came late, left early or read slowly, and that received a whole stretch of their room's messages.
    pub(crate) stretches_verified: u64,
    pub(crate) churn: Option<ChurnReport>,
    pub(crate) slow_readers: Option<SlowReport>,
    /// Each rate of a sweep by itself, in the order asked; what stands above is over all of them. Empty without a sweep.
    pub(crate) steps: Vec<Step>,
    /// The whole run over time, warm-up included.
    pub(crate) series: Vec<Sample>,
    pub(crate) faults: Vec<String>,
    /// All of `latency` and of `delivery_latency`.
    #[serde(skip)]
    pub(crate) latency_ns: Histogram<u64>,
    #[serde(skip)]
    pub(crate) delivery_latency_ns: Histogram<u64>,
}

impl LoadReport {
    /// What was looked at and, without faults, found whole.
    pub(crate) fn verified(&self) -> String {
        let [messages, deliveries, stretches] =
            [self.messages_verified, self.deliveries_verified, self.stretches_verified]
                .map(|count| grouped(count as f64));
        let whole = format!("{messages} messages, {deliveries} deliveries: each once, in order");
        if self.churn.is_none() && self.slow_readers.is_none() {
            return whole;
        }
        format!("{whole}; {stretches} that came, left or lagged: a whole stretch")
    }

    /// When the client may have been what limited the run, if it was ever: at which of a sweep's rates.
    pub(crate) fn client_limits(&self) -> Option<String> {
        let busy = |step: &&Step| step.client_busy > CLIENT_BUSY_MAX;
        let rates: Vec<String> =
            self.steps.iter().filter(busy).map(|step| grouped(step.messages_per_second_asked)).collect();
        if !rates.is_empty() {
            return Some(format!(" at {} messages/s", rates.join(" and ")));
        }
        (self.client_busy > CLIENT_BUSY_MAX).then(String::new)
    }

    /// When messages left.
    pub(crate) fn pace(&self) -> String {
        match (self.outstanding_per_room, self.messages_per_second_per_room_asked) {
            (Some(outstanding), _) => format!("closed loop, {outstanding} outstanding a room"),
            (_, Some(rate)) => format!("open loop, {rate} messages/s a room"),
            _ => format!("open loop, {} rates", self.steps.len()),
        }
    }
}

/// What became of the connections that came and went.
#[derive(Debug, Serialize)]
pub(crate) struct ChurnReport {
    pub(crate) connections_per_second_asked: f64,
    /// Over the whole run, as all that follows.
    pub(crate) left: u64,
    pub(crate) came: u64,
    /// Turns passed over, for nobody sat in the seat: the server lets people go or come more slowly than was asked.
    pub(crate) vacant: u64,
    /// From the connect to `connection_established`.
    pub(crate) greeting: Latency,
}

/// What became of the members that read slowly.
#[derive(Debug, Serialize)]
pub(crate) struct SlowReport {
    pub(crate) members: u64,
    pub(crate) bytes_per_second_each: usize,
    /// Those that stayed, and had every message in the end.
    pub(crate) kept: u64,
    /// Those that the server closed, by close code.
    pub(crate) closed_by_code: BTreeMap<u16, u64>,
    /// Those whose connection ended before a close frame came.
    pub(crate) cut: u64,
}

/// One rate of a sweep: all that was sent in its measured time has come back, or was waited for, before the next began.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) messages_per_second_per_room_asked: f64,
    /// In all rooms together.
    pub(crate) messages_per_second_asked: f64,
    /// When its measured time began, in seconds of the series.
    pub(crate) from_seconds: f64,
    pub(crate) seconds: f64,
    pub(crate) messages: u64,
    pub(crate) deliveries: u64,
    /// The rate reached: messages that came back to their sender in the measured time.
    pub(crate) messages_per_second: f64,
    pub(crate) deliveries_per_second: f64,
    pub(crate) latency: Latency,
    pub(crate) delivery_latency: Latency,
    pub(crate) server_cpu: Option<ServerCpu>,
    pub(crate) server_memory: Option<Memory>,
    pub(crate) client_busy: f64,
}

/// A short interval of a load.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// Its end, counted from when the senders began.
    pub(crate) at_seconds: f64,
    pub(crate) seconds: f64,
    /// Whether it lies in a measured time, and so not in a ramp, a warm-up or a wait for what is under way.
    pub(crate) measured: bool,
    pub(crate) messages_per_second: f64,
    pub(crate) deliveries_per_second: f64,
    /// Of the messages that came back to their sender in it; none if none did.
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) server_cores: Option<f64>,
    pub(crate) server_rss_bytes: Option<u64>,
    pub(crate) client_busy: f64,
}

/// From when a message was sent or due to its receipt, in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) p9999_us: f64,
    pub(crate) max_us: f64,
}

impl Latency {
    /// Reads off a histogram of nanoseconds.
    pub(crate) fn of(latency_ns: &Histogram<u64>) -> Self {
        Self {
            count: latency_ns.len(),
            p50_us: us(latency_ns.value_at_quantile(0.5)),
            p90_us: us(latency_ns.value_at_quantile(0.9)),
            p99_us: us(latency_ns.value_at_quantile(0.99)),
            p999_us: us(latency_ns.value_at_quantile(0.999)),
            p9999_us: us(latency_ns.value_at_quantile(0.9999)),
            max_us: us(latency_ns.max()),
        }
    }
}

/// Nanoseconds as microseconds with two digits after the point.
pub(crate) fn us(ns: u64) -> f64 {
    (ns as f64 / 10.0).round() / 100.0
}

/// The server's CPU over a stretch of time in which it did `events` things: deliveries, or connections.
#[derive(Debug, Serialize)]
pub(crate) struct ServerCpu {
    /// Nanoseconds used, by threads of a name.
    pub(crate) ns_by_thread: BTreeMap<String, u64>,
    /// Cores in use, all threads.
    pub(crate) cores: f64,
    /// Nanoseconds an event, all threads.
    pub(crate) ns_per_event: f64,
    /// Nanoseconds an event in threads whose name holds `shard`; a server without such threads has none.
    pub(crate) shard_ns_per_event: Option<f64>,
}

impl ServerCpu {
    /// Divides what was used among `events`.
    pub(crate) fn of(ns_by_thread: BTreeMap<String, u64>, seconds: f64, events: u64) -> Self {
        let total: u64 = ns_by_thread.values().sum();
        let events = events.max(1) as f64;
        let shards: Vec<u64> =
            ns_by_thread.iter().filter(|(name, _)| name.contains("shard")).map(|(_, used)| *used).collect();
        Self {
            cores: total as f64 / 1e9 / seconds,
            ns_per_event: total as f64 / events,
            shard_ns_per_event: (!shards.is_empty()).then(|| shards.iter().sum::<u64>() as f64 / events),
            ns_by_thread,
        }
    }
}

/// Bytes that one more connection cost a server.
#[derive(Debug, Serialize)]
pub(crate) struct PerConnection {
    /// By `VmRSS`.
    pub(crate) rss: i64,
    /// By `RssAnon`: user memory proper.
    pub(crate) anonymous: i64,
    /// By `Pss`.
    pub(crate) pss: i64,
    /// By private pages.
    pub(crate) private: i64,
}

impl PerConnection {
    /// The growth from `before` to `after`, shared by `connections`.
    pub(crate) fn of(before: &Memory, after: &Memory, connections: u64) -> Self {
        let share = |before: u64, after: u64| (after as i64 - before as i64) / connections.max(1) as i64;
        Self {
            rss: share(before.rss_bytes, after.rss_bytes),
            anonymous: share(before.anonymous_bytes, after.anonymous_bytes),
            pss: share(before.pss_bytes, after.pss_bytes),
            private: share(before.private_bytes, after.private_bytes),
        }
    }
}

/// What `connections` found.
#[derive(Debug, Serialize)]
pub(crate) struct ConnectionsReport {
    pub(crate) asked: usize,
    pub(crate) opened: usize,
    pub(crate) held: usize,
    pub(crate) connecting_seconds: f64,
    pub(crate) connections_per_second: f64,
    pub(crate) hold_seconds: f64,
    pub(crate) connecting_cpu: Option<ServerCpu>,
    pub(crate) idle_cpu: Option<ServerCpu>,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) memory_before: Option<Memory>,
    pub(crate) memory: Option<Memory>,
    pub(crate) bytes_per_connection: Option<PerConnection>,
    /// Anonymous memory of the client.
    pub(crate) client_bytes_per_connection: i64,
    /// Growth of the whole machine's slab, both ends of each connection included.
    pub(crate) kernel_slab_bytes_per_connection: u64,
    pub(crate) tcp_buffer_bytes: u64,
    pub(crate) storms: Vec<Storm>,
    pub(crate) faults: Vec<String>,
}

/// A report for a program: its figures, and where they come from.
#[derive(Serialize)]
pub(crate) struct Sourced<'a, R> {
    #[serde(flatten)]
    pub(crate) report: &'a R,
    pub(crate) provenance: &'a Provenance,
}

/// What the server did while all connections were held and nobody spoke.
#[derive(Debug, Serialize)]
pub(crate) struct Heartbeats {
    /// All of them answered.
    pub(crate) pings: u64,
    /// Under 1, the time was shorter than the server's interval, and the CPU is not that of its heartbeats.
    pub(crate) pings_per_connection: f64,
    /// CPU that holding one connection for one second costs, all threads.
    pub(crate) ns_per_connection_second: Option<f64>,
}

impl Heartbeats {
    /// Divides what was used in `seconds` among `connections`.
    pub(crate) fn of(pings: u64, connections: usize, seconds: f64, cpu: Option<&ServerCpu>) -> Self {
        let connections = connections.max(1) as f64;
        let ns_per_connection_second = cpu.map(|cpu| cpu.cores * 1e9 / connections).filter(|_| seconds > 0.0);
        Self { pings, pings_per_connection: pings as f64 / connections, ns_per_connection_second }
    }
}

/// All connections were dropped at once, and came back at once.
#[derive(Debug, Serialize)]
pub(crate) struct Storm {
    /// Whether they were dropped by a reset, or in TCP's order.
    pub(crate) reset: bool,
    /// What dropping alone took.
    pub(crate) dropping_seconds: f64,
    /// From the first that was dropped to the last that was greeted again.
    pub(crate) seconds: f64,
    pub(crate) returned: usize,
    /// Of these, still there when memory was read.
    pub(crate) held: usize,
    pub(crate) connections_per_second: f64,
    /// From the first that was dropped to each one's greeting.
    pub(crate) back: Latency,
    pub(crate) attempts: u64,
    /// Attempts beyond each one's first.
    pub(crate) retries: u64,
    /// Of the one who had to try most often.
    pub(crate) attempts_max: u32,
    /// How attempts ended that failed, and how often.
    pub(crate) refusals: BTreeMap<String, u64>,
    pub(crate) server_cpu: Option<ServerCpu>,
    /// When all had been back for some seconds.
    pub(crate) memory: Option<Memory>,
    /// Over what the server had before its first connection.
    pub(crate) bytes_per_connection: Option<PerConnection>,
    pub(crate) kernel_slab_bytes_per_connection: u64,
}

/// A report that can say whether all went well.
pub(crate) trait Verdict: Display + Serialize {
    /// What went wrong, a line each.
    fn faults(&self) -> &[String];
}

impl Verdict for LoadReport {
    fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl Verdict for ConnectionsReport {
    fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl Display for LoadReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { rooms, members_per_room, senders_per_room, text_bytes, text_bytes_mean, seconds, .. } = self;
        writeln!(f, "load        {rooms} rooms x {members_per_room} members, {senders_per_room} senders a room")?;
        let drawn = self.seed.map(|seed| format!(" (mean {text_bytes_mean:.0}, --seed {seed})")).unwrap_or_default();
        writeln!(f, "            {}, {text_bytes} bytes{drawn}, {seconds:.1} s", self.pace())?;
        writeln!(f, "messages    {}/s", grouped(self.messages_per_second))?;
        writeln!(f, "deliveries  {}/s", grouped(self.deliveries_per_second))?;
        writeln!(f, "latency     {}", self.latency)?;
        writeln!(f, "            {} at all members", self.delivery_latency)?;
        if let Some(ChurnReport { left, came, greeting, vacant, .. }) = &self.churn {
            writeln!(f, "churn       {left} left, {came} came, {vacant} turns passed over")?;
            writeln!(f, "            greeting {greeting}")?;
        }
        if let Some(SlowReport { members, bytes_per_second_each, kept, closed_by_code, cut }) = &self.slow_readers {
            write!(f, "slow        {members} at {bytes_per_second_each} bytes/s: {kept} kept")?;
            closed_by_code.iter().try_for_each(|(code, count)| write!(f, ", {count} closed with {code}"))?;
            writeln!(f, ", {cut} cut")?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "step        {step}"))?;
        if let Some(cpu) = &self.server_cpu {
            write_cpu(f, "server cpu ", cpu, "delivery")?;
        }
        if let Some(memory) = &self.server_memory {
            writeln!(f, "server mem  {} resident", bytes(memory.rss_bytes))?;
        }
        let Self { client_busy, client_ns_per_delivery, .. } = self;
        let spun = if self.client_spins { ", and spun in between" } else { "" };
        let percent = client_busy * 100.0;
        writeln!(f, "client      {percent:.0} % of a core, {client_ns_per_delivery:.0} ns a delivery{spun}")?;
        if let Some(when) = self.client_limits() {
            writeln!(f, "WARNING     the client is the bottleneck{when}: it shows its own limit, not the server's")?;
        }
        write_verdict(f, &self.faults, &self.verified())
    }
}

impl Display for Latency {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { p50_us, p90_us, p99_us, p999_us, p9999_us, max_us, .. } = self;
        write!(f, "p50 {p50_us:.0} us, p90 {p90_us:.0}, p99 {p99_us:.0}, p99.9 {p999_us:.0}, p99.99 {p9999_us:.0}, ")?;
        write!(f, "max {max_us:.0}")
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (asked, reached) = (grouped(self.messages_per_second_asked), grouped(self.messages_per_second));
        write!(f, "{asked} messages/s asked, {reached} reached: {}", self.latency)?;
        if let Some(cpu) = &self.server_cpu {
            write!(f, "; {:.2} cores", cpu.cores)?;
        }
        write!(f, "; client {:.0} %", self.client_busy * 100.0)
    }
}

impl Display for ConnectionsReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { asked, opened, held, connecting_seconds, connections_per_second, hold_seconds, .. } = self;
        writeln!(
            f,
            "connected   {opened} of {asked} in {connecting_seconds:.2} s: {}/s",
            grouped(*connections_per_second)
        )?;
        writeln!(f, "held        {held} for {hold_seconds:.0} s")?;
        if let Some(cpu) = &self.connecting_cpu {
            write_cpu(f, "connecting ", cpu, "connection")?;
        }
        if let Some(cpu) = &self.idle_cpu {
            writeln!(f, "idle        {:.4} cores: {}", cpu.cores, self.heartbeats)?;
        }
        if let (Some(each), Some(before), Some(after)) = (&self.bytes_per_connection, &self.memory_before, &self.memory)
        {
            let (from, to) = (bytes(before.rss_bytes), bytes(after.rss_bytes));
            writeln!(f, "server mem  {from} -> {to} resident")?;
            writeln!(f, "            {} bytes of user memory a connection (anonymous)", each.anonymous)?;
            writeln!(f, "            {} resident, {} Pss, {} private", each.rss, each.pss, each.private)?;
        }
        writeln!(
            f,
            "kernel mem  {} bytes of slab a connection (both its ends), {} in TCP buffers",
            self.kernel_slab_bytes_per_connection,
            bytes(self.tcp_buffer_bytes)
        )?;
        writeln!(f, "client mem  {} bytes a connection", self.client_bytes_per_connection)?;
        self.storms.iter().try_for_each(|storm| write!(f, "{storm}"))?;
        let came_back = if self.storms.is_empty() { "" } else { ", or came back and stayed" };
        write_verdict(f, &self.faults, &format!("every connection stayed open{came_back}"))
    }
}

impl Display for Heartbeats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { pings_per_connection, ns_per_connection_second, .. } = self;
        if let Some(ns) = ns_per_connection_second {
            write!(f, "{ns:.0} ns a connection a second, ")?;
        }
        write!(f, "{pings_per_connection:.2} pings each")?;
        if *pings_per_connection < 1.0 { write!(f, " (hold longer to see every heartbeat)") } else { Ok(()) }
    }
}

impl Display for Storm {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { returned, seconds, dropping_seconds, back, attempts_max, .. } = self;
        let (rate, how) = (grouped(self.connections_per_second), if self.reset { "reset" } else { "ended" });
        writeln!(
            f,
            "storm       {returned} {how} and back in {seconds:.2} s: {rate}/s; {dropping_seconds:.2} s to drop"
        )?;
        let [half, most, all] = [back.p50_us, back.p99_us, back.max_us].map(|us| us / 1e6);
        writeln!(f, "            half back after {half:.2} s, 99 % after {most:.2} s, all after {all:.2} s")?;
        writeln!(f, "            {} retries, {attempts_max} attempts at most", grouped(self.retries as f64))?;
        for (why, count) in &self.refusals {
            writeln!(f, "            {}: {why}", grouped(*count as f64))?;
        }
        if let Some(cpu) = &self.server_cpu {
            write_cpu(f, "storm cpu  ", cpu, "connection")?;
        }
        if let (Some(memory), Some(each)) = (&self.memory, &self.bytes_per_connection) {
            let (rss, anonymous) = (bytes(memory.rss_bytes), each.anonymous);
            writeln!(f, "storm mem   {rss} resident, {anonymous} bytes of user memory a connection")?;
        }
        Ok(())
    }
}

fn write_cpu(f: &mut Formatter<'_>, label: &str, cpu: &ServerCpu, event: &str) -> fmt::Result {
    writeln!(f, "{label} {:.0} ns a {event}, {:.2} cores", cpu.ns_per_event, cpu.cores)?;
    if let Some(shard) = cpu.shard_ns_per_event {
        writeln!(f, "            {shard:.0} ns a {event} in shard threads")?;
    }
    let total: u64 = cpu.ns_by_thread.values().sum();
    for (name, used) in cpu.ns_by_thread.iter().filter(|(_, used)| **used > 0) {
        let (ms, share) = (*used as f64 / 1e6, *used as f64 * 100.0 / total as f64);
        writeln!(f, "            {name}: {ms:.1} ms, {share:.1} %")?;
    }
    Ok(())
}

pub(crate) fn write_verdict(f: &mut Formatter<'_>, faults: &[String], whole: &str) -> fmt::Result {
    if faults.is_empty() {
        return writeln!(f, "verified    {whole}");
    }
    faults.iter().try_for_each(|fault| writeln!(f, "FAULT       {fault}"))
}

pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", count as f64 / 1_073_741_824.0),
    }
}

pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let parts: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|part| str::from_utf8(part).unwrap_or("")).collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        for us in 1..=10_000 {
            histogram.record(us * 1000).unwrap();
        }
        let latency = Latency::of(&histogram);
        for (got, want) in [
            (latency.p50_us, 5000.0),
            (latency.p90_us, 9000.0),
            (latency.p99_us, 9900.0),
            (latency.p999_us, 9990.0),
            (latency.p9999_us, 9999.0),
            (latency.max_us, 10_000.0),
        ] {
            assert!((got - want).abs() / want < 0.001, "{got} is not {want}");
        }
        assert_eq!(latency.count, 10_000);
    }

    #[test]
    fn cpu_is_shared_among_events_and_shards_are_told_apart() {
        let used = BTreeMap::from([("shard".to_owned(), 3_000_000), ("writer".to_owned(), 1_000_000)]);
        let cpu = ServerCpu::of(used.clone(), 0.01, 1000);
        assert_eq!((cpu.ns_per_event, cpu.shard_ns_per_event, cpu.cores), (4000.0, Some(3000.0), 0.4));
        let none = ServerCpu::of(BTreeMap::from([("node".to_owned(), 10)]), 1.0, 0);
        assert_eq!((none.ns_per_event, none.shard_ns_per_event), (10.0, None));
    }

    #[test]
    fn numbers_read_well() {
        for (number, want) in [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(grouped(number), want);
        }
        assert_eq!(bytes(2048), "2.0 KiB");
        assert_eq!(bytes(3 << 20), "3.0 MiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }
}
