//! What is broadcast and not yet in the database: a room's part of it, for its history.
//!
//! In: a room, from the control thread. Out: its messages that the journal holds and the writer has not saved, those of this
//! run and those that an earlier run left. Reads the files that shards write, on tokio's blocking threads, two at a time; never
//! writes one, and no shard or writer waits for it.
//!
//! The first who asks reads all that is pending, once, into an [`index`]; who asks later reads what has come since, and then
//! the records of his room alone. So a history costs about the same however long the database has been away.
//!
//! - [`live`]: the journal of a running shard
//! - [`index`]: which room's records lie where in a file
//! - [`run`]: one room's messages, read from where they lie
//!
//! A file whose records are all saved may be written over while it is being read here. So `saved` is looked at *after* each
//! read: what lies below it is in the database, whatever the read brought; what lies above has not been touched.

mod index;
mod live;
mod run;

use std::{
    cmp::Reverse,
    collections::HashMap,
    fs::File,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Semaphore, task::spawn_blocking};
use uuid::Uuid;

use self::{
    index::Index,
    live::Live,
    run::{Files, Place, Run, bytes_of},
};
use super::{
    Leftovers, Progress,
    record::{Decoded, decode},
    recovery::Old,
};
use crate::{
    identity::RoomId,
    store::{Micros, Saved, Stamp},
    topology::Topology,
};

/// Reads under way at one time. Each holds a blocking thread, and one segment of memory while it brings an index up to date.
const READS_MAX: usize = 2;

/// The messages that wait in the journal. Share it in an `Arc`.
#[derive(Debug)]
pub struct Pending {
    topology: Arc<Topology>,
    live: Vec<Live>,
    old: Leftovers,
    /// Indexes of old segments, by shard and number.
    old_indexes: Mutex<HashMap<(u32, u32), Arc<Index>>>,
    reads: Arc<Semaphore>,
}

/// Messages of a room that are pending, newest first in both parts, and each up to the limit asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsaved {
    /// Of this run. What of the room is saved is older than all of them, for a shard's messages are saved in order.
    pub live: Vec<Saved>,
    /// Left by earlier runs. Newer ones may be saved already.
    pub old: Vec<Saved>,
}

impl Pending {
    /// What waits in the journal in `directory`: with, for each shard, how far it has come, and the number of the first segment
    /// that this run writes. Without shards there is no journal.
    pub fn new(
        directory: &Path,
        topology: Arc<Topology>,
        shards: Vec<(Arc<Progress>, u32)>,
        old: Leftovers,
    ) -> Pending {
        let shards = shards.into_iter().zip(0..);
        let live = shards.map(|((progress, first), shard)| Live::new(directory, shard, first, progress)).collect();
        Pending { topology, live, old, old_indexes: Mutex::default(), reads: Arc::new(Semaphore::new(READS_MAX)) }
    }

    /// The stamp of the room's message with this id, if it is pending.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn find(self: &Arc<Self>, room: RoomId, id: Uuid) -> io::Result<Option<Stamp>> {
        self.read(room, move |pending| {
            if let Some(live) = pending.live(room)
                && let Some(stamp) = live.run(room)?.find(id)?
            {
                return Ok(Some(stamp));
            }
            for old in pending.old_segments() {
                if let Some(stamp) = pending.old_run(&old, room)?.find(id)? {
                    return Ok(Some(stamp));
                }
            }
            Ok(None)
        })
        .await
    }

    /// The room's last `limit` messages that are pending, or the last ones before `before`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub async fn newest(self: &Arc<Self>, room: RoomId, before: Option<Stamp>, limit: usize) -> io::Result<Unsaved> {
        let before = before.unwrap_or(Stamp::LAST);
        self.read(room, move |pending| {
            let live = pending.live(room).map(|live| live.run(room)?.newest(before, limit));
            Ok(Unsaved { live: live.transpose()?.unwrap_or_default(), old: pending.newest_old(room, before, limit)? })
        })
        .await
    }

    fn newest_old(&self, room: RoomId, before: Stamp, limit: usize) -> io::Result<Vec<Saved>> {
        let mut newest: Vec<Saved> = Vec::new();
        for old in self.old_segments() {
            let floor = newest.get(limit.saturating_sub(1)).map_or(Micros::MIN, |saved| saved.timestamp);
            if old.newest < floor || old.oldest > before.timestamp {
                continue;
            }
            newest.extend(self.old_run(&old, room)?.newest(before, limit)?);
            newest.sort_unstable_by_key(|saved| Reverse(saved.stamp()));
            newest.truncate(limit);
        }
        Ok(newest)
    }

    /// Does a piece of work on a blocking thread, when its turn comes; on none where nothing is pending.
    async fn read<T: Default + Send + 'static>(
        self: &Arc<Self>,
        room: RoomId,
        work: impl FnOnce(&Pending) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if self.live(room).is_none_or(Live::is_saved) && lock(&self.old).is_empty() {
            return Ok(T::default());
        }
        // Kept by the work, which goes on when whoever asked has given up.
        let turn = Arc::clone(&self.reads).acquire_owned().await.map_err(io::Error::other)?;
        let pending = Arc::clone(self);
        let done = spawn_blocking(move || {
            let _turn = turn;
            work(&pending)
        });
        done.await.map_err(io::Error::other)?
    }

    fn live(&self, room: RoomId) -> Option<&Live> {
        self.live.get(self.topology.shard_of(room))
    }

    /// What earlier runs left, the newest first.
    fn old_segments(&self) -> Vec<Old> {
        let mut all = lock(&self.old).clone();
        lock(&self.old_indexes).retain(|key, _| all.iter().any(|old| old.key() == *key));
        all.sort_unstable_by_key(|old| Reverse(old.newest));
        all
    }

    fn old_run<'a>(&'a self, old: &'a Old, room: RoomId) -> io::Result<Run<(&'a Leftovers, &'a Old)>> {
        let known = lock(&self.old_indexes).get(&old.key()).cloned();
        let index = match known.map_or_else(|| self.old_index(old), Ok) {
            Err(_) if !old.is_in(&self.old) => Arc::default(),
            index => index?,
        };
        let places = index.places(room).map(|at| Place { segment: old.number, at }).collect();
        Ok(Run::new((&self.old, old), room, places))
    }

    fn old_index(&self, old: &Old) -> io::Result<Arc<Index>> {
        let index = Arc::new(old.index()?);
        lock(&self.old_indexes).insert(old.key(), Arc::clone(&index));
        Ok(index)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics half way, and none is ever taken by a shard.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Old {
    fn key(&self) -> (u32, u32) {
        (self.shard, self.number)
    }

    fn is_in(&self, all: &Leftovers) -> bool {
        lock(all).iter().any(|old| old.key() == self.key())
    }

    fn index(&self) -> io::Result<Index> {
        let (file, mut index) = (File::open(&self.path)?, Index::default());
        for Range { start: mut at, end } in self.ranges.iter().cloned() {
            let bytes = bytes_of(&file, at..end)?;
            let mut rest = &bytes[..];
            while let Decoded::Record { record, len, .. } = decode(rest) {
                index.push(record.row.room, at..at + len as u32);
                (at, rest) = (at + len as u32, &rest[len..]);
            }
        }
        Ok(index)
    }
}

impl Files for (&Leftovers, &Old) {
    fn path(&self, _: u32) -> PathBuf {
        self.1.path.clone()
    }

    fn is_saved(&self, _: &Place) -> bool {
        !self.1.is_in(self.0)
    }
}

#[cfg(test)]
pub(crate) mod tests;
