//! What a load is: how many rooms, members and senders, what sets the pace, for how long. Plain values, checked by the
//! command line.

use std::collections::HashSet;
use std::time::Duration;

use super::sizes::TextBytes;

/// The most connections: more than any machine has files for.
pub(crate) const CONNECTIONS_MAX: usize = 10_000_000;

/// The most messages in all rooms together: each is a system call.
const MESSAGES_PER_SECOND_MAX: f64 = 1e6;

/// When the next message leaves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pace {
    /// When an earlier one has come back: so many are outstanding in a room.
    Closed { outstanding: usize },
    /// By the clock: so many a second in a room.
    Open { per_second: f64 },
    /// By the clock, at one rate after another, each measured by itself.
    Steps { per_second: Vec<f64> },
}

/// What a load is.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rooms: usize,
    pub(crate) members: usize,
    pub(crate) senders: usize,
    pub(crate) pace: Pace,
    pub(crate) text_bytes: TextBytes,
    /// What the lengths of texts are drawn with.
    pub(crate) seed: u64,
    /// How long an open loop's rate rises before it holds.
    pub(crate) ramp: Duration,
    /// Load, at the full rate, before the measured time.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// Connections that leave each second, in all rooms together, and whose seats others take.
    pub(crate) churn_per_second: f64,
    /// Members, in all rooms together, that read slowly, and how slowly each.
    pub(crate) slow_readers: usize,
    pub(crate) slow_bytes_per_second: usize,
    /// Whether the client looks for news without ever sleeping.
    pub(crate) spins: bool,
    /// Whether no progress is to be shown, not even on a terminal.
    pub(crate) quiet: bool,
}

impl Plan {
    /// One sender speaks at this pace in a room of ten members, for two seconds and then ten measured ones; nothing else
    /// happens.
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            rooms: 1,
            members: 10,
            senders: 1,
            pace,
            text_bytes: TextBytes::default(),
            seed: 0,
            ramp: Duration::ZERO,
            warm_up: Duration::from_secs(2),
            measured: Duration::from_secs(10),
            churn_per_second: 0.0,
            slow_readers: 0,
            slow_bytes_per_second: 1024,
            spins: false,
            quiet: true,
        }
    }

    /// Why this load cannot be: it is too much, or the members that only listen do not suffice.
    ///
    /// # Errors
    /// Says which.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { rooms, members, senders, slow_readers, .. } = self;
        if senders > members {
            return Err(format!("--senders {senders} is more than --members {members}"));
        }
        if rooms.saturating_mul(*members) > CONNECTIONS_MAX {
            return Err(format!("--rooms {rooms} of --members {members} are more than {CONNECTIONS_MAX} connections"));
        }
        let most = self.stages().into_iter().flatten().fold(0.0, f64::max) * *rooms as f64;
        if most > MESSAGES_PER_SECOND_MAX {
            return Err(format!("{most} messages/s in all rooms; no thread sends more than {MESSAGES_PER_SECOND_MAX}"));
        }
        if self.slow_readers > 0 && !(1..=1_000_000).contains(&self.slow_bytes_per_second) {
            return Err("--slow-bytes-per-second must be within 1 and 1,000,000: more is not slow".into());
        }
        let listeners = rooms * (members - senders);
        if *slow_readers > listeners {
            return Err(format!("--slow-readers {slow_readers}, but only {listeners} members do not send"));
        }
        if self.churn_per_second > 0.0 && listeners == *slow_readers {
            return Err("--churn needs members that neither send nor read slowly: raise --members".into());
        }
        Ok(())
    }

    /// The members that read slowly: the last of each room, the rooms by turns.
    pub(super) fn slow_members(&self) -> Vec<usize> {
        let member = |slow| (slow % self.rooms + 1) * self.members - 1 - slow / self.rooms;
        (0..self.slow_readers).map(member).collect()
    }

    /// The members whose seats change hands, if any do: all that neither send nor read slowly, the rooms by turns.
    pub(super) fn passing_members(&self) -> Vec<usize> {
        let slow: HashSet<usize> = self.slow_members().into_iter().collect();
        let places = (self.senders..self.members).flat_map(|place| (0..self.rooms).map(move |room| (room, place)));
        let members = places.map(|(room, place)| room * self.members + place).filter(|member| !slow.contains(member));
        if self.churn_per_second > 0.0 { members.collect() } else { Vec::new() }
    }

    /// What comes before the measured time at each rate.
    pub(super) fn lead(&self) -> Duration {
        self.ramp + self.warm_up
    }

    /// The rates of an open loop, one after another; none is a closed loop's only one.
    pub(super) fn stages(&self) -> Vec<Option<f64>> {
        match &self.pace {
            Pace::Closed { .. } => vec![None],
            Pace::Open { per_second } => vec![Some(*per_second)],
            Pace::Steps { per_second } => per_second.iter().copied().map(Some).collect(),
        }
    }

    /// How long all stages last, without the waits for what is under way.
    pub(super) fn length(&self) -> Duration {
        (self.lead() + self.measured) * self.stages().len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_and_passing_members_neither_send_nor_overlap() {
        let plan = Plan {
            rooms: 2,
            members: 5,
            senders: 2,
            slow_readers: 3,
            churn_per_second: 1.0,
            ..Plan::new(Pace::Closed { outstanding: 1 })
        };
        assert_eq!(plan.slow_members(), [4, 9, 3]);
        assert_eq!(plan.passing_members(), [2, 7, 8]);
        assert_eq!(Plan { churn_per_second: 0.0, ..plan.clone() }.passing_members(), [0; 0]);
        for (slow_readers, churn_per_second, fits) in [(5, 1.0, true), (6, 0.0, true), (6, 1.0, false), (7, 0.0, false)]
        {
            let plan = Plan { slow_readers, churn_per_second, ..plan.clone() };
            assert_eq!(plan.check().is_ok(), fits, "{slow_readers} slow, {churn_per_second} churn");
        }
        assert!(Plan { senders: 6, ..plan.clone() }.check().is_err());
        let too_much = [
            Plan { members: 6_000_000, ..plan.clone() },
            Plan { pace: Pace::Open { per_second: 6e5 }, ..plan.clone() },
        ];
        assert!(too_much.iter().all(|plan| plan.check().is_err()));
        assert!(Plan { pace: Pace::Open { per_second: 4e5 }, ..plan }.check().is_ok());
    }
}
