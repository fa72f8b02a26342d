//! One server: its threads, started in order and ended in order.
//!
//! In: a checked [`Config`]. Out: a listening address, then, after a signal, an orderly end. The calling thread becomes
//! the *control* thread: look-ups, HTTP, signals.
//!
//! ```text
//!   start: database, address -> writer -> shards -> "listening"
//!   end:   signal -> shards drain (1012) -> nobody can post to the writer -> it commits the rest -> done
//! ```

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};
use uuid::Uuid;

use crate::{
    auth::{self, Admission, Auth},
    config::Config,
    failure::Failure,
    history,
    http::{self, History, Http},
    identity::{RoomId, Token},
    journal::pending::Pending,
    limits::MAILBOX_MESSAGES_MAX,
    memory,
    metrics::{self, Counters},
    shard::{
        self, Setup, accept,
        chat::{Chat, Mail, Posts, Question, Rules},
        conn::Patience,
        mailbox::{Mailbox, Postbox, mailbox},
        occupancy::Occupancy,
    },
    store::{Reader, Writer},
    topology::{self, Topology},
    writer::{self, LeftInDoubt, Turn},
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
    is_draining: bool,
}

async fn start(config: &Config) -> Result<(Control, Running), Failure> {
    let topology = Arc::new(Topology::new(&topology::cpus_allowed(), config.shards));
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
    let mut threads = vec![start_writer(config, turns, &shard_posts, &counters[1], &fault).await?];
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
        threads.push(start_shard(shard, config, &topology, setup, posts, &fault)?);
    }
    let policy = auth::Policy {
        cache: config.auth_cache,
        outage: config.auth_outage,
        cache_entries: config.auth_cache_entries,
        timeout: config.auth_timeout,
    };
    let auth = Auth::new(reader, policy, Arc::clone(&counters[0]));
    let journals = Vec::new();
    let pending = Pending::new(&config.data_dir.join("journal"), Arc::clone(&topology), journals, Arc::default());
    let rooms = Rooms { auth: auth.clone(), pending: Arc::new(pending), counters: Arc::clone(&counters[0]) };
    let http = Http::new(rooms, Arc::clone(&counters[0]));
    let control = Control { questions, shards: shard_posts, auth, http, threads, faults, is_draining: false };
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
        message_period: match config.messages_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_secs(1) / rate,
        },
        message_burst: config.message_burst,
        errors_max: config.errors_max,
        unsettled_max: config.writer_queue_rows.div_ceil(shards),
        unsettled_bytes_max: config.writer_queue_bytes.div_ceil(shards),
        origins: config.origins.clone(),
        receiver_cache: config.auth_cache,
    }
}

/// Starts the writer, and waits until it has its database.
async fn start_writer(
    config: &Config,
    turns: Mailbox<Box<Turn>>,
    shards: &[Postbox<Mail>],
    counters: &Arc<Counters>,
    fault: &mpsc::UnboundedSender<(String, String)>,
) -> Result<JoinHandle<()>, Failure> {
    let policy = writer::Policy {
        commit_rows_max: config.commit_rows_max,
        commit_delay: config.commit_delay,
        save_timeout: config.save_timeout,
    };
    let (database, shards, counters) = (config.database.clone(), shards.to_vec(), Arc::clone(counters));
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
            // A shard that is gone needs no answer, and one whose mailbox is full reads it without waiting for us.
            let settle = |shard: usize, settled| drop(shards[shard].post_blocking(Mail::Settled(settled)));
            let left = writer::Writer::new(store, policy, turns, settle, counters).run().await;
            left.map_err(|LeftInDoubt(messages)| {
                format!("the database did not come back, and {messages} messages may or may not be saved")
            })
        })
    })?;
    is_open.await.unwrap_or_else(|_| Err(Failure::failed("the writer thread ended before it had its database")))?;
    Ok(thread)
}

fn start_shard(
    shard: usize,
    config: &Config,
    topology: &Arc<Topology>,
    setup: Setup<Mail>,
    posts: Posts,
    fault: &mpsc::UnboundedSender<(String, String)>,
) -> Result<JoinHandle<()>, Failure> {
    let (rules, topology) = (rules(config, topology.shards()), Arc::clone(topology));
    spawn(format!("shard-{shard}"), fault, move || {
        topology::pin(topology.cpu_of(shard));
        let counters = Arc::clone(&setup.counters);
        let chat = Chat::new(shard, topology, rules, posts, counters);
        shard::run(setup, chat).map_err(|error| error.to_string())
    })
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
        let Control { threads, mut faults, shards, .. } = self;
        drop(shards);
        // Not on the runtime's blocking threads: the runtime would wait for those also when a second signal comes.
        let (joined, are_joined) = oneshot::channel();
        thread::spawn(move || {
            threads.into_iter().for_each(|thread| drop(thread.join()));
            let _ = joined.send(());
        });
        let _ = are_joined.await;
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
    pending: Arc<Pending>,
    counters: Arc<Counters>,
}

impl http::Rooms for Rooms {
    async fn admit(&self, token: Option<Token>, room: RoomId) -> Admission {
        self.auth.admit(token, room).await
    }

    async fn history(&self, room: RoomId, before: Option<Uuid>, limit: u16) -> History {
        match history::read(self.auth.directory(), &self.pending, room, before, limit).await {
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
