//! A message of a member: parsed in place, checked, stamped, encoded once into its room's open batch, and recorded in the turn.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{
    Chat, Keep, Member, Question,
    member::within_rate,
    parcel::Said,
    turn::{Origin, Sender},
};
use crate::{
    close::Close,
    identity::{RoomId, User, UserId},
    journal::record::{Record, encoded_len},
    protocol::{Envelope, InputError, output},
    shard::{
        conn::{ConnId, Conns},
        replica::Part,
    },
    store::{Micros, Row},
};

/// Receivers remembered by a shard before it forgets them all, and senders that were refused.
const LOOKUPS_MAX: usize = 65_536;

impl Chat {
    pub(super) fn text(&mut self, conns: &mut Conns<Member>, id: ConnId, text: &mut [u8]) {
        let now = self.now();
        let Some(member) = conns.peer(id) else { return };
        match self.parser.parse(text, self.rules.message_chars_max) {
            Err(error) => self.reject(conns, id, error),
            Ok(_) if !within_rate(&mut member.allowed_at, &self.rules, now) => {
                self.reject(conns, id, InputError::RateLimited)
            }
            Ok(_) if self.is_refused(self.rooms[member.room as usize].id, member.user.id) => {
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
                receiver => self.say(conns, id, &chat.message, receiver),
            },
        }
    }

    /// The database took nothing from this sender in this room lately: one of them is gone. Not to be sent on and on to the
    /// dead letters, what it says now is refused at once. The room's home knows.
    pub(super) fn is_refused(&self, room: RoomId, sender: UserId) -> bool {
        !self.refused.is_empty() && self.refused.get(&(room, sender)).is_some_and(|until| Instant::now() < *until)
    }

    pub(super) fn knows(&self, member: &Member, receiver: UserId) -> bool {
        let room = self.rooms[member.room as usize].id;
        receiver == member.user.id || self.receivers.get(&(room, receiver)).is_some_and(|until| Instant::now() < *until)
    }

    /// The message waits, and with it everything that its sender says after it, until the receiver is known.
    pub(super) fn ask_receiver(&mut self, conns: &mut Conns<Member>, id: ConnId, message: &str, receiver: UserId) {
        let Some(member) = conns.peer(id) else { return };
        let room = self.rooms[member.room as usize].id;
        let question = Question::Receiver { shard: self.shard, conn: id, room, user: receiver };
        if let Err(undelivered) = self.posts.control.post(question) {
            undelivered.letter(&self.counters);
            return self.reject(conns, id, InputError::NotSaved);
        }
        member.waiting = Some(Box::new((message.to_owned(), receiver)));
        conns.pause(id);
    }

    pub(super) fn receiver_known(
        &mut self,
        conns: &mut Conns<Member>,
        id: ConnId,
        receiver: UserId,
        is_member: Option<bool>,
    ) {
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
                self.say(conns, id, &waiting.0, Some(receiver));
            }
        }
        conns.resume(id);
    }

    /// A member says something that is in order: to the room if this is its home, which may be another shard.
    fn say(&mut self, conns: &mut Conns<Member>, id: ConnId, message: &str, receiver: Option<UserId>) {
        let Some(member) = conns.peer(id) else { return };
        let room = &self.rooms[member.room as usize];
        let is_taken = match &room.part {
            Part::Home(_) => {
                let sender = Sender { shard: self.shard, conn: id, room: member.room, user: &member.user };
                self.append(sender, message, receiver)
            }
            Part::Replica { home, .. } => {
                let (home, room, user) = (*home, room.id, Arc::clone(&member.user));
                self.pass_on(home, Said { room, conn: id, user, message: message.to_owned(), receiver })
            }
        };
        match is_taken {
            true => member.unsettled += 1,
            false => self.reject(conns, id, InputError::NotSaved),
        }
    }

    /// Stamps a message, encodes it into its room's batch and records it in the turn. False if it cannot be kept.
    pub(super) fn append(&mut self, sender: Sender<'_>, message: &str, receiver: Option<UserId>) -> bool {
        let now = self.now();
        let Sender { shard, conn, room: index, user } = sender;
        if !self.has_room(user, message) {
            return false;
        }
        let (message_id, timestamp) = self.stamper.stamp(now);
        let room = &mut self.rooms[index as usize];
        if room.open_is_empty() {
            self.present.rooms.push(index);
        }
        let User { id: sender, username: sender_username } = user;
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
        self.present.origins.push(Origin { shard, conn, room: index, frame_len });
        self.counters.messages.up();
        true
    }

    /// Whether a message can be kept until it is saved.
    pub(super) fn has_room(&self, sender: &User, message: &str) -> bool {
        let is_within_bounds = self.unsettled_messages + self.present.origins.len() < self.rules.unsettled_max
            && self.unsettled_bytes < self.rules.unsettled_bytes_max;
        is_within_bounds
            && match &self.keep {
                Keep::Writer | Keep::Memory => true,
                Keep::Journal(journal) => journal.has_room(encoded_len(sender.username.len(), message.len())),
            }
    }

    /// The wall clock, read once a turn.
    pub(super) fn now(&mut self) -> Micros {
        *self.now.get_or_insert_with(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            since.as_micros() as Micros
        })
    }

    pub(super) fn refuse(&mut self, room: RoomId, sender: UserId) {
        if self.refused.len() >= LOOKUPS_MAX {
            self.refused.clear();
        }
        self.refused.insert((room, sender), Instant::now() + self.rules.lookup_cache);
    }

    pub(super) fn unsaved(&self) -> Vec<Bytes> {
        self.unsettled.iter().map(|turn| turn.records.clone()).filter(|records| !records.is_empty()).collect()
    }

    pub(super) fn reject(&mut self, conns: &mut Conns<Member>, id: ConnId, error: InputError) {
        self.counters.rejected.up();
        conns.say(id, |outbox| output::error(outbox, error));
        match error {
            InputError::NotSaved => self.counters.not_saved.up(),
            _ => self.strike(conns, id),
        }
    }

    /// Counts a rejected message against its sender.
    pub(super) fn strike(&self, conns: &mut Conns<Member>, id: ConnId) {
        let Some(member) = conns.peer(id) else { return };
        member.strikes += 1;
        if member.strikes > self.rules.errors_max {
            conns.close(id, Close::TooManyErrors);
        }
    }
}
