//! Unmasking a payload in place: ours beside byte by byte.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringroom::ws::mask::unmask;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn naive(bytes: &mut [u8], key: [u8; 4]) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte ^= key[at % 4];
    }
}

fn mask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mask");
    for len in [20, 128, 1024, 65_536] {
        let mut payload = vec![b'x'; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("unmask", len), |bencher| {
            bencher.iter(|| unmask(black_box(&mut payload), black_box(KEY), black_box(0)));
        });
        group.bench_function(BenchmarkId::new("naive", len), |bencher| {
            bencher.iter(|| naive(black_box(&mut payload), black_box(KEY)));
        });
    }
    group.finish();
}

criterion_group!(benches, mask);
criterion_main!(benches);
