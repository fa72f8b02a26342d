//! An echo server on ringroom's own shards, frames and ring, for WebSocket conformance suites.
//!
//! Every message, text or binary, of at most 64 MiB, comes back as it was sent. There are no rooms, tokens or rates. One
//! shard, on whichever CPU the kernel chooses.
//!
//! ```text
//! cargo run --release --example echo -- 127.0.0.1:9001
//! ```

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use ringroom::{
    limits::MAILBOX_MESSAGES_MAX,
    shard::{
        self, Mailed, Message, Service, Setup, accept,
        conn::{ConnId, Conns, Patience},
        mailbox::mailbox,
        occupancy::Occupancy,
    },
    ws::{
        encode,
        frame::Limits,
        handshake::{self, Refusal, Request},
    },
};

/// The most bytes of one message.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Sends back what it gets.
struct Echo;

impl Service for Echo {
    type Mail = std::convert::Infallible;
    type Peer = ();

    fn limits(&self) -> Limits {
        Limits { message_bytes_max: MESSAGE_BYTES_MAX, binary: true }
    }

    fn upgrade(&mut self, conns: &mut Conns<()>, id: ConnId, request: &Request) {
        match handshake::accept(request, None) {
            Ok(accept) => conns.open(id, |outbox| outbox.extend_from_slice(&accept), ()),
            Err(refusal) => conns.refuse(id, refusal),
        }
    }

    fn http(&mut self, conns: &mut Conns<()>, id: ConnId, _target: &str) {
        conns.refuse(id, Refusal::NotAnUpgrade);
    }

    fn mail(&mut self, _: &mut Conns<()>, mail: Self::Mail) -> Mailed {
        match mail {}
    }

    fn message(&mut self, conns: &mut Conns<()>, id: ConnId, message: Message<'_>) {
        conns.say(id, |outbox| match message {
            Message::Text(text) => encode::text(outbox, str::from_utf8(text).expect("the decoder has checked it")),
            Message::Binary(bytes) => encode::binary(outbox, bytes),
        });
    }

    fn listens(&mut self, _: &mut Conns<()>, _: ConnId) {}

    fn departed(&mut self, _peer: ()) {}

    fn turn_ends(&mut self, _: &mut Conns<()>) {}

    fn owes(&self, _peer: &()) -> bool {
        false
    }

    fn is_idle(&self) -> bool {
        true
    }
}

fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".into());
    let Ok(address) = argument.parse() else {
        eprintln!("{argument} is not an address to listen on; give an IP address and a port, such as 127.0.0.1:9001");
        return ExitCode::from(2);
    };
    match serve(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot echo on {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(address: SocketAddr) -> std::io::Result<()> {
    let listener = accept::listeners(address, 1)?.remove(0);
    println!("echoing on ws://{}", accept::local_address(&listener)?);
    // Nobody posts; the postbox is kept so that the shard does not take its silence for an end.
    let (_postbox, mailbox) = mailbox(MAILBOX_MESSAGES_MAX);
    let patience = Patience {
        head: Duration::from_secs(10),
        ask: Duration::ZERO,
        ping: Duration::from_secs(25),
        close: Duration::from_secs(5),
        settle: Duration::ZERO,
    };
    let occupancy = Arc::new(Occupancy::new(10_000, 1_000));
    shard::run(Setup { listener, mailbox, expected: 0, patience, occupancy, counters: Arc::default() }, Echo)
}
