//! The messages of one room in the files of one shard.
//!
//! In: the places of its records, from an index, in the order of writing. Out: the last of them, the last before some message, or
//! one by its id: each read from its file when it is needed, and found by halving. On a blocking thread.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, path::PathBuf};

use uuid::Uuid;

use crate::{
    identity::RoomId,
    journal::record::{Decoded, decode},
    store::{Saved, Stamp},
};

/// The records of one room in one shard's files. Their stamps and their ids rise, as the shard gave them.
pub(super) struct Run<F> {
    files: F,
    room: RoomId,
    places: Vec<Place>,
    /// The file that was read last.
    open: Option<(u32, File)>,
}

impl<F: Files> Run<F> {
    pub(super) fn new(files: F, room: RoomId, places: Vec<Place>) -> Run<F> {
        Run { files, room, places, open: None }
    }

    /// The last `limit` before `before`, newest first.
    pub(super) fn newest(&mut self, before: Stamp, limit: usize) -> io::Result<Vec<Saved>> {
        let mut newest = Vec::new();
        for nth in (0..self.count_while(|saved| saved.stamp() < before)).rev() {
            if newest.len() == limit {
                break;
            }
            newest.extend(self.message(nth)?.filter(|saved| saved.stamp() < before));
        }
        Ok(newest)
    }

    /// The stamp of the message with this id.
    pub(super) fn find(&mut self, id: Uuid) -> io::Result<Option<Stamp>> {
        for nth in (0..self.count_while(|saved| saved.id <= id)).rev() {
            match self.message(nth)? {
                Some(saved) if saved.id > id => {}
                Some(saved) => return Ok((saved.id == id).then(|| saved.stamp())),
                None => {}
            }
        }
        Ok(None)
    }

    /// How many messages, from the oldest on, are such; perhaps more than that where one cannot be read. `is_such` holds up to
    /// some message and for none behind it.
    fn count_while(&mut self, is_such: impl Fn(&Saved) -> bool) -> usize {
        let places = 0..self.places.len();
        let (mut low, mut high) = (places.start, places.end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.message(middle).ok().flatten().is_none_or(|saved| is_such(&saved)) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// Reads one; `None` when it is saved by now, damaged, or another room's.
    fn message(&mut self, nth: usize) -> io::Result<Option<Saved>> {
        let place = &self.places[nth];
        let bytes = match &self.open {
            Some((segment, file)) if *segment == place.segment => bytes_of(file, place.at.clone()),
            _ => File::open(self.files.path(place.segment)).and_then(|file| {
                let (_, file) = self.open.insert((place.segment, file));
                bytes_of(file, place.at.clone())
            }),
        };
        if self.files.is_saved(place) {
            return Ok(None);
        }
        Ok(match decode(&bytes?) {
            Decoded::Record { record, .. } if record.row.room == self.room => Some(record.saved()),
            _ => None,
        })
    }
}

/// A record's place.
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) at: Range<u32>,
}

/// Files with records of one shard.
pub(super) trait Files {
    fn path(&self, segment: u32) -> PathBuf;

    /// Is it in the database by now? Then its file may have become another, or be gone.
    fn is_saved(&self, place: &Place) -> bool;
}

/// The bytes of a range, as far as the file goes.
pub(super) fn bytes_of(file: &File, range: Range<u32>) -> io::Result<Vec<u8>> {
    let end = file.metadata()?.len().min(range.end.into());
    let mut bytes = vec![0; end.saturating_sub(range.start.into()) as usize];
    file.read_exact_at(&mut bytes, range.start.into())?;
    Ok(bytes)
}
