//! What a measured time amounts to: counts from its begin to its end, how late its messages were, what the server used;
//! and several such times as one.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::traffic::Traffic;
use crate::process::{CpuTime, Memory};
use crate::report::{Latency, ServerCpu, Step};

/// A moment's counts.
pub(super) struct Mark {
    at_ns: u64,
    echoes: u64,
    deliveries: u64,
    own_cpu_ns: u64,
    server: Option<CpuTime>,
}

impl Mark {
    /// This moment's.
    ///
    /// # Errors
    /// A process of `pids` cannot be read.
    pub(super) fn now(traffic: &Traffic, pids: &[u32]) -> Result<Self, String> {
        let server = if pids.is_empty() { None } else { Some(CpuTime::read(pids)?) };
        Ok(Self {
            at_ns: traffic.clock.now_ns(),
            echoes: traffic.echoes,
            deliveries: traffic.deliveries,
            own_cpu_ns: traffic.worked_ns(),
            server,
        })
    }
}

/// A measured time, or several.
pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) messages: u64,
    pub(super) deliveries: u64,
    pub(super) echo: Histogram<u64>,
    pub(super) delivery: Histogram<u64>,
    pub(super) own_cpu_ns: u64,
    server_cpu_ns: Option<BTreeMap<String, u64>>,
    pub(super) memory: Option<Memory>,
}

impl Measured {
    /// The time between two marks, when all messages of it have come back or will not.
    pub(super) fn between(from: &Mark, to: &Mark, memory: Option<Memory>, traffic: &Traffic) -> Self {
        Self {
            seconds: (to.at_ns - from.at_ns) as f64 / 1e9,
            messages: to.echoes - from.echoes,
            deliveries: to.deliveries - from.deliveries,
            echo: traffic.lateness.echo.clone(),
            delivery: traffic.lateness.delivery.clone(),
            own_cpu_ns: to.own_cpu_ns.saturating_sub(from.own_cpu_ns),
            server_cpu_ns: to.server.as_ref().zip(from.server.as_ref()).map(|(to, from)| to.since(from)),
            memory,
        }
    }

    /// Both times as one.
    ///
    /// # Errors
    /// Never: all histograms have the same bounds.
    pub(super) fn and(mut self, later: &Self) -> Result<Self, String> {
        self.seconds += later.seconds;
        self.messages += later.messages;
        self.deliveries += later.deliveries;
        self.echo.add(&later.echo).map_err(|error| error.to_string())?;
        self.delivery.add(&later.delivery).map_err(|error| error.to_string())?;
        self.own_cpu_ns += later.own_cpu_ns;
        for (thread, used_ns) in later.server_cpu_ns.iter().flatten() {
            *self.server_cpu_ns.get_or_insert_default().entry(thread.clone()).or_insert(0) += used_ns;
        }
        self.memory = later.memory.or(self.memory);
        Ok(self)
    }

    /// The server's CPU, when it was looked at.
    pub(super) fn server_cpu(&self) -> Option<ServerCpu> {
        self.server_cpu_ns.clone().map(|used_ns| ServerCpu::of(used_ns, self.seconds, self.deliveries))
    }

    /// Share of a core that this thread used.
    pub(super) fn client_busy(&self) -> f64 {
        self.own_cpu_ns as f64 / 1e9 / self.seconds
    }

    /// This time as the step of a sweep in which `per_second` messages were asked of each of `rooms`.
    pub(super) fn step(&self, per_second: f64, rooms: usize, from_seconds: f64) -> Step {
        Step {
            messages_per_second_per_room_asked: per_second,
            messages_per_second_asked: per_second * rooms as f64,
            from_seconds,
            seconds: self.seconds,
            messages: self.messages,
            deliveries: self.deliveries,
            messages_per_second: self.messages as f64 / self.seconds,
            deliveries_per_second: self.deliveries as f64 / self.seconds,
            latency: Latency::of(&self.echo),
            delivery_latency: Latency::of(&self.delivery),
            server_cpu: self.server_cpu(),
            server_memory: self.memory,
            client_busy: self.client_busy(),
        }
    }
}
