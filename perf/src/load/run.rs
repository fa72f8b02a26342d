//! A load under way: everyone is seated, sends, is measured, and is waited for, at each rate; then the report. One thread
//! does it all.

use std::time::Duration;

use super::churn::Churn;
use super::measured::{Mark, Measured};
use super::plan::{Pace, Plan};
use super::progress::Progress;
use super::schedule::Schedule;
use super::series::Series;
use super::slow::SlowReaders;
use super::traffic::Traffic;
use crate::fixtures::Seat;
use crate::fleet::{Clock, Ending, Fleet};
use crate::process::Memory;
use crate::report::{Latency, LoadReport, Step};
use crate::url::Url;

/// How long a server that owes deliveries may deliver nothing before they count as lost.
const STALL: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });

/// Runs the load. `seats` are `plan.members` a room, room after room.
///
/// # Errors
/// The plan cannot be, or the server cannot be reached or refuses a member. What goes wrong once the load runs is in the
/// report.
pub(crate) fn run(url: &Url, plan: &Plan, seats: &[Seat<'_>], pids: &[u32]) -> Result<LoadReport, String> {
    plan.check()?;
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
    run.finish()?;
    run.progress.end();
    let whole = whole.ok_or("a load needs a rate")?;
    let (faults, stretches) = run.faults();
    run.fleet.leave(Duration::from_secs(2))?;
    Ok(run.report(whole, steps, stretches, faults))
}

/// One load, under way.
struct Run<'a> {
    url: &'a Url,
    plan: &'a Plan,
    seats: &'a [Seat<'a>],
    pids: &'a [u32],
    fleet: Fleet,
    traffic: Traffic,
    schedule: Option<Schedule>,
    series: Series<'a>,
    progress: Progress,
    churn: Option<Churn>,
    slow: Option<SlowReaders>,
    /// Endings of connections that have been looked at.
    endings: usize,
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
    fn seat(url: &'a Url, plan: &'a Plan, seats: &'a [Seat<'a>], pids: &'a [u32]) -> Result<Self, String> {
        let clock = Clock::start();
        let mut fleet = Fleet::new(seats.len(), clock)?;
        let mut traffic = Traffic::new(plan, clock, run_tag())?;
        let slow = SlowReaders::new(plan);
        fleet.slow_down(slow.as_ref().map_or(&[], |slow| &slow.members));
        fleet.connect(url, seats, 1, &mut traffic)?;
        if let Some(ending) = fleet.endings().first() {
            let seat = seats[ending.member];
            return Err(format!("{} was not let into room {}: {}", seat.username, seat.room, ending.why));
        }
        // Nobody has come in another's seat yet.
        traffic.take_came();
        let churn = Churn::new(plan, clock.now_ns())?;
        let series = Series::start(&traffic, pids, plan.length());
        let progress = Progress::start(plan.length(), plan.quiet);
        Ok(Self {
            url,
            plan,
            seats,
            pids,
            fleet,
            traffic,
            schedule: None,
            series,
            progress,
            churn,
            slow,
            endings: 0,
            measuring: false,
            stalled: false,
        })
    }

    /// Sends at one rate, or by the echoes, through warm-up and measured time, and waits for what is under way.
    fn stage(&mut self, per_second: Option<f64>) -> Result<Measured, String> {
        let begin_ns = self.traffic.clock.now_ns();
        let from_ns = begin_ns + self.plan.lead().as_nanos() as u64;
        let until_ns = from_ns + self.plan.measured.as_nanos() as u64;
        self.schedule = per_second.map(|per_second| Schedule::new(self.plan, per_second, begin_ns));
        self.traffic.lateness.measure(from_ns, until_ns);
        if let Some(churn) = &mut self.churn {
            churn.resume(begin_ns);
        }
        self.kick_off();
        self.until(from_ns)?;
        // No sample lies across the begin or the end of a measured time.
        if !self.series.is_fresh(self.traffic.clock.now_ns()) {
            self.sample();
        }
        let from = self.mark()?;
        self.measuring = true;
        if !self.stalled {
            self.until(until_ns)?;
        }
        let to = self.mark()?;
        if !self.series.is_fresh(self.traffic.clock.now_ns()) {
            self.sample();
        }
        self.measuring = false;
        let memory = if self.pids.is_empty() { None } else { Memory::read(self.pids).ok() };
        self.drain()?;
        Ok(Measured::between(&from, &to, memory, &self.traffic))
    }

    /// This moment's counts. A server that has ended has ended its connections: that is told, and its CPU is not.
    fn mark(&self) -> Result<Mark, String> {
        Mark::now(&self.traffic, self.pids).or_else(|_| Mark::now(&self.traffic, &[]))
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
        let mut progress = (self.traffic.steady_deliveries(), self.traffic.clock.now_ns());
        loop {
            let now_ns = self.traffic.clock.now_ns();
            if now_ns >= self.series.due_ns() {
                self.sample();
            }
            self.tend(now_ns)?;
            let is_early = self.schedule.as_ref().is_none_or(|schedule| schedule.due_ns() > now_ns);
            // What was due before the end is sent, however late this thread is.
            let due_ns = self.send_due(now_ns.min(end_ns)).unwrap_or(end_ns);
            if now_ns >= end_ns {
                return Ok(());
            }
            let next_ns = due_ns.min(end_ns).min(self.series.due_ns()).min(self.tend_due_ns());
            let wait_ns = if self.plan.spins { 0 } else { next_ns.saturating_sub(now_ns).min(100_000_000) };
            let served = self.fleet.turn(Some(Duration::from_nanos(wait_ns)), &mut self.traffic)?;
            if self.plan.spins {
                self.traffic.looked(is_early && served == 0);
            }
            if self.traffic.steady_deliveries() > progress.0 || !self.traffic.owes() {
                progress = (self.traffic.steady_deliveries(), now_ns);
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

    /// Exchanges whose turn has come, lets slow readers read, and looks at connections that have ended.
    fn tend(&mut self, now_ns: u64) -> Result<(), String> {
        self.exchange(now_ns)?;
        if let Some(bytes) = self.slow.as_mut().and_then(|slow| slow.sip(now_ns)) {
            for member in self.plan.slow_members() {
                self.fleet.sip(member, bytes, &mut self.traffic);
            }
        }
        while let Some(ending) = self.fleet.endings().get(self.endings).cloned() {
            self.endings += 1;
            self.traffic.ended(ending.member);
            if let Some(slow) = self.slow.as_mut().filter(|slow| slow.members.contains(&ending.member)) {
                slow.ended(&ending);
            }
        }
        Ok(())
    }

    /// Lets the next ones leave while the load runs, and others take the seats of those who have gone.
    fn exchange(&mut self, now_ns: u64) -> Result<(), String> {
        let Some(churn) = &mut self.churn else { return Ok(()) };
        for (seat, greeted_ns) in self.traffic.take_came() {
            churn.came(seat, greeted_ns);
        }
        for seat in self.fleet.take_gone() {
            self.traffic.ended(seat);
            churn.exchanged(seat, self.traffic.clock.now_ns());
            let replaced = self.fleet.replace(seat, self.url, self.seats[seat]);
            replaced.map_err(|error| format!("a connection to {} in another's seat: {error}", self.url))?;
        }
        while self.traffic.running && churn.due_ns() <= now_ns {
            let seat = churn.take();
            if self.fleet.is_open(seat) {
                self.fleet.dismiss(seat);
            } else {
                churn.vacant();
            }
        }
        Ok(())
    }

    /// When [`Run::tend`] has something to do by the clock.
    fn tend_due_ns(&self) -> u64 {
        let churn = self.churn.as_ref().map_or(u64::MAX, Churn::due_ns);
        churn.min(self.slow.as_ref().map_or(u64::MAX, SlowReaders::due_ns))
    }

    /// Stops sending and waits for what is still under way to those who are there from the first message to the last.
    fn drain(&mut self) -> Result<(), String> {
        self.traffic.running = false;
        self.schedule = None;
        self.wait_while(|run| run.traffic.owes(), Traffic::steady_deliveries)
    }

    /// Waits until those who came, and those who read slowly and now read fast, have all that was sent since they came.
    fn finish(&mut self) -> Result<(), String> {
        for member in self.plan.slow_members() {
            if self.fleet.is_open(member) {
                self.fleet.speed_up(member, &mut self.traffic);
            }
        }
        let mut loose = self.plan.passing_members();
        loose.extend(self.slow.iter().flat_map(|slow| slow.members.iter().copied()));
        if !self.stalled {
            let unfinished = |run: &Self| {
                let whole = |member: &usize| run.fleet.is_open(*member) && run.traffic.has_all(*member);
                !loose.iter().all(|member| run.fleet.is_ended(*member) || whole(member))
            };
            self.wait_while(unfinished, |traffic| traffic.deliveries)?;
        }
        // What arrives beyond what was sent (a duplicate) arrives now.
        let until_ns = self.traffic.clock.now_ns() + 50_000_000;
        while let left_ns @ 1.. = until_ns.saturating_sub(self.traffic.clock.now_ns()) {
            self.fleet.turn(Some(Duration::from_nanos(left_ns)), &mut self.traffic)?;
        }
        self.tend(self.traffic.clock.now_ns())?;
        for member in loose {
            if self.fleet.is_open(member) {
                self.traffic.stayed(member);
            }
        }
        Ok(())
    }

    /// Waits while something is so, or until the server has stalled: `deliveries` has not grown for long.
    fn wait_while(&mut self, so: impl Fn(&Self) -> bool, deliveries: impl Fn(&Traffic) -> u64) -> Result<(), String> {
        let mut progress = (deliveries(&self.traffic), self.traffic.clock.now_ns());
        while so(self) && self.fleet.open() > 0 {
            self.tend(self.traffic.clock.now_ns())?;
            self.fleet.turn(Some(Duration::from_millis(50)), &mut self.traffic)?;
            let now_ns = self.traffic.clock.now_ns();
            if now_ns >= self.series.due_ns() {
                self.sample();
            }
            if deliveries(&self.traffic) > progress.0 {
                progress = (deliveries(&self.traffic), now_ns);
            } else if now_ns - progress.1 > STALL.as_nanos() as u64 {
                self.stalled = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// All that went wrong, in words, and how many stretches are whole.
    fn faults(&mut self) -> (Vec<String>, u64) {
        let slow = |member: usize| self.slow.as_ref().is_some_and(|slow| slow.members.contains(&member));
        let wrong = |ending: &&Ending| !(slow(ending.member) && SlowReaders::excuses(ending));
        let endings = self.fleet.endings().iter().filter(wrong).take(10).map(|ending| {
            let seat = self.seats[ending.member];
            format!("{} (room {}): {}", seat.username, seat.room, ending.why)
        });
        let silence = || format!("the server fell silent for {} s with deliveries missing", STALL.as_secs());
        let mut faults: Vec<String> = endings.chain(self.stalled.then(silence)).collect();
        let passing = self.plan.passing_members();
        let under_way =
            passing.iter().filter(|seat| !self.fleet.is_open(**seat) && !self.fleet.is_ended(**seat)).count();
        let unanswered = || format!("{under_way} connections were not let go, or not let in, in time");
        faults.extend((under_way > 0).then(unanswered));
        let (deliveries, stretches) = self.traffic.faults(self.seats);
        faults.extend(deliveries);
        (faults, stretches)
    }

    fn report(self, whole: Measured, steps: Vec<Step>, stretches: u64, faults: Vec<String>) -> LoadReport {
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
            client_spins: plan.spins,
            client_busy: whole.client_busy(),
            client_ns_per_delivery: whole.own_cpu_ns as f64 / whole.deliveries.max(1) as f64,
            messages_verified: self.traffic.members.iter().step_by(plan.members).map(|m| m.sequence.count()).sum(),
            deliveries_verified: self.traffic.deliveries,
            stretches_verified: stretches,
            churn: self.churn.as_ref().map(Churn::report),
            slow_readers: self.slow.as_ref().map(SlowReaders::report),
            steps,
            series: self.series.into_samples(),
            faults,
            latency_ns: whole.echo,
            delivery_latency_ns: whole.delivery,
        }
    }
}
