//! The chat itself: what a shard does with upgrades, messages and answers.
//!
//! In: requests, messages and the letters of [`Mail`]. Out: questions to the control thread, a turn of messages to the writer,
//! and each room's log to its members. Runs on the shard's thread; reads no socket and no database.
//!
//! A message's way: parsed in place, checked, stamped, encoded once into its room's open batch, and recorded in the
//! turn. At the end of the turn the batches are sealed and the turn goes to the writer. When the writer says that it is
//! saved, the batches enter their rooms' logs, and every member that is not sending already gets one send.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::{
    Mailed, Message, Service,
    conn::{ConnId, Conns},
    mailbox::{Postbox, Undelivered},
    room::{After, Batch, Cursor, Log, Room},
};
use crate::{
    auth::Admission,
    close::Close,
    http::HandedOver,
    identity::{RoomId, Token, User, UserId},
    metrics::Counters,
    protocol::{ChatRequest, Envelope, InputError, Parser, connect, output},
    stamp::Stamper,
    store::Micros,
    topology::Topology,
    writer::{Record, Settled, Turn, Why},
    ws::{
        frame::Limits,
        handshake::{self, Refusal, Request},
    },
};

/// What other threads tell a shard.
pub enum Mail {
    /// A connection whose room lives here.
    Adopt(Box<Adoption>),
    /// The control thread's answer to [`Question::Admit`].
    Admitted(Box<Admittance>, Admission),
    /// The control thread's answer to [`Question::Receiver`]: a member, not one, or the database cannot be asked.
    Receiver(ConnId, UserId, Option<bool>),
    /// The writer's answer to a turn.
    Settled(Settled),
    /// Close everything over this time, and end.
    Drain(Duration),
}

/// What a shard asks of the control thread.
pub enum Question {
    /// May the holder of this token enter this room?
    Admit {
        /// Who asks.
        shard: usize,
        /// The connection that waits, and its room.
        admittance: Box<Admittance>,
        /// What it presented.
        token: Token,
    },
    /// Is this user a member of this room?
    Receiver {
        /// Who asks.
        shard: usize,
        /// The connection whose message waits.
        conn: ConnId,
        /// The room.
        room: RoomId,
        /// The user that the message addresses.
        user: UserId,
    },
    /// A request that is not for a chat room.
    Http(HandedOver),
}

/// A connection on its way to the shard of its room.
pub struct Adoption {
    socket: OwnedFd,
    /// What was read after the request head.
    early: Vec<u8>,
    accept: Bytes,
    room: RoomId,
    token: Option<Token>,
}

/// A client that waits to be let into a room.
pub struct Admittance {
    conn: ConnId,
    room: RoomId,
    /// The bytes that accept the upgrade.
    accept: Bytes,
}

impl Admittance {
    /// The room that it waits for.
    pub fn room(&self) -> RoomId {
        self.room
    }
}

/// The bounds that a message is held to.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Unicode characters of a message's text.
    pub message_chars_max: usize,
    /// Bytes of a WebSocket message.
    pub message_bytes_max: usize,
    /// Bytes of a room's log kept for slow members.
    pub lag_bytes_max: usize,
    /// The shortest time between two messages of a connection, on average; zero is no limit.
    pub message_period: Duration,
    /// Messages that may come at once before the period counts.
    pub message_burst: u32,
    /// Rejected messages in a row before the connection is closed.
    pub errors_max: u32,
    /// Messages of this shard that may wait for the writer.
    pub unsettled_max: usize,
    /// Bytes of their frames. The texts that go with them to the writer take as much once more.
    pub unsettled_bytes_max: usize,
    /// Origins that may connect; none listed is any.
    pub origins: Vec<String>,
    /// For how long a receiver that was found to be a member is taken for one.
    pub receiver_cache: Duration,
}

/// Where a shard's letters go.
pub struct Posts {
    /// Every shard, this one too.
    pub shards: Vec<Postbox<Mail>>,
    /// The control thread.
    pub control: Postbox<Question>,
    /// The writer.
    pub writer: Postbox<Box<Turn>>,
}

/// A member of a room, as its connection knows it.
pub struct Member {
    user: Arc<User>,
    /// The room's slot.
    room: u32,
    cursor: Cursor,
    /// Messages that were accepted and are not settled.
    unsettled: u32,
    /// Rejected messages since one was saved.
    strikes: u32,
    /// When the rate lets the next message through, if no burst is left (the theoretical arrival time of GCRA).
    allowed_at: Micros,
    /// A message that waits to hear if its receiver is a member.
    waiting: Option<Box<(String, UserId)>>,
}

/// One message of a turn: whose it is and how long its frame is.
struct Origin {
    conn: ConnId,
    room: u32,
    frame_len: u32,
}

/// A turn that the writer has and has not settled.
struct Unsettled {
    origins: Vec<Origin>,
    rooms: Vec<u32>,
}

/// The chat on one shard.
pub struct Chat {
    shard: usize,
    topology: Arc<Topology>,
    rules: Rules,
    posts: Posts,
    counters: Arc<Counters>,
    parser: Parser,
    stamper: Stamper,
    rooms: Slab<Room>,
    by_id: HashMap<RoomId, u32>,
    /// Receivers that were found to be members of a room, and until when that counts.
    receivers: HashMap<(RoomId, UserId), Instant>,
    /// The present turn: its records for the writer, their origins, and the rooms with an open batch.
    turn: Turn,
    now: Option<Micros>,
    present: Unsettled,
    /// Turns with the writer; the first one's number, then one after the other. `None`: settled before an older one.
    unsettled: VecDeque<Option<Unsettled>>,
    unsettled_first: u64,
    unsettled_messages: usize,
    /// Of the frames of the turns with the writer and of the present one.
    unsettled_bytes: usize,
    /// Rooms whose log grew in this turn.
    grown: Vec<u32>,
    /// Rooms that members left: all who left a room in one turn are struck off its list in one pass.
    left: Vec<u32>,
}

/// Receivers remembered by a shard before it forgets them all.
const RECEIVERS_MAX: usize = 65_536;

impl Chat {
    /// The chat of shard `shard`, with no rooms yet.
    pub fn new(shard: usize, topology: Arc<Topology>, rules: Rules, posts: Posts, counters: Arc<Counters>) -> Chat {
        Chat {
            shard,
            topology,
            rules,
            posts,
            counters,
            parser: Parser::new(),
            stamper: Stamper::new(),
            rooms: Slab::new(),
            by_id: HashMap::new(),
            receivers: HashMap::new(),
            turn: Turn::new(shard, 0),
            now: None,
            present: Unsettled { origins: Vec::new(), rooms: Vec::new() },
            unsettled: VecDeque::new(),
            unsettled_first: 0,
            unsettled_messages: 0,
            unsettled_bytes: 0,
            grown: Vec::new(),
            left: Vec::new(),
        }
    }

    // ---- Letting clients in -----------------------------------------------------------------------------------------

    /// Checks an upgrade request, and the bytes that accept it.
    fn consider(&self, request: &Request) -> Result<(ChatRequest, Bytes), Refusal> {
        let chat = ChatRequest::read(request)?;
        if !connect::origin_allowed(connect::origin(request), &self.rules.origins) {
            return Err(Refusal::OriginForbidden);
        }
        let accept = handshake::accept(request, chat.selected_protocol)?;
        Ok((chat, accept))
    }

    fn hand_over(&mut self, conns: &mut Conns<Member>, id: ConnId, shard: usize, chat: ChatRequest, accept: Bytes) {
        let Some((socket, early)) = conns.take(id) else { return };
        let adoption = Box::new(Adoption { socket, early, accept, room: chat.room, token: chat.token });
        match self.posts.shards[shard].post(Mail::Adopt(adoption)) {
            Ok(()) => self.counters.handed_over.up(),
            Err(Undelivered(Mail::Adopt(adoption))) => {
                self.counters.mailbox_full.up();
                let id = conns.adopt(adoption.socket, Vec::new());
                conns.refuse(id, Refusal::Full);
            }
            Err(_) => unreachable!("the letter comes back as it was"),
        }
    }

    fn ask(&mut self, conns: &mut Conns<Member>, admittance: Admittance, token: Option<Token>) {
        let Some(token) = token else { return self.admit(conns, admittance, Admission::Unauthorized) };
        let question = Question::Admit { shard: self.shard, admittance: Box::new(admittance), token };
        if let Err(Undelivered(Question::Admit { admittance, .. })) = self.posts.control.post(question) {
            self.counters.mailbox_full.up();
            self.admit(conns, *admittance, Admission::Unavailable);
        }
    }

    fn admit(&mut self, conns: &mut Conns<Member>, admittance: Admittance, admission: Admission) {
        let Admittance { conn, room, accept } = admittance;
        match admission {
            Admission::Admitted(user) => self.join(conns, conn, room, &accept, user),
            Admission::Unauthorized => conns.open_and_close(conn, &accept, Close::Unauthorized),
            Admission::NotMember => conns.open_and_close(conn, &accept, Close::NotMember),
            Admission::Unavailable => conns.open_and_close(conn, &accept, Close::DatabaseUnavailable),
        }
    }

    /// From here on every batch that enters the room's log reaches this connection: no gap after the greeting.
    fn join(&mut self, conns: &mut Conns<Member>, conn: ConnId, room_id: RoomId, accept: &[u8], user: Arc<User>) {
        if !conns.is_asking(conn) {
            return;
        }
        let rooms = &mut self.rooms;
        let room = *self.by_id.entry(room_id).or_insert_with(|| rooms.insert(Room::new(room_id)) as u32);
        let Room { members, log, .. } = &mut self.rooms[room as usize];
        members.push(conn);
        let cursor = log.enter();
        let greet = |outbox: &mut BytesMut| {
            outbox.extend_from_slice(accept);
            output::established(outbox, room_id, &user);
        };
        let member =
            Member { user: Arc::clone(&user), room, cursor, unsettled: 0, strikes: 0, allowed_at: 0, waiting: None };
        conns.open(conn, greet, member);
    }

    /// Forgets a room that nobody needs.
    fn leave_if_deserted(&mut self, room: u32) {
        if self.rooms[room as usize].is_deserted() {
            let room = self.rooms.remove(room as usize);
            self.by_id.remove(&room.id);
        }
    }

    // ---- Messages in ------------------------------------------------------------------------------------------------

    fn text(&mut self, conns: &mut Conns<Member>, id: ConnId, text: &mut [u8]) {
        let now = self.now();
        let Some(member) = conns.peer(id) else { return };
        match self.parser.parse(text, self.rules.message_chars_max) {
            Err(error) => self.reject(conns, id, error),
            Ok(_) if !within_rate(&mut member.allowed_at, &self.rules, now) => {
                self.reject(conns, id, InputError::RateLimited)
            }
            Ok(chat) => match chat.receiver {
                // A number names somebody only where user ids are numbers.
                Some(UserId::Int(_)) if matches!(member.user.id, UserId::Uuid(_)) => {
                    self.reject(conns, id, InputError::ReceiverInvalid);
                }
                Some(receiver) if !self.knows(member, receiver) => {
                    self.ask_receiver(conns, id, &chat.message, receiver);
                }
                receiver => self.append(conns, id, &chat.message, receiver),
            },
        }
    }

    fn knows(&self, member: &Member, receiver: UserId) -> bool {
        let room = self.rooms[member.room as usize].id;
        receiver == member.user.id || self.receivers.get(&(room, receiver)).is_some_and(|until| Instant::now() < *until)
    }

    /// The message waits, and with it everything that its sender says after it, until the receiver is known.
    fn ask_receiver(&mut self, conns: &mut Conns<Member>, id: ConnId, message: &str, receiver: UserId) {
        let Some(member) = conns.peer(id) else { return };
        let room = self.rooms[member.room as usize].id;
        let question = Question::Receiver { shard: self.shard, conn: id, room, user: receiver };
        if self.posts.control.post(question).is_err() {
            self.counters.mailbox_full.up();
            return self.reject(conns, id, InputError::NotSaved);
        }
        member.waiting = Some(Box::new((message.to_owned(), receiver)));
        conns.pause(id);
    }

    fn receiver_known(&mut self, conns: &mut Conns<Member>, id: ConnId, receiver: UserId, is_member: Option<bool>) {
        let Some(member) = conns.peer(id) else { return };
        let Some(waiting) = member.waiting.take_if(|waiting| waiting.1 == receiver) else { return };
        let room = self.rooms[member.room as usize].id;
        match is_member {
            None => self.reject(conns, id, InputError::NotSaved),
            Some(false) => self.reject(conns, id, InputError::ReceiverNotMember),
            Some(true) => {
                if self.receivers.len() >= RECEIVERS_MAX {
                    self.receivers.clear();
                }
                self.receivers.insert((room, receiver), Instant::now() + self.rules.receiver_cache);
                self.append(conns, id, &waiting.0, Some(receiver));
            }
        }
        conns.resume(id);
    }

    /// Stamps a message, encodes it into its room's batch and records it in the turn.
    fn append(&mut self, conns: &mut Conns<Member>, id: ConnId, message: &str, receiver: Option<UserId>) {
        if self.unsettled_messages + self.present.origins.len() >= self.rules.unsettled_max
            || self.unsettled_bytes >= self.rules.unsettled_bytes_max
        {
            return self.reject(conns, id, InputError::NotSaved);
        }
        let now = self.now();
        let Some(member) = conns.peer(id) else { return };
        let (message_id, timestamp) = self.stamper.stamp(now);
        let room = &mut self.rooms[member.room as usize];
        if room.open_is_empty() {
            self.present.rooms.push(member.room);
        }
        let User { id: sender, username: sender_username } = &*member.user;
        let envelope = Envelope { message, sender: *sender, sender_username, id: message_id, timestamp, receiver };
        let frame_len = room.append(|frames| output::chat_message(frames, &envelope));
        self.unsettled_bytes += frame_len as usize;
        self.present.origins.push(Origin { conn: id, room: member.room, frame_len });
        let record = Record { id: message_id, room: room.id, sender: member.user.id, receiver, timestamp };
        self.turn.push(record, message);
        member.unsettled += 1;
        self.counters.messages.up();
    }

    /// The wall clock, read once a turn.
    fn now(&mut self) -> Micros {
        *self.now.get_or_insert_with(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            since.as_micros() as Micros
        })
    }

    fn reject(&mut self, conns: &mut Conns<Member>, id: ConnId, error: InputError) {
        self.counters.rejected.up();
        conns.say(id, |outbox| output::error(outbox, error));
        match error {
            InputError::NotSaved => self.counters.not_saved.up(),
            _ => self.strike(conns, id),
        }
    }

    /// Counts a rejected message against its sender.
    fn strike(&self, conns: &mut Conns<Member>, id: ConnId) {
        let Some(member) = conns.peer(id) else { return };
        member.strikes += 1;
        if member.strikes > self.rules.errors_max {
            conns.close(id, Close::TooManyErrors);
        }
    }

    // ---- To the writer, and back ------------------------------------------------------------------------------------

    /// Seals every open batch and passes the turn on.
    fn seal_turn(&mut self, conns: &mut Conns<Member>) {
        self.now = None;
        if self.present.origins.is_empty() {
            return;
        }
        let number = self.turn.number;
        let turn = std::mem::replace(&mut self.turn, Turn::new(self.shard, number + 1));
        let present = Unsettled {
            origins: Vec::with_capacity(self.present.origins.len()),
            rooms: Vec::with_capacity(self.present.rooms.len()),
        };
        let present = std::mem::replace(&mut self.present, present);
        for room in &present.rooms {
            self.rooms[*room as usize].seal(number);
        }
        self.unsettled_messages += present.origins.len();
        self.unsettled.push_back(Some(present));
        if let Err(Undelivered(turn)) = self.posts.writer.post(Box::new(turn)) {
            self.counters.mailbox_full.up();
            let unsaved = (0..turn.records.len() as u32).map(|message| (message, Why::GivenUp)).collect();
            self.settle(conns, Settled { turn: number, unsaved });
        }
    }

    /// The writer is done with a turn: what it saved enters the logs, and whoever sent the rest is told.
    fn settle(&mut self, conns: &mut Conns<Member>, settled: Settled) {
        let Some(place) = settled.turn.checked_sub(self.unsettled_first) else { return };
        let Some(turn) = self.unsettled.get_mut(place as usize).and_then(Option::take) else { return };
        while let Some(None) = self.unsettled.front() {
            self.unsettled.pop_front();
            self.unsettled_first += 1;
        }
        self.unsettled_messages -= turn.origins.len();
        for origin in &turn.origins {
            self.unsettled_bytes -= origin.frame_len as usize;
            if let Some(member) = conns.peer(origin.conn) {
                member.unsettled -= 1;
                if settled.unsaved.is_empty() {
                    member.strikes = 0;
                }
            }
        }
        for (message, why) in &settled.unsaved {
            let conn = turn.origins[*message as usize].conn;
            self.reject(conns, conn, InputError::NotSaved);
            // The server's trouble is not the client's offence; to go on sending to a room that is gone is one.
            if *why == Why::Refused {
                self.strike(conns, conn);
            }
        }
        for room in &turn.rooms {
            self.release(*room, &turn.origins, &settled);
        }
    }

    fn release(&mut self, index: u32, origins: &[Origin], settled: &Settled) {
        let room = &mut self.rooms[index as usize];
        let Some(mut batch) = room.release(settled.turn) else { return };
        if !settled.unsaved.is_empty() {
            batch = without_unsaved(&batch, index, origins, &settled.unsaved);
        }
        if batch.messages > 0 {
            room.broadcast(batch);
        }
        self.grown.push(index);
    }

    // ---- Fan-out ----------------------------------------------------------------------------------------------------

    /// One send for every member that is not sending already.
    fn fan_out(&mut self, conns: &mut Conns<Member>, index: u32) {
        let Some(room) = self.rooms.get_mut(index as usize) else { return };
        let Room { members, log, behind, .. } = room;
        *behind = members.iter().filter(|id| !send_log(conns, &self.counters, **id, log)).count() as u32;
        if *behind == 0 {
            log.clear();
        } else if log.trim(self.rules.lag_bytes_max) {
            // Not before everyone who listens was sent what came: however much it is, they read fast enough.
            for id in members {
                if conns.peer(*id).is_some_and(|member| log.is_gone(member.cursor)) {
                    conns.close(*id, Close::TooSlow);
                }
            }
        }
        self.leave_if_deserted(index);
    }
}

/// Takes the rooms out of a list, each once: several turns may be settled, and several members leave, in one.
fn each_once(rooms: &mut Vec<u32>) -> Vec<u32> {
    let mut rooms = std::mem::take(rooms);
    rooms.sort_unstable();
    rooms.dedup();
    rooms
}

/// Sends a member what it lacks, if it listens. True if it then has everything.
fn send_log(conns: &mut Conns<Member>, counters: &Counters, id: ConnId, log: &mut Log) -> bool {
    let Some(member) = conns.listening(id) else {
        return conns.peer(id).is_some_and(|member| member.cursor == log.end());
    };
    match log.after(member.cursor) {
        After::Nothing => true,
        After::FellOut => {
            conns.close(id, Close::TooSlow);
            false
        }
        After::Send(outgoing, cursor, messages) => {
            member.cursor = cursor;
            counters.sends.up();
            counters.deliveries.add(u64::from(messages));
            conns.transmit(id, outgoing);
            cursor == log.end()
        }
    }
}

/// The batch of a room, less the frames of messages that are not saved.
fn without_unsaved(batch: &Batch, room: u32, origins: &[Origin], unsaved: &[(u32, Why)]) -> Batch {
    let mut frames = BytesMut::with_capacity(batch.frames.len());
    let mut messages = 0;
    let mut at = 0;
    for (number, origin) in origins.iter().enumerate().filter(|(_, origin)| origin.room == room) {
        let frame = at..at + origin.frame_len as usize;
        at = frame.end;
        if unsaved.binary_search_by_key(&(number as u32), |(message, _)| *message).is_err() {
            frames.extend_from_slice(&batch.frames[frame]);
            messages += 1;
        }
    }
    Batch { frames: frames.freeze(), messages }
}

/// The generic cell rate algorithm: a message may come as early as a full burst before its theoretical arrival time
/// `allowed_at`, which is moved on if it may.
fn within_rate(allowed_at: &mut Micros, rules: &Rules, now: Micros) -> bool {
    let period = rules.message_period.as_micros() as Micros;
    let burst = period * Micros::from(rules.message_burst);
    // Further ahead than a burst it cannot be, unless the clock was set back; for that nobody is made to wait.
    let ahead = Some(*allowed_at - now).filter(|ahead| (0..=burst).contains(ahead)).unwrap_or(0);
    if ahead > burst - period {
        return false;
    }
    *allowed_at = now + ahead + period;
    true
}

impl Service for Chat {
    type Mail = Mail;
    type Peer = Member;

    fn limits(&self) -> Limits {
        Limits { message_bytes_max: self.rules.message_bytes_max, binary: false }
    }

    fn upgrade(&mut self, conns: &mut Conns<Member>, id: ConnId, request: &Request) {
        match self.consider(request) {
            Err(refusal) => conns.refuse(id, refusal),
            Ok((chat, accept)) => match self.topology.shard_of(chat.room) {
                shard if shard == self.shard => {
                    self.ask(conns, Admittance { conn: id, room: chat.room, accept }, chat.token);
                }
                shard => self.hand_over(conns, id, shard, chat, accept),
            },
        }
    }

    fn http(&mut self, conns: &mut Conns<Member>, id: ConnId, target: &str) {
        if let Some(refusal) = connect::refusal_without_upgrade(target) {
            return conns.refuse(id, refusal);
        }
        let Some((socket, read)) = conns.take(id) else { return };
        let question = Question::Http(HandedOver { stream: socket.into(), read });
        match self.posts.control.post(question) {
            Ok(()) => {
                conns.gone();
                self.counters.http.up();
            }
            Err(Undelivered(Question::Http(handed_over))) => {
                self.counters.mailbox_full.up();
                let id = conns.adopt(handed_over.stream.into(), Vec::new());
                conns.refuse(id, Refusal::Full);
            }
            Err(_) => unreachable!("the letter comes back as it was"),
        }
    }

    fn mail(&mut self, conns: &mut Conns<Member>, mail: Mail) -> Mailed {
        match mail {
            Mail::Adopt(adoption) => {
                let Adoption { socket, early, accept, room, token } = *adoption;
                let conn = conns.adopt(socket, early);
                self.ask(conns, Admittance { conn, room, accept }, token);
            }
            Mail::Admitted(admittance, admission) => self.admit(conns, *admittance, admission),
            Mail::Receiver(conn, receiver, is_member) => self.receiver_known(conns, conn, receiver, is_member),
            Mail::Settled(settled) => self.settle(conns, settled),
            Mail::Drain(lasts) => return Mailed::Drain(lasts),
        }
        Mailed::Done
    }

    fn message(&mut self, conns: &mut Conns<Member>, id: ConnId, message: Message<'_>) {
        match message {
            Message::Text(text) => self.text(conns, id, text),
            Message::Binary(_) => conns.close(id, Close::BinaryMessage),
        }
    }

    fn listens(&mut self, conns: &mut Conns<Member>, id: ConnId) {
        let Some(member) = conns.peer(id) else { return };
        let room = &mut self.rooms[member.room as usize];
        if member.cursor < room.log.end() && send_log(conns, &self.counters, id, &mut room.log) {
            room.one_caught_up();
        }
    }

    fn departed(&mut self, member: Member) {
        let room = &mut self.rooms[member.room as usize];
        if member.cursor < room.log.end() {
            room.one_caught_up();
        }
        self.left.push(member.room);
    }

    fn turn_ends(&mut self, conns: &mut Conns<Member>) {
        for room in each_once(&mut self.left) {
            if let Some(left) = self.rooms.get_mut(room as usize) {
                left.members.retain(|id| conns.peer(*id).is_some());
                self.leave_if_deserted(room);
            }
        }
        self.seal_turn(conns);
        for room in each_once(&mut self.grown) {
            self.fan_out(conns, room);
        }
    }

    fn owes(&self, member: &Member) -> bool {
        member.unsettled > 0 || member.waiting.is_some()
    }

    fn is_idle(&self) -> bool {
        self.unsettled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    /// One message a second, or three at once.
    fn rules() -> Rules {
        Rules {
            message_chars_max: 1,
            message_bytes_max: 1,
            lag_bytes_max: 1,
            message_period: Duration::from_secs(1),
            message_burst: 3,
            errors_max: 1,
            unsettled_max: 1,
            unsettled_bytes_max: 1,
            origins: Vec::new(),
            receiver_cache: Duration::ZERO,
        }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (rules, mut allowed_at) = (rules(), 0);
        let mut passes = |now| within_rate(&mut allowed_at, &rules, now);
        let now = 1000 * SECOND;
        assert_eq!([now, now, now, now].map(&mut passes), [true, true, true, false]);
        assert_eq!([now + SECOND, now + SECOND].map(&mut passes), [true, false]);
        assert_eq!([0; 4].map(|_| passes(now + 60 * SECOND)), [true, true, true, false]);
    }

    #[test]
    fn a_clock_that_is_set_back_silences_nobody() {
        let (rules, mut allowed_at) = (rules(), 1000 * SECOND);
        let mut passes = |now| within_rate(&mut allowed_at, &rules, now);
        assert_eq!([0; 4].map(|_| passes(10 * SECOND)), [true, true, true, false]);
    }
}
