//! A shard: one core's world. One pinned thread, one ring, its own listener and connections; nothing in it is shared, so
//! nothing in it is locked.
//!
//! ```text
//!           mailbox    completions    clock
//!               \           |           /
//!   a turn:   letters -> bytes, sends -> deadlines -> the service's end of turn -> everything into the kernel at once
//! ```
//!
//! [`Shard`] runs the turns. What happens on the connections is here and in [`conn`]; what is said on them is its
//! [`Service`]'s affair: [`chat`], or the echo of `examples/echo.rs`.

pub mod accept;
pub mod chat;
pub mod conn;
pub mod journal;
pub mod mailbox;
pub mod occupancy;
pub mod passage;
pub mod replica;
pub mod ring;
pub mod room;

use std::{
    future::poll_fn,
    io,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use socket2::Socket;
use tokio::time::{Interval, MissedTickBehavior};

use self::{
    accept::Acceptor,
    conn::{Arrived, ConnId, Conns, Patience},
    mailbox::{Letter, Mailbox},
    occupancy::Occupancy,
    ring::{Completions, Kind, Pool, Received, Ticket},
};
use crate::{
    close::Close,
    limits::{COMPLETION_ENTRIES, HEAD_BYTES_MAX, RING_ENTRIES},
    memory,
    metrics::Counters,
    ws::{
        encode,
        frame::{Event, Limits},
        handshake::{self, Head, Refusal, Request},
    },
};

/// A message of a client, whole.
pub enum Message<'a> {
    /// Text, checked to be UTF-8; mutable, so that it can be parsed in place.
    Text(&'a mut [u8]),
    /// Binary.
    Binary(&'a mut [u8]),
}

/// What a shard does with its connections.
///
/// Every call is made on the shard's thread, inside a turn, and must not block.
pub trait Service {
    /// What other threads send to this shard.
    type Mail: Send + 'static;
    /// What the service keeps of an open connection.
    type Peer;

    /// What messages it takes.
    fn limits(&self) -> Limits;

    /// A client asks for a WebSocket connection. The service answers now or later with [`Conns::open`],
    /// [`Conns::open_and_close`], [`Conns::refuse`] or [`Conns::take`].
    fn upgrade(&mut self, conns: &mut Conns<Self::Peer>, id: ConnId, request: &Request);

    /// A client sent another HTTP request, for this target; its bytes are what [`Conns::take`] hands out.
    fn http(&mut self, conns: &mut Conns<Self::Peer>, id: ConnId, target: &str);

    /// A letter of another thread.
    fn mail(&mut self, conns: &mut Conns<Self::Peer>, mail: Self::Mail) -> Mailed;

    /// A message of an open connection.
    fn message(&mut self, conns: &mut Conns<Self::Peer>, id: ConnId, message: Message<'_>);

    /// Everything that was sent to this connection is out: it may be sent more.
    fn listens(&mut self, conns: &mut Conns<Self::Peer>, id: ConnId);

    /// An open connection ended, or begins to.
    fn departed(&mut self, peer: Self::Peer);

    /// The turn's letters and bytes were all looked at.
    fn turn_ends(&mut self, conns: &mut Conns<Self::Peer>);

    /// A quarter of a second has passed.
    fn tick(&mut self) {}

    /// A client of this connection still waits for something that it was promised.
    fn owes(&self, peer: &Self::Peer) -> bool;

    /// Nothing is under way that must end before the shard may.
    fn is_idle(&self) -> bool;
}

/// What a letter means for the shard itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mailed {
    /// Nothing.
    Done,
    /// Stop accepting, close every connection with [`Close::Restart`], spread over this time, and end.
    Drain(Duration),
}

/// What a shard is built from.
pub struct Setup<M> {
    /// A bound, listening socket.
    pub listener: Socket,
    /// What other threads send.
    pub mailbox: Mailbox<M>,
    /// How many connections to be ready for; there may be more.
    pub expected: usize,
    /// How long things may take.
    pub patience: Patience,
    /// The count of all shards' connections.
    pub occupancy: Arc<Occupancy>,
    /// This shard's counters.
    pub counters: Arc<Counters>,
}

/// Runs a shard on the calling thread until it was told to drain and has done so.
pub fn run<S: Service + 'static>(setup: Setup<S::Mail>, service: S) -> io::Result<()> {
    // Declared before the runtime, so dropped after it: the kernel knows the pool's addresses as long as the ring lives.
    let pool = Pool::new();
    let runtime =
        tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES).uring_builder(&ring_builder()))?;
    let ended = runtime.block_on(async {
        // Spawned, not awaited here: the runtime wakes a spawned task without a system call.
        tokio_uring::spawn(Shard::new(setup, service, Rc::clone(&pool)).run()).await
    });
    if !matches!(ended, Ok(Leftovers::None)) {
        // The runtime would free what operations point at before it has called them off. Better that the ring, and all that
        // is in the kernel's hands, lives as long as the process, which ends soon.
        std::mem::forget((runtime, pool));
    }
    ended.map(|_| ()).map_err(|_| io::Error::other("the shard panicked"))
}

/// What a shard that ended left in the kernel's hands.
enum Leftovers {
    None,
    Operations,
}

/// The ring's flags: one thread submits, and completions are run when it next enters the kernel (Linux 6.0).
pub fn ring_builder() -> io_uring::Builder {
    let mut builder = tokio_uring::uring_builder();
    builder.setup_cqsize(COMPLETION_ENTRIES).setup_coop_taskrun().setup_single_issuer().setup_taskrun_flag();
    builder
}

struct Shard<S: Service> {
    service: S,
    conns: Conns<S::Peer>,
    acceptor: Acceptor,
    mailbox: Mailbox<S::Mail>,
    counters: Arc<Counters>,
    began: Instant,
    calm: Calm,
    drain: Option<Drain>,
}

/// Notices that a busy time is over, to give back the memory that only it needed.
#[derive(Default)]
struct Calm {
    turns: u64,
    ticks_quiet: u32,
}

impl Calm {
    /// Turns between two ticks, above which a shard has better things to do.
    const TURNS_QUIET: u64 = 100;
    /// Quiet ticks that make a calm: two seconds.
    const TICKS: u32 = 8;

    /// Once a tick. True once in every calm.
    fn begins(&mut self, turns: u64) -> bool {
        let is_quiet = turns - self.turns <= Self::TURNS_QUIET;
        self.turns = turns;
        self.ticks_quiet = if is_quiet { self.ticks_quiet.saturating_add(1) } else { 0 };
        self.ticks_quiet == Self::TICKS
    }
}

/// The end of a shard, spread over time so that the clients do not all come back at once.
struct Drain {
    began: Instant,
    lasts: Duration,
    queue: Vec<ConnId>,
    planned: usize,
}

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);

impl<S: Service> Shard<S> {
    fn new(setup: Setup<S::Mail>, service: S, pool: Rc<Pool>) -> Shard<S> {
        // The buffers are offered before anything can ask for one.
        pool.provide();
        Shard {
            service,
            acceptor: Acceptor::new(setup.listener, Arc::clone(&setup.occupancy), Arc::clone(&setup.counters)),
            conns: Conns::new(setup.expected, pool, setup.patience, setup.occupancy, Arc::clone(&setup.counters)),
            mailbox: setup.mailbox,
            counters: setup.counters,
            began: Instant::now(),
            calm: Calm::default(),
            drain: None,
        }
    }

    async fn run(mut self) -> Leftovers {
        let mut completed = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_over() {
            let ticked = self.wait(&mut completed, &mut ticks).await;
            if ticked {
                self.conns.set_clock(self.began.elapsed().as_secs() as u32);
            }
            self.read_mail();
            for ticket in completed.drain(..) {
                self.complete(ticket);
            }
            if ticked {
                self.tick();
            }
            self.end_turn();
        }
        let is_done = self.conns.is_empty() && self.acceptor.is_done() && self.service.is_idle();
        if is_done { Leftovers::None } else { Leftovers::Operations }
    }

    /// Waits until anything happened; says if the clock did. Cancel-safe: what it takes, it hands over at once.
    async fn wait(&self, completed: &mut Vec<Ticket>, ticks: &mut Interval) -> bool {
        let mut notice = pin!(self.mailbox.notice());
        poll_fn(|context| {
            let completions = Completions::poll_turn(completed, context);
            let letters = notice.as_mut().poll(context);
            let ticked = ticks.poll_tick(context).is_ready();
            match ticked || completions.is_ready() || letters.is_ready() {
                true => std::task::Poll::Ready(ticked),
                false => std::task::Poll::Pending,
            }
        })
        .await
    }

    /// What is there when the turn begins: what comes meanwhile is the next one's, or other shards that post without end would
    /// keep this one from ending its turn. Whoever posts then also rings.
    fn read_mail(&mut self) {
        for _ in 0..self.mailbox.len() {
            let Letter::Is(mail) = self.mailbox.read() else { return };
            if let Mailed::Drain(lasts) = self.service.mail(&mut self.conns, mail) {
                self.begin_drain(lasts);
            }
        }
    }

    fn complete(&mut self, ticket: Ticket) {
        let index = ticket.index as usize;
        match ticket.kind {
            Kind::Receive => match self.conns.received(index) {
                Arrived::Head(id, bytes) => self.read_head(id, bytes),
                Arrived::Frames(id, mut bytes) => self.read_frames(id, &mut bytes),
                Arrived::Nothing => {}
            },
            Kind::Send => {
                if let Some(id) = self.conns.sent(index) {
                    self.service.listens(&mut self.conns, id);
                }
            }
            Kind::Accept => self.accept(index),
            Kind::Provide => self.conns.provided(index),
        }
    }

    fn accept(&mut self, index: usize) {
        match self.acceptor.accepted(index) {
            None => {}
            Some(Ok(socket)) => {
                self.conns.accept(socket);
                self.acceptor.arm(index);
            }
            Some(Err(error)) => {
                if self.counters.accepts_failed.get().is_power_of_two() || self.counters.accepts_failed.get() == 0 {
                    tracing::warn!(%error, "cannot accept a connection; raise the open-file limit (ulimit -n) if it says so");
                }
                self.counters.accepts_failed.up();
            }
        }
    }

    fn read_head(&mut self, id: ConnId, received: Received) {
        let mut head = self.conns.take_stash(id);
        if head.is_empty() {
            // All of it came at once, as it mostly does: parsed where it lies.
            return self.parse_head(id, &received);
        }
        head.extend_from_slice(&received);
        drop(received);
        self.parse_head(id, &head);
    }

    fn parse_head(&mut self, id: ConnId, bytes: &[u8]) {
        match handshake::parse(bytes, HEAD_BYTES_MAX) {
            Head::Incomplete => self.conns.keep_head(id, bytes.to_vec()),
            Head::Bad(refusal) => self.conns.refuse(id, refusal),
            _ if self.drain.is_some() => self.conns.refuse(id, Refusal::Full),
            Head::Http { target, .. } => {
                self.conns.asked(id, bytes, 0);
                self.service.http(&mut self.conns, id, target);
            }
            Head::Upgrade { request, len } => {
                self.conns.asked(id, bytes, len);
                self.service.upgrade(&mut self.conns, id, &request);
            }
        }
    }

    fn read_frames(&mut self, id: ConnId, bytes: &mut [u8]) {
        let Some(mut decoder) = self.conns.lend_decoder(id) else { return };
        let limits = self.service.limits();
        let mut at = 0;
        while self.conns.is_heard(id) {
            match decoder.decode(&mut bytes[at..], &limits) {
                Ok((used, Some(event))) => {
                    at += used;
                    self.heard(id, event);
                }
                Ok((_, None)) => break,
                Err(offence) => {
                    self.conns.offended(id, offence.close());
                    break;
                }
            }
        }
        let left = if self.conns.is_heard(id) || self.conns.peer(id).is_none() { bytes.len() } else { at };
        self.conns.return_decoder(id, decoder, &bytes[left..]);
    }

    fn heard(&mut self, id: ConnId, event: Event<'_>) {
        match event {
            Event::Ping(payload) => self.conns.say(id, |outbox| encode::pong(outbox, payload)),
            Event::Pong(_) => {}
            Event::Close(code, _) => self.conns.peer_closed(id, code),
            // After the server's own close frame a message is only looked at to find the peer's close frame behind it.
            _ if self.conns.peer(id).is_none() => {}
            Event::Text(text) => self.service.message(&mut self.conns, id, Message::Text(text)),
            Event::Binary(bytes) => self.service.message(&mut self.conns, id, Message::Binary(bytes)),
        }
    }

    fn end_turn(&mut self) {
        self.counters.turns.up();
        for id in self.conns.take_stashed() {
            let mut bytes = self.conns.take_stash(id);
            self.read_frames(id, &mut bytes);
        }
        self.bid_farewell();
        self.service.turn_ends(&mut self.conns);
        self.conns.turn_ends();
        self.bid_farewell();
        self.acceptor.turn_ends();
    }

    fn bid_farewell(&mut self) {
        for peer in self.conns.take_departed() {
            self.service.departed(peer);
        }
    }

    fn tick(&mut self) {
        self.acceptor.rearm();
        self.service.tick();
        if self.calm.begins(self.counters.turns.get()) {
            self.conns.give_back();
            memory::give_back();
        }
        self.conns.tick();
        self.drain_some();
    }

    // ---- The end ----------------------------------------------------------------------------------------------------

    fn begin_drain(&mut self, lasts: Duration) {
        if self.drain.is_some() {
            return;
        }
        self.acceptor.close();
        self.conns.turn_away();
        let queue = self.conns.ids();
        self.drain = Some(Drain { began: Instant::now(), lasts, planned: queue.len(), queue });
        self.drain_some();
    }

    /// Closes as many connections as the time that has passed asks for. One that still waits to see its own message is
    /// left for later, until the time is over.
    fn drain_some(&mut self) {
        let Some(drain) = &mut self.drain else { return };
        let passed = drain.began.elapsed();
        let last = passed >= drain.lasts;
        let share = if last { 1.0 } else { passed.as_secs_f64() / drain.lasts.as_secs_f64() };
        let target = (drain.planned as f64 * (1.0 - share)) as usize;
        let mut later = Vec::new();
        while drain.queue.len() + later.len() > target
            && let Some(id) = drain.queue.pop()
        {
            match self.conns.peer(id) {
                Some(peer) if !last && self.service.owes(peer) => later.push(id),
                _ => self.conns.close(id, Close::Restart),
            }
        }
        drain.queue.splice(0..0, later);
        if passed >= drain.lasts + self.conns.patience().close {
            self.conns.abandon();
        }
    }

    fn is_over(&self) -> bool {
        let Some(drain) = &self.drain else { return false };
        let patience = self.conns.patience();
        let out_of_time = drain.began.elapsed() >= drain.lasts + patience.close + patience.settle;
        out_of_time || self.acceptor.is_done() && self.conns.is_empty() && self.service.is_idle()
    }
}
