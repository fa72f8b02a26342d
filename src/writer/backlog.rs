//! What the journals hold and the database does not: the writer's reading side.
//!
//! In: the tails of the running shards' journals, and the segments that earlier runs left. Out: batches of records, a bounded
//! number at a time however much there is. Blocking reads, on the writer's thread.

use std::{collections::VecDeque, io, sync::PoisonError};

use bytes::Bytes;

use crate::journal::{
    Leftovers, Position,
    recovery::Old,
    tail::{Aside, Limits, Tail},
};

/// Everything that is to be saved out of journals.
pub struct Backlog {
    tails: Vec<Tail>,
    limits: Limits,
    /// Whose turn it is.
    next: usize,
    leftovers: Leftovers,
    /// Of these, what was not read yet: a segment, and the place of its next range.
    old: VecDeque<(Old, usize)>,
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
        Backlog { tails, limits, next: 0, leftovers, old }
    }

    /// There is something to save.
    pub fn is_behind(&self) -> bool {
        !self.old.is_empty() || self.tails.iter().any(Tail::is_behind)
    }

    /// The next batch: of every journal in turn what fits, and if there is room, what earlier runs left.
    pub fn read(&mut self, aside: &mut Aside<'_>) -> io::Result<Vec<Chunk>> {
        let mut left = self.limits;
        let mut chunks = Vec::new();
        for _ in 0..self.tails.len() {
            let tail = self.next;
            self.next = (tail + 1) % self.tails.len();
            let others = chunks.len();
            while left.records > 0 && left.bytes > 0 {
                let piece = match self.tails[tail].read(left, aside) {
                    Ok(Some(piece)) => piece,
                    Ok(None) => {
                        if chunks.len() == others {
                            // If anything, damage was passed over, which is kept elsewhere.
                            self.tails[tail].saved(self.tails[tail].position());
                        }
                        break;
                    }
                    // What was read before it is not read again, so it must not be dropped; the error comes again.
                    Err(_) if !chunks.is_empty() => return Ok(chunks),
                    Err(error) => return Err(error),
                };
                left.records -= piece.count;
                left.bytes = left.bytes.saturating_sub(piece.records.len());
                let saves = Saves::Tail { tail, until: piece.until };
                chunks.push(Chunk { records: piece.records, is_old: false, saves });
            }
        }
        if chunks.is_empty() {
            chunks.extend(self.read_old()?);
        }
        Ok(chunks)
    }

    /// One range of the oldest segment that was left.
    fn read_old(&mut self) -> io::Result<Option<Chunk>> {
        let Some((old, place)) = self.old.front_mut() else { return Ok(None) };
        let range = old.ranges[*place].clone();
        let records = old.read(range).map_err(io::Error::other)?.into();
        *place += 1;
        let is_last = *place == old.ranges.len();
        let segment = if is_last { self.old.pop_front() } else { None };
        let saves = segment.map_or(Saves::Part, |(old, _)| Saves::Segment(Box::new(old)));
        Ok(Some(Chunk { records, is_old: true, saves }))
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
                }
            }
        }
    }
}

fn lock(leftovers: &Leftovers) -> std::sync::MutexGuard<'_, Vec<Old>> {
    leftovers.lock().unwrap_or_else(PoisonError::into_inner)
}
