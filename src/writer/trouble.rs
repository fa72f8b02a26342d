//! Something that the writer needs and does not get: since when, when to ask again, and what the operator was told.
//!
//! Each source of trouble has its own, so that one that works says nothing of another that does not.

use std::time::Duration;

use tokio::time::Instant;

/// What the operator is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// When it begins.
    pub(super) begins: &'static str,
    /// When it is over.
    pub(super) ends: &'static str,
}

/// The database cannot be reached, or does not answer, or is busy with something else.
pub(super) const AWAY: Words = Words { begins: "the database is away", ends: "the database is back" };

/// The database answers, and takes nothing.
pub(super) const BARRED: Words = Words {
    begins: "the database takes no messages at all, and will not until somebody mends it",
    ends: "the database takes messages again",
};

/// The file of dead letters takes none.
pub(super) const NO_LETTERS: Words =
    Words { begins: "dead letters cannot be written", ends: "dead letters can be written again" };

/// A file of a journal cannot be read.
pub(super) const UNREAD: Words = Words { begins: "a journal cannot be read", ends: "the journal can be read again" };

/// One source's.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    attempts: u32,
    told: Option<&'static Words>,
    until: Option<Instant>,
}

impl Trouble {
    const PAUSE_MIN: Duration = Duration::from_millis(50);
    const PAUSE_MAX: Duration = Duration::from_secs(2);

    /// It failed. The first time, and when it fails in another way, the operator is told. Says how long to leave it alone:
    /// doubling, and anything from half of it to all of it, so that many servers do not come back to their database at the
    /// same instant.
    pub(super) fn fails(&mut self, words: &'static Words, reason: &str) -> Duration {
        if self.told.replace(words) != Some(words) {
            tracing::warn!(reason, "{}; messages wait, and it is tried again", words.begins);
        }
        let doubled = Self::PAUSE_MIN * 2_u32.pow(self.attempts.min(10));
        self.attempts += 1;
        let pause = doubled.min(Self::PAUSE_MAX).mul_f64(rand::random_range(0.5..=1.0));
        self.until = Some(Instant::now() + pause);
        pause
    }

    /// It works.
    pub(super) fn ends(&mut self) {
        if let Some(words) = self.told {
            tracing::info!(attempts = self.attempts, "{}", words.ends);
            *self = Trouble::default();
        }
    }

    /// When it is to be asked again, if it failed.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// It may be asked.
    pub(super) fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_two_seconds_and_begin_anew() {
        let mut trouble = Trouble::default();
        assert!(trouble.is_over());
        let pauses: Vec<_> = (0..12).map(|_| trouble.fails(&AWAY, "cut").as_millis()).collect();
        for (nth, pause) in pauses.iter().enumerate() {
            let longest = (50 << nth).min(2000);
            assert!((longest / 2..=longest).contains(pause), "{pauses:?}");
        }
        assert!(!trouble.is_over());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(trouble.is_over(), "it is time to ask again");
        trouble.ends();
        assert!(trouble.fails(&AWAY, "cut") <= Duration::from_millis(50));
    }
}
