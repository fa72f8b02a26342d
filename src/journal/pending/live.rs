//! What is pending in the journal of a running shard.
//!
//! In: how far the shard and the writer have come, and the shard's files. Out: a room's records in them. On a blocking thread, one
//! at a time for each shard.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::{
    index::Index,
    lock,
    run::{Files, Place, Run, bytes_of},
};
use crate::{
    identity::RoomId,
    journal::{
        Position, Progress,
        scan::{Found, Scan},
        segment::{HEADER_BYTES, Header, file_name},
    },
};

/// The journal of a running shard.
#[derive(Debug)]
pub(super) struct Live {
    directory: PathBuf,
    shard: u32,
    first: u32,
    progress: Arc<Progress>,
    known: Mutex<Known>,
}

/// What has been read of a shard's journal so far, without what is saved.
#[derive(Debug, Default)]
struct Known {
    segments: VecDeque<(u32, Index)>,
    until: Position,
    /// No record behind `until` has a lower sequence.
    next_sequence: u64,
}

/// What was read of one segment.
struct Piece {
    index: Index,
    until: Position,
    next_sequence: u64,
}

impl Live {
    /// The journal of `shard` in `directory`, of which this run writes the segments from number `first` on.
    pub(super) fn new(directory: &Path, shard: u32, first: u32, progress: Arc<Progress>) -> Live {
        Live { directory: directory.to_owned(), shard, first, progress, known: Mutex::default() }
    }

    /// Is nothing pending?
    pub(super) fn is_saved(&self) -> bool {
        self.progress.saved() >= self.progress.held()
    }

    fn path(&self, segment: u32) -> PathBuf {
        self.directory.join(file_name(self.shard, segment))
    }

    /// The room's messages, of all that is held and not saved.
    pub(super) fn run(&self, room: RoomId) -> io::Result<Run<&Live>> {
        let mut known = lock(&self.known);
        self.catch_up(&mut known)?;
        let segments = known.segments.iter();
        let places = segments.flat_map(|(segment, index)| index.places(room).map(|at| Place { segment: *segment, at }));
        Ok(Run::new(self, room, places.collect()))
    }

    /// Reads what has come since the last time.
    fn catch_up(&self, known: &mut Known) -> io::Result<()> {
        let held = self.progress.held();
        loop {
            let saved = self.progress.saved();
            known.forget_below(saved);
            let from = known.until.max(saved).max(Position { segment: self.first, offset: 0 });
            if from >= held {
                return Ok(());
            }
            let piece = self.piece(from, held, known.next_sequence);
            let saved = self.progress.saved();
            match piece {
                // Its file may have been written over meanwhile. The next round begins further on, at `saved`.
                Ok(piece) if saved >= piece.until && piece.until > from => {}
                Err(_) if saved > from => {}
                Ok(piece) => known.add(piece, held),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads a segment from a place on, up to its end or to what is held.
    fn piece(&self, from: Position, held: Position, next_sequence: u64) -> io::Result<Piece> {
        let Position { segment, offset } = from;
        let end = match segment == held.segment {
            true => Some(held.offset),
            // Without it the records end where no more can be read.
            false => self.header(&File::open(self.path(segment + 1))?, segment + 1)?.map(|header| header.previous_end),
        };
        let until = Position { segment, offset: end.unwrap_or(u32::MAX) };
        let mut piece = Piece { index: Index::default(), until, next_sequence };
        let start = offset.max(HEADER_BYTES as u32);
        if end.is_some_and(|end| end <= start) {
            return Ok(piece);
        }
        let file = File::open(self.path(segment))?;
        let first_sequence = self.header(&file, segment)?.map_or(next_sequence, |header| header.first_sequence);
        let bytes = bytes_of(&file, start - HEADER_BYTES as u32..until.offset)?;
        for found in Scan::new(&bytes, first_sequence, end.map(|_| bytes.len() as u32)) {
            if let Found::Record { at, sequence, record } = found {
                let shift = start - HEADER_BYTES as u32;
                piece.index.push(record.row.room, at.start + shift..at.end + shift);
                piece.next_sequence = sequence + 1;
            }
        }
        Ok(piece)
    }

    /// The header of a segment; `None` when it is damaged, or that of another.
    fn header(&self, file: &File, number: u32) -> io::Result<Option<Header>> {
        let header = Header::decode(&bytes_of(file, 0..HEADER_BYTES as u32)?).ok();
        Ok(header.filter(|header| (header.shard, header.number) == (self.shard, number)))
    }
}

impl Known {
    fn forget_below(&mut self, saved: Position) {
        while self.segments.front().is_some_and(|(segment, _)| *segment < saved.segment) {
            self.segments.pop_front();
        }
        if let Some((segment, index)) = self.segments.front_mut()
            && *segment == saved.segment
        {
            index.forget_below(saved.offset);
        }
    }

    fn add(&mut self, piece: Piece, held: Position) {
        let Position { segment, .. } = piece.until;
        match self.segments.back_mut() {
            Some((last, index)) if *last == segment => index.append(piece.index),
            _ => self.segments.push_back((segment, piece.index)),
        }
        self.next_sequence = piece.next_sequence;
        self.until = if segment < held.segment { Position { segment: segment + 1, offset: 0 } } else { held };
    }
}

impl Files for &Live {
    fn path(&self, segment: u32) -> PathBuf {
        Live::path(self, segment)
    }

    fn is_saved(&self, place: &Place) -> bool {
        self.progress.saved() > Position { segment: place.segment, offset: place.at.start }
    }
}
