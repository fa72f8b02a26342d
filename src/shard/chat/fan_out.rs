//! What a room's log has more than a member was sent, to that member: one send for everyone who is not sending already.

use super::{Chat, Member, each_once};
use crate::{
    close::Close,
    metrics::Counters,
    shard::{
        Service,
        conn::{ConnId, Conns},
        room::{After, Log, Room},
    },
};

impl Chat {
    /// Those who have left are members of their rooms no more.
    pub(super) fn strike_off(&mut self, conns: &mut Conns<Member>) {
        for member in conns.take_departed() {
            self.departed(member);
        }
        for room in each_once(&mut self.left) {
            if let Some(left) = self.rooms.get_mut(room as usize) {
                left.members.retain(|id| conns.peer(*id).is_some());
                self.leave_if_deserted(room);
            }
        }
    }

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

#[cfg(test)]
mod tests {
    use std::{rc::Rc, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        identity::{RoomId, User, UserId},
        shard::{
            chat::{Keep, Posts, member::rules},
            conn::{Patience, taken},
            mailbox::mailbox,
            occupancy::Occupancy,
            ring::Pool,
        },
        stamp::Stamper,
        topology::Topology,
    };

    fn chat(counters: &Arc<Counters>) -> Chat {
        let posts = Posts { shards: vec![mailbox(1).0], control: mailbox(1).0, writer: mailbox(1).0 };
        let topology = Arc::new(Topology::new(&[0], 1));
        Chat::new(0, topology, rules(), Rc::new(posts), Keep::Memory, Stamper::new(), Arc::clone(counters))
    }

    fn conns(pool: &Rc<Pool>, counters: &Arc<Counters>) -> Conns<Member> {
        let second = Duration::from_secs(1);
        let patience = Patience { head: second, ask: second, ping: second, close: second, settle: second };
        Conns::new(4, Rc::clone(pool), patience, Arc::new(Occupancy::new(9, 9)), Arc::clone(counters))
    }

    /// A sender is closed over what became of its message, when those who left in this turn have been looked at already.
    #[test]
    fn who_is_closed_as_a_turn_ends_is_not_waited_for() {
        let (pool, runtime) = (Pool::new(), tokio_uring::Runtime::new(&tokio_uring::builder()).unwrap());
        runtime.block_on(async {
            let counters = Arc::default();
            let (mut chat, mut conns) = (chat(&counters), conns(&pool, &counters));
            let room = chat.rooms.insert(Room::new(RoomId::nil())) as u32;
            let ids = ["ann", "bob"].map(|name| {
                let user = User { id: UserId::Int(1), username: name.into() };
                let id = conns.adopt(taken(&conns));
                chat.join(&mut conns, id, room, b"", Arc::new(user));
                id
            });
            conns.close(ids[0], Close::TooManyErrors);
            chat.grown.push(room);
            chat.turn_ends(&mut conns);
            let Room { members, behind, .. } = &chat.rooms[room as usize];
            assert_eq!((&members[..], *behind), (&ids[1..], 0));
            assert!(conns.take_departed().is_empty());
        });
        // As when a shard ends with operations in the kernel's hands.
        std::mem::forget((runtime, pool));
    }
}
