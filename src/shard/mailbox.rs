//! Mail between threads: a bounded lock-free queue with one receiver, and the notice that wakes it.
//!
//! Any thread posts; the thread that owns the [`Mailbox`] reads. A full mailbox is the sender's decision to make: nothing
//! here waits but [`Postbox::post_blocking`], and nothing here drops.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use tokio::sync::Notify;

use crate::metrics::Counters;

/// The sending end. Cheap to clone.
pub struct Postbox<M> {
    // Dropped in this order: when the last postbox goes, the reader is woken after the channel has closed.
    sender: Sender<M>,
    bell: Bell,
}

/// Wakes the reader, also when it is dropped.
struct Bell(Arc<Notify>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// The receiving end.
pub struct Mailbox<M> {
    receiver: Receiver<M>,
    notify: Arc<Notify>,
}

/// A mailbox for at most `bound` letters, and its postbox.
pub fn mailbox<M>(bound: usize) -> (Postbox<M>, Mailbox<M>) {
    let (sender, receiver) = crossbeam_channel::bounded(bound);
    let notify = Arc::new(Notify::new());
    (Postbox { sender, bell: Bell(Arc::clone(&notify)) }, Mailbox { receiver, notify })
}

/// The letter did not get in.
#[derive(Debug, PartialEq, Eq)]
pub enum Undelivered<M> {
    /// The mailbox is full.
    Full(M),
    /// Its thread has ended: nobody will ever read it.
    Gone(M),
}

impl<M> Undelivered<M> {
    /// The letter, whatever the reason. A full mailbox is counted.
    pub fn letter(self, counters: &Counters) -> M {
        match self {
            Undelivered::Full(letter) => {
                counters.mailbox_full.up();
                letter
            }
            Undelivered::Gone(letter) => letter,
        }
    }
}

impl<M> Postbox<M> {
    /// Posts without waiting.
    pub fn post(&self, letter: M) -> Result<(), Undelivered<M>> {
        let sent = self.sender.try_send(letter);
        self.bell.0.notify_one();
        sent.map_err(|unsent| match unsent {
            TrySendError::Full(letter) => Undelivered::Full(letter),
            TrySendError::Disconnected(letter) => Undelivered::Gone(letter),
        })
    }

    /// Wakes the reader without a letter: there is something for it elsewhere.
    pub fn ring(&self) {
        self.bell.0.notify_one();
    }

    /// Posts, and waits for room if there is none, which is counted: only for threads that no shard waits for.
    pub fn post_blocking(&self, letter: M, counters: &Counters) -> Result<(), Undelivered<M>> {
        let Err(unposted) = self.post(letter) else { return Ok(()) };
        let sent = self.sender.send(unposted.letter(counters));
        self.bell.0.notify_one();
        sent.map_err(|unsent| Undelivered::Gone(unsent.0))
    }
}

impl<M> Clone for Postbox<M> {
    fn clone(&self) -> Self {
        Postbox { sender: self.sender.clone(), bell: Bell(Arc::clone(&self.bell.0)) }
    }
}

/// What a look into the mailbox found.
pub enum Letter<M> {
    /// The oldest letter.
    Is(M),
    /// Nothing at present.
    None,
    /// Nothing, and nobody is left who could post.
    NoMore,
}

impl<M> Mailbox<M> {
    /// The oldest letter, without waiting.
    pub fn read(&self) -> Letter<M> {
        match self.receiver.try_recv() {
            Ok(letter) => Letter::Is(letter),
            Err(TryRecvError::Empty) => Letter::None,
            Err(TryRecvError::Disconnected) => Letter::NoMore,
        }
    }

    /// How many letters there are at this moment.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// None at this moment.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Resolves when something was posted since it resolved last. Cancel-safe.
    pub fn notice(&self) -> impl Future<Output = ()> {
        self.notify.notified()
    }

    /// The next letter; `None` once nobody can post any more. Cancel-safe: a letter is taken only on return.
    pub async fn next(&self) -> Option<M> {
        loop {
            match self.read() {
                Letter::Is(letter) => return Some(letter),
                Letter::NoMore => return None,
                Letter::None => self.notice().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_hands_the_letter_back() {
        let (postbox, mailbox) = mailbox(1);
        assert!(postbox.post(1).is_ok());
        assert_eq!(postbox.post(2), Err(Undelivered::Full(2)));
        assert!(matches!(mailbox.read(), Letter::Is(1)));
        assert!(matches!(mailbox.read(), Letter::None));
        drop(mailbox);
        assert_eq!(postbox.post(3), Err(Undelivered::Gone(3)));
    }

    #[test]
    fn a_full_mailbox_is_counted_and_a_lost_one_is_not() {
        let counters = Counters::default();
        let (postbox, mailbox) = mailbox(1);
        assert!(postbox.post_blocking(1, &counters).is_ok());
        assert_eq!(postbox.post(2).unwrap_err().letter(&counters), 2);
        assert_eq!(counters.mailbox_full.get(), 1);
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(postbox.post_blocking(3, &counters).is_ok()));
            // It is counted before it waits, and waits until this one is read.
            while counters.mailbox_full.get() < 2 {
                std::thread::yield_now();
            }
            assert!(matches!(mailbox.read(), Letter::Is(1)));
        });
        drop(mailbox);
        assert_eq!(postbox.post_blocking(4, &counters), Err(Undelivered::Gone(4)));
        assert_eq!(counters.mailbox_full.get(), 2);
    }

    #[tokio::test]
    async fn the_last_postbox_gone_ends_the_wait() {
        let (postbox, mailbox) = mailbox::<u32>(1);
        let other = postbox.clone();
        let reader = std::thread::spawn(move || drop((postbox.post(7), other)));
        assert_eq!(mailbox.next().await, Some(7));
        assert_eq!(mailbox.next().await, None);
        reader.join().expect("the posting thread ends");
    }
}
