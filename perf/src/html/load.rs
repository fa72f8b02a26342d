//! What `load` found, as a page: how much and how late, by percentile, by rate and over time.

use hdrhistogram::Histogram;

use super::axis::Scale;
use super::threads;
use super::{Headline, Line, Mark, Page, Paged, Part, Plot, Section, Table, Unit};
use crate::knee::knee;
use crate::report::{Latency, LoadReport, Sample, Step, grouped};

/// A sample of a smaller share of the longest one's time is not drawn: it has seen too little to be a rate.
const SAMPLE_SHARE_MIN: f64 = 0.25;

/// Points of a line over percentiles, evenly along its axis.
const QUANTILES: u32 = 120;

impl Paged for LoadReport {
    fn page(&self) -> Page {
        let Self { rooms, members_per_room, senders_per_room, text_bytes, seconds, .. } = self;
        let rooms_are = if *rooms == 1 { "room" } else { "rooms" };
        let warning =
            |when| format!("The client was the bottleneck{when}: the throughput is its own limit, not the server's.");
        Page {
            title: format!("{} {rooms_are} of {} members", grouped(*rooms as f64), grouped(*members_per_room as f64)),
            subtitle: format!(
                "Load: {}; {senders_per_room} senders a room, texts of {text_bytes} bytes, {seconds:.1} s measured",
                self.pace()
            ),
            verdict: "Passed",
            verified: format!("{}.", self.verified()),
            faults: self.faults.clone(),
            warnings: self.client_limits().map(warning).into_iter().collect(),
            headlines: self.headlines(),
            sections: vec![self.sweep(), self.latency_section(), self.time(), self.members_section(), self.cost()],
        }
    }
}

impl LoadReport {
    fn headlines(&self) -> Vec<Headline> {
        let asked = self
            .messages_per_second_per_room_asked
            .map(|rate| format!("{} asked", grouped(rate * self.rooms as f64)))
            .unwrap_or_default();
        let micros = |label, us, note: &str| Headline::new(label, Unit::Micros, us, note);
        let mut headlines = vec![
            Headline::new(
                "Deliveries a second",
                Unit::PerSecond("deliveries"),
                self.deliveries_per_second,
                "to members",
            ),
            Headline::new("Messages a second", Unit::PerSecond("messages"), self.messages_per_second, asked),
            micros("Latency, median", self.latency.p50_us, "to the sender's own echo"),
            micros("Latency, p99", self.latency.p99_us, "99 in 100 are faster"),
        ];
        if let Some(cpu) = &self.server_cpu {
            let note = format!("a delivery; {:.2} cores in use", cpu.cores);
            headlines.push(micros("Server CPU", cpu.ns_per_event / 1e3, &note));
        }
        if let Some(memory) = &self.server_memory {
            headlines.push(Headline::new(
                "Server memory",
                Unit::Bytes,
                memory.rss_bytes as f64,
                "resident, at the end",
            ));
        }
        headlines
    }

    /// Throughput against latency, if there was more than one rate.
    fn sweep(&self) -> Section {
        let mut steps: Vec<&Step> = self.steps.iter().collect();
        steps.sort_by(|one, other| one.messages_per_second_asked.total_cmp(&other.messages_per_second_asked));
        let title = "Throughput against latency";
        if steps.is_empty() {
            return Section { title, parts: Vec::new() };
        }
        let curve: Vec<(f64, f64)> =
            steps.iter().map(|step| (step.messages_per_second_asked, step.latency.p99_us)).collect();
        let knee = knee(&curve).map(|at| steps[at]);
        let line = |name: &str, us: fn(&Latency) -> f64| Line {
            name: name.into(),
            points: steps.iter().map(|step| (step.messages_per_second, us(&step.latency))).collect(),
        };
        let plot = Plot {
            title: "Latency by throughput".into(),
            note: match knee {
                Some(_) => {
                    "Each dot is a rate that was asked for, where it was reached. The knee is the rate furthest below \
                    the diagonal of this curve of p99 (Kneedle): beyond it latency climbs."
                }
                None => {
                    "Each dot is a rate that was asked for, where it was reached. There is no knee within these rates: \
                    p99 does not climb after a flat part."
                }
            }
            .into(),
            x: ("messages/s that came back to their senders", Scale::Span, Unit::PerSecond("messages")),
            y: ("latency to the sender's echo", Scale::Log, Unit::Micros),
            lines: vec![
                line("p99", |latency| latency.p99_us),
                line("p50", |latency| latency.p50_us),
                line("p99.9", |latency| latency.p999_us),
            ],
            mark: knee.map(|step| Mark {
                name: format!(
                    "knee: {}, p99 {}",
                    Unit::PerSecond("messages").show(step.messages_per_second),
                    Unit::Micros.show(step.latency.p99_us)
                ),
                at: (step.messages_per_second, step.latency.p99_us),
            }),
            shaded: Vec::new(),
            dots: true,
        };
        Section { title, parts: vec![Part::Plot(plot), Part::Table(steps_table(&steps))] }
    }

    fn latency_section(&self) -> Section {
        let lines = [("to the sender's echo", &self.latency_ns), ("to all members", &self.delivery_latency_ns)];
        let lines = lines.into_iter().filter(|(_, latency_ns)| !latency_ns.is_empty());
        let plot = Plot {
            title: "Latency by percentile".into(),
            note: if self.steps.is_empty() { "" } else { "All rates together." }.into(),
            x: ("percentile of messages", Scale::Nines, Unit::Count("")),
            y: ("latency", Scale::Log, Unit::Micros),
            lines: lines.map(|(name, ns)| Line { name: name.into(), points: by_percentile(ns) }).collect(),
            mark: None,
            shaded: Vec::new(),
            dots: false,
        };
        let row = |name: &str, latency: &Latency| {
            let Latency { p50_us, p90_us, p99_us, p999_us, p9999_us, max_us, .. } = latency;
            let figures = [p50_us, p90_us, p99_us, p999_us, p9999_us, max_us].map(|us| Unit::Micros.show(*us));
            (name.to_owned(), figures.to_vec())
        };
        let table = Table {
            caption: "Percentiles",
            head: ["", "p50", "p90", "p99", "p99.9", "p99.99", "max"].map(str::to_owned).to_vec(),
            rows: vec![row("to the sender's echo", &self.latency), row("to all members", &self.delivery_latency)],
        };
        let prose = match self.outstanding_per_room {
            Some(_) => {
                "Latency counts from when a message was sent. In a closed loop a sender waits for an echo before it sends \
                again, so this is how late a server is that is kept as busy as it can be."
            }
            None => {
                "Latency counts from when a message was due by the clock, whether or not it could be sent then: a server \
                that stalls cannot hide its stall."
            }
        };
        Section { title: "Latency", parts: vec![Part::Plot(plot), Part::Table(table), Part::Prose(prose.into())] }
    }

    fn time(&self) -> Section {
        let title = "Over time";
        if self.series.is_empty() {
            return Section { title, parts: Vec::new() };
        }
        let longest_seconds = self.series.iter().map(|sample| sample.seconds).fold(0.0, f64::max);
        let samples = || self.series.iter().filter(|sample| sample.seconds >= longest_seconds * SAMPLE_SHARE_MIN);
        let line = |name: &str, figure: &dyn Fn(&Sample) -> Option<f64>| Line {
            name: name.into(),
            points: samples().map(|sample| (sample.at_seconds, figure(sample).unwrap_or(f64::NAN))).collect(),
        };
        let plot = |title: &str, note: &str, y, lines| {
            Part::Plot(Plot {
                title: title.into(),
                note: note.into(),
                x: ("time", Scale::Span, Unit::Seconds),
                y,
                lines,
                mark: None,
                shaded: self.unmeasured(),
                dots: false,
            })
        };
        let deliveries = vec![line("deliveries", &|sample| Some(sample.deliveries_per_second))];
        let latency = vec![line("p99", &|sample| sample.p99_us), line("p50", &|sample| sample.p50_us)];
        let mut cpu = vec![line("client", &|sample| Some(sample.client_busy))];
        if self.server_cpu.is_some() {
            cpu.insert(0, line("server", &|sample| sample.server_cores));
        }
        let mut parts = vec![
            plot("Throughput", "", ("deliveries/s", Scale::Linear, Unit::PerSecond("deliveries")), deliveries),
            plot("Latency", "", ("latency to the sender's echo", Scale::Log, Unit::Micros), latency),
            plot("CPU", "", ("cores in use", Scale::Linear, Unit::Cores), cpu),
        ];
        if self.server_memory.is_some() {
            let memory = vec![line("resident", &|sample| sample.server_rss_bytes.map(|bytes| bytes as f64))];
            parts.push(plot("Memory", "", ("resident memory of the server", Scale::Linear, Unit::Bytes), memory));
        }
        if !self.unmeasured().is_empty() {
            parts.push(Part::Prose(
                "Shaded: ramp, warm-up and the waits for what is under way, which no figure counts.".into(),
            ));
        }
        Section { title, parts }
    }

    /// Stretches of time that no figure counts.
    fn unmeasured(&self) -> Vec<(f64, f64)> {
        let mut stretches: Vec<(f64, f64)> = Vec::new();
        for sample in self.series.iter().filter(|sample| !sample.measured) {
            let (from, to) = ((sample.at_seconds - sample.seconds).max(0.0), sample.at_seconds);
            match stretches.last_mut() {
                Some(last) if from - last.1 < 1e-3 => last.1 = to,
                _ => stretches.push((from, to)),
            }
        }
        stretches
    }

    /// Members that came and went, and those that read slowly.
    fn members_section(&self) -> Section {
        let count = |count: u64| grouped(count as f64);
        let churn = self.churn.as_ref().map(|churn| {
            let Latency { p50_us, p99_us, max_us, .. } = churn.greeting;
            let greeting = [p50_us, p99_us, max_us].map(|us| Unit::Micros.show(us));
            let asked = format!("{} a second", churn.connections_per_second_asked);
            let counts = [churn.left, churn.came, churn.vacant].map(count);
            Part::Table(Table {
                caption: "Members that left and came",
                head: ["asked", "left", "came", "turns passed over", "greeting p50", "p99", "max"]
                    .map(str::to_owned)
                    .to_vec(),
                rows: vec![(asked, counts.into_iter().chain(greeting).collect())],
            })
        });
        let slow = self.slow_readers.as_ref().map(|slow| {
            let closed = slow.closed_by_code.iter().map(|(code, closed)| (format!("closed with {code}"), *closed));
            let all = [("kept, with every message".to_owned(), slow.kept)].into_iter().chain(closed);
            let all = all.chain([("cut without a close frame".to_owned(), slow.cut)]);
            let bytes = Unit::Bytes.show(slow.bytes_per_second_each as f64);
            Part::Table(Table {
                caption: "Members that read slowly",
                head: vec![format!("{} that read {bytes}/s each", count(slow.members)), "members".to_owned()],
                rows: all.map(|(name, members)| (name, vec![count(members)])).collect(),
            })
        });
        Section { title: "Members that are no model", parts: churn.into_iter().chain(slow).collect() }
    }

    fn cost(&self) -> Section {
        let parts = self.server_cpu.iter().map(|cpu| threads::table("Server CPU by thread", cpu, "delivery")).collect();
        Section { title: "What it cost the server", parts }
    }
}

fn steps_table(steps: &[&Step]) -> Table {
    let row = |step: &&Step| {
        let latency = [step.latency.p50_us, step.latency.p99_us, step.latency.p999_us].map(|us| Unit::Micros.show(us));
        let cores = step.server_cpu.as_ref().map_or("–".to_owned(), |cpu| format!("{:.2}", cpu.cores));
        let rates = [grouped(step.messages_per_second), grouped(step.deliveries_per_second)];
        let client = format!("{:.0}\u{a0}%", step.client_busy * 100.0);
        let figures = rates.into_iter().chain(latency).chain([cores, client]).collect();
        (grouped(step.messages_per_second_asked), figures)
    };
    Table {
        caption: "Each rate",
        head: ["messages/s asked", "reached", "deliveries/s", "p50", "p99", "p99.9", "server cores", "client"]
            .map(str::to_owned)
            .to_vec(),
        rows: steps.iter().map(row).collect(),
    }
}

/// Latency in microseconds by share of messages, as far as there are messages beyond. The very first message is left out:
/// one that was lucky would stretch the axis.
fn by_percentile(latency_ns: &Histogram<u64>) -> Vec<(f64, f64)> {
    (1..=QUANTILES)
        .map(|nth| 10_f64.powf(-4.0 * f64::from(nth) / f64::from(QUANTILES)))
        .filter(|beyond| beyond * latency_ns.len() as f64 >= 0.999)
        .map(|beyond| (1.0 - beyond, latency_ns.value_at_quantile(1.0 - beyond) as f64 / 1e3))
        .collect()
}
