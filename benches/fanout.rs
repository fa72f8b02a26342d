//! The whole path over real sockets: a server of this process, members on the loopback, messages sent by one of them, and the
//! time until every member has received every byte.
//!
//! `journal` durability, an SQLite database, no limits. The clients' reads are in the time: they are the same for all
//! figures here, and about a fifth of it. For latency under load and CPU a delivery there is `ringroom-perf`.

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringroom::{
    config::{Config, Flags, Typed},
    server::{control_runtime, serve},
    store::{Admin, SeededRoom},
};
use tokio::sync::Notify;

/// How long anything may take before the bench fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// Members of the room.
const MEMBERS: usize = 200;

/// A server of this process, and the members of its room, the first of whom speaks.
struct Stage {
    folder: PathBuf,
    members: Vec<TcpStream>,
    message: Vec<u8>,
    /// Bytes of the frame in which every member receives the message.
    frame_len: usize,
    stop: Arc<Notify>,
    server: Option<JoinHandle<()>>,
}

impl Stage {
    fn new(flags: &[(&'static str, &str)]) -> Stage {
        let folder = env::temp_dir().join(format!("ringroom-bench-fanout-{}", process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder can be made");
        let mut values = vec![
            ("listen", "127.0.0.1:0".to_owned()),
            ("data_dir", folder.display().to_string()),
            ("durability", "journal".to_owned()),
            ("drain_seconds", "0".to_owned()),
        ];
        values.extend(flags.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let typed = Typed::gather(Flags { file: None, values }, []);
        let Ok(config) = typed.and_then(|typed| Config::check(&typed)) else { panic!("the settings are in order") };
        let (ready, is_ready) = mpsc::channel();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let server = thread::spawn(move || run(&config, stopped, ready));
        let (address, room) = is_ready.recv_timeout(DEADLINE).expect("the server starts");
        let mut members: Vec<TcpStream> = room.users.iter().map(|user| join(address, &room, &user.token)).collect();
        let message = masked(
            r#"{"type":"chat_message","message":"a message of as many characters as most messages have, 64 in all"}"#,
        );
        members[0].write_all(&message).expect("the server listens");
        let frame_len = members.iter_mut().map(frame).max().expect("there are members");
        Stage { folder, members, message, frame_len, stop, server: Some(server) }
    }

    /// The speaker says `messages` at once, and everyone has received them.
    fn deliver(&mut self, messages: usize, buf: &mut Vec<u8>) {
        self.members[0].write_all(&self.message.repeat(messages)).expect("the server listens");
        buf.resize(messages * self.frame_len, 0);
        for member in &mut self.members {
            member.read_exact(buf).expect("every message reaches every member");
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.members.clear();
        self.stop.notify_one();
        let ended = self.server.take().map(JoinHandle::join);
        let _ = fs::remove_dir_all(&self.folder);
        assert!(matches!(ended, Some(Ok(()))) || thread::panicking(), "the server ends in order");
    }
}

/// Makes a database with one room, and serves it until `stopped`.
fn run(config: &Config, stopped: Arc<Notify>, ready: mpsc::Sender<(SocketAddr, SeededRoom)>) {
    let Ok(runtime) = control_runtime() else { panic!("no runtime") };
    let ended = runtime.block_on(async {
        let mut admin = Admin::create(&config.database).await.expect("an SQLite file can be made");
        admin.migrate().await.expect("an empty database can be migrated");
        let seeded = admin.seed(1, MEMBERS as u32).await.expect("a migrated database can be filled");
        let room = seeded.rooms.into_iter().next().expect("one room was asked for");
        let stop = async move || stopped.notified().await;
        serve(config, stop, |running| ready.send((running.address, room)).expect("the bench waits")).await
    });
    assert!(ended.is_ok(), "the server ends in order");
}

/// A member that has been greeted.
fn join(address: SocketAddr, room: &SeededRoom, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_nodelay(true).expect("a socket knows TCP_NODELAY");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline is no zero");
    let request = format!(
        "GET /ws/chat/{}/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nAuthorization: Token {token}\r\n\r\n",
        room.room
    );
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the server answers");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    frame(&mut stream);
    stream
}

/// Reads one frame of up to 64 KiB (RFC 6455 section 5.2); how many bytes it has with its header.
fn frame(stream: &mut TcpStream) -> usize {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a frame comes");
    let (len, extended) = match head[1] {
        126 => {
            let mut len = [0; 2];
            stream.read_exact(&mut len).expect("a frame comes whole");
            (usize::from(u16::from_be_bytes(len)), 2)
        }
        len => (usize::from(len), 0),
    };
    stream.read_exact(&mut vec![0; len]).expect("a frame comes whole");
    2 + extended + len
}

/// A client's text frame, its mask all zeros.
fn masked(text: &str) -> Vec<u8> {
    let len = u8::try_from(text.len()).ok().filter(|len| *len < 126).expect("a short text");
    [&[0x81, 0x80 | len, 0, 0, 0, 0], text.as_bytes()].concat()
}

fn fanout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fanout");
    group.sample_size(20);
    let mut buf = Vec::new();
    for (name, flags) in [
        ("one shard", &[("shards", "1")][..]),
        ("spilled over to a second", &[("shards", "2"), ("spill_members", "100")]),
    ] {
        let mut stage = Stage::new(flags);
        for messages in [1, 16] {
            group.throughput(Throughput::Elements((messages * MEMBERS) as u64));
            group.bench_function(BenchmarkId::new(name, messages), |bencher| {
                bencher.iter(|| stage.deliver(messages, &mut buf));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, fanout);
criterion_main!(benches);
