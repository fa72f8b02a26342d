//! The connections of one shard: bytes in, bytes out, heartbeats, deadlines and ends.
//!
//! In: completions of receives and sends, and what the shard's [`Service`](super::Service) asks for. Out: operations on the
//! ring. It knows WebSocket connections and their life; what the messages in them mean is the service's affair, which
//! keeps its own state of an open connection in `P`.
//!
//! ```text
//!  Head --request--> Asked --open--> Open --close--> Closing --peer's close--> Lingering --EOF--> gone
//!    \______refuse______/\____________ peer's close, offence, refusal ____________^
//! ```
//!
//! A connection has at most one receive and one send in flight. What the server has to say to one connection alone goes
//! through its outbox; a room's log is sent past it, by [`Conns::transmit`]. To end a connection its socket is shut down,
//! and its slot is freed once both operations have come back, so that no buffer is lost.

use std::{
    collections::VecDeque,
    net::Shutdown,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use slab::Slab;
use socket2::SockRef;

use super::{
    occupancy::Occupancy,
    passage::Passage,
    ring::{Outgoing, Pool, Receive, Received, Sending, Sends},
};
use crate::{
    close::Close,
    limits::OUTBOX_BYTES_MAX,
    metrics::Counters,
    ws::{encode, frame::Decoder, handshake::Refusal},
};

/// Nothing is due.
const NEVER: u32 = u32::MAX;

/// Names a connection of this shard, and stays unambiguous after its slot was used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(Default))]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    /// The connection's slot: unique among this shard's connections of one moment.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a request head to be complete.
    pub head: Duration,
    /// For whoever was asked about a request to answer; they have deadlines of their own, shorter than this.
    pub ask: Duration,
    /// Between two pings.
    pub ping: Duration,
    /// For the peer to answer a close frame and to end the connection.
    pub close: Duration,
    /// For the last messages to be saved when the server stops.
    pub settle: Duration,
}

enum Phase<P> {
    /// Its request head is not complete; the bytes so far are in the stash.
    Head,
    /// The service decides on its request; what came after the head is in the stash.
    Asked,
    /// A WebSocket connection.
    Open {
        /// What the service keeps of it.
        peer: P,
        /// The service wants no more messages of it for the moment.
        paused: bool,
    },
    /// The server sent a close frame and waits for the peer's.
    Closing,
    /// All is said: what is left to send goes out, then a FIN, and what still comes in is discarded until its end.
    Lingering {
        /// The FIN is out.
        shut: bool,
    },
    /// Shut down both ways; waits for its operations to come back.
    Dead,
}

/// A connection's slot. A hundred thousand of them are idle at a time, so it holds what an idle one needs, no more: what
/// is under way lies elsewhere.
struct Conn<P> {
    socket: OwnedFd,
    generation: u32,
    phase: Phase<P>,
    receive: Option<Receive>,
    sending: Option<Sending>,
    /// Second in which the peer was last heard of.
    heard: u32,
    decoder: Decoder,
    aside: Option<Box<Aside>>,
}

/// What waits on either side of a connection; mostly nothing does.
#[derive(Default)]
struct Aside {
    /// Bytes that came in and wait to be looked at.
    stash: Vec<u8>,
    /// Bytes that wait to be sent.
    outbox: BytesMut,
}

/// What a slot may take, with a service that keeps 48 bytes of a connection.
const SLOT_BYTES_MAX: usize = 112;

const _: () = assert!(size_of::<Option<Conn<[u64; 6]>>>() <= SLOT_BYTES_MAX);

impl<P> Conn<P> {
    fn stash(&self) -> &[u8] {
        self.aside.as_ref().map_or(&[], |aside| &aside.stash)
    }

    fn keep(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() || self.aside.is_some() {
            self.aside.get_or_insert_default().stash = bytes;
            self.tidy();
        }
    }

    fn outbox_len(&self) -> usize {
        self.aside.as_ref().map_or(0, |aside| aside.outbox.len())
    }

    fn outbox(&mut self) -> &mut BytesMut {
        &mut self.aside.get_or_insert_default().outbox
    }

    /// All of the outbox. Taken whole: a split buffer would keep its memory for as long as the connection idles.
    fn take_outbox(&mut self) -> Bytes {
        let outbox = self.aside.as_mut().map(|aside| std::mem::take(&mut aside.outbox)).unwrap_or_default();
        self.tidy();
        outbox.freeze()
    }

    /// An idle connection keeps nothing aside.
    fn tidy(&mut self) {
        self.aside.take_if(|aside| aside.stash.is_empty() && aside.outbox.is_empty());
    }
}

/// The connections of one shard.
pub struct Conns<P> {
    slots: Slab<Conn<P>>,
    /// By slot, the second of this shard's life at which something is due: by phase, a heartbeat or an end. Apart from the slots,
    /// because all of them are looked through once a second.
    due: Vec<u32>,
    sends: Sends,
    pool: Rc<Pool>,
    patience: Patience,
    counters: Arc<Counters>,
    generation: u32,
    /// Seconds since the shard began.
    now: u32,
    /// The second in which deadlines were looked at last.
    looked: u32,
    occupancy: Arc<Occupancy>,
    /// Left `Open`, and the service does not know yet.
    departed: Vec<P>,
    /// Have something in their outbox that was written in this turn.
    unsent: Vec<u32>,
    /// Found no buffer: to be asked again once there are some.
    starved: VecDeque<u32>,
    /// Were resumed or brought bytes with them: their stash is to be looked at.
    stashed: Vec<ConnId>,
    /// The server stops: nobody is let in any more.
    turns_away: bool,
}

/// A connection between two shards: [taken](Conns::take) from one, and not yet [adopted](Conns::adopt) by another.
pub struct Taken {
    /// Its socket.
    pub socket: OwnedFd,
    /// What was read after its head.
    pub early: Vec<u8>,
    /// Its being on the way.
    pub passage: Passage,
}

/// What a completed receive means for the shard.
pub enum Arrived {
    /// Bytes of a request head.
    Head(ConnId, Received),
    /// Bytes of frames.
    Frames(ConnId, Received),
    /// Nothing to do.
    Nothing,
}

impl<P> Conns<P> {
    /// No connections yet, and room for `expected` of them at once: the kernel gives memory as it is touched, and a slab
    /// that grew by doubling would touch it twice over.
    pub fn new(
        expected: usize,
        pool: Rc<Pool>,
        patience: Patience,
        occupancy: Arc<Occupancy>,
        counters: Arc<Counters>,
    ) -> Conns<P> {
        Conns {
            slots: Slab::with_capacity(expected),
            due: Vec::with_capacity(expected),
            sends: Sends::default(),
            pool,
            patience,
            counters,
            generation: 0,
            now: 0,
            looked: 0,
            occupancy,
            departed: Vec::new(),
            unsent: Vec::new(),
            starved: VecDeque::new(),
            stashed: Vec::new(),
            turns_away: false,
        }
    }

    /// Not one connection.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How long they may take.
    pub(super) fn patience(&self) -> &Patience {
        &self.patience
    }

    // ---- Beginnings -------------------------------------------------------------------------------------------------

    /// A socket that was just accepted. Refused at once when the server has all the connections it may have, or stops.
    pub fn accept(&mut self, socket: OwnedFd) {
        self.counters.accepted.up();
        let refusal = if self.turns_away { Some(Refusal::Full) } else { self.occupancy.refusal() };
        self.occupancy.enters();
        let id = self.insert(socket, Phase::Head, self.patience.head, Vec::new());
        match refusal {
            Some(refusal) => self.refuse(id, refusal),
            None => self.arm(id.index()),
        }
    }

    /// A connection that was [taken](Conns::take) after its request head was read: the service decides on it next. Turned away
    /// when the server stops: the other shard may not have known that yet.
    pub fn adopt(&mut self, taken: Taken) -> ConnId {
        let Taken { socket, early, passage } = taken;
        passage.end();
        let id = self.insert(socket, Phase::Asked, self.patience.ask, early);
        if self.turns_away {
            self.refuse(id, Refusal::Full);
        }
        id
    }

    fn insert(&mut self, socket: OwnedFd, phase: Phase<P>, wait: Duration, stash: Vec<u8>) -> ConnId {
        let due = self.after(wait);
        self.generation = self.generation.wrapping_add(1);
        let aside = (!stash.is_empty()).then(|| Box::new(Aside { stash, outbox: BytesMut::new() }));
        let index = self.slots.insert(Conn {
            socket,
            generation: self.generation,
            phase,
            receive: None,
            sending: None,
            heard: self.now,
            decoder: Decoder::new(),
            aside,
        });
        if index == self.due.len() {
            self.due.push(NEVER);
        }
        self.due[index] = due;
        ConnId { index: index as u32, generation: self.generation }
    }

    fn remove(&mut self, index: usize) -> Conn<P> {
        self.due[index] = NEVER;
        self.slots.remove(index)
    }

    /// The request head is complete and took `len` of the bytes that came; the rest stays for later.
    pub(super) fn asked(&mut self, id: ConnId, head: &[u8], len: usize) {
        let due = self.after(self.patience.ask);
        let conn = &mut self.slots[id.index()];
        conn.keep(head[len..].to_vec());
        conn.phase = Phase::Asked;
        self.due[id.index()] = due;
    }

    /// The head is still incomplete with these bytes.
    pub(super) fn keep_head(&mut self, id: ConnId, bytes: Vec<u8>) {
        self.slots[id.index()].keep(bytes);
        self.arm(id.index());
    }

    /// Bytes kept from earlier.
    pub(super) fn take_stash(&mut self, id: ConnId) -> Vec<u8> {
        let Some(conn) = self.get_mut(id) else { return Vec::new() };
        let stash = conn.aside.as_mut().map(|aside| std::mem::take(&mut aside.stash)).unwrap_or_default();
        conn.tidy();
        stash
    }

    /// Takes a connection that was asked about out of this shard, until it is [adopted](Conns::adopt) or has
    /// [left](Passage::leave_the_shards) them all.
    pub fn take(&mut self, id: ConnId) -> Option<Taken> {
        let conn = self.get_mut(id).filter(|conn| matches!(conn.phase, Phase::Asked) && conn.receive.is_none())?;
        debug_assert!(conn.sending.is_none(), "nothing is sent before the request is answered");
        let early = self.take_stash(id);
        let conn = self.remove(id.index());
        let passage = Passage::new(&self.occupancy, &self.counters);
        Some(Taken { socket: conn.socket, early, passage })
    }

    /// The connection is open from now on: `greeting` is its handshake's answer and whatever comes first. Does nothing when
    /// the request was answered meanwhile.
    pub fn open(&mut self, id: ConnId, greeting: impl FnOnce(&mut BytesMut), peer: P) {
        let now = self.now;
        let Some(conn) = self.get_mut(id).filter(|conn| matches!(conn.phase, Phase::Asked)) else { return };
        greeting(conn.outbox());
        (conn.phase, conn.heard) = (Phase::Open { peer, paused: false }, now);
        let came_alone = conn.stash().is_empty();
        self.due[id.index()] = self.first_heartbeat(id);
        self.occupancy.answered();
        self.counters.opened.up();
        self.unsent.push(id.index);
        match came_alone {
            true => self.arm(id.index()),
            false => self.stashed.push(id),
        }
    }

    /// Answers the handshake only to close the connection: a close code reaches a client on an open socket alone. Does
    /// nothing when the request was answered meanwhile, as when the server stops.
    pub fn open_and_close(&mut self, id: ConnId, accept: &[u8], close: Close) {
        let Some(conn) = self.get_mut(id).filter(|conn| matches!(conn.phase, Phase::Asked)) else { return };
        conn.outbox().extend_from_slice(accept);
        self.occupancy.answered();
        self.slots[id.index()].phase = Phase::Closing;
        self.say_close(id, close);
    }

    /// Answers the request with something else than an upgrade, and ends the connection. Does nothing when the request was
    /// answered meanwhile.
    pub fn refuse(&mut self, id: ConnId, refusal: Refusal) {
        let Some(conn) = self.get_mut(id).filter(|conn| matches!(conn.phase, Phase::Head | Phase::Asked)) else {
            return;
        };
        conn.outbox().extend_from_slice(&refusal.response());
        self.occupancy.answered();
        self.counters.refused.up();
        self.counters.refused_as(refusal).up();
        self.linger(id.index());
    }

    // ---- What the service asks of an open connection ----------------------------------------------------------------

    fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn<P>> {
        self.slots.get_mut(id.index()).filter(|conn| conn.generation == id.generation)
    }

    /// The service's state of an open connection; `None` once it is ending.
    pub fn peer(&mut self, id: ConnId) -> Option<&mut P> {
        match &mut self.get_mut(id)?.phase {
            Phase::Open { peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// The request of this connection still waits for an answer.
    pub fn is_asking(&self, id: ConnId) -> bool {
        self.slots
            .get(id.index())
            .is_some_and(|conn| conn.generation == id.generation && matches!(conn.phase, Phase::Asked))
    }

    /// Says something to one open connection: `write` appends whole frames, which leave at the end of the turn.
    pub fn say(&mut self, id: ConnId, write: impl FnOnce(&mut BytesMut)) {
        if let Some(conn) = self.get_mut(id).filter(|conn| matches!(conn.phase, Phase::Open { .. })) {
            write(conn.outbox());
            self.unsent.push(id.index);
        }
    }

    /// The peer of an open connection with nothing in flight and nothing to be said first: it may be sent the log.
    pub fn listening(&mut self, id: ConnId) -> Option<&mut P> {
        let conn = self.get_mut(id)?;
        let is_silent = conn.sending.is_none() && conn.outbox_len() == 0;
        match &mut conn.phase {
            Phase::Open { peer, .. } if is_silent => Some(peer),
            _ => None,
        }
    }

    /// Sends to a connection that [listens](Conns::listening); the service hears of it when it listens again.
    pub fn transmit(&mut self, id: ConnId, outgoing: Outgoing) {
        let conn = &mut self.slots[id.index()];
        debug_assert!(conn.sending.is_none(), "one send at a time, or bytes would mix");
        conn.sending = Some(self.sends.submit(id.index, conn.socket.as_fd(), outgoing));
    }

    /// Takes no further messages of this connection until [`Conns::resume`].
    pub fn pause(&mut self, id: ConnId) {
        if let Some(Phase::Open { paused, .. }) = self.get_mut(id).map(|conn| &mut conn.phase) {
            *paused = true;
        }
    }

    /// Takes messages again, first those that came in meanwhile.
    pub fn resume(&mut self, id: ConnId) {
        if let Some(Phase::Open { paused: paused @ true, .. }) = self.get_mut(id).map(|conn| &mut conn.phase) {
            *paused = false;
            self.stashed.push(id);
        }
    }

    /// Closes an open connection: a close frame, the peer's answer, the end.
    pub fn close(&mut self, id: ConnId, close: Close) {
        if self.depart(id, Phase::Closing) {
            self.say_close(id, close);
        }
    }

    // ---- Bytes in ---------------------------------------------------------------------------------------------------

    /// A receive of slot `index` completed.
    pub(super) fn received(&mut self, index: usize) -> Arrived {
        let Some(conn) = self.slots.get_mut(index) else { return Arrived::Nothing };
        let Some(received) = conn.receive.as_mut().and_then(|receive| receive.finish(index as u32, &self.pool)) else {
            return Arrived::Nothing;
        };
        conn.receive = None;
        conn.heard = self.now;
        let id = ConnId { index: index as u32, generation: conn.generation };
        match received {
            _ if matches!(conn.phase, Phase::Dead) => self.bury(index),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.counters.buffers_short.up();
                self.starved.push_back(index as u32);
            }
            Err(_) => self.lost(id),
            Ok(bytes) if bytes.is_empty() => self.lost(id),
            Ok(bytes) => match conn.phase {
                Phase::Head => return Arrived::Head(id, bytes),
                Phase::Open { .. } | Phase::Closing => return Arrived::Frames(id, bytes),
                Phase::Lingering { .. } => self.arm(index),
                Phase::Asked | Phase::Dead => debug_assert!(false, "nobody asked for these bytes"),
            },
        }
        Arrived::Nothing
    }

    /// The decoder of a connection, lent to the shard while it looks at bytes.
    pub(super) fn lend_decoder(&mut self, id: ConnId) -> Option<Decoder> {
        self.get_mut(id).map(|conn| std::mem::take(&mut conn.decoder))
    }

    /// The decoder comes back, with the bytes that are left because the connection was paused meanwhile.
    pub(super) fn return_decoder(&mut self, id: ConnId, decoder: Decoder, left: &[u8]) {
        let Some(conn) = self.get_mut(id) else { return };
        conn.decoder = decoder;
        conn.keep(left.to_vec());
        self.arm(id.index());
    }

    /// Is the next frame of this connection to be looked at now?
    pub(super) fn is_heard(&self, id: ConnId) -> bool {
        self.slots.get(id.index()).is_some_and(|conn| {
            conn.generation == id.generation && matches!(conn.phase, Phase::Open { paused: false, .. } | Phase::Closing)
        })
    }

    /// Asks for the next bytes, unless the connection may not have any now.
    fn arm(&mut self, index: usize) {
        let conn = &mut self.slots[index];
        let wanted = match conn.phase {
            Phase::Asked | Phase::Dead => false,
            // A peer that makes the server talk and does not listen is not listened to either.
            Phase::Open { paused, .. } => !paused && conn.stash().is_empty() && conn.outbox_len() <= OUTBOX_BYTES_MAX,
            Phase::Head | Phase::Closing | Phase::Lingering { .. } => true,
        };
        if wanted && conn.receive.is_none() {
            conn.receive = Some(Receive::submit(index as u32, conn.socket.as_fd()));
        }
    }

    /// Connections whose stash is to be looked at now.
    pub(super) fn take_stashed(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.stashed)
    }

    // ---- Bytes out --------------------------------------------------------------------------------------------------

    /// A send of slot `index` completed. `Some`: the connection listens, and the service may send more.
    pub(super) fn sent(&mut self, index: usize) -> Option<ConnId> {
        let conn = self.slots.get_mut(index)?;
        let left = self.sends.finish(conn.sending?, index as u32)?;
        conn.sending = None;
        let id = ConnId { index: index as u32, generation: conn.generation };
        match left {
            _ if matches!(conn.phase, Phase::Dead) => self.bury(index),
            Err(_) => self.lost(id),
            Ok(left) if !left.is_empty() => self.transmit(id, left),
            Ok(_) => self.flush(index),
        }
        self.listening(id).is_some().then_some(id)
    }

    /// Sends the outbox, or, when nothing is left to send, does what waited for that.
    fn flush(&mut self, index: usize) {
        let Some(conn) = self.slots.get_mut(index).filter(|conn| conn.sending.is_none()) else { return };
        if matches!(conn.phase, Phase::Dead) {
            return;
        }
        if conn.outbox_len() > 0 {
            let outgoing = Outgoing::One(conn.take_outbox());
            conn.sending = Some(self.sends.submit(index as u32, conn.socket.as_fd(), outgoing));
        }
        match conn.phase {
            Phase::Lingering { shut: false } if conn.sending.is_none() => {
                conn.phase = Phase::Lingering { shut: true };
                let _ = SockRef::from(&conn.socket).shutdown(Shutdown::Write);
                self.arm(index);
            }
            _ => self.arm(index),
        }
    }

    /// The end of a turn: what was said goes out, buffers go back to the kernel, and those who found none ask again.
    pub(super) fn turn_ends(&mut self) {
        for index in std::mem::take(&mut self.unsent) {
            self.flush(index as usize);
        }
        self.pool.provide();
        // As many as there are buffers for: the rest would only find none again, and are asked in later turns.
        let fed = self.pool.available().min(self.starved.len());
        for index in self.starved.drain(..fed).collect::<Vec<_>>() {
            if self.slots.contains(index as usize) {
                self.arm(index as usize);
            }
        }
    }

    /// A buffer operation of slot `index` completed.
    pub(super) fn provided(&mut self, index: usize) {
        if let Err(error) = self.pool.provided(index as u32) {
            tracing::warn!(%error, "the kernel took no receive buffers; they are offered again");
        }
    }

    // ---- Ends -------------------------------------------------------------------------------------------------------

    /// The peer sent a close frame: it is echoed if it is the first, and the connection ends.
    pub(super) fn peer_closed(&mut self, id: ConnId, code: Option<u16>) {
        if self.depart(id, Phase::Closing) {
            self.counters.closed_by_peer.up();
            encode::close(self.slots[id.index()].outbox(), code, "");
        }
        self.linger(id.index());
    }

    /// The peer broke the protocol: it is told why, and nothing it still says is looked at.
    pub(super) fn offended(&mut self, id: ConnId, close: Close) {
        if self.depart(id, Phase::Closing) {
            self.say_close(id, close);
        }
        self.linger(id.index());
    }

    /// Takes the connection out of the service's hands. False if it was not in them.
    fn depart(&mut self, id: ConnId, next: Phase<P>) -> bool {
        let Some(conn) = self.get_mut(id).filter(|conn| matches!(conn.phase, Phase::Open { .. })) else {
            return false;
        };
        if let Phase::Open { peer, .. } = std::mem::replace(&mut conn.phase, next) {
            self.departed.push(peer);
        }
        true
    }

    fn say_close(&mut self, id: ConnId, close: Close) {
        let due = self.after(self.patience.close);
        self.counters.closed(close).up();
        let conn = &mut self.slots[id.index()];
        encode::close(conn.outbox(), Some(close.code()), close.reason());
        // What a paused peer had said after its message is of no use any more.
        conn.keep(Vec::new());
        self.due[id.index()] = due;
        self.unsent.push(id.index);
        self.arm(id.index());
    }

    /// Sends what is left, then ends the connection and waits for the peer to do so.
    fn linger(&mut self, index: usize) {
        let due = self.after(self.patience.close);
        let conn = &mut self.slots[index];
        conn.phase = Phase::Lingering { shut: false };
        conn.keep(Vec::new());
        self.due[index] = due;
        self.unsent.push(index as u32);
    }

    /// The peer is gone, or as good as gone.
    fn lost(&mut self, id: ConnId) {
        if self.depart(id, Phase::Dead) {
            self.counters.vanished.up();
        }
        self.bury(id.index());
    }

    /// Frees the slot as soon as no operation of it is in the kernel's hands.
    fn bury(&mut self, index: usize) {
        let conn = &mut self.slots[index];
        if matches!(conn.phase, Phase::Head | Phase::Asked) {
            self.occupancy.answered();
        }
        if conn.receive.is_none() && conn.sending.is_none() {
            self.remove(index);
            self.occupancy.leaves();
            return;
        }
        if !matches!(conn.phase, Phase::Dead) {
            let _ = SockRef::from(&conn.socket).shutdown(Shutdown::Both);
        }
        conn.phase = Phase::Dead;
        self.due[index] = NEVER;
    }

    /// Connections that ended since the last call, with what the service kept of them.
    pub(super) fn take_departed(&mut self) -> Vec<P> {
        std::mem::take(&mut self.departed)
    }

    // ---- Time -------------------------------------------------------------------------------------------------------

    fn after(&self, wait: Duration) -> u32 {
        // One more: the present second has partly gone by.
        self.now.saturating_add(wait.as_secs() as u32 + 1)
    }

    /// The shard is `now` seconds old. To be told before a turn's letters and bytes are looked at: what they begin, or who is heard
    /// of, would be overdue at once where the shard had stood still for a while.
    pub(super) fn set_clock(&mut self, now: u32) {
        self.now = now;
    }

    /// Does what is due.
    pub(super) fn tick(&mut self) {
        let now = self.now;
        if std::mem::replace(&mut self.looked, now) == now {
            return;
        }
        let due: Vec<usize> =
            self.due.iter().enumerate().filter(|(_, due)| **due <= now).map(|(index, _)| index).collect();
        for index in due {
            self.overdue(index);
        }
    }

    /// The shard has become quiet: what only a busy time needed is given back.
    pub(super) fn give_back(&mut self) {
        self.sends.shrink();
    }

    fn overdue(&mut self, index: usize) {
        let conn = &self.slots[index];
        let id = ConnId { index: index as u32, generation: conn.generation };
        match conn.phase {
            Phase::Head if !conn.stash().is_empty() => self.refuse(id, Refusal::Timeout),
            Phase::Open { .. } => self.heartbeat(id),
            Phase::Head | Phase::Asked | Phase::Closing | Phase::Lingering { .. } => self.bury(index),
            Phase::Dead => {}
        }
    }

    /// Earlier than the interval asks for, by up to a quarter: who came together shall not be pinged together ever after.
    fn first_heartbeat(&self, id: ConnId) -> u32 {
        let spread = self.patience.ping.as_secs() as u32 / 4 + 1;
        self.after(self.patience.ping) - id.generation % spread
    }

    fn heartbeat(&mut self, id: ConnId) {
        let silent = self.now - self.slots[id.index()].heard;
        // Over two, for both ends of the silence are rounded down to a second.
        if u64::from(silent) > 2 * self.patience.ping.as_secs() {
            return self.close(id, Close::Idle);
        }
        self.due[id.index()] = self.after(self.patience.ping) - 1;
        match self.listening(id) {
            Some(_) => self.transmit(id, Outgoing::One(Bytes::from_static(&encode::PING))),
            None => self.say(id, |outbox| outbox.extend_from_slice(&encode::PING)),
        }
    }

    /// Every connection of this moment.
    pub(super) fn ids(&self) -> Vec<ConnId> {
        self.slots.iter().map(|(index, conn)| ConnId { index: index as u32, generation: conn.generation }).collect()
    }

    /// Ends whatever is left, without a word.
    pub(super) fn abandon(&mut self) {
        for id in self.ids() {
            self.lost(id);
        }
    }

    /// The server stops: whose request is not answered yet is turned away, and so is whoever still comes.
    pub(super) fn turn_away(&mut self) {
        self.turns_away = true;
        for id in self.ids() {
            self.refuse(id, Refusal::Full);
        }
    }
}

/// A connection that comes from another shard.
#[cfg(test)]
pub(super) fn taken<P>(conns: &Conns<P>) -> Taken {
    use std::net::{TcpListener, TcpStream};

    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let socket = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens").into();
    Taken { socket, early: Vec::new(), passage: Passage::new(&conns.occupancy, &conns.counters) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conns(occupancy: &Arc<Occupancy>, counters: &Arc<Counters>) -> Conns<()> {
        let second = Duration::from_secs(1);
        let patience = Patience { head: second, ask: second, ping: second, close: second, settle: second };
        Conns::new(4, Pool::new(), patience, Arc::clone(occupancy), Arc::clone(counters))
    }

    #[test]
    fn who_came_together_is_not_pinged_together() {
        let mut conns = conns(&Arc::new(Occupancy::new(100, 100)), &Arc::default());
        conns.patience.ping = Duration::from_secs(10);
        let mut seconds = [0; 13];
        for _ in 0..30 {
            let id = conns.adopt(taken(&conns));
            seconds[conns.first_heartbeat(id) as usize] += 1;
        }
        assert_eq!(seconds, [0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 10, 10, 0], "none later than the interval asks for");
    }

    #[test]
    fn what_begins_when_a_shard_had_stood_still_has_its_time() {
        let mut conns = conns(&Arc::new(Occupancy::new(10, 10)), &Arc::default());
        let early = conns.adopt(taken(&conns));
        conns.set_clock(60);
        let late = conns.adopt(taken(&conns));
        conns.refuse(late, Refusal::Full);
        conns.tick();
        assert_eq!(conns.ids(), [late], "and who was there before has had it");
        assert!(!conns.is_asking(early));
    }

    #[test]
    fn who_is_on_the_way_to_another_shard_takes_a_place() {
        let occupancy = Arc::new(Occupancy::new(1, 10));
        let mut conns = conns(&occupancy, &Arc::default());
        occupancy.enters();
        let mut on_the_way = taken(&conns);
        for _ in 0..2 {
            let id = conns.adopt(on_the_way);
            on_the_way = conns.take(id).unwrap();
            assert!(conns.is_empty());
            assert_eq!(occupancy.refusal(), Some(Refusal::Full));
        }
        let mut passage = on_the_way.passage;
        passage.leave_the_shards();
        assert_eq!(occupancy.refusal(), Some(Refusal::Full), "it is answered elsewhere");
        drop(passage);
        assert_eq!((occupancy.refusal(), conns.counters.lost_on_the_way.get()), (None, 0));
    }

    #[test]
    fn who_is_lost_on_the_way_is_counted_and_frees_its_place() {
        let occupancy = Arc::new(Occupancy::new(1, 1));
        let conns = conns(&occupancy, &Arc::default());
        occupancy.enters();
        let on_the_way = taken(&conns);
        assert_eq!(occupancy.refusal(), Some(Refusal::Full));
        std::thread::spawn(move || drop(on_the_way)).join().unwrap();
        assert_eq!((occupancy.refusal(), conns.counters.lost_on_the_way.get()), (None, 1));
    }

    #[test]
    fn who_is_handed_over_while_the_server_stops_is_turned_away_once() {
        let occupancy = Arc::new(Occupancy::new(10, 1));
        let counters = Arc::<Counters>::default();
        let mut conns = conns(&occupancy, &counters);

        occupancy.enters();
        let early = conns.adopt(taken(&conns));
        assert!(conns.is_asking(early) && occupancy.refusal() == Some(Refusal::TooManyAttempts));
        conns.turn_away();
        occupancy.enters();
        let late = conns.adopt(taken(&conns));
        assert!(!conns.is_asking(early) && !conns.is_asking(late), "nobody is let in behind the ones being closed");
        // As the shard does that could not hand one over.
        conns.refuse(late, Refusal::Full);
        assert_eq!(counters.refused.get(), 2);
        assert_eq!(occupancy.refusal(), None, "each was counted off once");
    }
}
