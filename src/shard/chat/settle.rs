//! Kept, then broadcast: the end of a turn, what became of its messages, and what of them enters the rooms' logs.

use super::{
    Chat, Keep, Member,
    parcel::{Item, Verdict},
    turn::{Unsettled, without_unsaved},
};
use crate::{
    journal::appender::Outcome,
    protocol::InputError,
    shard::{
        conn::{ConnId, Conns},
        replica::Part,
    },
    writer::{Settled, Why},
};

impl Chat {
    /// Seals every open batch and passes the turn on.
    pub(super) fn seal_turn(&mut self, conns: &mut Conns<Member>) {
        self.now = None;
        if self.present.origins.is_empty() {
            return;
        }
        let number = self.unsettled_first + self.unsettled.len() as u64;
        let next = self.present.next();
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
    pub(super) fn post_turn(&mut self, conns: &mut Conns<Member>, number: u64) {
        let turn = self.filling.end(self.shard, number);
        let records = turn.records.clone();
        if let Err(undelivered) = self.posts.writer.post(Box::new(turn)) {
            let turn = undelivered.letter(&self.counters);
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
    pub(super) fn settle_journalled(&mut self, conns: &mut Conns<Member>) {
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
    pub(super) fn settle(&mut self, conns: &mut Conns<Member>, settled: Settled) {
        let Some(place) = settled.turn.checked_sub(self.unsettled_first) else { return };
        let Some(turn) = self.unsettled.get_mut(place as usize).filter(|turn| !turn.is_settled) else { return };
        let first_sequence = turn.first_sequence;
        let mut turn = std::mem::replace(turn, Unsettled::settled(first_sequence));
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
    pub(super) fn broadcast(&mut self, conns: &mut Conns<Member>, number: u64, turn: &Unsettled) {
        let mut unsaved = turn.unsaved.iter().peekable();
        for (number, origin) in turn.origins.iter().enumerate() {
            let why = unsaved.next_if(|(message, _)| *message as usize == number).map(|(_, why)| *why);
            let verdict = match why {
                Some(why) => Verdict::Unsaved(why),
                None if turn.unsaved.is_empty() => Verdict::Kept,
                None => Verdict::KeptAmongUnsaved,
            };
            self.tell(conns, origin.shard, origin.conn, verdict);
        }
        for room in &turn.rooms {
            self.release(number, *room, turn);
        }
    }

    /// Tells a sender's shard what became of its message.
    pub(super) fn tell(&mut self, conns: &mut Conns<Member>, shard: usize, conn: ConnId, verdict: Verdict) {
        match shard == self.shard {
            true => self.settled(conns, conn, verdict),
            false => self.parcels.add(shard, Item::Settled(conn, verdict)),
        }
    }

    /// A message of a member that sits here is done with.
    pub(super) fn settled(&mut self, conns: &mut Conns<Member>, conn: ConnId, verdict: Verdict) {
        let Some(member) = conns.peer(conn) else { return };
        member.unsettled -= 1;
        match verdict {
            Verdict::Kept => member.strikes = 0,
            Verdict::KeptAmongUnsaved => {}
            Verdict::Unsaved(why) => {
                self.reject(conns, conn, InputError::NotSaved);
                // The server's trouble is not the client's offence; to go on sending to a room that is gone is one.
                if why == Why::Refused {
                    self.strike(conns, conn);
                }
            }
        }
    }

    pub(super) fn release(&mut self, number: u64, index: u32, turn: &Unsettled) {
        let room = &mut self.rooms[index as usize];
        let Some(mut batch) = room.release(number) else { return };
        if !turn.unsaved.is_empty() {
            batch = without_unsaved(&batch, index, &turn.origins, &turn.unsaved);
        }
        if batch.messages > 0 {
            if let Part::Home(replicas) = &room.part {
                for replica in replicas.iter().filter(|replica| !replica.is_cut_off) {
                    self.parcels.add(replica.shard, Item::Batch(room.id, batch.clone()));
                }
            }
            room.broadcast(batch);
        }
        self.grown.push(index);
    }
}
