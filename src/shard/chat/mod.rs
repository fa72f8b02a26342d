//! The chat itself: what a shard does with upgrades, messages and answers.
//!
//! In: requests, messages and the letters of [`Mail`]. Out: questions to the control thread, a turn's messages to the journal
//! or the writer, and each room's log to its members. Runs on the shard's thread; reads no socket and no database.
//!
//! A message's way: parsed in place, checked, stamped, encoded once into its room's open batch, and recorded in the
//! turn. At the end of the turn the batches are sealed and the records go where they are to be kept ([`Keep`]). As soon as what
//! `durability` asks for holds, the batches enter their rooms' logs, and every member that is not sending already gets one
//! send. For members that sit on other shards than their room's home, [`spill`] passes all this back and forth in [`parcel`]s.

mod admission;
mod fan_out;
mod mail;
mod member;
mod message;
mod parcel;
mod settle;
mod spill;
mod turn;

use std::{
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use slab::Slab;

use self::{
    fan_out::send_log,
    parcel::{Parcel, Parcels},
    turn::Unsettled,
};
pub use self::{
    mail::{Admittance, Adoption, Mail, Posts, Question},
    member::{Member, Rules},
};
use super::{
    Mailed, Message, Service,
    conn::{ConnId, Conns, Taken},
    journal::Journal,
    replica::Part,
    room::Room,
};
use crate::{
    close::Close,
    http::HandedOver,
    identity::{RoomId, UserId},
    metrics::Counters,
    protocol::{Parser, connect},
    stamp::Stamper,
    store::Micros,
    topology::Topology,
    writer::Filling,
    ws::{
        frame::Limits,
        handshake::{Refusal, Request},
    },
};

/// Where a shard's messages are kept before they are in the database.
pub enum Keep {
    /// Nowhere: the turn goes to the writer and is broadcast when that has saved it (`durability = "commit"`).
    Writer,
    /// Nowhere: the turn is broadcast at once, and goes to the writer (`none`).
    Memory,
    /// In the shard's journal, which says when it is held and may be broadcast (`sync`, `journal`).
    Journal(Journal),
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
    /// What other shards get at the end of the turn.
    parcels: Parcels,
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
    /// The server stops: this shard passes no connection to another.
    is_stopping: bool,
    /// Other shards that may still pass connections to this one.
    passing: usize,
    /// Rooms whose log grew in this turn.
    grown: Vec<u32>,
    /// Rooms that members left: all who left a room in one turn are struck off its list in one pass.
    left: Vec<u32>,
}

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
        let (parcels, passing) = (Parcels::new(shard, topology.shards()), topology.shards() - 1);
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
            parcels,
            now: None,
            present: Unsettled::default(),
            filling: Filling::default(),
            unsettled: VecDeque::new(),
            unsettled_first: 0,
            unsettled_messages: 0,
            unsettled_bytes: 0,
            is_stopping: false,
            passing,
            grown: Vec::new(),
            left: Vec::new(),
        }
    }
}

/// Takes the rooms out of a list, each once: several turns may be settled, and several members leave, in one.
fn each_once(rooms: &mut Vec<u32>) -> Vec<u32> {
    let mut rooms = std::mem::take(rooms);
    rooms.sort_unstable();
    rooms.dedup();
    rooms
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
        let Some(Taken { socket, early, passage }) = conns.take(id) else { return };
        let question = Question::Http(HandedOver { stream: socket.into(), read: early, passage });
        match self.posts.control.post(question).map_err(|undelivered| undelivered.letter(&self.counters)) {
            Ok(()) => self.counters.http.up(),
            Err(Question::Http(HandedOver { stream, read, passage })) => {
                let id = conns.adopt(Taken { socket: stream.into(), early: read, passage });
                conns.refuse(id, Refusal::Full);
            }
            Err(_) => unreachable!("the letter comes back as it was"),
        }
    }

    fn mail(&mut self, conns: &mut Conns<Member>, mail: Mail) -> Mailed {
        match mail {
            Mail::Adopt(adoption) => {
                let Adoption { taken, accept, room, token } = *adoption;
                let conn = conns.adopt(taken);
                self.ask(conns, Admittance { conn, room, accept }, token);
            }
            Mail::Admitted(admittance, admission) => self.admit(conns, *admittance, admission),
            Mail::Receiver(conn, receiver, is_member) => self.receiver_known(conns, conn, receiver, is_member),
            Mail::Settled(settled) => self.settle(conns, settled),
            Mail::Refused(room, sender) => self.refuse(room, sender),
            Mail::Parcel(parcel) => self.unpack(conns, *parcel),
            Mail::Unsaved(reply) => drop(reply.send(self.unsaved())),
            Mail::Drain(lasts) => {
                self.pass_no_more();
                return Mailed::Drain(lasts);
            }
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
        if let Part::Replica { ended, .. } = &room.part {
            ended.up();
        }
        self.left.push(member.room);
    }

    fn turn_ends(&mut self, conns: &mut Conns<Member>) {
        self.seal_turn(conns);
        // After the turn went to the journal: it may be there already.
        self.settle_journalled(conns);
        // Before its own members are sent to: other cores can begin meanwhile.
        self.post_parcels(conns);
        // After whatever may have closed somebody, so that each room knows whom it sends to and waits for.
        self.strike_off(conns);
        for room in each_once(&mut self.grown) {
            self.fan_out(conns, room);
        }
        // What came of that: rooms that nobody sits in here any more.
        self.post_parcels(conns);
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
        let is_shared = |room: &Room| !matches!(&room.part, Part::Home(replicas) if replicas.is_empty());
        self.passing == 0
            && self.unsettled.is_empty()
            && journal_is_idle
            && self.parcels.are_posted()
            && !self.rooms.iter().any(|(_, room)| is_shared(room))
    }
}
