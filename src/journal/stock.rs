//! The files of one shard's journal beside the one that is written: the next one, those that the writer still reads, and
//! those that nobody needs.
//!
//! In: which segment is written, how much is saved, and what became of operations. Out: how many files there may still be,
//! and the [`Op`]s that make one ready or remove one. Part of the shard's [`Appender`](super::appender::Appender); it knows no
//! records and does no I/O.

use std::{collections::VecDeque, sync::Arc};

use super::{
    Progress,
    appender::{Op, SEGMENTS_MIN},
};

/// The files beside the present segment's.
pub(super) struct Stock {
    segments_max: u32,
    progress: Arc<Progress>,
    spare: Spare,
    /// The segments before the present one whose files are there.
    old: VecDeque<u32>,
    /// The file that is being removed.
    removing: Option<u32>,
    /// A file could not be removed; [`Stock::tick`] lets it be tried again.
    has_removal_failed: bool,
    /// The last file that was asked for could not be made.
    is_out_of_files: bool,
}

/// The file of the next segment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spare {
    /// Not asked for.
    None,
    /// Under way, perhaps out of an old file.
    Coming { number: u32, reuse: Option<u32> },
    /// There.
    Ready { number: u32 },
    /// It could not be made; [`Stock::tick`] lets it be tried again.
    Failed,
}

impl Stock {
    /// Nothing yet, of at most `segments_max` files with the present segment's.
    pub(super) fn new(segments_max: u32, progress: Arc<Progress>) -> Stock {
        Stock {
            segments_max,
            progress,
            spare: Spare::None,
            old: VecDeque::new(),
            removing: None,
            has_removal_failed: false,
            is_out_of_files: false,
        }
    }

    /// What could not be done is tried again.
    pub(super) fn tick(&mut self) {
        self.has_removal_failed = false;
        if self.spare == Spare::Failed {
            self.spare = Spare::None;
        }
    }

    /// Nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_preparing() && self.removing.is_none()
    }

    // ---- How many ---------------------------------------------------------------------------------------------------

    /// How many segments there can be after the present one, until more is saved.
    pub(super) fn files_left(&self) -> u32 {
        match self.spare {
            Spare::Ready { .. } => 1 + self.files_allowed(),
            // Where none could be made, none is counted on before it is there.
            _ if self.is_out_of_files => 0,
            Spare::Failed => 0,
            Spare::Coming { .. } => 1 + self.files_allowed(),
            Spare::None => self.files_allowed(),
        }
    }

    /// How many files may be made, counting those that may be used again.
    fn files_allowed(&self) -> u32 {
        let has_spare = matches!(self.spare, Spare::Ready { .. } | Spare::Coming { .. });
        let there = self.old.len() as u32 + 1 + u32::from(has_spare) + u32::from(self.removing.is_some());
        self.files_max().saturating_sub(there) + self.files_reusable()
    }

    /// How many files there may be, beside those that earlier runs left; some always, for without them nobody could speak.
    pub(super) fn files_max(&self) -> u32 {
        let max = self.segments_max;
        max.saturating_sub(self.progress.left()).max(SEGMENTS_MIN.min(max))
    }

    /// How many of the oldest files nobody needs any more.
    fn files_reusable(&self) -> u32 {
        let saved = self.progress.saved().segment;
        self.old.iter().take_while(|number| **number < saved).count() as u32
    }

    // ---- The present segment comes and goes -------------------------------------------------------------------------

    /// Whether the file of segment `number` is there, and not in use yet.
    pub(super) fn has(&self, number: u32) -> bool {
        self.spare == Spare::Ready { number }
    }

    /// The next segment's file is under way.
    pub(super) fn is_preparing(&self) -> bool {
        matches!(self.spare, Spare::Coming { .. })
    }

    /// Gives the file of segment `number` away, if it is there.
    pub(super) fn take(&mut self, number: u32) -> bool {
        let is_ready = self.has(number);
        if is_ready {
            self.spare = Spare::None;
        }
        is_ready
    }

    /// Segment `number` is left behind.
    pub(super) fn leave(&mut self, number: u32) {
        self.old.push_back(number);
    }

    /// Segment `number`, the last one that was left behind, is the present one again.
    pub(super) fn return_to(&mut self, number: u32) {
        if self.old.back() == Some(&number) {
            self.old.pop_back();
        }
    }

    /// Whatever file is there, it proves nothing: a new one must be made.
    pub(super) fn distrust_spare(&mut self) {
        if matches!(self.spare, Spare::Ready { .. }) {
            self.spare = Spare::Failed;
        }
    }

    /// Perhaps the file that is there has lost its name: it is made anew.
    pub(super) fn renew_spare(&mut self) {
        if matches!(self.spare, Spare::Ready { .. }) {
            self.spare = Spare::None;
        }
    }

    // ---- Operations -------------------------------------------------------------------------------------------------

    /// Asks for the file of segment `number`, the next one, if it may be made and is not there.
    pub(super) fn prepare(&mut self, number: u32) -> Option<Op> {
        let reuse = match self.spare {
            // Made for the segment after one that then failed as a whole, whose place it takes.
            Spare::Ready { number: other } if other != number => Some(other),
            Spare::None if self.files_reusable() > 0 => self.old.pop_front(),
            Spare::None if self.files_allowed() > 0 => None,
            _ => return None,
        };
        self.spare = Spare::Coming { number, reuse };
        Some(Op::Prepare { number, reuse })
    }

    /// Of the files that nobody needs, one is kept to be the next segment's.
    pub(super) fn remove(&mut self) -> Option<Op> {
        if self.removing.is_some() || self.has_removal_failed || self.files_reusable() < 2 {
            return None;
        }
        self.removing = self.old.pop_front();
        self.removing.map(|number| Op::Remove { number })
    }

    /// The file that was asked for is there, or could not be made, while segment `present` is written.
    pub(super) fn prepared(&mut self, is_ok: bool, present: u32) {
        let Spare::Coming { number, reuse } = self.spare else { return };
        self.spare = if is_ok { Spare::Ready { number } } else { Spare::Failed };
        self.is_out_of_files = !is_ok;
        self.restore(reuse.filter(|_| !is_ok), present);
    }

    /// The file that was to be removed is gone, or not.
    pub(super) fn removed(&mut self, is_ok: bool, present: u32) {
        let number = self.removing.take();
        self.has_removal_failed = !is_ok;
        self.restore(number.filter(|_| !is_ok), present);
    }

    /// An old file is still there.
    fn restore(&mut self, number: Option<u32>, present: u32) {
        if let Some(number) = number.filter(|number| *number < present) {
            let place = self.old.partition_point(|other| *other < number);
            self.old.insert(place, number);
        }
    }
}
