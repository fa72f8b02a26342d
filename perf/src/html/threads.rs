//! The server's CPU by the names of its threads, as a table.

use super::page::{Part, Table};
use super::unit::Unit;
use crate::report::ServerCpu;

/// Who used how much, the busiest first; `event` is what the server did, such as a delivery.
pub(super) fn table(caption: &'static str, cpu: &ServerCpu, event: &str) -> Part {
    let total_ns: u64 = cpu.ns_by_thread.values().sum();
    let mut threads: Vec<(&str, u64)> =
        cpu.ns_by_thread.iter().map(|(name, ns)| (name.as_str(), *ns)).filter(|(_, ns)| *ns > 0).collect();
    threads.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    // Every event is the same share of the whole for each thread.
    let row = |name: &str, ns: u64| {
        let share = if total_ns > 0 { ns as f64 / total_ns as f64 } else { 0.0 };
        let figures = [
            Unit::Micros.show(ns as f64 / 1e3),
            format!("{:.1}\u{a0}%", share * 100.0),
            Unit::Micros.show(cpu.ns_per_event * share / 1e3),
        ];
        (name.to_owned(), figures.to_vec())
    };
    let all = (threads.len() > 1).then(|| row("all", total_ns));
    Part::Table(Table {
        caption,
        head: ["threads", "CPU time", "share", &format!("a {event}")].map(str::to_owned).to_vec(),
        rows: threads.iter().map(|(name, ns)| row(name, *ns)).chain(all).collect(),
    })
}
