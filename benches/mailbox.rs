//! A letter to another thread, posted and read on one thread; beside it the queue alone, without the bell that wakes.

use criterion::{Criterion, criterion_group, criterion_main};
use ringroom::shard::mailbox::{Letter, mailbox};

/// As large as what shards tell each other.
type Mail = [u64; 4];

fn letters(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mailbox");
    let (postbox, reader) = mailbox::<Mail>(1024);
    group.bench_function("post and read", |bencher| {
        bencher.iter(|| {
            assert!(postbox.post([7; 4]).is_ok());
            matches!(reader.read(), Letter::Is(_))
        });
    });
    let (sender, receiver) = crossbeam_channel::bounded::<Mail>(1024);
    group.bench_function("post and read/queue alone", |bencher| {
        bencher.iter(|| {
            assert!(sender.try_send([7; 4]).is_ok());
            receiver.try_recv().is_ok()
        });
    });
    group.finish();
}

criterion_group!(benches, letters);
criterion_main!(benches);
