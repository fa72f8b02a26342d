//! Postgres is away while members talk on at a steady rate, and comes back: no message is lost, none is there twice, all are in
//! order; the server's memory stays flat, and those who talk while it catches up hardly notice.
//!
//! The load is open-loop: each message has its instant, whatever became of those before, and its latency counts from there. In
//! the gate it is short. `RINGROOM_TEST_OUTAGE_SECONDS` says for how long Postgres is away, and
//! `RINGROOM_TEST_OUTAGE_RATE` how many messages a second there are; built with `--release`:
//!
//! ```text
//! RINGROOM_TEST_POSTGRES=require RINGROOM_TEST_OUTAGE_SECONDS=120 RINGROOM_TEST_OUTAGE_RATE=5000 \
//!     cargo test --release --test long_outage -- --nocapture
//! ```

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::HashMap,
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use ringroom::{identity::RoomId, store::SeededRoom};
use support::{
    DEADLINE,
    client::{FIN, PING, Raw, Sender},
    place::Place,
    postgres::{self, Postgres},
    server::Server,
};

const ROOMS: u32 = 8;
/// All of them talk, and all of them listen.
const MEMBERS: u32 = 2;

/// Before the outage, and after all is saved.
const CALM: Duration = Duration::from_secs(3);

/// In the gate.
const OUTAGE_SECONDS: u64 = 6;
const RATE: u64 = 1000;

/// What is said, how it is saved, and what that may cost.
struct Scale {
    text_bytes: usize,
    commit_rows: &'static str,
    /// How much more memory the server may take in an outage and after it than before. What it needs then does not depend on
    /// how long that lasts: a batch, as the journal has it, as rows, and on the way to Postgres; and where the machine is so busy
    /// that a shard or the disk stands still for a while, what comes in at once after that.
    growth_bytes_max: u64,
}

/// In the gate messages are few, so they are longer: 12 MiB of texts in an outage, and batches of half a mebibyte.
const SHORT: Scale = Scale { text_bytes: 2048, commit_rows: "256", growth_bytes_max: 8 * 1024 * 1024 };

/// In two minutes at 5,000 a second, messages are 100 MiB in the journal and twice that in rooms' logs. A batch may take 8 MiB, and
/// the rooms' windows are of 1 MiB each.
const LONG: Scale = Scale { text_bytes: 40, commit_rows: "4096", growth_bytes_max: 24 * 1024 * 1024 };

/// A server is not behind any more when what was said so long ago is saved.
const CAUGHT_UP: Duration = Duration::from_millis(500);

/// Catching up may delay a message by the batch that it is in, and by others' work on a busy machine; not by more. Of a build
/// without optimisation nothing is asked.
const LATENCY_MAX: Duration = Duration::from_secs(1);

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}: {value} is no number")))
}

#[test]
fn an_outage_under_steady_load_loses_nothing_and_costs_no_memory() {
    let Some(mut postgres) = Postgres::start_with("an outage under steady load", &["fsync=on"]) else { return };
    let lasts = Duration::from_secs(setting("RINGROOM_TEST_OUTAGE_SECONDS", OUTAGE_SECONDS));
    let rate = setting("RINGROOM_TEST_OUTAGE_RATE", RATE);
    let Scale { text_bytes, commit_rows, growth_bytes_max } =
        if lasts.as_secs() > OUTAGE_SECONDS { LONG } else { SHORT };

    let mut place = Place::postgres(postgres.create_database("chat"));
    let rooms = place.seed(ROOMS, MEMBERS);
    let server = Server::start(&place, &["--drain-seconds", "0", "--commit-rows-max", commit_rows]);
    let watch = Watch::start(&server, &place);
    let load = Load::start(&server, &rooms, rate, text_bytes);
    sleep(CALM);
    let memory_before = watch.anonymous_max();

    let away = load.elapsed();
    postgres.stop();
    sleep(lasts);
    postgres.restart();
    let back = load.elapsed();
    let caught_up = wait_until_caught_up(&place, &load, 10 * DEADLINE + 5 * lasts);
    sleep(CALM);
    let heard = load.end();
    let (memory_after, journal_bytes) = (watch.anonymous_max(), watch.journal_bytes_max());
    let memory = watch.end();
    let ended = server.stop();

    let growth = memory_after.saturating_sub(memory_before);
    let messages = heard.iter().map(|heard| heard.sent).sum::<usize>();
    println!(
        "{messages} messages of {text_bytes} bytes, {rate} a second; away for {:.1} s, caught up {:.1} s after",
        (back - away).as_secs_f64(),
        (caught_up - back).as_secs_f64(),
    );
    println!(
        "memory (RssAnon) before {} KiB, at most {} KiB afterwards, {} KiB at the end; journal at most {} KiB",
        memory_before / 1024,
        memory_after / 1024,
        memory / 1024,
        journal_bytes / 1024
    );
    let phases = [
        ("before", Duration::ZERO..away),
        ("away", away..back),
        ("catching up", back..caught_up),
        ("after", caught_up..Duration::MAX),
    ];
    for (phase, times) in phases {
        let latencies = heard.iter().flat_map(|heard| &heard.messages);
        let mut latencies: Vec<Duration> =
            latencies.filter(|message| times.contains(&message.due)).map(|message| message.latency).collect();
        latencies.sort_unstable();
        let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
        println!(
            "{phase:>12}: {:>8} receipts, p50 {:?}, p99 {:?}, max {:?}",
            latencies.len(),
            at(0.5),
            at(0.99),
            at(1.0 - 1e-9)
        );
        assert!(cfg!(debug_assertions) || at(0.99) < LATENCY_MAX, "{phase}: p99 {:?}", at(0.99));
    }

    assert_eq!(ended.counter("rows"), messages as u64, "{}", ended.log);
    assert_eq!((ended.counter("not_saved"), ended.counter("dead_letters"), ended.counter("too_slow")), (0, 0, 0));
    for room in &rooms {
        check_room(&place, room.room, &heard);
    }
    assert!(growth < growth_bytes_max, "memory grew by {growth} bytes");
}

/// All members of a room heard the same, everyone's messages in the order sent, and the table holds just that.
fn check_room(place: &Place, room: RoomId, heard: &[Heard]) {
    let members: Vec<&Heard> = heard.iter().filter(|heard| heard.room == room).collect();
    let first = &members[0].messages;
    for member in &members {
        let are_same = member.messages.iter().map(Received::key).eq(first.iter().map(Received::key));
        assert!(are_same, "two members of a room heard different things");
    }
    assert!(first.is_sorted_by(|one, next| one.id < next.id), "ids rise");
    let mut next = HashMap::new();
    for message in first {
        let expected = next.entry(message.sender).or_insert(0);
        assert_eq!(message.nth, *expected, "sender {}: lost, twice or out of order", message.sender);
        *expected += 1;
    }
    assert_eq!(next.values().sum::<usize>(), members.iter().map(|member| member.sent).sum::<usize>());
    let saved = place.saved(room);
    assert_eq!(saved.len(), first.len(), "rows and messages");
    for (row, message) in saved.iter().zip(first) {
        assert_eq!((row.id.as_u128(), parse(&row.content)), (message.id, (message.sender, message.nth, message.due)));
    }
}

/// How far the table is behind, asked until that is little.
fn wait_until_caught_up(place: &Place, load: &Load, patience: Duration) -> Duration {
    const BEHIND: &str = "SELECT extract(epoch FROM now() - min(newest)) FROM
        (SELECT (SELECT max(timestamp) FROM chat_message WHERE room_id = room.id) AS newest FROM chat_chatroom room) rooms";
    let began = Instant::now();
    loop {
        let asked = load.elapsed();
        let answer = postgres::query(&place.url, BEHIND).unwrap();
        let behind: f64 = answer[0][0].as_deref().unwrap().parse().unwrap();
        if behind < CAUGHT_UP.as_secs_f64() {
            return asked;
        }
        assert!(began.elapsed() < patience, "the table is {behind} s behind");
        sleep(Duration::from_millis(100));
    }
}

// ---- The load -----------------------------------------------------------------------------------------------------------

/// Members that talk by the clock, and what they hear.
struct Load {
    began: Instant,
    is_over: Arc<AtomicBool>,
    talking: JoinHandle<Vec<usize>>,
    listening: Vec<(RoomId, Arc<AtomicUsize>, JoinHandle<Vec<Received>>)>,
}

/// What a member heard, and how many messages it sent.
struct Heard {
    room: RoomId,
    sent: usize,
    messages: Vec<Received>,
}

struct Received {
    id: u128,
    sender: usize,
    nth: usize,
    /// When it was to be sent, since the load began.
    due: Duration,
    /// From then to its receipt.
    latency: Duration,
}

impl Received {
    fn key(&self) -> (u128, usize, usize) {
        (self.id, self.sender, self.nth)
    }
}

/// A text says who sent it, which of his it is, and when it was due.
fn text(sender: usize, nth: usize, due: Duration, bytes: usize) -> String {
    format!("{:.<bytes$}", format!("{sender} {nth} {} ", due.as_micros()))
}

fn parse(text: &str) -> (usize, usize, Duration) {
    let mut fields = text.split(' ').map(str::parse::<u64>).map_while(Result::ok);
    let mut field = || fields.next().unwrap_or_else(|| panic!("{text}"));
    (field() as usize, field() as usize, Duration::from_micros(field()))
}

impl Load {
    fn start(server: &Server, rooms: &[SeededRoom], rate: u64, text_bytes: usize) -> Load {
        let members = rooms.iter().flat_map(|room| room.users.iter().map(move |user| (room.room, &user.token)));
        let members: Vec<(RoomId, Raw)> =
            members.map(|(room, token)| (room, Raw::join(server.address, room, token))).collect();
        let senders: Vec<Sender> = members.iter().map(|(_, raw)| raw.sender()).collect();
        let (began, is_over) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let listening = members.into_iter().map(|(room, raw)| {
            let expected = Arc::new(AtomicUsize::new(usize::MAX));
            let until = Arc::clone(&expected);
            (room, expected, thread::spawn(move || listen(raw, began, &until)))
        });
        let over = Arc::clone(&is_over);
        let talking = thread::spawn(move || talk(senders, began, rate, text_bytes, &over));
        Load { began, is_over: Arc::clone(&is_over), listening: listening.collect(), talking }
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Nothing more is said, and all that was is heard.
    fn end(self) -> Vec<Heard> {
        self.is_over.store(true, Relaxed);
        let sent = self.talking.join().unwrap();
        let mut said = HashMap::new();
        for ((room, ..), sent) in self.listening.iter().zip(&sent) {
            *said.entry(*room).or_insert(0) += sent;
        }
        for (room, expected, _) in &self.listening {
            expected.store(said[room], Relaxed);
        }
        let listening = self.listening.into_iter().zip(sent);
        listening.map(|((room, _, thread), sent)| Heard { room, sent, messages: thread.join().unwrap() }).collect()
    }
}

/// Everyone in turn, each message at its time; how many messages each has sent in the end.
fn talk(mut senders: Vec<Sender>, began: Instant, rate: u64, text_bytes: usize, is_over: &AtomicBool) -> Vec<usize> {
    let mut sent = vec![0; senders.len()];
    for number in 0.. {
        let due = Duration::from_nanos(number as u64 * 1_000_000_000 / rate);
        let ahead = due.saturating_sub(began.elapsed());
        // As exact as a thread sleeps; what has become due meanwhile goes out at once.
        if !ahead.is_zero() {
            sleep(ahead);
        }
        if is_over.load(Relaxed) {
            break;
        }
        let sender = number % senders.len();
        senders[sender].say(&text(sender, sent[sender], due, text_bytes));
        sent[sender] += 1;
    }
    sent
}

/// Reads until as many messages came as are expected by then.
fn listen(mut raw: Raw, began: Instant, expected: &AtomicUsize) -> Vec<Received> {
    let mut messages = Vec::new();
    let mut last = Instant::now();
    while messages.len() < expected.load(Relaxed) {
        let Some(frame) = raw.frame_within(Duration::from_millis(200)) else {
            assert!(last.elapsed() < DEADLINE, "nothing comes any more, after {} messages", messages.len());
            continue;
        };
        last = Instant::now();
        // Who talks all the time need not answer it.
        if frame.first == FIN | PING {
            continue;
        }
        messages.push(received(frame.text(), began.elapsed()));
    }
    messages
}

/// A broadcast whose text needs no escapes.
fn received(broadcast: &str, now: Duration) -> Received {
    let field = |name: &str| {
        let (_, rest) = broadcast.split_once(name).unwrap_or_else(|| panic!("{broadcast}"));
        rest.split('"').next().unwrap()
    };
    let (sender, nth, due) = parse(field(r#""message":""#));
    let id = field(r#""message_id":""#).parse::<uuid::Uuid>().unwrap().as_u128();
    Received { id, sender, nth, due, latency: now.saturating_sub(due) }
}

// ---- What the server takes ------------------------------------------------------------------------------------------

/// Looks at the server again and again.
struct Watch {
    is_over: Arc<AtomicBool>,
    most: Arc<[AtomicUsize; 2]>,
    thread: JoinHandle<u64>,
}

impl Watch {
    fn start(server: &Server, place: &Place) -> Watch {
        let (status, journal) = (server.proc("status"), place.folder().join("journal"));
        let (is_over, most) = (Arc::new(AtomicBool::new(false)), Arc::<[AtomicUsize; 2]>::default());
        let (over, shared) = (Arc::clone(&is_over), Arc::clone(&most));
        let thread = thread::spawn(move || {
            loop {
                let anonymous = anonymous_bytes(&fs::read_to_string(&status).unwrap());
                // A segment may be renamed in the meantime.
                let files = fs::read_dir(&journal).unwrap().flatten().filter_map(|entry| entry.metadata().ok());
                let journal_bytes: u64 = files.map(|file| file.len()).sum();
                shared[0].fetch_max(anonymous as usize, Relaxed);
                shared[1].fetch_max(journal_bytes as usize, Relaxed);
                if over.load(Relaxed) {
                    return anonymous;
                }
                sleep(Duration::from_millis(100));
            }
        });
        Watch { is_over, most, thread }
    }

    /// The most memory of its own so far: what is mapped from files the kernel can take back.
    fn anonymous_max(&self) -> u64 {
        self.most[0].load(Relaxed) as u64
    }

    fn journal_bytes_max(&self) -> u64 {
        self.most[1].load(Relaxed) as u64
    }

    /// The memory at the end.
    fn end(self) -> u64 {
        self.is_over.store(true, Relaxed);
        self.thread.join().unwrap()
    }
}

fn anonymous_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5 and later");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}
