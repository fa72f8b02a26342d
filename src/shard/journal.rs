//! A shard's journal on its ring: carries out what [`Appender`] decides.
//!
//! In: the turn's records. Out: what of them is held or refused; it rings the shard's own mailbox when there is news, and
//! the writer's when there is more to save. On the shard's thread. At most one write, one sync, one preparation of a file and one
//! removal are under way at a time, each a task of the shard's runtime, which keeps the buffer until the kernel is done with
//! it.
//!
//! But for a short write, which the shard makes itself: a copy into the page cache, of two microseconds for a message or ten.
//! On the ring the kernel hands it to a worker thread (ext4 refuses a buffered write that must not wait), which costs a
//! hundred, half of them this core's. It may wait all the same: for a block of a used file that the cache has lost, for a file
//! system that is frozen. Where it took [`WRITE_SLOW`], writes go by the ring for a while, longer each time.

use std::{
    cell::{Cell, RefCell},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_uring::fs::{File, OpenOptions, remove_file, rename, statx};

use super::ring;
use crate::{
    journal::{
        Position,
        appender::{Appender, Done, Op, Outcome},
        record::Record,
        segment::file_name,
    },
    metrics::Counters,
};

/// What a shard's journal is made of.
pub struct Files {
    /// The directory of the segments.
    pub directory: PathBuf,
    /// Whose they are.
    pub shard: u32,
    /// The size of one.
    pub segment_bytes: u32,
}

/// The longest write that a shard makes itself: a copy of less than a hundred microseconds.
const WRITE_BYTES_MAX: usize = 256 * 1024;

/// What is too long for one. A thread that is preempted waits for some milliseconds too, and that is not the disk's doing.
const WRITE_SLOW: Duration = Duration::from_millis(10);

/// Ticks for which writes go by the ring after a slow one: a second at first, and a minute at most.
const RING_TICKS: u32 = 4;
const RING_TICKS_MAX: u32 = 240;

/// Whom a journal tells.
pub struct Bells {
    /// There are outcomes.
    pub news: Box<dyn Fn()>,
    /// More is held.
    pub held: Box<dyn Fn()>,
}

/// The journal of a shard.
pub struct Journal(Rc<Inner>);

struct Inner {
    files: Files,
    appender: RefCell<Appender>,
    /// The files that are written, or will be next, by their segments' numbers.
    open: RefCell<Vec<(u32, Rc<File>)>>,
    /// The directory as it was when the first file was made. Open, so that no other can be taken for it.
    directory: RefCell<Option<Rc<File>>>,
    /// It is being looked whether the present segment's file is at its place.
    is_looking: Cell<bool>,
    disk: Cell<Disk>,
    /// For so many ticks writes go by the ring.
    ring_ticks: Cell<u32>,
    /// For how many it will be after the next slow write: twice as many each time, and fewer while none is slow.
    slow_ticks: Cell<u32>,
    /// There was no room for a record, and it is not half empty again.
    is_full: Cell<bool>,
    /// A segment could not be removed when it was last tried.
    has_litter: Cell<bool>,
    /// What is to be refused could not be taken back when that was last tried.
    is_in_doubt: Cell<bool>,
    counters: Arc<Counters>,
    bells: Bells,
}

/// What is known of the disk. Told to the operator when it begins to fail, and when it works again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Works,
    /// A file could not be made. It works when one can.
    MakesNoFile,
    /// A write or a sync failed. It works when something is held in a file that was made since.
    WritesNothing,
    /// There is such a file.
    HasNewFile,
}

impl Journal {
    /// A journal on the ring of the calling thread.
    pub fn new(files: Files, appender: Appender, bells: Bells, counters: Arc<Counters>) -> Journal {
        Journal(Rc::new(Inner {
            files,
            appender: RefCell::new(appender),
            open: RefCell::default(),
            directory: RefCell::default(),
            is_looking: Cell::new(false),
            disk: Cell::new(Disk::Works),
            ring_ticks: Cell::new(0),
            slow_ticks: Cell::new(RING_TICKS),
            is_full: Cell::new(false),
            has_litter: Cell::new(false),
            is_in_doubt: Cell::new(false),
            counters,
            bells,
        }))
    }

    /// Whether a record of `len` bytes can be taken; the first of many that cannot is logged.
    pub fn has_room(&self, len: usize) -> bool {
        let has_room = self.0.appender.borrow().has_room(len);
        // Of a disk that fails the operator has been told.
        if !has_room && self.0.disk.get() == Disk::Works && !self.0.is_full.replace(true) {
            self.0.tell_room(false);
        }
        has_room
    }

    /// Takes a record of the present turn.
    pub fn append(&self, record: &Record<'_>) -> u64 {
        self.0.appender.borrow_mut().append(record)
    }

    /// The turn is over: what can be done now is begun, or done. There may be outcomes at once.
    pub fn end_turn(&self) {
        self.0.appender.borrow_mut().end_turn();
        self.0.pump();
    }

    /// What was not possible is tried again. Now and then.
    pub fn tick(&self) {
        match self.0.ring_ticks.get() {
            0 => self.0.slow_ticks.update(|ticks| (ticks - 1).max(RING_TICKS)),
            ticks => self.0.ring_ticks.set(ticks - 1),
        }
        self.0.appender.borrow_mut().tick();
        // Near its bound it may have room for one message and not for the next; that is not worth a line each.
        if self.0.is_full.get() && self.0.appender.borrow().is_roomy() {
            self.0.is_full.set(false);
            self.0.tell_room(true);
        }
        self.0.pump();
        self.0.look();
    }

    /// What became of records since this was asked last.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.0.appender.borrow_mut().outcomes().collect()
    }

    /// Nothing is under way, and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.0.appender.borrow().is_idle()
    }
}

impl Inner {
    /// Begins every operation that is due, and makes short writes at once.
    fn pump(self: &Rc<Inner>) {
        let held_before = self.appender.borrow().held();
        loop {
            let op = self.appender.borrow_mut().next_op();
            let Some(op) = op else { break };
            match op {
                Op::Write { number, offset, ref bytes } if self.writes_itself(bytes.len()) => {
                    let written = self.write(number, offset, bytes);
                    self.finish(Done::Write, written);
                }
                op => self.begin(op),
            }
        }
        self.tell_held(held_before);
    }

    fn begin(self: &Rc<Inner>, op: Op) {
        let this = Rc::clone(self);
        tokio_uring::spawn(async move {
            let (done, result) = this.carry_out(op).await;
            let held_before = this.appender.borrow().held();
            this.finish(done, result);
            this.tell_held(held_before);
            this.pump();
            if this.appender.borrow().has_outcomes() {
                (this.bells.news)();
            }
        });
    }

    fn finish(&self, done: Done, result: io::Result<()>) {
        let is_ok = result.is_ok();
        match result {
            Err(error) => self.tell_failure(done, &error),
            Ok(()) if done == Done::Remove => self.has_litter.set(false),
            Ok(()) if done == Done::Prepare => self.made_file(),
            Ok(()) if done == Done::Cut => self.is_in_doubt.set(false),
            Ok(()) => {}
        }
        self.appender.borrow_mut().done(done, is_ok);
    }

    /// More is held than before: the writer is told.
    fn tell_held(&self, held_before: Position) {
        if self.appender.borrow().held() > held_before {
            if self.disk.get() == Disk::HasNewFile {
                self.works_again();
            }
            (self.bells.held)();
        }
    }

    fn writes_itself(&self, len: usize) -> bool {
        len <= WRITE_BYTES_MAX && self.ring_ticks.get() == 0
    }

    /// A write by the shard itself.
    fn write(&self, number: u32, offset: u32, bytes: &[u8]) -> io::Result<()> {
        self.count_write(bytes);
        let file = self.file(number).ok_or(ErrorKind::NotFound)?;
        let began = Instant::now();
        let written = ring::write_now(&file, bytes, u64::from(offset));
        if began.elapsed() > WRITE_SLOW {
            self.counters.journal_slow_writes.up();
            let ticks = self.slow_ticks.get();
            self.ring_ticks.set(ticks);
            self.slow_ticks.set((2 * ticks).min(RING_TICKS_MAX));
        }
        written
    }

    fn count_write(&self, bytes: &[u8]) {
        self.counters.journal_writes.up();
        self.counters.journal_bytes.add(bytes.len() as u64);
    }

    /// Looks whether a restart would find the file that is being written: who removes or renames it, or its directory, takes
    /// from the journal what is broadcast, and no write fails.
    fn look(self: &Rc<Inner>) {
        let Some(number) = self.appender.borrow().present().filter(|_| !self.is_looking.replace(true)) else { return };
        let Some(file) = self.file(number) else { return self.is_looking.set(false) };
        let this = Rc::clone(self);
        tokio_uring::spawn(async move {
            let is_there = is_at(&file, &this.path(number)).await;
            this.is_looking.set(false);
            // Meanwhile it may have been left, and its file be another segment's.
            if !is_there && this.appender.borrow_mut().lost(number) {
                this.tell_lost(number);
                this.pump();
                (this.bells.news)();
            }
        });
    }

    async fn carry_out(&self, op: Op) -> (Done, io::Result<()>) {
        match op {
            Op::Prepare { number, reuse } => (Done::Prepare, self.prepare(number, reuse).await),
            Op::Write { number, offset, bytes } => {
                self.count_write(&bytes);
                let written = match self.file(number) {
                    Some(file) => file.write_all_at(bytes, u64::from(offset)).await.0,
                    None => Err(ErrorKind::NotFound.into()),
                };
                (Done::Write, written)
            }
            Op::Sync { number } => {
                self.counters.journal_syncs.up();
                let synced = match self.file(number) {
                    Some(file) => file.sync_data().await,
                    None => Err(ErrorKind::NotFound.into()),
                };
                (Done::Sync, synced)
            }
            Op::Cut { keep, remove } => (Done::Cut, self.cut(keep, remove).await),
            Op::Remove { number } => (Done::Remove, absent_is_fine(remove_file(self.path(number)).await).map(drop)),
        }
    }

    /// Makes a segment's file, and lets its size and its name reach the disk, so that later only its bytes have to.
    async fn prepare(&self, number: u32, reuse: Option<u32>) -> io::Result<()> {
        let path = self.path(number);
        let directory = self.directory().await?;
        // Blocks that were written before need no change of the file system's own records when they are synced.
        let is_reused = match reuse {
            Some(old) => absent_is_fine(rename(self.path(old), &path).await)?,
            None => false,
        };
        if !is_reused {
            absent_is_fine(remove_file(&path).await)?;
        }
        let file = OpenOptions::new().write(true).create(!is_reused).mode(0o600).open(&path).await?;
        let allocated = file.fallocate(0, u64::from(self.files.segment_bytes), 0).await;
        unsupported_is_fine(allocated)?;
        file.sync_all().await?;
        directory.sync_all().await?;
        let mut open = self.open.borrow_mut();
        // The segment before it may still be written.
        open.retain(|(other, _)| *other == number - 1);
        open.push((number, Rc::new(file)));
        Ok(())
    }

    /// Makes what stands behind `keep` unreadable, and removes the file of segment `remove`.
    async fn cut(&self, keep: Option<Position>, remove: Option<u32>) -> io::Result<()> {
        if let Some(Position { segment, offset }) = keep {
            self.blank(segment, offset).await?;
        }
        if let Some(number) = remove {
            // Somebody may have renamed it.
            self.blank(number, 0).await?;
            absent_is_fine(remove_file(self.path(number)).await)?;
            self.directory().await?.sync_all().await?;
        }
        Ok(())
    }

    /// Lets a segment's file, wherever it is, read as zeros from an offset on.
    async fn blank(&self, number: u32, from: u32) -> io::Result<()> {
        let file = match self.file(number) {
            Some(file) => file,
            None => match OpenOptions::new().write(true).open(self.path(number)).await {
                Ok(file) => Rc::new(file),
                Err(error) => return absent_is_fine(Err(error)).map(drop),
            },
        };
        blank(&file, from, self.files.segment_bytes).await?;
        file.sync_all().await
    }

    /// The directory, as long as it is the one that this server has taken: the lock of another is not ours.
    async fn directory(&self) -> io::Result<Rc<File>> {
        let path = &self.files.directory;
        let known = self.directory.borrow().clone();
        let Some(directory) = known else {
            let directory = Rc::new(File::open(path).await?);
            *self.directory.borrow_mut() = Some(Rc::clone(&directory));
            return Ok(directory);
        };
        match is_at(&directory, path).await {
            true => Ok(directory),
            false => {
                Err(io::Error::new(ErrorKind::NotFound, "the directory that the server was started with is not there"))
            }
        }
    }

    fn file(&self, number: u32) -> Option<Rc<File>> {
        self.open.borrow().iter().find(|(other, _)| *other == number).map(|(_, file)| Rc::clone(file))
    }

    fn path(&self, number: u32) -> PathBuf {
        self.files.directory.join(file_name(self.files.shard, number))
    }

    fn made_file(&self) {
        match self.disk.get() {
            Disk::MakesNoFile => self.works_again(),
            Disk::WritesNothing => self.disk.set(Disk::HasNewFile),
            Disk::Works | Disk::HasNewFile => {}
        }
    }

    fn works_again(&self) {
        self.disk.set(Disk::Works);
        tracing::info!(shard = self.files.shard, "the journal can be written again");
    }

    fn tell_failure(&self, done: Done, error: &io::Error) {
        self.counters.journal_failures.up();
        let (shard, directory) = (self.files.shard, self.files.directory.display());
        let what = match done {
            Done::Prepare => "a new segment cannot be made",
            Done::Write => "a write failed",
            Done::Sync => "a sync failed",
            Done::Cut if self.is_in_doubt.replace(true) => return,
            Done::Cut => {
                return tracing::error!(
                    %error,
                    shard,
                    %directory,
                    "journal: messages that could not be held cannot be taken back either. Their senders are told nothing until \
                     the disk answers, for the next start may find them"
                );
            }
            Done::Remove if self.has_litter.replace(true) => return,
            Done::Remove => {
                return tracing::warn!(%error, shard, %directory, "a segment that nobody needs any more cannot be removed");
            }
        };
        let before = self.disk.get();
        self.disk.set(match (done, before) {
            (Done::Prepare, Disk::Works | Disk::MakesNoFile) => Disk::MakesNoFile,
            _ => Disk::WritesNothing,
        });
        if before == Disk::Works {
            tracing::error!(
                %error,
                shard,
                %directory,
                "journal: {what}. Messages that it cannot hold are refused, and it is tried again by itself. Free space on the \
                 disk, or look at its health (dmesg)"
            );
        }
    }

    fn tell_lost(&self, number: u32) {
        self.counters.journal_failures.up();
        // Also where a new file could not be made before: what was written may be gone now.
        if matches!(self.disk.replace(Disk::WritesNothing), Disk::Works | Disk::MakesNoFile) {
            let (shard, file) = (self.files.shard, self.path(number));
            tracing::error!(
                file = %file.display(),
                shard,
                "journal: the file that is being written is no longer at its place: somebody has removed or renamed it, or its \
                 directory. The next start saves what is in it only if it is put back. Messages are refused until a new one can \
                 be made: if the directory is gone, put it back, or restart ringroom"
            );
        }
    }

    fn tell_room(&self, has_room: bool) {
        let (shard, directory) = (self.files.shard, self.files.directory.display());
        match has_room {
            true => tracing::info!(shard, "the journal takes messages again"),
            false => tracing::error!(
                shard,
                %directory,
                "the journal is full, and messages are refused: either the database is away (it will be emptied when that is \
                 back), or too slow for so many; journal_bytes_max says how large it may grow"
            ),
        }
    }
}

/// Whether there was such a file.
fn absent_is_fine(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a path leads to this file. `true` also when that cannot be found out.
async fn is_at(file: &File, path: &Path) -> bool {
    let identity = |stat: &libc::statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    match (file.statx().await, statx(path).await) {
        (Ok(file), Ok(found)) => identity(&file) == identity(&found),
        (_, Err(error)) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        (Err(_), _) => true,
    }
}

/// Lets a file read as zeros between these offsets. Room on the disk is not needed for it.
async fn blank(file: &File, from: u32, until: u32) -> io::Result<()> {
    if from >= until {
        return Ok(());
    }
    let flags = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    match file.fallocate(from.into(), (until - from).into(), flags).await {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => write_zeros(file, from, until).await,
        result => result,
    }
}

/// The same where a file system knows no holes.
async fn write_zeros(file: &File, from: u32, until: u32) -> io::Result<()> {
    const PIECE_BYTES: u32 = 256 * 1024;
    let mut at = from;
    while at < until {
        let len = PIECE_BYTES.min(until - at);
        file.write_all_at(vec![0; len as usize], at.into()).await.0?;
        at += len;
    }
    Ok(())
}

/// Some file systems cannot allocate ahead; a segment grows there as it is written.
fn unsupported_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(()) } else { Err(error) })
}
