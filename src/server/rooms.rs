//! What HTTP asks of the rest: who may enter a room, and what was said in it. Control thread.

use std::sync::Arc;

use tokio::{sync::oneshot, task::spawn_blocking};
use uuid::Uuid;

use crate::{
    auth::{Admission, Auth},
    history::{self, Unread},
    http::{self, History},
    identity::{RoomId, Token},
    journal::{pending::Pending, record::decode_all},
    metrics::Counters,
    shard::{chat::Mail, mailbox::Postbox},
    store::{Reader, Saved},
    topology::Topology,
};

/// What HTTP asks of the rest.
#[derive(Clone)]
pub(super) struct Rooms {
    pub(super) auth: Auth<Reader>,
    pub(super) memory: Memory,
    pub(super) pending: Arc<Pending>,
    pub(super) counters: Arc<Counters>,
}

impl http::Rooms for Rooms {
    async fn admit(&self, token: Option<Token>, room: RoomId) -> Admission {
        self.auth.admit(token, room).await
    }

    async fn history(&self, room: RoomId, before: Option<Uuid>, limit: u16) -> History {
        match history::read(self.auth.directory(), &self.memory, &self.pending, room, before, limit).await {
            Ok(Some(messages)) => History::Messages(messages),
            Ok(None) => History::UnknownMessage,
            Err(unread) => {
                self.counters.histories_failed.up();
                let failed = self.counters.histories_failed.get();
                // One line for an outage that many notice: the first, the second, the fourth …
                if failed.is_power_of_two() {
                    tracing::warn!(reason = %unread, failed, "a room's history cannot be read; whoever asks is told to come back");
                }
                History::Unavailable
            }
        }
    }
}

/// What the shards have broadcast and only memory has yet.
#[derive(Clone)]
pub(super) struct Memory {
    /// None where what is broadcast is in the database or in a journal.
    pub(super) shards: Vec<Postbox<Mail>>,
    pub(super) topology: Arc<Topology>,
    pub(super) counters: Arc<Counters>,
}

impl history::Memory for Memory {
    async fn unsaved(&self, room: RoomId) -> Result<Vec<Saved>, Unread> {
        let Some(shard) = self.shards.get(self.topology.shard_of(room)) else { return Ok(Vec::new()) };
        let (reply, answer) = oneshot::channel();
        if let Err(undelivered) = shard.post(Mail::Unsaved(reply)) {
            undelivered.letter(&self.counters);
            return Err(Unread::Shard);
        }
        let turns = answer.await.map_err(|_| Unread::Shard)?;
        // All rooms' messages are looked through: elsewhere, for they may be many.
        let of_room = spawn_blocking(move || {
            let records = turns.iter().flat_map(|records| decode_all(records));
            records.filter(|record| record.row.room == room).map(|record| record.saved()).collect()
        });
        of_room.await.map_err(|_| Unread::Shard)
    }
}
