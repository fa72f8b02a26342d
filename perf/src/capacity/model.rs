//! How a shard's CPU follows from what is asked of it. Pure; the unit costs come from [`calibrate`](super::calibrate).
//!
//! A shard works in *cycles*: it takes what has come, writes it to its journal, waits for the disk, sends. What comes
//! meanwhile waits for the next cycle, and goes to each member in one send. So the number of sends depends on how long a
//! cycle is, and that on the work in it: the cycle is where both agree ([`Shard::settle`]). That is why a busy shard pays
//! less for a delivery than an idle one, and why its latency grows before its CPU does.

use serde::{Deserialize, Serialize};

use super::demand::{Class, Demand};

/// The longest cycle that is looked for: a shard that needs longer cannot carry its load.
const CYCLE_SECONDS_MAX: f64 = 1.0;

/// Growth beyond that is not looked for.
const HEADROOM_MAX: f64 = 1e6;

/// How evenly things come: 1 if at random, more if by the clock. Of 1 to 8, 3 explains best what was measured.
const EVENNESS: f64 = 3.0;

/// How many groups a second things form that come at `rate` a second, if those within `seconds` of each other are one
/// group: as many as there are things while they are rare, one in `seconds` when there are many.
pub(crate) fn groups(rate: f64, seconds: f64) -> f64 {
    rate / (1.0 + (rate * seconds).powf(EVENNESS)).powf(1.0 / EVENNESS)
}

/// What a shard does in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Work {
    pub(crate) connections: f64,
    pub(crate) messages: f64,
    pub(crate) text_bytes: f64,
    /// Cycles: writes to the journal, and syncs of it.
    pub(crate) turns: f64,
    /// Batches of messages that enter a room's log.
    pub(crate) batches: f64,
    pub(crate) sends: f64,
    pub(crate) sent_bytes: f64,
}

impl Work {
    /// With cycles of this length.
    pub(crate) fn of(demand: &Demand, cycle_seconds: f64) -> Self {
        let batches = |rate: f64| groups(rate, cycle_seconds);
        Self {
            connections: demand.connections(),
            messages: demand.messages(),
            text_bytes: demand.text_bytes(),
            turns: batches(demand.sum(|class| class.messages_per_second)),
            batches: demand.sum(|class| batches(class.messages_per_second)),
            sends: demand.sum(|class| class.members * batches(class.messages_per_second)),
            sent_bytes: demand.sent_bytes(),
        }
    }
}

/// What a shard's thread, and the kernel's workers that write its journal, pay: nanoseconds of CPU for one of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shard {
    /// A second in which anything is said at all.
    pub(crate) second_ns: f64,
    /// A second of a connection.
    pub(crate) connection_second_ns: f64,
    pub(crate) message_ns: f64,
    pub(crate) text_byte_ns: f64,
    pub(crate) turn_ns: f64,
    pub(crate) batch_ns: f64,
    pub(crate) send_ns: f64,
    pub(crate) sent_byte_ns: f64,
    /// What a turn costs more on an idle core: caches are cold, and threads must be woken.
    pub(crate) idle_turn_ns: f64,
    /// And a send.
    pub(crate) idle_send_ns: f64,
    /// What a cycle takes beside its work: the journal's way to the disk.
    pub(crate) sync_seconds: f64,
}

/// Where a shard comes to rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) cycle_seconds: f64,
    pub(crate) work: Work,
    /// Of a core; 1 and more cannot be had.
    pub(crate) cores: f64,
}

impl Shard {
    /// How many costs there are beside [`Shard::connection_second_ns`], which idle connections show.
    pub(crate) const COSTS: usize = 9;

    /// Of the fitted costs in the order of [`Shard::row`].
    pub(crate) fn new(costs: &[f64], connection_second_ns: f64, sync_seconds: f64) -> Self {
        let ns = |at: usize| costs.get(at).copied().unwrap_or_default();
        Self {
            second_ns: ns(0),
            connection_second_ns,
            message_ns: ns(1),
            text_byte_ns: ns(2),
            turn_ns: ns(3),
            batch_ns: ns(4),
            send_ns: ns(5),
            sent_byte_ns: ns(6),
            idle_turn_ns: ns(7),
            idle_send_ns: ns(8),
            sync_seconds,
        }
    }

    /// What the fitted costs are multiplied with, on a core whose share `idle` has nothing to do.
    pub(crate) fn row(work: &Work, idle: f64) -> [f64; Self::COSTS] {
        let Work { messages, text_bytes, turns, batches, sends, sent_bytes, .. } = *work;
        [1.0, messages, text_bytes, turns, batches, sends, sent_bytes, turns * idle, sends * idle]
    }

    /// Cores that this work takes.
    ///
    /// `used = warm + (1 - used) · idle`, solved for `used`.
    pub(crate) fn cores(&self, work: &Work) -> f64 {
        let Work { connections, messages, text_bytes, turns, batches, sends, sent_bytes } = *work;
        let warm = self.second_ns * f64::from(u8::from(messages > 0.0))
            + self.connection_second_ns * connections
            + self.message_ns * messages
            + self.text_byte_ns * text_bytes
            + self.turn_ns * turns
            + self.batch_ns * batches
            + self.send_ns * sends
            + self.sent_byte_ns * sent_bytes;
        let idle = (self.idle_turn_ns * turns + self.idle_send_ns * sends) / 1e9;
        let warm = warm / 1e9;
        if warm < 1.0 { (warm + idle) / (1.0 + idle) } else { warm }
    }

    /// Where it comes to rest on a core of which others take `others`.
    pub(crate) fn settle(&self, demand: &Demand, others: f64) -> State {
        let at = |cycle_seconds: f64| {
            let work = Work::of(demand, cycle_seconds);
            State { cycle_seconds, work, cores: self.cores(&work) }
        };
        let too_short = |state: &State| {
            self.sync_seconds + (state.cores + others) / state.work.turns.max(1e-9) > state.cycle_seconds
        };
        let mut high = at(CYCLE_SECONDS_MAX);
        if high.work.turns == 0.0 {
            return at(self.sync_seconds.max(1e-6));
        }
        if too_short(&high) {
            return high;
        }
        let mut low = self.sync_seconds.max(1e-6);
        // Halving the logarithm so often leaves less than a thousandth.
        for _ in 0..24 {
            let middle = at((low * high.cycle_seconds).sqrt());
            if too_short(&middle) { low = middle.cycle_seconds } else { high = middle }
        }
        high
    }

    /// The longest turn that is not rare: one that sends to all of the largest room that has a hundredth of the deliveries.
    pub(crate) fn longest_seconds(&self, demand: &Demand) -> f64 {
        let all = demand.deliveries();
        let is_not_rare = |class: &&Class| class.rooms * class.members * class.messages_per_second >= 0.01 * all;
        let members = demand.classes.iter().filter(is_not_rare).map(|class| class.members).fold(0.0, f64::max);
        self.sync_seconds + (self.turn_ns + members * self.send_ns) / 1e9
    }

    /// How many times as much may be said until the core, of which others take `others(factor)`, is `busy` for the first
    /// time. Within a tenth; at least 1, at most a million. A room that shares sends more may take less again later.
    pub(crate) fn headroom(&self, demand: &Demand, others: impl Fn(f64) -> f64, busy: f64) -> f64 {
        let mut factor = 1.0;
        while factor < HEADROOM_MAX {
            let others = others(factor);
            if self.settle(&demand.louder(factor), others).cores + others >= busy {
                break;
            }
            factor *= 1.1;
        }
        factor
    }
}

/// What the writer's thread pays, or the database's process: nanoseconds of CPU for one of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saving {
    pub(crate) message_ns: f64,
    pub(crate) text_byte_ns: f64,
    pub(crate) transaction_ns: f64,
    /// A room that has messages in a transaction: its place in the index is another one.
    pub(crate) room_ns: f64,
    /// From one commit to the next when there is always something to save.
    pub(crate) commit_seconds: f64,
}

impl Saving {
    /// How many costs there are.
    pub(crate) const COSTS: usize = 4;

    /// Of the fitted costs in the order of [`Saving::row`].
    pub(crate) fn new(costs: &[f64], commit_seconds: f64) -> Self {
        let ns = |at: usize| costs.get(at).copied().unwrap_or_default();
        Self { message_ns: ns(0), text_byte_ns: ns(1), transaction_ns: ns(2), room_ns: ns(3), commit_seconds }
    }

    /// What the costs are multiplied with.
    pub(crate) fn row(demand: &Demand, commit_seconds: f64) -> [f64; Self::COSTS] {
        let rooms = demand.sum(|class| groups(class.messages_per_second * class.here, commit_seconds));
        [demand.messages(), demand.text_bytes(), groups(demand.messages(), commit_seconds), rooms]
    }

    pub(crate) fn transactions(&self, demand: &Demand) -> f64 {
        groups(demand.messages(), self.commit_seconds)
    }

    /// Cores that saving all of it takes.
    pub(crate) fn cores(&self, demand: &Demand) -> f64 {
        let [messages, text_bytes, transactions, rooms] = Self::row(demand, self.commit_seconds);
        let ns = self.message_ns * messages + self.text_byte_ns * text_bytes;
        (ns + self.transaction_ns * transactions + self.room_ns * rooms) / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: Shard = Shard {
        second_ns: 1e7,
        connection_second_ns: 500.0,
        message_ns: 10_000.0,
        text_byte_ns: 5.0,
        turn_ns: 60_000.0,
        batch_ns: 1000.0,
        send_ns: 3500.0,
        sent_byte_ns: 0.5,
        idle_turn_ns: 50_000.0,
        idle_send_ns: 2000.0,
        sync_seconds: 200e-6,
    };

    #[test]
    fn rare_things_are_alone_and_frequent_ones_share() {
        for (rate, seconds, want) in [(10.0, 0.001, 10.0), (1e6, 0.001, 1000.0), (0.0, 1.0, 0.0), (50.0, 0.0, 50.0)] {
            assert!((groups(rate, seconds) - want).abs() <= want * 0.001, "{rate} {seconds}");
        }
    }

    #[test]
    fn an_idle_shard_does_what_it_is_told_at_once() {
        let state = SHARD.settle(&Demand::of(1.0, 50.0, 10.0, 64.0), 0.0);
        assert!((state.work.sends - 500.0).abs() < 1.0 && (state.work.turns - 10.0).abs() < 0.1, "{state:?}");
        assert!(state.cores < 0.02 && state.cycle_seconds < 0.003, "{state:?}");
        let silent = SHARD.settle(&Demand::of(100.0, 100.0, 0.0, 64.0), 0.0);
        assert!((silent.cores - 0.005).abs() < 1e-9, "connections alone: {silent:?}");
    }

    #[test]
    fn a_busy_shard_sends_more_at_once() {
        let demand = Demand::of(1.0, 100.0, 1000.0, 64.0);
        let mut before = SHARD.settle(&demand.louder(2.0), 0.0);
        for factor in [4.0, 8.0, 16.0] {
            let state = SHARD.settle(&demand.louder(factor), 0.0);
            assert!(state.cycle_seconds > before.cycle_seconds, "{state:?}");
            let shared = |state: &State| state.work.messages / state.work.sends;
            assert!(shared(&state) > 1.3 * shared(&before), "{state:?}");
            before = state;
        }
        let crowded = SHARD.settle(&demand, 0.5);
        assert!(crowded.cycle_seconds > SHARD.settle(&demand, 0.0).cycle_seconds);
    }

    #[test]
    fn the_longest_turn_is_that_of_a_large_room_unless_it_is_rare() {
        let mut demand = Demand::of(100.0, 10.0, 1.0, 64.0);
        let small = SHARD.longest_seconds(&demand);
        let large = Class { rooms: 1.0, members: 10_000.0, messages_per_second: 0.1, text_bytes: 64.0, here: 1.0 };
        demand.classes.push(large);
        assert!((SHARD.longest_seconds(&demand) - small - 9990.0 * 3500e-9).abs() < 1e-9);
        demand.classes[1].messages_per_second = 1e-4;
        assert_eq!(SHARD.longest_seconds(&demand), small);
    }

    #[test]
    fn headroom_ends_where_the_core_is_busy() {
        let demand = Demand::of(10.0, 20.0, 10.0, 64.0);
        let factor = SHARD.headroom(&demand, |_| 0.2, 0.7);
        let busy = |factor: f64| SHARD.settle(&demand.louder(factor), 0.2).cores + 0.2;
        assert!(busy(factor) >= 0.7 && busy(factor / 1.1) < 0.7, "{factor}");
        assert_eq!(SHARD.headroom(&demand, |_| 0.7, 0.7), 1.0);
        assert!(SHARD.headroom(&Demand::default(), |_| 0.0, 0.7) >= HEADROOM_MAX);
    }

    #[test]
    fn saving_is_shared_by_what_a_transaction_holds() {
        let saving = Saving::new(&[5000.0, 8.0, 200_000.0, 12_000.0], 0.01);
        let few = Demand::of(1.0, 2.0, 10.0, 100.0);
        assert!((saving.cores(&few) * 1e9 / 10.0 - 217_800.0).abs() < 100.0, "each its own transaction");
        let many = Demand::of(1.0, 2.0, 10_000.0, 100.0);
        assert!((saving.transactions(&many) - 100.0).abs() < 1.0);
        assert!(saving.cores(&many) * 1e9 / 10_000.0 < 8000.0);
    }
}
