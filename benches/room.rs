//! A room's part of a message's way: frames appended to the open batch, the batch sealed, released and sent from the log.
//!
//! Beside it, what a design with a queue for every member would do at least: push the batch to each member's queue.

use std::{collections::VecDeque, hint::black_box};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringroom::shard::room::{After, Room};
use uuid::Uuid;

/// The frame of a message of 64 characters.
const FRAME: [u8; 330] = [b'x'; 330];

/// Members of the room.
const MEMBERS: u64 = 200;

fn append_and_seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("room/append_and_seal");
    for messages in [1_u64, 16, 256] {
        group.throughput(Throughput::Elements(messages));
        group.bench_function(BenchmarkId::from_parameter(messages), |b| {
            let mut room = Room::new(Uuid::nil());
            let mut turn = 0;
            b.iter(|| {
                for _ in 0..messages {
                    room.append(|frames| frames.extend_from_slice(black_box(&FRAME)));
                }
                turn += 1;
                room.seal(turn);
                black_box(room.release(turn))
            });
        });
    }
    group.finish();
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("room/fan_out");
    group.throughput(Throughput::Elements(MEMBERS));
    group.bench_function("log and cursors", |b| {
        let mut room = Room::new(Uuid::nil());
        let mut cursors = vec![0; MEMBERS as usize];
        let mut turn = 0;
        b.iter(|| {
            turn += 1;
            room.append(|frames| frames.extend_from_slice(&FRAME));
            room.seal(turn);
            let batch = room.release(turn).expect("it was just sealed");
            room.broadcast(batch);
            for cursor in &mut cursors {
                if let After::Send(outgoing, next, _) = room.log.after(*cursor) {
                    *cursor = next;
                    black_box(outgoing);
                }
            }
            room.log.clear();
        });
    });
    group.bench_function("a queue a member", |b| {
        let mut queues: Vec<VecDeque<Bytes>> = (0..MEMBERS).map(|_| VecDeque::with_capacity(4)).collect();
        b.iter(|| {
            let frame = Bytes::copy_from_slice(&FRAME);
            for queue in &mut queues {
                queue.push_back(frame.clone());
            }
            for queue in &mut queues {
                black_box(queue.pop_front());
            }
        });
    });
    group.finish();
}

criterion_group!(benches, append_and_seal, fan_out);
criterion_main!(benches);
