//! One batch and the database: what of it is saved, in how many pieces, and what becomes of the rest.
//!
//! In: the records of a batch, and the [`Terms`] on which they wait. Out: the [`Outcome`]. Part of the [`Writer`], on its
//! thread; it knows no journal and no turns but those that wait meanwhile.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{
    Outlets, Save, Why, Writer,
    trouble::{AWAY, BARRED},
};
use crate::{
    journal::record::Record,
    store::{InsertError, Row},
};

/// What may be done with rows that the database does not take in time.
#[derive(Clone, Copy)]
pub(super) enum Terms {
    /// They were not broadcast: their senders can be told.
    Waiting {
        /// When the last of them came.
        youngest: Instant,
    },
    /// They were broadcast, and are nowhere else. They are given up only when the server ends.
    Broadcast {
        /// When the last of them came.
        youngest: Instant,
    },
    /// The journal holds them. They are left there when the server ends.
    Journalled,
}

/// What is known of a piece that was not confirmed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    NotSaved,
    Unknown,
}

/// What to do with a piece that the database did not take.
enum Verdict {
    TryAgain,
    GiveUp,
    LeaveInDoubt,
    Stop,
}

/// What became of rows.
#[derive(Default)]
pub(super) struct Outcome {
    /// By their place, with the reason.
    pub(super) refused: Vec<(usize, String)>,
    pub(super) given_up: Vec<usize>,
    /// The rest was left where it is.
    pub(super) is_stopped: bool,
}

impl<S: Save, O: Outlets> Writer<S, O> {
    /// Saves rows in one transaction, or in the pieces that the database takes.
    pub(super) async fn save(&mut self, records: &[Record<'_>], terms: Terms) -> Outcome {
        let rows: Vec<Row<'_>> = records.iter().map(|record| record.row).collect();
        let mut outcome = Outcome::default();
        // The pieces still to be saved, the next one last; each with whether it may have been saved already.
        let mut pieces = vec![(0..rows.len(), Fate::NotSaved)];
        while let Some((piece, fate)) = pieces.pop().filter(|(piece, _)| !piece.is_empty()) {
            match self.store.insert(&rows[piece.clone()]).await {
                Ok(()) => self.committed(piece.len()),
                Err(InsertError::Refused(reason)) => match halves(&piece) {
                    Some((first, second)) => pieces.extend([(second, fate), (first, fate)]),
                    None => {
                        self.refuse(&rows[piece.start], &reason);
                        outcome.refused.push((piece.start, reason));
                    }
                },
                Err(error @ (InsertError::NotSent(_) | InsertError::Barred(_) | InsertError::InDoubt(_))) => {
                    let fate = if matches!(error, InsertError::InDoubt(_)) { Fate::Unknown } else { fate };
                    let words = if matches!(error, InsertError::Barred(_)) { &BARRED } else { &AWAY };
                    self.counters.commits_retried.up();
                    let pause = self.database.fails(words, error.text());
                    self.pause(pause).await;
                    match self.verdict(terms, fate) {
                        Verdict::TryAgain => pieces.push((piece, fate)),
                        Verdict::GiveUp => {
                            tracing::warn!(messages = piece.len(), "given up: the database did not come back in time");
                            outcome.given_up.extend(piece);
                        }
                        Verdict::LeaveInDoubt => self.unfinished.in_doubt += piece.len(),
                        Verdict::Stop => {
                            outcome.is_stopped = true;
                            break;
                        }
                    }
                }
            }
        }
        outcome
    }

    fn verdict(&self, terms: Terms, fate: Fate) -> Verdict {
        let is_over = |youngest: Instant| youngest.elapsed() >= self.policy.save_timeout;
        match (terms, fate) {
            (Terms::Waiting { youngest }, Fate::NotSaved) if is_over(youngest) => Verdict::GiveUp,
            // No shard is left that could take silence for a yes.
            (Terms::Waiting { youngest }, Fate::Unknown) if is_over(youngest) && self.is_deserted => {
                Verdict::LeaveInDoubt
            }
            // A dead letter that is saved already does no harm.
            (Terms::Broadcast { youngest }, _) if is_over(youngest) && self.is_deserted => Verdict::GiveUp,
            (Terms::Journalled, _) if self.is_deserted => Verdict::Stop,
            _ => Verdict::TryAgain,
        }
    }

    fn committed(&mut self, rows: usize) {
        self.database.ends();
        self.counters.commits.up();
        self.counters.rows.add(rows as u64);
    }

    fn refuse(&mut self, row: &Row<'_>, reason: &str) {
        self.counters.rows_refused.up();
        let refused = self.counters.rows_refused.get();
        // One who goes on sending to a room that is gone shall not fill the log: the first, the second, the fourth …
        if refused.is_power_of_two() {
            tracing::warn!(message = %row.id, room = %row.room, reason, refused, "the database refused a message");
        }
    }

    /// Pauses, and then gives up the turns that have waited for too long.
    pub(super) async fn pause(&mut self, pause: Duration) {
        tokio::time::sleep(pause).await;
        self.fetch();
        while !self.policy.turns_are_broadcast
            && let Some(turn) = self.queue.front()
            && turn.began.elapsed() >= self.policy.save_timeout
        {
            if let Some(turn) = self.queue.pop_front() {
                let unsaved = (0..turn.count).map(|row| (row, Why::GivenUp)).collect();
                self.settle_all(&[turn], unsaved);
            }
        }
    }
}

/// The two halves of a piece that was refused; `None` when a single row is left, which then is the bad one.
pub(crate) fn halves(piece: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    let middle = piece.start + piece.len() / 2;
    (piece.len() > 1).then_some((piece.start..middle, middle..piece.end))
}
