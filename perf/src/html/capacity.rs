//! What `capacity` found, as pages: the unit costs of a machine and how far they are to be trusted, and what a load needs
//! by them.

use super::axis::Scale;
use super::{Bar, Bars, Group, Headline, Line, Mark, Page, Paged, Part, Plot, Section, Table, Unit};
use crate::capacity::{Answer, Curve, Errors, Fitted, MeasureReport, Point, Saving, Shards, Told};
use crate::report::grouped;

impl Paged for MeasureReport {
    fn page(&self) -> Page {
        let setup = &self.costs.setup;
        let subtitle = format!(
            "Capacity: unit costs of {} with durability {} and {}, by {} loads of {} s",
            setup.ringroom,
            setup.durability,
            setup.database,
            self.costs.runs.len(),
            setup.seconds
        );
        let fitted = self.costs.fitted.as_ref();
        let unfinished =
            || "It is not measured to its end: the same command goes on where this one stopped.".to_owned();
        Page {
            title: "What ringroom costs on this machine".into(),
            subtitle,
            verdict: "Passed",
            verified: "Every load: each message once, in order.".into(),
            faults: self.faults.clone(),
            warnings: fitted.is_none().then(unfinished).into_iter().collect(),
            headlines: fitted.map(measured_headlines).unwrap_or_default(),
            sections: fitted
                .map(|fitted| vec![sweep(&fitted.curve), unit_costs(fitted), check(fitted)])
                .unwrap_or_default(),
        }
    }
}

fn measured_headlines(fitted: &Fitted) -> Vec<Headline> {
    let micros = |label, ns: f64, note: &str| Headline::new(label, Unit::Micros, ns / 1e3, note);
    let memory = fitted.memory.connection_bytes;
    let mut headlines = vec![
        micros("A message", fitted.shard.message_ns, "of the shard's CPU, without its bytes"),
        micros("A send", fitted.shard.send_ns, "to one member, without its bytes"),
        Headline::new("A connection", Unit::Bytes, memory, "of ringroom's memory"),
    ];
    if let Some(point) = fitted.curve.knee.and_then(|at| fitted.curve.points.get(at)) {
        let number = format!("{:.0}", point.utilisation * 100.0);
        let note = format!("of a core, {} messages/s", grouped(point.messages_per_second));
        headlines.push(Headline { label: "Knee of p50", number, unit: "%".into(), note });
    }
    headlines.push(Headline {
        label: "Predictions off by",
        number: format!("{:.0}", fitted.check.cpu.median * 100.0),
        unit: "%".into(),
        note: format!("of CPU, at the median of {} held-out loads", fitted.check.cpu.runs),
    });
    headlines
}

fn sweep(curve: &Curve) -> Section {
    let knee = curve.knee.and_then(|at| curve.points.get(at));
    let mark = knee.map(|point| Mark {
        name: format!("knee: {}", Unit::PerSecond("messages").show(point.messages_per_second)),
        at: (point.messages_per_second, point.p50_us),
    });
    let note = match knee {
        Some(_) => {
            "Each dot is a rate that was asked for, where it was reached. The knee is that of p50 (Kneedle): beyond it \
            latency climbs."
        }
        None => {
            "Each dot is a rate that was asked for, where it was reached. There is no knee of p50 within these rates."
        }
    };
    let line = |name: &str, us: fn(&Point) -> f64| Line {
        name: name.into(),
        points: curve.points.iter().map(|point| (point.messages_per_second, us(point))).collect(),
    };
    let Curve { rooms, members, text_bytes, .. } = curve;
    let plot = Plot {
        title: format!(
            "Latency by throughput: {rooms} rooms of {members} members, texts of {text_bytes} bytes, one core"
        ),
        note: note.into(),
        x: ("messages/s that came back to their senders", Scale::Span, Unit::PerSecond("messages")),
        y: ("latency to the sender's echo", Scale::Log, Unit::Micros),
        lines: vec![line("p50", |point| point.p50_us), line("p99", |point| point.p99_us)],
        mark,
        shaded: Vec::new(),
        dots: true,
    };
    let row = |point: &Point| {
        let cells = vec![
            grouped(point.messages_per_second),
            format!("{:.0}\u{a0}%", point.utilisation * 100.0),
            Unit::Micros.show(point.p50_us),
            Unit::Micros.show(point.p99_us),
        ];
        (grouped(point.messages_per_second_asked), cells)
    };
    let table = Table {
        caption: "Each rate",
        head: ["messages/s asked", "reached", "of the core", "p50", "p99"].map(str::to_owned).to_vec(),
        rows: curve.points.iter().map(row).collect(),
    };
    Section { title: "Throughput against latency", parts: vec![Part::Plot(plot), Part::Table(table)] }
}

fn unit_costs(fitted: &Fitted) -> Section {
    let (shard, memory, admission) = (&fitted.shard, &fitted.memory, &fitted.admission);
    let micros = |name: &str, ns: f64| (name.to_owned(), vec![Unit::Micros.show(ns / 1e3)]);
    let bytes = |name: &str, bytes: f64| (name.to_owned(), vec![Unit::Bytes.show(bytes)]);
    let table =
        |caption, of: &str, rows| Part::Table(Table { caption, head: vec![of.to_owned(), "cost".to_owned()], rows });
    let cpu = vec![
        micros("a message", shard.message_ns),
        micros("a byte of its text", shard.text_byte_ns),
        micros("a turn", shard.turn_ns),
        micros("a turn on an idle core, more", shard.idle_turn_ns),
        micros("a batch of a room", shard.batch_ns),
        micros("a send", shard.send_ns),
        micros("a send on an idle core, more", shard.idle_send_ns),
        micros("a byte sent", shard.sent_byte_ns),
        micros("a connection, each second", shard.connection_second_ns),
        micros("a second in which anything is said", shard.second_ns),
        micros("to let a connection in", admission.shard_ns),
        micros("to let a connection in, control thread", admission.control_ns),
    ];
    let saving = |saving: &Saving| {
        vec![
            micros("a message", saving.message_ns),
            micros("a byte of its text", saving.text_byte_ns),
            micros("a transaction", saving.transaction_ns),
            micros("a room in a transaction", saving.room_ns),
        ]
    };
    let space = vec![
        bytes("a connection", memory.connection_bytes),
        bytes("a room", memory.room_bytes),
        bytes("before the first connection", memory.fixed_bytes),
        bytes("at work", memory.working_bytes),
        bytes("a connection, of the kernel's", memory.kernel_connection_bytes),
    ];
    let database = fitted.database.as_ref().map(|costs| table("CPU of the database's sessions", "of", saving(costs)));
    let parts = [
        table("CPU of a shard", "of", cpu),
        table("CPU of the writer", "of", saving(&fitted.writer)),
        table("Memory", "of", space),
    ];
    Section { title: "Unit costs", parts: parts.into_iter().chain(database).collect() }
}

fn check(fitted: &Fitted) -> Section {
    let check = &fitted.check;
    let percent = |share: f64| format!("{:.0}\u{a0}%", share * 100.0);
    let row = |(what, errors): (&str, &Errors)| {
        let cells =
            vec![errors.runs.to_string(), percent(errors.median), percent(errors.worst), errors.worst_run.clone()];
        (what.to_owned(), cells)
    };
    let errors = Table {
        caption: "How far predictions are off",
        head: ["prediction of", "loads", "median", "worst", "the worst load"].map(str::to_owned).to_vec(),
        rows: check.all().into_iter().filter(|(_, errors)| errors.runs > 0).map(row).collect(),
    };
    let bars =
        |name: &str, cores: f64, note: String, ours| Bar { name: name.into(), value: cores, spread: None, note, ours };
    let groups = check.held_out.iter().map(|load| Group {
        name: load.run.clone(),
        bars: vec![
            bars("measured", load.cores, String::new(), false),
            bars("predicted", load.cores_predicted, format!("{:+.0} %", load.error * 100.0), true),
        ],
    });
    let held_out = Bars {
        title: "Loads that were held out".into(),
        note: "The costs were not fitted to them: what they predict, beside what was measured.".into(),
        unit: Unit::Cores,
        groups: groups.collect(),
    };
    let left_out =
        (!check.left_out.is_empty()).then(|| Part::Prose(format!("Left out: {}.", check.left_out.join("; "))));
    let parts = [Part::Table(errors), Part::Bars(held_out)].into_iter().chain(left_out);
    Section { title: "Can they be trusted?", parts: parts.collect() }
}

impl Paged for Told<'_> {
    fn page(&self) -> Page {
        let (answer, setup) = (&self.answer, &self.costs.setup);
        let subtitle = format!(
            "Capacity: {} rooms, {} connections, {} messages/s, {} deliveries/s at the busiest time; by unit costs of {} \
            with durability {} and {} on {}",
            grouped(answer.rooms),
            grouped(answer.connections),
            grouped(answer.messages_per_second),
            grouped(answer.deliveries_per_second),
            setup.ringroom,
            setup.durability,
            setup.database,
            setup.cpu
        );
        let check = &self.fitted.check.cpu;
        Page {
            title: "What this load needs".into(),
            subtitle,
            verdict: "Predicted",
            verified: format!(
                "Off by {:.0} % of CPU at the median and {:.0} % at worst, on {} loads that were held out.",
                check.median * 100.0,
                check.worst * 100.0,
                check.runs
            ),
            faults: Vec::new(),
            warnings: answer.warnings.clone(),
            headlines: answer.headlines(),
            sections: vec![
                Section { title: "In words", parts: vec![Part::Prose(self.summary())] },
                answer.cores(&self.fitted.curve),
                answer.memory_section(),
                answer.disk_section(),
            ],
        }
    }
}

impl Answer {
    fn headlines(&self) -> Vec<Headline> {
        let mut headlines = Vec::new();
        if let Some((shards, cpus)) = self.shards.as_ref().zip(self.cpus) {
            let unit = if cpus == 1 { "CPU" } else { "CPUs" };
            let note = format!("{} as shards", shards.count);
            headlines.push(Headline { label: "Cores", number: cpus.to_string(), unit: unit.into(), note });
        }
        let memory = self.memory.resident_bytes + self.memory.kernel_bytes;
        headlines.push(Headline::new("Memory", Unit::Bytes, memory, "the kernel's for connections included"));
        if let Some(p99_us) = self.shards.as_ref().and_then(|shards| shards.p99_us) {
            headlines.push(Headline::new("Latency, p99", Unit::Micros, p99_us, "of deliveries, at the busiest time"));
        }
        let rows = self.database.rows_per_second;
        headlines.push(Headline::new("Rows a second", Unit::PerSecond("rows"), rows, "in the database"));
        headlines.push(Headline::new("Disk a day", Unit::Bytes, self.database.bytes_per_day, "of the database"));
        headlines
    }

    fn cores(&self, curve: &Curve) -> Section {
        let cores = |name: &str, cores: f64, ours| Bar {
            name: name.into(),
            value: cores,
            spread: None,
            note: String::new(),
            ours,
        };
        let shards = self.shards.as_ref();
        let mut bars: Vec<Bar> = shards.iter().map(|shards| cores("all shards", shards.cores_of_all, true)).collect();
        bars.push(cores("writer", self.writer_cores, false));
        bars.extend(self.database_cores.map(|used| cores("database's sessions", used, false)));
        bars.push(cores("control, while all connect", self.control_cores_while_connecting, false));
        let bars = Bars {
            title: "CPU at the busiest time".into(),
            note: String::new(),
            unit: Unit::Cores,
            groups: vec![Group { name: String::new(), bars }],
        };
        let table = shards.map(|shards| Part::Table(self.shards_table(shards)));
        let plot = Part::Plot(self.by_utilisation(curve));
        Section { title: "CPU", parts: [Part::Bars(bars), plot].into_iter().chain(table).collect() }
    }

    /// The measured curve that the latency is read off, and where the load is on it.
    fn by_utilisation(&self, curve: &Curve) -> Plot {
        let line = |name: &str, us: fn(&Point) -> f64| Line {
            name: name.into(),
            points: curve.points.iter().map(|point| (point.utilisation, us(point))).collect(),
        };
        let at = self.shards.as_ref().and_then(|shards| Some((shards.utilisation, shards.p99_us?)));
        Plot {
            title: "Latency by how busy a shard is".into(),
            note: "As it was measured; the ring is where the busiest shard of this load is.".into(),
            x: ("share of a core in use", Scale::Span, Unit::Cores),
            y: ("latency", Scale::Log, Unit::Micros),
            lines: vec![line("p99", |point| point.p99_us), line("p50", |point| point.p50_us)],
            mark: at.map(|at| Mark { name: format!("this load: {:.0} % of a core", at.0 * 100.0), at }),
            shaded: Vec::new(),
            dots: true,
        }
    }

    fn shards_table(&self, shards: &Shards) -> Table {
        let percent = |share: f64| format!("{:.0}\u{a0}%", share * 100.0);
        let row = |name: &str, figure: String| (name.to_owned(), vec![figure]);
        let mut rows = vec![
            row("shards", shards.count.to_string()),
            row("the busiest one's share of a core", percent(shards.utilisation)),
            row("at most, as planned", percent(self.target_utilisation)),
            row("above the mean, for rooms fall on shards by chance", percent(shards.above_mean)),
            row("messages a send", format!("{:.1}", shards.messages_per_send)),
        ];
        let times = shards.times_until_knee.map(|times| row("times as much until the knee", format!("{times:.1}")));
        rows.extend(times);
        rows.push(row("all back after a restart, at best", Unit::Seconds.show(self.reconnect_seconds_least)));
        for hot in &self.hot_rooms {
            let name = format!("one room of {:?} alone, of a core", hot.name);
            rows.push(row(&name, percent(hot.utilisation)));
        }
        Table { caption: "Shards", head: vec!["".into(), "planned".into()], rows }
    }

    fn memory_section(&self) -> Section {
        let need = &self.memory;
        let bar = |(name, bytes): (&str, f64)| Bar {
            name: name.into(),
            value: bytes,
            spread: None,
            note: String::new(),
            ours: name.starts_with("ringroom"),
        };
        let all = [
            ("ringroom, all of the following", need.resident_bytes),
            ("connections", need.connections_bytes),
            ("rooms", need.rooms_bytes),
            ("at work", need.working_bytes),
            ("before the first connection", need.fixed_bytes),
            ("beside it, the kernel's for connections", need.kernel_bytes),
            ("logs more, at worst: somebody in each room stops reading", need.logs_bytes_max),
        ];
        let bars = Bars {
            title: "Memory".into(),
            note: String::new(),
            unit: Unit::Bytes,
            groups: vec![Group { name: String::new(), bars: all.into_iter().map(bar).collect() }],
        };
        Section { title: "Memory", parts: vec![Part::Bars(bars)] }
    }

    fn disk_section(&self) -> Section {
        let row = |name: &str, figure: String| (name.to_owned(), vec![figure]);
        let bytes = |bytes: f64| format!("{}/s", Unit::Bytes.show(bytes));
        let mut rows = vec![row("network, out", bytes(self.network_bytes_per_second))];
        if let Some(journal) = &self.journal {
            rows.push(row("journal", bytes(journal.bytes_per_second)));
            rows.push(row("journal, to the disk", bytes(journal.disk_bytes_per_second)));
            rows.push(row("journal, syncs", format!("{}/s", grouped(journal.syncs_per_second))));
            let hours = journal.seconds_without_database / 3600.0;
            rows.push(row("time without its database, at most", format!("{hours:.1}\u{a0}h")));
        }
        let database = &self.database;
        rows.push(row("database, rows", format!("{}/s", grouped(database.rows_per_second))));
        rows.push(row("database, transactions", format!("{}/s", grouped(database.transactions_per_second))));
        rows.push(row("database, growth", format!("{} a day", Unit::Bytes.show(database.bytes_per_day))));
        rows.extend(database.log_bytes_per_second.map(|log| row("database, written ahead", bytes(log))));
        let head = vec!["".into(), "planned".into()];
        let table = Table { caption: "What leaves ringroom", head, rows };
        Section { title: "Disk, network, database", parts: vec![Part::Table(table)] }
    }
}
