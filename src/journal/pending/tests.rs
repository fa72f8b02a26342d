//! Journals written as a shard writes them, in files that were used before, and what is found in them.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use bytes::BytesMut;

use super::*;
use crate::{
    identity::UserId,
    journal::{
        Position,
        appender::start,
        record::{Record, encode, encoded_len},
        segment::{Header, file_name},
        tail::Tail,
    },
    store::Row,
};

pub(crate) const ROOM: Uuid = Uuid::from_u128(0xa);
pub(crate) const OTHER: Uuid = Uuid::from_u128(0xb);
const FIRST: u32 = 7;
const SEGMENT_BYTES: usize = 4096;

/// The message that was sent at this time.
pub(crate) fn message(timestamp: Micros) -> Saved {
    Saved {
        id: id(timestamp),
        sender: UserId::Int(1),
        sender_username: "zoe".into(),
        receiver: None,
        timestamp,
        content: format!("message {timestamp}").into(),
    }
}

pub(crate) fn id(timestamp: Micros) -> Uuid {
    Uuid::from_u128(1 << 80 | timestamp as u128)
}

fn record(room: RoomId, saved: &Saved) -> Record<'_> {
    let Saved { id, sender, receiver, timestamp, .. } = *saved;
    Record { row: Row { id, room, sender, receiver, timestamp, content: &saved.content }, sender_username: "zoe" }
}

/// A temporary folder.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringroom-pending-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The journal of shard 0, the only one.
pub(crate) struct Disk {
    folder: Folder,
    pub(crate) progress: Arc<Progress>,
    pub(crate) old: Leftovers,
    at: Position,
    previous_end: u32,
    sequence: u64,
    /// Where each message begins, and the room.
    pub(crate) written: Vec<(Position, RoomId, Saved)>,
}

impl Disk {
    pub(crate) fn new() -> Disk {
        let at = Position { segment: FIRST, offset: 0 };
        let disk = Disk {
            folder: Folder::new(),
            progress: Arc::default(),
            old: Arc::default(),
            at,
            previous_end: 0,
            sequence: 1_000,
            written: Vec::new(),
        };
        disk.leftovers(FIRST);
        disk
    }

    pub(crate) fn pending(&self) -> Arc<Pending> {
        let shards = vec![(Arc::clone(&self.progress), FIRST)];
        Arc::new(Pending::new(&self.folder.0, Arc::new(Topology::new(&[0], 1)), shards, Arc::clone(&self.old)))
    }

    /// Its reader, from the first record on.
    pub(crate) fn tail(&self) -> Tail {
        self.progress.set_saved(start(FIRST));
        Tail::new(&self.folder.0, 0, Arc::clone(&self.progress))
    }

    /// Its folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder.0
    }

    fn path(&self, segment: u32) -> PathBuf {
        self.folder.0.join(file_name(0, segment))
    }

    fn write_at(&self, at: Position, bytes: &[u8]) {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.path(at.segment)).unwrap();
        file.write_all_at(bytes, at.offset.into()).unwrap();
    }

    /// A file that is full of records of its last use.
    fn leftovers(&self, segment: u32) {
        let mut bytes =
            BytesMut::from(&Header { shard: 0, number: 1, first_sequence: 1, previous_end: 0 }.encode()[..]);
        let mut sequence = 0;
        while bytes.len() < SEGMENT_BYTES {
            sequence += 1;
            encode(&mut bytes, sequence, &record(ROOM, &message(900_000 + sequence as Micros)));
        }
        self.write_at(Position { segment, offset: 0 }, &bytes);
    }

    /// Writes a message, and zeros behind it; it is held from then on.
    pub(crate) fn write(&mut self, room: RoomId, saved: Saved) {
        let record = record(room, &saved);
        self.sequence += 1;
        let mut bytes = BytesMut::new();
        if self.at.offset == 0 {
            let Position { segment: number, .. } = self.at;
            let header = Header { shard: 0, number, first_sequence: self.sequence, previous_end: self.previous_end };
            bytes.extend_from_slice(&header.encode());
        }
        let head = bytes.len() as u32;
        encode(&mut bytes, self.sequence, &record);
        let len = bytes.len() as u32;
        assert_eq!(len - head, encoded_len(record.sender_username.len(), record.row.content.len()) as u32);
        bytes.extend_from_slice(&[0; 8]);
        self.write_at(self.at, &bytes);
        let place = Position { offset: self.at.offset + head, ..self.at };
        self.written.push((place, room, saved));
        self.at.offset += len;
        self.progress.set_held(self.at);
    }

    /// Goes on in the next segment.
    pub(crate) fn roll(&mut self) {
        if self.at.offset > 0 {
            self.previous_end = self.at.offset;
            self.at = Position { segment: self.at.segment + 1, offset: 0 };
            self.leftovers(self.at.segment);
        }
    }

    /// The messages of a room that are held and not saved, oldest first.
    fn unsaved(&self, room: RoomId) -> Vec<Saved> {
        let saved = self.progress.saved();
        let unsaved = self.written.iter().filter(|(place, of, _)| *of == room && *place >= saved);
        unsaved.map(|(.., message)| message.clone()).collect()
    }

    /// Makes what is written so far a segment of an earlier run.
    pub(crate) fn leave_as_old(&mut self, number: u32) {
        let path = self.folder.0.join(format!("old-{number}"));
        let segment = self.at.segment;
        fs::rename(self.path(segment), &path).unwrap();
        let places: Vec<_> = self.written.drain(..).collect();
        let (first, last) = (places.first().unwrap(), places.last().unwrap());
        let ranges = vec![first.0.offset..places[1].0.offset, places[1].0.offset..self.at.offset];
        let (oldest, newest) = (first.2.timestamp, last.2.timestamp);
        self.old.lock().unwrap().push(Old { messages: 1, path, shard: 3, number, ranges, oldest, newest });
        *self = Disk {
            folder: std::mem::replace(&mut self.folder, Folder::new()),
            old: Arc::clone(&self.old),
            ..Disk::new()
        };
        self.leftovers(FIRST);
    }
}

/// Ten segments with seven messages each, of two rooms.
fn ten_segments() -> Disk {
    let mut disk = Disk::new();
    for nth in 0..70 {
        if nth % 7 == 0 {
            disk.roll();
        }
        disk.write(if nth % 3 == 0 { OTHER } else { ROOM }, message(nth));
    }
    disk
}

fn newest_of(mut all: Vec<Saved>, before: Option<Stamp>, limit: usize) -> Vec<Saved> {
    all.retain(|saved| before.is_none_or(|before| saved.stamp() < before));
    all.into_iter().rev().take(limit).collect()
}

async fn check(disk: &Disk, pending: &Arc<Pending>, what: &str) {
    for room in [ROOM, OTHER, Uuid::from_u128(0xc)] {
        let all = disk.unsaved(room);
        for (before, limit) in [(None, 1), (None, 10), (None, 200), (Some(33), 10), (Some(0), 10), (Some(500), 10)] {
            let before = before.map(|timestamp| Stamp { timestamp, id: id(timestamp) });
            let unsaved = pending.newest(room, before, limit).await.unwrap();
            assert_eq!(unsaved.live, newest_of(all.clone(), before, limit), "{what}: {before:?} {limit}");
        }
        for timestamp in [0, 33, 34, 69, 500] {
            let found = pending.find(room, id(timestamp)).await.unwrap();
            let expected = all.iter().find(|saved| saved.id == id(timestamp)).map(Saved::stamp);
            assert_eq!(found, expected, "{what}: {timestamp}");
        }
    }
}

#[tokio::test]
async fn what_is_held_and_not_saved_is_found_wherever_the_two_stand() {
    let disk = ten_segments();
    let knows_all = disk.pending();
    check(&disk, &knows_all, "nothing saved").await;
    let places: Vec<Position> = disk.written.iter().map(|(place, ..)| *place).collect();
    for saved in places.iter().step_by(3).chain([&disk.progress.held()]) {
        disk.progress.set_saved(*saved);
        check(&disk, &knows_all, &format!("known before, saved up to {saved}")).await;
        check(&disk, &disk.pending(), &format!("not known, saved up to {saved}")).await;
    }
}

#[tokio::test]
async fn what_comes_later_is_found_too() {
    let mut disk = Disk::new();
    let pending = disk.pending();
    for nth in 0..60 {
        if nth % 11 == 0 {
            disk.roll();
        }
        disk.write(if nth % 5 == 0 { OTHER } else { ROOM }, message(nth));
        if nth % 7 == 0 {
            check(&disk, &pending, &format!("{nth} written")).await;
        }
        if nth % 9 == 0 {
            disk.progress.set_saved(disk.written[disk.written.len() - 3.min(disk.written.len())].0);
        }
    }
}

#[tokio::test]
async fn a_segment_that_is_saved_may_be_another_or_none_by_now() {
    for indexed in [false, true] {
        let disk = ten_segments();
        let pending = disk.pending();
        if indexed {
            check(&disk, &pending, "all of it").await;
        }
        // The end of segment 9 is behind its last record; 8 and 9 are gone, 7 holds something newer.
        disk.progress.set_saved(Position { segment: FIRST + 2, offset: SEGMENT_BYTES as u32 });
        disk.leftovers(FIRST);
        [1, 2].iter().for_each(|nth| fs::remove_file(disk.path(FIRST + nth)).unwrap());
        check(&disk, &pending, "without the first three").await;
    }
}

#[tokio::test]
async fn what_is_saved_while_it_is_read_is_left_out_whatever_its_file_says() {
    let disk = ten_segments();
    let pending = disk.pending();
    let mut run = pending.live[0].run(ROOM).unwrap();
    disk.progress.set_saved(Position { segment: FIRST + 5, offset: 0 });
    disk.leftovers(FIRST);
    [1, 2, 3, 4].iter().for_each(|nth| fs::remove_file(disk.path(FIRST + nth)).unwrap());
    assert_eq!(run.newest(Stamp::LAST, 200).unwrap(), newest_of(disk.unsaved(ROOM), None, 200));
    assert_eq!(run.find(id(2)).unwrap(), None);
}

#[tokio::test]
async fn a_file_that_is_gone_before_its_time_is_an_error() {
    let disk = ten_segments();
    fs::remove_file(disk.path(FIRST + 2)).unwrap();
    assert!(disk.pending().newest(ROOM, None, 10).await.is_err());
    let disk = ten_segments();
    let pending = disk.pending();
    assert!(pending.newest(ROOM, None, 10).await.is_ok());
    fs::remove_file(disk.path(FIRST + 9)).unwrap();
    assert!(pending.newest(ROOM, None, 10).await.is_err());
    assert!(pending.find(ROOM, id(69)).await.is_err());
}

#[tokio::test]
async fn damage_costs_what_it_hits_and_nothing_else() {
    let all = |disk: &Disk| disk.unsaved(ROOM).into_iter().map(|saved| saved.timestamp).collect::<Vec<_>>();
    let hit = |disk: &Disk, at: Position| disk.write_at(at, &[0xff; 5]);
    for (what, at, lost) in [
        ("a record", |disk: &Disk| disk.written[22].0, vec![22]),
        ("the last record of a segment", |disk: &Disk| disk.written[20].0, vec![20]),
        ("a header", |_: &Disk| Position { segment: FIRST + 4, offset: 20 }, vec![]),
        ("the last header", |_: &Disk| Position { segment: FIRST + 9, offset: 20 }, vec![]),
    ] as [(_, fn(&Disk) -> Position, _); 4]
    {
        for indexed in [false, true] {
            let disk = ten_segments();
            let pending = disk.pending();
            if indexed {
                pending.newest(ROOM, None, 1).await.unwrap();
            }
            hit(&disk, at(&disk));
            let expected: Vec<Micros> = all(&disk).into_iter().rev().filter(|nth| !lost.contains(nth)).collect();
            let found = pending.newest(ROOM, None, 200).await.unwrap().live;
            assert_eq!(found.iter().map(|saved| saved.timestamp).collect::<Vec<_>>(), expected, "{what}, {indexed}");
            for nth in &expected {
                assert!(pending.find(ROOM, id(*nth)).await.unwrap().is_some(), "{what}: {nth}");
            }
        }
    }
}

#[tokio::test]
async fn a_segment_cut_short_still_gives_its_beginning() {
    let disk = ten_segments();
    let cut = disk.written[66].0;
    OpenOptions::new().write(true).open(disk.path(cut.segment)).unwrap().set_len(u64::from(cut.offset) + 20).unwrap();
    let found = disk.pending().newest(ROOM, None, 2).await.unwrap().live;
    assert_eq!(found, [message(65), message(64)]);
}

#[tokio::test]
async fn what_earlier_runs_left_is_found_until_it_is_replayed() {
    let mut disk = Disk::new();
    // Of two shards then, with times that overlap.
    for (number, times) in [(1, 0..20), (2, 10..40)] {
        times.step_by(2).for_each(|nth| disk.write(ROOM, message(nth + Micros::from(number == 1))));
        disk.write(OTHER, message(100));
        disk.leave_as_old(number);
    }
    disk.write(ROOM, message(200));
    let pending = disk.pending();
    let times = |found: &[Saved]| found.iter().map(|saved| saved.timestamp).collect::<Vec<_>>();
    let found = pending.newest(ROOM, None, 5).await.unwrap();
    assert_eq!((times(&found.live), times(&found.old)), (vec![200], vec![38, 36, 34, 32, 30]));
    let before = Some(Stamp { timestamp: 16, id: id(16) });
    let found = pending.newest(ROOM, before, 6).await.unwrap();
    assert_eq!((times(&found.live), times(&found.old)), (vec![], vec![15, 14, 13, 12, 11, 10]));
    for (nth, is_there) in [(1, true), (2, false), (38, true), (200, true), (100, false)] {
        assert_eq!(pending.find(ROOM, id(nth)).await.unwrap().is_some(), is_there, "{nth}");
    }

    let replayed = disk.old.lock().unwrap().remove(1);
    fs::remove_file(&replayed.path).unwrap();
    let found = pending.newest(ROOM, None, 3).await.unwrap();
    assert_eq!(times(&found.old), [19, 17, 15]);
    // In the list no more since it was looked at, and gone.
    assert_eq!(pending.old_run(&replayed, ROOM).unwrap().newest(Stamp::LAST, 3).unwrap(), []);
    // In the list still, and gone.
    disk.old.lock().unwrap().push(replayed);
    assert!(pending.newest(ROOM, None, 3).await.is_err());
}

#[tokio::test]
async fn where_nothing_is_pending_nothing_is_read() {
    let disk = ten_segments();
    disk.progress.set_saved(disk.progress.held());
    (0..10).for_each(|nth| fs::remove_file(disk.path(FIRST + nth)).unwrap());
    assert_eq!(disk.pending().newest(ROOM, None, 10).await.unwrap(), Unsaved::default());
    let none = Pending::new(&disk.folder.0, Arc::new(Topology::new(&[0], 4)), Vec::new(), Arc::default());
    assert_eq!(Arc::new(none).find(ROOM, id(1)).await.unwrap(), None);
}
