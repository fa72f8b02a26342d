//! What one shard's chat has for another at the end of a turn: one letter, its items in the order in which they came to be.
//!
//! In: the items of a turn. Out: a letter to each shard that there are some for. A shard whose mailbox is full gets its
//! items with those of the next turn; messages for it are refused meanwhile, and so they are beyond [`PARCEL_BYTES_MAX`] bytes
//! that it has not looked at. One that has not looked at more than that when there are further batches for it is so far behind
//! that its replicas are given up (`Unposted::Behind`).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;

use super::{Mail, Posts};
use crate::{
    identity::{RoomId, User, UserId},
    limits::PARCEL_BYTES_MAX,
    metrics::Counters,
    shard::{
        conn::{ConnId, Taken},
        mailbox::Undelivered,
        replica::Ended,
        room::Batch,
    },
    writer::Why,
};

/// One thing that a shard has for another.
pub enum Item {
    /// From a room's home: a member that was let in, to be seated here.
    Seat(Box<Seat>),
    /// From a room's home: what entered its log.
    Batch(RoomId, Batch),
    /// To a room's home: a message of a member that is seated here, parsed and checked.
    Said(Box<Said>),
    /// From a room's home: what became of a message that was said here.
    Settled(ConnId, Verdict),
    /// To a room's home: no member is left here.
    Vacated(RoomId),
    /// From a room's home: nothing of this room will come any more.
    Dismissed(RoomId),
    /// From a room's home: the replica has missed batches.
    CutOff(RoomId),
    /// The server stops, and no connection comes from that shard any more.
    PassedAll,
}

impl Item {
    /// What it takes of memory that counts: texts.
    fn bytes(&self) -> usize {
        match self {
            Item::Batch(_, batch) => batch.frames.len(),
            Item::Said(said) => said.message.len(),
            _ => 0,
        }
    }
}

/// A member on its way to a seat on another shard than its room's home.
pub struct Seat {
    pub(super) taken: Taken,
    pub(super) accept: Bytes,
    pub(super) room: RoomId,
    pub(super) user: Arc<User>,
    pub(super) ended: Ended,
}

/// A message on its way to its room's home.
pub struct Said {
    pub(super) room: RoomId,
    pub(super) conn: ConnId,
    pub(super) user: Arc<User>,
    pub(super) message: String,
    pub(super) receiver: Option<UserId>,
}

/// What became of a message, for its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was broadcast.
    Kept,
    /// It was broadcast, but others of its turn were not.
    KeptAmongUnsaved,
    /// It was not.
    Unsaved(Why),
}

/// The items of one turn.
pub struct Parcel {
    /// The shard that they come from.
    pub from: usize,
    items: Vec<Item>,
    under_way: UnderWay,
}

impl Parcel {
    /// Opens it: the items, in order.
    pub fn open(self) -> (usize, Vec<Item>) {
        (self.from, self.items)
    }
}

/// Bytes of batches and messages that are on their way between two shards, counted as long as this lives. The sender adds, whoever drops
/// the parcel subtracts; the count orders no other memory (`Relaxed`).
struct UnderWay {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}

/// What waits to be posted to one shard.
#[derive(Default)]
struct Waiting {
    items: Vec<Item>,
    bytes: usize,
    is_stuck: bool,
    under_way: Arc<AtomicUsize>,
}

impl Waiting {
    fn has_batches(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Batch(..)))
    }
}

/// The parcels that a shard is filling, one for each other shard.
pub(super) struct Parcels {
    own: usize,
    waiting: Vec<Waiting>,
    /// The shards that there is something for.
    begun: Vec<usize>,
}

/// Why something was not posted and will not be.
pub(super) enum Unposted {
    /// The shard is too far behind with its replicas: what waits for it has lost its batches, and was not posted yet.
    Behind(usize),
    /// The shard has ended: what it will never see.
    Gone(usize, Vec<Item>),
}

impl Parcels {
    /// None yet, from shard `own` to as many shards as there are.
    pub(super) fn new(own: usize, shards: usize) -> Parcels {
        let mut waiting = Vec::new();
        waiting.resize_with(shards, Waiting::default);
        Parcels { own, waiting, begun: Vec::new() }
    }

    /// Adds an item to what `shard` gets at the end of the turn.
    pub(super) fn add(&mut self, shard: usize, item: Item) {
        let waiting = &mut self.waiting[shard];
        waiting.bytes += item.bytes();
        waiting.items.push(item);
        if !self.begun.contains(&shard) {
            self.begun.push(shard);
        }
    }

    /// A message of `len` bytes can be passed on: the shard took what it was last to get, and looks at it.
    pub(super) fn takes(&self, shard: usize, len: usize) -> bool {
        let Waiting { bytes, is_stuck, under_way, .. } = &self.waiting[shard];
        !is_stuck && under_way.load(Relaxed) + bytes + len <= PARCEL_BYTES_MAX
    }

    /// Nothing waits to be posted.
    pub(super) fn are_posted(&self) -> bool {
        self.begun.is_empty()
    }

    /// Posts what waits, but for a full mailbox: then it goes on waiting, together with what is added. What comes of the rest is
    /// the caller's to see to.
    pub(super) fn post(&mut self, posts: &Posts, counters: &Counters) -> Vec<Unposted> {
        let begun = std::mem::take(&mut self.begun);
        begun.into_iter().filter_map(|shard| self.post_to(shard, posts, counters).err()).collect()
    }

    fn post_to(&mut self, shard: usize, posts: &Posts, counters: &Counters) -> Result<(), Unposted> {
        let waiting = &mut self.waiting[shard];
        // Only what it has not looked at: how much becomes durable in one moment is not its fault.
        if waiting.under_way.load(Relaxed) > PARCEL_BYTES_MAX && waiting.has_batches() {
            self.begun.push(shard);
            self.drop_batches(shard);
            return Err(Unposted::Behind(shard));
        }
        waiting.under_way.fetch_add(waiting.bytes, Relaxed);
        let under_way = UnderWay { bytes: std::mem::take(&mut waiting.bytes), all: Arc::clone(&waiting.under_way) };
        let parcel = Box::new(Parcel { from: self.own, items: std::mem::take(&mut waiting.items), under_way });
        match posts.shards[shard].post(Mail::Parcel(parcel)) {
            Ok(()) => {
                waiting.is_stuck = false;
                Ok(())
            }
            Err(Undelivered::Gone(Mail::Parcel(parcel))) => Err(Unposted::Gone(shard, parcel.items)),
            Err(Undelivered::Full(Mail::Parcel(parcel))) => {
                let Parcel { items, under_way, .. } = *parcel;
                // Once for the letter that waits, however often it is tried.
                counters.mailbox_full.add(u64::from(!waiting.is_stuck));
                (waiting.bytes, waiting.items, waiting.is_stuck) = (under_way.bytes, items, true);
                self.begun.push(shard);
                if self.waiting[shard].bytes <= PARCEL_BYTES_MAX {
                    return Ok(());
                }
                self.drop_batches(shard);
                Err(Unposted::Behind(shard))
            }
            Err(_) => unreachable!("the letter comes back as it was"),
        }
    }

    fn drop_batches(&mut self, shard: usize) {
        let waiting = &mut self.waiting[shard];
        waiting.items.retain(|item| !matches!(item, Item::Batch(..)));
        waiting.bytes = waiting.items.iter().map(Item::bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::mailbox::{Letter, Mailbox, mailbox};

    /// Shard 0's posts, and the mailbox of shard 1, which takes `bound` letters.
    fn two_shards(bound: usize) -> (Posts, Mailbox<Mail>) {
        let (own, other) = (mailbox(1).0, mailbox(bound));
        (Posts { shards: vec![own, other.0], control: mailbox(1).0, writer: mailbox(1).0 }, other.1)
    }

    fn batch(bytes: usize) -> Item {
        Item::Batch(RoomId::nil(), Batch { frames: vec![0; bytes].into(), messages: 1 })
    }

    fn vacated(room: u128) -> Item {
        Item::Vacated(RoomId::from_u128(room))
    }

    /// What an item is, and how much of it.
    fn kinds(items: &[Item]) -> Vec<(char, u128)> {
        let kind = |item: &Item| match item {
            Item::Batch(_, batch) => ('b', batch.frames.len() as u128),
            Item::Vacated(room) => ('v', room.as_u128()),
            _ => ('?', 0),
        };
        items.iter().map(kind).collect()
    }

    fn read(mailbox: &Mailbox<Mail>) -> Vec<(char, u128)> {
        match mailbox.read() {
            Letter::Is(Mail::Parcel(parcel)) => kinds(&parcel.open().1),
            _ => panic!("no parcel"),
        }
    }

    #[test]
    fn a_turns_items_arrive_in_one_letter_and_in_order() {
        let (posts, mailbox) = two_shards(1);
        let mut parcels = Parcels::new(0, 2);
        [vacated(1), batch(7), vacated(2)].into_iter().for_each(|item| parcels.add(1, item));
        assert!(!parcels.are_posted() && parcels.post(&posts, &Counters::default()).is_empty() && parcels.are_posted());
        assert_eq!(read(&mailbox), [('v', 1), ('b', 7), ('v', 2)]);
        assert!(
            parcels.post(&posts, &Counters::default()).is_empty() && matches!(mailbox.read(), Letter::None),
            "nothing is no letter"
        );
    }

    #[test]
    fn what_finds_the_mailbox_full_waits_and_is_followed_by_the_rest() {
        let ((posts, mailbox), counters) = (two_shards(1), Counters::default());
        let mut parcels = Parcels::new(0, 2);
        for number in 1..=3 {
            parcels.add(1, vacated(number));
            assert!(parcels.post(&posts, &counters).is_empty());
            assert_eq!(
                counters.mailbox_full.get(),
                u64::from(number > 1),
                "one letter waits, whatever is added: {number}"
            );
            assert_eq!((parcels.takes(1, 1), parcels.are_posted()), (number == 1, number == 1), "{number}");
        }
        assert_eq!(read(&mailbox), [('v', 1)]);
        assert!(parcels.post(&posts, &counters).is_empty() && parcels.takes(1, 1));
        parcels.add(1, vacated(4));
        assert!(parcels.post(&posts, &counters).is_empty());
        assert_eq!(counters.mailbox_full.get(), 2, "the next that waits");
        assert_eq!(read(&mailbox), [('v', 2), ('v', 3)]);
    }

    #[test]
    fn a_shard_that_reads_nothing_loses_batches_beyond_the_bound_and_nothing_else() {
        for (bound, items) in [(2, [vacated(1), batch(1), vacated(2)]), (10, [batch(1), vacated(1), vacated(2)])] {
            let (posts, mailbox) = two_shards(bound);
            let mut parcels = Parcels::new(0, 2);
            for bytes in [1, PARCEL_BYTES_MAX] {
                assert!(parcels.takes(1, PARCEL_BYTES_MAX - 1), "{bytes}");
                parcels.add(1, batch(bytes));
                assert!(
                    parcels.post(&posts, &Counters::default()).is_empty(),
                    "however much comes at once, it is posted"
                );
            }
            assert!(!parcels.takes(1, 1), "nothing that may be refused");
            items.into_iter().for_each(|item| parcels.add(1, item));
            assert!(matches!(parcels.post(&posts, &Counters::default())[..], [Unposted::Behind(1)]), "{bound}");
            parcels.add(1, vacated(3));
            assert_eq!(read(&mailbox), [('b', 1)]);
            assert_eq!(read(&mailbox), [('b', PARCEL_BYTES_MAX as u128)]);
            assert!(parcels.post(&posts, &Counters::default()).is_empty());
            assert_eq!(read(&mailbox), [('v', 1), ('v', 2), ('v', 3)]);
            assert!(parcels.are_posted() && matches!(mailbox.read(), Letter::None), "one letter, not two");
            parcels.add(1, batch(2));
            assert!(parcels.post(&posts, &Counters::default()).is_empty(), "what was read does not count");
            assert_eq!(read(&mailbox), [('b', 2)]);
        }
    }

    #[test]
    fn a_shard_with_nothing_but_lost_batches_is_begun_once() {
        let (posts, mailbox) = two_shards(10);
        let mut parcels = Parcels::new(0, 2);
        parcels.add(1, batch(PARCEL_BYTES_MAX + 1));
        assert!(parcels.post(&posts, &Counters::default()).is_empty());
        parcels.add(1, batch(1));
        assert!(matches!(parcels.post(&posts, &Counters::default())[..], [Unposted::Behind(1)]));
        parcels.add(1, vacated(1));
        assert!(parcels.post(&posts, &Counters::default()).is_empty());
        assert_eq!(read(&mailbox), [('b', PARCEL_BYTES_MAX as u128 + 1)]);
        assert_eq!(read(&mailbox), [('v', 1)]);
        assert!(matches!(mailbox.read(), Letter::None));
    }

    #[test]
    fn what_is_for_a_shard_that_has_ended_comes_back() {
        let (posts, mailbox) = two_shards(1);
        drop(mailbox);
        let mut parcels = Parcels::new(0, 2);
        parcels.add(1, vacated(9));
        match &parcels.post(&posts, &Counters::default())[..] {
            [Unposted::Gone(1, items)] => assert_eq!(kinds(items), [('v', 9)]),
            _ => panic!("it was posted"),
        }
        assert!(parcels.are_posted());
    }
}
