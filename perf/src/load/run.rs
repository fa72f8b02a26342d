//! A load under way: everyone is seated, sends, is measured, and is waited for; then the report. One thread does it all.

use std::time::Duration;

use super::plan::{Pace, Plan};
use super::schedule::Schedule;
use super::traffic::Traffic;
use crate::fixtures::Seat;
use crate::fleet::{Clock, Fleet};
use crate::process::{self, CpuTime, Memory};
use crate::report::{Latency, LoadReport};
use crate::url::Url;

/// How long a server that owes deliveries may deliver nothing before they count as lost.
const STALL: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });

/// A moment's counts.
struct Mark {
    at_ns: u64,
    echoes: u64,
    deliveries: u64,
    own_cpu_ns: u64,
    server: Option<CpuTime>,
}

impl Mark {
    fn now(traffic: &Traffic, pids: &[u32]) -> Result<Self, String> {
        let server = if pids.is_empty() { None } else { Some(CpuTime::read(pids)?) };
        Ok(Self {
            at_ns: traffic.clock.now_ns(),
            echoes: traffic.echoes,
            deliveries: traffic.deliveries,
            own_cpu_ns: process::own_cpu_ns(),
            server,
        })
    }
}

/// One load, under way.
struct Run<'a> {
    plan: &'a Plan,
    fleet: Fleet,
    traffic: Traffic,
    schedule: Option<Schedule>,
}

/// Runs the load. `seats` are `plan.members` a room, room after room.
///
/// # Errors
/// The server cannot be reached, refuses a member, or the process `pids` cannot be read. What goes wrong once the load
/// runs is in the report.
pub(crate) fn run(url: &Url, plan: &Plan, seats: &[Seat<'_>], pids: &[u32]) -> Result<LoadReport, String> {
    let clock = Clock::start();
    let mut fleet = Fleet::new(seats.len(), clock)?;
    let mut traffic = Traffic::new(plan, clock, run_tag())?;
    fleet.connect(url, seats, 1, &mut traffic)?;
    if let Some(ending) = fleet.endings().first() {
        let seat = seats[ending.member];
        return Err(format!("{} was not let into room {}: {}", seat.username, seat.room, ending.why));
    }
    let begin_ns = clock.now_ns();
    let schedule = match plan.pace {
        Pace::Open { per_second } => Some(Schedule::new(plan, per_second, begin_ns)),
        Pace::Closed { .. } => None,
    };
    let mut run = Run { plan, fleet, traffic, schedule };
    run.kick_off();
    let from_ns = begin_ns + plan.warm_up.as_nanos() as u64;
    run.traffic.from_ns = from_ns;
    run.traffic.until_ns = from_ns + plan.measured.as_nanos() as u64;
    let mut stalled = run.until(run.traffic.from_ns)?;
    let from = Mark::now(&run.traffic, pids)?;
    stalled = stalled || run.until(run.traffic.until_ns)?;
    let to = Mark::now(&run.traffic, pids)?;
    let memory = if pids.is_empty() { None } else { Some(Memory::read(pids)?) };
    stalled = run.drain()? || stalled;
    let mut faults: Vec<String> = run
        .fleet
        .endings()
        .iter()
        .take(10)
        .map(|ending| format!("{} (room {}): {}", seats[ending.member].username, seats[ending.member].room, ending.why))
        .collect();
    faults.extend(stalled.then(|| format!("the server fell silent for {} s with deliveries missing", STALL.as_secs())));
    faults.extend(run.traffic.faults(plan, seats));
    run.fleet.leave(Duration::from_secs(2))?;
    Ok(report(plan, &run.traffic, &from, &to, memory, faults))
}

/// Tells the messages of this run from those of another one in the same room.
fn run_tag() -> u32 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (since_epoch.as_micros() as u32).rotate_left(12) ^ std::process::id()
}

impl Run<'_> {
    fn kick_off(&mut self) {
        self.traffic.running = true;
        for at in 0..self.traffic.senders.len() {
            let sender = &mut self.traffic.senders[at];
            let now_ns = self.traffic.clock.now_ns();
            self.fleet.send(sender.member, |out| {
                for _ in 0..std::mem::take(&mut sender.credit) {
                    sender.write(now_ns, out);
                }
            });
        }
    }

    /// Drives the load until `end_ns`; whether it stalled before.
    fn until(&mut self, end_ns: u64) -> Result<bool, String> {
        let mut progress = (self.traffic.deliveries, self.traffic.clock.now_ns());
        loop {
            let now_ns = self.traffic.clock.now_ns();
            // What was due before the end is sent, however late this thread is.
            let due_ns = self.send_due(now_ns.min(end_ns)).unwrap_or(end_ns);
            if now_ns >= end_ns {
                return Ok(false);
            }
            let wait_ns = due_ns.min(end_ns).saturating_sub(now_ns).min(100_000_000);
            self.fleet.turn(Some(Duration::from_nanos(wait_ns)), &mut self.traffic)?;
            if self.traffic.deliveries > progress.0 || !self.traffic.owes(self.plan) {
                progress = (self.traffic.deliveries, now_ns);
            } else if now_ns - progress.1 > STALL.as_nanos() as u64 {
                return Ok(true);
            }
        }
    }

    /// Sends what an open loop's clock says; when the next message is due.
    fn send_due(&mut self, now_ns: u64) -> Option<u64> {
        let schedule = self.schedule.as_mut()?;
        while schedule.due_ns() <= now_ns {
            let due_ns = schedule.due_ns();
            let sender = &mut self.traffic.senders[schedule.take()];
            self.fleet.send(sender.member, |out| sender.write(due_ns, out));
        }
        Some(schedule.due_ns())
    }

    /// Stops sending and waits for what is still under way; whether the server stalled.
    fn drain(&mut self) -> Result<bool, String> {
        self.traffic.running = false;
        self.schedule = None;
        let mut progress = (self.traffic.deliveries, self.traffic.clock.now_ns());
        while self.traffic.owes(self.plan) && self.fleet.open() > 0 {
            self.fleet.turn(Some(Duration::from_millis(50)), &mut self.traffic)?;
            let now_ns = self.traffic.clock.now_ns();
            if self.traffic.deliveries > progress.0 {
                progress = (self.traffic.deliveries, now_ns);
            } else if now_ns - progress.1 > STALL.as_nanos() as u64 {
                return Ok(true);
            }
        }
        // What arrives beyond what was sent (a duplicate) arrives now.
        self.fleet.turn(Some(Duration::from_millis(50)), &mut self.traffic)?;
        Ok(false)
    }
}

fn report(
    plan: &Plan,
    traffic: &Traffic,
    from: &Mark,
    to: &Mark,
    memory: Option<Memory>,
    faults: Vec<String>,
) -> LoadReport {
    let seconds = (to.at_ns - from.at_ns) as f64 / 1e9;
    let deliveries = to.deliveries - from.deliveries;
    let used = to.server.as_ref().zip(from.server.as_ref()).map(|(to, from)| to.since(from));
    LoadReport {
        rooms: plan.rooms,
        members_per_room: plan.members,
        senders_per_room: plan.senders,
        outstanding_per_room: match plan.pace {
            Pace::Closed { outstanding } => Some(outstanding),
            Pace::Open { .. } => None,
        },
        messages_per_second_per_room_asked: match plan.pace {
            Pace::Open { per_second } => Some(per_second),
            Pace::Closed { .. } => None,
        },
        text_bytes: plan.text_bytes,
        seconds,
        messages: to.echoes - from.echoes,
        deliveries,
        messages_per_second: (to.echoes - from.echoes) as f64 / seconds,
        deliveries_per_second: deliveries as f64 / seconds,
        latency: Latency::of(&traffic.latency),
        server_cpu: used.map(|by_thread| crate::report::ServerCpu::of(by_thread, seconds, deliveries)),
        server_memory: memory,
        client_busy: (to.own_cpu_ns - from.own_cpu_ns) as f64 / 1e9 / seconds,
        client_ns_per_delivery: (to.own_cpu_ns - from.own_cpu_ns) as f64 / deliveries.max(1) as f64,
        messages_verified: traffic.members.iter().step_by(plan.members).map(|first| first.sequence.count()).sum(),
        deliveries_verified: traffic.deliveries,
        faults,
    }
}
