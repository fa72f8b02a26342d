//! What `persist` found, as a page: rows a second each way, beside raw COPY and beside one row a transaction.

use super::axis::Scale;
use super::{Bar, Bars, Group, Headline, Line, Page, Paged, Part, Plot, Section, Table, Unit};
use crate::persist::{Figure, PersistReport};
use crate::report::grouped;
use crate::ways::Way;

impl Paged for PersistReport {
    fn page(&self) -> Page {
        let Self { server, rows, text_bytes, rounds, .. } = self;
        Page {
            title: "Messages saved in Postgres".into(),
            subtitle: format!(
                "Persist: {} rows of {text_bytes} characters into Postgres {server}, {rounds} rounds in which all ways take \
                turns; medians",
                grouped(*rows as f64)
            ),
            verdict: "Passed",
            verified: "After each measurement the table had every row.".into(),
            faults: self.faults.clone(),
            warnings: Vec::new(),
            headlines: self.headlines(),
            sections: vec![self.rates(), self.latency(), self.figures_section(), self.database()],
        }
    }
}

impl PersistReport {
    fn headlines(&self) -> Vec<Headline> {
        let ours = self.figures.iter().filter(|figure| figure.way == Way::Ringroom);
        let Some(best) = ours.max_by(|one, other| one.rows_per_second.total_cmp(&other.rows_per_second)) else {
            return Vec::new();
        };
        let batches = format!("in batches of {}", grouped(best.batch_rows as f64));
        let mut headlines = vec![Headline::new(
            "Rows a second",
            Unit::PerSecond("rows"),
            best.rows_per_second,
            format!("by ringroom, {batches}"),
        )];
        let mut ratio = |label, ratio: Option<f64>, note: &str| {
            let number = |ratio: f64| if ratio < 10.0 { format!("{ratio:.2}") } else { grouped(ratio) };
            headlines.extend(ratio.map(|ratio| Headline {
                label,
                number: number(ratio),
                unit: "×".into(),
                note: note.into(),
            }));
        };
        ratio("Beside raw COPY", best.ratio_to_copy, "as fast, in the same batches");
        ratio("Beside single rows", best.ratio_to_single, "as fast as one row a transaction");
        headlines.push(Headline::new(
            "Commit, p99",
            Unit::Micros,
            best.batch_p99_ms * 1e3,
            "from handing a batch over",
        ));
        headlines
    }

    fn rates(&self) -> Section {
        let mut groups: Vec<Group> = Vec::new();
        for figure in &self.figures {
            let name = match figure.batch_rows {
                1 => "one row a transaction".to_owned(),
                rows => format!("batches of {} rows", grouped(rows as f64)),
            };
            match groups.iter_mut().find(|group| group.name == name) {
                Some(group) => group.bars.push(bar(figure)),
                None => groups.push(Group { name, bars: vec![bar(figure)] }),
            }
        }
        let bars = Bars {
            title: "Rows a second".into(),
            note: "Medians of the rounds; the thin lines go from the slowest round to the fastest. A ratio is the median of the \
                rounds' ratios: on a shared machine it says more than the rates do."
                .into(),
            unit: Unit::PerSecond("rows"),
            groups,
        };
        Section { title: "How fast", parts: vec![Part::Bars(bars)] }
    }

    /// How long a batch takes by how large it is, if there was more than one size.
    fn latency(&self) -> Section {
        let line = |way: Way, quantile: &str, ms: fn(&Figure) -> f64| {
            let of_way = self.figures.iter().filter(|figure| figure.way == way);
            let mut points: Vec<(f64, f64)> =
                of_way.map(|figure| (figure.batch_rows as f64, ms(figure) * 1e3)).collect();
            points.sort_by(|one, other| one.0.total_cmp(&other.0));
            Line { name: format!("{}, {quantile}", way.name()), points }
        };
        let lines: Vec<Line> =
            [("p99", (|figure| figure.batch_p99_ms) as fn(&Figure) -> f64), ("p50", |figure| figure.batch_p50_ms)]
                .into_iter()
                .flat_map(|(quantile, ms)| Way::ALWAYS.map(|way| line(way, quantile, ms)))
                .collect();
        let plot = Plot {
            title: "Latency by size of batch".into(),
            note: "From handing a batch over to the answer to its commit.".into(),
            x: ("rows of a batch", Scale::Log, Unit::Count("rows")),
            y: ("until the batch was committed", Scale::Log, Unit::Micros),
            mark: None,
            shaded: Vec::new(),
            dots: true,
            lines,
        };
        let is_curve = plot.lines.iter().any(|line| line.points.len() > 1);
        Section { title: "How long a batch takes", parts: is_curve.then_some(Part::Plot(plot)).into_iter().collect() }
    }

    fn figures_section(&self) -> Section {
        let row = |figure: &Figure| {
            let ratio = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
            let ns = |ns: f64| Unit::Micros.show(ns / 1e3);
            let figures = vec![
                grouped(figure.batch_rows as f64),
                grouped(figure.rows_per_second),
                ratio(figure.ratio_to_copy),
                ratio(figure.ratio_to_single),
                ns(figure.client_ns_per_row),
                figure.server_ns_per_row.map_or("–".to_owned(), ns),
                Unit::Micros.show(figure.batch_p50_ms * 1e3),
                Unit::Micros.show(figure.batch_p99_ms * 1e3),
            ];
            (figure.way.name().to_owned(), figures)
        };
        let table = Table {
            caption: "Every way",
            head: [
                "way",
                "batch, rows",
                "rows/s",
                "÷ copy",
                "÷ single",
                "client CPU a row",
                "server CPU a row",
                "p50",
                "p99",
            ]
            .map(str::to_owned)
            .to_vec(),
            rows: self.figures.iter().map(row).collect(),
        };
        let mut prose = "p50 and p99 are from handing a batch over to the answer to its commit.".to_owned();
        if let Some(figure) = self.figures.iter().find(|figure| figure.rows < self.rows) {
            prose += &format!(
                " The rate of {} is extrapolated from {} rows.",
                figure.way.name(),
                grouped(figure.rows as f64)
            );
        }
        Section { title: "All figures", parts: vec![Part::Table(table), Part::Prose(prose)] }
    }

    fn database(&self) -> Section {
        let table = Table {
            caption: "Settings that the figures depend on",
            head: ["setting", "value"].map(str::to_owned).to_vec(),
            rows: self.settings.iter().map(|(name, value)| (name.clone(), vec![value.clone()])).collect(),
        };
        Section { title: "The database", parts: vec![Part::Table(table)] }
    }
}

fn bar(figure: &Figure) -> Bar {
    let rounds = figure.rows_per_second_by_round.iter().copied();
    let (least, most) = (rounds.clone().fold(f64::INFINITY, f64::min), rounds.fold(0.0, f64::max));
    Bar {
        name: figure.way.name().into(),
        value: figure.rows_per_second,
        spread: (figure.rows_per_second_by_round.len() > 1).then_some((least, most)),
        note: match figure.ratio_to_copy {
            Some(ratio) if figure.way != Way::Copy => format!("{ratio:.2} × copy"),
            _ => String::new(),
        },
        ours: figure.way == Way::Ringroom,
    }
}
