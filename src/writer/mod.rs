//! The writer: when new messages are committed, and what happens when that fails.
//!
//! In: what the shards' journals hold, read from their files, or without a journal the turns of every shard, through one
//! bounded lock-free mailbox. Out: one transaction for as many messages as came while the one before was under way; then
//! the journal's `saved` moves on, or a [`Settled`] goes to the turn's shard. Runs on its own thread; knows no SQL and no
//! clients.
//!
//! - **Batches grow by themselves**: under load many messages gather during a commit; at low load none waits, unless
//!   `commit_delay_ms` asks for it. For what is broadcast already nobody waits, so its batches keep a distance ([`PACE`]).
//! - **A row that the database refuses** must not sink its batch: the batch is halved until the row is alone. If it has been
//!   broadcast it goes to the dead letters, and its sender is kept from sending more like it; if not, its sender is told.
//! - **A database that is away, or takes nothing at all,** is tried again, with growing pauses and jitter. What the journal holds waits as long as it
//!   takes, on the disk. A message that is not broadcast yet and waited for `save_timeout_seconds` is given up, and its
//!   sender told, as long as it certainly was not saved. A transaction whose fate is unknown is repeated until the database
//!   answers, which does no harm, for the ids are the primary key.
//! - **The end**: when the shards have ended, what is left is saved. If the database is away then, the journal keeps what it
//!   has for the next start, and what was broadcast without a journal becomes dead letters.

mod backlog;
mod batch;
mod trouble;
mod turn;

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

pub(crate) use self::batch::halves;
pub use self::{
    backlog::{Backlog, Batch},
    turn::{Filling, Settled, Turn, Why},
};
use self::{
    batch::{Outcome, Terms},
    trouble::{NO_LETTERS, Trouble},
};
use crate::{
    identity::{RoomId, UserId},
    journal::{
        record::{Record, decode_all},
        tail::Damage,
    },
    metrics::Counters,
    shard::mailbox::{Letter, Mailbox},
    store::{self, InsertError, Row},
};

/// The pause between two batches of what is broadcast already, unless the first was full or there is enough for another: a commit costs the database and the disk
/// nearly the same for one message as for a hundred. Of ten milliseconds the writer took twice the CPU a message, in one
/// room of 200 under full load; of a hundred hardly less.
const PACE: Duration = Duration::from_millis(50);

/// How often the turns that come meanwhile are taken out of the mailbox, and counted.
const LOOK: Duration = Duration::from_millis(10);

/// When to commit, and for how long to try.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Rows of one transaction; one turn is never divided, so it may be more.
    pub commit_rows_max: usize,
    /// How long to wait for more rows before a commit.
    pub commit_delay: Duration,
    /// Turns with so many rows are committed without waiting for more: less than a shard refuses further ones at.
    pub rows_enough: usize,
    /// And with so many bytes.
    pub bytes_enough: usize,
    /// How long a message may wait for a database that is away.
    pub save_timeout: Duration,
    /// The messages of turns have been broadcast already.
    pub turns_are_broadcast: bool,
}

/// What the writer asks of a database.
pub trait Save {
    /// Saves all rows in one transaction, or none.
    fn insert(&mut self, rows: &[Row<'_>]) -> impl Future<Output = Result<(), InsertError>>;
}

impl Save for store::Writer {
    async fn insert(&mut self, rows: &[Row<'_>]) -> Result<(), InsertError> {
        store::Writer::insert(self, rows).await
    }
}

/// Where the writer's news goes.
pub trait Outlets {
    /// What became of a turn, to its shard.
    fn settle(&mut self, shard: usize, settled: Settled);

    /// The database takes nothing from this sender in this room, to the room's shard.
    fn refused(&mut self, room: RoomId, sender: UserId);

    /// Messages that were broadcast and cannot be saved, with the reasons; on return they are on the disk.
    fn bury(&mut self, letters: &[(&Record<'_>, &str)]) -> io::Result<()>;

    /// A place of the journal that cannot be read; on return its bytes are kept elsewhere.
    fn keep_aside(&mut self, damage: &Damage) -> io::Result<()>;
}

/// The writer thread's state.
pub struct Writer<S, O> {
    store: S,
    policy: Policy,
    mailbox: Mailbox<Box<Turn>>,
    backlog: Backlog,
    outlets: O,
    counters: Arc<Counters>,
    /// Turns that are not in a transaction yet.
    queue: VecDeque<Turn>,
    /// Of the database, and of the file of dead letters.
    database: Trouble,
    letters: Trouble,
    /// The shards have ended: nothing more will come, and nobody waits for an answer.
    is_deserted: bool,
    unfinished: Unfinished,
}

/// The writer ended before everything was saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Of so many messages nobody knows if they are saved. Their senders were told nothing.
    pub in_doubt: usize,
    /// So many messages were broadcast, and could be written neither to the database nor to the dead letters.
    pub lost: usize,
    /// The journal keeps some for the next start.
    pub in_journal: bool,
}

impl<S: Save, O: Outlets> Writer<S, O> {
    /// A writer with nothing to write.
    pub fn new(
        store: S,
        policy: Policy,
        mailbox: Mailbox<Box<Turn>>,
        backlog: Backlog,
        outlets: O,
        counters: Arc<Counters>,
    ) -> Writer<S, O> {
        Writer {
            store,
            policy,
            mailbox,
            backlog,
            outlets,
            counters,
            queue: VecDeque::new(),
            database: Trouble::default(),
            letters: Trouble::default(),
            is_deserted: false,
            unfinished: Unfinished::default(),
        }
    }

    /// Commits until the shards have ended and all that they left is saved; or, with the database away, given up or left.
    pub async fn run(mut self) -> Unfinished {
        loop {
            self.fetch();
            if !self.queue.is_empty() {
                self.gather().await;
                let batch = self.take_batch();
                self.save_turns(batch).await;
                // A longer delay was waited for already.
                if self.policy.turns_are_broadcast && self.policy.commit_delay < PACE && !self.backlog.is_ready() {
                    self.keep_distance().await;
                }
            }
            // A batch of each in turn: neither waits for more than one of the other.
            if self.backlog.is_ready() && !self.unfinished.in_journal {
                self.save_backlog().await;
            } else if self.queue.is_empty() {
                if self.is_deserted {
                    // What cannot be read now, perhaps the next start can.
                    self.unfinished.in_journal |= self.backlog.is_behind();
                    return self.unfinished;
                }
                self.rest().await;
            }
        }
    }

    /// Until there is news, or it is time to look again at what could not be read.
    async fn rest(&self) {
        match self.backlog.next_try() {
            // Either way it is looked for letters next, so a notice that is lost here is not missed.
            Some(until) => _ = tokio::time::timeout_at(until, self.mailbox.notice()).await,
            None => self.mailbox.notice().await,
        }
    }

    fn fetch(&mut self) {
        self.is_deserted = loop {
            match self.mailbox.read() {
                Letter::Is(turn) => self.queue.push_back(*turn),
                Letter::None => break false,
                Letter::NoMore => break true,
            }
        };
    }

    /// Takes what has come, and what comes within the commit delay if the batch is not full.
    async fn gather(&mut self) {
        self.fetch();
        let deadline = tokio::time::Instant::now() + self.policy.commit_delay;
        while !self.policy.commit_delay.is_zero() && !self.is_deserted && !self.has_enough() {
            // Cancel-safe: a turn is taken out of the mailbox only when it is returned.
            match tokio::time::timeout_at(deadline, self.mailbox.next()).await {
                Ok(Some(turn)) => self.queue.push_back(*turn),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// The turns that wait fill a batch, or a good part of what a shard may have waiting.
    fn has_enough(&self) -> bool {
        let rows: usize = self.queue.iter().map(|turn| turn.count).sum();
        let bytes: usize = self.queue.iter().map(|turn| turn.records.len()).sum();
        rows >= self.policy.commit_rows_max.min(self.policy.rows_enough) || bytes >= self.policy.bytes_enough
    }

    // ---- Turns ------------------------------------------------------------------------------------------------------

    fn take_batch(&mut self) -> Vec<Turn> {
        let mut batch = Vec::new();
        let mut rows = 0;
        while let Some(turn) = self.queue.front()
            && (rows == 0 || rows + turn.count <= self.policy.commit_rows_max)
        {
            rows += turn.count;
            batch.extend(self.queue.pop_front());
        }
        batch
    }

    /// Saves a batch whole, or in the pieces that the database takes, and settles its turns.
    async fn save_turns(&mut self, batch: Vec<Turn>) {
        let records: Vec<Record<'_>> = batch.iter().flat_map(|turn| decode_all(&turn.records)).collect();
        // The batch is given up as one, and no message before its time.
        let youngest = batch.iter().map(|turn| turn.began).max().unwrap_or_else(Instant::now);
        let mut unsaved = Vec::new();
        if self.policy.turns_are_broadcast {
            let outcome = self.save(&records, Terms::Broadcast { youngest }).await;
            self.bury(&records, &outcome, Terms::Broadcast { youngest }).await;
        } else {
            let outcome = self.save(&records, Terms::Waiting { youngest }).await;
            unsaved.extend(outcome.refused.iter().map(|(row, _)| (*row, Why::Refused)));
            unsaved.extend(outcome.given_up.into_iter().map(|row| (row, Why::GivenUp)));
        }
        self.settle_all(&batch, unsaved);
    }

    /// Tells every shard what became of its turns; `unsaved` are rows of the batch.
    fn settle_all(&mut self, batch: &[Turn], mut unsaved: Vec<(usize, Why)>) {
        unsaved.sort_unstable();
        let mut first = 0;
        for turn in batch {
            let own = first..first + turn.count;
            first = own.end;
            let own_unsaved = unsaved.iter().filter(|(row, _)| own.contains(row));
            let unsaved = own_unsaved.map(|(row, why)| ((row - own.start) as u32, *why)).collect();
            self.outlets.settle(turn.shard, Settled { turn: turn.number, unsaved });
        }
    }

    // ---- The journals -----------------------------------------------------------------------------------------------

    async fn save_backlog(&mut self) {
        let (outlets, counters) = (&mut self.outlets, &self.counters);
        let Batch { chunks, is_full, failures } = self.backlog.read(&mut |damage| {
            outlets.keep_aside(damage)?;
            counters.journal_damaged.up();
            Ok(())
        });
        self.counters.journal_unread.add(failures);
        let records: Vec<Record<'_>> = chunks.iter().flat_map(|chunk| decode_all(&chunk.records)).collect();
        let replayed = chunks.iter().filter(|chunk| chunk.is_old).map(|chunk| decode_all(&chunk.records).count());
        let replayed = replayed.sum::<usize>() as u64;
        let outcome = self.save(&records, Terms::Journalled).await;
        if !outcome.is_stopped && self.bury(&records, &outcome, Terms::Journalled).await {
            self.counters.replayed.add(replayed);
            self.backlog.saved(chunks);
            if !is_full && replayed == 0 {
                self.keep_distance().await;
            }
        } else {
            self.unfinished.in_journal = true;
        }
    }

    /// Nobody waits for what is broadcast: time for more of it to come. In sleeps, because every message rings.
    async fn keep_distance(&mut self) {
        let sleep = if self.policy.turns_are_broadcast { LOOK } else { PACE };
        let until = tokio::time::Instant::now() + self.policy.commit_delay.max(PACE);
        self.fetch();
        while !self.is_deserted && !self.is_awaited() && tokio::time::Instant::now() < until {
            tokio::time::sleep(sleep).await;
            self.fetch();
        }
    }

    /// Somebody waits for a turn, or there are enough of them.
    fn is_awaited(&self) -> bool {
        match self.policy.turns_are_broadcast {
            true => self.has_enough(),
            false => !self.queue.is_empty(),
        }
    }

    /// Puts what was broadcast and cannot be saved where it can be found. False if that was not possible, and the server ends.
    async fn bury(&mut self, records: &[Record<'_>], outcome: &Outcome, terms: Terms) -> bool {
        const AWAY: &str = "the database was away when the server ended";
        let refused = outcome.refused.iter().map(|(row, reason)| (&records[*row], reason.as_str()));
        let letters: Vec<_> = refused.chain(outcome.given_up.iter().map(|row| (&records[*row], AWAY))).collect();
        if letters.is_empty() {
            return true;
        }
        for (row, _) in &outcome.refused {
            let Row { room, sender, .. } = records[*row].row;
            self.outlets.refused(room, sender);
        }
        while let Err(error) = self.outlets.bury(&letters) {
            if self.is_deserted {
                if matches!(terms, Terms::Broadcast { .. }) {
                    self.unfinished.lost += letters.len();
                }
                return false;
            }
            let pause = self.letters.fails(&NO_LETTERS, &error.to_string());
            self.pause(pause).await;
        }
        self.letters.ends();
        self.counters.dead_letters.add(letters.len() as u64);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::HashSet, path::Path, rc::Rc};

    use uuid::Uuid;

    use super::{Why::*, *};
    use crate::{
        journal::{
            Leftovers, Position, Progress, appender,
            pending::tests::{Disk, ROOM, message},
            tail::{self, Tail},
        },
        shard::mailbox::{Postbox, mailbox},
    };

    /// A database that refuses the texts "bad", and answers its transactions as scripted before it works.
    #[derive(Default)]
    struct Table {
        saved: HashSet<Uuid>,
        script: VecDeque<Outcome>,
        transactions: Vec<usize>,
    }

    #[derive(Clone, Copy)]
    enum Outcome {
        NotSent,
        InDoubtSaved,
        InDoubtLost,
    }

    #[derive(Clone, Default)]
    struct Fake(Rc<RefCell<Table>>);

    impl Save for Fake {
        async fn insert(&mut self, rows: &[Row<'_>]) -> Result<(), InsertError> {
            let mut table = self.0.borrow_mut();
            table.transactions.push(rows.len());
            let save = |table: &mut Table| table.saved.extend(rows.iter().map(|row| row.id));
            match table.script.pop_front() {
                Some(Outcome::NotSent) => Err(InsertError::NotSent("away".into())),
                Some(Outcome::InDoubtLost) => Err(InsertError::InDoubt("cut".into())),
                Some(Outcome::InDoubtSaved) => {
                    save(&mut table);
                    Err(InsertError::InDoubt("cut".into()))
                }
                None if rows.iter().any(|row| row.content == "bad") => Err(InsertError::Refused("bad".into())),
                None => {
                    save(&mut table);
                    Ok(())
                }
            }
        }
    }

    type Answers = Rc<RefCell<Vec<(usize, Settled)>>>;

    /// What the writer told anybody.
    #[derive(Clone, Default)]
    struct Told {
        answers: Answers,
        refused: Rc<RefCell<Vec<UserId>>>,
        buried: Rc<RefCell<Vec<(String, String)>>>,
        /// So many burials fail first.
        failures: Rc<RefCell<usize>>,
    }

    impl Outlets for Told {
        fn settle(&mut self, shard: usize, settled: Settled) {
            self.answers.borrow_mut().push((shard, settled));
        }

        fn refused(&mut self, _: RoomId, sender: UserId) {
            self.refused.borrow_mut().push(sender);
        }

        fn bury(&mut self, letters: &[(&Record<'_>, &str)]) -> io::Result<()> {
            if *self.failures.borrow() > 0 {
                *self.failures.borrow_mut() -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let letters = letters.iter().map(|(record, why)| (record.row.content.to_owned(), (*why).to_owned()));
            self.buried.borrow_mut().extend(letters);
            Ok(())
        }

        fn keep_aside(&mut self, _: &Damage) -> io::Result<()> {
            Ok(())
        }
    }

    fn turn(shard: usize, number: u64, texts: &[&str]) -> Box<Turn> {
        let mut filling = Filling::default();
        for (place, text) in texts.iter().enumerate() {
            let id = Uuid::from_u128(u128::from(number) << 32 | place as u128);
            let sender = UserId::Int(1);
            let row = Row { id, room: Uuid::nil(), sender, receiver: None, timestamp: 0, content: text };
            filling.push(&Record { row, sender_username: "ann" });
        }
        Box::new(filling.end(shard, number))
    }

    #[allow(clippy::type_complexity, reason = "each test takes it apart at once")]
    fn writer(script: &[Outcome], rows_max: usize) -> (Postbox<Box<Turn>>, Fake, Answers, Writer<Fake, Told>) {
        let (postbox, turns) = mailbox(100);
        let (fake, told) = (Fake::default(), Told::default());
        fake.0.borrow_mut().script.extend(script);
        let policy = Policy {
            commit_rows_max: rows_max,
            commit_delay: Duration::ZERO,
            rows_enough: 1000,
            bytes_enough: 1 << 20,
            save_timeout: Duration::from_secs(3600),
            turns_are_broadcast: false,
        };
        let limits = tail::Limits { records: rows_max, bytes: 1 << 20 };
        let backlog = Backlog::new(Vec::new(), Leftovers::default(), limits);
        let writer = Writer::new(fake.clone(), policy, turns, backlog, told.clone(), Arc::default());
        (postbox, fake, told.answers, writer)
    }

    fn settled(shard: usize, turn: u64, unsaved: &[(u32, Why)]) -> (usize, Settled) {
        (shard, Settled { turn, unsaved: unsaved.to_vec() })
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_wait_share_a_transaction() {
        let (postbox, fake, answers, writer) = writer(&[], 4);
        for number in 0..3 {
            postbox.post(turn(0, number, &["a", "b"])).unwrap();
        }
        drop(postbox);
        assert_eq!(writer.run().await, Unfinished::default());
        assert_eq!(fake.0.borrow().transactions, [4, 2]);
        assert_eq!(*answers.borrow(), [settled(0, 0, &[]), settled(0, 1, &[]), settled(0, 2, &[])]);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_wait_for_a_later_transaction_keep_their_order() {
        let (postbox, _, answers, writer) = writer(&[Outcome::NotSent], 2);
        for number in 0..6 {
            postbox.post(turn(0, number, &["a"])).unwrap();
        }
        drop(postbox);
        assert_eq!(writer.run().await, Unfinished::default());
        assert_eq!(*answers.borrow(), [0, 1, 2, 3, 4, 5].map(|number| settled(0, number, &[])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_row_does_not_sink_its_batch() {
        let (postbox, fake, answers, writer) = writer(&[], 100);
        postbox.post(turn(0, 1, &["a", "bad", "c"])).unwrap();
        postbox.post(turn(1, 9, &["d"])).unwrap();
        postbox.post(turn(0, 2, &["bad", "bad"])).unwrap();
        drop(postbox);
        assert_eq!(writer.run().await, Unfinished::default());
        assert_eq!(
            *answers.borrow(),
            [settled(0, 1, &[(1, Refused)]), settled(1, 9, &[]), settled(0, 2, &[(0, Refused), (1, Refused)])]
        );
        assert_eq!(fake.0.borrow().saved.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transaction_in_doubt_is_repeated_until_it_is_known() {
        for outcome in [Outcome::InDoubtSaved, Outcome::InDoubtLost] {
            let (postbox, fake, answers, writer) = writer(&[outcome, Outcome::NotSent, Outcome::NotSent], 100);
            postbox.post(turn(0, 1, &["a", "b"])).unwrap();
            drop(postbox);
            assert_eq!(writer.run().await, Unfinished::default());
            assert_eq!(*answers.borrow(), [settled(0, 1, &[])]);
            assert_eq!((fake.0.borrow().saved.len(), fake.0.borrow().transactions.len()), (2, 4));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waited_too_long_is_given_up_unless_it_may_be_saved() {
        // Real time has not passed, so a timeout of nothing stands for one that is over.
        let (postbox, fake, answers, mut writer) = writer(&[Outcome::InDoubtSaved, Outcome::NotSent], 2);
        writer.policy.save_timeout = Duration::ZERO;
        postbox.post(turn(0, 1, &["a", "b"])).unwrap();
        postbox.post(turn(0, 2, &["c", "d"])).unwrap();
        let running = tokio::task::LocalSet::new();
        running.spawn_local(writer.run());
        running.run_until(tokio::time::sleep(Duration::from_secs(60))).await;
        assert_eq!(*answers.borrow(), [settled(0, 2, &[(0, GivenUp), (1, GivenUp)]), settled(0, 1, &[])]);
        assert_eq!(fake.0.borrow().saved.len(), 2, "and what was given up is not in the table");
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_that_nobody_waits_for_ends_with_the_server() {
        let (postbox, _, _, mut writer) = writer(&[Outcome::InDoubtLost, Outcome::NotSent, Outcome::NotSent], 100);
        writer.policy.save_timeout = Duration::ZERO;
        postbox.post(turn(0, 1, &["a", "b"])).unwrap();
        drop(postbox);
        assert_eq!(writer.run().await, Unfinished { in_doubt: 2, ..Unfinished::default() });
    }

    #[tokio::test(start_paused = true)]
    async fn a_journal_that_cannot_be_read_does_not_keep_the_server_from_ending() {
        let (postbox, _, _, mut writer) = writer(&[], 100);
        let progress = Arc::new(Progress::default());
        progress.begin(appender::start(1));
        let tail = Tail::new(Path::new("/nowhere"), 0, Arc::clone(&progress));
        progress.set_held(Position { segment: 1, offset: 4096 });
        let limits = tail::Limits { records: 100, bytes: 1 << 20 };
        writer.backlog = Backlog::new(vec![tail], Leftovers::default(), limits);
        drop(postbox);
        let ended = tokio::time::timeout(Duration::from_secs(60), writer.run()).await;
        assert_eq!(ended, Ok(Unfinished { in_journal: true, ..Unfinished::default() }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_journal_is_caught_up_with_in_full_batches_without_a_pause_and_then_with_the_delay_between() {
        let (postbox, fake, _, mut writer) = writer(&[], 4);
        writer.policy.commit_delay = Duration::from_secs(10);
        let mut disk = Disk::new();
        (0..9).for_each(|time| disk.write(ROOM, message(time)));
        let limits = tail::Limits { records: 4, bytes: 1 << 20 };
        writer.backlog = Backlog::new(vec![disk.tail()], Leftovers::default(), limits);
        let running = tokio::task::LocalSet::new();
        running.spawn_local(writer.run());
        let batches_after = async |seconds| {
            running.run_until(tokio::time::sleep(Duration::from_secs(seconds))).await;
            fake.0.borrow().transactions.clone()
        };
        assert_eq!(batches_after(1).await, [4, 4, 1]);
        (9..11).for_each(|time| disk.write(ROOM, message(time)));
        assert_eq!(batches_after(8).await.len(), 3);
        assert_eq!(batches_after(2).await, [4, 4, 1, 2]);
        disk.write(ROOM, message(11));
        drop(postbox);
        assert_eq!(batches_after(1).await, [4, 4, 1, 2, 1], "at the end nothing is waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_is_full_of_bytes_is_full() {
        let (postbox, fake, _, mut writer) = writer(&[], 100);
        writer.policy.commit_delay = Duration::from_secs(10);
        let mut disk = Disk::new();
        (0..9).for_each(|time| disk.write(ROOM, message(time)));
        let limits = tail::Limits { records: 100, bytes: 1 };
        writer.backlog = Backlog::new(vec![disk.tail()], Leftovers::default(), limits);
        let running = tokio::task::LocalSet::new();
        running.spawn_local(writer.run());
        running.run_until(tokio::time::sleep(Duration::from_secs(1))).await;
        assert_eq!(fake.0.borrow().transactions, [1; 9]);
        drop(postbox);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_are_broadcast_keep_a_distance_unless_there_are_enough() {
        for (rows_max, rows_enough, bytes_enough) in [(3, 1000, 1 << 20), (100, 3, 1 << 20), (100, 1000, 300)] {
            keeps_a_distance(rows_max, rows_enough, bytes_enough).await;
        }
    }

    async fn keeps_a_distance(rows_max: usize, rows_enough: usize, bytes_enough: usize) {
        let (postbox, fake, answers, mut writer) = writer(&[], rows_max);
        writer.policy = Policy { turns_are_broadcast: true, rows_enough, bytes_enough, ..writer.policy };
        let running = tokio::task::LocalSet::new();
        running.spawn_local(writer.run());
        let batches_after = async |ms, texts: &[&str]| {
            if !texts.is_empty() {
                postbox.post(turn(0, 0, texts)).unwrap();
            }
            running.run_until(tokio::time::sleep(Duration::from_millis(ms))).await;
            fake.0.borrow().transactions.clone()
        };
        assert_eq!(batches_after(1, &["a"]).await, [1], "the first waits for nothing");
        assert_eq!(batches_after(5, &["b"]).await, [1]);
        assert_eq!(batches_after(5, &["c"]).await, [1]);
        assert_eq!(batches_after(60, &[]).await, [1, 2]);
        assert_eq!(batches_after(20, &["d", "e", "f"]).await, [1, 2, 3]);
        assert_eq!(answers.borrow().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_broadcast_becomes_a_dead_letter_when_it_is_refused_and_is_never_given_up_before_the_end() {
        let (postbox, fake, answers, mut writer) = writer(&[Outcome::NotSent, Outcome::NotSent], 100);
        (writer.policy.turns_are_broadcast, writer.policy.save_timeout) = (true, Duration::ZERO);
        let told = writer.outlets.clone();
        *told.failures.borrow_mut() = 2;
        postbox.post(turn(0, 1, &["a", "bad", "c"])).unwrap();
        let running = tokio::task::LocalSet::new();
        running.spawn_local(writer.run());
        running.run_until(tokio::time::sleep(Duration::from_secs(60))).await;
        assert_eq!(*answers.borrow(), [settled(0, 1, &[])]);
        assert_eq!(*told.buried.borrow(), [("bad".to_owned(), "bad".to_owned())]);
        assert_eq!((told.refused.borrow().len(), fake.0.borrow().saved.len()), (1, 2));
        drop(postbox);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_what_was_broadcast_and_cannot_be_saved_is_buried_or_said_to_be_lost() {
        for (failures, lost) in [(0, 0), (1000, 2)] {
            let (postbox, _, _, mut writer) = writer(&[Outcome::NotSent; 10], 100);
            (writer.policy.turns_are_broadcast, writer.policy.save_timeout) = (true, Duration::ZERO);
            let told = writer.outlets.clone();
            *told.failures.borrow_mut() = failures;
            postbox.post(turn(0, 1, &["a", "b"])).unwrap();
            drop(postbox);
            assert_eq!(writer.run().await, Unfinished { lost, ..Unfinished::default() });
            assert_eq!(told.buried.borrow().len(), 2 - lost);
        }
    }
}
