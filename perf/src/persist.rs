//! How fast ringroom's writer puts messages into Postgres, beside raw COPY of the same rows into the same table, and
//! beside one row a transaction.
//!
//! In: a database that has ringroom's tables, and a [`Plan`]. Out: a [`PersistReport`]. It makes rooms and users of its own,
//! and removes them with all their messages at the end. One thread drives one connection at a time. Within a round all
//! ways take turns, and which is first changes from round to round; before each, the table has the same rows.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ringroom::identity::UserId;
use ringroom::store::{Admin, Database, DatabaseUrl, Names, Row, Writer};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::belongings::{Signals, exit_code};
use crate::median::median;
use crate::process::CpuTime;
use crate::report::{Verdict, grouped, write_verdict};
use crate::ways::{Way, Ways};

/// Rooms that the messages go to in turn, and users of each.
const ROOMS: u32 = 20;
const USERS_PER_ROOM: u32 = 10;
/// How long the database may take for one answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Rows of a measurement.
    pub(crate) rows: usize,
    /// Rows of a measurement of one row a transaction.
    pub(crate) single_rows: usize,
    /// Rows of a batch: each size is measured.
    pub(crate) batches: Vec<usize>,
    /// How often all is measured.
    pub(crate) rounds: usize,
    /// Characters of a text.
    pub(crate) text_bytes: usize,
    /// Whether the ways that ringroom does not go are measured too.
    pub(crate) candidates: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct PersistReport {
    pub(crate) server: String,
    /// Settings of the server that the figures depend on.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) rows: usize,
    pub(crate) text_bytes: usize,
    pub(crate) rounds: usize,
    pub(crate) figures: Vec<Figure>,
    pub(crate) faults: Vec<String>,
}

/// One way with one size of batch.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) way: Way,
    pub(crate) batch_rows: usize,
    /// Rows that a measurement inserted; the rate is extrapolated from fewer than the report's where they are fewer.
    pub(crate) rows: usize,
    /// Median of the rounds.
    pub(crate) rows_per_second: f64,
    pub(crate) rows_per_second_by_round: Vec<f64>,
    /// To raw COPY in batches of the same size: median of the rounds' ratios.
    pub(crate) ratio_to_copy: Option<f64>,
    /// To one row a transaction.
    pub(crate) ratio_to_single: Option<f64>,
    /// CPU of the client's thread, median of the rounds.
    pub(crate) client_ns_per_row: f64,
    /// CPU of the database's sessions, median of the rounds, where they run on this machine.
    pub(crate) server_ns_per_row: Option<f64>,
    /// From handing a batch over to its commit, all rounds.
    pub(crate) batch_p50_ms: f64,
    pub(crate) batch_p99_ms: f64,
}

/// What one measurement found.
#[derive(Debug)]
struct Sample {
    rows_per_second: f64,
    client_ns_per_row: f64,
    server_ns_per_row: Option<f64>,
    took: Vec<Duration>,
}

/// Measures.
///
/// # Errors
/// The database cannot be reached, is not Postgres, or its tables are not ringroom's own; or a signal asked for the end.
pub(crate) fn run(url: &DatabaseUrl, plan: &Plan) -> Result<PersistReport, String> {
    run_unless(url, plan, Arc::default())
}

/// Measures, unless it `is_over`: then no measurement begins any more, and what was made is removed.
fn run_unless(url: &DatabaseUrl, plan: &Plan, is_over: Arc<AtomicBool>) -> Result<PersistReport, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let signals = Signals::new().map_err(|error| format!("signals cannot be handled: {error}"))?;
        tokio::spawn(heed(signals, Arc::clone(&is_over)));
        let mut bench = Bench::open(url).await?;
        let report = bench.run(plan, &is_over).await;
        let removed = bench.remove().await;
        let mut report = report?;
        report.faults.extend(removed.err());
        Ok(report)
    })
}

/// The first signal asks for the end, a second one makes it.
async fn heed(mut signals: Signals, is_over: Arc<AtomicBool>) {
    signals.next().await;
    eprintln!("ringroom-perf: ends after this measurement, and removes what it made; a second signal ends it at once");
    is_over.store(true, Ordering::Relaxed);
    std::process::exit(exit_code(signals.next().await));
}

/// The database, with rooms and users of our own in it.
struct Bench {
    ways: Ways,
    /// Rooms, and a user of each.
    seats: Vec<(Uuid, UserId)>,
    /// Process ids of the server's sessions with the database.
    sessions: Vec<u32>,
}

impl Bench {
    async fn open(url: &DatabaseUrl) -> Result<Self, String> {
        let DatabaseUrl::Postgres(config) = url else {
            return Err("persist needs a Postgres database".into());
        };
        let (client, connection) = config.connect(NoTls).await.map_err(|_| format!("cannot connect to {url}"))?;
        tokio::spawn(connection);
        let names = Names::default();
        let database = Database { url: url.clone(), names, connect_timeout: PATIENCE, query_timeout: PATIENCE };
        let told = |error: ringroom::store::StoreError| error.to_string();
        let writer = Writer::open(&database).await.map_err(told)?;
        let ways = Ways::new(writer, client).await.map_err(|error| {
            format!("the tables are not ringroom's own with users' ids of type uuid, as `ringroom migrate` makes them: {error}")
        })?;
        // Before anybody else connects whose session would end while it is counted.
        let sessions = sessions(ways.client()).await?;
        let seeded = Admin::open(&database).await.map_err(told)?.seed(ROOMS, USERS_PER_ROOM).await.map_err(told)?;
        let seat = |room: Uuid, id: &str| Ok((room, id.parse().map_err(|_| format!("{id:?} is no user's id"))?));
        let seats = seeded.rooms.iter().flat_map(|room| room.users.iter().map(|user| (room.room, user.id.as_str())));
        let seats = seats.map(|(room, user)| seat(room, user)).collect::<Result<_, String>>()?;
        Ok(Self { ways, seats, sessions })
    }

    async fn run(&mut self, plan: &Plan, is_over: &AtomicBool) -> Result<PersistReport, String> {
        let (server, settings) = settings(self.ways.client()).await?;
        let text = "x".repeat(plan.text_bytes);
        let rows = self.rows(plan.rows, &text);
        let mut measured: Vec<Measured> = plan.measurements().into_iter().map(Measured::new).collect();
        for round in 0..plan.rounds {
            let first = round % measured.len();
            for nth in (first..measured.len()).chain(0..first) {
                if is_over.load(Ordering::Relaxed) {
                    return Err("ended by a signal before all was measured".into());
                }
                let (way, batch, count) = measured[nth].what;
                let sample = self.measure(way, &rows[..count], batch).await?;
                measured[nth].samples.push(sample);
            }
            eprintln!("ringroom-perf: round {} of {}", round + 1, plan.rounds);
        }
        let figures = measured.iter().map(|one| one.figure(&measured)).collect();
        let Plan { text_bytes, rounds, .. } = *plan;
        Ok(PersistReport { server, settings, rows: plan.rows, text_bytes, rounds, figures, faults: Vec::new() })
    }

    /// Messages as a shard stamps them, ids and times rising, the users of all rooms in turn.
    fn rows<'a>(&self, count: usize, content: &'a str) -> Vec<Row<'a>> {
        let started = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros() as i64);
        let row = |nth: usize| {
            let (room, sender) = self.seats[nth % self.seats.len()];
            let timestamp = started + nth as i64;
            Row { id: Uuid::now_v7(), room, sender, receiver: None, timestamp, content }
        };
        (0..count).map(row).collect()
    }

    async fn measure(&mut self, way: Way, rows: &[Row<'_>], batch: usize) -> Result<Sample, String> {
        self.clear().await?;
        let (start, cpu, server) = (Instant::now(), thread_cpu(), CpuTime::read(&self.sessions));
        let took = self.ways.insert(way, rows, batch).await?;
        let (seconds, cpu) = (start.elapsed().as_secs_f64(), thread_cpu() - cpu);
        let server = server.and_then(|earlier| Ok(CpuTime::read(&self.sessions)?.since(&earlier)));
        let there = self.count().await?;
        if there != rows.len() {
            return Err(format!("{} inserted {} rows and the table has {there}", way.name(), rows.len()));
        }
        let count = rows.len() as f64;
        Ok(Sample {
            rows_per_second: count / seconds,
            client_ns_per_row: cpu.as_nanos() as f64 / count,
            // Under another name it is a process of ours: the server is on another machine.
            server_ns_per_row: server.ok().and_then(|used| Some(*used.get("postgres")? as f64 / count)),
            took,
        })
    }

    /// Removes our messages, and their traces in the table and its indexes.
    async fn clear(&self) -> Result<(), String> {
        let delete = "DELETE FROM chat_message WHERE room_id = ANY ($1)";
        let client = self.ways.client();
        client.execute(delete, &[&self.rooms()]).await.map_err(failed)?;
        client.batch_execute("VACUUM chat_message").await.map_err(failed)
    }

    async fn count(&self) -> Result<usize, String> {
        let count = "SELECT count(*) FROM chat_message WHERE room_id = ANY ($1)";
        let row = self.ways.client().query_one(count, &[&self.rooms()]).await.map_err(failed)?;
        Ok(row.get::<_, i64>(0) as usize)
    }

    async fn remove(&self) -> Result<(), String> {
        self.clear().await?;
        let users: Vec<Uuid> =
            self.seats.iter().filter_map(|(_, id)| if let UserId::Uuid(id) = id { Some(*id) } else { None }).collect();
        let (rooms, client) = (self.rooms(), self.ways.client());
        for (statement, ids) in [
            ("DELETE FROM chat_chatroom_members WHERE chatroom_id = ANY ($1)", &rooms),
            ("DELETE FROM chat_chatroom WHERE id = ANY ($1)", &rooms),
            ("DELETE FROM authtoken_token WHERE user_id = ANY ($1)", &users),
            ("DELETE FROM account_user WHERE id = ANY ($1)", &users),
        ] {
            client.execute(statement, &[ids]).await.map_err(failed)?;
        }
        Ok(())
    }

    fn rooms(&self) -> Vec<Uuid> {
        let mut rooms: Vec<Uuid> = self.seats.iter().map(|(room, _)| *room).collect();
        rooms.dedup();
        rooms
    }
}

fn failed(error: tokio_postgres::Error) -> String {
    format!("the database failed ({error}); rooms and users named seed-* and their messages may be left in it")
}

/// CPU time of this thread, which drives every connection.
fn thread_cpu() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

async fn sessions(client: &Client) -> Result<Vec<u32>, String> {
    // Ours are this client's and those that came after it: an older one may be about to end.
    let sessions = "SELECT pid FROM pg_stat_activity \
        WHERE datname = current_database() AND backend_type = 'client backend' \
        AND backend_start >= (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())";
    let rows = client.query(sessions, &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| row.get::<_, i32>(0).unsigned_abs()).collect())
}

async fn settings(client: &Client) -> Result<(String, Vec<(String, String)>), String> {
    const TELLING: [&str; 6] =
        ["fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "wal_level", "max_wal_size"];
    let show = async |name: &str| {
        let row = client.query_one(&format!("SHOW {name}"), &[]).await.map_err(failed)?;
        Ok::<String, String>(row.get(0))
    };
    let mut settings = Vec::new();
    for name in TELLING {
        settings.push((name.to_owned(), show(name).await?));
    }
    Ok((show("server_version").await?, settings))
}

/// A way, rows of a batch, rows of a measurement.
type What = (Way, usize, usize);

impl Plan {
    /// All that a round measures.
    fn measurements(&self) -> Vec<What> {
        let candidates: &[Way] = if self.candidates { &Way::CANDIDATES } else { &[] };
        let mut batches: Vec<usize> = self.batches.iter().map(|batch| (*batch).min(self.rows)).collect();
        batches.sort_unstable();
        batches.dedup();
        let ways = Way::ALWAYS.iter().chain(candidates);
        let of_size = |batch: &usize| ways.clone().map(|way| (*way, *batch, self.rows)).collect::<Vec<What>>();
        let mut all: Vec<What> = batches.iter().flat_map(of_size).collect();
        // All rows in one COPY.
        if !batches.contains(&self.rows) {
            all.push((Way::Copy, self.rows, self.rows));
        }
        all.push((Way::Single, 1, self.single_rows.min(self.rows)));
        all
    }
}

/// The rounds of one measurement.
struct Measured {
    what: What,
    samples: Vec<Sample>,
}

impl Measured {
    fn new(what: What) -> Self {
        Self { what, samples: Vec::new() }
    }

    fn figure(&self, all: &[Measured]) -> Figure {
        let (way, batch_rows, rows) = self.what;
        let ratio_to = |yardstick: Way, batch: usize| {
            let yardstick = all.iter().find(|one| one.what.0 == yardstick && one.what.1 == batch)?;
            let rounds = self.samples.iter().zip(&yardstick.samples);
            median(rounds.map(|(ours, theirs)| ours.rows_per_second / theirs.rows_per_second))
        };
        let rates: Vec<f64> = self.samples.iter().map(|sample| sample.rows_per_second).collect();
        let (batch_p50_ms, batch_p99_ms) = latency_ms(self.samples.iter().flat_map(|sample| &sample.took));
        Figure {
            way,
            batch_rows,
            rows,
            rows_per_second: median(rates.iter().copied()).unwrap_or_default(),
            rows_per_second_by_round: rates,
            ratio_to_copy: ratio_to(Way::Copy, batch_rows),
            ratio_to_single: ratio_to(Way::Single, 1),
            client_ns_per_row: median(self.samples.iter().map(|sample| sample.client_ns_per_row)).unwrap_or_default(),
            server_ns_per_row: self
                .samples
                .iter()
                .map(|sample| sample.server_ns_per_row)
                .collect::<Option<Vec<f64>>>()
                .and_then(median),
            batch_p50_ms,
            batch_p99_ms,
        }
    }
}

/// The time that half of the batches took at most, and 99 in 100.
fn latency_ms<'a>(took: impl Iterator<Item = &'a Duration>) -> (f64, f64) {
    let mut took: Vec<&Duration> = took.collect();
    took.sort();
    let ms = |quantile: f64| {
        let rank = (took.len() as f64 * quantile).ceil() as usize;
        took.get(rank.saturating_sub(1)).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
    };
    (ms(0.5), ms(0.99))
}

impl Verdict for PersistReport {
    fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl Display for PersistReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { server, rows, text_bytes, rounds, .. } = self;
        let settings: Vec<String> = self.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        writeln!(f, "persist     {rows} rows of {text_bytes} characters, {rounds} rounds; medians")?;
        writeln!(f, "server      Postgres {server}; {}", settings.join(" "))?;
        writeln!(
            f,
            "{:<10} {:>7} {:>9} {:>7} {:>9} {:>9} {:>9} {:>8} {:>8}",
            "way", "batch", "rows/s", "/ copy", "/ single", "client ns", "server ns", "p50 ms", "p99 ms"
        )?;
        for figure in &self.figures {
            let ratio = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let Figure { way, batch_rows, client_ns_per_row, batch_p50_ms, batch_p99_ms, .. } = figure;
            let server = figure.server_ns_per_row.map_or("-".to_owned(), |ns| format!("{ns:.0}"));
            let (rate, copy, single) =
                (grouped(figure.rows_per_second), ratio(figure.ratio_to_copy), ratio(figure.ratio_to_single));
            writeln!(
                f,
                "{:<10} {batch_rows:>7} {rate:>9} {copy:>7} {single:>9} {client_ns_per_row:>9.0} {server:>9} {batch_p50_ms:>8.2} {batch_p99_ms:>8.2}",
                way.name()
            )?;
        }
        let extrapolated = self.figures.iter().find(|figure| figure.rows < self.rows);
        if let Some(Figure { way, rows, .. }) = extrapolated {
            writeln!(f, "            {}: extrapolated from {rows} rows", way.name())?;
        }
        write_verdict(f, &self.faults, "after each measurement the table had every row")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres;

    fn plan() -> Plan {
        Plan { rows: 40, single_rows: 4, batches: vec![16, 8], rounds: 2, text_bytes: 10, candidates: true }
    }

    #[test]
    fn each_size_is_measured_each_way_and_none_twice() {
        let all = plan().measurements();
        assert_eq!(all.len(), 2 * 5 + 2, "{all:?}");
        assert!(all.contains(&(Way::Copy, 40, 40)) && all.contains(&(Way::Single, 1, 4)));
        let all = Plan { batches: vec![8, 40, 100], candidates: false, ..plan() }.measurements();
        assert_eq!(all.len(), 2 * 2 + 1, "{all:?}");
    }

    #[test]
    fn ratios_are_of_one_round_and_their_median_counts() {
        let measured = |what: What, rates: [f64; 3]| {
            let sample = |rate| Sample {
                rows_per_second: rate,
                client_ns_per_row: rate,
                server_ns_per_row: (rate > 1.0).then_some(rate),
                took: vec![Duration::from_millis(rate as u64)],
            };
            Measured { what, samples: rates.map(sample).into() }
        };
        // The last round met a machine that was busy elsewhere, and all ways were slow.
        let all = [
            measured((Way::Ringroom, 8, 40), [90.0, 80.0, 8.0]),
            measured((Way::Copy, 8, 40), [100.0, 100.0, 10.0]),
            measured((Way::Copy, 40, 40), [1.0, 1.0, 1.0]),
            measured((Way::Single, 1, 4), [9.0, 10.0, 1.0]),
        ];
        let figure = all[0].figure(&all);
        assert_eq!(
            (figure.rows_per_second, figure.ratio_to_copy, figure.ratio_to_single),
            (80.0, Some(0.8), Some(8.0))
        );
        assert_eq!((figure.server_ns_per_row, all[2].figure(&all).server_ns_per_row), (Some(80.0), None));
        assert_eq!((figure.batch_p50_ms, figure.batch_p99_ms), (80.0, 90.0));
        assert_eq!(all[3].figure(&all).ratio_to_copy, None);
    }

    #[test]
    fn a_run_measures_every_way_and_leaves_the_database_as_it_was() {
        let Some(cluster) = postgres::shared("measuring the writer") else { return };
        let url = cluster.django_shaped("persist", "uuid");
        let report = run(&url.parse().unwrap(), &plan()).unwrap();
        assert_eq!((report.faults.len(), report.figures.len()), (0, 12), "{report}");
        for figure in &report.figures {
            assert!(figure.rows_per_second > 0.0 && figure.rows_per_second_by_round.len() == 2, "{figure:?}");
            assert!(figure.server_ns_per_row > Some(0.0), "{figure:?}");
        }
        assert!(report.to_string().contains("extrapolated from 4 rows"), "{report}");
        let why = run_unless(&url.parse().unwrap(), &plan(), Arc::new(true.into())).unwrap_err();
        assert!(why.contains("ended by a signal"), "{why}");
        for table in ["chat_message", "chat_chatroom", "chat_chatroom_members", "authtoken_token", "account_user"] {
            let count = postgres::query(&url, &format!("SELECT count(*) FROM {table}")).unwrap();
            assert_eq!(count, [[Some("0".to_owned())]], "{table}");
        }
        let sqlite = run(&"sqlite:/nowhere".parse().unwrap(), &plan()).unwrap_err();
        assert!(sqlite.contains("needs a Postgres"), "{sqlite}");
        let numbers = cluster.django_shaped("persist_numbers", "bigint");
        let error = run(&numbers.parse().unwrap(), &plan()).unwrap_err();
        assert!(error.contains("users' ids of type uuid"), "{error}");
    }
}
