//! What is asked of a comparison: a load by its name, or its parts, which win over the name's; peers; how often and where.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ValueEnum, value_parser};

use super::backing::Backing;
use super::peers::{Peer, Workshop};
use super::standing::{Comparison, LeftOut};
use super::{Contest, Cpus, compare};
use crate::cli::{Failure, rate, seconds};
use crate::fixtures::Fixtures;
use crate::load::{Pace, Plan, TextBytes};
use crate::out::Out;
use crate::server::{Place, Spec, version};

/// Arguments of `compare`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A load by its name; --rooms and the rest change it.
    #[arg(long, value_enum, default_value_t = Named::Fanout)]
    load: Named,
    /// The servers to compare ringroom with [default: those that the load is for].
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Option<Vec<Peer>>,
    /// Rooms in use.
    #[arg(long, value_parser = value_parser!(u32).range(1..=10_000))]
    rooms: Option<u32>,
    /// Members connected in each room.
    #[arg(long, value_parser = value_parser!(u32).range(1..=100_000))]
    members: Option<u32>,
    /// Members of each room that send.
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    senders: Option<u32>,
    /// Keep W messages outstanding in each room, shared among its senders.
    #[arg(long, value_name = "W", group = "pace", value_parser = value_parser!(u32).range(1..=1_000_000))]
    closed_loop: Option<u32>,
    /// Send so many messages a second in each room, whether or not the server keeps up.
    #[arg(long, value_name = "MESSAGES", group = "pace", value_parser = rate)]
    rate: Option<f64>,
    /// Let the client never sleep; it never does in `paced`.
    #[arg(long)]
    spin: bool,
    /// Characters of each message's text, as `load` takes them.
    #[arg(long, value_name = "LENGTHS", default_value = "64")]
    bytes: TextBytes,
    /// What lengths are drawn with, the same for every run.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How often each server is measured, in turns.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Load before the measured time.
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    warm_up_seconds: Duration,
    /// The measured time of each run.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    seconds: Duration,
    /// The CPU for the servers, and for Postgres and Redis.
    #[arg(long, value_name = "CPU", default_value_t = 0)]
    server_cpu: usize,
    /// The CPU for the client.
    #[arg(long, value_name = "CPU", default_value_t = 1)]
    client_cpu: usize,
    /// The server [default: `ringroom` beside this program].
    #[arg(long, value_name = "PATH")]
    ringroom: Option<PathBuf>,
    /// Where peers are installed and built on first use [default: target/peers of this source tree].
    #[arg(long, value_name = "FOLDER")]
    build_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) out: Out,
    /// Flags for `ringroom serve`, such as --durability journal.
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<String>,
}

/// The loads that have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Named {
    /// One room of 200, 16 messages outstanding: a delivery's price.
    Fanout,
    /// 100 rooms of 10, all of whom send, 10 messages outstanding in each: a message's price.
    Rooms,
    /// One room of 50 at 20 messages a second, the client never asleep: latency.
    Paced,
    /// One room of 200, 16 messages outstanding, beside the original on Django.
    Original,
}

/// A load's rooms, members, senders, and its pace.
type Shape = (u32, u32, u32, Pace);

impl Named {
    fn shape(self) -> Shape {
        match self {
            Self::Fanout | Self::Original => (1, 200, 16, Pace::Closed { outstanding: 16 }),
            Self::Rooms => (100, 10, 10, Pace::Closed { outstanding: 10 }),
            Self::Paced => (1, 50, 10, Pace::Open { per_second: 20.0 }),
        }
    }

    fn peers(self) -> Vec<Peer> {
        match self {
            Self::Original => vec![Peer::DjangoStock, Peer::DjangoTuned],
            Self::Fanout | Self::Rooms | Self::Paced => vec![Peer::NodeWs, Peer::TokioTungstenite, Peer::UWebSockets],
        }
    }
}

impl Args {
    /// Prepares the peers, makes the fixtures, and compares.
    ///
    /// # Errors
    /// The arguments cannot be meant, or ringroom cannot be measured.
    pub(crate) fn run(&self) -> Result<Comparison, Failure> {
        let plan = self.plan().map_err(Failure::Arguments)?;
        let ringroom = self.ringroom().map_err(Failure::Arguments)?;
        let cpus = self.cpus().map_err(Failure::Arguments)?;
        self.compare(&plan, &ringroom, cpus).map_err(Failure::Run)
    }

    fn compare(&self, plan: &Plan, ringroom: &std::path::Path, cpus: Cpus) -> Result<Comparison, String> {
        let mut peers = self.peers.clone().unwrap_or_else(|| self.load.peers());
        peers.sort();
        peers.dedup();
        let (backing, no_backing) =
            match peers.iter().any(|peer| peer.needs_backing()).then(|| Backing::start(cpus.server)) {
                Some(Ok(backing)) => (Some(backing), None),
                Some(Err(why)) => (None, Some(why)),
                None => (None, None),
            };
        let url = backing.as_ref().map(Backing::postgres_url);
        let place = Place::make(ringroom, url, plan.rooms, plan.members)?;
        let ours = Spec { version: version(ringroom), ..Spec::ringroom(ringroom, &place, &self.flags) };
        let mut contestants = vec![ours];
        let mut absent = Vec::new();
        for peer in peers {
            eprintln!("ringroom-perf: preparing {}", peer.name());
            let unable = no_backing.clone().filter(|_| peer.needs_backing()).map_or(Ok(()), Err);
            let prepared = unable.and_then(|()| self.workshop().prepare(peer, &place.fixtures(), backing.as_ref()));
            match prepared {
                Ok(spec) => contestants.push(spec),
                Err(why) => absent.push(LeftOut { name: peer.name().into(), why }),
            }
        }
        let fixtures = Fixtures::read(&place.fixtures())?;
        let seats = fixtures.rooms(plan.rooms, plan.members)?;
        let contest = Contest { plan, seats: &seats, cpus, backing: backing.as_ref() };
        compare(&contest, contestants, absent, self.rounds as usize)
    }

    fn plan(&self) -> Result<Plan, String> {
        let (rooms, members, senders, pace) = self.load.shape();
        let members = self.members.unwrap_or(members);
        // A load's own number of senders shrinks with its rooms; one that is asked for does not.
        let senders = self.senders.unwrap_or(senders.min(members));
        if self.seconds.is_zero() {
            return Err("--seconds must be more than 0".into());
        }
        let pace = match (self.closed_loop, self.rate) {
            (Some(outstanding), _) => Pace::Closed { outstanding: outstanding as usize },
            (_, Some(per_second)) => Pace::Open { per_second },
            (None, None) => pace,
        };
        let plan = Plan {
            rooms: self.rooms.unwrap_or(rooms) as usize,
            members: members as usize,
            senders: senders as usize,
            text_bytes: self.bytes.clone(),
            seed: self.seed,
            warm_up: self.warm_up_seconds,
            measured: self.seconds,
            spins: self.spin || self.load == Named::Paced,
            ..Plan::new(pace)
        };
        plan.check()?;
        Ok(plan)
    }

    fn cpus(&self) -> Result<Cpus, String> {
        let (server, client) = (self.server_cpu, self.client_cpu);
        if server == client {
            return Err(format!("--server-cpu and --client-cpu are both {server}; each needs one of its own"));
        }
        for cpu in [server, client] {
            crate::server::on_cpu(Some(cpu), || ())?;
        }
        Ok(Cpus { server, client })
    }

    fn ringroom(&self) -> Result<PathBuf, String> {
        let beside = || Ok(std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("ringroom"));
        let path = self.ringroom.clone().map_or_else(beside, Ok::<_, String>)?;
        if path.is_file() {
            return Ok(path);
        }
        Err(format!(
            "there is no {}; build it with `cargo build --release --workspace`, or give --ringroom",
            path.display()
        ))
    }

    fn workshop(&self) -> Workshop {
        let perf = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let built = self.build_dir.clone().unwrap_or_else(|| perf.join("../target/peers"));
        Workshop { sources: perf.join("peers"), built }
    }
}
