//! The command line: arguments in, checked once; a report out, as text and as JSON. Exit code 0 when all went well, 1
//! when the server failed or the run could not be made, 2 when the arguments cannot be meant.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum, value_parser};
use ringroom::store::{BadDatabaseUrl, DatabaseUrl};

use crate::capacity::command::CapacityArgs;
use crate::fixtures::Fixtures;
use crate::load::{CONNECTIONS_MAX, Pace, Plan, TextBytes};
use crate::out::{Out, both, check_file};
use crate::provenance::Provenance;
use crate::report::LoadReport;
use crate::url::Url;
use crate::{compare, connections, floor, hgrm, load, persist, process, storm};

/// Load generator for servers that speak ringroom's protocol.
///
/// It runs on one thread. Give it a core of its own, and the server another:
///   taskset -c 0 ringroom serve ...
///   taskset -c 1 ringroom-perf load --url ws://127.0.0.1:8000 --fixtures rooms.json --pid PID
#[derive(Parser)]
#[command(name = "ringroom-perf", version, verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Members sit in rooms and send; throughput, latency, the server's CPU, and proof that nothing was lost.
    Load(Box<LoadArgs>),
    /// The same load on ringroom and on other servers, in turns: medians, and ratios to ringroom.
    Compare(Box<compare::Args>),
    /// Many idle connections: how fast they are let in, what each costs, whether all are kept.
    Connections(ConnectionsArgs),
    /// How fast messages get into Postgres: ringroom's writer, raw COPY, one row a transaction.
    Persist(PersistArgs),
    /// What this machine can do at best: bare sends of the same bytes to as many sockets, and `fdatasync`.
    Floor(floor::FloorArgs),
    /// How many cores, how much memory and which database a load needs: measure, then plan.
    Capacity(CapacityArgs),
}

#[derive(Args)]
struct Target {
    /// The server: ws://HOST:PORT[/PREFIX].
    #[arg(long)]
    // Text, for clap quotes what it cannot read, and somebody may have put a token in it.
    url: String,
    /// Rooms, users and tokens, as `ringroom seed` writes them.
    #[arg(long, value_name = "FILE")]
    fixtures: PathBuf,
    /// The server's process, whose CPU and memory are reported; may be repeated for a server of several.
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    #[command(flatten)]
    out: Out,
}

#[derive(Args)]
#[command(group = ArgGroup::new("pace").required(true))]
struct LoadArgs {
    #[command(flatten)]
    target: Target,
    /// Rooms in use.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    rooms: u32,
    /// Members connected in each room.
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..))]
    members: u32,
    /// Members of each room that send.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    senders: u32,
    /// Keep W messages outstanding in each room, shared among its senders.
    #[arg(long, value_name = "W", group = "pace", value_parser = value_parser!(u32).range(1..=1_000_000))]
    closed_loop: Option<u32>,
    /// Send so many messages a second in each room, whether or not the server keeps up.
    #[arg(long, value_name = "MESSAGES", group = "pace", value_parser = rate)]
    rate: Option<f64>,
    /// Send at each of these rates in turn, in messages a second in each room; each has its warm-up and measured time,
    /// and is waited for before the next.
    #[arg(long, value_name = "MESSAGES", group = "pace", value_delimiter = ',', value_parser = rate)]
    steps: Vec<f64>,
    /// Characters of each message's text, 24 to 4096: always the same, or drawn from a distribution: uniform:FROM..TO,
    /// lognormal:MEDIAN,SIGMA, or a list of lengths and their weights such as 64@90,1024@9,4096@1.
    #[arg(long, value_name = "LENGTHS", default_value = "64")]
    bytes: TextBytes,
    /// What lengths are drawn with; the report names it. Without it, another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Let the rate rise from nothing for so long, before the warm-up.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds, conflicts_with = "closed_loop")]
    ramp_seconds: Duration,
    /// Load, at the full rate, before the measured time.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    warm_up_seconds: Duration,
    /// The measured time.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// Let N connections leave each second, in all rooms together, and others take their seats.
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    churn: f64,
    /// Let N members, in all rooms together, read slowly; a server may close them.
    #[arg(long, value_name = "N", default_value_t = 0)]
    slow_readers: u32,
    /// What each slow reader reads in a second.
    #[arg(long, value_name = "BYTES", default_value_t = 1024, requires = "slow_readers")]
    slow_bytes_per_second: u32,
    /// Never sleep while waiting: the time that this thread takes to wake up is in no latency then.
    #[arg(long)]
    spin: bool,
    /// Write the latency's histogram for HdrHistogram's plotters, in milliseconds: that of the echoes to FILE, that of the
    /// deliveries to all members to FILE with `.members` before its extension.
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Show no progress on the terminal.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Args)]
struct ConnectionsArgs {
    #[command(flatten)]
    target: Target,
    /// Connections to open, spread evenly over all rooms.
    #[arg(long, value_parser = value_parser!(u32).range(1..=CONNECTIONS_MAX as i64))]
    count: u32,
    /// How long all of them must stay open. Longer than the server's ping interval it shows what heartbeats cost.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    hold_seconds: Duration,
    /// Loopback addresses to connect from, one for each 28,000 connections; without it as many as are needed.
    #[arg(long, value_parser = value_parser!(u8).range(1..=250))]
    sources: Option<u8>,
    /// Then drop all of them at once, by a reset or in TCP's order, and let them come back at once.
    #[arg(long, value_name = "HOW", num_args = 0..=1, default_missing_value = "reset")]
    storm: Option<Dropped>,
    /// How often.
    #[arg(long, default_value_t = 1, requires = "storm", value_parser = value_parser!(u32).range(1..))]
    storms: u32,
}

/// How connections end in a storm.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Dropped {
    /// By a reset: nothing is left of them, as after a crash of a proxy.
    Reset,
    /// In TCP's order, without a close frame; ports stay taken for a while, so twice as many sources are used.
    End,
}

#[derive(Args)]
struct PersistArgs {
    /// The database, with the tables that `ringroom migrate` makes: postgres://USER@HOST:PORT/DATABASE. Without it,
    /// DATABASE_URL of the environment, where a password is better kept.
    #[arg(long, value_name = "URL")]
    // Text, for clap quotes what it cannot read, and there may be a password in it.
    database_url: Option<String>,
    /// Rows that each measurement inserts.
    #[arg(long, default_value_t = 20_480, value_parser = value_parser!(u32).range(1..=10_000_000))]
    rows: u32,
    /// Rows that the measurement of one row a transaction inserts.
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(1..))]
    single_rows: u32,
    /// Rows of a batch; each size is measured.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', default_value = "64,256,1024,4096",
        value_parser = value_parser!(u32).range(1..))]
    batch: Vec<u32>,
    /// How often everything is measured, in turns.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..))]
    rounds: u32,
    /// Characters of each message's text.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(0..=1_000_000))]
    bytes: u32,
    /// Measure also the ways that ringroom does not go: unnest, a staging table, pipelined COPY.
    #[arg(long)]
    candidates: bool,
    #[command(flatten)]
    out: Out,
}

/// What may be asked for in a second.
const RATES: RangeInclusive<f64> = 1e-3..=1e6;

/// Reads a rate.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok().filter(|rate| RATES.contains(rate));
    rate.ok_or("a rate is a number within 0.001 to 1,000,000 a second".into())
}

/// Reads a number of seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(number).ok().filter(|time| time.as_secs() < 1_000_000).ok_or("out of range".into())
}

/// Why there is no report.
pub(crate) enum Failure {
    /// The arguments cannot be meant: exit code 2.
    Arguments(String),
    /// The run could not be made: exit code 1.
    Run(String),
}

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let command = Cli::parse().command;
    if cfg!(debug_assertions) {
        eprintln!("ringroom-perf: warning: a debug build; believe no figure of one that is not built with --release");
    }
    let ended = match command {
        Command::Load(args) => args.run(),
        Command::Compare(args) => run_compare(&args),
        Command::Connections(args) => args.run(),
        Command::Persist(args) => args.run(),
        Command::Floor(args) => run_floor(&args),
        Command::Capacity(args) => args.run(),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(Failure::Run(why)) => fail(&why, 1),
        Err(Failure::Arguments(why)) => fail(&why, 2),
    }
}

fn fail(why: &str, code: u8) -> ExitCode {
    eprintln!("ringroom-perf: {why}");
    ExitCode::from(code)
}

impl LoadArgs {
    fn run(mut self) -> Result<bool, Failure> {
        let plan = self.plan().map_err(Failure::Arguments)?;
        let hgrm = |path: &PathBuf| check_file("--hgrm", path).and_then(|()| check_file("--hgrm", &of_members(path)));
        self.hgrm.iter().try_for_each(hgrm).map_err(Failure::Arguments)?;
        let (url, fixtures) = self.target.read()?;
        let seats = fixtures.rooms(plan.rooms, plan.members).map_err(Failure::Arguments)?;
        let provenance = self.target.provenance(&url);
        let report = load::run(&url, &plan, &seats, &self.target.pid).map_err(Failure::Run)?;
        let shown = self.target.out.show(&report, &provenance);
        both(shown, self.hgrm.iter().try_for_each(|path| write_histograms(&report, path))).map_err(Failure::Run)
    }

    fn plan(&self) -> Result<Plan, String> {
        if self.churn != 0.0 && !RATES.contains(&self.churn) {
            return Err(format!("--churn {} is neither 0 nor within 0.001 to 1,000,000", self.churn));
        }
        if self.seconds.is_zero() {
            return Err("--seconds must be more than 0".into());
        }
        let pace = match (self.closed_loop, self.rate) {
            (Some(outstanding), _) => Pace::Closed { outstanding: outstanding as usize },
            (_, Some(per_second)) => Pace::Open { per_second },
            _ => Pace::Steps { per_second: self.steps.clone() },
        };
        let plan = Plan {
            rooms: self.rooms as usize,
            members: self.members as usize,
            senders: self.senders as usize,
            pace,
            text_bytes: self.bytes.clone(),
            seed: self.seed.unwrap_or_else(any_seed),
            ramp: self.ramp_seconds,
            warm_up: self.warm_up_seconds,
            measured: self.seconds,
            churn_per_second: self.churn,
            slow_readers: self.slow_readers as usize,
            slow_bytes_per_second: self.slow_bytes_per_second as usize,
            spins: self.spin,
            quiet: self.quiet,
        };
        plan.check()?;
        Ok(plan)
    }
}

impl ConnectionsArgs {
    fn run(mut self) -> Result<bool, Failure> {
        let (url, fixtures) = self.target.read()?;
        let loopback = url.address.ip().is_loopback() && url.address.is_ipv4();
        if self.sources.is_some_and(|sources| sources > 1) && !loopback {
            return Err(Failure::Arguments("--sources needs a server on 127.0.0.1".into()));
        }
        let sources = self.sources.unwrap_or(if loopback { self.sources_needed() } else { 1 });
        let seats = fixtures.spread(self.count as usize);
        let (Target { pid, .. }, hold) = (&self.target, self.hold_seconds);
        let provenance = self.target.provenance(&url);
        let report = match self.storm {
            None => connections::run(&url, &seats, sources, hold, pid),
            Some(how) => {
                let plan = storm::Plan { storms: self.storms as usize, reset: how == Dropped::Reset };
                storm::run(&url, &seats, sources, hold, pid, plan)
            }
        };
        let shown = report.and_then(|report| self.target.out.show(&report, &provenance));
        shown.map_err(Failure::Run)
    }

    /// One for each 20,000 connections, which leaves others some ports.
    fn sources_needed(&self) -> u8 {
        let ends = if self.storm == Some(Dropped::End) { 2 } else { 1 };
        let needed = (u64::from(self.count) * ends).div_ceil(20_000);
        needed.clamp(1, 250) as u8
    }
}

impl PersistArgs {
    fn run(self) -> Result<bool, Failure> {
        let url = self.url().map_err(Failure::Arguments)?;
        let plan = persist::Plan {
            rows: self.rows as usize,
            single_rows: self.single_rows as usize,
            batches: self.batch.iter().map(|rows| *rows as usize).collect(),
            rounds: self.rounds as usize,
            text_bytes: self.bytes as usize,
            candidates: self.candidates,
        };
        self.out.check().map_err(Failure::Arguments)?;
        if let DatabaseUrl::Sqlite(_) = url {
            let why = "persist needs a Postgres database: raw COPY, which it compares with, is Postgres' own";
            return Err(Failure::Arguments(why.into()));
        }
        let provenance = Provenance::now();
        persist::run(&url, &plan).and_then(|report| self.out.show(&report, &provenance)).map_err(Failure::Run)
    }

    fn url(&self) -> Result<DatabaseUrl, String> {
        let text = self.database_url.clone().or_else(|| std::env::var("DATABASE_URL").ok());
        let text = text.ok_or("give a database with --database-url or DATABASE_URL")?;
        text.parse().map_err(|error: BadDatabaseUrl| error.to_string())
    }
}

fn run_compare(args: &compare::Args) -> Result<bool, Failure> {
    args.out.check().map_err(Failure::Arguments)?;
    let provenance = Provenance::now();
    args.run().and_then(|report| args.out.show(&report, &provenance).map_err(Failure::Run))
}

fn run_floor(args: &floor::FloorArgs) -> Result<bool, Failure> {
    let plan = args.plan().map_err(Failure::Arguments)?;
    args.out.check().map_err(Failure::Arguments)?;
    let provenance = Provenance::now();
    floor::run(&plan).and_then(|report| args.out.show(&report, &provenance)).map_err(Failure::Run)
}

impl Target {
    /// Checks what can be checked before the run; the server's address, and the fixtures.
    fn read(&mut self) -> Result<(Url, Fixtures), Failure> {
        self.pid.sort_unstable();
        self.pid.dedup();
        self.out.check().map_err(Failure::Arguments)?;
        let url: Url = self.url.parse().map_err(|why| Failure::Arguments(format!("--url: {why}")))?;
        let port = url.address.port();
        if process::listens(&self.pid, port) == Some(false) && !self.pid.is_empty() {
            let pids: Vec<String> = self.pid.iter().map(u32::to_string).collect();
            eprintln!(
                "ringroom-perf: warning: --pid {}: nobody there listens on port {port}; is that the server?",
                pids.join(" --pid ")
            );
        }
        for pid in &self.pid {
            process::CpuTime::read(&[*pid]).map_err(Failure::Arguments)?;
            if let Some(cpu) = process::shared_cpu(*pid) {
                eprintln!("ringroom-perf: warning: process {pid} may run on CPU {cpu} as this one may; pin them apart");
            }
        }
        Fixtures::read(&self.fixtures).map(|fixtures| (url, fixtures)).map_err(Failure::Arguments)
    }

    fn provenance(&self, url: &Url) -> Provenance {
        Provenance::now().of_server(&url.to_string(), &self.pid)
    }
}

/// A seed that a person can type again.
fn any_seed() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(since_epoch.subsec_micros())
}

/// Where the histogram of the deliveries to all members goes.
fn of_members(path: &Path) -> PathBuf {
    let mut members = path.file_stem().unwrap_or_default().to_owned();
    members.push(".members");
    if let Some(extension) = path.extension() {
        members.push(".");
        members.push(extension);
    }
    path.with_file_name(members)
}

fn write_histograms(report: &LoadReport, path: &Path) -> Result<(), String> {
    for (path, latency_ns) in [(path, &report.latency_ns), (&of_members(path), &report.delivery_latency_ns)] {
        let mut text = Vec::new();
        hgrm::write(latency_ns, &mut text)
            .and_then(|()| std::fs::write(path, text))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn plan(args: &str) -> Result<Plan, String> {
        let line = format!("ringroom-perf load --url ws://127.0.0.1:1 --fixtures f {args}");
        match Cli::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?.command {
            Command::Load(args) => args.plan(),
            _ => Err("another command".into()),
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        Cli::command().debug_assert();
        for args in [
            "--rooms 1",
            "--closed-loop 1 --rate 5",
            "--closed-loop 0",
            "--closed-loop 1 --senders 11",
            "--closed-loop 1 --bytes 23",
            "--closed-loop 1 --bytes 4097",
            "--closed-loop 1 --bytes uniform:9..5",
            "--closed-loop 1 --churn -1",
            "--closed-loop 1 --churn 5 --senders 10",
            "--closed-loop 1 --slow-readers 10",
            "--closed-loop 1 --slow-bytes-per-second 10",
            "--closed-loop 1 --ramp-seconds 2",
            "--closed-loop 1 --seconds 0",
            "--closed-loop 1 --seconds -1",
            "--closed-loop 1 --rooms 0",
            "--rate 0",
            "--rate nan",
            "--rate 1e-11",
            "--rate 1e7",
            "--rooms 2 --rate 6e5",
            "--rate 5 --churn 1e-12",
            "--rate 5 --members 4000000000",
            "--steps 0",
            "--steps 5,-1",
            "--steps 5 --rate 5",
            "--steps",
        ] {
            assert!(plan(args).is_err(), "{args}");
        }
    }

    fn connections(args: &str) -> Result<ConnectionsArgs, String> {
        let line = format!("ringroom-perf connections --url ws://127.0.0.1:1 --fixtures f --count 50000 {args}");
        match Cli::try_parse_from(line.trim().split(' ')).map_err(|error| error.to_string())?.command {
            Command::Connections(args) => Ok(args),
            _ => Err("another command".into()),
        }
    }

    #[test]
    fn connections_leave_from_as_many_addresses_as_they_need() {
        for (args, sources) in [("", 3), ("--storm", 3), ("--storm reset --storms 2", 3), ("--storm end", 5)] {
            assert_eq!(connections(args).map(|args| args.sources_needed()), Ok(sources), "{args}");
        }
        for args in ["--count 4000000000", "--storms 2", "--storm never", "--sources 0", "--storm --storms 0"] {
            assert!(connections(args).is_err(), "{args}");
        }
    }

    #[test]
    fn a_sweep_is_its_rates() {
        assert_eq!(plan("--steps 10,20.5").unwrap().pace, Pace::Steps { per_second: vec![10.0, 20.5] });
    }

    #[test]
    fn a_plan_is_what_was_asked() {
        let plan =
            plan("--closed-loop 16 --rooms 2 --members 200 --senders 4 --warm-up-seconds 0 --seconds 0.5 --seed 3")
                .unwrap();
        assert!(matches!(plan.pace, Pace::Closed { outstanding: 16 }));
        assert_eq!((plan.rooms, plan.members, plan.senders, plan.seed), (2, 200, 4, 3));
        assert!(plan.text_bytes.is_fixed() && !plan.quiet);
        assert_eq!((plan.warm_up, plan.measured), (Duration::ZERO, Duration::from_millis(500)));
    }
}
