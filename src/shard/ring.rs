//! Operations on this thread's ring, and the buffers that they fill.
//!
//! In: sockets and bytes to send. Out: [`Ticket`]s of the operations that completed, in order of completion, and what they
//! returned. Owned by one shard thread, inside its `tokio_uring` runtime.
//!
//! A shard has thousands of operations in flight and no task for any of them. An operation is polled once, with a
//! waker that is nothing but its ticket; the runtime wakes it on completion, which appends the ticket to this thread's
//! queue, and [`Completions::poll_turn`] hands the queue to the shard as a turn's work.
//!
//! Received bytes land in buffers that the kernel picks from a pool at the moment data arrives (provided buffers, Linux
//! 5.7), so a connection that is silent owns none.
#![allow(unsafe_code)]

use std::{
    cell::{Cell, RefCell, UnsafeCell},
    future::Future,
    io,
    num::NonZeroU32,
    ops::{Deref, DerefMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    pin::Pin,
    ptr,
    rc::Rc,
    task::{Context, Poll, RawWaker, RawWakerVTable, Waker},
};

use bytes::Bytes;
use io_uring::{cqueue, opcode, squeue, types};
use slab::Slab;
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

use crate::limits::{RECV_BUFFER_BYTES, RECV_BUFFERS};

/// What an operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A receive; the index is the connection's.
    Receive,
    /// A send; the index is the connection's.
    Send,
    /// An accept; the index is the acceptor's slot.
    Accept,
    /// Buffers given back; the index is the pool's slot.
    Provide,
}

/// Names one operation in flight: what it is for, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// What it is for.
    pub kind: Kind,
    /// Whose it is: an index whose meaning the kind gives.
    pub index: u32,
}

const _: () = assert!(size_of::<usize>() == 8, "a ticket is packed into one 64-bit pointer");

impl Ticket {
    fn pack(self) -> *const () {
        ptr::without_provenance((self.index as usize) << 2 | self.kind as usize)
    }

    fn unpack(data: *const ()) -> Ticket {
        let kind = match data.addr() & 3 {
            0 => Kind::Receive,
            1 => Kind::Send,
            2 => Kind::Accept,
            _ => Kind::Provide,
        };
        Ticket { kind, index: (data.addr() >> 2) as u32 }
    }

    fn waker(self) -> Waker {
        // SAFETY: the functions of `TICKET_WAKER` never dereference the data pointer, which is the ticket itself, so
        // there is nothing to own, to free or to race on; they touch only the calling thread's own queue.
        unsafe { Waker::from_raw(RawWaker::new(self.pack(), &TICKET_WAKER)) }
    }
}

static TICKET_WAKER: RawWakerVTable =
    RawWakerVTable::new(|data| RawWaker::new(data, &TICKET_WAKER), complete, complete, |_| ());

fn complete(data: *const ()) {
    // The runtime wakes an operation on the thread of its ring. During that thread's end the queue may be gone already.
    let _ = COMPLETIONS.try_with(|completions| {
        completions.queue.borrow_mut().push(Ticket::unpack(data));
        if let Some(turn) = completions.turn.take() {
            turn.wake();
        }
    });
}

thread_local! {
    static COMPLETIONS: Completions = const { Completions { queue: RefCell::new(Vec::new()), turn: Cell::new(None) } };
}

/// This thread's completed operations, not yet looked at.
pub struct Completions {
    queue: RefCell<Vec<Ticket>>,
    turn: Cell<Option<Waker>>,
}

impl Completions {
    /// Swaps the completed tickets into `turn` (which must be empty), or registers the task to be woken by the next one.
    pub fn poll_turn(turn: &mut Vec<Ticket>, context: &Context<'_>) -> Poll<()> {
        COMPLETIONS.with(|completions| {
            std::mem::swap(&mut *completions.queue.borrow_mut(), turn);
            if !turn.is_empty() {
                return Poll::Ready(());
            }
            completions.turn.set(Some(context.waker().clone()));
            Poll::Pending
        })
    }
}

/// What the kernel said of a finished operation, with the data that it borrowed until then.
pub struct Finished<D> {
    /// The byte count or descriptor, or the error.
    pub result: io::Result<u32>,
    flags: u32,
    data: D,
}

/// Turns a completion into [`Finished`].
pub struct Finish<D>(std::marker::PhantomData<D>);

impl<D> OneshotOutputTransform for Finish<D> {
    type Output = Finished<D>;
    type StoredData = D;

    fn transform_oneshot_output(self, data: D, entry: cqueue::Entry) -> Finished<D> {
        let result = match entry.result() {
            code @ 0.. => Ok(code as u32),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        };
        Finished { result, flags: entry.flags(), data }
    }
}

/// An operation in the kernel's hands. Dropping it does not recall it: its data lives until it completes.
struct InFlight<D: 'static>(InFlightOneshot<D, Finish<D>>);

impl<D: Unpin + 'static> InFlight<D> {
    /// Queues `entry`; `data` is whatever memory it points into, and moves nowhere until completion.
    fn submit(ticket: Ticket, data: D, entry: squeue::Entry) -> InFlight<D> {
        let mut flight = InFlight(UnsubmittedOneshot::new(data, Finish(std::marker::PhantomData), entry).submit());
        let first = flight.poll(&mut Context::from_waker(&ticket.waker()));
        debug_assert!(first.is_none(), "an entry that was just queued has not entered the kernel yet");
        flight
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Option<Finished<D>> {
        match Pin::new(&mut self.0).poll(context) {
            Poll::Ready(finished) => Some(finished),
            Poll::Pending => None,
        }
    }

    /// The result, once `ticket`, with which it was submitted, has come back. Asked earlier it says `None`.
    fn finish(&mut self, ticket: Ticket) -> Option<Finished<D>> {
        self.poll(&mut Context::from_waker(&ticket.waker()))
    }
}

/// A receive in flight.
pub struct Receive(InFlight<()>);

impl Receive {
    /// Asks for the next bytes of `socket`, into whichever buffer of the pool the kernel picks when they arrive.
    pub fn submit(index: u32, socket: BorrowedFd<'_>) -> Receive {
        let entry = opcode::Recv::new(types::Fd(socket.as_raw_fd()), ptr::null_mut(), RECV_BUFFER_BYTES as u32)
            .buf_group(POOL_GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        Receive(InFlight::submit(Ticket { kind: Kind::Receive, index }, (), entry))
    }

    /// What arrived. `ENOBUFS` means that the pool was empty: try again once buffers were given back.
    pub fn finish(&mut self, index: u32, pool: &Rc<Pool>) -> Option<io::Result<Received>> {
        let Finished { result, flags, .. } = self.0.finish(Ticket { kind: Kind::Receive, index })?;
        // A buffer may come even with an error or at the end of the stream: it is taken first, so that it goes back.
        let id = cqueue::buffer_select(flags);
        pool.available.update(|available| available - usize::from(id.is_some()));
        Some(result.map(|len| Received { pool: Rc::clone(pool), id, len: len as usize })).inspect(|received| {
            if let (Err(_), Some(id)) = (received, id) {
                pool.give_back(id);
            }
        })
    }
}

/// What one send puts on the wire.
pub enum Outgoing {
    /// One run of bytes.
    One(Bytes),
    /// Several, gathered by one `sendmsg`.
    Many(Box<Gather>),
}

/// The scatter list of a `sendmsg`, and the bytes it points into.
pub struct Gather {
    parts: Vec<Bytes>,
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl Outgoing {
    /// Several runs in one send; at most [`Outgoing::PARTS_MAX`].
    pub fn many(parts: Vec<Bytes>) -> Outgoing {
        // SAFETY: an all-zero msghdr is a valid one: no name, no vectors, no control data.
        let header: libc::msghdr = unsafe { std::mem::zeroed() };
        Outgoing::Many(Box::new(Gather { parts, vectors: Vec::new(), header }))
    }

    /// The most runs of one `sendmsg`; Linux takes 1,024 (`IOV_MAX`), and beyond some dozens nothing is gained.
    pub const PARTS_MAX: usize = 64;

    /// How many bytes are left to send.
    pub fn len(&self) -> usize {
        match self {
            Outgoing::One(bytes) => bytes.len(),
            Outgoing::Many(gather) => gather.parts.iter().map(Bytes::len).sum(),
        }
    }

    /// Nothing left to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the first `count` bytes, which the kernel took.
    fn advance(&mut self, mut count: usize) {
        match self {
            Outgoing::One(bytes) => bytes::Buf::advance(bytes, count),
            Outgoing::Many(gather) => {
                let whole = gather.parts.iter().take_while(|part| {
                    let taken = part.len() <= count;
                    count -= if taken { part.len() } else { 0 };
                    taken
                });
                let whole = whole.count();
                gather.parts.drain(..whole);
                if let Some(part) = gather.parts.first_mut() {
                    bytes::Buf::advance(part, count);
                }
            }
        }
    }

    fn entry(&mut self, socket: BorrowedFd<'_>) -> squeue::Entry {
        // MSG_WAITALL: the kernel goes on with a short send by itself (Linux 5.19).
        const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let socket = types::Fd(socket.as_raw_fd());
        match self {
            Outgoing::One(bytes) => opcode::Send::new(socket, bytes.as_ptr(), bytes.len() as u32).flags(FLAGS).build(),
            Outgoing::Many(gather) => opcode::SendMsg::new(socket, gather.point()).flags(FLAGS as u32).build(),
        }
    }
}

impl Gather {
    /// Lets the header point at the parts as they are now. Valid until the parts change: the box does not move its
    /// contents, and neither do `Bytes`.
    fn point(&mut self) -> *const libc::msghdr {
        self.vectors.clear();
        self.vectors.extend(
            self.parts
                .iter()
                .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() }),
        );
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len();
        &raw const self.header
    }
}

/// The sends of a shard that are in flight. Not in the connections' slots: few connections have one at a time.
#[derive(Default)]
pub struct Sends(Slab<InFlight<Outgoing>>);

/// Names a send in flight.
#[derive(Clone, Copy, Debug)]
pub struct Sending(NonZeroU32);

impl Sends {
    /// Sends all of `outgoing` on `socket`.
    pub fn submit(&mut self, index: u32, socket: BorrowedFd<'_>, mut outgoing: Outgoing) -> Sending {
        let entry = outgoing.entry(socket);
        let place = self.0.insert(InFlight::submit(Ticket { kind: Kind::Send, index }, outgoing, entry));
        Sending(NonZeroU32::MIN.saturating_add(place as u32))
    }

    /// What is left to send, empty as a rule: the kernel sends short only when interrupted. Once it says so, the name is
    /// of no use any more.
    pub fn finish(&mut self, sending: Sending, index: u32) -> Option<io::Result<Outgoing>> {
        let place = sending.0.get() as usize - 1;
        let Finished { result, mut data, .. } = self.0[place].finish(Ticket { kind: Kind::Send, index })?;
        self.0.remove(place);
        Some(result.map(|sent| {
            data.advance(sent as usize);
            data
        }))
    }

    /// Frees what a busier time needed.
    pub fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }
}

/// An accept in flight.
pub struct Accept(InFlight<()>);

impl Accept {
    /// Waits for the next connection of `listener`.
    pub fn submit(index: u32, listener: BorrowedFd<'_>) -> Accept {
        let entry = opcode::Accept::new(types::Fd(listener.as_raw_fd()), ptr::null_mut(), ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build();
        Accept(InFlight::submit(Ticket { kind: Kind::Accept, index }, (), entry))
    }

    /// The accepted socket.
    pub fn finish(&mut self, index: u32) -> Option<io::Result<OwnedFd>> {
        let finished = self.0.finish(Ticket { kind: Kind::Accept, index })?;
        // SAFETY: a successful accept returns a new descriptor that nothing else in the process knows of.
        Some(finished.result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }
}

/// Writes all of `bytes` to the page cache of `file`, at `offset`, without the ring.
pub fn write_now(file: &tokio_uring::fs::File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    // SAFETY: `file` owns its descriptor and is borrowed, and so open, for the whole call.
    let fd = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => (bytes, offset) = (&bytes[written..], offset + written as u64),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The buffer group of a shard's pool; each shard has a ring of its own, so one number serves them all.
const POOL_GROUP: u16 = 0;

const POOL_BYTES: usize = RECV_BUFFERS * RECV_BUFFER_BYTES;

/// The buffers that receives of this shard are filled from.
///
/// The kernel holds the addresses of the provided buffers until the ring is gone, so the thread that owns the runtime
/// keeps a clone of the `Rc` and drops it after the runtime.
pub struct Pool {
    memory: Box<[UnsafeCell<u8>]>,
    returned: RefCell<Vec<u16>>,
    available: Cell<usize>,
    provides: RefCell<Slab<Provide>>,
}

struct Provide {
    flight: InFlight<()>,
    ids: std::ops::Range<u16>,
}

impl Pool {
    /// A pool whose buffers are all still to be given to the kernel, which the first [`Pool::provide`] does.
    pub fn new() -> Rc<Pool> {
        let bytes = vec![0_u8; POOL_BYTES].into_boxed_slice();
        let cells = ptr::slice_from_raw_parts_mut(Box::into_raw(bytes).cast::<UnsafeCell<u8>>(), POOL_BYTES);
        // SAFETY: `UnsafeCell<u8>` has the layout of `u8`, and the length is the same; ownership passes over whole.
        let memory = unsafe { Box::from_raw(cells) };
        let returned = RefCell::new((0..RECV_BUFFERS as u16).collect());
        Rc::new(Pool { memory, returned, available: Cell::new(0), provides: RefCell::default() })
    }

    fn give_back(&self, id: u16) {
        self.returned.borrow_mut().push(id);
    }

    /// Buffers that the kernel can pick from, less those it picked for completions that were not looked at yet.
    pub fn available(&self) -> usize {
        self.available.get()
    }

    /// Gives every returned buffer back to the kernel, neighbours together. Once a turn.
    pub fn provide(&self) {
        let mut returned = self.returned.borrow_mut();
        returned.sort_unstable();
        for run in returned.chunk_by(|a, b| a + 1 == *b) {
            self.provide_run(run[0]..run[run.len() - 1] + 1);
        }
        self.available.update(|available| available + returned.len());
        returned.clear();
    }

    fn provide_run(&self, ids: std::ops::Range<u16>) {
        let address = self.memory[ids.start as usize * RECV_BUFFER_BYTES].get();
        let entry =
            opcode::ProvideBuffers::new(address, RECV_BUFFER_BYTES as i32, ids.len() as u16, POOL_GROUP, ids.start);
        let mut provides = self.provides.borrow_mut();
        let slot = provides.vacant_entry();
        let ticket = Ticket { kind: Kind::Provide, index: slot.key() as u32 };
        slot.insert(Provide { flight: InFlight::submit(ticket, (), entry.build()), ids });
    }

    /// An operation of this pool completed: buffers that the kernel did not take are offered again.
    pub fn provided(&self, index: u32) -> io::Result<()> {
        let mut provides = self.provides.borrow_mut();
        let ticket = Ticket { kind: Kind::Provide, index };
        let Some(finished) = provides[index as usize].flight.finish(ticket) else { return Ok(()) };
        let provide = provides.remove(index as usize);
        finished.result.map(|_| ()).inspect_err(|_| {
            self.available.update(|available| available - provide.ids.len());
            self.returned.borrow_mut().extend(provide.ids);
        })
    }
}

/// Bytes that arrived, in a buffer of the pool, which gets it back when this is dropped.
pub struct Received {
    pool: Rc<Pool>,
    id: Option<u16>,
    len: usize,
}

impl Received {
    fn start(&self) -> *mut u8 {
        match self.id {
            Some(id) => self.pool.memory[id as usize * RECV_BUFFER_BYTES].get(),
            // Only the end of a stream comes without a buffer, and has no bytes.
            None => ptr::NonNull::dangling().as_ptr(),
        }
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel picked buffer `id` for this completion and wrote `len` bytes, at most RECV_BUFFER_BYTES,
        // into it. It is not the kernel's again before `drop` returns the id, and no other `Received` has it.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl DerefMut for Received {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `UnsafeCell` permits the write, `&mut self` makes it the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.pool.give_back(id);
        }
    }
}
