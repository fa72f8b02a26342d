//! The command line of `capacity`: arguments in, checked; a report out.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, value_parser};

use super::answer::Told;
use super::costs::Costs;
use super::profile::{Profile, TEXT_BYTES_MAX};
use super::{measure, plan};
use crate::cli::{Failure, seconds};
use crate::out::{Out, PageFile, both, check_file, show};
use crate::provenance::Provenance;
use crate::server::on_cpu;

/// What a load needs: measure this machine's unit costs, then plan with them.
#[derive(Args)]
pub(crate) struct CapacityArgs {
    #[command(subcommand)]
    step: Option<Step>,
}

#[derive(Subcommand)]
enum Step {
    /// Measure the unit costs of ringroom on this machine, fit them, and check the fit on loads that were held out.
    Measure(MeasureArgs),
    /// Say what a load needs by the unit costs of a measured machine.
    Plan(PlanArgs),
}

/// How the steps follow each other, for whoever names none.
const STEPS: &str = "\
capacity answers how many cores, how much memory and which database a load needs, in two steps:

  1. ringroom-perf capacity measure --ringroom target/release/ringroom --out costs.json
     starts its own ringroom and learns what a connection, a message, a send and a byte cost here: some minutes, on
     a machine that has nothing else to do. The costs are fitted, and checked on loads that they were not fitted to.

  2. ringroom-perf capacity plan --costs costs.json --profile profile.toml
     says what your load needs with those costs; perf/profiles/example.toml is a profile to start from. For the
     simple case: --users 10000 --rooms 500 --members 20 --messages-per-second-per-user 0.05 --bytes 80

`ringroom-perf capacity measure --help` and `... plan --help` list the rest.
";

#[derive(Args)]
struct MeasureArgs {
    /// The ringroom to measure, built with --release.
    #[arg(long, value_name = "PATH")]
    ringroom: PathBuf,
    /// A Postgres database of its own, which is filled with rooms, users and messages that stay there. Without it, an
    /// SQLite file that is removed.
    #[arg(long, value_name = "URL")]
    // Text, for clap quotes what it cannot read, and there may be a password in it.
    database_url: Option<String>,
    /// Take the database from DATABASE_URL of the environment, where a password is better kept.
    #[arg(long, conflicts_with = "database_url")]
    database_from_env: bool,
    /// What must hold before a message is broadcast, as of ringroom's setting.
    #[arg(long, default_value = "sync", value_parser = ["commit", "sync", "journal", "none"])]
    durability: String,
    /// The CPU that ringroom runs on.
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    server_cpu: usize,
    /// The CPU that the load comes from.
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    client_cpu: usize,
    /// The measured time of each load.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// How often every load is run; its median counts.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Few and small loads: shows that all works, within a minute; its costs are rough.
    #[arg(long)]
    quick: bool,
    /// Begin no load later than that; the same command goes on where this one stopped.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    at_most_seconds: Option<Duration>,
    /// Where the costs go, and every load's figures.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    page: PageFile,
}

#[derive(Args)]
struct PlanArgs {
    /// What `capacity measure` wrote.
    #[arg(long, value_name = "FILE")]
    costs: PathBuf,
    /// Your load, as TOML; perf/profiles/example.toml explains every key.
    #[arg(long, value_name = "FILE", required_unless_present = "users", conflicts_with_all = SIMPLE)]
    profile: Option<PathBuf>,
    /// Instead of a profile: people who are connected.
    #[arg(long, requires_all = SIMPLE_REST, value_parser = count)]
    users: Option<f64>,
    /// Rooms that they are in.
    #[arg(long, requires = "users", value_parser = count)]
    rooms: Option<f64>,
    /// Connected members of each room; a person in several has a connection for each.
    #[arg(long, requires = "users", value_parser = count)]
    members: Option<f64>,
    /// What each person says, at the busiest time.
    #[arg(long, requires = "users", value_name = "MESSAGES", value_parser = positive)]
    messages_per_second_per_user: Option<f64>,
    /// Bytes of a text.
    #[arg(long, requires = "users", value_parser = text_bytes)]
    bytes: Option<f64>,
    #[command(flatten)]
    to: Out,
}

/// The flags that stand for a profile.
const SIMPLE: [&str; 5] = ["users", "rooms", "members", "messages_per_second_per_user", "bytes"];
/// What `--users` needs beside itself.
const SIMPLE_REST: [&str; 4] = ["rooms", "members", "messages_per_second_per_user", "bytes"];

fn positive(text: &str) -> Result<f64, String> {
    number(text, 1e-9, 1e9)
}

/// As a profile takes them.
fn count(text: &str) -> Result<f64, String> {
    number(text, 1.0, 1e9)
}

fn text_bytes(text: &str) -> Result<f64, String> {
    number(text, 1.0, TEXT_BYTES_MAX)
}

fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    (least..=most).contains(&number).then_some(number).ok_or_else(|| format!("not within {least} to {most}"))
}

impl CapacityArgs {
    pub(crate) fn run(self) -> Result<bool, Failure> {
        match self.step {
            None => {
                print!("{STEPS}");
                Ok(true)
            }
            Some(Step::Measure(args)) => args.run(),
            Some(Step::Plan(args)) => args.run(),
        }
    }
}

impl MeasureArgs {
    fn run(self) -> Result<bool, Failure> {
        self.page.check().and_then(|()| check_file("--out", &self.out)).map_err(Failure::Arguments)?;
        self.check().map_err(Failure::Arguments)?;
        let database_url = match self.database_from_env {
            true => Some(std::env::var("DATABASE_URL").map_err(|_| no_variable())?),
            false => self.database_url,
        };
        let order = measure::Order {
            ringroom: self.ringroom,
            database_url,
            server_cpu: self.server_cpu,
            client_cpu: self.client_cpu,
            durability: self.durability,
            measured: self.seconds,
            rounds: self.rounds as usize,
            is_quick: self.quick,
            at_most: self.at_most_seconds,
            out: self.out,
        };
        let provenance = Provenance::now();
        let report = measure::run(&order).map_err(Failure::Run)?;
        both(show(&report, &provenance, None), self.page.write(&report, &provenance)).map_err(Failure::Run)
    }

    fn check(&self) -> Result<(), String> {
        if self.seconds < Duration::from_millis(100) {
            return Err("--seconds must be at least 0.1".into());
        }
        if self.server_cpu == self.client_cpu {
            return Err("--server-cpu and --client-cpu are one; each needs its own".into());
        }
        for cpu in [self.server_cpu, self.client_cpu] {
            on_cpu(Some(cpu), || ())?;
        }
        let is_there = self.ringroom.is_file();
        let missing = || format!("--ringroom {}: there is no such file", self.ringroom.display());
        is_there.then_some(()).ok_or_else(missing)
    }
}

impl PlanArgs {
    fn run(self) -> Result<bool, Failure> {
        self.to.check().map_err(Failure::Arguments)?;
        let profile = self.profile().map_err(Failure::Arguments)?;
        let costs = Costs::read(&self.costs).map_err(Failure::Arguments)?;
        let Some(fitted) = &costs.fitted else {
            let why = "is not measured to its end; run the same `capacity measure` again, it goes on";
            return Err(Failure::Arguments(format!("costs {} {why}", self.costs.display())));
        };
        let answer = plan::plan(&costs.setup, fitted, &profile);
        let told = Told { costs: &costs, fitted, answer };
        self.to.show(&told, &Provenance::now()).map_err(Failure::Run)
    }

    fn profile(&self) -> Result<Profile, String> {
        let Self { profile, users, rooms, members, messages_per_second_per_user, bytes, .. } = self;
        if let Some(path) = profile {
            return Profile::read(path);
        }
        let all = users.zip(*rooms).zip(members.zip(*messages_per_second_per_user)).zip(*bytes);
        let (((users, rooms), (members, rate)), bytes) = all.ok_or("give --profile FILE, or --users and the rest")?;
        Profile::simple(users, rooms, members, rate, bytes)
    }
}

fn no_variable() -> Failure {
    Failure::Arguments("--database-from-env, but DATABASE_URL is not set".into())
}
