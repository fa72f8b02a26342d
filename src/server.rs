//! One server: its threads, started in order and ended in order.
//!
//! In: a checked [`Config`]. Out: a listening address, then, after a signal, an orderly end. The calling thread becomes
//! the *control* thread: look-ups, HTTP, signals.
//!
//! ```text
//!   start: journal, database, address -> writer -> shards -> "listening"; what the journal holds is saved meanwhile
//!   end:   signal -> shards drain (1012) -> nobody can post to the writer -> it commits the rest -> done
//! ```

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};
use uuid::Uuid;

use crate::{
    auth::{self, Admission, Auth},
    config::{Config, Durability},
    dead_letters::DeadLetters,
    failure::Failure,
    history::{self, Unread},
    http::{self, History, Http},
    identity::{RoomId, Token, UserId},
    journal::{
        Leftovers, Progress,
        appender::{self, Appender},
        pending::Pending,
        place::Place,
        record::{Record, decode_all, encoded_len},
        recovery::{self, Recovered},
        tail::{self, Damage, Tail},
    },
    limits::{JOURNAL_NAME_BYTES_MAX, JOURNAL_READ_BYTES, MAILBOX_MESSAGES_MAX},
    memory,
    metrics::{self, Counters},
    shard::{
        self, Setup, accept,
        chat::{Chat, Keep, Mail, Posts, Question, Rules},
        conn::Patience,
        journal::{Bells, Files, Journal},
        mailbox::{Mailbox, Postbox, mailbox},
        occupancy::Occupancy,
    },
    stamp::Stamper,
    store::{Reader, Saved, Writer},
    topology::{self, Topology},
    writer::{self, Backlog, Outlets, Settled, Turn, Unfinished},
};

/// A server that accepts connections.
pub struct Running {
    /// The address really bound.
    pub address: SocketAddr,
    /// How many shards it has.
    pub shards: usize,
    /// The counters of every thread.
    pub counters: Vec<Arc<Counters>>,
}

/// Runs a server on the calling thread until SIGTERM or SIGINT. A second signal ends it at once.
///
/// # Errors
/// What kept it from starting, with exit code 2, or what broke later, with exit code 1.
pub fn run(config: Config, ready: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let runtime = control_runtime()?;
    let mut signals = {
        let _context = runtime.enter();
        Signals::new().map_err(|error| Failure::failed(format!("signals cannot be handled: {error}")))?
    };
    runtime.block_on(serve(&config, async move || signals.next().await, |running| ready(running.address)))
}

/// A runtime for the control thread.
pub fn control_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::failed(format!("the control thread's runtime cannot start: {error}")))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        // Cancel-safe: a signal that arrives in between is kept by the streams.
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs a server until `stop` resolves for the first time and the server has drained, or for the second time.
///
/// # Errors
/// As [`run`].
pub async fn serve(config: &Config, mut stop: impl AsyncFnMut(), ready: impl FnOnce(&Running)) -> Result<(), Failure> {
    let (mut control, running) = start(config).await?;
    ready(&running);
    let mut forgetting = tokio::time::interval(config.auth_cache.max(Duration::from_secs(1)));
    let at_once = || Err(Failure::failed("ended at once by a second signal; clients were not told"));
    let ended = loop {
        // Cancel-safe: an unfinished stop keeps its signals, a letter is taken only when returned, and a tick is not lost.
        tokio::select! {
            () = stop() => match control.is_draining {
                false => control.drain(config.drain),
                true => break at_once(),
            },
            question = control.questions.next() => match question {
                Some(question) => control.answer(question),
                // Cancel-safe: when the signal wins, the process ends with all its threads.
                None => break tokio::select! {
                    ended = control.end() => ended,
                    () = stop() => at_once(),
                },
            },
            _ = forgetting.tick() => {
                control.auth.forget();
                memory::give_back();
            }
            Some((thread, error)) = control.faults.recv() => {
                break Err(Failure::failed(format!("{thread} failed: {error}; the server cannot go on without it")));
            }
        }
    };
    summarise(&running.counters);
    ended
}

/// The control thread's state.
struct Control {
    questions: Mailbox<Question>,
    shards: Vec<Postbox<Mail>>,
    auth: Auth<Reader>,
    http: Http,
    threads: Vec<JoinHandle<()>>,
    faults: mpsc::UnboundedReceiver<(String, String)>,
    journals: Journals,
    is_draining: bool,
}

async fn start(config: &Config) -> Result<(Control, Running), Failure> {
    let topology = Arc::new(Topology::new(&topology::cpus_allowed(), config.shards));
    let journals = Journals::open(config, topology.shards())?;
    let reader = Reader::open(&config.database).await.map_err(|error| Failure::unusable(error.to_string()))?;
    let listeners = accept::listeners(config.listen, topology.shards())
        .map_err(|error| Failure::unusable(format!("cannot listen on {}: {error}", config.listen)))?;
    let address = accept::local_address(&listeners[0])
        .map_err(|error| Failure::failed(format!("the bound address cannot be read: {error}")))?;

    let (fault, faults) = mpsc::unbounded_channel();
    let (control_post, questions) = mailbox(MAILBOX_MESSAGES_MAX);
    let (writer_post, turns) = mailbox(config.writer_queue_rows);
    let (shard_posts, mailboxes): (Vec<_>, Vec<_>) =
        (0..topology.shards()).map(|_| mailbox(MAILBOX_MESSAGES_MAX)).unzip();
    // The control thread's, the writer's, then one a shard.
    let counters: Vec<Arc<Counters>> = (0..2 + topology.shards()).map(|_| Arc::default()).collect();

    let occupancy = Arc::new(Occupancy::new(config.connections_max, config.handshakes_max));
    let outlets = WriterOutlets {
        shards: shard_posts.clone(),
        topology: Arc::clone(&topology),
        dead_letters: DeadLetters::open(&config.data_dir)?,
        place: Arc::clone(&journals.place),
    };
    let mut threads = vec![start_writer(config, turns, journals.backlog(config), outlets, &counters[1], &fault).await?];
    for (shard, (listener, mailbox)) in listeners.into_iter().zip(mailboxes).enumerate() {
        let posts = Posts { shards: shard_posts.clone(), control: control_post.clone(), writer: writer_post.clone() };
        let setup = Setup {
            listener,
            mailbox,
            expected: config.connections_max.div_ceil(topology.shards()),
            patience: patience(config),
            occupancy: Arc::clone(&occupancy),
            counters: Arc::clone(&counters[2 + shard]),
        };
        threads.push(start_shard(shard, config, &topology, setup, posts, &journals, &fault)?);
    }
    let policy = auth::Policy {
        cache: config.auth_cache,
        outage: config.auth_outage,
        cache_entries: config.auth_cache_entries,
        timeout: config.auth_timeout,
    };
    let auth = Auth::new(reader, policy, Arc::clone(&counters[0]));
    let pending = Arc::new(journals.pending(&topology));
    let memory = Memory {
        shards: if config.durability == Durability::None { shard_posts.clone() } else { Vec::new() },
        topology: Arc::clone(&topology),
        counters: Arc::clone(&counters[0]),
    };
    let rooms = Rooms { auth: auth.clone(), memory, pending, counters: Arc::clone(&counters[0]) };
    let http = Http::new(rooms, Arc::clone(&counters[0]));
    let control = Control { questions, shards: shard_posts, auth, http, threads, faults, journals, is_draining: false };
    Ok((control, Running { address, shards: topology.shards(), counters }))
}

/// The journals of this run, and what earlier ones left.
struct Journals {
    place: Arc<Place>,
    recovered: Recovered,
    leftovers: Leftovers,
    /// Of each shard.
    progress: Vec<Arc<Progress>>,
    rules: appender::Rules,
}

impl Journals {
    /// Takes the journal's directory, and looks at what is in it.
    fn open(config: &Config, shards: usize) -> Result<Journals, Failure> {
        let rules = journal_rules(config, shards)?;
        let place = Place::take(&config.data_dir)?;
        let mut recovered = recovery::recover(&place)?;
        let leftovers = Leftovers::new(std::mem::take(&mut recovered.segments).into());
        let progress = (0..shards).map(|_| Arc::default()).collect();
        Ok(Journals { place: Arc::new(place), recovered, leftovers, progress, rules })
    }

    /// What the writer is to save out of them.
    fn backlog(&self, config: &Config) -> Backlog {
        let start = appender::start(self.recovered.next_number);
        let tail = |(shard, progress): (u32, &Arc<Progress>)| {
            progress.begin(start);
            Tail::new(self.place.directory(), shard, Arc::clone(progress))
        };
        let tails = (0..).zip(&self.progress).map(tail).collect();
        let limits = tail::Limits { records: config.commit_rows_max, bytes: JOURNAL_READ_BYTES };
        Backlog::new(tails, Arc::clone(&self.leftovers), limits)
    }

    /// What of them a room's history needs.
    fn pending(&self, topology: &Arc<Topology>) -> Pending {
        let first = self.recovered.next_number;
        let shards = self.progress.iter().map(|progress| (Arc::clone(progress), first)).collect();
        Pending::new(self.place.directory(), Arc::clone(topology), shards, Arc::clone(&self.leftovers))
    }

    /// The journal of one shard, unless messages are not journalled.
    fn of_shard(&self, config: &Config, shard: usize) -> Option<(Files, Appender)> {
        if !matches!(config.durability, Durability::Sync | Durability::Journal) {
            return None;
        }
        let rules = appender::Rules { shard: shard as u32, ..self.rules };
        let progress = Arc::clone(&self.progress[shard]);
        let Recovered { next_number, next_sequence, .. } = self.recovered;
        let appender = Appender::new(rules, progress, next_number, next_sequence);
        let directory = self.place.directory().to_owned();
        Some((Files { directory, shard: rules.shard, segment_bytes: rules.segment_bytes }, appender))
    }

    /// Removes the files of this run that nobody needs any more, once all threads have ended.
    fn sweep(&self) {
        for (shard, progress) in (0..).zip(&self.progress) {
            if let Err(error) = self.place.sweep(shard, self.recovered.next_number, progress) {
                tracing::warn!(%error, "a file of the journal that nobody needs cannot be removed; the next start looks at it again");
            }
        }
    }
}

/// The segments of a shard: as large as configured, or as small as needed for each shard to have enough of them.
fn journal_rules(config: &Config, shards: usize) -> Result<appender::Rules, Failure> {
    let of_shard = config.journal_bytes_max / shards as u64;
    let largest = of_shard / u64::from(appender::SEGMENTS_MIN);
    let segment_bytes = u64::from(config.journal_segment_bytes).min(largest) / 4096 * 4096;
    let record_bytes_max = encoded_len(JOURNAL_NAME_BYTES_MAX, config.message_bytes_max);
    let least = appender::segment_bytes_min(record_bytes_max) as u64;
    if segment_bytes < least {
        return Err(Failure::unusable(format!(
            "the journal's files are too small for messages of {} bytes: with {shards} shards journal_bytes_max must be at \
             least {}, and journal_segment_bytes at least {least}",
            config.message_bytes_max,
            (least + 4096) * u64::from(appender::SEGMENTS_MIN) * shards as u64,
        )));
    }
    Ok(appender::Rules {
        shard: 0,
        segment_bytes: segment_bytes as u32,
        segments_max: u32::try_from(of_shard / segment_bytes).unwrap_or(u32::MAX),
        record_bytes_max,
        sync: config.durability == Durability::Sync,
    })
}

/// Where the writer's news goes.
struct WriterOutlets {
    shards: Vec<Postbox<Mail>>,
    topology: Arc<Topology>,
    dead_letters: DeadLetters,
    place: Arc<Place>,
}

impl Outlets for WriterOutlets {
    fn settle(&mut self, shard: usize, settled: Settled) {
        // A shard that is gone needs no answer, and one whose mailbox is full reads it without waiting for us.
        let _ = self.shards[shard].post_blocking(Mail::Settled(settled));
    }

    fn refused(&mut self, room: RoomId, sender: UserId) {
        let _ = self.shards[self.topology.shard_of(room)].post_blocking(Mail::Refused(room, sender));
    }

    fn bury(&mut self, letters: &[(&Record<'_>, &str)]) -> io::Result<()> {
        self.dead_letters.append(letters).map(|_| ())
    }

    fn keep_aside(&mut self, damage: &Damage) -> io::Result<()> {
        recovery::keep_bytes_aside(&self.place, &damage.path, damage.offset, &damage.bytes).map_err(io::Error::other)
    }
}

fn patience(config: &Config) -> Patience {
    Patience {
        head: config.head_timeout,
        ask: 2 * config.auth_timeout,
        ping: config.ping_interval,
        close: config.close_timeout,
        settle: config.save_timeout,
    }
}

fn rules(config: &Config, shards: usize) -> Rules {
    Rules {
        message_chars_max: config.message_chars_max,
        message_bytes_max: config.message_bytes_max,
        lag_bytes_max: config.lag_bytes_max,
        message_period: match config.messages_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_secs(1) / rate,
        },
        message_burst: config.message_burst,
        errors_max: config.errors_max,
        unsettled_max: config.writer_queue_rows.div_ceil(shards),
        unsettled_bytes_max: config.writer_queue_bytes.div_ceil(shards),
        origins: config.origins.clone(),
        lookup_cache: config.auth_cache,
    }
}

/// Starts the writer, and waits until it has its database.
async fn start_writer(
    config: &Config,
    turns: Mailbox<Box<Turn>>,
    backlog: Backlog,
    outlets: WriterOutlets,
    counters: &Arc<Counters>,
    fault: &mpsc::UnboundedSender<(String, String)>,
) -> Result<JoinHandle<()>, Failure> {
    let policy = writer::Policy {
        commit_rows_max: config.commit_rows_max,
        commit_delay: config.commit_delay,
        save_timeout: config.save_timeout,
        turns_are_broadcast: config.durability == Durability::None,
    };
    let (database, counters) = (config.database.clone(), Arc::clone(counters));
    let (opened, is_open) = oneshot::channel();
    let thread = spawn("writer".into(), fault, move || {
        control_runtime().map_err(|failure| failure.to_string())?.block_on(async {
            let store = match Writer::open(&database).await {
                Ok(store) => store,
                Err(error) => {
                    let _ = opened.send(Err(Failure::unusable(error.to_string())));
                    return Ok(());
                }
            };
            let _ = opened.send(Ok(()));
            finished(writer::Writer::new(store, policy, turns, backlog, outlets, counters).run().await)
        })
    })?;
    is_open.await.unwrap_or_else(|_| Err(Failure::failed("the writer thread ended before it had its database")))?;
    Ok(thread)
}

/// What the writer's end means for the process's.
fn finished(unfinished: Unfinished) -> Result<(), String> {
    let Unfinished { in_doubt, lost, in_journal } = unfinished;
    if in_journal {
        tracing::warn!(
            "the database did not come back: the journal keeps what is not saved, and the next start saves it"
        );
    }
    match (in_doubt, lost) {
        (0, 0) => Ok(()),
        (messages, 0) => {
            Err(format!("the database did not come back, and {messages} messages may or may not be saved"))
        }
        (_, messages) => Err(format!(
            "{messages} messages that were broadcast are lost: neither the database nor the file of dead letters could be written"
        )),
    }
}

fn start_shard(
    shard: usize,
    config: &Config,
    topology: &Arc<Topology>,
    setup: Setup<Mail>,
    posts: Posts,
    journals: &Journals,
    fault: &mpsc::UnboundedSender<(String, String)>,
) -> Result<JoinHandle<()>, Failure> {
    let (rules, topology) = (rules(config, topology.shards()), Arc::clone(topology));
    let (durability, newest) = (config.durability, journals.recovered.newest);
    let journal = journals.of_shard(config, shard);
    spawn(format!("shard-{shard}"), fault, move || {
        topology::pin(topology.cpu_of(shard));
        let counters = Arc::clone(&setup.counters);
        let posts = Rc::new(posts);
        let keep = match journal {
            Some((files, appender)) => {
                Keep::Journal(Journal::new(files, appender, bells(&posts, shard), Arc::clone(&counters)))
            }
            None if durability == Durability::None => Keep::Memory,
            None => Keep::Writer,
        };
        // What an earlier run broadcast last may be of a clock that was ahead of this one's.
        let stamper = newest.map_or_else(Stamper::new, Stamper::after);
        let chat = Chat::new(shard, topology, rules, posts, keep, stamper, counters);
        shard::run(setup, chat).map_err(|error| error.to_string())
    })
}

/// They do not keep the mailboxes open: an operation on the journal may outlive its shard.
fn bells(posts: &Rc<Posts>, shard: usize) -> Bells {
    let (own, writer) = (Rc::downgrade(posts), Rc::downgrade(posts));
    Bells {
        news: Box::new(move || own.upgrade().iter().for_each(|posts| posts.shards[shard].ring())),
        held: Box::new(move || writer.upgrade().iter().for_each(|posts| posts.writer.ring())),
    }
}

/// Starts a named thread; if it fails or panics, the control thread hears of it.
fn spawn(
    name: String,
    fault: &mpsc::UnboundedSender<(String, String)>,
    body: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<()>, Failure> {
    let (fault, label) = (fault.clone(), name.clone());
    let guarded = move || {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        if let Err(error) = ended.unwrap_or_else(|_| Err("it panicked".into())) {
            let _ = fault.send((label, error));
        }
    };
    let thread = thread::Builder::new().name(name.clone()).spawn(guarded);
    thread.map_err(|error| Failure::failed(format!("the thread {name} cannot be started: {error}")))
}

impl Control {
    fn answer(&self, question: Question) {
        match question {
            Question::Http(handed_over) => self.http.accept(handed_over),
            Question::Admit { shard, admittance, token } => {
                let post = self.shards[shard].clone();
                if let Some(admission) = self.auth.known(&token, admittance.room()) {
                    return tell(&post, Mail::Admitted(admittance, admission));
                }
                let auth = self.auth.clone();
                tokio::spawn(async move {
                    let admission = auth.admit(Some(token), admittance.room()).await;
                    tell(&post, Mail::Admitted(admittance, admission));
                });
            }
            Question::Receiver { shard, conn, room, user } => {
                let (auth, post) = (self.auth.clone(), self.shards[shard].clone());
                tokio::spawn(async move {
                    let is_member = auth.is_member(room, user).await.ok();
                    tell(&post, Mail::Receiver(conn, user, is_member));
                });
            }
        }
    }

    fn drain(&mut self, lasts: Duration) {
        self.is_draining = true;
        tracing::info!(
            seconds = lasts.as_secs(),
            "stopping: no new connections, and every client is asked to reconnect"
        );
        for shard in &self.shards {
            tell(shard, Mail::Drain(lasts));
        }
    }

    /// The shards are gone; waits for the writer to commit what they left it.
    async fn end(self) -> Result<(), Failure> {
        let Control { threads, mut faults, shards, journals, .. } = self;
        drop(shards);
        // Not on the runtime's blocking threads: the runtime would wait for those also when a second signal comes.
        let (joined, are_joined) = oneshot::channel();
        thread::spawn(move || {
            threads.into_iter().for_each(|thread| drop(thread.join()));
            let _ = joined.send(());
        });
        let _ = are_joined.await;
        journals.sweep();
        match faults.try_recv() {
            Ok((thread, error)) => Err(Failure::failed(format!("{thread} failed while the server stopped: {error}"))),
            Err(_) => Ok(()),
        }
    }
}

/// A shard reads its mailbox without waiting for anyone, so there is room soon; one that has ended needs no letters.
fn tell(shard: &Postbox<Mail>, mail: Mail) {
    let _ = shard.post_blocking(mail);
}

fn summarise(counters: &[Arc<Counters>]) {
    let sums = metrics::sum(counters.iter().map(|counters| &**counters));
    let text: Vec<String> =
        sums.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    tracing::info!("stopped: {}", text.join(", "));
}

/// What HTTP asks of the rest.
#[derive(Clone)]
struct Rooms {
    auth: Auth<Reader>,
    memory: Memory,
    pending: Arc<Pending>,
    counters: Arc<Counters>,
}

impl http::Rooms for Rooms {
    async fn admit(&self, token: Option<Token>, room: RoomId) -> Admission {
        self.auth.admit(token, room).await
    }

    async fn history(&self, room: RoomId, before: Option<Uuid>, limit: u16) -> History {
        match history::read(self.auth.directory(), &self.memory, &self.pending, room, before, limit).await {
            Ok(Some(messages)) => History::Messages(messages),
            Ok(None) => History::UnknownMessage,
            Err(unread) => {
                self.counters.histories_failed.up();
                let failed = self.counters.histories_failed.get();
                // One line for an outage that many notice: the first, the second, the fourth …
                if failed.is_power_of_two() {
                    tracing::warn!(reason = %unread, failed, "a room's history cannot be read; whoever asks is told to come back");
                }
                History::Unavailable
            }
        }
    }
}

/// What the shards have broadcast and only memory has yet.
#[derive(Clone)]
struct Memory {
    /// None where what is broadcast is in the database or in a journal.
    shards: Vec<Postbox<Mail>>,
    topology: Arc<Topology>,
    counters: Arc<Counters>,
}

impl history::Memory for Memory {
    async fn unsaved(&self, room: RoomId) -> Result<Vec<Saved>, Unread> {
        let Some(shard) = self.shards.get(self.topology.shard_of(room)) else { return Ok(Vec::new()) };
        let (reply, answer) = oneshot::channel();
        if shard.post(Mail::Unsaved(reply)).is_err() {
            self.counters.mailbox_full.up();
            return Err(Unread::Shard);
        }
        let turns = answer.await.map_err(|_| Unread::Shard)?;
        // All rooms' messages are looked through: elsewhere, for they may be many.
        let of_room = spawn_blocking(move || {
            let records = turns.iter().flat_map(|records| decode_all(records));
            records.filter(|record| record.row.room == room).map(|record| record.saved()).collect()
        });
        of_room.await.map_err(|_| Unread::Shard)
    }
}
