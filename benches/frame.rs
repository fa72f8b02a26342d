//! A client's frame becomes an event: ours beside tungstenite's `WebSocket`, and what reading its header alone costs.
//!
//! Every round copies the masked frame into the receive buffer first, as the kernel would, since decoding changes it.

use std::{
    hint::black_box,
    io::{Cursor, Read, Result, Write},
};

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringroom::ws::{
    encode,
    frame::{Decoder, Limits},
};
use tungstenite::{
    WebSocket,
    protocol::{
        Role,
        frame::{
            FrameHeader,
            coding::{Data, OpCode},
        },
    },
};

const LENGTHS: [usize; 4] = [20, 128, 1024, 65_536];
const LIMITS: Limits = Limits { message_bytes_max: 1 << 20, binary: false };
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked text frame of `len` bytes of payload.
fn client_frame(len: usize) -> Vec<u8> {
    let head = FrameHeader { opcode: OpCode::Data(Data::Text), mask: Some(KEY), ..FrameHeader::default() };
    let mut frame = Vec::new();
    head.format(len as u64, &mut frame).expect("a vector takes all that is written");
    frame.extend(KEY.iter().cycle().take(len).map(|key| b'x' ^ key));
    frame
}

/// A client that sends the same frame for ever and reads nothing.
struct Endless {
    frame: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let rest = &self.frame[self.at..];
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        self.at = (self.at + len) % self.frame.len();
        Ok(len)
    }
}

impl Write for Endless {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame/decode");
    for len in LENGTHS {
        let frame = client_frame(len);
        let mut buffer = frame.clone();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("whole", len), |bencher| {
            let mut decoder = Decoder::new();
            bencher.iter(|| {
                buffer.copy_from_slice(&frame);
                black_box(decoder.decode(black_box(&mut buffer), &LIMITS).is_ok())
            });
        });
        group.bench_function(BenchmarkId::new("in two pieces", len), |bencher| {
            let mut decoder = Decoder::new();
            bencher.iter(|| {
                buffer.copy_from_slice(&frame);
                let (first, second) = buffer.split_at_mut(len / 2);
                for piece in [first, second, &mut []] {
                    black_box(decoder.decode(black_box(piece), &LIMITS).is_ok());
                }
            });
        });
        group.bench_function(BenchmarkId::new("tungstenite", len), |bencher| {
            let client = Endless { frame: frame.clone(), at: 0 };
            let mut socket = WebSocket::from_raw_socket(client, Role::Server, None);
            bencher.iter(|| black_box(socket.read().is_ok()));
        });
    }
    group.finish();
}

fn header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame/header");
    for len in [20, 128] {
        let frame = client_frame(len);
        group.bench_function(BenchmarkId::new("tungstenite", len), |bencher| {
            bencher.iter(|| FrameHeader::parse(&mut Cursor::new(black_box(&frame[..]))).is_ok());
        });
        group.bench_function(BenchmarkId::new("by hand", len), |bencher| {
            bencher.iter(|| by_hand(black_box(&frame)));
        });
    }
    group.finish();
}

/// The least that a parser of short headers could do.
fn by_hand(input: &[u8]) -> Option<(u8, [u8; 4], usize)> {
    let (first, second) = (*input.first()?, *input.get(1)?);
    let (bytes, len) = match second & 0x7f {
        127 => return None,
        126 => (4, usize::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?))),
        len => (2, usize::from(len)),
    };
    Some((first, input.get(bytes..bytes + 4)?.try_into().ok()?, len))
}

fn encode_frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame/encode");
    for len in LENGTHS {
        let payload = "x".repeat(len);
        let mut batch = BytesMut::with_capacity(1 << 20);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("text", len), |bencher| {
            bencher.iter(|| {
                batch.clear();
                encode::text(&mut batch, black_box(&payload));
            });
        });
        group.bench_function(BenchmarkId::new("begin, end", len), |bencher| {
            bencher.iter(|| {
                batch.clear();
                let mark = encode::begin_text(&mut batch);
                batch.extend_from_slice(black_box(payload.as_bytes()));
                encode::end(&mut batch, mark);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode, header, encode_frame);
criterion_main!(benches);
