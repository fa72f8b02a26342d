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

/// Bytes that the kernel may keep for a connection that reads slowly: less than it keeps for any other, or it would hide for
/// minutes that nobody reads.
const SLOW_BUFFER_BYTES: usize = 4 << 10;

/// What is done with the messages: the one thing that differs between the kinds of run.
pub(crate) trait Crowd {
    /// `member` has been greeted; what [`Crowd::text`] gets from here on came after its greeting.
    fn greeted(&mut self, _member: usize, _now_ns: u64) {}

    /// `member` received a text message. It is read from the socket at `now_ns`.
    fn text(&mut self, member: usize, payload: &[u8], now_ns: u64);

    /// All that had arrived for `member` has been given to [`Crowd::text`]; frames to send now go to `out`.
    fn answer(&mut self, member: usize, out: &mut Vec<u8>);

    /// The server has pinged `member`, and is answered.
    fn pinged(&mut self, _member: usize) {}
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
    /// The code of the server's close frame, if there was one and it had one.
    pub(crate) code: Option<u16>,
    /// How it ended, in words.
    pub(crate) why: String,
}

enum State {
    Connecting(Upgrade),
    Upgrading(Upgrade),
    /// Upgraded; `connection_established` has not come yet.
    Greeting,
    Open,
    /// A close frame was sent on purpose; the server's has not come.
    Leaving,
    Ended,
}

/// How a connection ended.
struct End {
    code: Option<u16>,
    why: String,
}

impl From<String> for End {
    fn from(why: String) -> Self {
        Self { code: None, why }
    }
}

struct Member {
    stream: TcpStream,
    state: State,
    /// Connections before it with the same index, in which events may still be under way.
    generation: u32,
    /// Whether it is read by [`Fleet::sip`] alone.
    slow: bool,
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
    /// Members that were dismissed and have gone.
    gone: Vec<usize>,
    /// Members that read slowly.
    slow: Vec<usize>,
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
            gone: Vec::new(),
            slow: Vec::new(),
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
                self.join(member, Upgrade::new(url, *seat), url.address, source)
                    .map_err(|error| format!("connection {} to {url}: {error}{}", member + 1, hint(&error)))?;
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

    /// Connects `index`: the next index of all, or one whose connection has ended.
    fn join(&mut self, index: usize, upgrade: Upgrade, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<()> {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        let slow = self.slow.contains(&index);
        if slow {
            sockopt::set_socket_recv_buffer_size(&socket, SLOW_BUFFER_BYTES)?;
        }
        if let Some(from) = from {
            rustix::net::bind(&socket, &from)?;
        }
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let interest =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let generation = self.members.get(index).map_or(0, |before| before.generation.wrapping_add(1));
        let event = u64::from(generation) << 32 | index as u64;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(event), interest)?;
        let member = Member {
            stream: TcpStream::from(socket),
            state: State::Connecting(upgrade),
            generation,
            slow,
            tail: Vec::new(),
            out: Vec::new(),
        };
        match self.members.get_mut(index) {
            Some(before) => *before = member,
            None => self.members.push(member),
        }
        Ok(())
    }

    /// Waits for sockets to become ready, at most `timeout` (`None`: until one is), serves those that are, and says how many
    /// were.
    ///
    /// # Errors
    /// epoll itself fails.
    pub(crate) fn turn(&mut self, timeout: Option<Duration>, crowd: &mut impl Crowd) -> Result<usize, String> {
        self.events.clear();
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("epoll_wait: {error}")),
        }
        for at in 0..self.events.len() {
            let event = self.events[at].data.u64();
            let (generation, member) = ((event >> 32) as u32, event as u32 as usize);
            // The connection may have been replaced since the event.
            if self.members[member].generation == generation
                && let Err(end) = self.serve(member, crowd)
            {
                self.end(member, end);
            }
        }
        Ok(self.events.len())
    }

    /// Reads a ready socket empty and writes what is due. The error is how the connection ended.
    ///
    /// Readiness is edge-triggered: a read that fills less than it could has emptied the socket (epoll(7), question 9),
    /// so one read an event is enough.
    fn serve(&mut self, index: usize, crowd: &mut impl Crowd) -> Result<(), End> {
        let member = &mut self.members[index];
        if matches!(member.state, State::Ended) {
            return Ok(());
        }
        member.finish_connecting()?;
        if !(member.slow && matches!(member.state, State::Open)) {
            self.read(index, usize::MAX, crowd)?;
        }
        let member = &mut self.members[index];
        if matches!(member.state, State::Open) {
            crowd.answer(index, &mut member.out);
        }
        Ok(member.flush()?)
    }

    /// Reads a socket empty, but not more than `bytes_max`.
    fn read(&mut self, index: usize, mut bytes_max: usize, crowd: &mut impl Crowd) -> Result<(), End> {
        let member = &mut self.members[index];
        while bytes_max > 0 {
            let (kept, wanted) = (member.tail.len(), bytes_max.min(READ_BYTES));
            if self.buf.len() < kept + wanted {
                self.buf.resize(kept + wanted, 0);
            }
            let read = match member.stream.read(&mut self.buf[kept..kept + wanted]) {
                Ok(0) => return Err("the connection ended without a close frame".to_owned().into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.to_string().into()),
            };
            self.buf[..kept].copy_from_slice(&member.tail);
            let arrived = &self.buf[..kept + read];
            let greeted = matches!(member.state, State::Open);
            let taken = member.take(index, arrived, self.mask, self.clock.now_ns(), crowd);
            self.open += usize::from(!greeted && matches!(member.state, State::Open));
            member.tail.clear();
            member.tail.extend_from_slice(&arrived[taken?..]);
            if read < wanted {
                break;
            }
            bytes_max -= read;
        }
        Ok(())
    }

    /// Sends what `write` appends, to `index`, now.
    pub(crate) fn send(&mut self, index: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let member = &mut self.members[index];
        if matches!(member.state, State::Open) {
            write(&mut member.out);
            if let Err(why) = member.flush() {
                self.end(index, why.into());
            }
        }
    }

    /// These members, not yet connected, read by [`Fleet::sip`] alone once they are greeted.
    pub(crate) fn slow_down(&mut self, members: &[usize]) {
        self.slow = members.to_vec();
    }

    /// `index`, which reads slowly, reads `bytes_max`, but not more than has arrived.
    pub(crate) fn sip(&mut self, index: usize, bytes_max: usize, crowd: &mut impl Crowd) {
        if matches!(self.members[index].state, State::Open) {
            let sipped = self.read(index, bytes_max, crowd);
            if let Err(end) = sipped.and_then(|()| Ok(self.members[index].flush()?)) {
                self.end(index, end);
            }
        }
    }

    /// `index`, which read slowly, reads as the others do from here on.
    pub(crate) fn speed_up(&mut self, index: usize, crowd: &mut impl Crowd) {
        let member = &mut self.members[index];
        member.slow = false;
        // A larger buffer only saves system calls.
        let _refused = sockopt::set_socket_recv_buffer_size(&member.stream, READ_BYTES);
        // What has arrived makes no event any more.
        self.sip(index, usize::MAX, crowd);
    }

    /// Whether the connection of `index` is over, and nobody is to come in its place.
    pub(crate) fn is_ended(&self, index: usize) -> bool {
        matches!(self.members[index].state, State::Ended) && !self.gone.contains(&index)
    }

    /// Whether `index` is connected and greeted, and neither leaving nor gone.
    pub(crate) fn is_open(&self, index: usize) -> bool {
        matches!(self.members[index].state, State::Open)
    }

    /// Ends the connection of `index` with close code 1000. Once the server has answered it is among
    /// [`Fleet::take_gone`], and until then it receives messages as before.
    pub(crate) fn dismiss(&mut self, index: usize) {
        let mask = self.mask;
        self.send(index, |out| frame::write_masked(frame::CLOSE, &1000u16.to_be_bytes(), mask, out));
        if self.is_open(index) {
            self.members[index].state = State::Leaving;
            self.open -= 1;
        }
    }

    /// The members that were dismissed and have gone since the last call.
    pub(crate) fn take_gone(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.gone)
    }

    /// Connects `seat` in place of `index`, which has gone.
    ///
    /// # Errors
    /// No socket can be had.
    pub(crate) fn replace(&mut self, index: usize, url: &Url, seat: Seat<'_>) -> io::Result<()> {
        self.join(index, Upgrade::new(url, seat), url.address, None)
    }

    fn end(&mut self, index: usize, end: End) {
        let member = &mut self.members[index];
        self.open -= usize::from(matches!(member.state, State::Open));
        let dismissed = matches!(member.state, State::Leaving);
        member.state = State::Ended;
        // Its own last words are sent if the socket takes them at once; the peer has gone or is going.
        let _gone =
            member.flush().and_then(|()| member.stream.shutdown(std::net::Shutdown::Both).map_err(|e| e.to_string()));
        if dismissed && end.code == Some(1000) {
            self.gone.push(index);
        } else if !self.leaving {
            let why = if dismissed { format!("it was to end with 1000, but {}", end.why) } else { end.why };
            self.endings.push(Ending { member: index, code: end.code, why });
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

/// What a storm asks for: all go at once, and each comes back, perhaps not at the first attempt.
impl Fleet {
    /// Drops every connection without a word: by a reset, or in TCP's order.
    pub(crate) fn sever(&mut self, reset: bool) {
        for member in self.members.iter().filter(|_| reset) {
            // Without a linger of zero the socket says farewell, which is an end too.
            let _refused = sockopt::set_socket_linger(&member.stream, Some(Duration::ZERO));
        }
        self.members.clear();
        self.open = 0;
    }

    /// Connects `seat` as `index`: the next index of all, or one whose connection has ended.
    ///
    /// # Errors
    /// No socket can be had.
    pub(crate) fn come(&mut self, index: usize, url: &Url, seat: Seat<'_>, sources: u8) -> io::Result<()> {
        let source = (sources > 1).then(|| source_address(index, sources));
        self.join(index, Upgrade::new(url, seat), url.address, source)
    }

    /// The connections that ended by themselves since the last call.
    pub(crate) fn take_endings(&mut self) -> Vec<Ending> {
        std::mem::take(&mut self.endings)
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
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            return Err(format!("connect: {error}{}", if refused { "; does the server listen there?" } else { "" }));
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
    ) -> Result<usize, End> {
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
                Scan::Broken(what) => return Err(format!("the server sent {what}").into()),
            };
            match (opcode, &self.state) {
                (frame::TEXT, State::Open | State::Leaving) => crowd.text(index, payload, now_ns),
                (frame::TEXT, _) => {
                    self.greet(payload)?;
                    crowd.greeted(index, now_ns);
                }
                (frame::PING, _) => {
                    crowd.pinged(index);
                    frame::write_masked(frame::PONG, payload, mask, &mut self.out);
                }
                (frame::PONG, _) => {}
                (frame::CLOSE, _) => {
                    frame::write_masked(frame::CLOSE, &payload[..payload.len().min(2)], mask, &mut self.out);
                    return Err(closed(payload));
                }
                _ => return Err(format!("the server sent a frame of opcode {opcode}").into()),
            }
        }
    }

    #[cold]
    fn greet(&mut self, payload: &[u8]) -> Result<(), String> {
        if memchr::memmem::find(payload, b"\"connection_established\"").is_none() {
            return Err("the first message was not connection_established".into());
        }
        self.state = State::Open;
        // The request took more room than most members ever need again.
        self.out.shrink_to_fit();
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

fn hint(error: &io::Error) -> &'static str {
    let no_port = error.kind() == io::ErrorKind::AddrNotAvailable;
    if no_port { "; a source address has about 28,000 ports: `connections` takes more with --sources" } else { "" }
}

fn closed(payload: &[u8]) -> End {
    match payload {
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            let why = format!("the server closed with {code}: {}", String::from_utf8_lossy(reason));
            End { code: Some(code), why }
        }
        _ => "the server closed without a code".to_owned().into(),
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
        assert_eq!(closed(b"\x0f\xa1Unauthorized").why, "the server closed with 4001: Unauthorized");
        assert_eq!(closed(b"").why, "the server closed without a code");
    }

    #[test]
    fn sources_take_turns() {
        let all: Vec<String> = (0..4).map(|member| source_address(member, 3).ip().to_string()).collect();
        assert_eq!(all, ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.2"]);
    }
}
