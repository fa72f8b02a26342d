//! Records that were written, are not held, and cannot be written again: they are taken back before they are refused.
//!
//! In: their sequences, and what became of the [`Op::Cut`] that makes them unreadable. Out: the sequences, once no start of the
//! server can find them any more. Until then nobody knows whether they are saved, and nobody is told. Part of the shard's
//! [`Appender`](super::appender::Appender).

use std::ops::RangeInclusive;

use super::{Position, appender::Op};

/// What is to be taken back.
#[derive(Default)]
pub(super) struct Retraction {
    records: Vec<RangeInclusive<u64>>,
    /// A segment that failed as a whole, whose file still stands.
    ruin: Option<u32>,
    cut: Cut,
}

/// The state of the operation.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Cut {
    /// As soon as there are records.
    #[default]
    Due,
    UnderWay,
    /// It failed; [`Retraction::tick`] lets it be tried again.
    Failed,
}

impl Retraction {
    /// These are to be refused.
    pub(super) fn add(&mut self, sequences: RangeInclusive<u64>) {
        self.records.push(sequences);
    }

    /// Segment `number` failed as a whole. Another file takes its place, or it is removed.
    pub(super) fn note_ruin(&mut self, number: u32) {
        self.ruin = Some(number);
    }

    /// The file of segment `number` is a new one.
    pub(super) fn replaced(&mut self, number: u32) {
        self.ruin = self.ruin.filter(|ruin| *ruin != number);
    }

    /// There is nothing to be taken back.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && !self.is_under_way()
    }

    /// No other operation may be begun: the files in question must stay what they are.
    pub(super) fn is_under_way(&self) -> bool {
        self.cut == Cut::UnderWay
    }

    /// What could not be done is tried again.
    pub(super) fn tick(&mut self) {
        if self.cut == Cut::Failed {
            self.cut = Cut::Due;
        }
    }

    /// Asks for the cut behind `held`, if one is due.
    pub(super) fn cut(&mut self, held: Option<Position>) -> Option<Op> {
        if self.records.is_empty() || self.cut != Cut::Due {
            return None;
        }
        self.cut = Cut::UnderWay;
        Some(Op::Cut { keep: held, remove: self.ruin })
    }

    /// The cut was done, or it failed. Says what may be refused now.
    pub(super) fn cut_ended(&mut self, is_ok: bool) -> Vec<RangeInclusive<u64>> {
        self.cut = if is_ok { Cut::Due } else { Cut::Failed };
        if !is_ok {
            return Vec::new();
        }
        self.ruin = None;
        self.overtaken()
    }

    /// A later segment is held, whose header says that they do not count. Says what may be refused now.
    pub(super) fn overtaken(&mut self) -> Vec<RangeInclusive<u64>> {
        std::mem::take(&mut self.records)
    }
}
