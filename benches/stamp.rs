//! A message's id and timestamp, and the timestamp's text: ours beside `Uuid::now_v7`, which also reads the clock and
//! promises no order, and beside writing one field after the other with `format!`.

use std::{fmt::Write, hint::black_box};

use bytes::BytesMut;
use criterion::{Criterion, criterion_group, criterion_main};
use ringroom::stamp::{Stamper, put_rfc3339};
use uuid::Uuid;

const NOON: i64 = 1_704_110_400_123_456;

fn stamp(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stamp");
    let mut stamper = Stamper::new();
    group.bench_function("id and timestamp", |bencher| bencher.iter(|| stamper.stamp(black_box(NOON))));
    group.bench_function("id and timestamp/Uuid::now_v7", |bencher| bencher.iter(Uuid::now_v7));

    let mut out = BytesMut::with_capacity(64);
    group.bench_function("rfc 3339", |bencher| {
        bencher.iter(|| {
            out.clear();
            put_rfc3339(&mut out, black_box(NOON));
        });
    });
    group.bench_function("rfc 3339/format!", |bencher| {
        bencher.iter(|| {
            out.clear();
            let (year, month, day) = black_box((2024, 1, 1));
            let (seconds, micros) = (black_box(NOON) / 1_000_000 % 86_400, black_box(NOON) % 1_000_000);
            let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
        })
    });
    group.finish();
}

criterion_group!(benches, stamp);
criterion_main!(benches);
