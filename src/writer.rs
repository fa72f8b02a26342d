//! The writer: when new messages are committed, and what happens when that fails.
//!
//! In: the turns of every shard, through one bounded lock-free mailbox. Out: one transaction for as many turns as came
//! while the one before was under way, and a [`Settled`] for each turn to its shard. Runs on its own thread; knows no SQL and no
//! clients.
//!
//! - **Batches grow by themselves**: under load many turns gather during a commit; at low load none waits, unless
//!   `commit_delay_ms` asks for it.
//! - **A row that the database refuses** must not sink its batch: the batch is halved until the row is alone.
//! - **A database that is away** is tried again, with growing pauses and jitter. A message that waited for
//!   `save_timeout_seconds` is given up, and its sender told, as long as it certainly was not saved. A transaction whose
//!   fate is unknown is not given up: it is repeated until the database answers, which does no harm, for the ids are
//!   the primary key. Only when the server ends and nobody is left to wait for the answer, it is left at that, and said.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::{
    identity::{RoomId, UserId},
    metrics::Counters,
    shard::mailbox::{Letter, Mailbox},
    store::{self, InsertError, Micros, Row},
};

/// The messages that one shard accepted in one turn.
#[derive(Debug)]
pub struct Turn {
    /// The shard that waits for the answer.
    pub shard: usize,
    /// The shard's number for the turn.
    pub number: u64,
    /// When the turn began to be filled.
    began: Instant,
    /// The messages, all but their texts.
    pub records: Vec<Record>,
    /// Their texts, one behind the other.
    text: String,
    /// Where each text ends.
    ends: Vec<usize>,
}

/// A message as its room's shard stamped it.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// UUIDv7.
    pub id: Uuid,
    /// The room.
    pub room: RoomId,
    /// Who sent it.
    pub sender: UserId,
    /// Whom it addresses.
    pub receiver: Option<UserId>,
    /// When it was stamped.
    pub timestamp: Micros,
}

impl Turn {
    /// A turn without messages.
    pub fn new(shard: usize, number: u64) -> Turn {
        Turn { shard, number, began: Instant::now(), records: Vec::new(), text: String::new(), ends: Vec::new() }
    }

    /// Adds a message with its text.
    pub fn push(&mut self, record: Record, text: &str) {
        if self.records.is_empty() {
            self.began = Instant::now();
        }
        self.records.push(record);
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let texts = starts.zip(&self.ends).map(|(start, end)| &self.text[start..*end]);
        self.records.iter().zip(texts).map(|(record, content)| {
            let Record { id, room, sender, receiver, timestamp } = *record;
            Row { id, room, sender, receiver, timestamp, content }
        })
    }
}

/// The writer's answer to a turn: it is saved, all but these messages, which certainly are not.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled {
    /// The shard's number for the turn.
    pub turn: u64,
    /// The messages that were not saved, by their place in the turn, in rising order.
    pub unsaved: Vec<(u32, Why)>,
}

/// Why a message was not saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The database does not take it: its room or its sender is gone.
    Refused,
    /// There was no room for it, or the database did not come back in time.
    GivenUp,
}

/// When to commit, and for how long to try.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Rows of one transaction; one turn is never divided, so it may be more.
    pub commit_rows_max: usize,
    /// How long to wait for more rows before a commit.
    pub commit_delay: Duration,
    /// How long a message may wait for a database that is away.
    pub save_timeout: Duration,
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

/// The writer thread's state.
pub struct Writer<S, F> {
    store: S,
    policy: Policy,
    mailbox: Mailbox<Box<Turn>>,
    /// Tells a shard that one of its turns is settled.
    settle: F,
    counters: Arc<Counters>,
    /// Turns that are not in a transaction yet.
    queue: VecDeque<Turn>,
    away: Away,
    /// The shards have ended: nothing more will come, and nobody waits for an answer.
    is_deserted: bool,
    /// Messages given up although they may be saved.
    in_doubt: usize,
}

/// The writer ended, and of so many messages nobody knows if they are saved. Their senders were told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftInDoubt(pub usize);

/// How long the database has not answered.
#[derive(Default)]
struct Away {
    attempts: u32,
}

impl Away {
    const PAUSE_MIN: Duration = Duration::from_millis(50);
    const PAUSE_MAX: Duration = Duration::from_secs(2);

    /// The pause before the next attempt: doubling, and anything from half of it to all of it, so that many servers do not
    /// come back to their database at the same instant.
    fn pause(&mut self) -> Duration {
        let doubled = Self::PAUSE_MIN * 2_u32.pow(self.attempts.min(10));
        self.attempts += 1;
        doubled.min(Self::PAUSE_MAX).mul_f64(rand::random_range(0.5..=1.0))
    }
}

impl<S: Save, F: FnMut(usize, Settled)> Writer<S, F> {
    /// A writer with nothing to write.
    pub fn new(
        store: S,
        policy: Policy,
        mailbox: Mailbox<Box<Turn>>,
        settle: F,
        counters: Arc<Counters>,
    ) -> Writer<S, F> {
        Writer {
            store,
            policy,
            mailbox,
            settle,
            counters,
            queue: VecDeque::new(),
            away: Away::default(),
            is_deserted: false,
            in_doubt: 0,
        }
    }

    /// Commits until nobody can send turns any more and all that came are settled.
    ///
    /// # Errors
    /// When the database did not come back before the end, and some may be saved or not.
    pub async fn run(mut self) -> Result<(), LeftInDoubt> {
        while let Some(turn) = self.next().await {
            // It was the oldest, and stays it: turns are saved, and so broadcast, in the order in which they came.
            self.queue.push_front(turn);
            self.gather().await;
            let batch = self.take_batch();
            self.save(batch).await;
        }
        match self.in_doubt {
            0 => Ok(()),
            messages => Err(LeftInDoubt(messages)),
        }
    }

    async fn next(&mut self) -> Option<Turn> {
        match self.queue.pop_front() {
            Some(turn) => Some(turn),
            None => self.mailbox.next().await.map(|turn| *turn),
        }
    }

    /// Takes what has come, and what comes within the commit delay if the batch is not full.
    async fn gather(&mut self) {
        self.fetch();
        let deadline = tokio::time::Instant::now() + self.policy.commit_delay;
        while !self.policy.commit_delay.is_zero() && self.waiting() < self.policy.commit_rows_max {
            // Cancel-safe: a turn is taken out of the mailbox only when it is returned.
            match tokio::time::timeout_at(deadline, self.mailbox.next()).await {
                Ok(Some(turn)) => self.queue.push_back(*turn),
                Ok(None) | Err(_) => return,
            }
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

    fn waiting(&self) -> usize {
        self.queue.iter().map(|turn| turn.records.len()).sum()
    }

    fn take_batch(&mut self) -> Vec<Turn> {
        let mut batch = Vec::new();
        let mut rows = 0;
        while let Some(turn) = self.queue.front()
            && (rows == 0 || rows + turn.records.len() <= self.policy.commit_rows_max)
        {
            rows += turn.records.len();
            batch.extend(self.queue.pop_front());
        }
        batch
    }

    /// Saves a batch whole, or in the pieces that the database takes, and settles its turns.
    async fn save(&mut self, batch: Vec<Turn>) {
        let rows: Vec<Row<'_>> = batch.iter().flat_map(Turn::rows).collect();
        // The batch is given up as one, and no message before its time.
        let youngest = batch.iter().map(|turn| turn.began).max().unwrap_or_else(Instant::now);
        let mut unsaved = Vec::new();
        // The pieces still to be saved, the next one last; each with whether it may have been saved already.
        let mut pieces = vec![(0..rows.len(), Fate::NotSaved)];
        while let Some((piece, fate)) = pieces.pop() {
            match self.store.insert(&rows[piece.clone()]).await {
                Ok(()) => self.committed(piece.len()),
                Err(InsertError::Refused(reason)) => match halves(&piece) {
                    Some((first, second)) => pieces.extend([(second, fate), (first, fate)]),
                    None => {
                        self.refuse(&rows[piece.start], &reason);
                        unsaved.push((piece.start, Why::Refused));
                    }
                },
                Err(error @ (InsertError::NotSent(_) | InsertError::InDoubt(_))) => {
                    let fate = if matches!(error, InsertError::InDoubt(_)) { Fate::Unknown } else { fate };
                    match (fate, youngest.elapsed() >= self.policy.save_timeout) {
                        (Fate::NotSaved, true) => {
                            tracing::warn!(messages = piece.len(), "given up: the database did not come back in time");
                            unsaved.extend(piece.map(|row| (row, Why::GivenUp)));
                        }
                        // No shard is left that could take silence for a yes.
                        (Fate::Unknown, true) if self.is_deserted => self.in_doubt += piece.len(),
                        _ => pieces.push((piece, fate)),
                    }
                    self.wait_for_database(error.text()).await;
                }
            }
        }
        self.settle_all(&batch, unsaved);
    }

    fn committed(&mut self, rows: usize) {
        if self.away.attempts > 0 {
            tracing::info!(attempts = self.away.attempts, "the database is back");
            self.away = Away::default();
        }
        self.counters.commits.up();
        self.counters.rows.add(rows as u64);
    }

    fn refuse(&mut self, row: &Row<'_>, reason: &str) {
        self.counters.rows_refused.up();
        let refused = self.counters.rows_refused.get();
        // One who goes on sending to a room that is gone shall not fill the log: the first, the second, the fourth …
        if refused.is_power_of_two() {
            tracing::warn!(message = %row.id, room = %row.room, reason, refused, "the database refused a message; its sender is told");
        }
    }

    /// Pauses, and meanwhile gives up the messages that have waited for too long.
    async fn wait_for_database(&mut self, reason: &str) {
        if self.away.attempts == 0 {
            tracing::warn!(reason, "the database is away; messages wait and it is tried again");
        }
        self.counters.commits_retried.up();
        tokio::time::sleep(self.away.pause()).await;
        self.fetch();
        while let Some(turn) = self.queue.front()
            && turn.began.elapsed() >= self.policy.save_timeout
        {
            if let Some(turn) = self.queue.pop_front() {
                let unsaved = (0..turn.records.len()).map(|row| (row, Why::GivenUp)).collect();
                self.settle_all(&[turn], unsaved);
            }
        }
    }

    /// Tells every shard what became of its turns; `unsaved` are rows of the batch.
    fn settle_all(&mut self, batch: &[Turn], mut unsaved: Vec<(usize, Why)>) {
        unsaved.sort_unstable();
        let mut first = 0;
        for turn in batch {
            let own = first..first + turn.records.len();
            first = own.end;
            let own_unsaved = unsaved.iter().filter(|(row, _)| own.contains(row));
            let unsaved = own_unsaved.map(|(row, why)| ((row - own.start) as u32, *why)).collect();
            (self.settle)(turn.shard, Settled { turn: turn.number, unsaved });
        }
    }
}

/// What is known of a piece that was not confirmed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    NotSaved,
    Unknown,
}

/// The two halves of a piece that was refused; `None` when a single row is left, which then is the bad one.
pub(crate) fn halves(piece: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    let middle = piece.start + piece.len() / 2;
    (piece.len() > 1).then_some((piece.start..middle, middle..piece.end))
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::HashSet, rc::Rc};

    use super::{Why::*, *};
    use crate::shard::mailbox::{Postbox, mailbox};

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

    fn turn(shard: usize, number: u64, texts: &[&str]) -> Box<Turn> {
        let mut turn = Box::new(Turn::new(shard, number));
        for (place, text) in texts.iter().enumerate() {
            let id = Uuid::from_u128(u128::from(number) << 32 | place as u128);
            let record =
                Record { id, room: Uuid::nil(), sender: UserId::Int(1), receiver: None, timestamp: place as Micros };
            turn.push(record, text);
        }
        turn
    }

    #[allow(clippy::type_complexity, reason = "each test takes it apart at once")]
    fn writer(
        script: &[Outcome],
        rows_max: usize,
    ) -> (Postbox<Box<Turn>>, Fake, Answers, Writer<Fake, impl FnMut(usize, Settled) + use<>>) {
        let (postbox, turns) = mailbox(100);
        let (fake, answers) = (Fake::default(), Answers::default());
        fake.0.borrow_mut().script.extend(script);
        let policy =
            Policy { commit_rows_max: rows_max, commit_delay: Duration::ZERO, save_timeout: Duration::from_secs(3600) };
        let told = Rc::clone(&answers);
        let settle = move |shard, settled| told.borrow_mut().push((shard, settled));
        let writer = Writer::new(fake.clone(), policy, turns, settle, Arc::default());
        (postbox, fake, answers, writer)
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
        writer.run().await.unwrap();
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
        writer.run().await.unwrap();
        assert_eq!(*answers.borrow(), [0, 1, 2, 3, 4, 5].map(|number| settled(0, number, &[])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_row_does_not_sink_its_batch() {
        let (postbox, fake, answers, writer) = writer(&[], 100);
        postbox.post(turn(0, 1, &["a", "bad", "c"])).unwrap();
        postbox.post(turn(1, 9, &["d"])).unwrap();
        postbox.post(turn(0, 2, &["bad", "bad"])).unwrap();
        drop(postbox);
        writer.run().await.unwrap();
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
            writer.run().await.unwrap();
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
        assert_eq!(writer.run().await, Err(LeftInDoubt(2)));
    }
}
