//! `kill -9` of ringroom at any instant, again and again: all that anyone was shown is in the table, once, as it was shown
//! and in the order shown; a room's history is whole all the while; and no start needs any help.
//!
//! A *life* of the server is one start, with other settings each time, and one end: killed while it starts and replays the
//! journals of its earlier lives, while members talk, or while it stops; or an orderly end, after which the table must hold
//! everything and the journal nothing. On Postgres, the database is killed as well: within a life, across two of
//! them (the server refuses to start then), and during a start.
//!
//! `RINGROOM_TEST_KILLS=200` is for long, and `RINGROOM_TEST_SEED` gives the choices of an earlier run again: what each life
//! is to be. When exactly its end comes is the machine's doing.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    any::Any,
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use ringroom::{
    identity::RoomId,
    stamp::read_rfc3339,
    store::{SeededRoom, Stamp},
};
use serde_json::Value;
use support::{
    DEADLINE,
    client::Client,
    ledger::Ledger,
    load::{Broadcast, Load, Manner, name_of, text_of},
    number,
    place::Place,
    postgres::Postgres,
    seed,
    server::{Ended, Server},
};

/// Kills of a store's server, when nobody asks for another number.
const KILLS: u64 = 12;

/// Lively enough to fill segments of a mebibyte.
const LIVELY: Manner = Manner { window: 32, pause: Duration::from_millis(1), padding_chars: 3500 };

#[test]
fn what_was_broadcast_survives_every_crash_of_the_server_on_sqlite() {
    Ordeal::run("SQLite", Place::sqlite(), None);
}

#[test]
fn what_was_broadcast_survives_every_crash_of_the_server_and_of_postgres() {
    let Some(postgres) = Postgres::start("kill -9 of the server and of Postgres") else { return };
    let place = Place::postgres(postgres.create_database("chat"));
    Ordeal::run("Postgres", place, Some(postgres));
}

/// What a life is to be.
#[derive(Clone, Debug)]
struct Life {
    durability: &'static str,
    shards: u32,
    spill_members: u32,
    /// However slow the writer, the journal keeps what it has not saved.
    commit_delay_ms: u32,
    commit_rows_max: u32,
    drain_seconds: u32,
    /// An outage can be longer.
    save_timeout_seconds: u32,
    outage: Option<Outage>,
    end: End,
    /// Among its rooms, the one whose history is read.
    room: usize,
}

#[derive(Clone, Debug)]
enum End {
    /// Killed so long after it was started, whatever it is doing then.
    Starting(Duration),
    /// Killed while members talk.
    Talking(Duration),
    /// Asked to stop while members talk, and killed so long afterwards.
    Stopping(Duration, Duration),
    /// Asked to stop, and left to it.
    InOrder(Duration),
}

/// Postgres is killed so long after the start or the first words, and is away for so long.
#[derive(Clone, Debug)]
struct Outage {
    after: Duration,
    lasts: Duration,
    /// The life ends before Postgres is back.
    outlasts: bool,
}

impl Life {
    fn choose(random: &mut StdRng, has_postgres: bool) -> Life {
        let mut millis = |most: u64| Duration::from_millis(random.random_range(0..=most));
        let ends = [
            End::Starting(millis(250)),
            End::Talking(millis(50)),
            End::Talking(millis(900)),
            End::Stopping(millis(500), millis(120)),
            End::InOrder(millis(500)),
        ];
        let outage = (millis(600), millis(1500));
        let end = ends[[0, 0, 1, 1, 2, 2, 2, 3, 3, 4][random.random_range(0..10)]].clone();
        let is_starting = matches!(end, End::Starting(_));
        let outlasts = random.random() && !matches!(end, End::InOrder(_));
        let after = if is_starting { outage.0 / 3 } else { outage.0 };
        let has_outage = random.random_ratio(1, 3) && has_postgres;
        let commit_delay_ms = [0, 0, 20, 300, 2000][random.random_range(0..5)];
        Life {
            durability: ["sync", "sync", "journal", "journal", "commit"][random.random_range(0..5)],
            shards: random.random_range(1..=4),
            spill_members: random.random_range(0..=2),
            commit_delay_ms,
            commit_rows_max: [1, 10, 1000, 4096][random.random_range(0..4)],
            drain_seconds: random.random_range(0..=1),
            save_timeout_seconds: [1, 10][random.random_range(0..2)] + commit_delay_ms / 1000,
            outage: has_outage.then_some(Outage { after, lasts: outage.1, outlasts }),
            end,
            room: random.random_range(0..16),
        }
    }

    fn flags(&self) -> Vec<String> {
        let pairs = [
            ("durability", self.durability.to_owned()),
            ("shards", self.shards.to_string()),
            ("spill-members", self.spill_members.to_string()),
            ("commit-delay-ms", self.commit_delay_ms.to_string()),
            ("commit-rows-max", self.commit_rows_max.to_string()),
            ("drain-seconds", self.drain_seconds.to_string()),
            ("save-timeout-seconds", self.save_timeout_seconds.to_string()),
            ("journal-segment-bytes", (1 << 20).to_string()),
            ("close-timeout-seconds", "1".to_owned()),
        ];
        pairs.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }
}

/// A server with many lives.
struct Ordeal {
    place: Place,
    postgres: Option<Postgres>,
    rooms: Vec<SeededRoom>,
    ledger: Ledger,
    figures: Figures,
    /// What the last life was, and what the server logged in it.
    story: Vec<String>,
}

#[derive(Debug, Default)]
struct Figures {
    lives: usize,
    kills: u64,
    orderly_ends: u64,
    postgres_kills: u64,
    ends_without_postgres: u64,
    replayed_segments: u64,
    replayed_messages: u64,
    torn_ends: u64,
    histories: u64,
    histories_refused: u64,
}

impl Ordeal {
    fn run(store: &str, mut place: Place, postgres: Option<Postgres>) {
        let (seed, kills, began) = (seed(), number("RINGROOM_TEST_KILLS").unwrap_or(KILLS), Instant::now());
        tell(&format!("{store}: {kills} kills, RINGROOM_TEST_SEED={seed}"));
        let mut random = StdRng::seed_from_u64(seed);
        let rooms = place.seed(3, 3);
        let ledger = Ledger::new(LIVELY.padding_chars);
        let mut ordeal = Ordeal { place, postgres, rooms, ledger, figures: Figures::default(), story: Vec::new() };
        let ran = catch_unwind(AssertUnwindSafe(|| {
            while ordeal.figures.kills < kills {
                let life = Life::choose(&mut random, ordeal.postgres.is_some());
                ordeal.live(&life);
            }
            ordeal.last_life();
        }));
        let Ordeal { ledger, figures, story, .. } = &ordeal;
        if let Err(panic) = ran {
            let story = story[story.len().saturating_sub(4)..].join("\n");
            panic!(
                "RINGROOM_TEST_SEED={seed}, {store}, {figures:?}:\n{}\n-- the last lives\n{story}",
                text_of_panic(&*panic)
            );
        }
        let (shown, not_saved, took) = (ledger.shown(), ledger.not_saved(), began.elapsed());
        tell(&format!("{store}: {shown} messages shown, {not_saved} not_saved, {figures:?}, {took:.1?}"));
    }

    fn live(&mut self, life: &Life) {
        self.figures.lives += 1;
        self.story.push(format!("life {}: {life:?}", self.figures.lives));
        let starting = self.launch(life);
        if let End::Starting(after) = life.end {
            if let Some(outage) = &life.outage {
                self.lose_postgres(outage);
            }
            sleep(after);
            self.died(starting.kill_9());
        } else {
            let server = starting.listening().unwrap_or_else(|ended| panic!("it does not start: {ended:?}"));
            self.talk(life, server);
        }
        if life.outage.is_some() {
            self.start_without_postgres(life);
            self.restore_postgres();
        }
    }

    /// A life in which members talk.
    fn talk(&mut self, life: &Life, server: Server) {
        // The first to come may find the journal of earlier lives not saved yet.
        let reader = Reader::start(&server, &self.rooms[life.room % self.rooms.len()], &self.ledger);
        let load = Load::start_with(&server, &self.rooms, 2, self.figures.lives, LIVELY);
        load.wait_for(10);
        if let Some(outage) = &life.outage {
            self.lose_postgres(outage);
            if life.durability != "commit" {
                // Nobody notices.
                load.wait_for(10);
            }
            if !outage.outlasts {
                self.restore_postgres();
            }
        }
        match life.end {
            End::Starting(_) => {}
            End::Talking(after) => {
                sleep(after);
                self.died(server.kill_9());
            }
            End::Stopping(talks, after) => {
                sleep(talks);
                server.terminate();
                sleep(after);
                self.died(server.kill_9());
            }
            End::InOrder(talks) => {
                sleep(talks);
                self.died(server.stop());
            }
        }
        load.bereft().into_iter().for_each(|account| self.ledger.enter(account));
        self.hear(reader, life);
        if matches!(life.end, End::InOrder(_)) {
            self.check();
        }
    }

    fn hear(&mut self, reader: JoinHandle<Reader>, life: &Life) {
        let reader = reader.join().unwrap_or_else(|panic| panic!("{}", text_of_panic(&*panic)));
        self.figures.histories += reader.histories;
        self.figures.histories_refused += reader.refused;
        let excused = life.outage.is_some() || matches!(life.end, End::Stopping(..) | End::InOrder(_));
        assert!(reader.refused == 0 || excused, "{} histories refused for no reason", reader.refused);
        self.ledger.enter_view(reader.room, &reader.heard);
    }

    fn launch(&mut self, life: &Life) -> support::server::Starting {
        let flags = life.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Server::launch("", &self.place, &flags)
    }

    /// Looks at what is left of a server.
    fn died(&mut self, ended: Ended) {
        match ended.code {
            None => self.figures.kills += 1,
            Some(0) => self.figures.orderly_ends += 1,
            Some(_) if self.is_postgres_away() => self.figures.ends_without_postgres += 1,
            Some(code) => panic!("exit code {code}: {}", ended.log),
        }
        for line in ended.log.lines() {
            let number = |name: &str| line.split_once(name)?.1.split(' ').next()?.parse::<u64>().ok();
            if line.contains("messages of an earlier run") {
                self.figures.replayed_messages += number("messages=").expect("a number");
                self.figures.replayed_segments += number("segments=").expect("a number");
            }
            self.figures.torn_ends += u64::from(line.contains("is cut off"));
            assert!(!line.contains("ERROR") && !line.contains("panicked"), "{}", ended.log);
        }
        self.story.push(ended.log);
    }

    // ---- Postgres ---------------------------------------------------------------------------------------------------

    fn is_postgres_away(&self) -> bool {
        self.postgres.as_ref().is_some_and(|postgres| !postgres.is_running())
    }

    fn lose_postgres(&mut self, outage: &Outage) {
        sleep(outage.after);
        self.postgres.as_mut().unwrap().kill_9();
        self.figures.postgres_kills += 1;
        sleep(outage.lasts);
    }

    fn restore_postgres(&mut self) {
        if self.is_postgres_away() {
            self.postgres.as_mut().unwrap().restart();
        }
    }

    /// A server does not start without its database: it says so, and leaves the journal to the next.
    fn start_without_postgres(&mut self, life: &Life) {
        if !self.is_postgres_away() {
            return;
        }
        let ended = self.launch(life).listening().err().expect("a server that starts without its database");
        assert!(ended.code == Some(2) && ended.log.contains("is Postgres running there"), "{ended:?}");
        self.figures.ends_without_postgres += 1;
    }

    // ---- The end ----------------------------------------------------------------------------------------------------

    /// Starts it once more, to save what its earlier lives left.
    fn last_life(&mut self) {
        let server = Server::start(&self.place, &["--shards", "2"]);
        self.died(server.stop());
        self.check();
    }

    /// All that anyone was shown is in the table, and nothing is left in the journal or among the dead letters.
    fn check(&self) {
        assert_eq!(self.segments(), [""; 0], "an orderly end leaves segments only when the database is away");
        let letters = fs::read_to_string(self.place.folder().join("dead-letters.jsonl")).unwrap_or_default();
        assert_eq!(letters, "", "a message was refused by the database");
        self.ledger.check(|room| self.place.saved(room));
    }

    /// The journal's files.
    fn segments(&self) -> Vec<String> {
        let entries = fs::read_dir(self.place.folder().join("journal")).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(".journal"))
            .collect()
    }
}

/// A member that reads its room's history now and then, and looks whether it is whole.
struct Reader {
    room: RoomId,
    token: String,
    address: SocketAddr,
    /// What was shown to anyone in earlier lives.
    earlier: Vec<Stamp>,
    heard: Vec<Broadcast>,
    histories: u64,
    /// Answered with 503.
    refused: u64,
}

impl Reader {
    /// How much of a history is read at most.
    const PAGES_MAX: u64 = 5;

    fn start(server: &Server, room: &SeededRoom, ledger: &Ledger) -> JoinHandle<Reader> {
        let token = room.users[2].token.clone();
        let mut client = Client::join(server.address, room.room, &token);
        let earlier = ledger.last(room.room, 1000);
        let (room, address) = (room.room, server.address);
        let mut reader = Reader { room, token, address, earlier, heard: Vec::new(), histories: 0, refused: 0 };
        thread::spawn(move || {
            reader.read();
            while reader.listen(&mut client, Duration::from_millis(40)) {
                reader.read();
            }
            reader
        })
    }

    /// False when the connection has ended.
    fn listen(&mut self, client: &mut Client, lasts: Duration) -> bool {
        let until = Instant::now() + lasts;
        loop {
            match client.hear(Duration::from_millis(5)) {
                Some(Ok(message)) => self.heard.push(Broadcast::from(&message)),
                Some(Err(_)) => return false,
                None if Instant::now() > until => return true,
                None => {}
            }
        }
    }

    /// Reads some pages. Everything shown that belongs on them is on them, once, in order and as it was shown.
    fn read(&mut self) {
        let limit = [200, 50, 7][self.histories as usize % 3];
        let mut whole: Vec<Broadcast> = Vec::new();
        for _ in 0..=self.histories % Self::PAGES_MAX {
            let before = whole.last().map_or(String::new(), |last| format!("&before={}", last.id));
            let path = format!("/api/rooms/{}/messages?limit={limit}{before}", self.room);
            let Some((status, body)) = get(self.address, &path, &self.token) else { return };
            if status == 503 {
                self.refused += 1;
                return;
            }
            assert_eq!(status, 200, "{path}: {body}");
            let page = serde_json::from_str::<Value>(&body).unwrap();
            let page: Vec<Broadcast> = page["messages"].as_array().unwrap().iter().map(Broadcast::from).collect();
            for said in &page {
                let text = text_of(name_of(&said.text), LIVELY.padding_chars);
                assert_eq!(said.text, text, "a text in the history is not the one said");
            }
            let len = page.len();
            whole.extend(page);
            self.check(&whole, len < limit);
            if len < limit {
                break;
            }
        }
        self.histories += 1;
    }

    fn check(&self, history: &[Broadcast], is_all: bool) {
        let stamps: Vec<Stamp> = history.iter().map(stamp).collect();
        assert!(stamps.is_sorted_by(|one, next| one > next), "a history is out of order: {stamps:?}");
        let oldest = stamps.last().filter(|_| !is_all).copied();
        let by_stamp: BTreeMap<Stamp, &Broadcast> = stamps.into_iter().zip(history).collect();
        let due = |stamp: &Stamp| oldest.is_none_or(|oldest| *stamp >= oldest);
        for stamp in self.earlier.iter().filter(|stamp| due(stamp)) {
            assert!(by_stamp.contains_key(stamp), "{stamp:?}, of an earlier life, is not in the history");
        }
        for heard in &self.heard {
            let stamp = stamp(heard);
            assert!(
                !due(&stamp) || by_stamp.get(&stamp) == Some(&heard),
                "{stamp:?}, which I heard, is not in my history"
            );
        }
    }
}

fn stamp(said: &Broadcast) -> Stamp {
    Stamp { timestamp: read_rfc3339(&said.timestamp).unwrap(), id: said.id.parse().unwrap() }
}

/// Status and body, or `None` when the server is gone before it has answered.
fn get(address: SocketAddr, path: &str, token: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {token}\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let len = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    (len == Some(body.len())).then(|| (head["HTTP/1.1 ".len()..][..3].parse().unwrap(), body.to_owned()))
}

fn text_of_panic(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words")
}

/// Past the test harness, which swallows what a passing test prints.
fn tell(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
