//! What the journals hold and the database does not: the writer's reading side.
//!
//! In: the tails of the running shards' journals, and the segments that earlier runs left. Out: batches of records, a bounded
//! number at a time however much there is. A journal that cannot be read is left alone for a while, and the others go on.
//! Blocking reads, on the writer's thread.

use std::{collections::VecDeque, io, ops::Range, sync::PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::trouble::{Trouble, UNREAD};
use crate::journal::{
    Leftovers, Position,
    record::decode_all,
    recovery::Old,
    scan::{Found, Scan},
    segment::HEADER_BYTES,
    tail::{Aside, Damage, Limits, Tail},
};

/// Everything that is to be saved out of journals.
pub struct Backlog {
    tails: Vec<Tail>,
    /// Of each tail, and of what earlier runs left.
    troubles: Vec<Trouble>,
    limits: Limits,
    /// Which of them comes first.
    next: usize,
    leftovers: Leftovers,
    /// Of these, what was not read yet: a segment, and the place of its next range.
    old: VecDeque<(Old, usize)>,
}

/// What was read at a time.
pub struct Batch {
    /// What there was room for.
    pub chunks: Vec<Chunk>,
    /// There was no room for more.
    pub is_full: bool,
    /// So many journals could not be read.
    pub failures: u64,
}

/// Records, and what is saved with them.
pub struct Chunk {
    /// The records' bytes.
    pub records: Bytes,
    /// An earlier run wrote them.
    pub is_old: bool,
    saves: Saves,
}

enum Saves {
    Tail { tail: usize, until: Position },
    Part,
    Segment(Box<Old>),
}

impl Backlog {
    /// What these tails will bring and what earlier runs left, so much at a time.
    pub fn new(tails: Vec<Tail>, leftovers: Leftovers, limits: Limits) -> Backlog {
        let old = lock(&leftovers).iter().map(|old| (old.clone(), 0)).collect();
        let troubles = (0..=tails.len()).map(|_| Trouble::default()).collect();
        let backlog = Backlog { tails, troubles, limits, next: 0, leftovers, old };
        backlog.share_left();
        backlog
    }

    /// Tells every shard how many files of earlier runs count as its own.
    fn share_left(&self) {
        let files = lock(&self.leftovers).len();
        let share = files.div_ceil(self.tails.len().max(1));
        self.tails.iter().for_each(|tail| tail.set_left(share.try_into().unwrap_or(u32::MAX)));
    }

    /// There is something to save.
    pub fn is_behind(&self) -> bool {
        (0..=self.tails.len()).any(|nth| self.has_more(nth))
    }

    /// Some of it may be read now.
    pub fn is_ready(&self) -> bool {
        (0..=self.tails.len()).any(|nth| self.has_more(nth) && self.troubles[nth].is_over())
    }

    /// When what cannot be read is to be tried again.
    pub fn next_try(&self) -> Option<Instant> {
        (0..=self.tails.len()).filter(|nth| self.has_more(*nth)).filter_map(|nth| self.troubles[nth].until()).min()
    }

    fn has_more(&self, nth: usize) -> bool {
        self.tails.get(nth).map_or(!self.old.is_empty(), Tail::is_behind)
    }

    /// The next batch: of one journal after the other what fits. Each time another comes first: what one of them lags behind
    /// would else keep the others' waiting. What earlier runs left is one more journal, as long as there is any, and is read
    /// when it comes first or when there is nothing else.
    pub fn read(&mut self, aside: &mut Aside<'_>) -> Batch {
        let (mut left, mut chunks, mut failures) = (self.limits, Vec::new(), 0);
        let count = self.tails.len() + usize::from(!self.old.is_empty());
        let first = if self.next < count { self.next } else { 0 };
        self.next = first + 1;
        for nth in (first..count).chain(0..first) {
            if !self.has_more(nth) || !self.troubles[nth].is_over() {
                continue;
            }
            let read = match nth < self.tails.len() {
                true if left.records == 0 || left.bytes == 0 => continue,
                true => self.read_tail(nth, &mut left, &mut chunks, aside),
                false if chunks.is_empty() => self.read_old(&mut left, &mut chunks, aside),
                false => continue,
            };
            match read {
                Ok(()) => self.troubles[nth].ends(),
                // What was read of it until then is not read again, so it has to be saved.
                Err(error) => {
                    self.troubles[nth].fails(&UNREAD, &error.to_string());
                    failures += 1;
                }
            }
        }
        Batch { chunks, is_full: left.records == 0 || left.bytes == 0, failures }
    }

    fn read_tail(
        &mut self,
        tail: usize,
        left: &mut Limits,
        chunks: &mut Vec<Chunk>,
        aside: &mut Aside<'_>,
    ) -> io::Result<()> {
        let others = chunks.len();
        while left.records > 0
            && left.bytes > 0
            && let Some(piece) = self.tails[tail].read(*left, aside)?
        {
            left.records -= piece.count;
            left.bytes = left.bytes.saturating_sub(piece.records.len());
            let saves = Saves::Tail { tail, until: piece.until };
            chunks.push(Chunk { records: piece.records, is_old: false, saves });
        }
        if chunks.len() == others {
            // If anything, damage was passed over, which is kept elsewhere.
            self.tails[tail].saved(self.tails[tail].position());
        }
        Ok(())
    }

    /// One range of the oldest segment that was left.
    fn read_old(&mut self, left: &mut Limits, chunks: &mut Vec<Chunk>, aside: &mut Aside<'_>) -> io::Result<()> {
        let Some((old, place)) = self.old.front_mut() else { return Ok(()) };
        let records = records_of(old, old.ranges[*place].clone(), aside)?;
        left.records = left.records.saturating_sub(decode_all(&records).count());
        left.bytes = left.bytes.saturating_sub(records.len());
        *place += 1;
        let is_last = *place == old.ranges.len();
        let segment = if is_last { self.old.pop_front() } else { None };
        let saves = segment.map_or(Saves::Part, |(old, _)| Saves::Segment(Box::new(old)));
        chunks.push(Chunk { records, is_old: true, saves });
        Ok(())
    }

    /// They are in the database, or among the dead letters.
    pub fn saved(&mut self, chunks: Vec<Chunk>) {
        for Chunk { saves, .. } in chunks {
            match saves {
                Saves::Part => {}
                Saves::Tail { tail, until } => self.tails[tail].saved(until),
                Saves::Segment(old) => {
                    lock(&self.leftovers).retain(|other| other.path != old.path);
                    if let Err(error) = old.remove() {
                        tracing::warn!(%error, "a segment that is saved cannot be removed; the next start saves it again, which does no harm");
                    }
                    self.share_left();
                }
            }
        }
    }
}

/// The records in a range of a segment. Start-up found nothing else there; what cannot be read any more is handed to `aside`.
fn records_of(old: &Old, range: Range<u32>, aside: &mut Aside<'_>) -> io::Result<Bytes> {
    let start = range.start;
    let bytes = old.read(range).map_err(io::Error::other)?;
    let read: usize = decode_all(&bytes).map(|record| record.encoded_len()).sum();
    if read >= bytes.len() {
        return Ok(bytes.into());
    }
    // As if it were a segment of its own.
    let bytes = [&[0; HEADER_BYTES][..], &bytes].concat();
    let mut records = BytesMut::with_capacity(bytes.len());
    for found in Scan::new(&bytes, 0, Some(bytes.len() as u32)) {
        match found {
            Found::Record { at, .. } => records.extend_from_slice(&bytes[at.start as usize..at.end as usize]),
            Found::Damaged(at) | Found::Torn(at) => {
                let harmed = bytes[at.start as usize..at.end as usize].to_vec();
                let offset = start + at.start - HEADER_BYTES as u32;
                aside(&Damage { path: old.path.clone(), offset, bytes: harmed })?;
            }
        }
    }
    Ok(records.freeze())
}

fn lock(leftovers: &Leftovers) -> std::sync::MutexGuard<'_, Vec<Old>> {
    leftovers.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::OpenOptions, os::unix::fs::FileExt, sync::Arc};

    use super::*;
    use crate::{
        journal::pending::tests::{Disk, ROOM, message},
        store::Micros,
    };

    const LIMITS: Limits = Limits { records: 4, bytes: 1 << 20 };

    /// A journal with messages of these times.
    fn disk(times: std::ops::Range<Micros>) -> Disk {
        let mut disk = Disk::new();
        times.for_each(|time| disk.write(ROOM, message(time)));
        disk
    }

    /// The times of the next batch, which then counts as saved.
    fn save(backlog: &mut Backlog) -> Vec<Micros> {
        let Batch { chunks, .. } = backlog.read(&mut |damage| panic!("{damage:?}"));
        let records = chunks.iter().flat_map(|chunk| decode_all(&chunk.records));
        let times = records.map(|record| record.row.timestamp).collect();
        backlog.saved(chunks);
        times
    }

    #[test]
    fn a_journal_far_behind_does_not_keep_the_others_waiting() {
        let disks = [disk(0..10), disk(100..106)];
        let tails = disks.iter().map(Disk::tail).collect();
        let mut backlog = Backlog::new(tails, Leftovers::default(), LIMITS);
        for expected in [&[0, 1, 2, 3][..], &[100, 101, 102, 103], &[4, 5, 6, 7], &[104, 105, 8, 9], &[]] {
            assert_eq!(save(&mut backlog), expected);
        }
        assert!(!backlog.is_behind());
        for disk in &disks {
            assert_eq!(disk.progress.saved(), disk.progress.held());
        }
    }

    #[test]
    fn what_earlier_runs_left_is_saved_also_while_there_is_always_something_new() {
        let mut disk = disk(0..6);
        disk.leave_as_old(7);
        let mut backlog = Backlog::new(vec![disk.tail()], Arc::clone(&disk.old), LIMITS);
        let mut saved = Vec::new();
        for time in 100..104 {
            disk.write(ROOM, message(time));
            saved.extend(save(&mut backlog));
        }
        assert_eq!(saved, [100, 0, 101, 102, 1, 2, 3, 4, 5]);
        assert_eq!(save(&mut backlog), [103]);
        assert!(!backlog.is_behind() && disk.old.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_journal_that_cannot_be_read_takes_nothing_from_the_others() {
        let disks = [disk(0..10), disk(100..102)];
        let elsewhere = disks[1].folder().with_extension("elsewhere");
        let tails = disks.iter().map(Disk::tail).collect();
        let mut backlog = Backlog::new(tails, Leftovers::default(), LIMITS);
        fs::rename(disks[1].folder(), &elsewhere).unwrap();
        assert_eq!(save(&mut backlog), [0, 1, 2, 3]);
        assert_eq!((save(&mut backlog), backlog.next_try().is_some()), (vec![4, 5, 6, 7], true));
        assert_eq!(save(&mut backlog), [8, 9]);
        assert!(backlog.is_behind() && !backlog.is_ready(), "nothing is left but what cannot be read");
        assert_eq!(save(&mut backlog), [0; 0], "and it is not tried all the time");
        fs::rename(&elsewhere, disks[1].folder()).unwrap();
        tokio::time::sleep_until(backlog.next_try().unwrap()).await;
        assert!(backlog.is_ready());
        assert_eq!(save(&mut backlog), [100, 101]);
        assert_eq!((backlog.is_behind(), backlog.next_try()), (false, None));
    }

    #[test]
    fn what_was_harmed_since_start_up_is_kept_aside_and_the_rest_is_saved() {
        let mut disk = disk(0..6);
        disk.leave_as_old(7);
        let mut backlog = Backlog::new(vec![disk.tail()], Arc::clone(&disk.old), LIMITS);
        let old = disk.old.lock().unwrap()[0].clone();
        let range = old.ranges[old.ranges.len() - 1].clone();
        let harmed = decode_all(&old.read(range.clone()).unwrap()).map(|record| record.row.timestamp).next();
        let place = range.start + 60;
        OpenOptions::new().write(true).open(&old.path).unwrap().write_all_at(&[0xff; 8], place.into()).unwrap();
        let (mut times, mut damaged) = (Vec::new(), Vec::new());
        while backlog.is_behind() {
            let Batch { chunks, .. } = backlog.read(&mut |Damage { path, offset, bytes }| {
                damaged.push((path.clone(), *offset, bytes.len() as u32));
                Ok(())
            });
            times.extend(chunks.iter().flat_map(|chunk| decode_all(&chunk.records)).map(|record| record.row.timestamp));
            backlog.saved(chunks);
        }
        assert!(times.iter().copied().eq((0..6).filter(|time| Some(*time) != harmed)), "{times:?} without {harmed:?}");
        let [(of, offset, len)] = &damaged[..] else { panic!("{damaged:?}") };
        assert!(*of == old.path && *offset < place && offset + len > place + 8, "{damaged:?}");
    }
}
