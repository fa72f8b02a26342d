//! From runs to unit costs, and how far those are off. Pure: numbers in, numbers out.
//!
//! The costs of a shard and the length of its cycles depend on each other, so they are found by turns: with costs, each
//! run's cycle; with the cycles, the costs that explain the CPU of the fitted runs best. How long the journal takes beside
//! that is tried out. Held-out runs take no part in any of it.

use serde::{Deserialize, Serialize};

use super::costs::{Admission, Found, Idle, Memory, Purpose, Range, Run, Shape, Storage, Stored};
use super::demand::{Demand, record_bytes};
use super::fit;
use super::model::{Saving, Shard, Work};
use crate::median::median;

/// How often cycles and costs take turns; they stand still by then.
const TURNS: usize = 12;

/// How far a prediction is off, as a share of what was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Errors {
    pub(crate) runs: usize,
    pub(crate) median: f64,
    pub(crate) worst: f64,
    pub(crate) worst_run: String,
}

/// The fit, put to the test.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Check {
    /// CPU of all threads in the runs that the costs were fitted to.
    pub(crate) fitted_cpu: Errors,
    /// The same in runs that were held out, and so on.
    pub(crate) cpu: Errors,
    pub(crate) shard_cpu: Errors,
    pub(crate) writer_cpu: Errors,
    pub(crate) messages_per_send: Errors,
    pub(crate) journal_bytes: Errors,
    pub(crate) database_bytes: Errors,
    pub(crate) p99: Errors,
    /// CPU of runs of the same load, from their median.
    pub(crate) repeated: Errors,
    pub(crate) held_out: Vec<Checked>,
    /// Runs that are in none of it: they had faults, or server or client could not keep up.
    pub(crate) left_out: Vec<String>,
}

/// One held-out run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checked {
    pub(crate) run: String,
    pub(crate) cores: f64,
    pub(crate) cores_predicted: f64,
    /// Share of the measured that the prediction is off; under 0 it is too low.
    pub(crate) error: f64,
}

/// Measured and predicted, by run.
pub(crate) type Pairs = Vec<(String, f64, f64)>;

impl Check {
    /// All errors, by what is predicted.
    pub(crate) fn all(&self) -> [(&'static str, &Errors); 9] {
        [
            ("CPU", &self.cpu),
            ("CPU of the shard", &self.shard_cpu),
            ("CPU of the writer", &self.writer_cpu),
            ("messages a send", &self.messages_per_send),
            ("journal bytes", &self.journal_bytes),
            ("database bytes", &self.database_bytes),
            ("p99", &self.p99),
            ("CPU of the loads that were fitted", &self.fitted_cpu),
            ("CPU of the same load again", &self.repeated),
        ]
    }
}

impl Errors {
    /// Of pairs of measured and predicted; what was measured as nothing cannot be compared.
    pub(crate) fn of(pairs: &Pairs) -> Self {
        let mut errors: Vec<(f64, &str)> = pairs
            .iter()
            .filter(|(_, measured, _)| *measured > 0.0)
            .map(|(run, measured, predicted)| ((predicted / measured - 1.0).abs(), run.as_str()))
            .collect();
        errors.sort_by(|one, other| one.0.total_cmp(&other.0));
        let Some((worst, worst_run)) = errors.last() else { return Self::default() };
        let median = median(errors.iter().map(|(error, _)| *error)).unwrap_or_default();
        Self { runs: errors.len(), median, worst: *worst, worst_run: (*worst_run).to_owned() }
    }
}

/// Each load once, as the median of its sound runs: a machine that others share is never twice the same.
pub(crate) fn combined(runs: &[Run]) -> Vec<Run> {
    let mut shapes: Vec<Shape> = Vec::new();
    for run in runs.iter().filter(|run| run.is_sound()) {
        let shape = Shape { round: 0, ..run.shape };
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    let combine = |shape: Shape| Run { shape, found: Found::median(&rounds(runs, &shape)) };
    shapes.into_iter().map(combine).collect()
}

/// What the sound runs of one load showed.
fn rounds<'a>(runs: &'a [Run], shape: &Shape) -> Vec<&'a Found> {
    let is_same = |run: &&Run| run.is_sound() && Shape { round: shape.round, ..run.shape } == *shape;
    runs.iter().filter(is_same).map(|run| &run.found).collect()
}

/// How far runs of the same load are from their median: no prediction can be expected to be nearer.
fn repeated(runs: &[Run]) -> Errors {
    let cores = |found: &Found| found.shard_cores + found.writer_cores;
    let pairs = combined(runs).into_iter().filter(|run| run.shape.purpose != Purpose::Sweep).flat_map(|run| {
        let all = rounds(runs, &run.shape);
        let is_repeated = all.len() > 1;
        let pairs = all.into_iter().map(move |found| (run.shape.name(), cores(&run.found), cores(found)));
        pairs.filter(move |_| is_repeated).collect::<Vec<_>>()
    });
    Errors::of(&pairs.collect())
}

/// The runs of a purpose.
pub(crate) fn of(runs: &[Run], purpose: Purpose) -> Vec<&Run> {
    runs.iter().filter(|run| run.shape.purpose == purpose).collect()
}

/// A shard's costs.
pub(crate) fn shard(runs: &[&Run], connection_second_ns: f64) -> Shard {
    let known: Vec<Known<'_>> = runs.iter().map(|run| Known::new(run, connection_second_ns)).collect();
    // From 20 us, a disk that answers from its own memory, to 40 ms, two turns of one that does not.
    let candidates = (0..54).map(|step| 20e-6 * 1.15_f64.powi(step));
    let fits = candidates.map(|sync_seconds| {
        let shard = with_sync(&known, connection_second_ns, sync_seconds);
        (misfit(&known, &shard), shard)
    });
    fits.min_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, shard)| shard).unwrap_or_default()
}

/// A run, as the fit needs it.
struct Known<'a> {
    run: &'a Run,
    demand: Demand,
    /// What is left for the fitted costs, in nanoseconds a second.
    ns: f64,
}

impl<'a> Known<'a> {
    fn new(run: &'a Run, connection_second_ns: f64) -> Self {
        let demand = run.demand();
        let ns = run.found.shard_cores * 1e9 - connection_second_ns * demand.connections();
        Self { run, demand, ns }
    }

    /// Measured, where it could be told.
    fn sends(&self) -> Option<f64> {
        let each = self.run.found.messages_per_send;
        (each > 0.0).then(|| self.demand.deliveries() / each)
    }
}

fn with_sync(known: &[Known<'_>], connection_second_ns: f64, sync_seconds: f64) -> Shard {
    let targets: Vec<f64> = known.iter().map(|run| run.ns).collect();
    let mut cycles = vec![2.0 * sync_seconds; known.len()];
    let mut shard = Shard::default();
    for _ in 0..TURNS {
        let rows: Vec<Vec<f64>> = known
            .iter()
            .zip(&cycles)
            .map(|(run, cycle)| {
                let mut work = Work::of(&run.demand, *cycle);
                work.sends = run.sends().unwrap_or(work.sends);
                Shard::row(&work, (1.0 - run.run.found.shard_cores).max(0.0)).to_vec()
            })
            .collect();
        shard = Shard::new(&fit::relative(&rows, &targets), connection_second_ns, sync_seconds);
        cycles = known.iter().map(|run| shard.settle(&run.demand, run.run.found.writer_cores).cycle_seconds).collect();
    }
    shard
}

/// How badly these costs explain CPU and sends.
fn misfit(known: &[Known<'_>], shard: &Shard) -> f64 {
    let squares = known.iter().map(|run| {
        let state = shard.settle(&run.demand, run.run.found.writer_cores);
        let cpu = (state.cores / run.run.found.shard_cores).ln();
        let sends = run.sends().map_or(0.0, |sends| (state.work.sends / sends).ln());
        cpu * cpu + sends * sends
    });
    squares.sum::<f64>() / known.len().max(1) as f64
}

/// What saving costs a process that took so many cores for each demand. `transactions` are counted, where they can be.
pub(crate) fn saving(samples: &[(Demand, f64, Option<f64>)]) -> Saving {
    let targets: Vec<f64> = samples.iter().map(|(_, cores, _)| cores * 1e9).collect();
    let candidates = (0..50).map(|step| 100e-6 * 1.15_f64.powi(step));
    let fits = candidates.map(|commit_seconds| {
        let rows: Vec<Vec<f64>> =
            samples.iter().map(|(demand, ..)| Saving::row(demand, commit_seconds).to_vec()).collect();
        let saving = Saving::new(&fit::relative(&rows, &targets), commit_seconds);
        let squares = samples.iter().map(|(demand, cores, transactions)| {
            let cpu = ratio(saving.cores(demand), *cores);
            let counted = transactions.map_or(0.0, |counted| ratio(saving.transactions(demand), counted));
            cpu * cpu + counted * counted
        });
        (squares.sum::<f64>(), saving)
    });
    fits.min_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, saving)| saving).unwrap_or_default()
}

/// The logarithm of a ratio; nothing where there was nothing.
fn ratio(predicted: f64, measured: f64) -> f64 {
    if measured > 0.0 { (predicted.max(1e-9) / measured).ln() } else { 0.0 }
}

/// What the writer's CPU was in these runs.
pub(crate) fn writer_samples(runs: &[&Run]) -> Vec<(Demand, f64, Option<f64>)> {
    runs.iter().map(|run| (run.demand(), run.found.writer_cores, run.found.transactions_per_second)).collect()
}

/// What the database's CPU was, if it was seen at all.
pub(crate) fn database_samples(runs: &[&Run]) -> Vec<(Demand, f64, Option<f64>)> {
    let seen = runs.iter().filter_map(|run| run.found.database_cores.map(|cores| (run, cores)));
    seen.map(|(run, cores)| (run.demand(), cores, run.found.transactions_per_second)).collect()
}

/// A connection's share of the CPU while nobody says anything: that of the largest crowd, which shows it best.
pub(crate) fn connection_second_ns(idle: &[Idle]) -> f64 {
    let largest = idle.iter().max_by(|one, other| one.connections.total_cmp(&other.connections));
    largest.map_or(0.0, |idle| idle.cores * 1e9 / idle.connections.max(1.0))
}

/// By the slowest admission: a crowd after a restart is not admitted in the best of circumstances.
pub(crate) fn admission(idle: &[Idle]) -> Admission {
    let most = |of: fn(&Idle) -> f64| idle.iter().map(of).fold(0.0, f64::max);
    Admission {
        shard_ns: most(|idle| idle.shard_ns_per_connection),
        control_ns: most(|idle| idle.control_ns_per_connection),
    }
}

/// Memory: what grew with connections and with rooms, and what loads took beside.
pub(crate) fn memory(idle: &[Idle], runs: &[&Run]) -> Memory {
    let rows: Vec<Vec<f64>> = idle.iter().map(|idle| vec![idle.connections, idle.rooms as f64]).collect();
    let grown: Vec<f64> = idle.iter().map(|idle| idle.rss_bytes_grown).collect();
    let found = fit::relative(&rows, &grown);
    let each = |at: usize| found.get(at).copied().unwrap_or_default();
    let fixed_bytes = idle.iter().map(|idle| idle.rss_bytes_before).fold(f64::INFINITY, f64::min);
    let fixed_bytes = if fixed_bytes.is_finite() { fixed_bytes } else { 0.0 };
    let kernel = idle.iter().map(|idle| idle.kernel_bytes_per_connection).fold(0.0, f64::max);
    let beside = |run: &&Run| {
        let demand = run.demand();
        run.found.rss_bytes as f64 - fixed_bytes - each(0) * demand.connections() - each(1) * demand.rooms()
    };
    Memory {
        fixed_bytes,
        connection_bytes: each(0),
        room_bytes: each(1),
        working_bytes: runs.iter().map(beside).fold(0.0, f64::max),
        kernel_connection_bytes: kernel / 2.0,
    }
}

/// What a message leaves in the database.
pub(crate) fn storage(runs: &[&Run]) -> Storage {
    let mut lengths: Vec<usize> = runs.iter().map(|run| run.shape.text_bytes).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let stored = |length: usize| {
        let same = runs.iter().filter(|run| run.shape.text_bytes == length);
        let message_bytes = median(same.map(|run| run.found.database_bytes_per_message)).unwrap_or_default();
        Stored { text_bytes: length as f64, message_bytes }
    };
    Storage {
        measured: lengths.into_iter().map(stored).collect(),
        log_bytes_per_message: median(runs.iter().filter_map(|run| run.found.database_log_bytes_per_message)),
    }
}

/// Bytes a second that a journal writes to the disk: each turn's records, and the rest of the page that they end in.
pub(crate) fn journal_disk_bytes(demand: &Demand, turns: f64) -> f64 {
    const PAGE_BYTES: f64 = 4096.0;
    let records = demand.sum(|class| class.messages_per_second * class.here * record_bytes(class.text_bytes));
    records + turns * PAGE_BYTES
}

/// The bounds of what the costs were learned from.
pub(crate) fn range(runs: &[&Run], idle: &[Idle]) -> Range {
    let most = |of: &dyn Fn(&Run) -> f64| runs.iter().map(|run| of(run)).fold(0.0, f64::max);
    let connections = most(&|run| run.demand().connections());
    Range {
        connections_max: idle.iter().map(|idle| idle.connections).fold(connections, f64::max),
        rooms_max: idle.iter().map(|idle| idle.rooms as f64).fold(most(&|run| run.demand().rooms()), f64::max),
        members_max: most(&|run| run.shape.members as f64),
        messages_per_second_max: most(&|run| run.found.messages_per_second),
        text_bytes_max: most(&|run| run.shape.text_bytes as f64),
        shard_cores_max: most(&|run| run.found.shard_cores),
    }
}

/// What the costs say of `run`: everything that can be compared.
pub(crate) struct Prediction {
    pub(crate) shard_cores: f64,
    pub(crate) writer_cores: f64,
    pub(crate) messages_per_send: f64,
    pub(crate) journal_bytes_per_message: f64,
    pub(crate) database_bytes_per_message: f64,
}

impl Prediction {
    /// From what was asked alone: nothing that was measured in the run, but the rate that was reached.
    pub(crate) fn of(run: &Run, shard: &Shard, writer: &Saving, storage: &Storage) -> Self {
        let demand = run.demand();
        let writer_cores = writer.cores(&demand);
        let state = shard.settle(&demand, writer_cores);
        Self {
            shard_cores: state.cores,
            writer_cores,
            messages_per_send: demand.deliveries() / state.work.sends,
            journal_bytes_per_message: journal_disk_bytes(&demand, state.work.turns) / demand.messages(),
            database_bytes_per_message: storage.message_bytes(run.shape.text_bytes as f64),
        }
    }
}

/// Compares each load's median. `p99` predicts the 99th percentile in microseconds.
pub(crate) fn check(
    all: &[Run],
    shard: &Shard,
    writer: &Saving,
    storage: &Storage,
    p99: impl Fn(&Run) -> Option<f64>,
) -> Check {
    let runs = &combined(all);
    let predict = |run: &Run| Prediction::of(run, shard, writer, storage);
    let pairs = |runs: &[&Run], of: &dyn Fn(&Run, &Prediction) -> (f64, f64)| -> Errors {
        let pair = |run: &&Run| {
            let (measured, predicted) = of(run, &predict(run));
            (run.shape.name(), measured, predicted)
        };
        Errors::of(&runs.iter().map(pair).collect())
    };
    let cores = |run: &Run, predicted: &Prediction| {
        (run.found.shard_cores + run.found.writer_cores, predicted.shard_cores + predicted.writer_cores)
    };
    let held_out = of(runs, Purpose::HeldOut);
    let checked = |run: &&Run| {
        let (measured, predicted) = cores(run, &predict(run));
        let error = predicted / measured - 1.0;
        Checked { run: run.shape.name(), cores: measured, cores_predicted: predicted, error }
    };
    let late: Pairs = held_out.iter().filter_map(|run| Some((run.shape.name(), run.found.p99_us, p99(run)?))).collect();
    let is_unsound = |run: &&Run| run.shape.purpose != Purpose::Sweep && !run.is_sound();
    Check {
        fitted_cpu: pairs(&of(runs, Purpose::Fit), &cores),
        cpu: pairs(&held_out, &cores),
        shard_cpu: pairs(&held_out, &|run, predicted| (run.found.shard_cores, predicted.shard_cores)),
        writer_cpu: pairs(&held_out, &|run, predicted| (run.found.writer_cores, predicted.writer_cores)),
        messages_per_send: pairs(&held_out, &|run, predicted| {
            (run.found.messages_per_send, predicted.messages_per_send)
        }),
        journal_bytes: pairs(&held_out, &|run, predicted| {
            (run.found.journal_bytes_per_message, predicted.journal_bytes_per_message)
        }),
        database_bytes: pairs(&held_out, &|run, predicted| {
            (run.found.database_bytes_per_message, predicted.database_bytes_per_message)
        }),
        p99: Errors::of(&late),
        repeated: repeated(all),
        held_out: held_out.iter().map(checked).collect(),
        left_out: all.iter().filter(is_unsound).map(|run| run.shape.name()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::design;

    const TRUTH: Shard = Shard {
        second_ns: 9e6,
        connection_second_ns: 600.0,
        message_ns: 15_000.0,
        text_byte_ns: 4.0,
        turn_ns: 70_000.0,
        batch_ns: 1500.0,
        send_ns: 3500.0,
        sent_byte_ns: 0.6,
        idle_turn_ns: 40_000.0,
        idle_send_ns: 2000.0,
        sync_seconds: 180e-6,
    };

    const SAVING: Saving = Saving {
        message_ns: 5000.0,
        text_byte_ns: 8.0,
        transaction_ns: 200_000.0,
        room_ns: 12_000.0,
        commit_seconds: 0.01,
    };

    /// A run as a machine with these costs would have it, its CPU off by up to `noise`.
    fn run(shape: Shape, noise: f64) -> Run {
        let demand = shape.demand();
        let writer_cores = SAVING.cores(&demand);
        let state = TRUTH.settle(&demand, writer_cores);
        let found = Found {
            messages_per_second: demand.messages(),
            deliveries_per_second: demand.deliveries(),
            shard_cores: state.cores * (1.0 + noise),
            writer_cores: writer_cores * (1.0 - noise),
            messages_per_send: demand.deliveries() / state.work.sends,
            journal_bytes_per_message: journal_disk_bytes(&demand, state.work.turns) / demand.messages(),
            database_bytes_per_message: 250.0 + 1.2 * shape.text_bytes as f64,
            rss_bytes: 20_000_000,
            ..Found::default()
        };
        Run { shape, found }
    }

    #[test]
    fn the_costs_of_a_machine_are_found_from_its_runs() {
        let noise = |nth: usize| [0.04, -0.05, 0.0, 0.03, -0.02][nth % 5];
        let runs: Vec<Run> =
            design::loads(false, 1).into_iter().enumerate().map(|(nth, shape)| run(shape, noise(nth))).collect();
        let fitted = of(&runs, Purpose::Fit);
        let (shard, writer) = (shard(&fitted, 600.0), saving(&writer_samples(&fitted)));
        let storage = storage(&fitted);
        let check = check(&runs, &shard, &writer, &storage, |_| None);
        assert!(check.cpu.median < 0.06 && check.cpu.worst < 0.15, "{shard:?} {:?}", check.cpu);
        assert!(check.messages_per_send.worst < 0.15, "{:?}", check.messages_per_send);
        assert!(check.database_bytes.worst < 0.02, "{storage:?}");
        assert!((storage.message_bytes(8192.0) / storage.message_bytes(4096.0) - 2.0).abs() < 1e-9);
        assert_eq!(storage.message_bytes(1.0), storage.message_bytes(64.0));
        assert!((shard.sync_seconds / TRUTH.sync_seconds).ln().abs() < 0.5, "{shard:?}");
        assert_eq!(check.held_out.len(), check.cpu.runs);
    }

    #[test]
    fn errors_are_shares_of_what_was_measured() {
        let pairs: Pairs = [("a", 1.0, 1.1), ("b", 2.0, 1.0), ("c", 4.0, 4.0), ("d", 0.0, 9.0), ("e", 10.0, 12.0)]
            .map(|(run, measured, predicted)| (run.to_owned(), measured, predicted))
            .to_vec();
        let errors = Errors::of(&pairs);
        assert_eq!((errors.runs, errors.worst, errors.worst_run.as_str()), (4, 0.5, "b"));
        assert!((errors.median - 0.15).abs() < 1e-9, "{errors:?}");
        assert_eq!(Errors::of(&Vec::new()), Errors::default());
    }

    #[test]
    fn a_run_that_went_wrong_is_left_out_and_named() {
        let shape = design::loads(false, 1)[0];
        let mut runs = vec![run(shape, 0.0); 4];
        runs[1].found.messages_per_second *= 0.9;
        runs[2].found.client_busy = 0.99;
        runs[3].found.faults.push("lost".into());
        let combined = combined(&runs);
        assert_eq!((combined.len(), rounds(&runs, &shape).len()), (1, 1));
        let check = check(&runs, &TRUTH, &SAVING, &Storage::default(), |_| None);
        assert_eq!(check.left_out.len(), 3);
    }

    #[test]
    fn a_load_is_the_median_of_its_rounds() {
        let mut runs: Vec<Run> = design::loads(true, 3).into_iter().map(|shape| run(shape, 0.0)).collect();
        let loads = runs.len() / 3;
        let usual = runs[0].found.shard_cores;
        runs[loads].found.shard_cores *= 10.0;
        let combined = combined(&runs);
        assert_eq!((combined.len(), combined[0].found.shard_cores), (loads, usual));
        let repeated = repeated(&runs);
        assert_eq!((repeated.runs, repeated.median), (3 * loads, 0.0));
        assert!(repeated.worst > 1.0 && repeated.worst_run == runs[0].shape.name(), "{repeated:?}");
    }

    #[test]
    fn memory_is_told_apart_by_connections_and_rooms() {
        let idle = |rooms: usize, members: usize| {
            let connections = (rooms * members) as f64;
            Idle {
                rooms,
                members,
                connections,
                connections_per_second: 0.0,
                shard_ns_per_connection: 40_000.0,
                control_ns_per_connection: connections,
                cores: connections * 5e-7,
                rss_bytes_before: 1e7,
                rss_bytes_grown: 800.0 * connections + 3000.0 * rooms as f64,
                kernel_bytes_per_connection: 6000.0,
                faults: Vec::new(),
            }
        };
        let all = [idle(20, 50), idle(20, 400), idle(2000, 4)];
        let memory = memory(&all, &[]);
        assert!((memory.connection_bytes - 800.0).abs() < 1.0 && (memory.room_bytes - 3000.0).abs() < 5.0);
        assert_eq!((memory.fixed_bytes, memory.kernel_connection_bytes), (1e7, 3000.0));
        assert!((connection_second_ns(&all) - 500.0).abs() < 1e-6);
        assert_eq!(admission(&all).control_ns, 8000.0);
    }

    #[test]
    fn a_journal_writes_whole_pages() {
        let demand = Demand::of(1.0, 2.0, 1000.0, 64.0);
        let bytes = journal_disk_bytes(&demand, 1000.0);
        assert_eq!(bytes, 1000.0 * (4096.0 + record_bytes(64.0)));
    }
}
