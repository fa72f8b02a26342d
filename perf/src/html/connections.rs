//! What `connections` found, as a page: how fast they are let in, what each costs, whether all are kept.

use super::threads;
use super::{Bar, Bars, Group, Headline, Page, Paged, Part, Section, Table, Unit};
use crate::report::{ConnectionsReport, Heartbeats, Storm, grouped};

impl Paged for ConnectionsReport {
    fn page(&self) -> Page {
        let Self { opened, held, asked, connecting_seconds, hold_seconds, .. } = self;
        let count = |number: usize| grouped(number as f64);
        let mut headlines = vec![
            Headline {
                label: "Held",
                number: count(*held),
                unit: format!("of {}", count(*asked)),
                note: format!("for {hold_seconds:.0} s"),
            },
            Headline::new(
                "Let in a second",
                Unit::PerSecond("connections"),
                self.connections_per_second,
                "connections, each to its greeting",
            ),
        ];
        if let Some(each) = &self.bytes_per_connection {
            let note = "of user memory a connection";
            headlines.push(Headline::new("Memory", Unit::Bytes, each.anonymous as f64, note));
        }
        if let Some(cpu) = &self.idle_cpu {
            headlines.push(Headline {
                label: "CPU, idle",
                number: format!("{:.4}", cpu.cores),
                unit: "cores".into(),
                note: "while nobody speaks".into(),
            });
        }
        Page {
            title: format!("{} idle connections", count(*asked)),
            subtitle: format!(
                "Connections: {} opened in {connecting_seconds:.2} s, then held for {hold_seconds:.0} s while nobody speaks",
                count(*opened)
            ),
            verdict: "Passed",
            verified: "Every connection stayed open.".into(),
            faults: self.faults.clone(),
            warnings: Vec::new(),
            headlines,
            sections: vec![self.memory_section(), self.storms_section(), self.cpu_section()],
        }
    }
}

impl ConnectionsReport {
    fn memory_section(&self) -> Section {
        let bar = |name: &str, bytes: f64, note: &str, ours| Bar {
            name: name.into(),
            value: bytes,
            spread: None,
            note: note.into(),
            ours,
        };
        let mut bars = Vec::new();
        if let Some(each) = &self.bytes_per_connection {
            bars.push(bar("user memory", each.anonymous as f64, "RssAnon", true));
            bars.push(bar("resident", each.rss as f64, "VmRSS", false));
            bars.push(bar("proportional share", each.pss as f64, "Pss", false));
            bars.push(bar("private pages", each.private as f64, "Private", false));
        }
        bars.push(bar("client", self.client_bytes_per_connection as f64, "RssAnon", false));
        bars.push(bar("kernel, both ends", self.kernel_slab_bytes_per_connection as f64, "Slab", false));
        let bars = Bars {
            title: "Memory a connection".into(),
            note: "Growth over all connections, divided by them. The kernel's is that of the whole machine: both ends of each \
                connection, and all else that happened."
                .into(),
            unit: Unit::Bytes,
            groups: vec![Group { name: String::new(), bars }],
        };
        let mut parts = vec![Part::Bars(bars)];
        if let (Some(before), Some(after)) = (&self.memory_before, &self.memory) {
            let row = |name: &str, before: u64, after: u64| {
                let figures =
                    [before as f64, after as f64, after as f64 - before as f64].map(|bytes| Unit::Bytes.show(bytes));
                (name.to_owned(), figures.to_vec())
            };
            parts.push(Part::Table(Table {
                caption: "The server's memory",
                head: ["", "before", "with all connections", "growth"].map(str::to_owned).to_vec(),
                rows: vec![
                    row("user memory (RssAnon)", before.anonymous_bytes, after.anonymous_bytes),
                    row("resident (VmRSS)", before.rss_bytes, after.rss_bytes),
                    row("proportional share (Pss)", before.pss_bytes, after.pss_bytes),
                    row("private pages", before.private_bytes, after.private_bytes),
                ],
            }));
        }
        let buffers = Unit::Bytes.show(self.tcp_buffer_bytes as f64);
        parts.push(Part::Prose(format!("The machine's TCP buffers hold {buffers} with all connections open.")));
        Section { title: "Memory", parts }
    }

    /// What happened when all came back at once.
    fn storms_section(&self) -> Section {
        let title = "When all came back at once";
        if self.storms.is_empty() {
            return Section { title, parts: Vec::new() };
        }
        let numbered = || (1..).zip(&self.storms);
        let bar = |(nth, storm): (usize, &Storm)| Bar {
            name: format!("storm {nth}, {}", if storm.reset { "reset" } else { "ended in order" }),
            value: storm.back.p99_us,
            spread: Some((storm.back.p50_us, storm.back.max_us)),
            note: format!("{} retries", grouped(storm.retries as f64)),
            ours: true,
        };
        let bars = Bars {
            title: "Until 99 in 100 were greeted again".into(),
            note: "From the first connection that was dropped; the thin lines go from the median to the last.".into(),
            unit: Unit::Micros,
            groups: vec![Group { name: String::new(), bars: numbered().map(bar).collect() }],
        };
        let row = |(nth, storm): (usize, &Storm)| {
            let none = || "–".to_owned();
            let cpu = storm.server_cpu.as_ref().map_or_else(none, |cpu| Unit::Micros.show(cpu.ns_per_event / 1e3));
            let memory = storm.bytes_per_connection.as_ref();
            let memory = memory.map_or_else(none, |each| Unit::Bytes.show(each.anonymous as f64));
            let cells = vec![
                grouped(storm.returned as f64),
                Unit::Seconds.show(storm.seconds),
                grouped(storm.connections_per_second),
                grouped(storm.attempts as f64),
                grouped(f64::from(storm.attempts_max)),
                cpu,
                memory,
            ];
            (format!("storm {nth}"), cells)
        };
        let head = [
            "",
            "returned",
            "all back in",
            "connections/s",
            "attempts",
            "most of one",
            "CPU a connection",
            "memory a connection",
        ];
        let table = Table {
            caption: "Each storm",
            head: head.map(str::to_owned).to_vec(),
            rows: numbered().map(row).collect(),
        };
        let refusals = numbered().flat_map(|(nth, storm)| {
            storm.refusals.iter().map(move |(how, times)| (format!("storm {nth}: {how}"), vec![grouped(*times as f64)]))
        });
        let refusals = Table {
            caption: "Attempts that failed",
            head: ["how", "times"].map(str::to_owned).to_vec(),
            rows: refusals.collect(),
        };
        let refusals = (!refusals.rows.is_empty()).then_some(Part::Table(refusals));
        Section { title, parts: [Part::Bars(bars), Part::Table(table)].into_iter().chain(refusals).collect() }
    }

    fn cpu_section(&self) -> Section {
        let connecting = self.connecting_cpu.iter().map(|cpu| threads::table("While connecting", cpu, "connection"));
        let Heartbeats { pings, pings_per_connection, ns_per_connection_second } = &self.heartbeats;
        let heartbeats = ns_per_connection_second.map(|ns| {
            let cost = Unit::Micros.show(ns / 1e3);
            Part::Prose(format!(
                "To hold a connection for a second costs {cost} of CPU; {} pings were answered meanwhile, \
                {pings_per_connection:.2} a connection.",
                grouped(*pings as f64)
            ))
        });
        Section { title: "Server CPU", parts: connecting.chain(heartbeats).collect() }
    }
}
