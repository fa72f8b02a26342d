//! Pages of all commands, of good runs and of empty ones, as a strict parser reads them: whole, without references,
//! without numbers that are none, and with hostile text that stays text.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use roxmltree::{Document, ParsingOptions};

use super::{Page, Paged};
use crate::capacity::{
    self, Admission, Check, Checked, Costs, Curve, Fitted, MeasureReport, Point, Profile, Range, Saving, Setup, Shard,
    Storage, Told,
};
use crate::compare::{self, Comparison, Figures, Ratio, Ratios, Standing};
use crate::floor::{self, FloorReport, SyncFigure};
use crate::persist::{Figure, PersistReport};
use crate::process::Memory;
use crate::provenance::{Machine, Process, Program, Provenance, Server};
use crate::report::{
    ChurnReport, ConnectionsReport, Heartbeats, Latency, LoadReport, PerConnection, Sample, ServerCpu, SlowReport,
    Step, Storm,
};
use crate::ways::Way;

/// Ends an attribute, an element, the style, a section; begins a script, a comment and an entity; rings the bell.
const HOSTILE: &str = "</style></text>\"'><script>alert(1)</script><!-- &lt; &bogus; ]]> \u{7} é";

/// How much there is to show.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Run {
    Nothing,
    Zeros,
    One,
    Many,
}

const RUNS: [Run; 4] = [Run::Nothing, Run::Zeros, Run::One, Run::Many];

impl Run {
    fn count(self) -> usize {
        match self {
            Run::Nothing => 0,
            Run::Zeros | Run::One => 1,
            Run::Many => 12,
        }
    }

    fn value(self, nth: usize) -> f64 {
        if self == Run::Zeros { 0.0 } else { 1000.0 + 100.0 * nth as f64 }
    }

    fn histogram(self) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        (0..self.count() * 1000).for_each(|nth| histogram.record(self.value(nth) as u64).unwrap());
        histogram
    }

    fn cpu(self) -> Option<ServerCpu> {
        let threads = BTreeMap::from([(HOSTILE.to_owned(), self.value(0) as u64), ("writer".to_owned(), 5)]);
        (self != Run::Nothing).then(|| ServerCpu::of(threads, 1.0, 0))
    }
}

fn provenance(server: bool) -> Provenance {
    let process = Process { pid: 7, name: HOSTILE.into(), cpus: Some("0".into()) };
    Provenance {
        command: format!("ringroom-perf load --url {HOSTILE}"),
        started_at: "2026-11-24T12:00:00Z".into(),
        program: Program { version: "1.2.3", commit: None, changed: true, release: true, cpus: None },
        machine: Machine {
            kernel: "Linux 6.1".into(),
            cpu_model: HOSTILE.into(),
            cpus: 2,
            memory_bytes: 1 << 33,
            load_average: Some(0.5),
        },
        server: server.then(|| Server { address: format!("ws://{HOSTILE}"), processes: vec![process] }),
    }
}

fn load(run: Run) -> LoadReport {
    let latency = |nth: usize| {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).unwrap();
        if run.value(nth) > 0.0 {
            histogram.record((run.value(nth) as u64) << nth.saturating_sub(6)).unwrap();
        }
        Latency::of(&histogram)
    };
    let step = |nth: usize| Step {
        messages_per_second_per_room_asked: run.value(nth),
        messages_per_second_asked: run.value(nth),
        from_seconds: nth as f64,
        seconds: 1.0,
        messages: nth as u64,
        deliveries: nth as u64,
        messages_per_second: run.value(nth),
        deliveries_per_second: run.value(nth),
        latency: latency(nth),
        delivery_latency: latency(nth),
        server_cpu: run.cpu(),
        server_memory: None,
        client_busy: 0.5,
    };
    let sample = |nth: usize| Sample {
        at_seconds: nth as f64 / 4.0,
        seconds: 0.25,
        measured: nth > 3,
        messages_per_second: run.value(nth),
        deliveries_per_second: run.value(nth),
        p50_us: (nth != 5).then_some(run.value(nth)),
        p99_us: None,
        server_cores: Some(0.5),
        server_rss_bytes: Some(1 << 20),
        client_busy: 0.1,
    };
    LoadReport {
        rooms: 1,
        members_per_room: 10,
        senders_per_room: 1,
        outstanding_per_room: None,
        messages_per_second_per_room_asked: None,
        text_bytes: HOSTILE.into(),
        text_bytes_mean: 64.0,
        seed: None,
        ramp_seconds: 0.0,
        seconds: 1.0,
        messages: 0,
        deliveries: 0,
        messages_per_second: run.value(0),
        deliveries_per_second: run.value(0),
        latency: Latency::of(&run.histogram()),
        delivery_latency: Latency::of(&run.histogram()),
        server_cpu: run.cpu(),
        server_memory: (run != Run::Nothing).then(Memory::default),
        client_spins: false,
        client_busy: 0.95,
        client_ns_per_delivery: 0.0,
        messages_verified: 0,
        deliveries_verified: 0,
        stretches_verified: 0,
        churn: (run != Run::Nothing).then(|| ChurnReport {
            connections_per_second_asked: run.value(0),
            left: 0,
            came: 0,
            vacant: 0,
            greeting: latency(0),
        }),
        slow_readers: (run != Run::Nothing).then(|| SlowReport {
            members: 1,
            bytes_per_second_each: 0,
            kept: 0,
            closed_by_code: BTreeMap::from([(1013, 1)]),
            cut: 0,
        }),
        steps: (0..run.count()).map(step).collect(),
        series: (0..run.count()).map(sample).collect(),
        faults: if run == Run::Many { vec![HOSTILE.into()] } else { Vec::new() },
        latency_ns: run.histogram(),
        delivery_latency_ns: run.histogram(),
    }
}

fn connections(run: Run) -> ConnectionsReport {
    let measured = run != Run::Nothing;
    let storm = |nth: usize| Storm {
        reset: nth.is_multiple_of(2),
        dropping_seconds: 0.0,
        seconds: run.value(nth),
        returned: 0,
        held: 0,
        connections_per_second: f64::NAN,
        back: Latency::of(&run.histogram()),
        attempts: 0,
        retries: 0,
        attempts_max: 0,
        refusals: BTreeMap::from([(HOSTILE.to_owned(), 1)]),
        server_cpu: run.cpu(),
        memory: None,
        bytes_per_connection: None,
        kernel_slab_bytes_per_connection: 0,
    };
    let memory = Memory { rss_bytes: run.value(1) as u64, ..Memory::default() };
    ConnectionsReport {
        asked: run.count(),
        opened: run.count(),
        held: run.count(),
        connecting_seconds: 0.0,
        connections_per_second: run.count() as f64 / 0.0,
        hold_seconds: 1.0,
        connecting_cpu: run.cpu(),
        idle_cpu: run.cpu(),
        memory_before: measured.then_some(memory),
        memory: measured.then(Memory::default),
        bytes_per_connection: measured.then(|| PerConnection::of(&memory, &Memory::default(), 0)),
        kernel_slab_bytes_per_connection: run.value(1) as u64,
        tcp_buffer_bytes: 0,
        client_bytes_per_connection: -1,
        heartbeats: Heartbeats::of(0, 0, 0.0, run.cpu().as_ref()),
        storms: (0..run.count()).map(storm).collect(),
        faults: vec![HOSTILE.into()],
    }
}

fn persist(run: Run) -> PersistReport {
    let figure = |nth: usize| Figure {
        way: [Way::Ringroom, Way::Copy][nth % 2],
        batch_rows: 64 << (nth / 2),
        rows: 10,
        rows_per_second: run.value(nth),
        rows_per_second_by_round: (0..run.count()).map(|round| run.value(round)).collect(),
        ratio_to_copy: Some(0.0 / run.value(nth)),
        ratio_to_single: None,
        client_ns_per_row: run.value(nth),
        server_ns_per_row: None,
        batch_p50_ms: run.value(nth),
        batch_p99_ms: run.value(nth),
    };
    PersistReport {
        server: HOSTILE.into(),
        settings: vec![(HOSTILE.into(), HOSTILE.into())],
        rows: 20,
        text_bytes: 64,
        rounds: run.count(),
        figures: (0..run.count()).map(figure).collect(),
        faults: Vec::new(),
    }
}

fn floor(run: Run) -> FloorReport {
    let latency = || Latency::of(&run.histogram());
    let figure = |nth: usize| floor::Figure {
        way: floor::Way::Send,
        cpu_ns_per_delivery: run.value(nth),
        cpu_ns_per_delivery_by_round: (0..nth).map(|round| run.value(round)).collect(),
        cpu_ns_per_send: run.value(nth),
        worker_ns_per_send: 0.0,
        ratio_to_send: 0.0 / run.value(nth),
        sender_busy: 1.0,
        reader_busy: 1.0,
        batches_per_second: 0.0,
        sends_per_second: 0.0,
        deliveries_per_second: run.value(nth),
        batch: latency(),
    };
    let sync = |_| SyncFigure { place: floor::Place::Append, syncs_per_second: 0.0, latency: latency() };
    FloorReport {
        members: run.count(),
        messages: 1,
        send_bytes: 1,
        batches_per_second_asked: None,
        seconds: 0.0,
        rounds: run.count(),
        cpu: None,
        client_cpu: Some(1),
        figures: (0..run.count()).map(figure).collect(),
        left_out: vec![floor::LeftOut { way: floor::Way::SendZc, why: HOSTILE.into() }],
        directory: Some(HOSTILE.into()),
        write_bytes: 1,
        fdatasync: (0..run.count()).map(sync).collect(),
        bytes_verified: 0,
        faults: Vec::new(),
    }
}

fn compared(run: Run) -> Comparison {
    let ratio = Ratio { median: 0.0 / run.value(0), min: f64::INFINITY, max: 0.0 };
    let figures = |nth: usize| Figures {
        cpu_ns_per_delivery: run.value(nth),
        backing_ns_per_delivery: BTreeMap::from([(HOSTILE.to_owned(), 1.0)]),
        client_busy: 1.0,
        ..Figures::default()
    };
    let standing = |nth: usize| Standing {
        name: format!("{HOSTILE} {nth}"),
        version: Some(HOSTILE.into()),
        median: Some(figures(nth)),
        against_first: (nth != 5).then_some(Ratios {
            cpu_ns_per_delivery: ratio,
            cpu_ns_per_delivery_with_backing: ratio,
            deliveries_per_second: ratio,
            p50_us: ratio,
            p99_us: ratio,
        }),
        runs: (0..nth).map(figures).collect(),
    };
    Comparison {
        load: HOSTILE.into(),
        rounds: run.count(),
        seconds: 1.0,
        server_cpu: 0,
        client_cpu: 1,
        standings: (0..run.count()).map(standing).collect(),
        left_out: vec![compare::LeftOut { name: HOSTILE.into(), why: HOSTILE.into() }],
        faults: Vec::new(),
    }
}

/// Costs of a machine, fitted to nothing if there is nothing.
fn costs(run: Run) -> Costs {
    let setup = Setup {
        build: None,
        ringroom: HOSTILE.into(),
        kernel: HOSTILE.into(),
        cpu: HOSTILE.into(),
        server_cpu: 0,
        client_cpu: 1,
        durability: "sync".into(),
        database: "sqlite".into(),
        seconds: 1.0,
        rounds: 1,
        is_quick: true,
    };
    let point = |nth: usize| Point {
        messages_per_second_asked: run.value(nth),
        messages_per_second: run.value(nth),
        utilisation: nth as f64 / 12.0,
        cycle_seconds: 0.001,
        p50_us: run.value(nth),
        p99_us: run.value(nth),
    };
    let points: Vec<Point> = (0..run.count()).map(point).collect();
    let knee = (run == Run::Many).then_some(5);
    let held_out = Checked { run: HOSTILE.into(), cores: run.value(0), cores_predicted: 0.0, error: f64::NAN };
    let check = Check { held_out: vec![held_out], left_out: vec![HOSTILE.into()], ..Check::default() };
    let fitted = Fitted {
        shard: Shard { send_ns: run.value(0), ..Shard::default() },
        writer: Saving::default(),
        database: Some(Saving::default()),
        admission: Admission::default(),
        memory: capacity::Memory::default(),
        storage: Storage::default(),
        curve: Curve { points, knee, ..Curve::default() },
        check,
        range: Range::default(),
    };
    Costs { fitted: (run != Run::Nothing).then_some(fitted), ..Costs::new(setup) }
}

fn planned(run: Run) -> Option<Page> {
    let costs = costs(run);
    let fitted = costs.fitted.as_ref()?;
    let profile = Profile::simple(1000.0, 10.0, 100.0, 0.1, 64.0).unwrap();
    let answer = capacity::plan(&costs.setup, fitted, &profile);
    Some(Told { costs: &costs, fitted, answer }.page())
}

fn pages() -> impl Iterator<Item = (Run, Page)> {
    let of = |run| {
        let measured = MeasureReport::new(costs(run), HOSTILE.into());
        let pages = [load(run).page(), connections(run).page(), persist(run).page(), floor(run).page()];
        pages.into_iter().chain([compared(run).page(), measured.page()]).chain(planned(run))
    };
    RUNS.into_iter().flat_map(move |run| of(run).map(move |page| (run, page)))
}

fn parse(page: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(page, options).unwrap_or_else(|error| panic!("{error}\n{page}"))
}

#[test]
fn every_page_is_whole_and_needs_nothing_else() {
    for (run, page) in pages() {
        for server in [false, true] {
            let html = page.render(&provenance(server));
            let document = parse(&html);
            assert!(html.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{run:?}");
            assert!(!html.contains("http:") && !html.contains("https:") && !html.contains("@import"), "{run:?}");
            for node in document.descendants().filter(|node| node.is_element()) {
                let name = node.tag_name().name();
                assert!(
                    !["script", "link", "img", "iframe", "object", "use", "image"].contains(&name),
                    "{run:?}: {name}"
                );
                for attribute in node.attributes() {
                    let (name, value) = (attribute.name(), attribute.value());
                    assert!(!name.starts_with("on") && !["src", "href", "style"].contains(&name), "{run:?}: {name}");
                    assert!(!value.contains("url("), "{run:?}: {name}={value}");
                }
            }
        }
    }
}

#[test]
fn every_number_in_a_plot_is_one() {
    let numeric = ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "dx", "width", "height", "r"];
    for (run, page) in pages() {
        let html = page.render(&provenance(true));
        let document = parse(&html);
        let svg = document
            .descendants()
            .filter(|node| node.is_element() && node.ancestors().any(|up| up.has_tag_name("svg")));
        for node in svg {
            for attribute in node.attributes().filter(|attribute| numeric.contains(&attribute.name())) {
                let number = attribute.value().trim_end_matches('%').parse::<f64>();
                assert!(number.is_ok_and(f64::is_finite), "{run:?}: {attribute:?} of {node:?}");
            }
            for number in node.attribute("d").unwrap_or_default().split(['M', 'L', ' ']).filter(|part| !part.is_empty())
            {
                assert!(number.parse::<f64>().is_ok_and(f64::is_finite), "{run:?}: {number} in {node:?}");
            }
        }
    }
}

#[test]
fn what_comes_from_outside_stays_text() {
    for (run, page) in pages() {
        let html = page.render(&provenance(true));
        let document = parse(&html);
        let found =
            document.descendants().filter(|node| node.text().is_some_and(|text| text.contains("<script>alert(1)")));
        // At least the command, the model, the server's address and its name.
        assert!(found.count() >= 4, "{run:?}: {html}");
        assert!(!html.contains("<script"), "{run:?}");
    }
    let bell = Page { title: "a\u{7}\u{1b}b".into(), ..load(Run::Nothing).page() }.render(&provenance(false));
    assert!(parse(&bell).descendants().any(|node| node.text() == Some("a\u{fffd}\u{fffd}b")));
}

#[test]
fn a_verdict_says_what_failed() {
    let passed = load(Run::One).page().render(&provenance(true));
    assert!(passed.contains("<strong>Passed</strong>") && !passed.contains("<strong>Failed</strong>"), "{passed}");
    let failed = Page { faults: vec!["ann lost 3".into()], ..load(Run::One).page() }.render(&provenance(true));
    assert!(failed.contains("<strong>Failed</strong>") && failed.contains("ann lost 3"), "{failed}");
    assert!(!failed.contains("<strong>Passed</strong>"), "{failed}");
    let planned = planned(Run::Many).unwrap().render(&provenance(false));
    assert!(planned.contains("<strong>Predicted</strong>") && !planned.contains("Passed"), "{planned}");
    assert!(
        passed.contains("The client was the bottleneck") && passed.contains("with uncommitted changes"),
        "{passed}"
    );
    let mut debug = provenance(true);
    debug.program.release = false;
    assert!(load(Run::One).page().render(&debug).contains("a debug build: build it with --release"));
}

#[test]
fn a_client_that_was_full_at_one_rate_is_told_of() {
    let mut report = load(Run::Many);
    report.client_busy = 0.5;
    assert!(!report.page().render(&provenance(true)).contains("bottleneck"));
    report.steps[2].client_busy = 0.95;
    let rate = crate::report::grouped(report.steps[2].messages_per_second_asked);
    for text in [report.page().render(&provenance(true)), report.to_string()] {
        assert!(text.contains(&format!("bottleneck at {rate} messages/s")), "{text}");
    }
}

#[test]
fn latency_is_a_curve_where_batches_have_several_sizes() {
    let title = "Latency by size of batch";
    assert!(persist(Run::Many).page().render(&provenance(true)).contains(title));
    for run in [Run::Nothing, Run::One] {
        assert!(!persist(run).page().render(&provenance(true)).contains(title), "{run:?}");
    }
}

#[test]
fn a_sweep_has_its_knee() {
    let many = load(Run::Many).page().render(&provenance(true));
    assert!(many.contains("knee: 1.6"), "{many}");
    assert!(load(Run::One).page().render(&provenance(true)).contains("There is no knee"));
    assert!(!load(Run::Nothing).page().render(&provenance(true)).contains("knee"));
}
