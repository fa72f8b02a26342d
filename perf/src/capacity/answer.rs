//! A plan in words: each line a figure, and the costs and the formula that it comes from.

use std::fmt::{self, Display, Formatter};

use serde::{Serialize, Serializer};

use super::costs::{Costs, Fitted};
use super::plan::{Answer, Shards};
use crate::report::{Verdict, bytes, grouped};

/// A plan, with what it was made of.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    pub(crate) costs: &'a Costs,
    pub(crate) fitted: &'a Fitted,
    pub(crate) answer: Answer,
}

impl Serialize for Told<'_> {
    /// The figures alone.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.answer.serialize(serializer)
    }
}

impl Verdict for Told<'_> {
    /// A plan that can be made has none; what makes it uncertain is a warning.
    fn faults(&self) -> &[String] {
        &[]
    }
}

fn line(f: &mut Formatter<'_>, label: &str, figure: &str, source: &str) -> fmt::Result {
    writeln!(f, "{label:<12}{figure:<38} {source}")
}

impl Display for Told<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_summary(f)?;
        let setup = &self.costs.setup;
        writeln!(f)?;
        writeln!(
            f,
            "asked for   {} rooms, {} connections, {} messages/s, {} deliveries/s at the busiest time",
            grouped(self.answer.rooms),
            grouped(self.answer.connections),
            grouped(self.answer.messages_per_second),
            grouped(self.answer.deliveries_per_second)
        )?;
        writeln!(
            f,
            "costs of    {}, durability {}, {}; {}",
            setup.ringroom, setup.durability, setup.database, setup.cpu
        )?;
        let check = &self.fitted.check.cpu;
        writeln!(
            f,
            "            off by {:.0} % at the median and {:.0} % at worst, on {} loads that were held out",
            check.median * 100.0,
            check.worst * 100.0,
            check.runs
        )?;
        writeln!(f)?;
        self.write_shards(f)?;
        self.write_others(f)?;
        self.write_memory(f)?;
        self.write_disk(f)?;
        self.answer.warnings.iter().try_for_each(|warning| writeln!(f, "WARNING     {warning}"))
    }
}

/// What somebody who reads one paragraph must know.
struct Summary<'a>(&'a Told<'a>);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.write_summary(f)
    }
}

impl Told<'_> {
    /// The plan in a paragraph.
    pub(crate) fn summary(&self) -> String {
        Summary(self).to_string().trim_end().replace('\n', " ")
    }

    fn write_summary(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let answer = &self.answer;
        let Some((shards, cpus)) = answer.shards.as_ref().zip(answer.cpus) else {
            return writeln!(
                f,
                "No number of shards carries this load with cores at most {:.0} % busy, and as soon as asked.",
                answer.target_utilisation * 100.0
            );
        };
        let plural = if cpus == 1 { "" } else { "s" };
        write!(
            f,
            "It needs {cpus} CPU{plural} ({} as shards) and {} of memory",
            shards.count,
            bytes(self.memory_bytes() as u64)
        )?;
        if let Some(p99_us) = shards.p99_us {
            write!(f, "; 99 of 100 deliveries come within {}", time(p99_us / 1e6))?;
        }
        writeln!(f, ".")?;
        let database = &answer.database;
        write!(
            f,
            "The database takes {} rows/s in {} transactions/s and grows by {} a day",
            grouped(database.rows_per_second),
            grouped(database.transactions_per_second),
            bytes(database.bytes_per_day as u64)
        )?;
        if let Some(journal) = &answer.journal {
            write!(f, "; the disk of the journal {} syncs/s", grouped(journal.syncs_per_second))?;
        }
        writeln!(f, ".")?;
        answer.hot_rooms.iter().try_for_each(|hot| {
            writeln!(f, "One room of {:?} alone would keep a core {:.0} % busy: it must spill over to other shards, with spill_members = {:.0}.",
                hot.name, hot.utilisation.min(1.0) * 100.0, hot.spill_members)
        })
    }

    fn memory_bytes(&self) -> f64 {
        self.answer.memory.resident_bytes + self.answer.memory.kernel_bytes
    }

    fn write_shards(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let answer = &self.answer;
        let knee = match answer.knee_utilisation {
            Some(busy) => format!("the knee of p50 is at {:.0} %, by the sweep", busy * 100.0),
            None => "the sweep found no knee".into(),
        };
        line(f, "target", &format!("{:.0} % of a core at most", answer.target_utilisation * 100.0), &knee)?;
        let Some(shards) = &answer.shards else { return Ok(()) };
        line(
            f,
            "shards",
            &format!("{}, the busiest {:.2} cores", shards.count, shards.utilisation),
            &self.shard_formula(shards),
        )?;
        let source = format!(
            "rooms fall on shards by chance: the busiest has {:.0} % above the mean",
            shards.above_mean * 100.0
        );
        line(f, "", &format!("{:.2} cores all together", shards.cores_of_all), &source)?;
        let source = format!(
            "turns of {:.0} us: {:.0} us for the disk, the rest work",
            shards.cycle_us,
            self.fitted.shard.sync_seconds * 1e6
        );
        line(f, "", &format!("{:.1} messages a send", shards.messages_per_send), &source)?;
        if let Some(times) = shards.times_until_knee {
            line(f, "", &format!("{times:.1} times as much until the knee"), "by the same formula")?;
        }
        if let (Some(p50_us), Some(p99_us)) = (shards.p50_us, shards.p99_us) {
            let figure = format!("p50 {}, p99 {}", time(p50_us / 1e6), time(p99_us / 1e6));
            line(
                f,
                "latency",
                &figure,
                &format!(
                    "by the sweep at that utilisation, or two turns; p99 off by {:.0} % at the median",
                    self.fitted.check.p99.median * 100.0
                ),
            )?;
        }
        Ok(())
    }

    /// Where the busiest shard's CPU goes.
    fn shard_formula(&self, shards: &Shards) -> String {
        let (cost, work) = (&self.fitted.shard, &shards.state.work);
        let idle = 1.0 - shards.utilisation.min(1.0);
        let parts = [
            ("sends", work.sends * (cost.send_ns + idle * cost.idle_send_ns)),
            ("bytes sent", work.sent_bytes * cost.sent_byte_ns),
            ("messages", work.messages * cost.message_ns + work.text_bytes * cost.text_byte_ns),
            ("turns", work.turns * (cost.turn_ns + idle * cost.idle_turn_ns) + work.batches * cost.batch_ns),
            ("connections", work.connections * cost.connection_second_ns),
            ("always", cost.second_ns),
        ];
        let parts: Vec<String> =
            parts.iter().filter(|(_, ns)| *ns > 5e5).map(|(what, ns)| format!("{what} {:.3}", ns / 1e9)).collect();
        parts.join(" + ")
    }

    fn write_others(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (answer, fitted) = (&self.answer, &self.fitted);
        let saving = |saving: &super::model::Saving| {
            format!(
                "{} ns a message, {:.1} a byte, {} a transaction, {} a room in it",
                grouped(saving.message_ns),
                saving.text_byte_ns,
                grouped(saving.transaction_ns),
                grouped(saving.room_ns)
            )
        };
        line(f, "writer", &format!("{:.2} cores", answer.writer_cores), &saving(&fitted.writer))?;
        if let Some((cores, costs)) = answer.database_cores.zip(fitted.database.as_ref()) {
            line(f, "database", &format!("{cores:.2} cores of its sessions"), &saving(costs))?;
        }
        let source = format!("{} ns a connection; next to nothing otherwise", grouped(fitted.admission.control_ns));
        line(f, "control", &format!("{:.2} cores while all connect", answer.control_cores_while_connecting), &source)?;
        let source = format!(
            "{} ns of a shard, {} of control a connection",
            grouped(fitted.admission.shard_ns),
            grouped(fitted.admission.control_ns)
        );
        line(f, "restart", &format!("all back in {} at best", time(answer.reconnect_seconds_least)), &source)
    }

    fn write_memory(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (need, costs) = (&self.answer.memory, &self.fitted.memory);
        line(f, "memory", &format!("{} of ringroom", bytes(need.resident_bytes as u64)), "all of the following")?;
        let each = |bytes: f64, what: &str| format!("{} bytes a {what}", grouped(bytes));
        line(
            f,
            "",
            &format!("{} connections", bytes(need.connections_bytes as u64)),
            &each(costs.connection_bytes, "connection"),
        )?;
        line(f, "", &format!("{} rooms", bytes(need.rooms_bytes as u64)), &each(costs.room_bytes, "room"))?;
        line(
            f,
            "",
            &format!("{} at work", bytes(need.working_bytes as u64)),
            "a shard's most in any measured load: logs, buffers, queues",
        )?;
        line(f, "", &format!("{} fixed", bytes(need.fixed_bytes as u64)), "before the first connection")?;
        line(
            f,
            "",
            &format!("{} of the kernel", bytes(need.kernel_bytes as u64)),
            &each(costs.kernel_connection_bytes, "connection"),
        )?;
        line(
            f,
            "",
            &format!("{} of logs more, at worst", bytes(need.logs_bytes_max as u64)),
            "lag_bytes_max a room, if somebody in each stops reading",
        )
    }

    fn write_disk(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let answer = &self.answer;
        let rate = |count: f64| format!("{}/s", bytes(count as u64));
        let source = "deliveries x the frame's bytes; without TCP's and IP's headers";
        line(f, "network out", &rate(answer.network_bytes_per_second), source)?;
        if let Some(journal) = &answer.journal {
            let figure =
                format!("{}, {} to the disk", rate(journal.bytes_per_second), rate(journal.disk_bytes_per_second));
            line(f, "journal", &figure, "messages x the record's bytes; to the disk in pages of 4 KiB")?;
            line(f, "", &format!("{} syncs/s", grouped(journal.syncs_per_second)), "one a turn of each shard")?;
            let figure = format!("{} without its database", time(journal.seconds_without_database));
            line(f, "", &figure, "journal_bytes_max of 1 GiB over that")?;
        }
        let database = &answer.database;
        let most = grouped(1.0 / self.fitted.writer.commit_seconds);
        line(f, "database", &format!("{} rows/s", grouped(database.rows_per_second)), "one a message")?;
        line(
            f,
            "",
            &format!("{} transactions/s", grouped(database.transactions_per_second)),
            &format!("at most {most}: one after another"),
        )?;
        let rows_a_day = 86_400.0 * database.rows_per_second_average;
        let source = format!("{} bytes a message, at the day's average", grouped(database.bytes_per_day / rows_a_day));
        line(f, "", &format!("{} a day", bytes(database.bytes_per_day as u64)), &source)?;
        database
            .log_bytes_per_second
            .map_or(Ok(()), |log| line(f, "", &format!("{} written ahead", rate(log)), "measured, a message"))
    }
}

/// A time that a person can read.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}
