//! `costs.json`: what was measured on a machine, run by run, and what the unit costs are by it. Written by `capacity
//! measure` after every run, so that it can go on where it was stopped; read by `capacity plan`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::calibrate::Check;
use super::demand::Demand;
use super::model::{Saving, Shard};
use crate::median::median;

/// Raised whenever a field changes its meaning.
const FORMAT: u32 = 1;

/// The file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Costs {
    pub(crate) format: u32,
    pub(crate) setup: Setup,
    /// Absent until everything is measured.
    pub(crate) fitted: Option<Fitted>,
    pub(crate) idle: Vec<Idle>,
    pub(crate) runs: Vec<Run>,
}

/// What the figures hold for. A file is gone on with only by the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setup {
    pub(crate) ringroom: String,
    /// The CRC-32C of its program, which tells builds of one version apart.
    #[serde(default)]
    pub(crate) build: Option<String>,
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) server_cpu: usize,
    pub(crate) client_cpu: usize,
    pub(crate) durability: String,
    /// `sqlite` or `postgres`.
    pub(crate) database: String,
    pub(crate) seconds: f64,
    pub(crate) rounds: usize,
    pub(crate) is_quick: bool,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Purpose {
    /// The unit costs are fitted to it.
    Fit,
    /// It is predicted, and the prediction compared.
    HeldOut,
    /// One rate of the sweep that looks for the knee.
    Sweep,
}

/// One short load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shape {
    pub(crate) purpose: Purpose,
    pub(crate) rooms: usize,
    pub(crate) members: usize,
    /// In each room.
    pub(crate) messages_per_second: f64,
    pub(crate) text_bytes: usize,
    pub(crate) round: usize,
}

/// A load and what it showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    pub(crate) shape: Shape,
    pub(crate) found: Found,
}

/// What a load showed; of the measured time, where nothing else is said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Found {
    /// In all rooms.
    pub(crate) messages_per_second: f64,
    pub(crate) deliveries_per_second: f64,
    /// Of the shard's thread and the kernel's workers that serve its ring.
    pub(crate) shard_cores: f64,
    pub(crate) writer_cores: f64,
    /// Of all other threads.
    pub(crate) control_cores: f64,
    /// Of the database's sessions, over the whole run, where they run on this machine.
    pub(crate) database_cores: Option<f64>,
    /// Messages to one member that shared a send, over the whole run; 0 where it cannot be told.
    pub(crate) messages_per_send: f64,
    /// What the shard wrote to the disk for a message: whole pages, over the whole run.
    pub(crate) journal_bytes_per_message: f64,
    /// What the database grew for a message, once the server had ended.
    pub(crate) database_bytes_per_message: f64,
    /// What Postgres wrote ahead for a message.
    pub(crate) database_log_bytes_per_message: Option<f64>,
    pub(crate) transactions_per_second: Option<f64>,
    pub(crate) rss_bytes: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) client_busy: f64,
    pub(crate) faults: Vec<String>,
}

/// Connections that say nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Idle {
    pub(crate) rooms: usize,
    pub(crate) members: usize,
    pub(crate) connections: f64,
    pub(crate) connections_per_second: f64,
    /// CPU to let one in.
    pub(crate) shard_ns_per_connection: f64,
    pub(crate) control_ns_per_connection: f64,
    /// While nobody says anything.
    pub(crate) cores: f64,
    /// Before the first.
    pub(crate) rss_bytes_before: f64,
    pub(crate) rss_bytes_grown: f64,
    /// Of both ends of a connection.
    pub(crate) kernel_bytes_per_connection: f64,
    pub(crate) faults: Vec<String>,
}

/// The unit costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fitted {
    pub(crate) shard: Shard,
    pub(crate) writer: Saving,
    pub(crate) database: Option<Saving>,
    pub(crate) admission: Admission,
    pub(crate) memory: Memory,
    pub(crate) storage: Storage,
    pub(crate) curve: Curve,
    pub(crate) check: Check,
    /// The bounds of what was measured.
    pub(crate) range: Range,
}

/// What it takes to let one in, nanoseconds of CPU.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Admission {
    pub(crate) shard_ns: f64,
    pub(crate) control_ns: f64,
}

/// Bytes of memory.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    /// Before the first connection.
    pub(crate) fixed_bytes: f64,
    pub(crate) connection_bytes: f64,
    pub(crate) room_bytes: f64,
    /// The most that any load took beside those: logs, buffers, the writer's queue, the database's cache.
    pub(crate) working_bytes: f64,
    /// The kernel's, for the server's end of a connection.
    pub(crate) kernel_connection_bytes: f64,
}

/// Bytes that a message leaves in the database, with its indexes. By the length of its text, and measured at some: a
/// database that fills pages has steps, so that there is no price of a byte.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Storage {
    /// Rising.
    pub(crate) measured: Vec<Stored>,
    /// Written ahead, by Postgres.
    pub(crate) log_bytes_per_message: Option<f64>,
}

/// What messages of one length leave.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored {
    pub(crate) text_bytes: f64,
    pub(crate) message_bytes: f64,
}

/// Latency over utilisation, at one shape.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Curve {
    pub(crate) rooms: usize,
    pub(crate) members: usize,
    pub(crate) text_bytes: usize,
    pub(crate) points: Vec<Point>,
    /// The place among them where the median begins to climb: messages wait for each other from there on.
    pub(crate) knee: Option<usize>,
    /// And where the 99th percentile does: often far earlier, for the writer and the disk need their time too.
    pub(crate) tail_knee: Option<usize>,
}

/// One rate of the sweep.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Point {
    pub(crate) messages_per_second_asked: f64,
    pub(crate) messages_per_second: f64,
    /// How busy the core was, with all threads of the server.
    pub(crate) utilisation: f64,
    /// By the fitted costs.
    pub(crate) cycle_seconds: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// The bounds of the runs that were fitted and held out.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Range {
    pub(crate) connections_max: f64,
    pub(crate) rooms_max: f64,
    pub(crate) members_max: f64,
    pub(crate) messages_per_second_max: f64,
    pub(crate) text_bytes_max: f64,
    pub(crate) shard_cores_max: f64,
}

impl Shape {
    /// What is asked of the server.
    pub(crate) fn demand(&self) -> Demand {
        let (rooms, members) = (self.rooms as f64, self.members as f64);
        Demand::of(rooms, members, self.messages_per_second, self.text_bytes as f64)
    }

    /// How reports call it.
    pub(crate) fn name(&self) -> String {
        let Self { rooms, members, messages_per_second, text_bytes, .. } = self;
        let total = messages_per_second * *rooms as f64;
        format!("{rooms} x {members}, {total:.0} messages/s of {text_bytes} bytes")
    }
}

impl Run {
    /// Whether the costs may be fitted to it, and compared with it: it went well, at its rate, and the client had time.
    pub(crate) fn is_sound(&self) -> bool {
        let asked = self.shape.messages_per_second * self.shape.rooms as f64;
        let kept_up = self.found.messages_per_second > 0.95 * asked;
        kept_up && self.found.client_busy < crate::report::CLIENT_BUSY_MAX && self.found.faults.is_empty()
    }

    /// What was really asked: the rate that was reached.
    pub(crate) fn demand(&self) -> Demand {
        let per_room = self.found.messages_per_second / self.shape.rooms.max(1) as f64;
        Shape { messages_per_second: per_room, ..self.shape }.demand()
    }
}

impl Found {
    /// What several runs of one load showed: each figure's median.
    pub(crate) fn median(all: &[&Found]) -> Self {
        let of = |figure: fn(&Found) -> f64| median(all.iter().map(|found| figure(found))).unwrap_or_default();
        let seen = |figure: fn(&Found) -> Option<f64>| median(all.iter().filter_map(|found| figure(found)));
        Self {
            messages_per_second: of(|found| found.messages_per_second),
            deliveries_per_second: of(|found| found.deliveries_per_second),
            shard_cores: of(|found| found.shard_cores),
            writer_cores: of(|found| found.writer_cores),
            control_cores: of(|found| found.control_cores),
            database_cores: seen(|found| found.database_cores),
            messages_per_send: of(|found| found.messages_per_send),
            journal_bytes_per_message: of(|found| found.journal_bytes_per_message),
            database_bytes_per_message: of(|found| found.database_bytes_per_message),
            database_log_bytes_per_message: seen(|found| found.database_log_bytes_per_message),
            transactions_per_second: seen(|found| found.transactions_per_second),
            rss_bytes: of(|found| found.rss_bytes as f64) as u64,
            p50_us: of(|found| found.p50_us),
            p99_us: of(|found| found.p99_us),
            client_busy: of(|found| found.client_busy),
            faults: Vec::new(),
        }
    }
}

impl Storage {
    /// Of a message with such a text: between the measured lengths on a line, beyond the longest so much more a byte as
    /// the longest has.
    pub(crate) fn message_bytes(&self, text_bytes: f64) -> f64 {
        let above = self.measured.iter().position(|stored| stored.text_bytes >= text_bytes);
        match (above, self.measured.last()) {
            (None, None) => 0.0,
            (None, Some(last)) => last.message_bytes * text_bytes / last.text_bytes,
            (Some(0), _) => self.measured[0].message_bytes,
            (Some(above), _) => {
                let (low, high) = (&self.measured[above - 1], &self.measured[above]);
                let part = (text_bytes - low.text_bytes) / (high.text_bytes - low.text_bytes);
                low.message_bytes + (high.message_bytes - low.message_bytes) * part
            }
        }
    }
}

impl Costs {
    pub(crate) fn new(setup: Setup) -> Self {
        Self { format: FORMAT, setup, fitted: None, idle: Vec::new(), runs: Vec::new() }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or is no such file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let said = |what: String| {
            format!("costs {}: {what}; `ringroom-perf capacity measure --out FILE` writes them", path.display())
        };
        let text = std::fs::read(path).map_err(|error| said(error.to_string()))?;
        let costs: Self = serde_json::from_slice(&text).map_err(|error| said(error.to_string()))?;
        if costs.format != FORMAT {
            return Err(said(format!("format {}, and this program reads format {FORMAT}", costs.format)));
        }
        Ok(costs)
    }

    /// Writes the file as a whole, or leaves the old one.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let written = std::fs::write(&beside, text + "\n").and_then(|()| std::fs::rename(&beside, path));
        written.map_err(|error| {
            let _half = std::fs::remove_file(&beside);
            failed(error)
        })
    }

    /// Whether this was measured, in this round.
    pub(crate) fn has(&self, shape: &Shape) -> bool {
        self.runs.iter().any(|run| run.shape == *shape)
    }
}
