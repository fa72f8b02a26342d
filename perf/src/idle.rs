//! `connections`: nobody says anything. How fast a server lets people in, what each of them costs it while they sit
//! there, and whether it keeps them all.

use std::time::{Duration, Instant};

use crate::fixtures::Seat;
use crate::fleet::{Clock, Fleet, Silent};
use crate::process::{CpuTime, KernelMemory, Memory};
use crate::report::{ConnectionsReport, PerConnection, ServerCpu};
use crate::url::Url;

/// How long after the last connection memory is read: what connecting alone needed has been given back by then, so far
/// as it will be.
const SETTLE: Duration = Duration::from_secs(1);

/// Opens every seat, from `sources` loopback addresses, and holds them.
///
/// # Errors
/// The server cannot be reached, or the process `pids` cannot be read.
pub(crate) fn run(
    url: &Url,
    seats: &[Seat<'_>],
    sources: u8,
    hold: Duration,
    pids: &[u32],
) -> Result<ConnectionsReport, String> {
    let mut fleet = Fleet::new(seats.len(), Clock::start())?;
    let memory = Memory::read(pids)?;
    let kernel = KernelMemory::read();
    let cpu = CpuTime::read(pids)?;
    let began = Instant::now();
    fleet.connect(url, seats, sources, &mut Silent)?;
    let connecting_seconds = began.elapsed().as_secs_f64();
    let connecting_cpu = CpuTime::read(pids)?;
    let opened = fleet.open();
    listen(&mut fleet, SETTLE)?;
    let settled = Memory::read(pids)?;
    let settled_kernel = KernelMemory::read();
    let idle_from = CpuTime::read(pids)?;
    listen(&mut fleet, hold)?;
    let idle_to = CpuTime::read(pids)?;
    let (held, endings) = (fleet.open(), fleet.endings().to_vec());
    fleet.leave(Duration::from_secs(10))?;
    let measured = !pids.is_empty();
    let counted = opened.max(1) as u64;
    Ok(ConnectionsReport {
        asked: seats.len(),
        opened,
        held,
        connecting_seconds,
        connections_per_second: opened as f64 / connecting_seconds,
        hold_seconds: hold.as_secs_f64(),
        connecting_cpu: measured.then(|| ServerCpu::of(connecting_cpu.since(&cpu), connecting_seconds, counted)),
        idle_cpu: measured.then(|| ServerCpu::of(idle_to.since(&idle_from), hold.as_secs_f64(), counted)),
        memory_before: measured.then_some(memory),
        memory: measured.then_some(settled),
        bytes_per_connection: measured.then(|| PerConnection::of(&memory, &settled, counted)),
        kernel_slab_bytes_per_connection: settled_kernel.slab_bytes.saturating_sub(kernel.slab_bytes) / counted,
        tcp_buffer_bytes: settled_kernel.tcp_buffer_bytes,
        faults: endings
            .iter()
            .take(10)
            .map(|ending| {
                format!("{} (room {}): {}", seats[ending.member].username, seats[ending.member].room, ending.why)
            })
            .chain((endings.len() > 10).then(|| format!("and {} more", endings.len() - 10)))
            .collect(),
    })
}

fn listen(fleet: &mut Fleet, time: Duration) -> Result<(), String> {
    let deadline = Instant::now() + time;
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        fleet.turn(Some(left.min(Duration::from_millis(500))), &mut Silent)?;
    }
    Ok(())
}
