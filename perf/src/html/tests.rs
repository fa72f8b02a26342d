//! Pages of all commands, of good runs and of empty ones, as a strict parser reads them: whole, without references,
//! without numbers that are none, and with hostile text that stays text.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use roxmltree::{Document, ParsingOptions};

use super::{Page, Paged};
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

fn pages() -> impl Iterator<Item = (Run, Page)> {
    RUNS.into_iter()
        .flat_map(|run| [load(run).page(), connections(run).page(), persist(run).page()].map(|page| (run, page)))
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
    assert!(
        passed.contains("The client was the bottleneck") && passed.contains("with uncommitted changes"),
        "{passed}"
    );
    let mut debug = provenance(true);
    debug.program.release = false;
    assert!(load(Run::One).page().render(&debug).contains("a debug build: build it with --release"));
}

#[test]
fn a_sweep_has_its_knee() {
    let many = load(Run::Many).page().render(&provenance(true));
    assert!(many.contains("knee: 1.6"), "{many}");
    assert!(load(Run::One).page().render(&provenance(true)).contains("There is no knee"));
    assert!(!load(Run::Nothing).page().render(&provenance(true)).contains("knee"));
}
