//! Clients of both kinds: [`Client`] is tungstenite's, well-behaved; [`Raw`] is a bare connection that sends any bytes and
//! shows every frame. No read waits past [`DEADLINE`].

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use ringroom::identity::RoomId;
use serde_json::{Value, json};
use tungstenite::{
    Error, Message, WebSocket,
    client::IntoClientRequest,
    handshake::client::Response,
    protocol::{CloseFrame, WebSocketConfig},
};

use super::DEADLINE;

pub const CONTINUE: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
/// Marks the last frame of a message.
pub const FIN: u8 = 0x80;

/// A well-behaved client.
pub struct Client {
    pub socket: WebSocket<Unbroken>,
    /// The server's answer to the handshake.
    pub response: Response,
}

/// A socket whose reads no signal breaks off: with a timeout set, Linux leaves it to the reader to read again (signal(7)),
/// and a test that kills its database gets signals.
pub struct Unbroken(TcpStream);

impl Read for Unbroken {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

impl Write for Unbroken {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Client {
    /// A member: connects and reads the greeting.
    pub fn join(address: SocketAddr, room: RoomId, token: &str) -> Client {
        let mut client = Client::connect(address, room, token);
        let greeting = client.text();
        assert!(greeting.starts_with(r#"{"type":"connection_established","#), "{greeting}");
        client
    }

    /// Connects with a token in the query, and reads nothing yet.
    pub fn connect(address: SocketAddr, room: RoomId, token: &str) -> Client {
        Client::open(address, &format!("/ws/chat/{room}/?token={token}"), &[])
    }

    /// Connects to a path, with further headers.
    pub fn open(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Client {
        Client::over(connected(address), address, path, headers)
    }

    /// Connects over a socket that is set up already.
    pub fn over(stream: TcpStream, address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Client {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        // Small, because there are many clients in a test.
        let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(0);
        let (socket, response) =
            tungstenite::client::client_with_config(request, Unbroken(stream), Some(config)).unwrap();
        Client { socket, response }
    }

    /// Sends a text.
    pub fn send(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).unwrap();
    }

    /// Sends a chat message for nobody in particular.
    pub fn say(&mut self, message: &str) {
        self.send(chat_message(message));
    }

    /// The next text; pings in between are answered.
    pub fn text(&mut self) -> String {
        match self.next() {
            Message::Text(text) => text.as_str().to_owned(),
            other => panic!("no text but {other:?}"),
        }
    }

    /// The next text, as JSON.
    pub fn json(&mut self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// The `message` of the next text, which must be a chat message.
    pub fn hears(&mut self) -> String {
        let json = self.json();
        assert_eq!(json["type"], "chat_message", "{json}");
        json["message"].as_str().unwrap().to_owned()
    }

    /// What comes within `patience`: a text as JSON, or the end, by a close frame with this code or by none.
    pub fn hear(&mut self, patience: Duration) -> Option<Result<Value, Option<u16>>> {
        self.socket.get_ref().0.set_read_timeout(Some(patience)).unwrap();
        let heard = match self.socket.read() {
            Ok(Message::Text(text)) => Some(Ok(serde_json::from_str(&text).unwrap())),
            Ok(Message::Close(frame)) => Some(Err(frame.map(|frame| frame.code.into()))),
            Ok(_) => None,
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(Err(None)),
        };
        self.socket.get_ref().0.set_read_timeout(Some(DEADLINE)).unwrap();
        heard
    }

    /// The next message but pings and pongs.
    pub fn next(&mut self) -> Message {
        loop {
            match self.socket.read() {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(message) => return message,
                Err(error) => panic!("instead of a message: {error}"),
            }
        }
    }

    /// Reads up to the close frame, answers it, and sees the connection end. Its code and reason.
    pub fn closed(&mut self) -> (u16, String) {
        let frame = loop {
            match self.next() {
                Message::Close(frame) => break frame,
                Message::Text(_) => {}
                other => panic!("neither text nor close but {other:?}"),
            }
        };
        assert!(self.socket.read().is_err(), "nothing comes after a close frame");
        let frame: CloseFrame = frame.expect("the server's close frames have a code");
        (frame.code.into(), frame.reason.as_str().to_owned())
    }

    /// Leaves in order; a server that was killed in this moment is left all the same.
    pub fn leave(mut self) {
        let _ = self.socket.close(None);
        while self.socket.read().is_ok() {}
    }

    /// A second handle, to send from another thread than the one that reads.
    pub fn sender(&self) -> Sender {
        Sender(self.socket.get_ref().0.try_clone().unwrap())
    }
}

/// The sending half of a client.
pub struct Sender(TcpStream);

impl Sender {
    pub fn say(&mut self, message: &str) {
        self.0.write_all(&frame(FIN | TEXT, chat_message(message))).unwrap();
    }
}

/// A message as clients send it.
pub fn chat_message(message: &str) -> String {
    json!({ "type": "chat_message", "message": message }).to_string()
}

/// A masked frame with any first byte.
pub fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => bytes.extend([&[0xfe], &(len as u16).to_be_bytes()[..]].concat()),
        len => bytes.extend([&[0xff], &(len as u64).to_be_bytes()[..]].concat()),
    }
    let key = [0x3d, 0xc4, 0x0b, 0xe9];
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A connected socket with deadlines.
pub fn connected(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A bare connection.
pub struct Raw {
    pub stream: TcpStream,
    /// What was read and not yet looked at.
    read: Vec<u8>,
}

/// A frame of the server's, which is never masked.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub first: u8,
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame {:#04x} {:?}", self.first, String::from_utf8_lossy(&self.payload))
    }
}

impl Frame {
    /// Code and reason of a close frame.
    pub fn close(&self) -> Option<(u16, &str)> {
        let (code, reason) = self.payload.split_first_chunk::<2>().filter(|_| self.first == FIN | CLOSE)?;
        Some((u16::from_be_bytes(*code), str::from_utf8(reason).unwrap()))
    }

    pub fn text(&self) -> &str {
        assert_eq!(self.first, FIN | TEXT, "{self:?}");
        str::from_utf8(&self.payload).unwrap()
    }
}

/// The head of a well-formed request for a WebSocket connection.
pub fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: chat.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

impl Raw {
    pub fn open(address: SocketAddr) -> Raw {
        Raw { stream: connected(address), read: Vec::new() }
    }

    /// A member that has read its greeting.
    pub fn join(address: SocketAddr, room: RoomId, token: &str) -> Raw {
        let mut raw = Raw::open(address);
        raw.send(upgrade(&format!("/ws/chat/{room}/?token={token}")));
        raw.greeted();
        raw
    }

    /// Reads the handshake's answer and the greeting.
    pub fn greeted(&mut self) {
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let greeting = self.frame();
        assert!(greeting.text().starts_with(r#"{"type":"connection_established","#), "{greeting:?}");
    }

    /// One request, and all that comes until the server ends the connection.
    pub fn answer(address: SocketAddr, request: impl AsRef<[u8]>) -> String {
        let mut raw = Raw::open(address);
        raw.send(request);
        String::from_utf8(raw.rest()).unwrap()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The head of an HTTP answer, with its last empty line.
    pub fn head(&mut self) -> String {
        let len = loop {
            match self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => assert!(self.more(), "the connection ended within a head: {:?}", self.read),
            }
        };
        String::from_utf8(self.read.drain(..len).collect()).unwrap()
    }

    /// The next frame.
    pub fn frame(&mut self) -> Frame {
        self.frame_or_end().expect("the connection ended before another frame")
    }

    /// The next frame, or `None` at the end of the connection.
    pub fn frame_or_end(&mut self) -> Option<Frame> {
        loop {
            if let Some((start, len)) = whole_frame(&self.read) {
                let bytes: Vec<u8> = self.read.drain(..start + len).collect();
                return Some(Frame { first: bytes[0], payload: bytes[start..].to_vec() });
            }
            if !self.more() {
                assert!(self.read.is_empty(), "the connection ended within a frame");
                return None;
            }
        }
    }

    /// The next frame, or `None` when there is none yet after so long.
    pub fn frame_within(&mut self, patience: Duration) -> Option<Frame> {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        let frame = loop {
            match whole_frame(&self.read) {
                Some(_) => break self.frame_or_end(),
                None => match self.read_some() {
                    Ok(len) => assert!(len > 0, "the connection ended"),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break None,
                    Err(error) => panic!("instead of a frame: {error}"),
                },
            }
        };
        self.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        frame
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.read)
    }

    /// A second handle, to send from another thread than the one that reads.
    pub fn sender(&self) -> Sender {
        Sender(self.stream.try_clone().unwrap())
    }

    /// Sends a FIN.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads what there is. False at the end of the connection, also when the server cut it off.
    fn more(&mut self) -> bool {
        match self.read_some() {
            Ok(len) => len > 0,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("nothing came in time: {error}; so far {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    /// Reads what there is, whatever signals come; how much it is, or zero at the end of the connection.
    fn read_some(&mut self) -> io::Result<usize> {
        let mut piece = [0; 8192];
        loop {
            match self.stream.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => {
                    self.read.extend_from_slice(&piece[..*read.as_ref().unwrap_or(&0)]);
                    break read;
                }
            }
        }
    }

    /// Nothing comes for this long.
    pub fn stays_silent(&mut self, lasts: Duration) {
        self.stream.set_read_timeout(Some(lasts)).unwrap();
        let read = loop {
            match self.stream.read(&mut [0; 16]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let error = read.expect_err("silence was expected");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    }
}

/// Where the payload of the first frame begins and how long it is, if all of it is there.
fn whole_frame(bytes: &[u8]) -> Option<(usize, usize)> {
    let (start, len) = match *bytes.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes(*bytes.get(2..4)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*bytes.get(2..10)?.first_chunk()?) as usize),
        len => {
            assert!(len < 126, "a server's frame is masked");
            (2, usize::from(len))
        }
    };
    (bytes.len() >= start + len).then_some((start, len))
}

/// Tries until it succeeds or the deadline has passed.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> io::Result<T>) -> T {
    let began = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(began.elapsed() < DEADLINE, "{what}: {error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}
