//! The other ends of the sockets: a thread that reads whatever comes, as a load's client does, and counts it.
//!
//! In: bytes. Out: how many have arrived at all sockets so far, and at the end at each.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::net::{RecvFlags, recv};

use crate::fleet::raise_open_files;
use crate::server::pin;

/// Bytes asked for in one read.
const READ_BYTES: usize = 64 << 10;

/// Readiness events taken in one turn.
const TURN_EVENTS_MAX: usize = 256;

/// How long the readers may take for what was sent to them.
const PATIENCE: Duration = Duration::from_secs(30);

/// The name of their thread.
pub(super) const THREAD: &str = "floor-read";

/// Some sockets, and the thread that reads their other ends.
pub(super) struct Readers {
    sockets: Vec<TcpStream>,
    arrived: Arc<Arrived>,
    thread: JoinHandle<Result<Vec<u64>, String>>,
}

/// How much has arrived; written by the readers' thread, read by the one that sends.
struct Arrived {
    bytes: AtomicU64,
    /// The sender sleeps until so much has arrived. Nobody does: the most there can be.
    awaited: AtomicU64,
    sender: OnceLock<Thread>,
}

/// Nobody waits.
const NOBODY: u64 = u64::MAX;

impl Readers {
    /// `count` connections over the loopback, whose other ends are read on `cpu`, or wherever the calling thread may
    /// run.
    ///
    /// # Errors
    /// There are not so many files to be opened, or no ports.
    pub(super) fn gather(count: usize, cpu: Option<usize>) -> Result<Self, String> {
        raise_open_files(2 * count as u64 + 64)?;
        let (mut sockets, mut ends) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no socket: {error}"))?;
        for nth in 0..count {
            let (socket, end) = pair(&listener).map_err(|error| format!("connection {}: {error}", nth + 1))?;
            sockets.push(socket);
            ends.push(end);
        }
        let (bytes, awaited) = (AtomicU64::new(0), AtomicU64::new(NOBODY));
        let arrived = Arc::new(Arrived { bytes, awaited, sender: OnceLock::new() });
        let counted = Arc::clone(&arrived);
        let body = move || {
            cpu.map_or(Ok(()), pin)?;
            read(&ends, &counted).map_err(|error| format!("reading failed: {error}"))
        };
        let thread = thread::Builder::new().name(THREAD.into()).spawn(body);
        Ok(Self { sockets, arrived, thread: thread.map_err(|error| format!("no thread: {error}"))? })
    }

    /// The ends to send on.
    pub(super) fn sockets(&self) -> &[TcpStream] {
        &self.sockets
    }

    /// Sleeps until `bytes` have arrived in all. Always called by one and the same thread.
    ///
    /// # Errors
    /// They do not, for too long.
    pub(super) fn wait_for(&self, bytes: u64) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        self.arrived.sender.get_or_init(thread::current);
        // Either the reader sees that somebody waits, or the waiter sees what has arrived: both stores come before both
        // loads in the one order of sequentially consistent operations.
        self.arrived.awaited.store(bytes, Ordering::SeqCst);
        while self.arrived.bytes.load(Ordering::SeqCst) < bytes {
            if self.thread.is_finished() || Instant::now() > deadline {
                let arrived = self.arrived.bytes.load(Ordering::SeqCst);
                return Err(format!("{arrived} of {bytes} bytes have arrived, and no more do"));
            }
            thread::park_timeout(Duration::from_millis(500));
        }
        Ok(())
    }

    /// Ends all connections; how many bytes arrived at each.
    ///
    /// # Errors
    /// Reading has failed.
    pub(super) fn leave(self) -> Result<Vec<u64>, String> {
        drop(self.sockets);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn pair(listener: &TcpListener) -> io::Result<(TcpStream, TcpStream)> {
    let end = TcpStream::connect(listener.local_addr()?)?;
    let (socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    end.set_nonblocking(true)?;
    Ok((socket, end))
}

/// Reads until all have ended. Readiness is edge-triggered, one read an event: as in a load's client, so that the sender
/// meets the same readers.
fn read(ends: &[TcpStream], arrived: &Arrived) -> io::Result<Vec<u64>> {
    let epoll: OwnedFd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (index, end) in (0..).zip(ends) {
        let interest = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&epoll, end, epoll::EventData::new_u64(index), interest)?;
    }
    let (mut counts, mut open) = (vec![0; ends.len()], ends.len());
    let (mut buf, mut events) = (vec![0; READ_BYTES], Vec::with_capacity(TURN_EVENTS_MAX));
    while open > 0 {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut more = 0;
        for event in &events {
            let index = event.data.u64() as usize;
            let (read, ended) = empty(&ends[index], &mut buf)?;
            counts[index] += read;
            more += read;
            open -= usize::from(ended);
        }
        arrived.add(more);
    }
    Ok(counts)
}

/// How much there was to read, and whether that was the end.
fn empty(end: &TcpStream, buf: &mut [u8]) -> io::Result<(u64, bool)> {
    let mut all = 0;
    loop {
        match recv(end, &mut *buf, RecvFlags::empty()) {
            Ok((0, _)) => return Ok((all, true)),
            Ok((read, _)) => {
                all += read as u64;
                if read < buf.len() {
                    return Ok((all, false));
                }
            }
            Err(rustix::io::Errno::AGAIN) => return Ok((all, false)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

impl Arrived {
    fn add(&self, more: u64) {
        let bytes = self.bytes.fetch_add(more, Ordering::SeqCst) + more;
        let awaited = self.awaited.load(Ordering::SeqCst);
        // Unless the sender has meanwhile come to wait for more.
        if bytes >= awaited
            && self.awaited.compare_exchange(awaited, NOBODY, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            && let Some(sender) = self.sender.get()
        {
            sender.unpark();
        }
    }
}
