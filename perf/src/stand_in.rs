//! A chat server for the tests of this crate, a thread a connection, that can be told to do one thing wrong. With it the
//! runs prove that they pass a right server, and that they catch a wrong one.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tungstenite::Message;
use tungstenite::handshake::server::{Request, Response};

use crate::connections;
use crate::fixtures::Fixtures;
use crate::fleet::{Clock, Fleet, Silent};
use crate::load::{self, Pace, Plan};
use crate::report::{LoadReport, Verdict};
use crate::server::Spec;
use crate::url::Url;

/// What goes wrong. Unless it says otherwise: to the member that joined last, at message [`WRONG_AT`] of a room.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    Skips,
    Repeats,
    Swaps,
    Closes,
    RefusesTheSender,
    /// Right, but a frame comes in pieces.
    SplitsFrames,
    /// Right; whoever has too much waiting is closed with 1013.
    BoundsTheLag,
    /// Right, but spaced as Python spaces its JSON, with ids that carry no order and times that are numbers.
    WritesAsDjango,
    /// Whoever comes when messages have been sent misses its third one.
    LateSkips,
    LateRepeats,
    LateSwaps,
    /// Whoever comes then misses the first [`MISSED`].
    LateMissesTheBeginning,
    /// A close frame is not answered.
    KeepsWhoLeaves,
    /// Whoever has much waiting misses messages, before it is closed.
    LaggingSkips,
    /// Whoever has too much waiting is closed with 1011.
    LaggingFails,
    /// Nothing happens for [`STALL`].
    Stalls,
    /// Every message takes [`SLOWNESS`].
    Slows,
    FallsSilent,
}

const WRONG_AT: u64 = 20;
const MISSED: u64 = 15;
const STALL: Duration = Duration::from_millis(300);
const SLOWNESS: Duration = Duration::from_millis(5);

/// Bytes that may wait for a member; the kernel keeps as many again.
const LAG_BYTES_MAX: usize = 32 << 10;
const KERNEL_BYTES: usize = 4 << 10;

/// A connection: frames go to a thread of its own, so that nobody waits for it.
struct Member {
    id: u64,
    out: mpsc::Sender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    /// Messages of the room since it joined, and before.
    messages: u64,
    before: u64,
    held_back: Vec<u8>,
}

#[derive(Default)]
struct Room {
    members: Vec<Member>,
    joined: u64,
    messages: u64,
}

type Rooms = Arc<Mutex<HashMap<String, Room>>>;

fn serve(wrong: Wrong) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let rooms = Rooms::default();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let rooms = Arc::clone(&rooms);
            std::thread::spawn(move || converse(stream.unwrap(), &rooms, wrong));
        }
    });
    address
}

#[allow(clippy::result_large_err)] // tungstenite's callback type
fn converse(stream: TcpStream, rooms: &Rooms, wrong: Wrong) {
    stream.set_nodelay(true).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, KERNEL_BYTES).unwrap();
    let writer = stream.try_clone().unwrap();
    let mut path = String::new();
    let callback = |request: &Request, response: Response| {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    let mut socket = tungstenite::accept_hdr(stream, callback).unwrap();
    let (out, waiting) = write_apart(writer);
    let id = rooms.lock().unwrap().entry(path.clone()).or_default().join(out.clone(), waiting);
    while let Ok(message) = socket.read() {
        let mut rooms = rooms.lock().unwrap();
        let room = rooms.get_mut(&path).unwrap();
        match message {
            Message::Text(json) => room.broadcast(&json, &out, wrong),
            Message::Close(_) => {
                room.members.retain(|member| member.id != id);
                if wrong == Wrong::KeepsWhoLeaves {
                    // Both stay open.
                    std::mem::forget((socket, out));
                } else {
                    out.send(close(1000)).unwrap_or_default();
                }
                return;
            }
            _ => {}
        }
    }
}

/// A thread that writes what it is sent, up to a close frame, and how many bytes wait for it.
fn write_apart(mut stream: TcpStream) -> (mpsc::Sender<Vec<u8>>, Arc<AtomicUsize>) {
    let (out, frames) = mpsc::channel::<Vec<u8>>();
    let waiting = Arc::new(AtomicUsize::new(0));
    let written = Arc::clone(&waiting);
    std::thread::spawn(move || {
        for frame in frames {
            // A member that has gone reads no more.
            let gone = stream.write_all(&frame).is_err();
            written.fetch_sub(frame.len().min(written.load(Relaxed)), Relaxed);
            if gone || frame[0] == 0x88 {
                break;
            }
        }
        let _gone = stream.shutdown(Shutdown::Write);
    });
    (out, waiting)
}

impl Room {
    fn join(&mut self, out: mpsc::Sender<Vec<u8>>, waiting: Arc<AtomicUsize>) -> u64 {
        out.send(text(r#"{"type":"connection_established","message":"","user_id":"","username":""}"#)).unwrap();
        self.joined += 1;
        let (id, before) = (self.joined, self.messages);
        self.members.push(Member { id, out, waiting, messages: 0, before, held_back: Vec::new() });
        id
    }

    fn broadcast(&mut self, json: &str, sender: &mpsc::Sender<Vec<u8>>, wrong: Wrong) {
        self.messages += 1;
        let sent: serde_json::Value = serde_json::from_str(json).unwrap();
        let (n, said) = (self.messages, sent["message"].as_str().unwrap());
        let json = format!(
            r#"{{"type":"chat_message","message":"{said}","sender_id":"","sender_username":"","message_id":"{n:08x}-0000-7000-8000-000000000000","timestamp":"","receiver_id":null}}"#
        );
        let json = if wrong == Wrong::WritesAsDjango { as_django(n, said) } else { json };
        match wrong {
            Wrong::RefusesTheSender if n == WRONG_AT => {
                return sender.send(text(r#"{"type":"error","message":"no","code":"not_saved"}"#)).unwrap();
            }
            Wrong::FallsSilent if n >= WRONG_AT => return,
            Wrong::Stalls if n == WRONG_AT => std::thread::sleep(STALL),
            Wrong::Slows => std::thread::sleep(SLOWNESS),
            _ => {}
        }
        let (frame, last) = (text(&json), self.members.len() - 1);
        let mut at = 0;
        self.members.retain_mut(|member| {
            at += 1;
            member.receive(&frame, at - 1 == last && n == WRONG_AT, wrong)
        });
    }
}

impl Member {
    /// Gives it the room's next message; whether it stays. `last` says that what goes wrong at the last member goes wrong now.
    fn receive(&mut self, frame: &[u8], last: bool, wrong: Wrong) -> bool {
        self.messages += 1;
        let (late, waiting) = (self.before > 0, self.waiting.load(Relaxed));
        let third = late && self.messages == 3;
        if !self.held_back.is_empty() {
            let held_back = std::mem::take(&mut self.held_back);
            self.send(frame.to_vec());
            self.send(held_back);
            return true;
        }
        match wrong {
            Wrong::Closes if last => {
                self.send(close(1013));
                return false;
            }
            Wrong::Skips if last => {}
            Wrong::LateSkips if third => {}
            Wrong::LateMissesTheBeginning if late && self.messages <= MISSED => {}
            Wrong::LaggingSkips if waiting > LAG_BYTES_MAX / 2 && self.messages.is_multiple_of(8) => {}
            Wrong::Swaps if last => self.held_back = frame.to_vec(),
            Wrong::LateSwaps if third => self.held_back = frame.to_vec(),
            Wrong::Repeats if last => self.send(frame.repeat(2)),
            Wrong::LateRepeats if third => self.send(frame.repeat(2)),
            Wrong::SplitsFrames => frame.chunks(7).for_each(|chunk| self.send(chunk.to_vec())),
            Wrong::BoundsTheLag | Wrong::LaggingSkips | Wrong::LaggingFails if waiting > LAG_BYTES_MAX => {
                self.send(close(if wrong == Wrong::LaggingFails { 1011 } else { 1013 }));
                return false;
            }
            _ => self.send(frame.to_vec()),
        }
        true
    }

    fn send(&self, bytes: Vec<u8>) {
        self.waiting.fetch_add(bytes.len(), Relaxed);
        // Its thread ends when it has gone.
        self.out.send(bytes).unwrap_or_default();
    }
}

fn as_django(n: u64, said: &str) -> String {
    let id = format!("{:08x}-0000-4000-8000-000000000000", n.wrapping_mul(0x9e37_79b9) as u32);
    format!(
        r#"{{"type": "chat_message", "message": "{said}", "sender_id": 7, "sender_username": "ann", "message_id": "{id}", "timestamp": 1700000000.{n}, "receiver_id": null}}"#
    )
}

fn close(code: u16) -> Vec<u8> {
    [&[0x88, 2][..], &code.to_be_bytes()].concat()
}

/// How the right stand-in is started as a process of its own.
pub(crate) fn spec() -> Spec {
    Spec::new("stand-in", std::env::current_exe().unwrap())
        .args(["stand_in::a_process_of_its_own", "--exact", "--ignored", "--nocapture"])
        .env("STAND_IN", "serve")
}

#[test]
#[ignore = "not a test: the process that spec() starts"]
fn a_process_of_its_own() {
    if std::env::var_os("STAND_IN").is_some() {
        println!("listening on http://{}", serve(Wrong::Nothing));
        loop {
            std::thread::park();
        }
    }
}

/// What a load on the right one found.
pub(crate) fn report() -> LoadReport {
    run(Wrong::Nothing, Pace::Closed { outstanding: 2 })
}

fn text(json: &str) -> Vec<u8> {
    let len = (json.len() as u16).to_be_bytes();
    let head = if json.len() < 126 { vec![0x81, json.len() as u8] } else { vec![0x81, 126, len[0], len[1]] };
    [head, json.as_bytes().to_vec()].concat()
}

/// Two rooms of two users.
pub(crate) fn fixtures() -> Fixtures {
    let room = |n: u32| {
        format!(r#"{{"room":"room-{n}","users":[{{"username":"ann","token":"a"}},{{"username":"ben","token":"b"}}]}}"#)
    };
    serde_json::from_str(&format!(r#"{{"rooms":[{},{}]}}"#, room(1), room(2))).unwrap()
}

fn plan(pace: Pace) -> Plan {
    let (warm_up, measured) = (Duration::from_millis(50), Duration::from_millis(200));
    Plan { rooms: 2, members: 5, senders: 3, warm_up, measured, ..Plan::new(pace) }
}

fn url(address: SocketAddr) -> Url {
    format!("ws://{address}").parse().unwrap()
}

fn run(wrong: Wrong, pace: Pace) -> LoadReport {
    carry_out(wrong, &plan(pace))
}

fn carry_out(wrong: Wrong, plan: &Plan) -> LoadReport {
    let fixtures = fixtures();
    let seats = fixtures.rooms(plan.rooms, plan.members).unwrap();
    load::run(&url(serve(wrong)), plan, &seats, &[std::process::id()]).unwrap()
}

/// Members 3 and 4 of both rooms change, each about ten times a second.
fn churning() -> Plan {
    let measured = Duration::from_millis(400);
    Plan { churn_per_second: 40.0, measured, ..plan(Pace::Open { per_second: 300.0 }) }
}

/// One member of each room reads so many bytes a second of some 150,000.
fn dragging(slow_bytes_per_second: usize) -> Plan {
    let measured = Duration::from_millis(800);
    Plan { slow_readers: 2, slow_bytes_per_second, measured, ..plan(Pace::Open { per_second: 500.0 }) }
}

#[test]
fn a_right_server_passes_in_a_closed_and_in_an_open_loop() {
    for pace in [Pace::Closed { outstanding: 8 }, Pace::Open { per_second: 300.0 }] {
        for wrong in [Wrong::Nothing, Wrong::SplitsFrames, Wrong::WritesAsDjango] {
            let report = run(wrong, pace.clone());
            assert_eq!(report.faults(), [""; 0], "{pace:?} {wrong:?}");
            assert!(report.messages > 0 && report.deliveries > report.messages, "{report}");
            assert_eq!(report.deliveries_verified, report.messages_verified * 5);
            assert!(report.latency.count > 20 && report.latency.p50_us > 0.0, "{report}");
            assert!(report.delivery_latency.count > 100 && report.delivery_latency.p50_us > 0.0, "{report}");
            assert!(report.series.iter().any(|sample| sample.measured && sample.p99_us.is_some()), "{report:?}");
        }
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let report = run(Wrong::Nothing, Pace::Open { per_second: 400.0 });
    let sent = report.messages_verified;
    assert!((199..=201).contains(&sent), "2 rooms x 400/s x 0.25 s, but {sent} were sent: {report}");
}

#[test]
fn a_client_that_never_sleeps_counts_its_work_alone() {
    let report = carry_out(Wrong::Nothing, &Plan { spins: true, ..plan(Pace::Open { per_second: 100.0 }) });
    assert_eq!(report.faults(), [""; 0], "{report}");
    assert!((49..=51).contains(&report.messages_verified), "2 rooms x 100/s x 0.25 s: {report}");
    // Without sleep it uses all that it gets of a core; forty messages take some hundredths of that.
    assert!(report.client_busy > 0.0 && report.client_busy < 0.5, "{report}");
    assert!(report.to_string().contains("spun in between"), "{report}");
}

#[test]
fn texts_have_the_lengths_asked_and_a_ramp_is_not_measured() {
    let (text_bytes, ramp) = ("uniform:100..300".parse().unwrap(), Duration::from_millis(200));
    let report = carry_out(Wrong::Nothing, &Plan { text_bytes, ramp, ..plan(Pace::Open { per_second: 500.0 }) });
    assert_eq!(report.faults(), [""; 0], "{report}");
    assert!((180.0..220.0).contains(&report.text_bytes_mean), "{report}");
    // 2 rooms x 500/s: half as many in the 0.2 s of the ramp, all in the 0.05 s of warm-up and the 0.2 s measured.
    assert!((349..=351).contains(&report.messages_verified), "{report}");
    assert!((199..=201).contains(&report.latency.count), "{report}");
}

#[test]
fn each_rate_of_a_sweep_is_measured_by_itself() {
    let report = run(Wrong::Nothing, Pace::Steps { per_second: vec![100.0, 400.0] });
    assert_eq!(report.faults(), [""; 0], "{report}");
    for (step, sent) in report.steps.iter().zip([40, 160]) {
        assert!((sent - 2..=sent + 2).contains(&step.latency.count), "{sent} due, {step:?}");
        assert!(step.messages > 0 && step.server_cpu.is_some() && step.seconds > 0.1, "{step:?}");
    }
    assert_eq!(report.steps.iter().map(|step| step.messages).sum::<u64>(), report.messages);
    assert_eq!(report.steps.iter().map(|step| step.latency.count).sum::<u64>(), report.latency.count);
    assert!(report.steps[1].from_seconds > 0.25, "{report:?}");
}

#[test]
fn a_wrong_server_is_caught() {
    for (wrong, word) in [
        (Wrong::Skips, "a gap"),
        (Wrong::Repeats, "duplicate"),
        (Wrong::Swaps, "did not rise"),
        (Wrong::Closes, "closed with 1013"),
        (Wrong::RefusesTheSender, "2 messages were refused"),
    ] {
        let faults = run(wrong, Pace::Open { per_second: 400.0 }).faults().join("\n");
        assert!(faults.contains(word), "{wrong:?}: {faults:?}");
    }
}

#[test]
fn connections_that_come_and_go_are_verified_too() {
    let closed_loop = Plan { pace: Pace::Closed { outstanding: 8 }, ..churning() };
    for (plan, right) in
        [(churning(), Wrong::Nothing), (closed_loop.clone(), Wrong::Nothing), (closed_loop, Wrong::WritesAsDjango)]
    {
        let report = carry_out(right, &plan);
        assert_eq!(report.faults(), [""; 0], "{report}");
        let churn = report.churn.as_ref().unwrap();
        assert!(churn.left >= 10 && churn.came == churn.left && churn.greeting.count == churn.came, "{report}");
        // Those who left, and the four who stayed.
        assert_eq!(report.stretches_verified, churn.left + 4, "{report}");
    }
}

#[test]
fn a_pause_between_two_rates_is_not_made_up_for_by_churn() {
    let pace = Pace::Steps { per_second: vec![100.0, 100.0] };
    let report = carry_out(Wrong::Stalls, &Plan { pace, ..churning() });
    assert_eq!(report.faults(), [""; 0], "{report}");
    // 40 a second for two times 0.45 s.
    let churn = report.churn.as_ref().unwrap();
    assert!((10..=36).contains(&(churn.left + churn.vacant)) && churn.came == churn.left, "{report}");
}

#[test]
fn a_server_that_is_wrong_to_those_who_come_or_go_is_caught() {
    for (wrong, word) in [
        (Wrong::LateSkips, "a gap, a duplicate or another order"),
        (Wrong::LateRepeats, "did not rise"),
        (Wrong::LateSwaps, "did not rise"),
        (Wrong::LateMissesTheBeginning, "after it was greeted did not come"),
        (Wrong::KeepsWhoLeaves, "not let go"),
    ] {
        let faults = carry_out(wrong, &churning()).faults().join("\n");
        assert!(faults.contains(word), "{wrong:?}: {faults:?}");
    }
}

#[test]
fn slow_readers_may_be_closed_but_miss_nothing_before() {
    let closed = carry_out(Wrong::BoundsTheLag, &dragging(20_000));
    assert_eq!(closed.faults(), [""; 0], "{closed}");
    let slow = closed.slow_readers.as_ref().unwrap();
    assert_eq!((slow.kept, slow.cut, slow.closed_by_code[&1013], closed.stretches_verified), (0, 0, 2, 2), "{closed}");
    let (messages, deliveries) = (closed.messages_verified, closed.deliveries_verified);
    assert!((messages * 4 + 1..messages * 5).contains(&deliveries), "{closed}");

    let kept = carry_out(Wrong::Nothing, &dragging(1_000_000));
    assert_eq!(kept.faults(), [""; 0], "{kept}");
    assert_eq!((kept.slow_readers.as_ref().unwrap().kept, kept.stretches_verified), (2, 2), "{kept}");

    for (wrong, word) in [(Wrong::LaggingSkips, "a gap, a duplicate"), (Wrong::LaggingFails, "closed with 1011")] {
        let faults = carry_out(wrong, &dragging(20_000)).faults().join("\n");
        assert!(faults.contains(word), "{wrong:?}: {faults:?}");
    }
}

#[test]
fn a_stall_counts_for_every_message_that_was_due_in_it() {
    // 120 of 400 messages a second and room are due while nothing happens, most of them long before it ends.
    let report = run(Wrong::Stalls, Pace::Open { per_second: 400.0 });
    assert_eq!(report.faults(), [""; 0], "{report}");
    for latency in [&report.latency, &report.delivery_latency] {
        assert!(latency.max_us > 200_000.0 && latency.p90_us > 50_000.0, "{report}");
    }
}

#[test]
fn a_server_that_is_too_slow_does_not_reach_the_rate() {
    let report = run(Wrong::Slows, Pace::Steps { per_second: vec![20.0, 400.0] });
    assert_eq!(report.faults(), [""; 0], "{report}");
    let reached: Vec<f64> =
        report.steps.iter().map(|step| step.messages_per_second / step.messages_per_second_asked).collect();
    // Both rooms together get one message in 5 ms at most.
    assert!(reached[0] > 0.5 && reached[1] <= 0.3, "{reached:?} {report}");
}

#[test]
fn a_server_that_falls_silent_is_told() {
    let faults = run(Wrong::FallsSilent, Pace::Closed { outstanding: 4 }).faults().join("\n");
    assert!(faults.contains("fell silent"), "{faults:?}");
}

#[test]
fn a_connection_is_held_and_one_that_ends_is_told() {
    let fixtures = fixtures();
    let report = |wrong| {
        let address = serve(wrong);
        let speaker = speak_soon(&url(address));
        let seats = fixtures.spread(6);
        let hold = Duration::from_millis(500);
        let report = connections::run(&url(address), &seats, 3, hold, &[std::process::id()]).unwrap();
        speaker.join().unwrap();
        report
    };
    let whole = report(Wrong::Nothing);
    assert_eq!((whole.opened, whole.held, whole.faults.len()), (6, 6, 0), "{whole}");
    assert!(whole.bytes_per_connection.is_some() && whole.connecting_cpu.is_some());
    let broken = report(Wrong::Closes);
    assert_eq!((broken.opened, broken.held), (6, 5), "{broken}");
    assert!(broken.faults[0].contains("1013"), "{broken}");
}

#[test]
fn a_server_that_ends_costs_its_figures_and_not_the_report() {
    let fixtures = fixtures();
    let mut server = std::process::Command::new("sleep").arg("0.3").spawn().unwrap();
    let pids = [server.id()];
    let reaper = std::thread::spawn(move || server.wait());
    let (address, hold) = (serve(Wrong::Nothing), Duration::from_millis(300));
    let report = connections::run(&url(address), &fixtures.spread(6), 1, hold, &pids).unwrap();
    assert!(reaper.join().unwrap().unwrap().success());
    assert_eq!((report.opened, report.held), (6, 6), "{report}");
    assert!(report.memory_before.is_some() && report.memory.is_none() && report.idle_cpu.is_none(), "{report}");
    assert!(report.faults[0].contains("ended meanwhile") && !report.faults[0].contains("--pid"), "{report}");
    assert!(connections::run(&url(address), &fixtures.spread(6), 1, hold, &pids).unwrap_err().contains("--pid"));
}

/// Sits down in the first room, and says [`WRONG_AT`] things there once others have had time to sit down too.
fn speak_soon(url: &Url) -> std::thread::JoinHandle<()> {
    let (url, (seated, sits)) = (url.clone(), std::sync::mpsc::channel());
    let speaker = std::thread::spawn(move || {
        let mut fleet = Fleet::new(1, Clock::start()).unwrap();
        fleet.connect(&url, &fixtures().rooms(1, 1).unwrap(), 1, &mut Silent).unwrap();
        seated.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let template = crate::message::Template::new(1);
        let author = template.author(1);
        (0..WRONG_AT as u32).for_each(|number| fleet.send(0, |out| template.write(&author, number, 0, 24, out)));
        fleet.leave(Duration::from_secs(2)).unwrap();
    });
    sits.recv_timeout(Duration::from_secs(5)).unwrap();
    speaker
}
