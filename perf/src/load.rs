//! `load`: members sit in rooms, some of them send, everyone receives; how fast, how late, at what cost to the server,
//! and whether each member saw every message once and in its room's order.
//!
//! Closed loop: each room has a fixed number of messages outstanding; an echo lets the next one go. It finds the most
//! that a server can do. Open loop: messages leave by the clock, whether or not the server keeps up, and latency counts
//! from the time a message was due, so that a stalled server cannot hide its stall (coordinated omission).

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::field::{Anchor, Field};
use crate::fixtures::Seat;
use crate::fleet::{Clock, Crowd, Fleet};
use crate::message::Template;
use crate::process::{self, CpuTime, Memory};
use crate::report::{Latency, LoadReport};
use crate::sequence::{MessageId, Sequence};
use crate::url::Url;

/// Longest latency that is told apart from longer ones.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// How long a server that owes deliveries may deliver nothing before they count as lost.
const STALL: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });

/// When the next message leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// When an earlier one has come back: so many are outstanding in a room.
    Closed { outstanding: usize },
    /// By the clock: so many a second in a room.
    Open { per_second: f64 },
}

/// What a load is.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rooms: usize,
    pub(crate) members: usize,
    pub(crate) senders: usize,
    pub(crate) pace: Pace,
    pub(crate) text_bytes: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

/// One member, as the load sees it.
struct Member {
    sequence: Sequence,
    /// Its place among the senders, if it sends.
    sender: Option<u32>,
}

struct Sender {
    member: usize,
    template: Template,
    next: u32,
    /// Messages not yet echoed: number, and when it was sent or due.
    outstanding: VecDeque<(u32, u64)>,
    /// Messages that may leave at the next answer.
    credit: u32,
    sent: u64,
    refused: u64,
}

/// The messages of a run: what was sent, and what came of it.
struct Traffic {
    clock: Clock,
    members: Vec<Member>,
    senders: Vec<Sender>,
    id: Field,
    mark: Field,
    closed_loop: bool,
    /// Whether senders send: not before everyone sits, not after the measured time.
    running: bool,
    deliveries: u64,
    echoes: u64,
    /// Messages passed over when a later one of the same sender came back.
    skipped: u64,
    refusals: u64,
    /// What the server answered to the first message that it refused.
    refusal: String,
    /// Messages sent at or after this count for latency, and before `until_ns`.
    from_ns: u64,
    until_ns: u64,
    latency: Histogram<u64>,
}

impl Crowd for Traffic {
    #[inline]
    fn text(&mut self, member: usize, payload: &[u8], now_ns: u64) {
        let Some(id) = self.id.value::<{ size_of::<MessageId>() }>(payload) else {
            return self.refused(member, payload);
        };
        let member = &mut self.members[member];
        member.sequence.push(id);
        self.deliveries += 1;
        if let Some(sender) = member.sender {
            self.echo(sender, payload, now_ns);
        }
    }

    #[inline]
    fn answer(&mut self, member: usize, out: &mut Vec<u8>) {
        let Some(sender) = self.members[member].sender else { return };
        let sender = &mut self.senders[sender as usize];
        if sender.credit > 0 && self.running {
            let now_ns = self.clock.now_ns();
            while sender.credit > 0 {
                sender.credit -= 1;
                sender.write(now_ns, out);
            }
        }
    }
}

impl Sender {
    /// Writes the next message, which was due at `due_ns`.
    fn write(&mut self, due_ns: u64, out: &mut Vec<u8>) {
        self.template.write(self.next, out);
        self.outstanding.push_back((self.next, due_ns));
        self.next = self.next.wrapping_add(1);
        self.sent += 1;
    }
}

impl Traffic {
    fn new(plan: &Plan, clock: Clock, tag: u32) -> Result<Self, String> {
        let mut senders = Vec::with_capacity(plan.rooms * plan.senders);
        let members = (0..plan.rooms * plan.members)
            .map(|index| {
                let sends = index % plan.members < plan.senders;
                let sender = sends.then_some(senders.len() as u32);
                senders.extend(sender.map(|number| Sender::new(index, tag, number, plan)));
                Member { sequence: Sequence::new(), sender }
            })
            .collect();
        let latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).map_err(|error| error.to_string())?;
        Ok(Self {
            clock,
            members,
            senders,
            id: Field::new("\"message_id\"", Anchor::End),
            mark: Field::new("\"message\"", Anchor::Start),
            closed_loop: matches!(plan.pace, Pace::Closed { .. }),
            running: false,
            deliveries: 0,
            echoes: 0,
            skipped: 0,
            refusals: 0,
            refusal: String::new(),
            from_ns: u64::MAX,
            until_ns: u64::MAX,
            latency,
        })
    }

    /// A sender received a message: its own?
    #[inline]
    fn echo(&mut self, sender: u32, payload: &[u8], now_ns: u64) {
        let sender = &mut self.senders[sender as usize];
        let Some(number) = self.mark.value(payload).and_then(|mark| sender.template.number(mark)) else { return };
        while let Some((oldest, due_ns)) = sender.outstanding.pop_front() {
            if oldest != number {
                self.skipped += 1;
                continue;
            }
            self.echoes += 1;
            sender.credit += u32::from(self.closed_loop);
            if (self.from_ns..self.until_ns).contains(&due_ns) {
                self.latency.saturating_record(now_ns.saturating_sub(due_ns).max(1));
            }
            return;
        }
    }

    #[cold]
    fn refused(&mut self, member: usize, payload: &[u8]) {
        self.refusals += 1;
        if let Some(sender) = self.members[member].sender {
            self.senders[sender as usize].refused += 1;
        }
        if self.refusal.is_empty() {
            self.refusal = String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
        }
    }

    /// Whether anything that was sent has not reached everyone.
    fn owes(&self, plan: &Plan) -> bool {
        self.deliveries < taken(&self.senders) * plan.members as u64
    }

    /// What is wrong with the deliveries, a line a member that is wrong, at most ten.
    fn faults(&self, plan: &Plan, seats: &[Seat<'_>]) -> Vec<String> {
        let mut faults = Vec::new();
        if self.refusals > 0 {
            faults.push(format!("{} messages were refused; the first answer: {}", self.refusals, self.refusal));
        }
        if self.skipped > self.refusals {
            faults.push(format!("{} messages never came back to their sender", self.skipped - self.refusals));
        }
        for (room, members) in self.members.chunks(plan.members).enumerate() {
            let sent = taken(&self.senders[room * plan.senders..][..plan.senders]);
            for (at, member) in members.iter().enumerate() {
                let index = room * plan.members + at;
                if let Some(fault) = member.sequence.fault(&members[0].sequence, sent) {
                    faults.push(format!("room {} member {at} ({}): {fault}", seats[index].room, seats[index].username));
                }
            }
        }
        let more = faults.len().saturating_sub(10);
        faults.truncate(10);
        faults.extend((more > 0).then(|| format!("and {more} more")));
        faults
    }
}

impl Sender {
    fn new(member: usize, tag: u32, number: u32, plan: &Plan) -> Self {
        let place = number as usize % plan.senders;
        let credit = match plan.pace {
            Pace::Closed { outstanding } => {
                outstanding / plan.senders + usize::from(place < outstanding % plan.senders)
            }
            Pace::Open { .. } => 0,
        };
        Self {
            member,
            template: Template::new(tag, number, plan.text_bytes),
            next: 0,
            outstanding: VecDeque::with_capacity(credit.max(64)),
            credit: credit as u32,
            sent: 0,
            refused: 0,
        }
    }
}

/// Messages of `senders` that the server did not refuse.
fn taken(senders: &[Sender]) -> u64 {
    senders.iter().map(|sender| sender.sent.saturating_sub(sender.refused)).sum()
}

/// The clock of an open loop: message `k` goes to room `k % rooms`, whose senders take turns.
struct Schedule {
    rooms: usize,
    senders: usize,
    interval_ns: f64,
    begin_ns: u64,
    next: u64,
}

impl Schedule {
    fn new(plan: &Plan, per_second: f64, begin_ns: u64) -> Self {
        let interval_ns = 1e9 / (per_second * plan.rooms as f64);
        Self { rooms: plan.rooms, senders: plan.senders, interval_ns, begin_ns, next: 0 }
    }

    fn due_ns(&self) -> u64 {
        self.begin_ns + (self.next as f64 * self.interval_ns) as u64
    }

    /// The sender whose message is due next, as its place among all senders; and on to the one after it.
    fn take(&mut self) -> usize {
        let (room, turn) = (self.next as usize % self.rooms, self.next as usize / self.rooms);
        self.next += 1;
        room * self.senders + turn % self.senders
    }
}

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
