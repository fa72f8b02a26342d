//! Comparisons of the stand-in with itself: every server has its turn, the medians and ratios are those of the runs, and
//! one that cannot be had is told and does not end the comparison.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity};

use super::peers::{Peer, Workshop};
use super::standing::{Comparison, Figures, LeftOut, Ratio};
use super::{Contest, Cpus, compare, deliveries_per_send, rounds};
use crate::load::{Pace, Plan};
use crate::report::Verdict;
use crate::server::Spec;
use crate::stand_in;

fn specs(names: &[&str]) -> Vec<Spec> {
    names.iter().map(|name| Spec::new(name, "none")).collect()
}

fn plan() -> Plan {
    let (warm_up, measured) = (Duration::from_millis(50), Duration::from_millis(200));
    Plan { rooms: 2, members: 5, senders: 3, warm_up, measured, ..Plan::new(Pace::Closed { outstanding: 8 }) }
}

fn cpus() -> Cpus {
    let allowed = sched_getaffinity(None).unwrap();
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    Cpus { server: allowed[0], client: allowed[allowed.len() - 1] }
}

#[test]
fn another_one_begins_each_round() {
    let mut order = String::new();
    let (standings, left_out) = rounds(specs(&["a", "b", "c"]), 4, |spec| {
        order += &spec.name;
        Ok(Figures::default())
    })
    .unwrap();
    assert_eq!(order, "abcbcacababc");
    assert!(standings.iter().all(|standing| standing.runs.len() == 4) && left_out.is_empty());
}

#[test]
fn one_that_fails_is_left_out_with_the_reason_and_the_first_one_ends_it() {
    let mut runs = 0;
    let (standings, left_out) = rounds(specs(&["a", "b", "c"]), 3, |spec| {
        runs += 1;
        if spec.name == "b" && runs > 3 { Err("it does not start".into()) } else { Ok(Figures::default()) }
    })
    .unwrap();
    let names: Vec<&str> = standings.iter().map(|standing| standing.name.as_str()).collect();
    assert_eq!((names, runs), (vec!["a", "c"], 8), "b runs once, fails once");
    assert_eq!(left_out, [LeftOut { name: "b".into(), why: "it does not start".into() }]);
    let ended = rounds(specs(&["a", "b"]), 3, |spec| match spec.name.as_str() {
        "a" => Err("no ringroom".to_owned()),
        _ => Ok(Figures::default()),
    });
    assert_eq!(ended.map(|_| ()), Err("no ringroom".to_owned()));
}

#[test]
fn a_ratio_is_the_median_of_the_rounds_ratios() {
    // As on a machine that is twice as slow in the second round: the ratio stays, the medians do not show it.
    let figures = |cpu: f64, backing: f64| Figures {
        cpu_ns_per_delivery: cpu,
        cpu_ns_per_delivery_with_backing: cpu + backing,
        backing_ns_per_delivery: BTreeMap::from([("Redis".to_owned(), backing)]),
        messages_per_second: 1e6 / cpu,
        ..Figures::default()
    };
    let mut measured =
        [(100.0, 0.0), (300.0, 100.0), (640.0, 160.0), (200.0, 0.0), (110.0, 0.0), (330.0, 110.0)].into_iter();
    let measure = |_: &Spec| measured.next().map(|(cpu, backing)| figures(cpu, backing)).ok_or("too many runs".into());
    let (standings, left_out) = rounds(specs(&["ringroom", "other"]), 3, measure).unwrap();
    let comparison = Comparison::of(&plan(), cpus(), 3, standings, left_out);
    let other = &comparison.standings[1];
    let (median, ratios) = (other.median.as_ref().unwrap(), other.against_first.unwrap());
    assert_eq!((median.cpu_ns_per_delivery, median.backing_ns_per_delivery["Redis"]), (330.0, 110.0));
    let Ratio { median, min, max } = ratios.cpu_ns_per_delivery;
    assert!((median - 3.0).abs() < 1e-9 && (min - 3.0).abs() < 1e-9 && (max - 3.2).abs() < 1e-9, "{ratios:?}");
    assert!((ratios.cpu_ns_per_delivery_with_backing.median - 4.0).abs() < 1e-9, "{ratios:?}");
    let text = comparison.to_string();
    assert!(text.contains("3.00 (3.00-3.20)") && text.contains("110 ns a delivery in Redis"), "{text}");
}

#[test]
fn deliveries_a_send_are_what_ringroom_counted() {
    let said = |lines: &[&str]| deliveries_per_send(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
    let stopped =
        "2026-11-24T21:36:29Z  INFO ringroom::server: stopped: accepted 4, sends 20, deliveries 50, sends_cut 7";
    assert_eq!(said(&["ringroom is listening", stopped]), Some(2.5));
    for lines in [&[][..], &["node-ws is listening"], &["stopped: sends 0, deliveries 0"], &["stopped: deliveries 5"]] {
        assert_eq!(said(lines), None, "{lines:?}");
    }
}

#[test]
fn real_servers_are_started_driven_and_ended() {
    let (plan, fixtures) = (plan(), stand_in::fixtures());
    let seats = fixtures.rooms(plan.rooms, plan.members).unwrap();
    let contest = Contest { plan: &plan, seats: &seats, cpus: cpus(), backing: None };
    let named = |name: &str| Spec { name: name.into(), version: Some(format!("{name} 1.0")), ..stand_in::spec() };
    let dumb = Spec::new("dumb", "sh").args(["-c", "echo no port >&2; exit 3"]);
    let absent = vec![LeftOut { name: "absent".into(), why: "not installed".into() }];
    let comparison = compare(&contest, vec![named("one"), named("two"), dumb], absent, 2).unwrap();
    assert_eq!(comparison.faults(), [""; 0], "{comparison}");
    let names: Vec<&str> = comparison.left_out.iter().map(|left| left.name.as_str()).collect();
    assert_eq!(names, ["absent", "dumb"]);
    assert!(comparison.left_out[1].why.contains("no port"), "{comparison}");
    for standing in &comparison.standings {
        let median = standing.median.as_ref().unwrap();
        assert!(median.cpu_ns_per_delivery > 0.0 && median.messages_per_second > 0.0 && median.p99_us > 0.0);
    }
    assert_eq!(comparison.standings.len(), 2, "{comparison}");
    assert!(comparison.to_string().contains("version     two: two 1.0"), "{comparison}");
}

#[test]
fn a_peer_that_cannot_be_had_says_what_it_needs() {
    let nowhere = std::env::temp_dir().join(format!("ringroom-perf-no-peers-{}", std::process::id()));
    let workshop = Workshop { sources: nowhere.join("sources"), built: nowhere.join("built") };
    for (peer, needs) in [
        (Peer::NodeWs, "nodejs npm"),
        (Peer::TokioTungstenite, "cargo"),
        (Peer::UWebSockets, "g++"),
        (Peer::DjangoStock, "redis-server"),
        (Peer::DjangoTuned, "python3-venv"),
    ] {
        let why = workshop.prepare(peer, &PathBuf::from("fixtures.json"), None).unwrap_err();
        assert!(why.contains(needs), "{peer:?}: {why}");
    }
    std::fs::remove_dir_all(nowhere).unwrap();
}
