//! A room's history, whole: what its members have seen, whether the database has it yet or not.
//!
//! In: a room, and a message to begin before. Out: the messages before it, newest first, in order, each once. On the control
//! thread; knows neither SQL, nor the journal's files, nor the shards.

use std::{cmp::Reverse, fmt, io, sync::Arc};

use uuid::Uuid;

use crate::{
    identity::RoomId,
    journal::pending::Pending,
    store::{self, Saved, Stamp, StoreError},
};

/// The saved part of a history.
pub trait Table: Sync {
    /// The stamp of the room's message with this id.
    fn stamp(&self, room: RoomId, id: Uuid) -> impl Future<Output = Result<Option<Stamp>, StoreError>> + Send;

    /// The room's last messages before `before`, newest first.
    fn newest(
        &self,
        room: RoomId,
        before: Option<Stamp>,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Saved>, StoreError>> + Send;
}

impl Table for store::Reader {
    async fn stamp(&self, room: RoomId, id: Uuid) -> Result<Option<Stamp>, StoreError> {
        store::Reader::stamp(self, room, id).await
    }

    async fn newest(&self, room: RoomId, before: Option<Stamp>, limit: u16) -> Result<Vec<Saved>, StoreError> {
        self.history(room, before, limit).await
    }
}

/// The part of a history that neither the database nor a journal has yet (`durability = "none"`).
pub trait Memory: Sync {
    /// The room's messages that are broadcast and only in memory, oldest first. Like those of a journal they are newer than what
    /// of this run is saved.
    fn unsaved(&self, room: RoomId) -> impl Future<Output = Result<Vec<Saved>, Unread>> + Send;
}

/// Why a history is not whole, and so not given.
#[derive(Debug)]
pub enum Unread {
    /// The database cannot be asked.
    Database(StoreError),
    /// A file of the journal cannot be read.
    Journal(io::Error),
    /// The room's shard does not say what it has: it has too much to do, or has ended.
    Shard,
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Unread {
        Unread::Database(error)
    }
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Unread {
        Unread::Journal(error)
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unread::Database(error) => error.fmt(f),
            Unread::Journal(error) => {
                write!(f, "the journal cannot be read: {error}; is its disk sound, and are its files there?")
            }
            Unread::Shard => {
                f.write_str("the room's shard does not answer: it is overloaded, or the server is stopping")
            }
        }
    }
}

/// The room's last `limit` messages, or the last ones before the message `before`: newest first. `None` when the room has no
/// such message.
///
/// The database is not asked where it need not be: also without it a room may read what is being said in it.
///
/// # Errors
/// When a part of it cannot be read.
pub async fn read(
    table: &impl Table,
    memory: &impl Memory,
    pending: &Arc<Pending>,
    room: RoomId,
    before: Option<Uuid>,
    limit: u16,
) -> Result<Option<Vec<Saved>>, Unread> {
    // What is not saved is asked for first, always: a message that is saved between the two is then found twice and not never.
    let mut in_memory = memory.unsaved(room).await?;
    let before = match before {
        None => None,
        Some(id) => match stamp(table, &in_memory, pending, room, id).await? {
            Some(stamp) => Some(stamp),
            None => return Ok(None),
        },
    };
    in_memory.retain(|saved| before.is_none_or(|before| saved.stamp() < before));
    let unsaved = pending.newest(room, before, limit.into()).await?;
    let live = merge([in_memory, unsaved.live], limit);
    if live.len() == usize::from(limit) {
        return Ok(Some(live));
    }
    let saved = table.newest(room, before, limit).await?;
    Ok(Some(merge([saved, live, unsaved.old], limit)))
}

/// The stamp of the room's message with this id, wherever that is.
async fn stamp(
    table: &impl Table,
    in_memory: &[Saved],
    pending: &Arc<Pending>,
    room: RoomId,
    id: Uuid,
) -> Result<Option<Stamp>, Unread> {
    if let Some(saved) = in_memory.iter().find(|saved| saved.id == id) {
        return Ok(Some(saved.stamp()));
    }
    match pending.find(room, id).await? {
        Some(stamp) => Ok(Some(stamp)),
        None => Ok(table.stamp(room, id).await?),
    }
}

/// The newest of several parts of a history, newest first. Of a message that is in several the first one counts.
pub fn merge(parts: impl IntoIterator<Item = Vec<Saved>>, limit: u16) -> Vec<Saved> {
    let mut all: Vec<Saved> = parts.into_iter().flatten().collect();
    // Stable, so that copies stay in the order of their parts. They are neighbours: a message has one stamp.
    all.sort_by_key(|saved| Reverse(saved.stamp()));
    all.dedup_by_key(|saved| saved.id);
    all.truncate(limit.into());
    all
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    };

    use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::journal::{
        Progress,
        pending::tests::{Disk, OTHER, ROOM, id, message},
    };

    /// May save everything just before or just after it is asked, as a writer does that comes round then.
    #[derive(Default)]
    struct Fake {
        rows: Mutex<Vec<Saved>>,
        rest: Vec<Saved>,
        in_memory: Vec<Saved>,
        progress: Arc<Progress>,
        saves_all: Option<When>,
        is_away: AtomicBool,
        asked: AtomicUsize,
    }

    #[derive(Clone, Copy, PartialEq, Eq)]
    enum When {
        Before,
        After,
    }

    impl Fake {
        fn rows(&self) -> Result<Vec<Saved>, StoreError> {
            self.asked.fetch_add(1, Relaxed);
            if self.is_away.load(Relaxed) {
                return Err(StoreError::Unavailable("away".into()));
            }
            let mut rows = self.rows.lock().unwrap();
            let before = rows.clone();
            if self.saves_all.is_some() {
                let missing: Vec<Saved> = self.rest.iter().filter(|saved| !rows.contains(saved)).cloned().collect();
                rows.extend(missing);
                self.progress.set_saved(self.progress.held());
            }
            Ok(if self.saves_all == Some(When::After) { before } else { rows.clone() })
        }
    }

    impl Table for Fake {
        async fn stamp(&self, _: RoomId, id: Uuid) -> Result<Option<Stamp>, StoreError> {
            Ok(self.rows()?.iter().find(|saved| saved.id == id).map(Saved::stamp))
        }

        async fn newest(&self, _: RoomId, before: Option<Stamp>, limit: u16) -> Result<Vec<Saved>, StoreError> {
            let mut rows = self.rows()?;
            rows.retain(|saved| before.is_none_or(|before| saved.stamp() < before));
            Ok(merge([rows], limit))
        }
    }

    impl Memory for Fake {
        async fn unsaved(&self, _: RoomId) -> Result<Vec<Saved>, Unread> {
            Ok(self.in_memory.clone())
        }
    }

    /// A room whose messages are now in the table, now in the journal or in memory, now in what an earlier run left, now in
    /// two of them.
    fn split(random: &mut impl Rng) -> (Disk, Fake, Vec<Saved>) {
        let (mut disk, mut rows, mut all) = (Disk::new(), Vec::new(), Vec::new());
        let mut timestamp = 0;
        let mut next = |all: &mut Vec<Saved>| {
            timestamp += 1;
            all.push(message(timestamp));
            message(timestamp)
        };
        (0..random.random_range(0..30)).for_each(|_| rows.push(next(&mut all)));
        for number in 0..random.random_range(0..3) {
            for _ in 0..random.random_range(2..8) {
                let old = next(&mut all);
                rows.extend(random.random_bool(0.3).then(|| old.clone()));
                disk.write(ROOM, old);
            }
            disk.leave_as_old(number);
        }
        let live: Vec<Saved> = (0..random.random_range(0..40)).map(|_| next(&mut all)).collect();
        let is_journalled = random.random_bool(0.7);
        for saved in live.iter().filter(|_| is_journalled) {
            if random.random_bool(0.1) {
                disk.roll();
            }
            if random.random_bool(0.3) {
                disk.write(OTHER, message(saved.timestamp + 10_000));
            }
            disk.write(ROOM, saved.clone());
        }
        // More may be in the table than the writer has said.
        let saved = random.random_range(0..=disk.written.len());
        let committed = random.random_range(saved..=disk.written.len());
        disk.progress.set_saved(disk.written.get(saved).map_or(disk.progress.held(), |(place, ..)| *place));
        rows.extend(disk.written[..committed].iter().filter(|(_, room, _)| *room == ROOM).map(|(.., row)| row.clone()));
        let mut in_memory = live.clone();
        match is_journalled {
            true => in_memory.clear(),
            // The shard hears of a commit later.
            false => {
                let committed = random.random_range(0..=live.len());
                rows.extend_from_slice(&live[..committed]);
                in_memory.drain(..random.random_range(0..=committed));
            }
        }
        let table = Fake {
            rows: Mutex::new(rows),
            rest: live,
            in_memory,
            progress: Arc::clone(&disk.progress),
            saves_all: [None, Some(When::Before), Some(When::After)][random.random_range(0..3)],
            ..Fake::default()
        };
        (disk, table, all)
    }

    #[tokio::test]
    async fn a_history_is_whole_wherever_its_messages_are() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for round in 0..200 {
            let (disk, table, all) = split(&mut random);
            let pending = disk.pending();
            for _ in 0..3 {
                let limit = random.random_range(1..20);
                let before = (!all.is_empty() && random.random_bool(0.7)).then(|| random.random_range(0..all.len()));
                let expected: Vec<Saved> =
                    all[..before.unwrap_or(all.len())].iter().rev().take(limit).cloned().collect();
                let before = before.map(|nth| all[nth].id);
                let found = read(&table, &table, &pending, ROOM, before, limit as u16).await.unwrap();
                assert_eq!(found, Some(expected), "round {round}, before {before:?}, limit {limit}");
            }
            assert_eq!(read(&table, &table, &pending, ROOM, Some(id(5_000)), 5).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn the_database_is_asked_only_for_what_the_journal_lacks() {
        let mut disk = Disk::new();
        disk.write(ROOM, message(1));
        disk.write(ROOM, message(2));
        disk.leave_as_old(1);
        (3..=5).for_each(|nth| disk.write(ROOM, message(nth)));
        let (table, pending) = (Fake::default(), disk.pending());
        table.is_away.store(true, Relaxed);
        for (before, limit, times) in [
            (None, 3, Some(vec![5, 4, 3])),
            (Some(5), 2, Some(vec![4, 3])),
            // What an earlier run left may have newer messages behind it, in the table.
            (None, 4, None),
            (Some(3), 1, None),
            (Some(9), 1, None),
        ] {
            let asked = table.asked.load(Relaxed);
            let found = read(&table, &table, &pending, ROOM, before.map(id), limit).await;
            let found = found.ok().map(|found| found.unwrap().iter().map(|saved| saved.timestamp).collect::<Vec<_>>());
            assert_eq!(table.asked.load(Relaxed) - asked, usize::from(times.is_none()), "before {before:?}, {limit}");
            assert_eq!(found, times, "before {before:?}, {limit}");
        }
    }

    #[tokio::test]
    async fn the_database_is_asked_only_for_what_memory_lacks() {
        let table = Fake { in_memory: (3..=5).map(message).collect(), ..Fake::default() };
        let pending = Disk::new().pending();
        table.is_away.store(true, Relaxed);
        for (before, limit, times) in
            [(None, 3, Some(vec![5, 4, 3])), (Some(5), 2, Some(vec![4, 3])), (None, 4, None), (Some(2), 1, None)]
        {
            let found = read(&table, &table, &pending, ROOM, before.map(id), limit).await;
            let found = found.ok().map(|found| found.unwrap().iter().map(|saved| saved.timestamp).collect::<Vec<_>>());
            assert_eq!(found, times, "before {before:?}, {limit}");
        }
    }

    #[test]
    fn of_two_copies_the_first_counts() {
        let renamed = Saved { sender_username: "zoë".into(), ..message(1) };
        let parts = [vec![renamed.clone()], vec![message(2), message(1)], vec![]];
        assert_eq!(merge(parts.clone(), 10), [message(2), renamed]);
        assert_eq!(merge(parts, 1), [message(2)]);
    }
}
