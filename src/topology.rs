//! CPUs in, places out: which shard runs on which CPU, and which shard owns a room.
//!
//! Pure but for [`cpus_allowed`], which reads `/proc`. Every thread may hold a copy; nothing changes after start-up, so
//! a room's shard is the same for as long as the process lives, and on each start with the same number of shards.

use std::{fs, num::NonZeroUsize, thread};

use crate::{
    identity::RoomId,
    limits::{ROOM_GROUPS, SHARDS_MAX},
};

/// Where every shard and every room lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Shard to the CPU that it is pinned to.
    cpus: Box<[usize]>,
    /// Group to shard.
    groups: Box<[u8; ROOM_GROUPS]>,
}

impl Topology {
    /// `shards` shards on the given CPUs, `0` meaning one a CPU. Shards beyond the CPUs wrap round and share; an empty
    /// list counts as CPU 0, and more than [`SHARDS_MAX`] shards as that many.
    pub fn new(cpus: &[usize], shards: usize) -> Topology {
        let cpus = if cpus.is_empty() { &[0] } else { cpus };
        let shards = if shards == 0 { cpus.len() } else { shards }.min(SHARDS_MAX);
        let mut groups = Box::new([0; ROOM_GROUPS]);
        for (group, shard) in groups.iter_mut().enumerate() {
            *shard = u8::try_from(group % shards).expect("limits asserts that a shard fits a byte");
        }
        Topology { cpus: cpus.iter().copied().cycle().take(shards).collect(), groups }
    }

    /// How many shards there are: at least one.
    pub fn shards(&self) -> usize {
        self.cpus.len()
    }

    /// The CPU that a shard is pinned to. Panics on a shard that does not exist.
    pub fn cpu_of(&self, shard: usize) -> usize {
        self.cpus[shard]
    }

    /// The shard that owns a room: the only one that orders, stamps and keeps its messages.
    pub fn shard_of(&self, room: RoomId) -> usize {
        usize::from(self.groups[group_of(room)])
    }
}

/// The group that a room falls into, below [`ROOM_GROUPS`]; the same for ever.
pub fn group_of(room: RoomId) -> usize {
    let (high, low) = room.as_u64_pair();
    // Only the product's top bits depend on all bits of the id. Folding first, since the halves of a UUIDv7 made in one
    // millisecond differ in the lower one alone.
    let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed >> (u64::BITS - ROOM_GROUPS.trailing_zeros())) as usize
}

/// The CPUs that this process may use, in rising order: those it may be scheduled on (`taskset`, cpusets), cut to as
/// many as a container's CPU quota amounts to. `[0]` where `/proc` cannot be read.
pub fn cpus_allowed() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let mut cpus = list.and_then(parse_cpu_list).unwrap_or_else(|| vec![0]);
    cpus.truncate(thread::available_parallelism().map_or(1, NonZeroUsize::get));
    cpus
}

/// Reads the kernel's list form, `0-3,8`. `None` unless it names at least one CPU.
fn parse_cpu_list(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    (!cpus.is_empty()).then_some(cpus)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        for (list, cpus) in [
            ("\t0-3", Some(vec![0, 1, 2, 3])),
            ("\t0-1,4,6-7\n", Some(vec![0, 1, 4, 6, 7])),
            ("5", Some(vec![5])),
            ("", None),
            ("3-1", None),
            ("0-x", None),
        ] {
            assert_eq!(parse_cpu_list(list), cpus, "{list:?}");
        }
        assert!(!cpus_allowed().is_empty());
    }

    #[test]
    fn shards_take_the_cpus_in_turn() {
        for (cpus, shards, placed) in [
            (&[0, 1, 2][..], 0, &[0, 1, 2][..]),
            (&[4, 6], 1, &[4]),
            (&[4, 6], 5, &[4, 6, 4, 6, 4]),
            (&[], 0, &[0]),
            (&[], 2, &[0, 0]),
        ] {
            let topology = Topology::new(cpus, shards);
            let got: Vec<_> = (0..topology.shards()).map(|shard| topology.cpu_of(shard)).collect();
            assert_eq!(got, placed, "{cpus:?} {shards}");
        }
        assert_eq!(Topology::new(&[0], usize::MAX).shards(), SHARDS_MAX);
    }

    #[test]
    fn groups_are_shared_out_evenly() {
        for shards in [1, 2, 3, 7, 64, SHARDS_MAX] {
            let topology = Topology::new(&[0], shards);
            let mut owned = vec![0; shards];
            topology.groups.iter().for_each(|shard| owned[usize::from(*shard)] += 1);
            let (least, most) = (owned.iter().min().unwrap(), owned.iter().max().unwrap());
            assert!(most - least <= 1, "{shards} shards own {owned:?}");
        }
    }

    #[test]
    fn rooms_spread_over_the_shards_whatever_their_ids_have_in_common() {
        let random: Vec<Uuid> = (0..8000).map(|_| Uuid::new_v4()).collect();
        let by_time: Vec<Uuid> = (0..8000).map(|_| Uuid::now_v7()).collect();
        let counted: Vec<Uuid> = (0..8000).map(Uuid::from_u128).collect();
        let high: Vec<Uuid> = (0..8000).map(|n| Uuid::from_u128(n << 96)).collect();
        let topology = Topology::new(&[0], 8);
        for (kind, rooms) in [("v4", random), ("v7", by_time), ("counted", counted), ("high bits", high)] {
            let mut owned = [0; 8];
            rooms.iter().for_each(|room| owned[topology.shard_of(*room)] += 1);
            assert!(owned.iter().all(|&n| (800..1200).contains(&n)), "{kind}: {owned:?}");
        }
    }

    #[test]
    fn a_rooms_group_is_the_same_on_every_machine() {
        // These are facts: a change of the hash moves every room of every server that is already running.
        for (room, group) in [(0, 0), (1, 3300), (0x6f1e_8a52_7d1c_4b1f_9d7e_0b9f_2f1d_3c4a, 3111)] {
            assert_eq!(group_of(Uuid::from_u128(room)), group);
        }
    }
}
