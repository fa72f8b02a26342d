//! The journals of one run: opened before the threads start, shared out among them, swept when they have ended.
//!
//! In: a checked [`Config`] and what earlier runs left. Out: each shard's appender, the writer's backlog and the outlets for its
//! news, and what a room's history reads. Control thread.

use std::{io, sync::Arc};

use crate::{
    config::{Config, Durability},
    dead_letters::DeadLetters,
    failure::Failure,
    identity::{RoomId, UserId},
    journal::{
        Leftovers, Progress,
        appender::{self, Appender},
        pending::Pending,
        place::Place,
        record::{Record, encoded_len},
        recovery::{self, Recovered},
        tail::{self, Damage, Tail},
    },
    limits::{JOURNAL_NAME_BYTES_MAX, JOURNAL_READ_BYTES},
    metrics::Counters,
    shard::{chat::Mail, journal::Files, mailbox::Postbox},
    topology::Topology,
    writer::{Backlog, Outlets, Settled},
};

/// What a segment's size is a multiple of.
const BLOCK_BYTES: u64 = 4096;

/// The journals of this run, and what earlier ones left.
pub(super) struct Journals {
    pub(super) place: Arc<Place>,
    pub(super) recovered: Recovered,
    pub(super) leftovers: Leftovers,
    /// Of each shard.
    pub(super) progress: Vec<Arc<Progress>>,
    /// `None`: messages are not journalled, and only what earlier runs left is read.
    pub(super) rules: Option<appender::Rules>,
}

impl Journals {
    /// Takes the journal's directory, and looks at what is in it.
    pub(super) fn open(config: &Config, shards: usize) -> Result<Journals, Failure> {
        let rules = journal_rules(config, shards)?;
        let place = Place::take(&config.data_dir)?;
        let mut recovered = recovery::recover(&place)?;
        let leftovers = Leftovers::new(std::mem::take(&mut recovered.segments).into());
        let progress = (0..shards).map(|_| Arc::default()).collect();
        Ok(Journals { place: Arc::new(place), recovered, leftovers, progress, rules })
    }

    /// What the writer is to save out of them.
    pub(super) fn backlog(&self, config: &Config) -> Backlog {
        let start = appender::start(self.recovered.next_number);
        let tail = |(shard, progress): (u32, &Arc<Progress>)| {
            progress.begin(start);
            Tail::new(self.place.directory(), shard, Arc::clone(progress))
        };
        let tails = (0..).zip(&self.progress).map(tail).collect();
        let limits = tail::Limits { records: config.commit_rows_max, bytes: JOURNAL_READ_BYTES };
        Backlog::new(tails, Arc::clone(&self.leftovers), limits)
    }

    /// What of them a room's history needs.
    pub(super) fn pending(&self, topology: &Arc<Topology>) -> Pending {
        let first = self.recovered.next_number;
        let shards = self.progress.iter().map(|progress| (Arc::clone(progress), first)).collect();
        Pending::new(self.place.directory(), Arc::clone(topology), shards, Arc::clone(&self.leftovers))
    }

    /// The journal of one shard, unless messages are not journalled.
    pub(super) fn of_shard(&self, shard: usize) -> Option<(Files, Appender)> {
        let rules = appender::Rules { shard: shard as u32, ..self.rules? };
        let progress = Arc::clone(&self.progress[shard]);
        let Recovered { next_number, next_sequence, .. } = self.recovered;
        let appender = Appender::new(rules, progress, next_number, next_sequence);
        let directory = self.place.directory().to_owned();
        Some((Files { directory, shard: rules.shard, segment_bytes: rules.segment_bytes }, appender))
    }

    /// Removes the files of this run that nobody needs any more, once all threads have ended.
    pub(super) fn sweep(&self) {
        for (shard, progress) in (0..).zip(&self.progress) {
            if let Err(error) = self.place.sweep(shard, self.recovered.next_number, progress) {
                tracing::warn!(%error, "a file of the journal that nobody needs cannot be removed; the next start looks at it again");
            }
        }
    }
}

/// How each of so many shards keeps its journal, if `durability` asks for one: in segments as large as configured, or as small
/// as needed for each shard to have enough of them.
///
/// # Errors
/// When they would be too small for the longest message.
pub fn journal_rules(config: &Config, shards: usize) -> Result<Option<appender::Rules>, Failure> {
    if !matches!(config.durability, Durability::Sync | Durability::Journal) {
        return Ok(None);
    }
    let of_shard = config.journal_bytes_max / shards as u64;
    let largest = of_shard / u64::from(appender::SEGMENTS_MIN);
    let segment_bytes = round_down(u64::from(config.journal_segment_bytes).min(largest));
    let record_bytes_max = encoded_len(JOURNAL_NAME_BYTES_MAX, config.message_bytes_max);
    let least = (appender::segment_bytes_min(record_bytes_max) as u64).next_multiple_of(BLOCK_BYTES);
    if segment_bytes < least {
        let bytes_max = least * u64::from(appender::SEGMENTS_MIN) * shards as u64;
        let keys = [
            ("journal_bytes_max", config.journal_bytes_max, bytes_max),
            ("journal_segment_bytes", config.journal_segment_bytes.into(), least),
        ];
        let short = keys.into_iter().filter(|(_, bytes, needed)| bytes < needed);
        let wanted = short.map(|(key, bytes, needed)| format!("`{key}` ({bytes}) to at least {needed}"));
        return Err(Failure::unusable(format!(
            "for messages of {} bytes (`message_bytes_max`) the journal of each of {shards} shards needs {} files of {least} \
             bytes: raise {}, or lower that",
            config.message_bytes_max,
            appender::SEGMENTS_MIN,
            wanted.collect::<Vec<_>>().join(" and "),
        )));
    }
    Ok(Some(appender::Rules {
        shard: 0,
        segment_bytes: segment_bytes as u32,
        segments_max: u32::try_from(of_shard / segment_bytes).unwrap_or(u32::MAX),
        record_bytes_max,
        sync: config.durability == Durability::Sync,
    }))
}

/// To whole blocks of the disk.
fn round_down(bytes: u64) -> u64 {
    bytes / BLOCK_BYTES * BLOCK_BYTES
}

/// Where the writer's news goes.
pub(super) struct WriterOutlets {
    pub(super) shards: Vec<Postbox<Mail>>,
    pub(super) topology: Arc<Topology>,
    pub(super) dead_letters: DeadLetters,
    pub(super) place: Arc<Place>,
    pub(super) counters: Arc<Counters>,
}

impl Outlets for WriterOutlets {
    fn settle(&mut self, shard: usize, settled: Settled) {
        // A shard that is gone needs no answer, and one whose mailbox is full reads it without waiting for us.
        let _ = self.shards[shard].post_blocking(Mail::Settled(settled), &self.counters);
    }

    fn refused(&mut self, room: RoomId, sender: UserId) {
        let home = &self.shards[self.topology.shard_of(room)];
        let _ = home.post_blocking(Mail::Refused(room, sender), &self.counters);
    }

    fn bury(&mut self, letters: &[(&Record<'_>, &str)]) -> io::Result<()> {
        self.dead_letters.append(letters).map(|_| ())
    }

    fn keep_aside(&mut self, damage: &Damage) -> io::Result<()> {
        recovery::keep_bytes_aside(&self.place, &damage.path, damage.offset, &damage.bytes).map_err(io::Error::other)
    }
}
