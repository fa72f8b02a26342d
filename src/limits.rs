//! Compile-time bounds: the sizes that the kernel or a data structure fixes, and how far each configured bound may go.
//!
//! Numbers only; nothing here runs. What an operator may choose is in `config`, which takes its ranges from here; the
//! asserts at the foot say how the numbers lean on each other.

/// Bytes a request head (request line and headers) may have; a longer one is answered 431.
///
/// Browsers with many cookies send 4 to 6 KiB; proxies cut at 8 KiB themselves.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Bytes of one receive buffer: a chat message fits with room to spare, a longer one takes several.
pub const RECV_BUFFER_BYTES: usize = 2048;

/// Receive buffers in a shard's pool. Shared by all its connections: a buffer is held only between its completion and
/// the end of its decoding, so a few hundred are in use at a time however many connections there are.
pub const RECV_BUFFERS: usize = 512;

/// Submission entries of a shard's ring. More operations than this in one turn cost a second system call, no more.
pub const RING_ENTRIES: u32 = 4096;

/// Completion entries of a shard's ring: a turn may complete a send and a receive for thousands of members at once,
/// and what overflows is kept by the kernel at a much higher price.
pub const COMPLETION_ENTRIES: u32 = 16_384;

/// Groups that rooms fall into, by a hash of their id. Fixed, so that a room's group never changes; enough that every
/// shard of the largest machine gets an even share.
pub const ROOM_GROUPS: usize = 4096;

/// Accepts that a shard keeps in its ring at the same time: how many connections one turn can take in.
pub const ACCEPTS_IN_FLIGHT: usize = 32;

/// Messages that may wait in a shard's mailbox (sockets from other shards, answers from writer and control threads).
pub const MAILBOX_MESSAGES_MAX: usize = 65_536;

/// Bytes of batches and messages that one shard may have for another that has not looked at them: beyond, messages are
/// refused and replicas given up. It is more than a shard can send in a second.
pub const PARCEL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes that may wait for one connection alone: its greeting, errors, pongs and close frame. What a room broadcasts is
/// not among them, for that waits in the room's log.
pub const OUTBOX_BYTES_MAX: usize = 65_536;

/// The most shards: a group's shard is kept in one byte.
pub const SHARDS_MAX: usize = 256;

/// The highest `connections_max`. Linux refuses more open files in one process than `fs.nr_open`, at most 2^30; well
/// below that the kernel's own memory for sockets runs out.
pub const CONNECTIONS_MAX: u64 = 16_777_216;

/// Open files that every server needs beside its connections: the database's, the standard streams, signals, epoll.
pub const OPEN_FILES_RESERVED: u64 = 64;

/// Open files that a shard needs beside its connections: its listener, its ring, its runtime's epoll and wakers; its
/// journal's files, written here and read by the writer and the history.
pub const OPEN_FILES_PER_SHARD: u64 = 16;

/// Open files that a shard adds for clients to be turned away, who get an answer and not a place; at most a quarter of what
/// there is for clients at all.
pub const OPEN_FILES_TO_REFUSE_PER_SHARD: u64 = 64;

/// The highest `message_bytes_max`: one member's message must not fill the memory of a shard.
pub const MESSAGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The lowest `message_bytes_max`: the envelope of an empty message, with a receiver, is 100 bytes.
pub const MESSAGE_BYTES_MIN: u64 = 256;

/// The highest `lag_bytes_max`: what one busy room may take of the machine's memory.
pub const LAG_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The highest `commit_rows_max`: one transaction holds this many rows in memory.
pub const COMMIT_ROWS_MAX: u64 = 65_536;

/// The highest `writer_queue_rows`: the queue's slots are allocated at start-up.
pub const WRITER_QUEUE_ROWS_MAX: u64 = 16_777_216;

/// The highest `writer_queue_bytes`: what a database that is away may take of the machine's memory.
pub const WRITER_QUEUE_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// The lowest `journal_segment_bytes`: there are a header and some hundred short messages in it.
pub const JOURNAL_SEGMENT_BYTES_MIN: u64 = 1024 * 1024;

/// The highest `journal_segment_bytes`: start-up reads a segment as a whole.
pub const JOURNAL_SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// The lowest `journal_bytes_max`: one shard's journal needs four segments.
pub const JOURNAL_BYTES_MIN: u64 = 4 * JOURNAL_SEGMENT_BYTES_MIN;

/// The highest `journal_bytes_max`.
pub const JOURNAL_BYTES_MAX: u64 = 1 << 50;

/// Bytes of records that the writer reads from the journals at a time.
pub const JOURNAL_READ_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that a sender's name may take in the journal. Django's names have 150 characters at most.
pub const JOURNAL_NAME_BYTES_MAX: usize = 4096;

/// The longest of the configured waits, in seconds.
pub const WAIT_SECONDS_MAX: u64 = 86_400;

const _: () = {
    // A power of two lets the group be the top bits of a hash; a byte holds the shard.
    assert!(ROOM_GROUPS.is_power_of_two() && SHARDS_MAX <= ROOM_GROUPS && SHARDS_MAX <= 1 << u8::BITS);
    // io_uring_setup(2): entries up to 32768, completions up to twice that and no fewer than the submissions.
    assert!(RING_ENTRIES.is_power_of_two() && RING_ENTRIES <= 32_768);
    assert!(COMPLETION_ENTRIES.is_power_of_two() && COMPLETION_ENTRIES <= 65_536);
    assert!(COMPLETION_ENTRIES >= 2 * RING_ENTRIES, "a send and a receive for each submission");
    // A provided buffer's id is 16 bits wide.
    assert!(RECV_BUFFERS <= 1 << u16::BITS && RECV_BUFFER_BYTES.is_power_of_two());
    // A head arrives in whole buffers, and the accepts leave the ring to the connections.
    assert!(HEAD_BYTES_MAX >= RECV_BUFFER_BYTES);
    assert!(ACCEPTS_IN_FLIGHT * 16 <= RING_ENTRIES as usize);
    // A shard that is not behind can be passed the longest message.
    assert!((MESSAGE_BYTES_MAX as usize) < PARCEL_BYTES_MAX);
    // A connection's greeting and a few errors fit its outbox, whatever the room's name.
    assert!(OUTBOX_BYTES_MAX >= 4096);
    // Whatever is configured, a room's window can hold two of the longest messages.
    assert!(MESSAGE_BYTES_MAX * 2 <= LAG_BYTES_MAX);
    assert!(COMMIT_ROWS_MAX <= WRITER_QUEUE_ROWS_MAX && MESSAGE_BYTES_MIN < MESSAGE_BYTES_MAX);
};
