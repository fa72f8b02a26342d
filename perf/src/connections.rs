//! `connections`: nobody says anything. How fast a server lets people in, what each of them costs it while they sit
//! there, and whether it keeps them all. What happens when all of them come back at once is storm.rs.

use std::time::{Duration, Instant};

use crate::fixtures::Seat;
use crate::fleet::{Clock, Crowd, Ending, Fleet};
use crate::process::{CpuTime, KernelMemory, Memory};
use crate::report::{ConnectionsReport, Heartbeats, PerConnection, ServerCpu};
use crate::url::Url;

/// How long after the last connection memory is read: what connecting alone needed has been given back by then, so far
/// as it will be.
pub(crate) const SETTLE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 4 });

/// Endings that a report names.
pub(crate) const ENDINGS_MAX: usize = 10;

/// Opens every seat, from `sources` loopback addresses, and holds them.
///
/// # Errors
/// The server cannot be reached, or the processes `pids` cannot be read at the beginning.
pub(crate) fn run(
    url: &Url,
    seats: &[Seat<'_>],
    sources: u8,
    hold: Duration,
    pids: &[u32],
) -> Result<ConnectionsReport, String> {
    let (report, mut fleet) = sit(url, seats, sources, hold, pids)?;
    fleet.leave(Duration::from_secs(10))?;
    Ok(report)
}

/// The same, and all who are still there.
///
/// # Errors
/// As [`run`].
pub(crate) fn sit(
    url: &Url,
    seats: &[Seat<'_>],
    sources: u8,
    hold: Duration,
    pids: &[u32],
) -> Result<(ConnectionsReport, Fleet), String> {
    let mut fleet = Fleet::new(seats.len(), Clock::start())?;
    let own = [std::process::id()];
    let (memory, client) = (Memory::read(pids)?, Memory::read(&own)?);
    let kernel = KernelMemory::read();
    let cpu = CpuTime::read(pids)?;
    let began = Instant::now();
    fleet.connect(url, seats, sources, &mut Sitting::default())?;
    let connecting_seconds = began.elapsed().as_secs_f64();
    // A server that ends from here on is told of among the faults, and only its CPU and memory are missing.
    let connecting_to = CpuTime::read(pids);
    let opened = fleet.open();
    listen(&mut fleet, SETTLE)?;
    let (settled, settled_client) = (Memory::read(pids), Memory::read(&own)?);
    let settled_kernel = KernelMemory::read();
    let (idle_from, hold_from) = (CpuTime::read(pids), Instant::now());
    let pings = listen(&mut fleet, hold)?;
    let (idle_to, held_seconds) = (CpuTime::read(pids), hold_from.elapsed().as_secs_f64());
    let held = fleet.open();
    let measured = !pids.is_empty();
    let counted = opened.max(1) as u64;
    let used =
        |from: &CpuTime, to: &CpuTime, seconds| measured.then(|| ServerCpu::of(to.since(from), seconds, counted));
    let idle_cpu =
        idle_from.as_ref().ok().zip(idle_to.as_ref().ok()).and_then(|(from, to)| used(from, to, held_seconds));
    let connecting_cpu = connecting_to.as_ref().ok().and_then(|to| used(&cpu, to, connecting_seconds));
    let unread = [connecting_to.err(), idle_from.err(), idle_to.err()].into_iter().flatten().next();
    let settled = settled.ok().filter(|_| measured);
    let report = ConnectionsReport {
        asked: seats.len(),
        opened,
        held,
        connecting_seconds,
        connections_per_second: opened as f64 / connecting_seconds,
        hold_seconds: hold.as_secs_f64(),
        connecting_cpu,
        heartbeats: Heartbeats::of(pings, opened, held_seconds, idle_cpu.as_ref()),
        idle_cpu,
        memory_before: measured.then_some(memory),
        memory: settled,
        bytes_per_connection: settled.map(|settled| PerConnection::of(&memory, &settled, counted)),
        client_bytes_per_connection: PerConnection::of(&client, &settled_client, counted).anonymous,
        kernel_slab_bytes_per_connection: settled_kernel.slab_bytes.saturating_sub(kernel.slab_bytes) / counted,
        tcp_buffer_bytes: settled_kernel.tcp_buffer_bytes,
        storms: Vec::new(),
        faults: unread.map(gone).into_iter().chain(told(fleet.endings(), seats)).collect(),
    };
    Ok((report, fleet))
}

/// What to say of a server whose process could be read at the beginning, and not at the end.
pub(crate) fn gone(why: String) -> String {
    let why = why.split_once(';').map_or(why.as_str(), |(why, _)| why);
    format!("a process of the server ended meanwhile ({why})")
}

/// Lets all of them sit there for a while; how many pings were answered meanwhile.
pub(crate) fn listen(fleet: &mut Fleet, time: Duration) -> Result<u64, String> {
    let mut sitting = Sitting::default();
    let deadline = Instant::now() + time;
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        fleet.turn(Some(left.min(Duration::from_millis(500))), &mut sitting)?;
    }
    Ok(sitting.pings)
}

/// How connections ended that nobody here ended, a line each, up to a bound.
pub(crate) fn told(endings: &[Ending], seats: &[Seat<'_>]) -> Vec<String> {
    let line = |ending: &Ending| {
        let Seat { username, room, .. } = seats[ending.member];
        format!("{username} (room {room}): {}", ending.why)
    };
    let more = endings.len().saturating_sub(ENDINGS_MAX);
    endings.iter().take(ENDINGS_MAX).map(line).chain((more > 0).then(|| format!("and {more} more"))).collect()
}

/// A crowd that says nothing, and counts the server's pings.
#[derive(Default)]
pub(crate) struct Sitting {
    pings: u64,
}

impl Crowd for Sitting {
    fn text(&mut self, _: usize, _: &[u8], _: u64) {}
    fn answer(&mut self, _: usize, _: &mut Vec<u8>) {}

    fn pinged(&mut self, _: usize) {
        self.pings += 1;
    }
}
