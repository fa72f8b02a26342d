//! How the servers stand: each one's runs, their medians, and the ratios to the first server's run of the same round.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::Cpus;
use crate::load::{Pace, Plan};
use crate::median::median;
use crate::report::{CLIENT_BUSY_MAX, LoadReport, Verdict, grouped, write_verdict};
use crate::server::Spec;

/// One run of one server.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// CPU of the server's own processes.
    pub(crate) cpu_ns_per_delivery: f64,
    /// CPU of what it leans on, by name.
    pub(crate) backing_ns_per_delivery: BTreeMap<String, f64>,
    /// Both.
    pub(crate) cpu_ns_per_delivery_with_backing: f64,
    pub(crate) deliveries_per_cpu_second: f64,
    pub(crate) messages_per_second: f64,
    pub(crate) deliveries_per_second: f64,
    /// To the echo at the sender.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// To the receipt at any member.
    pub(crate) delivery_p50_us: f64,
    pub(crate) delivery_p99_us: f64,
    pub(crate) client_busy: f64,
    /// Of a server that counts both.
    pub(crate) deliveries_per_send: Option<f64>,
    pub(crate) faults: Vec<String>,
}

impl Figures {
    /// What a load found, with what others did for the server meanwhile.
    pub(super) fn of(report: &LoadReport, backing_ns_per_delivery: &BTreeMap<String, f64>) -> Self {
        let cpu_ns_per_delivery = report.server_cpu.as_ref().map_or(0.0, |cpu| cpu.ns_per_event);
        Self {
            cpu_ns_per_delivery,
            backing_ns_per_delivery: backing_ns_per_delivery.clone(),
            cpu_ns_per_delivery_with_backing: cpu_ns_per_delivery + backing_ns_per_delivery.values().sum::<f64>(),
            deliveries_per_cpu_second: if cpu_ns_per_delivery > 0.0 { 1e9 / cpu_ns_per_delivery } else { 0.0 },
            messages_per_second: report.messages_per_second,
            deliveries_per_second: report.deliveries_per_second,
            p50_us: report.latency.p50_us,
            p99_us: report.latency.p99_us,
            delivery_p50_us: report.delivery_latency.p50_us,
            delivery_p99_us: report.delivery_latency.p99_us,
            client_busy: report.client_busy,
            deliveries_per_send: None,
            faults: report.faults.clone(),
        }
    }
}

/// All runs of one server, in the order of the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Standing {
    pub(crate) name: String,
    /// What it runs on or was built with.
    pub(crate) version: Option<String>,
    pub(crate) median: Option<Figures>,
    pub(crate) against_first: Option<Ratios>,
    pub(crate) runs: Vec<Figures>,
}

/// A server that was asked for and is not in the comparison.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) name: String,
    pub(crate) why: String,
}

/// A figure of a server over that of the first one in the same round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// The figures that are worth a ratio.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ratios {
    pub(crate) cpu_ns_per_delivery: Ratio,
    pub(crate) cpu_ns_per_delivery_with_backing: Ratio,
    pub(crate) deliveries_per_second: Ratio,
    /// To the receipt at any member: a server that answers the sender first has the others wait.
    pub(crate) p50_us: Ratio,
    pub(crate) p99_us: Ratio,
}

impl Standing {
    pub(super) fn new(spec: &Spec) -> Self {
        let (name, version) = (spec.name.clone(), spec.version.clone());
        Self { name, version, median: None, against_first: None, runs: Vec::new() }
    }

    fn summed_up(mut self, first: &[Figures]) -> Self {
        self.median = Some(median_of(&self.runs));
        self.against_first = Some(Ratios::of(&self.runs, first));
        self
    }
}

/// The median of each figure; the faults of all runs.
fn median_of(runs: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| median(runs.iter().map(figure)).unwrap_or(f64::NAN);
    let names: Vec<&String> = runs.iter().flat_map(|run| run.backing_ns_per_delivery.keys()).collect();
    let backing = |name: &str| {
        median(runs.iter().map(|run| run.backing_ns_per_delivery.get(name).copied().unwrap_or(0.0))).unwrap_or(f64::NAN)
    };
    Figures {
        cpu_ns_per_delivery: of(|run| run.cpu_ns_per_delivery),
        backing_ns_per_delivery: names.into_iter().map(|name| (name.clone(), backing(name))).collect(),
        cpu_ns_per_delivery_with_backing: of(|run| run.cpu_ns_per_delivery_with_backing),
        deliveries_per_cpu_second: of(|run| run.deliveries_per_cpu_second),
        messages_per_second: of(|run| run.messages_per_second),
        deliveries_per_second: of(|run| run.deliveries_per_second),
        p50_us: of(|run| run.p50_us),
        p99_us: of(|run| run.p99_us),
        delivery_p50_us: of(|run| run.delivery_p50_us),
        delivery_p99_us: of(|run| run.delivery_p99_us),
        client_busy: of(|run| run.client_busy),
        deliveries_per_send: median(runs.iter().filter_map(|run| run.deliveries_per_send)),
        faults: runs.iter().flat_map(|run| run.faults.iter().cloned()).collect(),
    }
}

impl Ratios {
    fn of(runs: &[Figures], first: &[Figures]) -> Self {
        let of = |figure: fn(&Figures) -> f64| {
            Ratio::of(runs.iter().zip(first).map(|(run, first)| figure(run) / figure(first)).collect())
        };
        Self {
            cpu_ns_per_delivery: of(|run| run.cpu_ns_per_delivery),
            cpu_ns_per_delivery_with_backing: of(|run| run.cpu_ns_per_delivery_with_backing),
            deliveries_per_second: of(|run| run.deliveries_per_second),
            p50_us: of(|run| run.delivery_p50_us),
            p99_us: of(|run| run.delivery_p99_us),
        }
    }
}

impl Ratio {
    fn of(ratios: Vec<f64>) -> Self {
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        let bounds = ratios.iter().fold((min, max), |(min, max), ratio| (min.min(*ratio), max.max(*ratio)));
        Self { median: median(ratios).unwrap_or(f64::NAN), min: bounds.0, max: bounds.1 }
    }
}

impl Display for Ratio {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = match self.median {
            10.0.. => 0,
            0.1..10.0 => 2,
            _ => 4,
        };
        f.pad(&format!("{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.min, self.max))
    }
}

/// What `compare` found.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) load: String,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) server_cpu: usize,
    pub(crate) client_cpu: usize,
    pub(crate) standings: Vec<Standing>,
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) faults: Vec<String>,
}

impl Comparison {
    pub(super) fn of(plan: &Plan, cpus: Cpus, rounds: usize, standings: Vec<Standing>, left_out: Vec<LeftOut>) -> Self {
        let first = standings.first().map(|first| first.runs.clone()).unwrap_or_default();
        let standings: Vec<Standing> = standings.into_iter().map(|standing| standing.summed_up(&first)).collect();
        let faults = standings.iter().flat_map(|standing| {
            standing.runs.iter().flat_map(|run| &run.faults).map(|fault| format!("{}: {fault}", standing.name))
        });
        Self {
            load: described(plan),
            rounds,
            seconds: plan.measured.as_secs_f64(),
            server_cpu: cpus.server,
            client_cpu: cpus.client,
            faults: faults.collect(),
            standings,
            left_out,
        }
    }
}

fn described(plan: &Plan) -> String {
    let pace = match &plan.pace {
        Pace::Closed { outstanding } => format!("closed loop, {outstanding} outstanding a room"),
        Pace::Open { per_second } => format!("{per_second} messages/s a room"),
        Pace::Steps { per_second } => format!("{per_second:?} messages/s a room in turn"),
    };
    let Plan { rooms, members, senders, text_bytes, spins, .. } = plan;
    let spins = if *spins { ", client never asleep" } else { "" };
    format!("{rooms} rooms x {members} members, {senders} senders a room, {pace}, {text_bytes} bytes{spins}")
}

impl Verdict for Comparison {
    fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { load, rounds, seconds, server_cpu, client_cpu, .. } = self;
        writeln!(f, "load        {load}")?;
        writeln!(
            f,
            "            {rounds} rounds of {seconds} s; server on CPU {server_cpu}, client on CPU {client_cpu}\n"
        )?;
        self.write_medians(f)?;
        self.write_ratios(f)?;
        for (name, version) in self.versions() {
            writeln!(f, "version     {name}: {version}")?;
        }
        self.left_out.iter().try_for_each(|left| writeln!(f, "left out    {}: {}", left.name, left.why))?;
        write_verdict(f, &self.faults, "every message of every run: each once, in order")
    }
}

impl Comparison {
    /// Each server's median, ringroom's first.
    pub(crate) fn medians(&self) -> impl Iterator<Item = (&str, &Figures)> {
        self.standings.iter().filter_map(|standing| Some((standing.name.as_str(), standing.median.as_ref()?)))
    }

    /// What each runs on or was built with, where that is known.
    pub(crate) fn versions(&self) -> impl Iterator<Item = (&str, &str)> {
        self.standings.iter().filter_map(|standing| Some((standing.name.as_str(), standing.version.as_deref()?)))
    }

    fn write_medians(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let head = ["ns/delivery", "with backing", "deliveries/cpu s", "messages/s", "p50 us", "p99 us", "client"];
        let [cpu, backing, capacity, messages, p50, p99, client] = head;
        write!(f, "{:<18} {cpu:>12} {backing:>13} {capacity:>17} {messages:>11} ", "medians")?;
        writeln!(f, "{p50:>10} {p99:>10} {client:>7}")?;
        for (name, figures) in self.medians() {
            let (cpu, backing) = (figures.cpu_ns_per_delivery, figures.cpu_ns_per_delivery_with_backing);
            write!(f, "{name:<18} {:>12} {:>13} ", grouped(cpu), grouped(backing))?;
            let (capacity, messages) = (figures.deliveries_per_cpu_second, figures.messages_per_second);
            write!(f, "{:>17} {:>11} ", grouped(capacity), grouped(messages))?;
            let (p50, p99) = (grouped(figures.delivery_p50_us), grouped(figures.delivery_p99_us));
            writeln!(f, "{p50:>10} {p99:>10} {:>5.0} %", figures.client_busy * 100.0)?;
        }
        for (name, figures) in self.medians() {
            for (service, ns) in &figures.backing_ns_per_delivery {
                writeln!(f, "            {name}: {} ns a delivery in {service}", grouped(*ns))?;
            }
            if let Some(deliveries) = figures.deliveries_per_send {
                writeln!(f, "            {name}: {deliveries:.1} deliveries a send, by its own count")?;
            }
            if figures.client_busy > CLIENT_BUSY_MAX {
                writeln!(f, "WARNING     {name}: the client was the bottleneck, and the throughput is its own")?;
            }
        }
        writeln!(f)
    }

    fn write_ratios(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some((first, others)) = self.standings.split_first().filter(|(_, others)| !others.is_empty()) else {
            return Ok(());
        };
        let title = format!("over {}'s", first.name);
        write!(f, "{title:<18} {:>20} {:>20} ", "ns/delivery", "with backing")?;
        writeln!(f, "{:>20} {:>20} {:>20}", "deliveries/s", "p50", "p99")?;
        for Standing { name, against_first, .. } in others {
            let Some(ratios) = against_first else { continue };
            let Ratios { cpu_ns_per_delivery, cpu_ns_per_delivery_with_backing, deliveries_per_second, .. } = ratios;
            write!(f, "{name:<18} {cpu_ns_per_delivery:>20} {cpu_ns_per_delivery_with_backing:>20} ")?;
            writeln!(f, "{deliveries_per_second:>20} {:>20} {:>20}", ratios.p50_us, ratios.p99_us)?;
        }
        writeln!(f, "            the median of the rounds' ratios, the least and the most\n")
    }
}
