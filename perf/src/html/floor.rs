//! What `floor` found, as a page: what the kernel alone takes for a delivery, each way of asking it.

use super::{Bar, Bars, Group, Headline, Page, Paged, Part, Section, Table, Unit};
use crate::floor::{Figure, FloorReport, SyncFigure};
use crate::report::{CLIENT_BUSY_MAX, grouped};

impl Paged for FloorReport {
    fn page(&self) -> Page {
        let Self { members, messages, send_bytes, seconds, rounds, .. } = self;
        let pace = match self.batches_per_second_asked {
            Some(rate) => format!("{rate} batches/s"),
            None => "as fast as they are read".into(),
        };
        let cpu = |cpu: Option<usize>| cpu.map_or("any CPU".into(), |cpu| format!("CPU {cpu}"));
        let (from, to) = (cpu(self.cpu), cpu(self.client_cpu));
        let full = self.figures.iter().any(|figure| figure.reader_busy > CLIENT_BUSY_MAX);
        let full = (full && self.batches_per_second_asked.is_none())
            .then(|| "The readers' core was full: what is a second is their limit, the CPU is not.".to_owned());
        let left_out = self.left_out.iter().map(|left| format!("{} was left out: {}", left.way.name(), left.why));
        Page {
            title: format!("The kernel's share of a delivery to {} sockets", grouped(*members as f64)),
            subtitle: format!(
                "Floor: {send_bytes} bytes a send, messages in it {messages}, {pace}; sent on {from}, read on {to}; {rounds} \
                rounds of {seconds} s in which all ways take turns; medians"
            ),
            verdict: "Passed",
            verified: format!("{} bytes, as many at each socket as it was sent.", grouped(self.bytes_verified as f64)),
            faults: self.faults.clone(),
            warnings: full.into_iter().chain(left_out).collect(),
            headlines: self.headlines(),
            sections: vec![self.ways(), self.disk()],
        }
    }
}

impl FloorReport {
    fn headlines(&self) -> Vec<Headline> {
        let cpu = |one: &&Figure, other: &&Figure| one.cpu_ns_per_delivery.total_cmp(&other.cpu_ns_per_delivery);
        let mut headlines = Vec::new();
        if let Some(least) = self.figures.iter().min_by(cpu) {
            let us = least.cpu_ns_per_delivery / 1e3;
            headlines.push(Headline::new("CPU a delivery, at least", Unit::Micros, us, least.way.name()));
            headlines.push(Headline::new("CPU a send", Unit::Micros, least.cpu_ns_per_send / 1e3, least.way.name()));
        }
        let rate = |one: &&Figure, other: &&Figure| one.deliveries_per_second.total_cmp(&other.deliveries_per_second);
        if let Some(most) = self.figures.iter().max_by(rate) {
            let rate = Unit::PerSecond("deliveries");
            headlines.push(Headline::new(
                "Deliveries a second, at most",
                rate,
                most.deliveries_per_second,
                most.way.name(),
            ));
        }
        if let Some(SyncFigure { place, latency, .. }) = self.fdatasync.last() {
            let note = format!("fdatasync after a write ({})", place.name());
            headlines.push(Headline::new("Sync, median", Unit::Micros, latency.p50_us, note));
        }
        headlines
    }

    fn ways(&self) -> Section {
        let cpu: Vec<f64> = self.figures.iter().map(|figure| figure.cpu_ns_per_delivery).collect();
        let least = cpu.iter().copied().fold(f64::INFINITY, f64::min);
        let bar = |figure: &Figure| {
            let rounds = figure.cpu_ns_per_delivery_by_round.iter().map(|ns| ns / 1e3);
            Bar {
                name: figure.way.name().into(),
                value: figure.cpu_ns_per_delivery / 1e3,
                spread: (rounds.len() > 1)
                    .then(|| (rounds.clone().fold(f64::INFINITY, f64::min), rounds.fold(0.0, f64::max))),
                note: format!("{:.2} × send", figure.ratio_to_send),
                ours: figure.cpu_ns_per_delivery <= least,
            }
        };
        let bars = Bars {
            title: "CPU a delivery".into(),
            note: "Of the sending thread, and of what the kernel started for it; the thin lines go from the least of the rounds \
                to the greatest. A ratio is to a loop of send in the same round."
                .into(),
            unit: Unit::Micros,
            groups: vec![Group { name: String::new(), bars: self.figures.iter().map(bar).collect() }],
        };
        let row = |figure: &Figure| {
            let busy = |share: f64| format!("{:.0}\u{a0}%", share * 100.0);
            let cells = vec![
                Unit::Micros.show(figure.cpu_ns_per_delivery / 1e3),
                format!("{:.2}", figure.ratio_to_send),
                Unit::Micros.show(figure.cpu_ns_per_send / 1e3),
                Unit::Micros.show(figure.worker_ns_per_send / 1e3),
                grouped(figure.sends_per_second),
                grouped(figure.deliveries_per_second),
                Unit::Micros.show(figure.batch.p50_us),
                Unit::Micros.show(figure.batch.p99_us),
                busy(figure.sender_busy),
                busy(figure.reader_busy),
            ];
            (figure.way.name().to_owned(), cells)
        };
        let head = [
            "way",
            "CPU a delivery",
            "÷ send",
            "CPU a send",
            "in kernel threads",
            "sends/s",
            "deliveries/s",
            "batch p50",
            "batch p99",
            "sender CPU",
            "reader CPU",
        ];
        let table = Table {
            caption: "Every way",
            head: head.map(str::to_owned).to_vec(),
            rows: self.figures.iter().map(row).collect(),
        };
        let prose = "A batch is from its first send to when the kernel has taken the last.";
        Section { title: "Sending", parts: vec![Part::Bars(bars), Part::Table(table), Part::Prose(prose.into())] }
    }

    fn disk(&self) -> Section {
        let row = |SyncFigure { place, syncs_per_second, latency }: &SyncFigure| {
            let latency = [latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us];
            let cells = [grouped(*syncs_per_second)].into_iter().chain(latency.map(|us| Unit::Micros.show(us)));
            (place.name().to_owned(), cells.collect())
        };
        let rows: Vec<_> = self.fdatasync.iter().map(row).collect();
        let head = ["file", "syncs/s", "p50", "p99", "p99.9", "max"].map(str::to_owned).to_vec();
        let mut parts = Vec::new();
        if let (Some(directory), false) = (&self.directory, rows.is_empty()) {
            let (bytes, directory) = (self.write_bytes, directory.display());
            parts.push(Part::Table(Table { caption: "A write and its fdatasync", head, rows }));
            parts.push(Part::Prose(format!(
                "Writes of {bytes} bytes in {directory}: at the end of a file, which grows (append), and over blocks that were \
                written before, as ringroom's journal has them (overwrite)."
            )));
        }
        Section { title: "Syncing", parts }
    }
}
