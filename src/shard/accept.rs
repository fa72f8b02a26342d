//! A shard's listening socket: several accepts wait on it at once, so that a storm of clients is let in by the turn.
//!
//! In: completed accepts. Out: sockets. Every shard has a listener of its own on the same address (`SO_REUSEPORT`); the
//! kernel spreads the clients.
//!
//! Clients that are turned away take an open file for a moment, or for longer if they do not end the connection. So that these do
//! not take the files that the database and the journal need, no accept is asked for while there are none to spare: further
//! clients wait in the kernel's queue until somebody has left.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{occupancy::Occupancy, ring::Accept};
use crate::metrics::Counters;

/// Connections that the kernel completes and keeps while the shard is busy; `net.core.somaxconn` bounds it further.
const BACKLOG: i32 = 4096;

/// Binds one listener a shard, all to the same address; with port 0 the kernel chooses one port for them all.
/// That the address is not taken is [`preflight::address`](crate::preflight::address)'s to find out: another process of
/// the same user may join an address that was bound with `SO_REUSEPORT`.
pub fn listeners(address: SocketAddr, count: usize) -> io::Result<Vec<Socket>> {
    let mut listeners = vec![listen(address)?];
    let address = local_address(&listeners[0])?;
    for _ in 1..count {
        listeners.push(listen(address)?);
    }
    Ok(listeners)
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    listener.set_reuse_address(true)?;
    listener.set_reuse_port(true)?;
    // Accepted sockets inherit this from their listener on Linux, which saves a system call a client.
    listener.set_tcp_nodelay(true)?;
    listener.bind(&address.into())?;
    listener.listen(BACKLOG)?;
    Ok(listener)
}

/// The address that a socket is bound to.
pub fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a TCP socket has an IP address"))
}

/// The accepts of one shard.
pub struct Acceptor {
    listener: Socket,
    accepts: Vec<Option<Accept>>,
    open: bool,
    /// Some accepts wait until there are sockets to spare.
    is_held_back: bool,
    occupancy: Arc<Occupancy>,
    counters: Arc<Counters>,
}

impl Acceptor {
    /// Begins to accept on `listener`. On the ring's thread.
    pub fn new(listener: Socket, occupancy: Arc<Occupancy>, counters: Arc<Counters>) -> Acceptor {
        let (accepts, is_held_back) = (Vec::new(), false);
        let mut acceptor = Acceptor { listener, accepts, open: true, is_held_back, occupancy, counters };
        acceptor.accepts.resize_with(acceptor.occupancy.accepts_each(), || None);
        acceptor.rearm();
        acceptor
    }

    /// Puts back the accepts that failed for want of something that may be there again by now.
    pub fn rearm(&mut self) {
        for index in 0..self.accepts.len() {
            self.arm(index);
        }
    }

    /// Asks for the next client, once the one that this accept brought is counted.
    pub fn arm(&mut self, index: usize) {
        if !self.open || self.accepts[index].is_some() {
            return;
        }
        match self.occupancy.may_accept() {
            true => self.accepts[index] = Some(Accept::submit(index as u32, self.listener.as_fd())),
            false => self.hold_back(),
        }
    }

    fn hold_back(&mut self) {
        if std::mem::replace(&mut self.is_held_back, true) {
            return;
        }
        self.counters.accepts_held_back.up();
        if self.occupancy.is_crowd_news() {
            tracing::warn!(
                "more clients come than there are open files for, even to turn them away: they wait until others have left; \
                 raise the hard limit with `ulimit -Hn` (systemd: LimitNOFILE=, Docker: --ulimit nofile=)"
            );
        }
    }

    /// Asks again for what was held back, if somebody has left in this turn.
    pub fn turn_ends(&mut self) {
        if self.is_held_back && self.occupancy.may_accept() {
            self.is_held_back = false;
            self.rearm();
        }
    }

    /// An accept completed. After an error that slot rests until [`Acceptor::rearm`]. While closing no error is one, and who
    /// had been accepted already is still handed out.
    pub fn accepted(&mut self, index: usize) -> Option<io::Result<OwnedFd>> {
        let accepted = self.accepts[index].as_mut()?.finish(index as u32)?;
        self.accepts[index] = None;
        match accepted {
            Err(_) if !self.open => None,
            // The client gave up while it waited (accept(2)): not the server's trouble.
            Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {
                self.arm(index);
                None
            }
            accepted => Some(accepted),
        }
    }

    /// Accepts no more. The accepts in flight come back as errors.
    pub fn close(&mut self) {
        self.open = false;
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
    }

    /// Closed, and nothing of it is in the kernel's hands.
    pub fn is_done(&self) -> bool {
        !self.open && self.accepts.iter().all(Option::is_none)
    }
}
