//! `capacity measure`: starts its own ringroom with one shard on one CPU, runs the loads of [`design`] against it from
//! another, looks at what each took, fits the unit costs, sweeps for the knee, and puts the fit to the test.
//!
//! Each load has a server of its own, so that nothing of one is in the next; they share a database, which grows. After
//! each, `costs.json` is written, and what stands there is not measured again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::calibrate;
use super::costs::{Costs, Fitted, Found, Idle, Purpose, Run, Setup, Shape};
use super::curve;
use super::demand::Demand;
use super::design;
use super::model::{Saving, Shard};
use super::probe::{self, Database};
use super::report::MeasureReport;
use crate::fixtures::Fixtures;
use crate::load::{self, Pace, Plan};
use crate::process;
use crate::provenance::Provenance;
use crate::report::{LoadReport, ServerCpu};
use crate::server::{Place, Server, Spec, on_cpu};

/// Load before the measured time.
const WARM_UP: Duration = Duration::from_millis(500);

/// Seconds between heartbeats while idle connections are measured, and how many of those seconds are. Often, so that a
/// short time shows what they cost; the costs are told for the default, [`HEARTBEAT_SECONDS`].
const IDLE: (f64, f64) = (5.0, 10.0);
const QUICK_IDLE: (f64, f64) = (1.0, 2.0);
const HEARTBEAT_SECONDS: f64 = 25.0;

/// Segments with data that a connection takes without any message, both ways: upgrade, greeting, close, a heartbeat.
const SEGMENTS_PER_CONNECTION: u64 = 7;
/// Messages to a member that make its sends countable beside those.
const MESSAGES_TO_COUNT_SENDS: u64 = 30;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) ringroom: PathBuf,
    /// Without it, an SQLite file that goes when all is measured.
    pub(crate) database_url: Option<String>,
    pub(crate) server_cpu: usize,
    pub(crate) client_cpu: usize,
    pub(crate) durability: String,
    /// The measured time of a load.
    pub(crate) measured: Duration,
    pub(crate) rounds: usize,
    pub(crate) is_quick: bool,
    /// No load begins later than that.
    pub(crate) at_most: Option<Duration>,
    pub(crate) out: PathBuf,
}

/// Measures what the file does not have yet.
///
/// # Errors
/// The file belongs to another setup, ringroom cannot be started, or a load cannot be run.
pub(crate) fn run(order: &Order) -> Result<MeasureReport, String> {
    let begun = Instant::now();
    let (rooms, users) = design::fixtures(order.is_quick);
    let (version, build) = (version(&order.ringroom)?, build(&order.ringroom)?);
    let place = Place::make(&order.ringroom, order.database_url.as_deref(), rooms, users)?;
    let database = Database::open(&place.database_url())?;
    let fixtures = Fixtures::read(&place.fixtures())?;
    let costs = open(order, setup(order, version, build, database.name()))?;
    let mut bench = Bench { order, place, database, fixtures, costs, begun };
    bench.measure()?;
    Ok(MeasureReport::new(bench.costs, order.out.clone()))
}

/// The file, gone on with, or a new one.
fn open(order: &Order, setup: Setup) -> Result<Costs, String> {
    if !order.out.exists() {
        return Ok(Costs::new(setup));
    }
    let costs = Costs::read(&order.out)?;
    if costs.setup != setup {
        let why = "was measured with another ringroom, machine or arguments; give another --out, or remove it";
        return Err(format!("{} {why}", order.out.display()));
    }
    Ok(costs)
}

fn setup(order: &Order, ringroom: String, build: String, database: &str) -> Setup {
    let machine = Provenance::now().machine;
    Setup {
        ringroom,
        build: Some(build),
        kernel: machine.kernel,
        cpu: machine.cpu_model,
        server_cpu: order.server_cpu,
        client_cpu: order.client_cpu,
        durability: order.durability.clone(),
        database: database.to_owned(),
        seconds: order.measured.as_secs_f64(),
        rounds: order.rounds,
        is_quick: order.is_quick,
    }
}

fn version(ringroom: &Path) -> Result<String, String> {
    let output = std::process::Command::new(ringroom).arg("--version").output();
    let output = output.map_err(|error| format!("ringroom cannot be started: {}: {error}", ringroom.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if said.starts_with("ringroom ") { Ok(said) } else { Err(format!("{} is no ringroom", ringroom.display())) }
}

fn build(ringroom: &Path) -> Result<String, String> {
    let program = std::fs::read(ringroom).map_err(|error| format!("{}: {error}", ringroom.display()))?;
    Ok(format!("{:08x}", crc32c::crc32c(&program)))
}

/// Everything that the loads need.
struct Bench<'a> {
    order: &'a Order,
    place: Place,
    database: Database,
    fixtures: Fixtures,
    costs: Costs,
    begun: Instant,
}

impl Bench<'_> {
    /// All that is missing, in order, until it is done or time is up.
    fn measure(&mut self) -> Result<(), String> {
        let is_quick = self.order.is_quick;
        for (rooms, members) in design::idle(is_quick) {
            let is_known = self.costs.idle.iter().any(|idle| (idle.rooms, idle.members) == (*rooms, *members));
            if !is_known {
                if self.is_late() {
                    return Ok(());
                }
                let idle = self.idle(*rooms, *members)?;
                self.costs.idle.push(idle);
                self.costs.write(&self.order.out)?;
            }
        }
        if !self.run_all(&design::loads(is_quick, self.order.rounds))? {
            return Ok(());
        }
        let (shard, writer) = self.threads();
        if self.run_all(&design::sweep(is_quick, &sweep_rates(is_quick, &shard, &writer), self.order.rounds))? {
            self.costs.fitted = Some(self.fit(shard, writer));
            self.costs.write(&self.order.out)?;
        }
        Ok(())
    }

    fn is_late(&self) -> bool {
        self.order.at_most.is_some_and(|at_most| self.begun.elapsed() >= at_most)
    }

    /// Whether all of them are measured now.
    fn run_all(&mut self, shapes: &[Shape]) -> Result<bool, String> {
        let missing: Vec<Shape> = shapes.iter().filter(|shape| !self.costs.has(shape)).copied().collect();
        for (nth, shape) in missing.iter().enumerate() {
            if self.is_late() {
                return Ok(false);
            }
            eprintln!("ringroom-perf: {} of {}: {}", nth + 1, missing.len(), shape.name());
            let found = self.load(shape)?;
            self.costs.runs.push(Run { shape: *shape, found });
            self.costs.write(&self.order.out)?;
        }
        Ok(true)
    }

    /// ringroom with one shard, on its CPU.
    fn start(&self, flags: &[&str]) -> Result<Server, String> {
        let mut all = vec!["--shards", "1", "--durability", &self.order.durability];
        all.extend(flags);
        let all: Vec<String> = all.into_iter().map(str::to_owned).collect();
        Server::start(&Spec::ringroom(&self.order.ringroom, &self.place, &all), Some(self.order.server_cpu))
    }

    fn load(&self, shape: &Shape) -> Result<Found, String> {
        let plan = Plan {
            rooms: shape.rooms,
            members: shape.members,
            senders: shape.members.min(8),
            text_bytes: shape.text_bytes.to_string().parse()?,
            warm_up: WARM_UP,
            measured: self.order.measured,
            ..Plan::new(Pace::Open { per_second: shape.messages_per_second })
        };
        let seats = self.fixtures.rooms(shape.rooms, shape.members)?;
        let before = self.database.read()?;
        let server = self.start(&[])?;
        let pids = server.pids();
        let (segments, journal) = (probe::data_segments(), probe::journal_bytes(pids[0]));
        let (sessions, begun) = (self.database.sessions(), Instant::now());
        let report = on_cpu(Some(self.order.client_cpu), || load::run(&server.url, &plan, &seats, &pids))??;
        let database_ns = probe::used_ns(sessions.as_ref(), self.database.sessions().as_ref());
        let database_cores = database_ns.map(|ns| ns as f64 / 1e9 / begun.elapsed().as_secs_f64());
        let journal = probe::journal_bytes(pids[0]).saturating_sub(journal);
        let segments = probe::data_segments().saturating_sub(segments);
        server.stop()?;
        let after = self.database.read()?;
        let messages = report.messages_verified.max(1) as f64;
        let whole_seconds = messages / report.messages_per_second.max(1e-9);
        let each = |to: u64, from: u64| to.saturating_sub(from) as f64 / messages;
        let both = |to: Option<u64>, from: Option<u64>| Some((to?, from?));
        Ok(Found {
            database_cores,
            messages_per_send: messages_per_send(&report, segments, seats.len() as u64),
            journal_bytes_per_message: journal as f64 / messages,
            database_bytes_per_message: each(after.bytes, before.bytes),
            database_log_bytes_per_message: both(after.log_bytes, before.log_bytes).map(|(to, from)| each(to, from)),
            transactions_per_second: both(after.transactions, before.transactions)
                .map(|(to, from)| to.saturating_sub(from) as f64 / whole_seconds),
            ..found(&report)
        })
    }

    fn idle(&self, rooms: usize, members: usize) -> Result<Idle, String> {
        eprintln!("ringroom-perf: idle: {rooms} x {members}");
        let seats = self.fixtures.rooms(rooms, members)?;
        let (heartbeat, seconds) = if self.order.is_quick { QUICK_IDLE } else { IDLE };
        let server = self.start(&["--ping-interval-seconds", &heartbeat.to_string()])?;
        let pids = server.pids();
        let hold = Duration::from_secs_f64(seconds);
        let report =
            on_cpu(Some(self.order.client_cpu), || crate::connections::run(&server.url, &seats, 1, hold, &pids))??;
        server.stop()?;
        let threads = |cpu: Option<&ServerCpu>| cpu.map(Threads::of).unwrap_or_default();
        let (connecting, held) = (threads(report.connecting_cpu.as_ref()), threads(report.idle_cpu.as_ref()));
        let opened = report.opened.max(1) as f64;
        Ok(Idle {
            rooms,
            members,
            connections: report.opened as f64,
            connections_per_second: report.connections_per_second,
            shard_ns_per_connection: connecting.shard_ns / opened,
            control_ns_per_connection: connecting.control_ns / opened,
            cores: held.shard_ns / 1e9 / seconds * heartbeat / HEARTBEAT_SECONDS,
            rss_bytes_before: report.memory_before.map_or(0.0, |memory| memory.rss_bytes as f64),
            rss_bytes_grown: report.bytes_per_connection.map_or(0.0, |each| each.rss as f64 * opened),
            kernel_bytes_per_connection: report.kernel_slab_bytes_per_connection as f64,
            faults: report.faults,
        })
    }

    /// A shard's costs and the writer's.
    fn threads(&self) -> (Shard, Saving) {
        let runs = calibrate::combined(&self.costs.runs);
        let fitted = calibrate::of(&runs, Purpose::Fit);
        let connection_second_ns = calibrate::connection_second_ns(&self.costs.idle);
        let writer = calibrate::saving(&calibrate::writer_samples(&fitted));
        (calibrate::shard(&fitted, connection_second_ns), writer)
    }

    fn fit(&self, shard: Shard, writer: Saving) -> Fitted {
        let idle = &self.costs.idle;
        let runs = calibrate::combined(&self.costs.runs);
        let fitted = calibrate::of(&runs, Purpose::Fit);
        let database = calibrate::database_samples(&fitted);
        let storage = calibrate::storage(&fitted);
        let swept = calibrate::of(&self.costs.runs, Purpose::Sweep);
        let curve = curve::curve(&swept, &shard, &writer);
        let p99 = |run: &Run| {
            let demand = run.demand();
            let others = writer.cores(&demand);
            curve
                .expect(&shard.settle(&demand, others), others, shard.longest_seconds(&demand))
                .map(|latency| latency.p99_us)
        };
        let learned: Vec<&Run> = runs.iter().filter(|run| run.shape.purpose != Purpose::Sweep).collect();
        let check = calibrate::check(&self.costs.runs, &shard, &writer, &storage, p99);
        Fitted {
            shard,
            writer,
            database: (!database.is_empty()).then(|| calibrate::saving(&database)),
            admission: calibrate::admission(idle),
            memory: calibrate::memory(idle, &learned),
            storage,
            range: calibrate::range(&learned, idle),
            curve,
            check,
        }
    }
}

/// The rates of the sweep's rooms, all together, at which the core gets as busy as the sweep wants it.
fn sweep_rates(is_quick: bool, shard: &Shard, writer: &Saving) -> Vec<f64> {
    let utilisation: &[f64] = if is_quick { &design::QUICK_SWEEP_UTILISATION } else { &design::SWEEP_UTILISATION };
    let (rooms, members, text_bytes) = design::SWEEP;
    let demand = Demand::of(rooms as f64, members as f64, 1.0, text_bytes as f64);
    let others = |factor: f64| writer.cores(&demand.louder(factor));
    utilisation.iter().map(|busy| demand.messages() * shard.headroom(&demand, others, *busy)).collect()
}

/// CPU by what the threads are for.
#[derive(Clone, Copy, Debug, Default)]
struct Threads {
    /// And the kernel's workers for its ring.
    shard_ns: f64,
    writer_ns: f64,
    control_ns: f64,
}

impl Threads {
    fn of(cpu: &ServerCpu) -> Self {
        let mut threads = Self::default();
        for (name, ns) in &cpu.ns_by_thread {
            let kind = match name.as_str() {
                // Workers come and go; no other thread of ringroom ends before it does.
                "shard" | "iou-wrk" | process::ENDED => &mut threads.shard_ns,
                "writer" => &mut threads.writer_ns,
                _ => &mut threads.control_ns,
            };
            *kind += *ns as f64;
        }
        threads
    }
}

fn found(report: &LoadReport) -> Found {
    let threads = report.server_cpu.as_ref().map(Threads::of).unwrap_or_default();
    let cores = |ns: f64| ns / 1e9 / report.seconds;
    Found {
        messages_per_second: report.messages_per_second,
        deliveries_per_second: report.deliveries_per_second,
        shard_cores: cores(threads.shard_ns),
        writer_cores: cores(threads.writer_ns),
        control_cores: cores(threads.control_ns),
        rss_bytes: report.server_memory.map_or(0, |memory| memory.rss_bytes),
        p50_us: report.delivery_latency.p50_us,
        p99_us: report.delivery_latency.p99_us,
        client_busy: report.client_busy,
        faults: report.faults.clone(),
        ..Found::default()
    }
}

/// Messages to one member that shared a send: deliveries over the segments that were not the clients' messages or a
/// connection's own. 0 where those would hide it.
fn messages_per_send(report: &LoadReport, segments: u64, connections: u64) -> f64 {
    let sends = segments.saturating_sub(report.messages_verified + SEGMENTS_PER_CONNECTION * connections);
    let is_countable = report.deliveries_verified >= MESSAGES_TO_COUNT_SENDS * connections;
    if is_countable && sends > 0 { (report.deliveries_verified as f64 / sends as f64).max(1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Folder;

    #[test]
    fn costs_of_another_build_are_not_gone_on_with() {
        let folder = Folder::make().unwrap();
        let [ringroom, out] = ["ringroom", "costs.json"].map(|name| folder.path().join(name));
        let order = Order {
            ringroom: ringroom.clone(),
            database_url: None,
            server_cpu: 0,
            client_cpu: 1,
            durability: "sync".into(),
            measured: Duration::from_secs(1),
            rounds: 1,
            is_quick: true,
            at_most: None,
            out: out.clone(),
        };
        let built = |program: &str| {
            std::fs::write(&ringroom, program).unwrap();
            setup(&order, "ringroom 0.1.0".into(), build(&ringroom).unwrap(), "sqlite")
        };
        Costs::new(built("one")).write(&out).unwrap();
        assert!(open(&order, built("one")).is_ok());
        assert!(open(&order, built("another")).unwrap_err().contains("another ringroom"));
    }
}
