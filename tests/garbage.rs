//! Whatever bytes come in, the server neither dies nor panics, loses no connection and no descriptor, and goes on serving
//! those who behave.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use ringroom::close::Close;
use support::{
    client::{CLOSE, Client, FIN, PING, Raw, TEXT, chat_message, eventually, frame, upgrade},
    place::Place,
    random,
    server::{Ended, Server},
};

const LASTS: Duration = Duration::from_secs(5);
const ATTACKERS: usize = 4;

#[test]
fn garbage_harms_nobody_but_its_sender() {
    let mut place = Place::sqlite();
    let room = place.seed(1, 3).remove(0);
    let server = Server::start(&place, &["--close-timeout-seconds", "1", "--head-timeout-seconds", "2"]);
    let path = format!("/ws/chat/{}/?token={}", room.room, room.users[0].token);
    let mut behaves = Client::join(server.address, room.room, &room.users[1].token);
    behaves.say("the first");
    assert_eq!(behaves.hears(), "the first");
    // The writer has done by now, too, all that it does only once.
    eventually("the first message is saved", || match place.texts(room.room).len() {
        0 => Err(std::io::Error::other("the table is empty")),
        _ => Ok(()),
    });
    let files_before = open_files(&server, &place);

    let mut seeds = random();
    let attackers: Vec<_> = (0..ATTACKERS)
        .map(|_| Attacker {
            random: StdRng::seed_from_u64(seeds.random()),
            address: server.address,
            path: path.clone(),
        })
        .collect();
    let attacks: Vec<_> = attackers.into_iter().map(|attacker| thread::spawn(|| attacker.attack())).collect();
    let began = Instant::now();
    let mut said = 0;
    while began.elapsed() < LASTS {
        // Others may talk as well, by chance: mutated frames are sometimes good ones.
        said += 1;
        let text = format!("still here {said}");
        behaves.say(&text);
        while behaves.hears() != text {}
        thread::sleep(Duration::from_millis(20));
    }
    let connections: usize = attacks.into_iter().map(|attack| attack.join().unwrap()).sum();
    println!("{connections} connections, {said} messages beside them");

    eventually("every descriptor is given back", || match open_files(&server, &place) {
        files if files <= files_before => Ok(()),
        files => Err(std::io::Error::other(format!("{files} instead of {files_before}"))),
    });
    Client::join(server.address, room.room, &room.users[2].token).leave();
    behaves.leave();
    check_balance(&server.stop(), connections as u64 + 2);
}

/// Descriptors that the server holds, but for files of its own data: the journal opens a segment ahead of the one that it
/// writes, the writer opens what it reads of them, and both when they come to it. Connections are counted, all of them.
fn open_files(server: &Server, place: &Place) -> usize {
    let (descriptors, own) = (fs::read_dir(server.proc("fd")).unwrap(), place.folder().canonicalize().unwrap());
    // One that was closed since the folder was read leads nowhere.
    let links = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| !link.starts_with(&own)).count()
}

/// Everyone who came has gone, in one way and no more.
fn check_balance(ended: &Ended, connections: u64) {
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
    assert_eq!(ended.counter("accepted"), connections, "{}", ended.log);
    let before_opening = [Close::Unauthorized, Close::NotMember, Close::DatabaseUnavailable];
    let closed: u64 = Close::ALL
        .iter()
        .filter(|close| !before_opening.contains(close))
        .map(|close| ended.counter(close.label()))
        .sum();
    let gone = closed + ended.counter("closed_by_peer") + ended.counter("vanished");
    assert_eq!(ended.counter("opened"), gone, "{}", ended.log);
}

/// Connects again and again, each time with other nonsense.
struct Attacker {
    random: StdRng,
    address: std::net::SocketAddr,
    path: String,
}

const HEADERS: [&str; 10] = [
    "Host: x",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 12",
    "Sec-WebSocket-Key: short",
    "Content-Length: 99999999999",
    "Transfer-Encoding: chunked",
    "Cookie: \u{fffd}",
    ": empty",
    " ",
];

impl Attacker {
    fn attack(mut self) -> usize {
        let began = Instant::now();
        let mut connections = 0;
        while began.elapsed() < LASTS {
            connections += 1;
            let mut raw = Raw::open(self.address);
            match self.random.random_range(0..4) {
                0 => self.throw_bytes(&mut raw),
                1 => self.throw_head(&mut raw),
                _ => self.throw_frames(&mut raw),
            }
            self.end(raw);
        }
        connections
    }

    fn throw_bytes(&mut self, raw: &mut Raw) {
        let mut bytes = vec![0; self.random.random_range(0..10_000)];
        self.random.fill_bytes(&mut bytes);
        self.throw(raw, &bytes);
    }

    /// A head that looks like one, up to some point.
    fn throw_head(&mut self, raw: &mut Raw) {
        let method = self.pick(&["GET", "POST", "HEAD", "get", ""]);
        let path = self.pick(&["/", "/ws/chat/", "/healthz", "/api/rooms/x/messages?limit=-1", "*", "//", "http://x/"]);
        let version = self.pick(&["HTTP/1.1", "HTTP/1.0", "HTTP/2", "XTTP"]);
        let mut head = format!("{method} {path} {version}\r\n");
        for _ in 0..self.random.random_range(0..8) {
            head += self.pick(&HEADERS);
            head += self.pick(&["\r\n", "\r\n", "\r\n", "\n", "\r"]);
        }
        head += "\r\n";
        let mut bytes = if self.random.random() { head.into_bytes() } else { upgrade(&self.path).into_bytes() };
        self.mutate(&mut bytes);
        self.throw(raw, &bytes);
    }

    /// A member that sends frames of which most are broken.
    fn throw_frames(&mut self, raw: &mut Raw) {
        raw.send(upgrade(&self.path));
        if self.random.random() {
            raw.greeted();
        }
        for _ in 0..self.random.random_range(1..20) {
            let opcode = self.pick(&[TEXT, TEXT, PING, CLOSE, 0, 2, 3, 0xa, 0x71]);
            let fin = self.pick(&[FIN, FIN, 0]);
            let mut bytes = match self.random.random_range(0..3) {
                0 => frame(fin | opcode, chat_message("good day")),
                1 => frame(fin | opcode, b"\xed\xa0\x80 {\"type\":"),
                _ => frame(fin | opcode, vec![b'x'; self.pick(&[0, 1, 125, 126, 5_000, 70_000])]),
            };
            if self.random.random_range(0..3) > 0 {
                self.mutate(&mut bytes);
            }
            self.throw(raw, &bytes);
        }
    }

    /// Changes, removes or repeats a few bytes.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.random.random_range(0..4) {
            // Most of what matters is at the beginning.
            let reach = self.pick(&[16, bytes.len()]).min(bytes.len());
            let Some(at) = (reach > 0).then(|| self.random.random_range(0..reach)) else { return };
            match self.random.random_range(0..4) {
                0 => bytes.truncate(at),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, bytes[at]),
                _ => bytes[at] = self.random.random(),
            }
        }
    }

    /// In pieces. The server may have ended the connection by now.
    fn throw(&mut self, raw: &mut Raw, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(self.random.random_range(1..=rest.len()));
            rest = left;
            if raw.stream.write_all(piece).is_err() {
                return;
            }
        }
    }

    /// Leaves in one of the ways to leave.
    fn end(&mut self, mut raw: Raw) {
        match self.random.random_range(0..4) {
            0 => {}
            1 => raw.finish(),
            // Reads for a while, perhaps to the end.
            _ => {
                raw.stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
                let mut answer = [0; 4096];
                loop {
                    match raw.stream.read(&mut answer) {
                        Ok(1..) => {}
                        Ok(0) => break,
                        Err(error) => {
                            let kinds = [ErrorKind::WouldBlock, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                            break assert!(kinds.contains(&error.kind()), "{error}");
                        }
                    }
                }
            }
        }
        drop(raw);
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.random_range(0..from.len())]
    }
}
