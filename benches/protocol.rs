//! The JSON of a message read in place, and the JSON of its envelope written: ours beside serde_json.
//!
//! Reading changes the text, so every round of ours copies it first; serde_json borrows from it unchanged.

use std::{borrow::Cow, hint::black_box};

use bytes::{BufMut, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringroom::{
    identity::UserId,
    protocol::{Envelope, Parser, output},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const LENGTHS: [usize; 4] = [20, 128, 1024, 65_536];
const ID: Uuid = Uuid::from_u128(0x6f1e8a52_7d1c_4b1f_9d7e_0b9f2f1d3c4a);

/// What an author might write with serde alone.
#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    receiver_id: Option<Uuid>,
}

/// The envelope for serde_json.
#[derive(Serialize)]
struct Outgoing<'a> {
    r#type: &'a str,
    message: &'a str,
    sender_id: Uuid,
    sender_username: &'a str,
    message_id: Uuid,
    timestamp: &'a str,
    receiver_id: Option<Uuid>,
}

/// Messages of plain ASCII, of letters beyond it, and with something to escape in every tenth place.
fn messages(len: usize) -> [(&'static str, String); 3] {
    let of = |pattern: &str| pattern.chars().cycle().take(len * pattern.chars().count() / pattern.len()).collect();
    [
        ("ascii", of("lorem ipsum ")),
        ("cyrillic", of("\u{43f}\u{440}\u{438}\u{432}\u{435}\u{442} ")),
        ("escapes", of("a \"quote\"\n")),
    ]
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol/parse");
    for len in LENGTHS {
        for (kind, message) in messages(len) {
            let message = serde_json::to_string(&message).expect("a string");
            let text = format!(r#"{{"type":"chat_message","message":{message},"receiver_id":null}}"#);
            let mut buffer = text.clone().into_bytes();
            let mut parser = Parser::new();
            group.throughput(Throughput::Bytes(text.len() as u64));
            group.bench_function(BenchmarkId::new(format!("parser, {kind}"), len), |bencher| {
                bencher.iter(|| {
                    buffer.copy_from_slice(text.as_bytes());
                    black_box(parser.parse(black_box(&mut buffer), 1 << 20).is_ok())
                });
            });
            group.bench_function(BenchmarkId::new(format!("serde_json, {kind}"), len), |bencher| {
                bencher.iter(|| {
                    let incoming: Incoming<'_> = serde_json::from_slice(black_box(text.as_bytes())).expect("JSON");
                    black_box((incoming.kind.len(), incoming.message.len(), incoming.receiver_id))
                });
            });
        }
    }
    group.finish();
}

fn envelope(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol/envelope");
    for len in LENGTHS {
        for (kind, message) in messages(len) {
            let mut batch = BytesMut::with_capacity(1 << 20);
            group.throughput(Throughput::Bytes(message.len() as u64));
            group.bench_function(BenchmarkId::new(format!("chat_message, {kind}"), len), |bencher| {
                bencher.iter(|| {
                    batch.clear();
                    let envelope = Envelope {
                        message: black_box(&message),
                        sender: UserId::Uuid(ID),
                        sender_username: "alice",
                        id: ID,
                        timestamp: black_box(1_704_110_400_123_456),
                        receiver: None,
                    };
                    output::chat_message(&mut batch, &envelope);
                });
            });
            group.bench_function(BenchmarkId::new(format!("serde_json, {kind}"), len), |bencher| {
                bencher.iter(|| {
                    batch.clear();
                    let outgoing = Outgoing {
                        r#type: "chat_message",
                        message: black_box(&message),
                        sender_id: ID,
                        sender_username: "alice",
                        message_id: ID,
                        timestamp: "2024-01-01T12:00:00.123456Z",
                        receiver_id: None,
                    };
                    serde_json::to_writer((&mut batch).writer(), &outgoing).expect("a buffer takes all");
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, parse, envelope);
criterion_main!(benches);
