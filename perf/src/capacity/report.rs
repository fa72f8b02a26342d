//! What `capacity measure` says: the unit costs, how far they are off, and where the knee is.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::calibrate::Errors;
use super::costs::{Costs, Fitted};
use crate::report::{Verdict, grouped, write_verdict};

/// A prediction of CPU that is further off than that at the median is not to be planned with.
const MEDIAN_ERROR_MAX: f64 = 0.15;

/// The file, and what went wrong.
#[derive(Debug)]
pub(crate) struct MeasureReport {
    pub(crate) costs: Costs,
    file: PathBuf,
    pub(crate) faults: Vec<String>,
}

impl Serialize for MeasureReport {
    /// As the file.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.costs.serialize(serializer)
    }
}

impl Verdict for MeasureReport {
    fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl MeasureReport {
    pub(crate) fn new(costs: Costs, file: PathBuf) -> Self {
        let idle = costs.idle.iter().map(|idle| (format!("idle {} x {}", idle.rooms, idle.members), &idle.faults));
        let runs = costs.runs.iter().map(|run| (run.shape.name(), &run.found.faults));
        let all =
            idle.chain(runs).flat_map(|(name, faults)| faults.iter().map(move |fault| format!("{name}: {fault}")));
        let faults = all.take(10).collect();
        Self { costs, file, faults }
    }
}

impl Display for MeasureReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let setup = &self.costs.setup;
        writeln!(f, "measured    {}, durability {}, {}", setup.ringroom, setup.durability, setup.database)?;
        writeln!(f, "            {}, {}", setup.cpu, setup.kernel)?;
        let runs = self.costs.runs.len();
        match &self.costs.fitted {
            None => writeln!(f, "unfinished  {runs} loads are in {}; the same command goes on", self.file.display())?,
            Some(fitted) => {
                write_costs(f, fitted)?;
                write_curve(f, fitted)?;
                write_check(f, fitted)?;
                writeln!(f, "written     {runs} loads and the costs: {}", self.file.display())?;
            }
        }
        write_verdict(f, &self.faults, "every load: each message once, in order")
    }
}

fn write_costs(f: &mut Formatter<'_>, fitted: &Fitted) -> fmt::Result {
    let shard = &fitted.shard;
    let ns = |ns: f64| format!("{} ns", grouped(ns));
    writeln!(f, "shard       {} a message, {:.1} ns a byte of its text", ns(shard.message_ns), shard.text_byte_ns)?;
    writeln!(f, "            {} a turn (idle {} more)", ns(shard.turn_ns), ns(shard.idle_turn_ns))?;
    writeln!(f, "            {} a batch of a room", ns(shard.batch_ns))?;
    writeln!(f, "            {} a send (idle {} more)", ns(shard.send_ns), ns(shard.idle_send_ns))?;
    writeln!(f, "            {:.2} ns a byte sent", shard.sent_byte_ns)?;
    writeln!(f, "            {} a second of a connection", ns(shard.connection_second_ns))?;
    writeln!(f, "            {} a second in which anything is said", ns(shard.second_ns))?;
    writeln!(f, "            a turn takes its work and {:.0} us", shard.sync_seconds * 1e6)?;
    for (label, saving) in
        [Some(("writer", fitted.writer)), fitted.database.map(|saving| ("database", saving))].into_iter().flatten()
    {
        writeln!(f, "{label:<11} {} a message, {:.1} ns a byte", ns(saving.message_ns), saving.text_byte_ns)?;
        writeln!(f, "            {} a transaction, {} a room in it", ns(saving.transaction_ns), ns(saving.room_ns))?;
        writeln!(f, "            at most {} transactions/s", grouped(1.0 / saving.commit_seconds))?;
    }
    let (admission, memory) = (&fitted.admission, &fitted.memory);
    writeln!(
        f,
        "admission   {} of a shard, {} of the control thread",
        ns(admission.shard_ns),
        ns(admission.control_ns)
    )?;
    let bytes = |bytes: f64| grouped(bytes);
    writeln!(
        f,
        "memory      {} bytes a connection, {} a room",
        bytes(memory.connection_bytes),
        bytes(memory.room_bytes)
    )?;
    writeln!(f, "            {} fixed, {} at work", bytes(memory.fixed_bytes), bytes(memory.working_bytes))?;
    writeln!(f, "            {} of the kernel's a connection", bytes(memory.kernel_connection_bytes))?;
    let storage = &fitted.storage;
    let lengths = storage.measured.iter().map(|stored| (stored.text_bytes, stored.message_bytes));
    let lengths: Vec<String> = lengths.map(|(text, all)| format!("{} for {}", bytes(all), bytes(text))).collect();
    writeln!(f, "storage     bytes of a message for those of its text: {}", lengths.join(", "))?;
    storage
        .log_bytes_per_message
        .map_or(Ok(()), |log| writeln!(f, "            {} bytes a message written ahead", bytes(log)))
}

fn write_curve(f: &mut Formatter<'_>, fitted: &Fitted) -> fmt::Result {
    let curve = &fitted.curve;
    writeln!(f, "sweep       {} rooms x {} members, {} bytes, one core", curve.rooms, curve.members, curve.text_bytes)?;
    writeln!(f, "             busy  asked/s  reached/s   p50 us   p99 us")?;
    for (at, point) in curve.points.iter().enumerate() {
        let (asked, reached) = (grouped(point.messages_per_second_asked), grouped(point.messages_per_second));
        write!(f, "            {:>4.0} %{asked:>9}{reached:>11}", point.utilisation * 100.0)?;
        let mark = match (curve.knee == Some(at), curve.tail_knee == Some(at)) {
            (true, true) => "  knee",
            (true, false) => "  knee of p50",
            (false, true) => "  knee of p99",
            (false, false) => "",
        };
        writeln!(f, "{:>9}{:>9}{mark}", grouped(point.p50_us), grouped(point.p99_us))?;
    }
    if curve.knee.is_none() {
        writeln!(f, "            no knee of p50: it does not climb from a flat part")?;
    }
    Ok(())
}

fn write_check(f: &mut Formatter<'_>, fitted: &Fitted) -> fmt::Result {
    let check = &fitted.check;
    writeln!(f, "check       predictions of {} held-out loads, off by      median   worst", check.cpu.runs)?;
    for (what, errors) in check.all() {
        write_errors(f, what, errors)?;
    }
    writeln!(f, "            cores  predicted    off   load")?;
    for checked in &check.held_out {
        let (cores, predicted) = (checked.cores, checked.cores_predicted);
        writeln!(f, "            {cores:.3} {predicted:>10.3} {:>+5.0} %   {}", checked.error * 100.0, checked.run)?;
    }
    check.left_out.iter().try_for_each(|run| writeln!(f, "left out    {run}"))?;
    if check.cpu.runs == 0 || check.cpu.median > MEDIAN_ERROR_MAX {
        writeln!(f, "WARNING     the costs do not predict this machine; measure again when nothing else runs on it")?;
    }
    Ok(())
}

fn write_errors(f: &mut Formatter<'_>, what: &str, errors: &Errors) -> fmt::Result {
    if errors.runs == 0 {
        return Ok(());
    }
    let Errors { median, worst, worst_run, .. } = errors;
    writeln!(f, "            {what:<44} {:>5.0} % {:>5.0} %  {worst_run}", median * 100.0, worst * 100.0)
}
