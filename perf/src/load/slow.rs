//! Members that read slowly: each takes some bytes several times a second and leaves the rest where it is, until the load
//! is over; then they read what is left. A server may close them meanwhile. It knows no socket.

use std::collections::BTreeMap;

use super::plan::Plan;
use crate::fleet::Ending;
use crate::report::SlowReport;

/// Bytes read at a time, when not too much or too little time lies between two readings. The socket holds little more.
const SIP_BYTES: u64 = 2048;
const SIP_INTERVAL_NS: std::ops::RangeInclusive<u64> = 1_000_000..=100_000_000;

/// Close codes by which a server may end a member that does not keep up: it lags, or its pongs do.
const TOO_SLOW: [u16; 2] = [1013, 1008];

/// The slow readers, and what became of them.
pub(super) struct SlowReaders {
    pub(super) members: Vec<usize>,
    bytes_per_second: usize,
    /// When they read last, and read next.
    last_ns: Option<u64>,
    next_ns: u64,
    closed_by_code: BTreeMap<u16, u64>,
    cut: u64,
}

impl SlowReaders {
    /// The slow readers of this plan; none if it asks for none.
    pub(super) fn new(plan: &Plan) -> Option<Self> {
        let (members, bytes_per_second) = (plan.slow_members(), plan.slow_bytes_per_second);
        (!members.is_empty()).then_some(Self {
            members,
            bytes_per_second,
            last_ns: None,
            next_ns: 0,
            closed_by_code: BTreeMap::new(),
            cut: 0,
        })
    }

    /// When they read next.
    pub(super) fn due_ns(&self) -> u64 {
        self.next_ns
    }

    /// How much each of them reads now, if it is time.
    pub(super) fn sip(&mut self, now_ns: u64) -> Option<usize> {
        if now_ns < self.next_ns {
            return None;
        }
        let bytes_per_second = self.bytes_per_second as u64;
        let interval_ns = SIP_BYTES * 1_000_000_000 / bytes_per_second;
        let interval_ns = interval_ns.clamp(*SIP_INTERVAL_NS.start(), *SIP_INTERVAL_NS.end());
        // Whoever reads late reads more.
        let since_ns = self.last_ns.replace(now_ns).map_or(interval_ns, |last_ns| now_ns - last_ns);
        self.next_ns = now_ns + interval_ns;
        Some((bytes_per_second * since_ns / 1_000_000_000).max(1) as usize)
    }

    /// Whether the server may have ended a slow reader like this. The close frame of one stands behind all that it has not
    /// read, so the connection may well be cut before it comes.
    pub(super) fn excuses(ending: &Ending) -> bool {
        ending.code.is_none_or(|code| TOO_SLOW.contains(&code))
    }

    /// The server ended one of them.
    pub(super) fn ended(&mut self, ending: &Ending) {
        match ending.code {
            Some(code) => *self.closed_by_code.entry(code).or_insert(0) += 1,
            None => self.cut += 1,
        }
    }

    /// What there is to report.
    pub(super) fn report(&self) -> SlowReport {
        let ended = self.closed_by_code.values().sum::<u64>() + self.cut;
        SlowReport {
            members: self.members.len() as u64,
            bytes_per_second_each: self.bytes_per_second,
            kept: self.members.len() as u64 - ended,
            closed_by_code: self.closed_by_code.clone(),
            cut: self.cut,
        }
    }
}
