//! A turn's messages on their way into the journal and back out of it: records written one behind the other, the appender's
//! decisions (no disk), and a segment's worth read again, each record checked.
//!
//! Beside it, the checksum alone over the same bytes: what the records cannot be cheaper than.

use std::{hint::black_box, sync::Arc};

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringroom::{
    identity::UserId,
    journal::{
        Progress,
        appender::{Appender, Done, Op, Rules},
        record::{self, Record},
    },
    store::Row,
};
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(0x6f1e8a52_7d1c_4b1f_9d7e_0b9f2f1d3c4a);
const LENGTHS: [usize; 3] = [64, 1024, 4096];

fn record(content: &str) -> Record<'_> {
    let row =
        Row { id: ID, room: ID, sender: UserId::Uuid(ID), receiver: None, timestamp: 1_704_110_400_123_456, content };
    Record { row, sender_username: "alice" }
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal/record");
    for length in LENGTHS {
        let content = "x".repeat(length);
        let record = record(&content);
        let mut out = BytesMut::with_capacity(2 * record.encoded_len());
        group.throughput(Throughput::Bytes(record.encoded_len() as u64));
        group.bench_function(BenchmarkId::new("encode", length), |bencher| {
            bencher.iter(|| {
                out.clear();
                record::encode(&mut out, 7, black_box(&record));
            });
        });
        group.bench_function(BenchmarkId::new("decode", length), |bencher| {
            bencher.iter(|| record::decode_all(black_box(&out)).count());
        });
        group.bench_function(BenchmarkId::new("checksum alone", length), |bencher| {
            bencher.iter(|| crc32c::crc32c(black_box(&out)));
        });
    }
    group.finish();
}

/// Everything that the appender asks for succeeds at once.
fn carry_out(appender: &mut Appender) {
    while let Some(op) = appender.next_op() {
        let done = match op {
            Op::Prepare { .. } => Done::Prepare,
            Op::Write { .. } => Done::Write,
            Op::Sync { .. } => Done::Sync,
            Op::Cut { .. } => Done::Cut,
            Op::Remove { .. } => Done::Remove,
        };
        appender.done(done, true);
    }
    black_box(appender.outcomes().count());
}

fn appender(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("journal/turn");
    let content = "x".repeat(64);
    for messages in [1_u64, 16, 256] {
        group.throughput(Throughput::Elements(messages));
        group.bench_function(BenchmarkId::from_parameter(messages), |bencher| {
            let rules =
                Rules { shard: 0, segment_bytes: 16 << 20, segments_max: 64, record_bytes_max: 1 << 20, sync: true };
            let progress = Arc::new(Progress::default());
            let mut appender = Appender::new(rules, Arc::clone(&progress), 1, 1);
            bencher.iter(|| {
                for _ in 0..messages {
                    appender.append(&record(black_box(&content)));
                }
                appender.end_turn();
                carry_out(&mut appender);
                // As if the database had all of it at once: files are used again, and none piles up.
                progress.set_saved(appender.held());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, records, appender);
criterion_main!(benches);
