//! Letting clients in: from an upgrade request, by way of the room's shard and the control thread's answer, to a seat in the
//! room.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{Admittance, Adoption, Chat, Mail, Member, Question};
use crate::{
    auth::Admission,
    close::Close,
    identity::{RoomId, Token, User},
    protocol::{ChatRequest, connect, output},
    shard::{
        conn::{ConnId, Conns},
        room::Room,
    },
    ws::handshake::{self, Refusal, Request},
};

impl Chat {
    /// Checks an upgrade request, and the bytes that accept it.
    pub(super) fn consider(&self, request: &Request) -> Result<(ChatRequest, Bytes), Refusal> {
        let chat = ChatRequest::read(request)?;
        if !connect::origin_allowed(connect::origin(request), &self.rules.origins) {
            return Err(Refusal::OriginForbidden);
        }
        let accept = handshake::accept(request, chat.selected_protocol)?;
        Ok((chat, accept))
    }

    pub(super) fn hand_over(
        &mut self,
        conns: &mut Conns<Member>,
        id: ConnId,
        shard: usize,
        chat: ChatRequest,
        accept: Bytes,
    ) {
        let Some(taken) = conns.take(id) else { return };
        let adoption = Box::new(Adoption { taken, accept, room: chat.room, token: chat.token });
        match self.posts.shards[shard]
            .post(Mail::Adopt(adoption))
            .map_err(|undelivered| undelivered.letter(&self.counters))
        {
            Ok(()) => self.counters.handed_over.up(),
            Err(Mail::Adopt(adoption)) => {
                let id = conns.adopt(adoption.taken);
                conns.refuse(id, Refusal::Full);
            }
            Err(_) => unreachable!("the letter comes back as it was"),
        }
    }

    pub(super) fn ask(&mut self, conns: &mut Conns<Member>, admittance: Admittance, token: Option<Token>) {
        let Some(token) = token else { return self.admit(conns, admittance, Admission::Unauthorized) };
        let question = Question::Admit { shard: self.shard, admittance: Box::new(admittance), token };
        let asked = self.posts.control.post(question).map_err(|undelivered| undelivered.letter(&self.counters));
        if let Err(Question::Admit { admittance, .. }) = asked {
            self.admit(conns, *admittance, Admission::Unavailable);
        }
    }

    pub(super) fn admit(&mut self, conns: &mut Conns<Member>, admittance: Admittance, admission: Admission) {
        let Admittance { conn, room, accept } = admittance;
        match admission {
            Admission::Admitted(user) => self.seat(conns, conn, room, accept, user),
            Admission::Unauthorized => conns.open_and_close(conn, &accept, Close::Unauthorized),
            Admission::NotMember => conns.open_and_close(conn, &accept, Close::NotMember),
            Admission::Unavailable => conns.open_and_close(conn, &accept, Close::DatabaseUnavailable),
        }
    }

    /// Seats a client that was let in: here, or on another shard when the room has spilled over.
    fn seat(&mut self, conns: &mut Conns<Member>, conn: ConnId, room_id: RoomId, accept: Bytes, user: Arc<User>) {
        if !conns.is_asking(conn) {
            return;
        }
        let rooms = &mut self.rooms;
        let room = *self.by_id.entry(room_id).or_insert_with(|| rooms.insert(Room::new(room_id)) as u32);
        match self.shard_of_next_seat(room) {
            shard if shard == self.shard => self.join(conns, conn, room, &accept, user),
            shard => self.seat_elsewhere(conns, conn, room, shard, accept, user),
        }
    }

    /// From here on every batch that enters the room's log reaches this connection: no gap after the greeting.
    pub(super) fn join(&mut self, conns: &mut Conns<Member>, conn: ConnId, room: u32, accept: &[u8], user: Arc<User>) {
        let Room { id, members, log, .. } = &mut self.rooms[room as usize];
        members.push(conn);
        let cursor = log.enter();
        let greet = |outbox: &mut BytesMut| {
            outbox.extend_from_slice(accept);
            output::established(outbox, *id, &user);
        };
        let member =
            Member { user: Arc::clone(&user), room, cursor, unsettled: 0, strikes: 0, allowed_at: 0, waiting: None };
        conns.open(conn, greet, member);
    }
}
