//! Rooms on more shards than one: seats elsewhere, what replicas are sent, and what becomes of both in the end.
//!
//! Everything that passes between a room's home and a replica goes through one parcel a turn, in order. So a member that is
//! seated elsewhere gets every batch that enters the home's log after its seat, and a message that it says is ordered by the
//! home. A replica without members says so, and is dismissed unless a member is on its way there.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Chat, Member,
    parcel::{Item, Parcel, Said, Seat, Unposted, Verdict},
    turn::Sender,
};
use crate::{
    close::Close,
    identity::{RoomId, User},
    shard::{
        conn::{ConnId, Conns},
        replica::{self, Part, Replica},
        room::{Batch, Room},
    },
    writer::Why,
    ws::handshake::Refusal,
};

impl Chat {
    // ---- At the room's home -----------------------------------------------------------------------------------------

    /// The shard that the room's next member sits on.
    pub(super) fn shard_of_next_seat(&self, room: u32) -> usize {
        let Room { part, members, .. } = &self.rooms[room as usize];
        let Part::Home(replicas) = part else { return self.shard };
        replica::seat(self.shard, members.len() as u64, replicas, self.posts.shards.len(), self.rules.spill_members)
    }

    /// Sends a client that was let in to its seat on another shard. Every batch from now on follows it there.
    pub(super) fn seat_elsewhere(
        &mut self,
        conns: &mut Conns<Member>,
        conn: ConnId,
        room: u32,
        shard: usize,
        accept: Bytes,
        user: Arc<User>,
    ) {
        let Room { id, part: Part::Home(replicas), .. } = &mut self.rooms[room as usize] else { return };
        let Some(taken) = conns.take(conn) else { return };
        let place = replicas.iter().position(|replica| replica.shard == shard).unwrap_or_else(|| {
            replicas.push(Replica::new(shard));
            replicas.len() - 1
        });
        let seat = Seat { taken, accept, room: *id, user, ended: replicas[place].seat() };
        self.parcels.add(shard, Item::Seat(Box::new(seat)));
    }

    /// A message of a member that sits on another shard.
    fn hear(&mut self, conns: &mut Conns<Member>, shard: usize, said: Said) {
        let Said { room, conn, user, message, receiver } = said;
        let verdict = match self.by_id.get(&room).copied() {
            Some(_) if self.is_refused(room, user.id) => Verdict::Unsaved(Why::Refused),
            Some(room) if self.append(Sender { shard, conn, room, user: &user }, &message, receiver) => return,
            _ => Verdict::Unsaved(Why::GivenUp),
        };
        self.tell(conns, shard, conn, verdict);
    }

    /// No member is left there: unless one is on its way, nothing more is sent.
    fn dismiss(&mut self, room: RoomId, shard: usize) {
        let Some(index) = self.by_id.get(&room).copied() else { return };
        let Part::Home(replicas) = &mut self.rooms[index as usize].part else { return };
        let before = replicas.len();
        replicas.retain(|replica| replica.shard != shard || replica.members() > 0);
        if replicas.len() < before {
            self.parcels.add(shard, Item::Dismissed(room));
            self.leave_if_deserted(index);
        }
    }

    /// What a shard was to get of batches it will not get: its replicas end.
    fn cut_off(&mut self, shard: usize) {
        let mut cut = Vec::new();
        for (_, room) in &mut self.rooms {
            if let Part::Home(replicas) = &mut room.part {
                let there = replicas.iter_mut().filter(|replica| replica.shard == shard && !replica.is_cut_off);
                cut.extend(there.map(|replica| {
                    replica.is_cut_off = true;
                    room.id
                }));
            }
        }
        if !cut.is_empty() {
            tracing::warn!(
                shard,
                rooms = cut.len(),
                "a shard is so far behind with rooms that spilled over to it that their members there are asked to come back; \
                 its core is overloaded"
            );
        }
        self.counters.replicas_cut_off.add(cut.len() as u64);
        cut.into_iter().for_each(|room| self.parcels.add(shard, Item::CutOff(room)));
    }

    // ---- At a replica -----------------------------------------------------------------------------------------------

    /// A member that was let in by the room's home sits down here.
    fn sit(&mut self, conns: &mut Conns<Member>, home: usize, seat: Seat) {
        let Seat { taken, accept, room, user, ended } = seat;
        let rooms = &mut self.rooms;
        let index =
            *self.by_id.entry(room).or_insert_with(|| rooms.insert(Room::replica(room, home, ended.clone())) as u32);
        let conn = conns.adopt(taken);
        match conns.is_asking(conn) {
            true => {
                self.counters.spilled.up();
                self.join(conns, conn, index, &accept, user);
            }
            // Turned away: the server stops.
            false => {
                ended.up();
                self.left.push(index);
            }
        }
    }

    /// What entered the log at the room's home enters it here.
    fn replicate(&mut self, room: RoomId, batch: Batch) {
        let Some(index) = self.by_id.get(&room).copied() else { return };
        self.rooms[index as usize].broadcast(batch);
        self.grown.push(index);
    }

    /// Passes a message on to its room's home. False if that does not keep up.
    pub(super) fn pass_on(&mut self, home: usize, said: Said) -> bool {
        if !self.parcels.takes(home, said.message.len()) {
            return false;
        }
        self.parcels.add(home, Item::Said(Box::new(said)));
        true
    }

    /// Batches are missing: to go on would be a gap.
    fn close_members(&mut self, conns: &mut Conns<Member>, room: RoomId) {
        let Some(index) = self.by_id.get(&room) else { return };
        for member in &self.rooms[*index as usize].members {
            conns.close(*member, Close::CutOff);
        }
    }

    // ---- At both ----------------------------------------------------------------------------------------------------

    /// What another shard had for this one.
    pub(super) fn unpack(&mut self, conns: &mut Conns<Member>, parcel: Parcel) {
        let (from, items) = parcel.open();
        for item in items {
            match item {
                Item::Seat(seat) => self.sit(conns, from, *seat),
                Item::Batch(room, batch) => self.replicate(room, batch),
                Item::Said(said) => self.hear(conns, from, *said),
                Item::Settled(conn, verdict) => self.settled(conns, conn, verdict),
                Item::Vacated(room) => self.dismiss(room, from),
                Item::Dismissed(room) => self.forget(room),
                Item::CutOff(room) => self.close_members(conns, room),
                Item::PassedAll => self.passing -= 1,
            }
        }
    }

    /// The server stops. From now on everybody who waits to be let in is turned away here, so the other shards get no
    /// connections from this one. Each of them waits to hear that before it ends: a connection that arrives in the mailbox of a
    /// shard that has ended would be closed without a word.
    pub(super) fn pass_no_more(&mut self) {
        if !std::mem::replace(&mut self.is_stopping, true) {
            let others = (0..self.posts.shards.len()).filter(|shard| *shard != self.shard);
            others.for_each(|shard| self.parcels.add(shard, Item::PassedAll));
        }
    }

    /// Posts what this turn has for other shards.
    pub(super) fn post_parcels(&mut self, conns: &mut Conns<Member>) {
        if self.parcels.are_posted() {
            return;
        }
        for unposted in self.parcels.post(&self.posts, &self.counters) {
            match unposted {
                Unposted::Behind(shard) => self.cut_off(shard),
                Unposted::Gone(shard, items) => {
                    items.into_iter().for_each(|item| self.bring_back(conns, item));
                    self.do_without(shard);
                }
            }
        }
    }

    /// What was for a shard that has ended, as all of them do: whoever waits for it is told.
    fn bring_back(&mut self, conns: &mut Conns<Member>, item: Item) {
        match item {
            Item::Seat(seat) => {
                let conn = conns.adopt(seat.taken);
                conns.refuse(conn, Refusal::Full);
            }
            Item::Said(said) => self.settled(conns, said.conn, Verdict::Unsaved(Why::GivenUp)),
            _ => {}
        }
    }

    /// That shard has ended, and its replicas with it; those that it was home to are told nothing more.
    fn do_without(&mut self, shard: usize) {
        let mut deserted = Vec::new();
        for (_, room) in &mut self.rooms {
            let is_over = match &mut room.part {
                Part::Home(replicas) => {
                    replicas.retain(|replica| replica.shard != shard);
                    replicas.is_empty()
                }
                Part::Replica { home, .. } => *home == shard,
            };
            deserted.extend((is_over && room.is_deserted()).then_some(room.id));
        }
        deserted.into_iter().for_each(|room| self.forget(room));
    }

    /// Forgets a room that nobody needs. Of a replica its home decides.
    pub(super) fn leave_if_deserted(&mut self, index: u32) {
        let room = &self.rooms[index as usize];
        if !room.is_deserted() {
            return;
        }
        match &room.part {
            Part::Home(replicas) if replicas.is_empty() => self.forget(room.id),
            Part::Home(_) => {}
            Part::Replica { home, .. } => self.parcels.add(*home, Item::Vacated(room.id)),
        }
    }

    fn forget(&mut self, room: RoomId) {
        if let Some(index) = self.by_id.remove(&room) {
            self.rooms.remove(index as usize);
        }
    }
}
