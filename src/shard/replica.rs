//! A room on more shards than its home: which have a replica of its log, and how many seats each of them has.
//!
//! ```text
//!             messages of its members ->
//!   replica  <- seats, sealed batches ->  home: orders, stamps, keeps
//! ```
//!
//! The home shard seats further members elsewhere when it has enough of its own, and passes every batch once to each
//! shard that has some, the bytes by reference count: a batch costs the home one item a shard, however many members are there.
//! Pure, but for the count of seats that have ended, which the replica's shard writes and the home reads.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What of a room a shard has.
pub enum Part {
    /// The room itself: its order, its open batch, what waits for durability; and who has a replica of its log.
    Home(Vec<Replica>),
    /// A replica of its log, for the members that are seated on this shard.
    Replica {
        /// The shard that orders and keeps the room.
        home: usize,
        /// The seats that ended, for the home to read.
        ended: Ended,
    },
}

/// A replica of a room, as its home knows it.
pub struct Replica {
    /// The shard that has it.
    pub shard: usize,
    /// It has missed batches, and ends: it is sent no more, neither batches nor members.
    pub is_cut_off: bool,
    seated: u64,
    ended: Ended,
}

/// How many seats of a replica have ended. Its shard alone writes it, its home alone reads it, and the parcel that says a
/// replica is vacant orders it (`Relaxed`).
#[derive(Clone, Default)]
pub struct Ended(Arc<AtomicU64>);

impl Ended {
    /// One more seat has ended. By the replica's shard only.
    pub fn up(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Relaxed);
    }
}

impl Replica {
    /// A replica without seats.
    pub fn new(shard: usize) -> Replica {
        Replica { shard, is_cut_off: false, seated: 0, ended: Ended::default() }
    }

    /// One more member is on the way there. What it is to count its end with.
    pub fn seat(&mut self) -> Ended {
        self.seated += 1;
        self.ended.clone()
    }

    /// Members that are there or on the way.
    pub fn members(&self) -> u64 {
        self.seated.saturating_sub(self.ended.0.load(Relaxed))
    }
}

/// The shard on which a further member of a room sits: the home while it has fewer than `spill` members, then one of those
/// that have a replica while one of them does, then one that has none yet, and when each has `spill` the one with the
/// fewest. So a room is on no more shards than it needs. `spill` 0 is no spilling.
pub fn seat(home: usize, own: u64, replicas: &[Replica], shards: usize, spill: u64) -> usize {
    if spill == 0 || own < spill {
        return home;
    }
    let others =
        replicas.iter().filter(|replica| !replica.is_cut_off).map(|replica| (replica.members(), replica.shard));
    let (fewest, shard) = others.chain([(own, home)]).min().unwrap_or((own, home));
    let has_none = |shard: &usize| *shard != home && replicas.iter().all(|replica| replica.shard != *shard);
    match (0..shards).map(|step| (home + step) % shards).find(has_none) {
        Some(new) if fewest >= spill => new,
        _ => shard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_fills_one_shard_after_the_other_and_then_all_alike() {
        let (home, shards, spill) = (2, 4, 3);
        let mut own = 0;
        let mut replicas: Vec<Replica> = Vec::new();
        let mut order = Vec::new();
        for _ in 0..20 {
            let shard = seat(home, own, &replicas, shards, spill);
            order.push(shard);
            match replicas.iter_mut().find(|replica| replica.shard == shard) {
                _ if shard == home => own += 1,
                Some(replica) => drop(replica.seat()),
                None => {
                    replicas.push(Replica::new(shard));
                    replicas.last_mut().unwrap().seat();
                }
            }
        }
        assert_eq!(order[..12], [2, 2, 2, 3, 3, 3, 0, 0, 0, 1, 1, 1]);
        let members: Vec<u64> = replicas.iter().map(Replica::members).chain([own]).collect();
        assert_eq!(members, [5; 4]);
    }

    #[test]
    fn who_leaves_makes_room_and_who_is_cut_off_gets_nobody() {
        let mut replicas = vec![Replica::new(1), Replica::new(2)];
        let ended = replicas[0].seat();
        replicas[1].seat();
        assert_eq!(seat(0, 2, &replicas, 3, 1), 1);
        replicas[0].seat();
        assert_eq!(seat(0, 2, &replicas, 3, 1), 2);
        ended.up();
        ended.up();
        assert_eq!((replicas[0].members(), seat(0, 2, &replicas, 3, 1)), (0, 1));
        replicas[0].is_cut_off = true;
        assert_eq!(seat(0, 2, &replicas, 3, 1), 2);
        replicas[1].is_cut_off = true;
        assert_eq!(seat(0, 2, &replicas, 3, 1), 0);
    }

    #[test]
    fn a_room_that_may_not_or_need_not_spill_stays_at_home() {
        for (own, shards, spill) in [(100, 1, 1), (100, 4, 0), (9, 4, 10)] {
            assert_eq!(seat(0, own, &[], shards, spill), 0, "{own} {shards} {spill}");
        }
    }
}
