//! Plain counters: what came, what went, what was refused, dropped or tried again.
//!
//! Each shard, and the writer and control threads, own one [`Counters`]; only the owner writes, anyone reads. So a count costs a load
//! and a store (`Relaxed` suffices: no other memory is ordered by a count), and the sum of all is taken when asked. The one exception
//! says so at [`Counter::up_from_any_thread`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{close::Close, ws::handshake::Refusal};

/// A number that one thread raises and others may read.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more. By the owning thread only.
    pub fn up(&self) {
        self.add(1);
    }

    /// `count` more. By the owning thread only.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed) + count, Relaxed);
    }

    /// One more, by whichever thread: costlier, and only for a count that is raised in no other way.
    pub fn up_from_any_thread(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One thread's counters.
        #[derive(Debug)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
            closes: [Counter; Close::ALL.len()],
            refusals: [Counter; Refusal::ALL.len()],
        }

        impl Default for Counters {
            fn default() -> Self {
                Counters { $($name: Counter::default(),)* closes: Default::default(), refusals: Default::default() }
            }
        }

        impl Counters {
            /// Every count with its name.
            pub fn list(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($name), self.$name.get()),)*]
                    .into_iter()
                    .chain(Close::ALL.iter().map(|close| (close.label(), self.closed(*close).get())))
                    .chain(Refusal::ALL.iter().map(|refusal| (refusal.label(), self.refused_as(*refusal).get())))
            }
        }
    };
}

counters! {
    /// Connections accepted.
    accepted,
    /// Accepts that failed, mostly for want of file descriptors.
    accepts_failed,
    /// Times that a shard stopped accepting for want of open files to turn clients away with: further ones wait.
    accepts_held_back,
    /// Connections handed to the shard of their room.
    handed_over,
    /// Connections closed bare on their way to another shard, which had ended. Raised by whichever thread drops them.
    lost_on_the_way,
    /// Members that took a seat on another shard than their room's home, because it had enough of them.
    spilled,
    /// Replicas of rooms that were given up because their shard was too far behind.
    replicas_cut_off,
    /// Connections handed to the HTTP side.
    http,
    /// Requests refused before the upgrade, whatever the reason.
    refused,
    /// HTTP requests turned away because too many were being answered.
    http_refused,
    /// HTTP connections closed at their deadline.
    http_timed_out,
    /// WebSocket connections admitted to a room.
    opened,
    /// WebSocket connections that ended without a close frame from either side.
    vanished,
    /// Connections ended by their peer's close frame.
    closed_by_peer,
    /// Messages accepted from clients.
    messages,
    /// Messages answered with an error.
    rejected,
    /// Messages answered with `not_saved`.
    not_saved,
    /// Sends of a room's log to a member.
    sends,
    /// Messages delivered: each message once for every member whose send was queued.
    deliveries,
    /// Receives that found the buffer pool empty and were asked again.
    buffers_short,
    /// Letters between threads that found their mailbox full, each once: between shards, and of writer and control threads to
    /// shards, they wait for room; others are given up, and whoever waits for them is told.
    mailbox_full,
    /// Questions to the database: queries, not keys.
    queries,
    /// Questions that the database did not answer.
    queries_failed,
    /// Look-ups answered as they were answered before, because the database could not be asked.
    answers_stale,
    /// Histories that could not be read, for want of the database or of a file of the journal.
    histories_failed,
    /// Transactions of new messages that committed.
    commits,
    /// Messages in them.
    rows,
    /// Transactions tried again.
    commits_retried,
    /// Messages that the database refused.
    rows_refused,
    /// Writes to the journal: turns, or several that were waiting.
    journal_writes,
    /// Bytes of them.
    journal_bytes,
    /// Short writes to it that took longer than a copy does, after which writes go by the ring for a while.
    journal_slow_writes,
    /// Syncs of the journal.
    journal_syncs,
    /// Operations on the journal's files that failed.
    journal_failures,
    /// Reads of a running server's journals, for the database, that failed.
    journal_unread,
    /// Places of the journal that could not be read and were kept aside.
    journal_damaged,
    /// Messages that were read from an earlier run's journal.
    replayed,
    /// Messages that were broadcast and that the database refused.
    dead_letters,
    /// Turns of the shard's loop.
    turns,
}

impl Counters {
    /// How many connections were closed for this reason.
    pub fn closed(&self, close: Close) -> &Counter {
        &self.closes[close as usize]
    }

    /// How many requests were refused for this reason.
    pub fn refused_as(&self, refusal: Refusal) -> &Counter {
        &self.refusals[refusal as usize]
    }
}

/// The sum of every count over `all`, in the order of [`Counters::list`].
pub fn sum<'a>(all: impl IntoIterator<Item = &'a Counters>) -> Vec<(&'static str, u64)> {
    let mut sums: Vec<(&'static str, u64)> = Counters::default().list().collect();
    for counters in all {
        for (sum, (_, count)) in sums.iter_mut().zip(counters.list()) {
            sum.1 += count;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_run_over_every_thread() {
        let (one, two) = (Counters::default(), Counters::default());
        one.messages.add(2);
        two.messages.up();
        two.closed(Close::TooSlow).up();
        let sums = sum([&one, &two]);
        assert!(sums.contains(&("messages", 3)) && sums.contains(&("too_slow", 1)), "{sums:?}");
        assert_eq!(sums.iter().map(|(_, count)| count).sum::<u64>(), 4);
    }
}
