//! A chat server for the tests of this crate, a thread a connection, that can be told to do one thing wrong. With it the
//! runs prove that they pass a right server, and that they catch a wrong one.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tungstenite::Message;
use tungstenite::handshake::server::{Request, Response};

use crate::fixtures::Fixtures;
use crate::fleet::{Clock, Fleet, Silent};
use crate::load::{self, Pace, Plan};
use crate::server::Spec;
use crate::url::Url;
use crate::{idle, report::Verdict};

/// What goes wrong, to the member that joined last, at message [`WRONG_AT`] of a room.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    Skips,
    Repeats,
    Swaps,
    Closes,
    RefusesTheSender,
    SplitsFrames,
}

const WRONG_AT: u64 = 20;

#[derive(Default)]
struct Room {
    members: Vec<TcpStream>,
    messages: u64,
    held_back: Vec<u8>,
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
    let (mut writer, mut answer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    let mut path = String::new();
    let callback = |request: &Request, response: Response| {
        path = request.uri().path().to_owned();
        Ok(response)
    };
    let mut socket = tungstenite::accept_hdr(stream, callback).unwrap();
    {
        let mut rooms = rooms.lock().unwrap();
        writer
            .write_all(&text(r#"{"type":"connection_established","message":"","user_id":"","username":""}"#))
            .unwrap();
        rooms.entry(path.clone()).or_default().members.push(writer);
    }
    while let Ok(message) = socket.read() {
        match message {
            Message::Text(json) => rooms.lock().unwrap().get_mut(&path).unwrap().broadcast(&json, &mut answer, wrong),
            Message::Close(_) => break,
            _ => {}
        }
    }
    // tungstenite has queued the echo of the close; one more read sends it.
    let _closed = socket.flush();
}

impl Room {
    fn broadcast(&mut self, json: &str, sender: &mut TcpStream, wrong: Wrong) {
        self.messages += 1;
        let sent: serde_json::Value = serde_json::from_str(json).unwrap();
        let (n, said) = (self.messages, sent["message"].as_str().unwrap());
        let json = format!(
            r#"{{"type":"chat_message","message":"{said}","sender_id":"","sender_username":"","message_id":"{n:08x}-0000-7000-8000-000000000000","timestamp":"","receiver_id":null}}"#
        );
        if wrong == Wrong::RefusesTheSender && n == WRONG_AT {
            return sender.write_all(&text(r#"{"type":"error","message":"no","code":"not_saved"}"#)).unwrap();
        }
        let frame = text(&json);
        let last = self.members.len() - 1;
        for (at, member) in self.members.iter_mut().enumerate() {
            // A member that has gone reads no more.
            let _gone = match wrong {
                Wrong::Skips if at == last && n == WRONG_AT => Ok(()),
                Wrong::Repeats if at == last && n == WRONG_AT => member.write_all(&frame.repeat(2)),
                Wrong::Closes if at == last && n == WRONG_AT => {
                    member.write_all(&[0x88, 2, 0x03, 0xf5]).and_then(|()| member.shutdown(Shutdown::Both))
                }
                Wrong::Swaps if at == last && n == WRONG_AT => {
                    self.held_back.clone_from(&frame);
                    Ok(())
                }
                Wrong::Swaps if at == last => {
                    member.write_all(&frame).and_then(|()| member.write_all(&std::mem::take(&mut self.held_back)))
                }
                Wrong::SplitsFrames => frame.chunks(7).try_for_each(|chunk| member.write_all(chunk)),
                _ => member.write_all(&frame),
            };
        }
    }
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

fn run(wrong: Wrong, pace: Pace) -> crate::report::LoadReport {
    let (fixtures, plan) = (fixtures(), plan(pace));
    let seats = fixtures.rooms(plan.rooms, plan.members).unwrap();
    load::run(&url(serve(wrong)), &plan, &seats, &[std::process::id()]).unwrap()
}

#[test]
fn a_right_server_passes_in_a_closed_and_in_an_open_loop() {
    for pace in [Pace::Closed { outstanding: 8 }, Pace::Open { per_second: 300.0 }] {
        for wrong in [Wrong::Nothing, Wrong::SplitsFrames] {
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
fn texts_have_the_lengths_asked_and_a_ramp_is_not_measured() {
    let (fixtures, pace) = (fixtures(), Pace::Open { per_second: 500.0 });
    let ramp = Duration::from_millis(200);
    let plan = Plan { text_bytes: "uniform:100..300".parse().unwrap(), ramp, ..plan(pace) };
    let seats = fixtures.rooms(plan.rooms, plan.members).unwrap();
    let report = load::run(&url(serve(Wrong::Nothing)), &plan, &seats, &[]).unwrap();
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
fn a_connection_is_held_and_one_that_ends_is_told() {
    let fixtures = fixtures();
    let report = |wrong| {
        let address = serve(wrong);
        let speaker = speak_soon(&url(address));
        let seats = fixtures.spread(6);
        let hold = Duration::from_millis(500);
        let report = idle::run(&url(address), &seats, 3, hold, &[std::process::id()]).unwrap();
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
