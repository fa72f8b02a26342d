//! The first bytes of a connection: a browser's request head found to be an upgrade, its token and room read, its answer made.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringroom::{
    limits::HEAD_BYTES_MAX,
    protocol::ChatRequest,
    ws::handshake::{self, Head, Request},
};

/// As a browser sends it.
const HEAD: &str = "GET /ws/chat/6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a/?token=68f1f754ef18307cf922897c01183cb911d879a3 HTTP/1.1\r\n\
    Host: chat.example\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://chat.example\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

fn request() -> Box<Request> {
    match handshake::parse(HEAD.as_bytes(), HEAD_BYTES_MAX) {
        Head::Upgrade { request, .. } => request,
        other => panic!("{other:?}"),
    }
}

fn handshake(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handshake");
    group.bench_function("parse", |bencher| {
        bencher.iter(|| handshake::parse(black_box(HEAD.as_bytes()), HEAD_BYTES_MAX));
    });
    let request = request();
    group.bench_function("room and token", |bencher| bencher.iter(|| ChatRequest::read(black_box(&request)).is_ok()));
    group.bench_function("accept", |bencher| bencher.iter(|| handshake::accept(black_box(&request), None).is_ok()));
    group.finish();
}

criterion_group!(benches, handshake);
criterion_main!(benches);
