//! Bare io_uring: a batch's sends enter the kernel with one system call, which also waits until all have completed.
//!
//! In: sockets, and the bytes that each is to be sent. Owned by the thread that sends; it alone submits. This is the one
//! file of this crate that holds `unsafe` code: the kernel reads memory and descriptors that it is only told the numbers
//! of.
#![allow(unsafe_code)]

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};

/// The most entries of a submission queue that Linux allows.
const ENTRIES_MAX: usize = 32_768;

/// As ringroom's: the kernel goes on with a short send by itself (Linux 5.19).
const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// What is done with the ring, beside what ringroom does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Nothing.
    Plain,
    /// The sockets are registered with it, so that none is looked up.
    RegisteredFiles,
    /// Completions are run when they are asked for, and not before (Linux 6.1).
    DeferTaskrun,
    /// The bytes are not copied (Linux 6.0); over the loopback the receiver's side copies them all the same.
    ZeroCopy,
}

/// A ring, and what is sent with it.
pub(super) struct Ring {
    ring: IoUring,
    manner: Manner,
    sockets: Vec<RawFd>,
    /// Never freed: the kernel may read it for as long as an operation is under way, whatever becomes of the ring.
    payload: &'static [u8],
}

impl Ring {
    /// A ring with ringroom's flags, for sends of `payload` to `sockets`, which must stay open as long as it lives.
    ///
    /// # Errors
    /// The kernel does not have it, or not this manner.
    pub(super) fn open(manner: Manner, sockets: &[TcpStream], payload: &'static [u8]) -> io::Result<Self> {
        let sockets: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        let entries = sockets.len().next_power_of_two().clamp(8, ENTRIES_MAX) as u32;
        let mut builder = ringroom::shard::ring_builder();
        // A send without copying completes twice.
        builder.setup_cqsize(2 * entries);
        if manner == Manner::DeferTaskrun {
            builder.setup_defer_taskrun();
        }
        let ring: IoUring = builder.build(entries)?;
        if manner == Manner::RegisteredFiles {
            ring.submitter().register_files(&sockets)?;
        }
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if manner == Manner::ZeroCopy && !probe.is_supported(opcode::SendZc::CODE) {
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
        Ok(Self { ring, manner, sockets, payload })
    }

    /// Sends the payload to every socket, and returns when the kernel has taken all of it.
    ///
    /// # Errors
    /// A send failed or was cut short.
    pub(super) fn send(&mut self) -> io::Result<()> {
        for first in (0..self.sockets.len()).step_by(ENTRIES_MAX) {
            let last = (first + ENTRIES_MAX).min(self.sockets.len());
            for index in first..last {
                let entry = self.entry(index);
                // SAFETY: the entry points into `payload`, which is static, and at nothing else. The descriptor may be
                // any number: the kernel checks it, and a wrong one fails the operation.
                unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
            }
            self.finish(last - first)?;
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> squeue::Entry {
        let (start, len) = (self.payload.as_ptr(), self.payload.len() as u32);
        let socket = types::Fd(self.sockets[index]);
        match self.manner {
            Manner::Plain | Manner::DeferTaskrun => opcode::Send::new(socket, start, len).flags(FLAGS).build(),
            Manner::RegisteredFiles => opcode::Send::new(types::Fixed(index as u32), start, len).flags(FLAGS).build(),
            Manner::ZeroCopy => opcode::SendZc::new(socket, start, len).flags(FLAGS).build(),
        }
    }

    /// Enters the kernel with `count` sends, and waits for all their completions, whatever each of them says.
    fn finish(&mut self, count: usize) -> io::Result<()> {
        let (mut left, mut outcome) = (count, Ok(()));
        while left > 0 {
            match self.ring.submit_and_wait(left) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for completion in self.ring.completion() {
                // What is told of a send without copying comes first, and that its bytes are no longer read comes last.
                let has_more = cqueue::more(completion.flags());
                left -= usize::from(!has_more);
                let is_notice = self.manner == Manner::ZeroCopy && !has_more && completion.result() == 0;
                if !is_notice && completion.result() != self.payload.len() as i32 {
                    outcome = Err(failure(completion.result()));
                }
            }
        }
        outcome
    }
}

fn failure(result: i32) -> io::Error {
    match result {
        0.. => io::Error::other(format!("a send stopped after {result} bytes")),
        errno => io::Error::from_raw_os_error(-errno),
    }
}
