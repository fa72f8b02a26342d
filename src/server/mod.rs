//! One server: its threads, started in order and ended in order.
//!
//! In: a checked [`Config`]. Out: a listening address, then, after a signal, an orderly end. The calling thread becomes
//! the *control* thread: look-ups, HTTP, signals.
//!
//! ```text
//!   start: journal, database, address -> writer -> shards -> "listening"; what the journal holds is saved meanwhile
//!   end:   signal -> shards drain (1012) -> nobody can post to the writer -> it commits the rest -> done
//! ```

mod journals;
mod rooms;

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
};

pub use self::journals::journal_rules;
use self::{
    journals::{Journals, WriterOutlets},
    rooms::{Memory, Rooms},
};
use crate::{
    auth::{self, Auth},
    config::{Config, Durability},
    dead_letters::DeadLetters,
    failure::Failure,
    http::Http,
    limits::MAILBOX_MESSAGES_MAX,
    memory,
    metrics::{self, Counters},
    scheduling,
    shard::{
        self, Setup, accept,
        chat::{Chat, Keep, Mail, Posts, Question, Rules},
        conn::Patience,
        journal::{Bells, Journal},
        mailbox::{Mailbox, Postbox, mailbox},
        occupancy::Occupancy,
    },
    stamp::Stamper,
    store::{Reader, Writer},
    topology::{self, Topology},
    writer::{self, Backlog, Turn, Unfinished},
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
    counters: Arc<Counters>,
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

    let occupancy = Occupancy::new(config.connections_max, config.handshakes_max);
    let occupancy = Arc::new(occupancy.within(config.sockets_max, topology.shards()));
    let outlets = WriterOutlets {
        shards: shard_posts.clone(),
        topology: Arc::clone(&topology),
        dead_letters: DeadLetters::open(&config.data_dir)?,
        place: Arc::clone(&journals.place),
        counters: Arc::clone(&counters[1]),
    };
    let mut threads = vec![
        start_writer(
            config,
            &rules(config, topology.shards()),
            turns,
            journals.backlog(config),
            outlets,
            &counters[1],
            &fault,
        )
        .await?,
    ];
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
    let control = Control {
        questions,
        shards: shard_posts,
        auth,
        http,
        threads,
        faults,
        journals,
        counters: Arc::clone(&counters[0]),
        is_draining: false,
    };
    Ok((control, Running { address, shards: topology.shards(), counters }))
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
        spill_members: config.spill_members,
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
    rules: &Rules,
    turns: Mailbox<Box<Turn>>,
    backlog: Backlog,
    outlets: WriterOutlets,
    counters: &Arc<Counters>,
    fault: &mpsc::UnboundedSender<(String, String)>,
) -> Result<JoinHandle<()>, Failure> {
    let policy = writer::Policy {
        commit_rows_max: config.commit_rows_max,
        commit_delay: config.commit_delay,
        rows_enough: rules.unsettled_max / 2,
        bytes_enough: rules.unsettled_bytes_max / 2,
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
            "not everything could be saved: the journal keeps what is not saved, and the next start saves it"
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
    let journal = journals.of_shard(shard);
    spawn(format!("shard-{shard}"), fault, move || {
        scheduling::pin(topology.cpu_of(shard));
        scheduling::run_promptly();
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
                    return tell(&post, Mail::Admitted(admittance, admission), &self.counters);
                }
                let (auth, counters) = (self.auth.clone(), Arc::clone(&self.counters));
                tokio::spawn(async move {
                    let admission = auth.admit(Some(token), admittance.room()).await;
                    tell(&post, Mail::Admitted(admittance, admission), &counters);
                });
            }
            Question::Receiver { shard, conn, room, user } => {
                let (auth, post, counters) =
                    (self.auth.clone(), self.shards[shard].clone(), Arc::clone(&self.counters));
                tokio::spawn(async move {
                    let is_member = auth.is_member(room, user).await.ok();
                    tell(&post, Mail::Receiver(conn, user, is_member), &counters);
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
            tell(shard, Mail::Drain(lasts), &self.counters);
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
fn tell(shard: &Postbox<Mail>, mail: Mail, counters: &Counters) {
    let _ = shard.post_blocking(mail, counters);
}

fn summarise(counters: &[Arc<Counters>]) {
    let sums = metrics::sum(counters.iter().map(|counters| &**counters));
    let text: Vec<String> =
        sums.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    tracing::info!("stopped: {}", text.join(", "));
}
