//! The chat itself: what a shard does with upgrades, messages and answers.
//!
//! In: requests, messages and the letters of [`Mail`]. Out: questions to the control thread, a turn's messages to the journal
//! or the writer, and each room's log to its members. Runs on the shard's thread; reads no socket and no database.
//!
//! A message's way: parsed in place, checked, stamped, encoded once into its room's open batch, and recorded in the
//! turn. At the end of the turn the batches are sealed and the records go where they are to be kept ([`Keep`]). As soon as what
//! `durability` asks for holds, the batches enter their rooms' logs, and every member that is not sending already gets one
//! send.

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use slab::Slab;
use tokio::sync::oneshot;

use super::{
    Mailed, Message, Service,
    conn::{ConnId, Conns},
    journal::Journal,
    mailbox::{Postbox, Undelivered},
    room::{After, Batch, Cursor, Log, Room},
};
use crate::{
    auth::Admission,
    close::Close,
    http::HandedOver,
    identity::{RoomId, Token, User, UserId},
    journal::{
        appender::Outcome,
        record::{Record, encoded_len},
    },
    metrics::Counters,
    protocol::{ChatRequest, Envelope, InputError, Parser, connect, output},
    stamp::Stamper,
    store::{Micros, Row},
    topology::Topology,
    writer::{Filling, Settled, Turn, Why},
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
    /// The database refused a message of this sender in this room, which had been broadcast.
    Refused(RoomId, UserId),
    /// What was broadcast and only memory has yet: the records of the turns that the writer has not settled.
    Unsaved(oneshot::Sender<Vec<Bytes>>),
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
    /// Messages of this shard that may wait in memory to be saved or journalled.
    pub unsettled_max: usize,
    /// Bytes of their frames. Their records take as much once more.
    pub unsettled_bytes_max: usize,
    /// Origins that may connect; none listed is any.
    pub origins: Vec<String>,
    /// For how long a receiver that was found to be a member is taken for one, and a sender whom the database refused is
    /// refused by the shard.
    pub lookup_cache: Duration,
}

/// Where a shard's messages are kept before they are in the database.
pub enum Keep {
    /// Nowhere: the turn goes to the writer and is broadcast when that has saved it (`durability = "commit"`).
    Writer,
    /// Nowhere: the turn is broadcast at once, and goes to the writer (`none`).
    Memory,
    /// In the shard's journal, which says when it is held and may be broadcast (`sync`, `journal`).
    Journal(Journal),
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

/// A turn that is being filled, or that is over and not settled.
#[derive(Default)]
struct Unsettled {
    origins: Vec<Origin>,
    rooms: Vec<u32>,
    /// The journal's number of its first message.
    first_sequence: u64,
    /// Messages whose outcome is known, and which of them failed.
    known: usize,
    unsaved: Vec<(u32, Why)>,
    /// It was broadcast before it is saved, and its records are nowhere else.
    is_broadcast: bool,
    records: Bytes,
    /// It waits only for older turns to be settled.
    is_settled: bool,
}

impl Unsettled {
    /// What became of some of its messages. When that is known of all, those that failed, in rising order: the journal may
    /// refuse a turn's end before it refuses its beginning.
    fn learn(&mut self, messages: Range<u64>, is_held: bool) -> Option<Vec<(u32, Why)>> {
        self.known += (messages.end - messages.start) as usize;
        if !is_held {
            self.unsaved.extend(messages.map(|message| (message as u32, Why::GivenUp)));
        }
        if self.known < self.origins.len() {
            return None;
        }
        self.unsaved.sort_unstable();
        Some(std::mem::take(&mut self.unsaved))
    }
}

/// The chat on one shard.
pub struct Chat {
    shard: usize,
    topology: Arc<Topology>,
    rules: Rules,
    posts: Rc<Posts>,
    counters: Arc<Counters>,
    parser: Parser,
    stamper: Stamper,
    rooms: Slab<Room>,
    by_id: HashMap<RoomId, u32>,
    /// Receivers that were found to be members of a room, and until when that counts.
    receivers: HashMap<(RoomId, UserId), Instant>,
    /// Senders whom the database refused in a room, and until when that counts.
    refused: HashMap<(RoomId, UserId), Instant>,
    keep: Keep,
    /// The present turn.
    now: Option<Micros>,
    present: Unsettled,
    filling: Filling,
    /// Turns that are not settled, by their numbers: the first one's, then one after the other.
    unsettled: VecDeque<Unsettled>,
    unsettled_first: u64,
    unsettled_messages: usize,
    /// Of their frames and those of the present turn.
    unsettled_bytes: usize,
    /// Rooms whose log grew in this turn.
    grown: Vec<u32>,
    /// Rooms that members left: all who left a room in one turn are struck off its list in one pass.
    left: Vec<u32>,
}

/// Receivers remembered by a shard before it forgets them all, and senders that were refused.
const LOOKUPS_MAX: usize = 65_536;

impl Chat {
    /// The chat of shard `shard`, with no rooms yet.
    pub fn new(
        shard: usize,
        topology: Arc<Topology>,
        rules: Rules,
        posts: Rc<Posts>,
        keep: Keep,
        stamper: Stamper,
        counters: Arc<Counters>,
    ) -> Chat {
        Chat {
            shard,
            topology,
            rules,
            posts,
            counters,
            parser: Parser::new(),
            stamper,
            rooms: Slab::new(),
            by_id: HashMap::new(),
            receivers: HashMap::new(),
            refused: HashMap::new(),
            keep,
            now: None,
            present: Unsettled::default(),
            filling: Filling::default(),
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
            Ok(_) if self.is_refused(member) => {
                self.reject(conns, id, InputError::NotSaved);
                self.strike(conns, id);
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

    /// The database took nothing from this member lately: its room or its account is gone. Not to be sent on and on to the
    /// dead letters, what it says now is refused at once.
    fn is_refused(&self, member: &Member) -> bool {
        let key = || (self.rooms[member.room as usize].id, member.user.id);
        !self.refused.is_empty() && self.refused.get(&key()).is_some_and(|until| Instant::now() < *until)
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
                if self.receivers.len() >= LOOKUPS_MAX {
                    self.receivers.clear();
                }
                self.receivers.insert((room, receiver), Instant::now() + self.rules.lookup_cache);
                self.append(conns, id, &waiting.0, Some(receiver));
            }
        }
        conns.resume(id);
    }

    /// Stamps a message, encodes it into its room's batch and records it in the turn.
    fn append(&mut self, conns: &mut Conns<Member>, id: ConnId, message: &str, receiver: Option<UserId>) {
        let now = self.now();
        let Some(member) = conns.peer(id) else { return };
        if !self.has_room(&member.user, message) {
            return self.reject(conns, id, InputError::NotSaved);
        }
        let (message_id, timestamp) = self.stamper.stamp(now);
        let room = &mut self.rooms[member.room as usize];
        if room.open_is_empty() {
            self.present.rooms.push(member.room);
        }
        let User { id: sender, username: sender_username } = &*member.user;
        let envelope = Envelope { message, sender: *sender, sender_username, id: message_id, timestamp, receiver };
        let frame_len = room.append(|frames| output::chat_message(frames, &envelope));
        let row = Row { id: message_id, room: room.id, sender: *sender, receiver, timestamp, content: message };
        let record = Record { row, sender_username };
        match &self.keep {
            Keep::Writer | Keep::Memory => self.filling.push(&record),
            Keep::Journal(journal) => {
                let sequence = journal.append(&record);
                if self.present.origins.is_empty() {
                    self.present.first_sequence = sequence;
                }
            }
        }
        self.unsettled_bytes += frame_len as usize;
        self.present.origins.push(Origin { conn: id, room: member.room, frame_len });
        member.unsettled += 1;
        self.counters.messages.up();
    }

    /// Whether a message can be kept until it is saved.
    fn has_room(&self, sender: &User, message: &str) -> bool {
        let is_within_bounds = self.unsettled_messages + self.present.origins.len() < self.rules.unsettled_max
            && self.unsettled_bytes < self.rules.unsettled_bytes_max;
        is_within_bounds
            && match &self.keep {
                Keep::Writer | Keep::Memory => true,
                Keep::Journal(journal) => journal.has_room(encoded_len(sender.username.len(), message.len())),
            }
    }

    /// The wall clock, read once a turn.
    fn now(&mut self) -> Micros {
        *self.now.get_or_insert_with(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            since.as_micros() as Micros
        })
    }

    fn refuse(&mut self, room: RoomId, sender: UserId) {
        if self.refused.len() >= LOOKUPS_MAX {
            self.refused.clear();
        }
        self.refused.insert((room, sender), Instant::now() + self.rules.lookup_cache);
    }

    fn unsaved(&self) -> Vec<Bytes> {
        self.unsettled.iter().map(|turn| turn.records.clone()).filter(|records| !records.is_empty()).collect()
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

    // ---- Kept, then broadcast ---------------------------------------------------------------------------------------

    /// Seals every open batch and passes the turn on.
    fn seal_turn(&mut self, conns: &mut Conns<Member>) {
        self.now = None;
        if self.present.origins.is_empty() {
            return;
        }
        let number = self.unsettled_first + self.unsettled.len() as u64;
        let next = Unsettled {
            origins: Vec::with_capacity(self.present.origins.len()),
            rooms: Vec::with_capacity(self.present.rooms.len()),
            ..Unsettled::default()
        };
        let present = std::mem::replace(&mut self.present, next);
        for room in &present.rooms {
            self.rooms[*room as usize].seal(number);
        }
        self.unsettled_messages += present.origins.len();
        self.unsettled.push_back(present);
        match &self.keep {
            Keep::Journal(journal) => journal.end_turn(),
            Keep::Writer | Keep::Memory => self.post_turn(conns, number),
        }
    }

    /// Hands the newest turn to the writer.
    fn post_turn(&mut self, conns: &mut Conns<Member>, number: u64) {
        let turn = self.filling.end(self.shard, number);
        let records = turn.records.clone();
        if let Err(Undelivered(turn)) = self.posts.writer.post(Box::new(turn)) {
            self.counters.mailbox_full.up();
            let unsaved = (0..turn.count as u32).map(|message| (message, Why::GivenUp)).collect();
            self.settle(conns, Settled { turn: number, unsaved });
        } else if matches!(self.keep, Keep::Memory)
            && let Some(mut turn) = self.unsettled.pop_back()
        {
            self.broadcast(conns, number, &turn);
            // For the members that was all; to memory's bounds and the room's history it counts until it is saved.
            (turn.records, turn.is_broadcast) = (records, true);
            self.unsettled.push_back(turn);
        }
    }

    /// What became of messages in the journal. Turns whose messages are all known are settled.
    fn settle_journalled(&mut self, conns: &mut Conns<Member>) {
        let Keep::Journal(journal) = &self.keep else { return };
        for Outcome { sequences, is_held } in journal.outcomes() {
            let (mut sequence, last) = sequences.into_inner();
            while sequence <= last {
                let place = self.unsettled.partition_point(|turn| turn.first_sequence <= sequence) - 1;
                let turn = &mut self.unsettled[place];
                let first = sequence - turn.first_sequence;
                let end = (last + 1 - turn.first_sequence).min(turn.origins.len() as u64);
                sequence = turn.first_sequence + end;
                if let Some(unsaved) = turn.learn(first..end, is_held) {
                    self.settle(conns, Settled { turn: self.unsettled_first + place as u64, unsaved });
                }
            }
        }
    }

    /// A turn is done with: what is kept enters the logs, and whoever sent the rest is told.
    fn settle(&mut self, conns: &mut Conns<Member>, settled: Settled) {
        let Some(place) = settled.turn.checked_sub(self.unsettled_first) else { return };
        let Some(turn) = self.unsettled.get_mut(place as usize).filter(|turn| !turn.is_settled) else { return };
        turn.is_settled = true;
        let first_sequence = turn.first_sequence;
        let mut turn = std::mem::replace(turn, Unsettled { first_sequence, is_settled: true, ..Unsettled::default() });
        turn.unsaved = settled.unsaved;
        while self.unsettled.front().is_some_and(|turn| turn.is_settled) {
            self.unsettled.pop_front();
            self.unsettled_first += 1;
        }
        self.unsettled_messages -= turn.origins.len();
        self.unsettled_bytes -= turn.origins.iter().map(|origin| origin.frame_len as usize).sum::<usize>();
        if !turn.is_broadcast {
            self.broadcast(conns, settled.turn, &turn);
        }
    }

    /// A turn's batches, less what could not be kept, enter their rooms' logs.
    fn broadcast(&mut self, conns: &mut Conns<Member>, number: u64, turn: &Unsettled) {
        for origin in &turn.origins {
            if let Some(member) = conns.peer(origin.conn) {
                member.unsettled -= 1;
                if turn.unsaved.is_empty() {
                    member.strikes = 0;
                }
            }
        }
        for (message, why) in &turn.unsaved {
            let conn = turn.origins[*message as usize].conn;
            self.reject(conns, conn, InputError::NotSaved);
            // The server's trouble is not the client's offence; to go on sending to a room that is gone is one.
            if *why == Why::Refused {
                self.strike(conns, conn);
            }
        }
        for room in &turn.rooms {
            self.release(number, *room, turn);
        }
    }

    fn release(&mut self, number: u64, index: u32, turn: &Unsettled) {
        let room = &mut self.rooms[index as usize];
        let Some(mut batch) = room.release(number) else { return };
        if !turn.unsaved.is_empty() {
            batch = without_unsaved(&batch, index, &turn.origins, &turn.unsaved);
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
            Mail::Refused(room, sender) => self.refuse(room, sender),
            Mail::Unsaved(reply) => drop(reply.send(self.unsaved())),
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
        self.settle_journalled(conns);
        self.seal_turn(conns);
        for room in each_once(&mut self.grown) {
            self.fan_out(conns, room);
        }
    }

    fn owes(&self, member: &Member) -> bool {
        member.unsettled > 0 || member.waiting.is_some()
    }

    fn tick(&mut self) {
        if let Keep::Journal(journal) = &self.keep {
            journal.tick();
        }
    }

    fn is_idle(&self) -> bool {
        let journal_is_idle = match &self.keep {
            Keep::Journal(journal) => journal.is_idle(),
            Keep::Writer | Keep::Memory => true,
        };
        self.unsettled.is_empty() && journal_is_idle
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
            lookup_cache: Duration::ZERO,
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

    #[test]
    fn what_the_journal_refuses_is_not_broadcast_in_whatever_order_it_does_so() {
        let origin = || Origin { conn: ConnId::default(), room: 0, frame_len: 1 };
        for parts in [[0..2, 2..3, 3..4], [3..4, 2..3, 0..2], [2..3, 0..2, 3..4]] {
            let mut turn = Unsettled { origins: (0..4).map(|_| origin()).collect(), ..Unsettled::default() };
            let learnt = parts.map(|part| {
                let is_held = part == (2..3);
                turn.learn(part, is_held)
            });
            let [None, None, Some(unsaved)] = learnt else { panic!("{learnt:?}") };
            let batch = Batch { frames: Bytes::from_static(b"abcd"), messages: 4 };
            let left = without_unsaved(&batch, 0, &turn.origins, &unsaved);
            assert_eq!(left, Batch { frames: Bytes::from_static(b"c"), messages: 1 });
        }
    }
}
