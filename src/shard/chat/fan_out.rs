//! What a room's log has more than a member was sent, to that member: one send for everyone who is not sending already.

use super::{Chat, Member};
use crate::{
    close::Close,
    metrics::Counters,
    shard::{
        conn::{ConnId, Conns},
        room::{After, Log, Room},
    },
};

impl Chat {
    /// One send for every member that is not sending already.
    pub(super) fn fan_out(&mut self, conns: &mut Conns<Member>, index: u32) {
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

/// Sends a member what it lacks, if it listens. True if it then has everything.
pub(super) fn send_log(conns: &mut Conns<Member>, counters: &Counters, id: ConnId, log: &mut Log) -> bool {
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
