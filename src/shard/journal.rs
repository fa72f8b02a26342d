//! A shard's journal on its ring: carries out what [`Appender`] decides.
//!
//! In: the turn's records. Out: what of them is held or refused; it rings the shard's own mailbox when there is news, and
//! the writer's when there is more to save. On the shard's thread; nothing here waits. At most one write, one sync, one
//! preparation of a file and one removal are under way at a time, each a task of the shard's runtime, which keeps the
//! buffer until the kernel is done with it.

use std::{
    cell::{Cell, RefCell},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
};

use tokio_uring::fs::{File, OpenOptions, remove_file, rename};

use crate::{
    journal::{
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
    disk: Cell<Disk>,
    /// There was no room for a record, and it is not half empty again.
    is_full: Cell<bool>,
    /// A segment could not be removed when it was last tried.
    has_litter: Cell<bool>,
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
            disk: Cell::new(Disk::Works),
            is_full: Cell::new(false),
            has_litter: Cell::new(false),
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

    /// The turn is over: what can be done now is begun.
    pub fn end_turn(&self) {
        self.0.appender.borrow_mut().end_turn();
        self.0.pump();
    }

    /// What was not possible is tried again. Now and then.
    pub fn tick(&self) {
        self.0.appender.borrow_mut().tick();
        // Near its bound it may have room for one message and not for the next; that is not worth a line each.
        if self.0.is_full.get() && self.0.appender.borrow().is_roomy() {
            self.0.is_full.set(false);
            self.0.tell_room(true);
        }
        self.0.pump();
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
    /// Begins every operation that is due.
    fn pump(self: &Rc<Inner>) {
        loop {
            let op = self.appender.borrow_mut().next_op();
            let Some(op) = op else { return };
            let this = Rc::clone(self);
            tokio_uring::spawn(async move {
                let (done, result) = this.carry_out(op).await;
                this.done(done, result);
            });
        }
    }

    fn done(self: &Rc<Inner>, done: Done, result: io::Result<()>) {
        let is_ok = result.is_ok();
        match result {
            Err(error) => self.tell_failure(done, &error),
            Ok(()) if done == Done::Remove => self.has_litter.set(false),
            Ok(()) if done == Done::Prepare => self.made_file(),
            Ok(()) => {}
        }
        let held_before = self.appender.borrow().held();
        self.appender.borrow_mut().done(done, is_ok);
        self.pump();
        let appender = self.appender.borrow();
        if appender.has_outcomes() {
            (self.bells.news)();
        }
        if appender.held() > held_before {
            if self.disk.get() == Disk::HasNewFile {
                self.works_again();
            }
            (self.bells.held)();
        }
    }

    async fn carry_out(&self, op: Op) -> (Done, io::Result<()>) {
        match op {
            Op::Prepare { number, reuse } => (Done::Prepare, self.prepare(number, reuse).await),
            Op::Write { number, offset, bytes } => {
                self.counters.journal_writes.up();
                self.counters.journal_bytes.add(bytes.len() as u64);
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
            Op::Remove { number } => (Done::Remove, absent_is_fine(remove_file(self.path(number)).await).map(drop)),
        }
    }

    /// Makes a segment's file, and lets its size and its name reach the disk, so that later only its bytes have to.
    async fn prepare(&self, number: u32, reuse: Option<u32>) -> io::Result<()> {
        let path = self.path(number);
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
        File::open(&self.files.directory).await?.sync_all().await?;
        let mut open = self.open.borrow_mut();
        // The segment before it may still be written.
        open.retain(|(other, _)| *other == number - 1);
        open.push((number, Rc::new(file)));
        Ok(())
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

/// Some file systems cannot allocate ahead; a segment grows there as it is written.
fn unsupported_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.raw_os_error() == Some(libc::EOPNOTSUPP) { Ok(()) } else { Err(error) })
}
