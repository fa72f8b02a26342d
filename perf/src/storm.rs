//! A reconnect storm: all connections of a fleet are dropped at once and come back at once, as when a proxy in front of
//! the server falls over. How long until all of them have been greeted again, and what that costs the server.
//!
//! Each comes back as a client would: at once, and when it is refused or cut off after a pause that doubles, up to a
//! bound, of which a random part is waited. Nothing but the kernel's listen queue holds the first wave back.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::connections::{ENDINGS_MAX, SETTLE, Sitting, gone, listen, sit, told};
use crate::fixtures::Seat;
use crate::fleet::{Ending, Fleet};
use crate::process::{CpuTime, KernelMemory, Memory};
use crate::report::{ConnectionsReport, Latency, PerConnection, ServerCpu, Storm};
use crate::url::Url;

/// The longest pause after a first attempt that failed, and the longest of all: as ringroom's own page has them.
const PAUSE_FIRST: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 1000 });
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Connections begun before the sockets are looked at again.
const WAVE: usize = 64;

/// How long nobody at all may come back, with some still missing.
const STALL: Duration = Duration::from_secs(if cfg!(test) { 5 } else { 60 });

/// What stands in the end of a connection whose client need not try again.
const FINAL: [&str; 2] = ["closed with 4001", "closed with 4003"];

/// What the storms are to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) storms: usize,
    /// Whether connections end by a reset, or in TCP's order.
    pub(crate) reset: bool,
}

/// Opens every seat and holds them, as [`crate::connections::run`] does, and then lets the storms come.
///
/// # Errors
/// As there.
pub(crate) fn run(
    url: &Url,
    seats: &[Seat<'_>],
    sources: u8,
    hold: Duration,
    pids: &[u32],
    plan: Plan,
) -> Result<ConnectionsReport, String> {
    let kernel = KernelMemory::read();
    let (mut report, mut fleet) = sit(url, seats, sources, hold, pids)?;
    fleet.take_endings();
    for nth in 1..=plan.storms {
        if fleet.open() == 0 {
            report.faults.push(format!("storm {nth}: nobody was there any more"));
            break;
        }
        let mut returning = Returning::new(url, seats, sources);
        let storm = returning.storm(&mut fleet, pids, plan.reset, &report, kernel)?;
        report.storms.push(storm);
        let faults = returning.faults.into_iter().chain(told(&fleet.take_endings(), seats));
        report.faults.extend(faults.map(|fault| format!("storm {nth}: {fault}")));
        eprintln!("ringroom-perf: storm {nth} of {}", plan.storms);
    }
    fleet.leave(Duration::from_secs(10))?;
    Ok(report)
}

/// Those who come back in one storm.
struct Returning<'a> {
    url: &'a Url,
    seats: &'a [Seat<'a>],
    sources: u8,
    /// When whom is to try, soonest first.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Attempts of each so far.
    attempts: Vec<u32>,
    refusals: BTreeMap<String, u64>,
    /// Those who need not try again.
    turned_away: usize,
    back_ns: Histogram<u64>,
    rng: SmallRng,
    faults: Vec<String>,
}

impl<'a> Returning<'a> {
    fn new(url: &'a Url, seats: &'a [Seat<'a>], sources: u8) -> Self {
        Self {
            url,
            seats,
            sources,
            due: BinaryHeap::with_capacity(seats.len()),
            attempts: vec![0; seats.len()],
            refusals: BTreeMap::new(),
            turned_away: 0,
            back_ns: Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("its bounds are in order"),
            rng: SmallRng::seed_from_u64(u64::from(std::process::id())),
            faults: Vec::new(),
        }
    }

    fn storm(
        &mut self,
        fleet: &mut Fleet,
        pids: &[u32],
        reset: bool,
        before: &ConnectionsReport,
        kernel: KernelMemory,
    ) -> Result<Storm, String> {
        let (cpu, began) = (CpuTime::read(pids), Instant::now());
        fleet.sever(reset);
        let dropping_seconds = began.elapsed().as_secs_f64();
        self.due.extend((0..self.seats.len()).map(|member| Reverse((began, member))));
        self.come_back(fleet, began)?;
        let seconds = began.elapsed().as_secs_f64();
        let (used, returned) = (cpu.and_then(|cpu| Ok(CpuTime::read(pids)?.since(&cpu))), fleet.open());
        listen(fleet, SETTLE)?;
        let memory = Memory::read(pids).ok().filter(|_| !pids.is_empty());
        self.faults.extend(used.as_ref().err().cloned().map(gone));
        let counted = returned.max(1) as u64;
        let attempts: u64 = self.attempts.iter().map(|attempts| u64::from(*attempts)).sum();
        Ok(Storm {
            reset,
            dropping_seconds,
            seconds,
            returned,
            held: fleet.open(),
            connections_per_second: returned as f64 / seconds,
            back: Latency::of(&self.back_ns),
            attempts,
            retries: attempts.saturating_sub(self.seats.len() as u64),
            attempts_max: self.attempts.iter().copied().max().unwrap_or(0),
            refusals: std::mem::take(&mut self.refusals),
            server_cpu: used.map(|used| ServerCpu::of(used, seconds, counted)).ok().filter(|_| !pids.is_empty()),
            memory,
            bytes_per_connection: before
                .memory_before
                .zip(memory)
                .map(|(before, after)| PerConnection::of(&before, &after, counted)),
            kernel_slab_bytes_per_connection: KernelMemory::read().slab_bytes.saturating_sub(kernel.slab_bytes)
                / counted,
        })
    }

    /// Until all are back, or those who are missing will not come.
    fn come_back(&mut self, fleet: &mut Fleet, began: Instant) -> Result<(), String> {
        let (mut back, mut progress) = (0, Instant::now());
        while fleet.open() + self.turned_away < self.seats.len() {
            let now = Instant::now();
            self.try_those_due(fleet, now)?;
            let next = self.due.peek().map_or(Duration::MAX, |Reverse((due, _))| due.saturating_duration_since(now));
            fleet.turn(Some(next.min(Duration::from_millis(100))), &mut Sitting::default())?;
            if fleet.open() > back {
                let ns = began.elapsed().as_nanos() as u64;
                self.back_ns.saturating_record_n(ns, (fleet.open() - back) as u64);
                (back, progress) = (fleet.open(), Instant::now());
            }
            fleet.take_endings().iter().for_each(|ending| self.refused(ending));
            if progress.elapsed() > STALL {
                let missing = self.seats.len() - fleet.open();
                self.faults.push(format!("{missing} were not back when nobody had come for {} s", STALL.as_secs()));
                break;
            }
        }
        Ok(())
    }

    fn try_those_due(&mut self, fleet: &mut Fleet, now: Instant) -> Result<(), String> {
        for _ in 0..WAVE {
            let Some(Reverse((_, member))) = self.due.peek().copied().filter(|Reverse((due, _))| *due <= now) else {
                break;
            };
            self.due.pop();
            self.attempts[member] += 1;
            fleet.come(member, self.url, self.seats[member], self.sources).map_err(|error| {
                format!("connection {} to {}: {error}; more --sources have more ports", member + 1, self.url)
            })?;
        }
        Ok(())
    }

    fn refused(&mut self, ending: &Ending) {
        let Ending { member, why, .. } = ending;
        *self.refusals.entry(why.clone()).or_default() += 1;
        if FINAL.iter().any(|end| why.contains(end)) {
            self.turned_away += 1;
            if self.faults.len() < ENDINGS_MAX {
                self.faults.extend(told(std::slice::from_ref(ending), self.seats));
            }
            return;
        }
        let pause_max = PAUSE_FIRST.saturating_mul(1 << (self.attempts[*member] - 1).min(16)).min(PAUSE_MAX);
        let pause = pause_max.mul_f64(self.rng.random());
        self.due.push(Reverse((Instant::now() + pause, *member)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use tungstenite::accept;

    const GREETING: &[u8] = br#"{"type":"connection_established"}"#;

    /// What becomes of an attempt, by its number.
    type Fate = fn(usize) -> &'static str;

    /// Lets in whoever's fate is empty, and pings them; says the fate to the others instead of an answer.
    fn serve(fate: Fate) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (nth, stream) in listener.incoming().enumerate() {
                std::thread::spawn(move || converse(stream.unwrap(), fate(nth)));
            }
        });
        format!("ws://{address}").parse().unwrap()
    }

    fn converse(mut stream: TcpStream, fate: &str) {
        if fate.starts_with("HTTP") {
            let _head = stream.read(&mut [0; 4096]);
            let _answered = stream.write_all(fate.as_bytes());
            return;
        }
        let Ok(socket) = accept(stream.try_clone().unwrap()) else { return };
        let greeting = [&[0x81, GREETING.len() as u8], GREETING].concat();
        let close = [&[0x88, 2 + fate.len() as u8, 0x0f, 0xa1], fate.as_bytes()].concat();
        let said = stream.write_all(if fate.is_empty() { &greeting } else { &close });
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        // Until the peer has gone.
        while fate.is_empty() && said.is_ok() && stream.write_all(&[0x89, 0]).is_ok() {
            match stream.read(&mut [0; 64]) {
                Ok(0) => break,
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
                _ => {}
            }
        }
        drop(socket);
    }

    fn report(fate: Fate, plan: Plan) -> ConnectionsReport {
        let seats = [Seat { room: "r", username: "ann", token: "t" }; 6];
        run(&serve(fate), &seats, 2, Duration::from_millis(300), &[std::process::id()], plan).unwrap()
    }

    #[test]
    fn all_come_back_from_each_storm() {
        for reset in [true, false] {
            let report = report(|_| "", Plan { storms: 2, reset });
            assert_eq!((report.faults.len(), report.opened, report.held), (0, 6, 6), "{report}");
            assert!(report.heartbeats.pings > 6 && report.heartbeats.ns_per_connection_second > Some(0.0), "{report}");
            assert_eq!(report.storms.len(), 2);
            for storm in &report.storms {
                assert_eq!((storm.returned, storm.held, storm.attempts, storm.retries), (6, 6, 6, 0), "{report}");
                assert_eq!((storm.back.count, storm.attempts_max), (6, 1), "{report}");
                assert!(storm.refusals.is_empty() && storm.server_cpu.is_some() && storm.memory.is_some());
            }
        }
    }

    #[test]
    fn who_is_refused_tries_again() {
        let fate: Fate = |nth| if (6..9).contains(&nth) { "HTTP/1.1 503 Busy\r\n\r\n" } else { "" };
        let report = report(fate, Plan { storms: 1, reset: true });
        let storm = &report.storms[0];
        assert_eq!((report.faults.len(), storm.returned, storm.held), (0, 6, 6), "{report}");
        assert_eq!((storm.attempts, storm.retries, storm.attempts_max >= 2), (9, 3, true), "{report}");
        let refusals: Vec<_> = storm.refusals.iter().map(|(why, count)| (why.as_str(), *count)).collect();
        assert_eq!(refusals, [("the upgrade was refused: HTTP/1.1 503 Busy", 3)]);
    }

    #[test]
    fn who_is_turned_away_for_good_is_a_fault() {
        let report = report(|nth| if nth == 8 { "Unauthorized" } else { "" }, Plan { storms: 1, reset: true });
        let storm = &report.storms[0];
        assert_eq!((storm.returned, storm.held, storm.retries), (5, 5, 0), "{report}");
        assert!(report.faults.iter().any(|fault| fault.contains("storm 1: ann") && fault.contains("4001")), "{report}");
    }
}
