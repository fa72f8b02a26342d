//! A load under way: everyone is seated, sends, is measured, and is waited for, at each rate; then the report. One thread
//! does it all.

use std::time::Duration;

use super::measured::{Mark, Measured};
use super::plan::{Pace, Plan};
use super::progress::Progress;
use super::schedule::Schedule;
use super::series::Series;
use super::traffic::Traffic;
use crate::fixtures::Seat;
use crate::fleet::{Clock, Fleet};
use crate::process::Memory;
use crate::report::{Latency, LoadReport, Step};
use crate::url::Url;

/// How long a server that owes deliveries may deliver nothing before they count as lost.
const STALL: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });

/// Runs the load. `seats` are `plan.members` a room, room after room.
///
/// # Errors
/// The server cannot be reached, refuses a member, or the process `pids` cannot be read. What goes wrong once the load
/// runs is in the report.
pub(crate) fn run(url: &Url, plan: &Plan, seats: &[Seat<'_>], pids: &[u32]) -> Result<LoadReport, String> {
    let mut run = Run::seat(url, plan, seats, pids)?;
    let mut whole: Option<Measured> = None;
    let mut steps = Vec::new();
    for rate in plan.stages() {
        let from_seconds = run.series.seconds(run.traffic.clock.now_ns() + plan.lead().as_nanos() as u64);
        let measured = run.stage(rate)?;
        if let (Pace::Steps { .. }, Some(rate)) = (&plan.pace, rate) {
            steps.push(measured.step(rate, plan.rooms, from_seconds));
        }
        whole = Some(match whole.take() {
            Some(earlier) => earlier.and(&measured)?,
            None => measured,
        });
        if run.stalled {
            break;
        }
    }
    run.progress.end();
    let whole = whole.ok_or("a load needs a rate")?;
    let faults = run.faults();
    run.fleet.leave(Duration::from_secs(2))?;
    Ok(run.report(whole, steps, faults))
}

/// One load, under way.
struct Run<'a> {
    plan: &'a Plan,
    seats: &'a [Seat<'a>],
    pids: &'a [u32],
    fleet: Fleet,
    traffic: Traffic,
    schedule: Option<Schedule>,
    series: Series<'a>,
    progress: Progress,
    /// Whether a measured time is under way.
    measuring: bool,
    /// Whether the server has fallen silent while it owed deliveries.
    stalled: bool,
}

/// Tells the messages of this run from those of another one in the same room.
fn run_tag() -> u32 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (since_epoch.as_micros() as u32).rotate_left(12) ^ std::process::id()
}

impl<'a> Run<'a> {
    /// Seats everyone.
    fn seat(url: &Url, plan: &'a Plan, seats: &'a [Seat<'a>], pids: &'a [u32]) -> Result<Self, String> {
        let clock = Clock::start();
        let mut fleet = Fleet::new(seats.len(), clock)?;
        let mut traffic = Traffic::new(plan, clock, run_tag())?;
        fleet.connect(url, seats, 1, &mut traffic)?;
        if let Some(ending) = fleet.endings().first() {
            let seat = seats[ending.member];
            return Err(format!("{} was not let into room {}: {}", seat.username, seat.room, ending.why));
        }
        let series = Series::start(&traffic, pids, plan.length());
        let progress = Progress::start(plan.length(), plan.quiet);
        let (schedule, measuring, stalled) = (None, false, false);
        Ok(Self { plan, seats, pids, fleet, traffic, schedule, series, progress, measuring, stalled })
    }

    /// Sends at one rate, or by the echoes, through warm-up and measured time, and waits for what is under way.
    fn stage(&mut self, per_second: Option<f64>) -> Result<Measured, String> {
        let begin_ns = self.traffic.clock.now_ns();
        let from_ns = begin_ns + self.plan.lead().as_nanos() as u64;
        let until_ns = from_ns + self.plan.measured.as_nanos() as u64;
        self.schedule = per_second.map(|per_second| Schedule::new(self.plan, per_second, begin_ns));
        self.traffic.lateness.measure(from_ns, until_ns);
        self.kick_off();
        self.until(from_ns)?;
        // No sample lies across the begin or the end of a measured time.
        self.sample();
        let from = Mark::now(&self.traffic, self.pids)?;
        self.measuring = true;
        if !self.stalled {
            self.until(until_ns)?;
        }
        let to = Mark::now(&self.traffic, self.pids)?;
        self.sample();
        self.measuring = false;
        let memory = if self.pids.is_empty() { None } else { Some(Memory::read(self.pids)?) };
        self.drain()?;
        Ok(Measured::between(&from, &to, memory, &self.traffic))
    }

    fn kick_off(&mut self) {
        self.traffic.running = true;
        for sender in 0..self.traffic.senders.len() {
            let member = self.traffic.senders[sender].member;
            self.fleet.send(member, |out| self.traffic.spend(sender, out));
        }
    }

    /// Drives the load until `end_ns`, or until the server has stalled.
    fn until(&mut self, end_ns: u64) -> Result<(), String> {
        let mut progress = (self.traffic.deliveries, self.traffic.clock.now_ns());
        loop {
            let now_ns = self.traffic.clock.now_ns();
            if now_ns >= self.series.due_ns() {
                self.sample();
            }
            // What was due before the end is sent, however late this thread is.
            let due_ns = self.send_due(now_ns.min(end_ns)).unwrap_or(end_ns);
            if now_ns >= end_ns {
                return Ok(());
            }
            let wait_ns = due_ns.min(end_ns).min(self.series.due_ns()).saturating_sub(now_ns).min(100_000_000);
            self.fleet.turn(Some(Duration::from_nanos(wait_ns)), &mut self.traffic)?;
            if self.traffic.deliveries > progress.0 || !self.traffic.owes(self.plan) {
                progress = (self.traffic.deliveries, now_ns);
            } else if now_ns - progress.1 > STALL.as_nanos() as u64 {
                self.stalled = true;
                return Ok(());
            }
        }
    }

    fn sample(&mut self) {
        let sample = self.series.sample(&mut self.traffic, self.measuring);
        self.progress.show(&sample);
    }

    /// Sends what an open loop's clock says; when the next message is due.
    fn send_due(&mut self, now_ns: u64) -> Option<u64> {
        let schedule = self.schedule.as_mut()?;
        while schedule.due_ns() <= now_ns {
            let (due_ns, sender) = (schedule.due_ns(), schedule.take());
            let member = self.traffic.senders[sender].member;
            self.fleet.send(member, |out| self.traffic.write(sender, due_ns, out));
        }
        Some(schedule.due_ns())
    }

    /// Stops sending and waits for what is still under way, or until the server has stalled.
    fn drain(&mut self) -> Result<(), String> {
        self.traffic.running = false;
        self.schedule = None;
        let mut progress = (self.traffic.deliveries, self.traffic.clock.now_ns());
        while self.traffic.owes(self.plan) && self.fleet.open() > 0 {
            self.fleet.turn(Some(Duration::from_millis(50)), &mut self.traffic)?;
            let now_ns = self.traffic.clock.now_ns();
            if now_ns >= self.series.due_ns() {
                self.sample();
            }
            if self.traffic.deliveries > progress.0 {
                progress = (self.traffic.deliveries, now_ns);
            } else if now_ns - progress.1 > STALL.as_nanos() as u64 {
                self.stalled = true;
                return Ok(());
            }
        }
        // What arrives beyond what was sent (a duplicate) arrives now.
        self.fleet.turn(Some(Duration::from_millis(50)), &mut self.traffic)
    }

    /// All that went wrong, in words.
    fn faults(&self) -> Vec<String> {
        let place = |member: usize| (self.seats[member].username, self.seats[member].room);
        let endings = self.fleet.endings().iter().take(10).map(|ending| {
            let (username, room) = place(ending.member);
            format!("{username} (room {room}): {}", ending.why)
        });
        let silence = || format!("the server fell silent for {} s with deliveries missing", STALL.as_secs());
        let mut faults: Vec<String> = endings.chain(self.stalled.then(silence)).collect();
        faults.extend(self.traffic.faults(self.plan, self.seats));
        faults
    }

    fn report(self, whole: Measured, steps: Vec<Step>, faults: Vec<String>) -> LoadReport {
        let plan = self.plan;
        LoadReport {
            rooms: plan.rooms,
            members_per_room: plan.members,
            senders_per_room: plan.senders,
            outstanding_per_room: match plan.pace {
                Pace::Closed { outstanding } => Some(outstanding),
                Pace::Open { .. } | Pace::Steps { .. } => None,
            },
            messages_per_second_per_room_asked: match plan.pace {
                Pace::Open { per_second } => Some(per_second),
                Pace::Closed { .. } | Pace::Steps { .. } => None,
            },
            text_bytes: plan.text_bytes.to_string(),
            text_bytes_mean: self.traffic.text_bytes_mean(),
            seed: (!plan.text_bytes.is_fixed()).then_some(plan.seed),
            ramp_seconds: plan.ramp.as_secs_f64(),
            seconds: whole.seconds,
            messages: whole.messages,
            deliveries: whole.deliveries,
            messages_per_second: whole.messages as f64 / whole.seconds,
            deliveries_per_second: whole.deliveries as f64 / whole.seconds,
            latency: Latency::of(&whole.echo),
            delivery_latency: Latency::of(&whole.delivery),
            server_cpu: whole.server_cpu(),
            server_memory: whole.memory,
            client_busy: whole.client_busy(),
            client_ns_per_delivery: whole.own_cpu_ns as f64 / whole.deliveries.max(1) as f64,
            messages_verified: self.traffic.members.iter().step_by(plan.members).map(|m| m.sequence.count()).sum(),
            deliveries_verified: self.traffic.deliveries,
            steps,
            series: self.series.into_samples(),
            faults,
            latency_ns: whole.echo,
            delivery_latency_ns: whole.delivery,
        }
    }
}
