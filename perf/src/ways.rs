//! The ways to put a batch of messages into Postgres that `persist` compares: rows in, committed when a call returns.
//!
//! Each is written as fast as it could be made, over one connection that the one thread drives: what ringroom's writer
//! has to come near (raw COPY), what it must leave far behind (one row a transaction), and what it might have been.
//! Knows the tables under their own names only, with users' ids of type `uuid`.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use ringroom::identity::UserId;
use ringroom::store::{Row, Writer};
use serde::Serialize;
use tokio_postgres::{Client, Error, Statement};
use uuid::Uuid;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// `ringroom::store::Writer::insert`.
    Ringroom,
    /// Binary COPY, a batch a transaction: nothing is faster, and nothing of it may be sent again.
    Copy,
    /// One INSERT a transaction.
    Single,
    /// `INSERT … SELECT … FROM unnest(…) ON CONFLICT DO NOTHING`, one statement a batch.
    Unnest,
    /// Binary COPY into a temporary table, and from there `INSERT … SELECT … ON CONFLICT DO NOTHING`.
    Staged,
    /// Binary COPY, the next batch sent before the commit of the last one is answered.
    Pipelined,
}

impl Way {
    /// What every run compares.
    pub(crate) const ALWAYS: [Way; 2] = [Way::Ringroom, Way::Copy];
    /// What ringroom does not do.
    pub(crate) const CANDIDATES: [Way; 3] = [Way::Unnest, Way::Staged, Way::Pipelined];

    /// Its name in a table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Ringroom => "ringroom",
            Way::Copy => "copy",
            Way::Single => "single",
            Way::Unnest => "unnest",
            Way::Staged => "staged",
            Way::Pipelined => "pipelined",
        }
    }
}

/// Both connections, and what is prepared on the raw one.
pub(crate) struct Ways {
    writer: Writer,
    client: Client,
    copy: Statement,
    single: Statement,
    unnest: Statement,
    copy_stage: Statement,
    move_stage: Statement,
}

const COLUMNS: &str = r#"id, room_id, sender_id, receiver_id, "timestamp", content"#;

impl Ways {
    /// Prepares every way on `client`.
    pub(crate) async fn new(writer: Writer, client: Client) -> Result<Self, Error> {
        let stage = "CREATE TEMPORARY TABLE stage (LIKE chat_message) ON COMMIT DELETE ROWS";
        client.batch_execute(stage).await?;
        let insert = format!("INSERT INTO chat_message ({COLUMNS})");
        let keep = "ON CONFLICT (id) DO NOTHING";
        let prepare = async |statement: String| client.prepare(&statement).await;
        let copy = prepare(format!("COPY chat_message ({COLUMNS}) FROM STDIN (FORMAT binary)")).await?;
        let single = prepare(format!("{insert} VALUES ($1, $2, $3, $4, $5, $6)")).await?;
        let arrays = "$1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], $6::text[]";
        let unnest = prepare(format!("{insert} SELECT * FROM unnest({arrays}) {keep}")).await?;
        let copy_stage = prepare(format!("COPY stage ({COLUMNS}) FROM STDIN (FORMAT binary)")).await?;
        let move_stage = prepare(format!("{insert} SELECT {COLUMNS} FROM stage {keep}")).await?;
        Ok(Self { writer, client, copy, single, unnest, copy_stage, move_stage })
    }

    /// The raw connection.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Inserts all rows in batches; how long each batch took, the last one's commit included.
    pub(crate) async fn insert(&mut self, way: Way, rows: &[Row<'_>], batch: usize) -> Result<Vec<Duration>, String> {
        if way == Way::Pipelined {
            return self.pipelined(rows, batch).await.map_err(|error| error.to_string());
        }
        let mut took = Vec::with_capacity(rows.len().div_ceil(batch));
        for rows in rows.chunks(batch) {
            let start = Instant::now();
            match way {
                Way::Ringroom => self.writer.insert(rows).await.map_err(|error| error.to_string())?,
                Way::Copy => self.copied(rows).await.map_err(|error| error.to_string())?,
                Way::Single => self.one_by_one(rows).await.map_err(|error| error.to_string())?,
                Way::Unnest => self.unnested(rows).await.map_err(|error| error.to_string())?,
                Way::Staged => self.staged(rows).await.map_err(|error| error.to_string())?,
                Way::Pipelined => {}
            }
            took.push(start.elapsed());
        }
        Ok(took)
    }

    async fn copied(&self, rows: &[Row<'_>]) -> Result<(), Error> {
        let mut sink = pin!(self.client.copy_in(&self.copy).await?);
        sink.send(encode(rows)).await?;
        // The sink is told of the copy, not of its commit: that is over when an empty query sent behind it is answered.
        let (copied, committed) = tokio::join!(sink.finish(), self.client.batch_execute(""));
        copied.and(committed)
    }

    async fn one_by_one(&self, rows: &[Row<'_>]) -> Result<(), Error> {
        for row in rows {
            let timestamp = UNIX_EPOCH + Duration::from_micros(row.timestamp.unsigned_abs());
            let (sender, receiver) = (uuid(row.sender), row.receiver.map(uuid));
            let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                [&row.id, &row.room, &sender, &receiver, &timestamp, &row.content];
            self.client.execute(&self.single, &values).await?;
        }
        Ok(())
    }

    async fn unnested(&self, rows: &[Row<'_>]) -> Result<(), Error> {
        let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        let rooms: Vec<_> = rows.iter().map(|row| row.room).collect();
        let senders: Vec<_> = rows.iter().map(|row| uuid(row.sender)).collect();
        let receivers: Vec<_> = rows.iter().map(|row| row.receiver.map(uuid)).collect();
        let moment = |row: &Row<'_>| UNIX_EPOCH + Duration::from_micros(row.timestamp.unsigned_abs());
        let timestamps: Vec<_> = rows.iter().map(moment).collect();
        let contents: Vec<_> = rows.iter().map(|row| row.content).collect();
        self.client.execute(&self.unnest, &[&ids, &rooms, &senders, &receivers, &timestamps, &contents]).await?;
        Ok(())
    }

    async fn staged(&self, rows: &[Row<'_>]) -> Result<(), Error> {
        let (begun, sink) = tokio::join!(self.client.batch_execute("BEGIN"), self.client.copy_in(&self.copy_stage));
        begun?;
        let mut sink = pin!(sink?);
        sink.send(encode(rows)).await?;
        let (copied, moved, committed) = tokio::join!(
            biased;
            sink.finish(),
            self.client.execute(&self.move_stage, &[]),
            self.client.batch_execute("COMMIT"),
        );
        copied.and(moved).and(committed)
    }

    async fn pipelined(&self, rows: &[Row<'_>], batch: usize) -> Result<Vec<Duration>, Error> {
        let mut took = Vec::with_capacity(rows.len().div_ceil(batch));
        let mut committing: Option<(Instant, Commit<'_>)> = None;
        for rows in rows.chunks(batch) {
            let start = Instant::now();
            let (begun, sink) =
                tokio::join!(biased; self.client.batch_execute("BEGIN"), self.client.copy_in(&self.copy));
            begun?;
            let mut sink = pin!(sink?);
            sink.send(encode(rows)).await?;
            if let Some((start, commit)) = committing.take() {
                commit.await?;
                took.push(start.elapsed());
            }
            sink.finish().await?;
            let mut commit: Commit<'_> = Box::pin(self.client.batch_execute("COMMIT"));
            // Polled once, it is on its way, before anything of the next batch.
            match poll_fn(|context| Poll::Ready(commit.as_mut().poll(context))).await {
                Poll::Ready(committed) => took.push(committed.map(|()| start.elapsed())?),
                Poll::Pending => committing = Some((start, commit)),
            }
        }
        if let Some((start, commit)) = committing {
            commit.await?;
            took.push(start.elapsed());
        }
        Ok(took)
    }
}

/// A COMMIT that is under way.
type Commit<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

fn uuid(id: UserId) -> Uuid {
    match id {
        UserId::Uuid(id) => id,
        // There are none: the tables were looked at.
        UserId::Int(_) => Uuid::nil(),
    }
}

/// Rows as COPY's binary format has them (PostgreSQL manual, COPY, "Binary Format"), header and trailer included.
fn encode(rows: &[Row<'_>]) -> Bytes {
    /// From 1970 to 2000.
    const EPOCH_US: i64 = 946_684_800_000_000;
    let text: usize = rows.iter().map(|row| row.content.len()).sum();
    let mut out = BytesMut::with_capacity(rows.len() * 98 + text + 21);
    out.put_slice(b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
    for row in rows {
        out.put_i16(6);
        put(&mut out, row.id.as_bytes());
        put(&mut out, row.room.as_bytes());
        put(&mut out, uuid(row.sender).as_bytes());
        match row.receiver {
            Some(id) => put(&mut out, uuid(id).as_bytes()),
            None => out.put_i32(-1),
        }
        put(&mut out, &(row.timestamp - EPOCH_US).to_be_bytes());
        put(&mut out, row.content.as_bytes());
    }
    out.put_i16(-1);
    out.freeze()
}

fn put(out: &mut BytesMut, value: &[u8]) {
    out.put_i32(value.len() as i32);
    out.put_slice(value);
}
