//! `compare`: the same load on ringroom and on peers, which are started here one at a time, several rounds, another one
//! first in each round; medians, and the rounds' ratios to ringroom.
//!
//! ```text
//! args.rs      what is asked                   -> a contest
//! peers.rs     installs and builds the peers   -> how each is started, or why it is left out
//! backing.rs   Postgres and Redis, private, when a peer needs them
//! mod.rs       rounds: start, load, stop       -> a run's figures
//! standing.rs  all runs                        -> medians, ratios, text
//! ```
//!
//! The load runs here, on a thread pinned to the client's CPU; servers, and what they lean on, are pinned to theirs. A
//! server is fresh in each round: none inherits another's caches, and only one is there at a time.

mod args;
mod backing;
mod peers;
mod standing;
#[cfg(test)]
mod tests;

pub(crate) use args::Args;
pub(crate) use standing::{Comparison, Figures, LeftOut, Ratio, Ratios, Standing};

use std::collections::BTreeMap;

use crate::fixtures::Seat;
use crate::load::{self, Plan};
use crate::process;
use crate::report::LoadReport;
use crate::server::{Server, Spec, on_cpu};
use backing::Backing;

/// Where each side runs.
#[derive(Clone, Copy, Debug)]
struct Cpus {
    server: usize,
    client: usize,
}

/// What all servers are put through.
struct Contest<'a> {
    plan: &'a Plan,
    seats: &'a [Seat<'a>],
    cpus: Cpus,
    backing: Option<&'a Backing>,
}

impl Contest<'_> {
    /// One server, one load.
    fn run(&self, spec: &Spec) -> Result<Figures, String> {
        let before_ns = self.backing_cpu_ns()?;
        let server = Server::start(spec, Some(self.cpus.server))?;
        let pids = server.pids();
        let load = || load::run(&server.url, self.plan, self.seats, &pids);
        let report = on_cpu(Some(self.cpus.client), load)??;
        let after_ns = self.backing_cpu_ns()?;
        let mut figures = Figures::of(&report, &self.backing_share(&before_ns, &after_ns, &report));
        match server.stop_and_hear() {
            Ok(said) => figures.deliveries_per_send = deliveries_per_send(&said),
            Err(why) => figures.faults.push(why),
        }
        Ok(figures)
    }

    fn backing_cpu_ns(&self) -> Result<BTreeMap<&'static str, u64>, String> {
        let processes = self.backing.map(Backing::processes).unwrap_or_default();
        processes.into_iter().map(|(name, pid)| Ok((name, process::tree_cpu_ns(pid)?))).collect()
    }

    /// Nanoseconds a delivery: over the whole run, from the server's start on, for their sessions come and go.
    fn backing_share(
        &self,
        before_ns: &BTreeMap<&'static str, u64>,
        after_ns: &BTreeMap<&'static str, u64>,
        report: &LoadReport,
    ) -> BTreeMap<String, f64> {
        let deliveries = report.deliveries_verified.max(1) as f64;
        let used = |name| after_ns[name].saturating_sub(before_ns.get(name).copied().unwrap_or(0));
        after_ns.keys().map(|name| ((*name).to_owned(), used(name) as f64 / deliveries)).collect()
    }
}

/// How many deliveries shared a send, by the counts that ringroom logs at its end: over its whole run, greetings among the
/// sends. Others do not count.
fn deliveries_per_send(said: &[String]) -> Option<f64> {
    let counts = said.iter().rev().find_map(|line| line.split_once("stopped: ")).map(|(_, counts)| counts)?;
    let count = |name: &str| {
        let value = counts.split(", ").find_map(|count| count.strip_prefix(name)?.strip_prefix(' '))?;
        value.parse::<f64>().ok()
    };
    Some(count("deliveries")? / count("sends").filter(|sends| *sends > 0.0)?)
}

/// Puts all of `contestants` through `measure`, round after round, each round beginning with another one. The first
/// contestant is the one that the others are compared with; another one that fails is left out from then on.
///
/// # Errors
/// The first contestant cannot be measured.
fn rounds(
    contestants: Vec<Spec>,
    rounds: usize,
    mut measure: impl FnMut(&Spec) -> Result<Figures, String>,
) -> Result<(Vec<Standing>, Vec<LeftOut>), String> {
    let mut standings: Vec<Standing> = contestants.iter().map(Standing::new).collect();
    let mut left_out: Vec<LeftOut> = Vec::new();
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let at = (round + turn) % contestants.len();
            let spec = &contestants[at];
            if left_out.iter().any(|left| left.name == spec.name) {
                continue;
            }
            eprintln!("ringroom-perf: round {} of {rounds}: {}", round + 1, spec.name);
            match measure(spec) {
                Ok(figures) => standings[at].runs.push(figures),
                Err(why) if at == 0 => return Err(why),
                Err(why) => left_out.push(LeftOut { name: spec.name.clone(), why }),
            }
        }
    }
    standings.retain(|standing| standing.runs.len() == rounds);
    Ok((standings, left_out))
}

/// The comparison of `contestants`, ringroom first, and of what is `absent`.
///
/// # Errors
/// ringroom cannot be measured.
fn compare(
    contest: &Contest<'_>,
    contestants: Vec<Spec>,
    absent: Vec<LeftOut>,
    count: usize,
) -> Result<Comparison, String> {
    let (standings, mut left_out) = rounds(contestants, count, |spec| contest.run(spec))?;
    left_out.splice(0..0, absent);
    Ok(Comparison::of(contest.plan, contest.cpus, count, standings, left_out))
}
