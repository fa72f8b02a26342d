//! What `compare` found, as a page: each server beside the first one, figure by figure, with the rounds' ratios.

use super::{Bar, Bars, Group, Headline, Page, Paged, Part, Section, Table, Unit};
use crate::compare::{Comparison, Figures, Ratio, Ratios, Standing};
use crate::report::{CLIENT_BUSY_MAX, grouped};

impl Paged for Comparison {
    fn page(&self) -> Page {
        let names: Vec<&str> = self.standings.iter().map(|standing| standing.name.as_str()).collect();
        let (first, others) = names.split_first().map_or(("", &[][..]), |(first, others)| (*first, others));
        let title = match others {
            [] => format!("{first} by itself"),
            _ => format!("{first} beside {}", others.join(", ")),
        };
        let Self { load, rounds, seconds, server_cpu, client_cpu, .. } = self;
        Page {
            title,
            subtitle: format!(
                "Compare: {load}; {rounds} rounds of {seconds} s in turns, server on CPU {server_cpu}, client on CPU \
                {client_cpu}; medians"
            ),
            verdict: "Passed",
            verified: "Every message of every run came to each member once, in order.".into(),
            faults: self.faults.clone(),
            warnings: self.warnings(),
            headlines: self.headlines(),
            sections: vec![self.bars(), self.tables()],
        }
    }
}

impl Comparison {
    fn warnings(&self) -> Vec<String> {
        let busy = self.medians().filter(|(_, figures)| figures.client_busy > CLIENT_BUSY_MAX);
        let busy =
            busy.map(|(name, _)| format!("{name}: the client was the bottleneck, and the throughput is its own."));
        busy.chain(self.left_out.iter().map(|left| format!("{} was left out: {}", left.name, left.why))).collect()
    }

    fn headlines(&self) -> Vec<Headline> {
        let Some((name, figures)) = self.medians().next() else { return Vec::new() };
        let of = |what: &str| format!("{what} of {name}");
        let mut headlines = vec![
            Headline::new("CPU a delivery", Unit::Micros, figures.cpu_ns_per_delivery / 1e3, of("server CPU")),
            Headline::new(
                "Deliveries a second",
                Unit::PerSecond("deliveries"),
                figures.deliveries_per_second,
                of("rate"),
            ),
            Headline::new("Latency, p99", Unit::Micros, figures.delivery_p99_us, of("deliveries")),
        ];
        let others = self.standings.iter().skip(1).filter_map(|other| Some((&other.name, other.against_first?)));
        let cpu = |ratios: &Ratios| ratios.cpu_ns_per_delivery_with_backing.median;
        if let Some((other, ratios)) = others.min_by(|(_, one), (_, other)| cpu(one).total_cmp(&cpu(other))) {
            headlines.push(Headline {
                label: "Its nearest peer",
                number: digits(cpu(&ratios)),
                unit: "×".into(),
                note: format!("the CPU a delivery: {other}, with what it leans on"),
            });
        }
        headlines
    }

    fn bars(&self) -> Section {
        let leans = self.medians().any(|(_, figures)| !figures.backing_ns_per_delivery.is_empty());
        let cpu = self.chart(
            "CPU a delivery",
            Unit::Micros,
            |run| run.cpu_ns_per_delivery / 1e3,
            |ratios| ratios.cpu_ns_per_delivery,
        );
        let with_backing = leans.then(|| {
            let title = "CPU a delivery, with what the server leans on";
            let figure: fn(&Figures) -> f64 = |run| run.cpu_ns_per_delivery_with_backing / 1e3;
            self.chart(title, Unit::Micros, figure, |ratios| ratios.cpu_ns_per_delivery_with_backing)
        });
        let rate = Unit::PerSecond("deliveries");
        let rest = [
            self.chart("Throughput", rate, |run| run.deliveries_per_second, |ratios| ratios.deliveries_per_second),
            self.chart("Latency to receipt, p50", Unit::Micros, |run| run.delivery_p50_us, |ratios| ratios.p50_us),
            self.chart("Latency to receipt, p99", Unit::Micros, |run| run.delivery_p99_us, |ratios| ratios.p99_us),
        ];
        let prose = "The thin lines go from the least of the rounds to the greatest. A ratio is the median of the rounds' \
            ratios: on a shared machine it says more than the figures do.";
        let parts = [cpu].into_iter().chain(with_backing).chain(rest).chain([Part::Prose(prose.into())]);
        Section { title: "Side by side", parts: parts.collect() }
    }

    fn chart(&self, title: &str, unit: Unit, figure: fn(&Figures) -> f64, ratio: fn(&Ratios) -> Ratio) -> Part {
        let first = self.standings.first().map_or("", |first| first.name.as_str());
        let bar = |(at, standing): (usize, &Standing)| {
            let runs = standing.runs.iter().map(figure);
            let ratio = standing.against_first.as_ref().filter(|_| at > 0).map(ratio);
            Some(Bar {
                name: standing.name.clone(),
                value: figure(standing.median.as_ref()?),
                spread: Some((runs.clone().fold(f64::INFINITY, f64::min), runs.fold(0.0, f64::max))),
                note: ratio.map(|ratio| format!("{} × {first}", digits(ratio.median))).unwrap_or_default(),
                ours: at == 0,
            })
        };
        let bars = self.standings.iter().enumerate().filter_map(bar).collect();
        Part::Bars(Bars {
            title: title.into(),
            note: String::new(),
            unit,
            groups: vec![Group { name: String::new(), bars }],
        })
    }

    fn tables(&self) -> Section {
        let row = |(name, figures): (&str, &Figures)| {
            let micros = |us| Unit::Micros.show(us);
            let cells = vec![
                micros(figures.cpu_ns_per_delivery / 1e3),
                micros(figures.cpu_ns_per_delivery_with_backing / 1e3),
                grouped(figures.deliveries_per_cpu_second),
                grouped(figures.messages_per_second),
                micros(figures.p50_us),
                micros(figures.p99_us),
                micros(figures.delivery_p50_us),
                micros(figures.delivery_p99_us),
                format!("{:.0}\u{a0}%", figures.client_busy * 100.0),
            ];
            (name.to_owned(), cells)
        };
        let head = [
            "server",
            "CPU a delivery",
            "with backing",
            "deliveries a CPU second",
            "messages/s",
            "echo p50",
            "echo p99",
            "members p50",
            "members p99",
            "client CPU",
        ];
        let medians = Table {
            caption: "Medians of the rounds",
            head: head.map(str::to_owned).to_vec(),
            rows: self.medians().map(row).collect(),
        };
        let ratios = self.standings.iter().skip(1).filter_map(|other| Some((&other.name, other.against_first?)));
        let row = |(name, ratios): (&String, Ratios)| {
            let Ratios { cpu_ns_per_delivery, cpu_ns_per_delivery_with_backing, .. } = ratios;
            let rest = [ratios.deliveries_per_second, ratios.p50_us, ratios.p99_us];
            let all = [cpu_ns_per_delivery, cpu_ns_per_delivery_with_backing].into_iter().chain(rest);
            (name.clone(), all.map(|ratio| ratio.to_string()).collect())
        };
        let ratios = Table {
            caption: "Over the first server's, in the same round: median, least and most",
            head: ["server", "CPU a delivery", "with backing", "deliveries/s", "echo p50", "echo p99"]
                .map(str::to_owned)
                .to_vec(),
            rows: ratios.map(row).collect(),
        };
        let tables = [medians, ratios].into_iter().filter(|table| !table.rows.is_empty()).map(Part::Table);
        let counted = self.medians().filter_map(|(name, figures)| Some((name, figures.deliveries_per_send?)));
        let counted = counted.map(|(name, deliveries)| {
            Part::Prose(format!("{name}: {deliveries:.1} deliveries a send, by its own count over each whole run."))
        });
        let versions = Table {
            caption: "What each runs on, or was built with",
            head: ["server", "version"].map(str::to_owned).to_vec(),
            rows: self.versions().map(|(name, version)| (name.to_owned(), vec![version.to_owned()])).collect(),
        };
        let versions = (!versions.rows.is_empty()).then_some(Part::Table(versions));
        Section { title: "All figures", parts: tables.chain(counted).chain(versions).collect() }
    }
}

/// A ratio, as exact as one can be told.
fn digits(ratio: f64) -> String {
    if ratio >= 10.0 { grouped(ratio) } else { format!("{ratio:.2}") }
}
