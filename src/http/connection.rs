//! One HTTP connection: a socket and the bytes already read from it go in, one answer comes out, the socket closes.
//!
//! One request a connection keeps this small and costs little: the page makes a handful of requests, and its messages
//! travel over the WebSocket. Runs on the control thread. Never waits past its deadline.

use std::{
    error::Error,
    io::{Cursor, Write},
    net::Shutdown,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, copy, join, sink},
    net::TcpStream,
    time::timeout,
};

use crate::shard::passage::Passage;

/// From hand-over to close, whatever the client does.
const CONNECTION_SECONDS_MAX: u64 = 30;
/// For what is missing of the head; shards hand over complete heads, so this is a second line.
const HEAD_SECONDS_MAX: u64 = 10;
/// The request head's bound (8 KiB, kept by shards) and what a client may send behind it, in bytes.
const READ_BYTES_MAX: usize = 16 * 1024;
/// How long, and for how many bytes, a client is listened to after its answer.
const LINGER: (Duration, u64) = (Duration::from_secs(2), 64 * 1024);

/// A connection that turned out to be plain HTTP.
pub struct HandedOver {
    /// The socket. Made non-blocking here if it is not.
    pub stream: std::net::TcpStream,
    /// What was read from it: the request head, and whatever came with it.
    pub read: Vec<u8>,
    /// Its way here; it takes a place among the server's connections as long as this lives.
    pub passage: Passage,
}

/// Answers one request and closes the connection. False when the deadline closed it. `place`, whatever it is, is dropped as
/// soon as the answer is out: a client that does not close then keeps nobody from being answered.
///
/// What goes wrong on a client's connection is the client's affair: it ends the connection and is not reported.
pub async fn serve(connection: HandedOver, app: Router, place: impl Sized) -> bool {
    let answered = timeout(Duration::from_secs(CONNECTION_SECONDS_MAX), answer(connection, app, place));
    answered.await.is_ok()
}

async fn answer(
    HandedOver { stream, read, passage: _passage }: HandedOver,
    app: Router,
    place: impl Sized,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    stream.set_nonblocking(true)?;
    let (receiver, sender) = TcpStream::from_std(stream)?.into_split();
    let mut both = join(Cursor::new(read).chain(receiver), sender);
    http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX))
        .max_buf_size(READ_BYTES_MAX)
        .serve_connection(TokioIo::new(&mut both), TowerToHyperService::new(app))
        .await?;
    drop(place);
    linger(&mut both).await;
    Ok(())
}

/// Reads on until the client has closed too. To close with bytes unread would reset the connection, and the reset may
/// overtake the answer: a request with a body, which nothing here reads, would see no answer.
async fn linger(client: &mut (impl AsyncRead + Unpin)) {
    let (patience, bytes_max) = LINGER;
    let mut rest = client.take(bytes_max);
    // However it ends, the answer is out and the connection is over.
    let _ = timeout(patience, copy(&mut rest, &mut sink())).await;
}

/// Tells one client too many to come back, without waiting for anything.
pub(super) fn refuse(HandedOver { mut stream, .. }: HandedOver) {
    const BODY: &str = r#"{"error":"Too many requests at once; try again"}"#;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 2\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    // A fresh socket takes this many bytes at once; a client that is gone needs none.
    let sent = stream.set_nonblocking(true).and_then(|()| stream.write_all(answer.as_bytes()));
    let _ = sent.and_then(|()| stream.shutdown(Shutdown::Write));
}
