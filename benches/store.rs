//! A batch of new messages into an SQLite database on the disk, committed: what the writer does with what it has read.
//! Postgres is measured by `ringroom-perf persist`, beside COPY.

use std::{env, fs, path::PathBuf, process, time::Duration};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringroom::{
    identity::{RoomId, UserId},
    server::control_runtime,
    stamp::Stamper,
    store::{Admin, Database, DatabaseUrl, Names, Row, Writer},
};

const WAIT: Duration = Duration::from_secs(30);

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn insert(criterion: &mut Criterion) {
    let folder = Folder(env::temp_dir().join(format!("ringroom-bench-store-{}", process::id())));
    fs::create_dir_all(&folder.0).expect("a temporary folder can be made");
    let url = DatabaseUrl::Sqlite(folder.0.join("chat.db"));
    let database = Database { url, names: Names::default(), connect_timeout: WAIT, query_timeout: WAIT };
    let Ok(runtime) = control_runtime() else { panic!("no runtime") };
    let (mut writer, room, sender) = runtime.block_on(prepare(&database));

    let content = "x".repeat(64);
    let mut stamper = Stamper::new();
    let mut batch = |rows: u64| -> Vec<Row<'_>> {
        let row = |_| {
            let (id, timestamp) = stamper.stamp(1_704_110_400_123_456);
            Row { id, room, sender, receiver: None, timestamp, content: &content }
        };
        (0..rows).map(row).collect()
    };
    let mut group = criterion.benchmark_group("store/insert");
    group.sample_size(10);
    for rows in [1_u64, 64, 1024] {
        group.throughput(Throughput::Elements(rows));
        group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
            let insert = |rows: Vec<Row<'_>>| runtime.block_on(writer.insert(&rows)).expect("the rows are in order");
            bencher.iter_batched(|| batch(rows), insert, BatchSize::PerIteration);
        });
    }
    group.finish();
}

async fn prepare(database: &Database) -> (Writer, RoomId, UserId) {
    let mut admin = Admin::create(database).await.expect("an SQLite file can be made");
    admin.migrate().await.expect("an empty database can be migrated");
    let seeded = admin.seed(1, 1).await.expect("a migrated database can be filled");
    let room = &seeded.rooms[0];
    let sender = room.users[0].id.parse().expect("a seeded id is a UUID");
    (Writer::open(database).await.expect("the database is there"), room.room, UserId::Uuid(sender))
}

criterion_group!(benches, insert);
criterion_main!(benches);
