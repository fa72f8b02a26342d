//! Every connection of a run, on one epoll and one thread: made, upgraded, read, written, ended. Text frames flow out to
//! the [`Crowd`], what it answers flows back in; pings are answered and close frames noted here. The steady state
//! allocates nothing: all connections are read into one buffer, and only the piece of a frame that a read cut off is
//! kept with its connection.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::fixtures::Seat;
use crate::frame::{self, Scan};
use crate::handshake::Upgrade;
use crate::url::Url;

/// Bytes asked for in one read.
const READ_BYTES: usize = 64 << 10;

/// Readiness events taken in one turn. Small enough that an open-loop sender is not late by a whole crowd's reads.
const TURN_EVENTS_MAX: usize = 256;

/// Connections under way at a time: below any listener's backlog, enough to keep a server busy.
const CONNECTING_MAX: usize = 128;

/// How long nothing at all may happen while connections are made.
const CONNECT_STALL: Duration = Duration::from_secs(15);

/// What is done with the messages: the one thing that differs between the kinds of run.
pub(crate) trait Crowd {
    /// `member` received a text message. It is read from the socket at `now_ns`.
    fn text(&mut self, member: usize, payload: &[u8], now_ns: u64);

    /// All that had arrived for `member` has been given to [`Crowd::text`]; frames to send now go to `out`.
    fn answer(&mut self, member: usize, out: &mut Vec<u8>);
}

/// Nanoseconds since the run began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// The run begins.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since then.
    #[inline]
    pub(crate) fn now_ns(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// A connection that ended though nobody here ended it.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// Whose it was.
    pub(crate) member: usize,
    /// How it ended, in words.
    pub(crate) why: String,
}

enum State {
    Connecting(Upgrade),
    Upgrading(Upgrade),
    /// Upgraded; `connection_established` has not come yet.
    Greeting,
    Open,
    Ended,
}

struct Member {
    stream: TcpStream,
    state: State,
    /// The head of a frame (or of the upgrade's answer) whose rest has not arrived.
    tail: Vec<u8>,
    /// Frames that the socket has not taken.
    out: Vec<u8>,
}

/// All connections of a run.
pub(crate) struct Fleet {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buf: Vec<u8>,
    members: Vec<Member>,
    mask: [u8; 4],
    open: usize,
    endings: Vec<Ending>,
    leaving: bool,
    clock: Clock,
}

impl Fleet {
    /// No connection yet. Raises the process's open-file limit so that `members` fit.
    ///
    /// # Errors
    /// The hard limit of open files is too low, or the kernel gives no epoll.
    pub(crate) fn new(members: usize, clock: Clock) -> Result<Self, String> {
        raise_open_files(members as u64 + 64)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll_create1: {error}"))?;
        Ok(Self {
            epoll,
            events: Vec::with_capacity(TURN_EVENTS_MAX),
            buf: vec![0; 2 * READ_BYTES],
            members: Vec::with_capacity(members),
            mask: std::process::id().wrapping_mul(0x9e37_79b1).to_be_bytes(),
            open: 0,
            endings: Vec::new(),
            leaving: false,
            clock,
        })
    }

    /// Connections that are open and greeted.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Connections that ended by themselves.
    pub(crate) fn endings(&self) -> &[Ending] {
        &self.endings
    }

    /// Connects every seat, and returns when each has been greeted or has ended. With `sources` over 1, connections
    /// leave from that many loopback addresses by turns (127.0.0.2 and up), past the ephemeral ports of one.
    ///
    /// # Errors
    /// No socket can be had, or nothing happens for 15 s.
    pub(crate) fn connect(
        &mut self,
        url: &Url,
        seats: &[Seat<'_>],
        sources: u8,
        crowd: &mut impl Crowd,
    ) -> Result<(), String> {
        let mut progress = (0, Instant::now());
        let mut waiting = seats.iter().enumerate();
        loop {
            let settled = self.open + self.endings.len();
            if settled == seats.len() {
                return Ok(());
            }
            for (member, seat) in waiting.by_ref().take(CONNECTING_MAX - (self.members.len() - settled)) {
                let source = (sources > 1).then(|| source_address(member, sources));
                self.begin(Upgrade::new(url, *seat), url.address, source)
                    .map_err(|error| format!("connection {} to {url}: {error}", member + 1))?;
            }
            self.turn(Some(Duration::from_millis(100)), crowd)?;
            if settled > progress.0 {
                progress = (settled, Instant::now());
            } else if progress.1.elapsed() > CONNECT_STALL {
                return Err(format!(
                    "{} of {} connections stand, and for {} s nothing has happened; is {url} alive?",
                    self.open,
                    seats.len(),
                    CONNECT_STALL.as_secs()
                ));
            }
        }
    }

    fn begin(&mut self, upgrade: Upgrade, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<()> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        if let Some(from) = from {
            rustix::net::bind(&socket, &from)?;
        }
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let interest =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(self.members.len() as u64), interest)?;
        self.members.push(Member {
            stream: TcpStream::from(socket),
            state: State::Connecting(upgrade),
            tail: Vec::new(),
            out: Vec::new(),
        });
        Ok(())
    }

    /// Waits for sockets to become ready, at most `timeout` (`None`: until one is), and serves those that are.
    ///
    /// # Errors
    /// epoll itself fails.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>, crowd: &mut impl Crowd) -> Result<(), String> {
        self.events.clear();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("epoll_wait: {error}")),
        }
        for at in 0..self.events.len() {
            let member = self.events[at].data.u64() as usize;
            if let Err(why) = self.serve(member, crowd) {
                self.end(member, why);
            }
        }
        Ok(())
    }

    /// Reads a ready socket empty and writes what is due. The error is how the connection ended.
    ///
    /// Readiness is edge-triggered: a read that fills less than it could has emptied the socket (epoll(7), question 9),
    /// so one read an event is enough.
    fn serve(&mut self, index: usize, crowd: &mut impl Crowd) -> Result<(), String> {
        let member = &mut self.members[index];
        if matches!(member.state, State::Ended) {
            return Ok(());
        }
        member.finish_connecting()?;
        loop {
            let kept = member.tail.len();
            if self.buf.len() < kept + READ_BYTES {
                self.buf.resize(kept + READ_BYTES, 0);
            }
            let read = match member.stream.read(&mut self.buf[kept..kept + READ_BYTES]) {
                Ok(0) => return Err("the connection ended without a close frame".into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string()),
            };
            self.buf[..kept].copy_from_slice(&member.tail);
            let arrived = &self.buf[..kept + read];
            let greeted = matches!(member.state, State::Open);
            let taken = member.take(index, arrived, self.mask, self.clock.now_ns(), crowd);
            self.open += usize::from(!greeted && matches!(member.state, State::Open));
            member.tail.clear();
            member.tail.extend_from_slice(&arrived[taken?..]);
            if read < READ_BYTES {
                break;
            }
        }
        if matches!(member.state, State::Open) {
            crowd.answer(index, &mut member.out);
        }
        member.flush()
    }

    /// Sends what `write` appends, to `index`, now.
    pub(crate) fn send(&mut self, index: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let member = &mut self.members[index];
        if matches!(member.state, State::Open) {
            write(&mut member.out);
            if let Err(why) = member.flush() {
                self.end(index, why);
            }
        }
    }

    fn end(&mut self, index: usize, why: String) {
        let member = &mut self.members[index];
        self.open -= usize::from(matches!(member.state, State::Open));
        member.state = State::Ended;
        // Its own last words are sent if the socket takes them at once; the peer has gone or is going.
        let _gone =
            member.flush().and_then(|()| member.stream.shutdown(std::net::Shutdown::Both).map_err(|e| e.to_string()));
        if !self.leaving {
            self.endings.push(Ending { member: index, why });
        }
    }

    /// Ends every connection with close code 1000 and waits, at most `patience`, for the server's echo.
    ///
    /// # Errors
    /// epoll itself fails.
    pub(crate) fn leave(&mut self, patience: Duration) -> Result<(), String> {
        self.leaving = true;
        let (mask, deadline) = (self.mask, Instant::now() + patience);
        for index in 0..self.members.len() {
            self.send(index, |out| frame::write_masked(frame::CLOSE, &1000u16.to_be_bytes(), mask, out));
        }
        while self.open > 0 && Instant::now() < deadline {
            self.turn(Some(Duration::from_millis(50)), &mut Silent)?;
        }
        Ok(())
    }
}

/// A crowd that hears nothing and says nothing.
pub(crate) struct Silent;

impl Crowd for Silent {
    fn text(&mut self, _: usize, _: &[u8], _: u64) {}
    fn answer(&mut self, _: usize, _: &mut Vec<u8>) {}
}

impl Member {
    fn finish_connecting(&mut self) -> Result<(), String> {
        let State::Connecting(_) = self.state else { return Ok(()) };
        if let Some(error) = self.stream.take_error().map_err(|error| error.to_string())? {
            return Err(format!("connect: {error}"));
        }
        if let State::Connecting(upgrade) = std::mem::replace(&mut self.state, State::Greeting) {
            self.out.extend_from_slice(upgrade.request.as_bytes());
            self.state = State::Upgrading(upgrade);
        }
        self.flush()
    }

    /// Takes what is whole at the head of `bytes`, and says how much that was. The error is how the connection ended.
    #[inline]
    fn take(
        &mut self,
        index: usize,
        bytes: &[u8],
        mask: [u8; 4],
        now_ns: u64,
        crowd: &mut impl Crowd,
    ) -> Result<usize, String> {
        let mut at = 0;
        if let State::Upgrading(upgrade) = &self.state {
            let Some(head) = upgrade.check(bytes)? else { return Ok(0) };
            self.state = State::Greeting;
            at = head;
        }
        loop {
            let (opcode, payload) = match frame::scan(&bytes[at..]) {
                Scan::Frame { opcode, start, end } => {
                    let payload = &bytes[at + start..at + end];
                    at += end;
                    (opcode, payload)
                }
                Scan::Partial => return Ok(at),
                Scan::Broken(what) => return Err(format!("the server sent {what}")),
            };
            match (opcode, &self.state) {
                (frame::TEXT, State::Open) => crowd.text(index, payload, now_ns),
                (frame::TEXT, _) => self.greet(payload)?,
                (frame::PING, _) => frame::write_masked(frame::PONG, payload, mask, &mut self.out),
                (frame::PONG, _) => {}
                (frame::CLOSE, _) => {
                    frame::write_masked(frame::CLOSE, &payload[..payload.len().min(2)], mask, &mut self.out);
                    return Err(closed(payload));
                }
                _ => return Err(format!("the server sent a frame of opcode {opcode}")),
            }
        }
    }

    #[cold]
    fn greet(&mut self, payload: &[u8]) -> Result<(), String> {
        if memchr::memmem::find(payload, b"\"connection_established\"").is_none() {
            return Err("the first message was not connection_established".into());
        }
        self.state = State::Open;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(written) if written == self.out.len() => self.out.clear(),
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }
}

fn closed(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            format!("the server closed with {code}: {}", String::from_utf8_lossy(reason))
        }
        _ => "the server closed without a code".into(),
    }
}

fn source_address(member: usize, sources: u8) -> SocketAddr {
    let last = 2 + (member % usize::from(sources)) as u8;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last)), 0)
}

/// Raises the process's limit of open files to `wanted`, where it is lower.
///
/// # Errors
/// The hard limit is lower.
pub(crate) fn raise_open_files(wanted: u64) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < wanted) {
        // Only root may go past the hard limit; for everyone else the error below says what to do.
        let _refused = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: Some(wanted) });
    } else {
        let _refused = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
    }
    match getrlimit(Resource::Nofile).current {
        Some(current) if current < wanted => Err(format!(
            "{wanted} open files are needed and {current} allowed; raise the hard limit (ulimit -Hn, limits.conf)"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_is_told_with_its_code() {
        assert_eq!(closed(b"\x0f\xa1Unauthorized"), "the server closed with 4001: Unauthorized");
        assert_eq!(closed(b""), "the server closed without a code");
    }

    #[test]
    fn sources_take_turns() {
        let all: Vec<String> = (0..4).map(|member| source_address(member, 3).ip().to_string()).collect();
        assert_eq!(all, ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.2"]);
    }
}
