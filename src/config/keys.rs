//! The keys: one line each with default, kind and reason, and the plain fields that they become.
//!
//! Pure: text goes in, values come out. Where the text came from is `typed`'s business.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tracing_subscriber::EnvFilter;

use super::Typed;
use crate::{
    failure::Failure,
    limits::{
        COMMIT_ROWS_MAX, CONNECTIONS_MAX, JOURNAL_BYTES_MAX, JOURNAL_BYTES_MIN, JOURNAL_SEGMENT_BYTES_MAX,
        JOURNAL_SEGMENT_BYTES_MIN, LAG_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MIN, SHARDS_MAX, WAIT_SECONDS_MAX,
        WRITER_QUEUE_BYTES_MAX, WRITER_QUEUE_ROWS_MAX,
    },
    store::Database,
};

/// One key of the configuration: `data_dir` in a file, `RINGROOM_DATA_DIR` in the environment, `--data-dir` as a flag.
#[derive(Debug)]
pub struct Key {
    /// Its name in a file. A unit comes last in it.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// Its default, as it would be typed into the environment.
    pub default: &'static str,
    /// Which commands it matters to.
    pub scope: Scope,
    /// Its meaning, one sentence.
    pub doc: &'static str,
}

/// What a key's value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IP address and a port.
    Address,
    /// A directory.
    Directory,
    /// A database url, the only kind that may hold a secret.
    DatabaseUrl,
    /// A whole number between two bounds, both included.
    Count(u64, u64),
    /// A time in whole seconds between two bounds, both included.
    Seconds(u64, u64),
    /// A time in whole milliseconds between two bounds, both included.
    Milliseconds(u64, u64),
    /// What must hold before a message is broadcast.
    Durability,
    /// Origins, in the environment and in a flag with commas between them.
    Origins,
    /// A filter of log lines.
    LogFilter,
}

/// Which commands a key matters to. Its flag is offered by those alone; file and environment serve all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every command.
    All,
    /// Every command but `demo`, whose database is always its own.
    Database,
    /// The commands that start a server.
    Server,
}

/// What must hold before a message is broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The database transaction that holds it has committed.
    Commit,
    /// The journal that holds it has reached the disk.
    Sync,
    /// The journal that holds it was written, and survives the process.
    Journal,
    /// Nothing.
    None,
}

impl Durability {
    /// Every one, by its name, from the safest on.
    pub const ALL: &[(&str, Durability)] = &[
        ("commit", Durability::Commit),
        ("sync", Durability::Sync),
        ("journal", Durability::Journal),
        ("none", Durability::None),
    ];
}

macro_rules! keys {
    (
        fields { $($name:literal: $kind:expr, $default:literal, $scope:ident => $field:ident: $type:ty, $doc:literal;)* }
        database { $($db_name:literal: $db_kind:expr, $db_default:literal, $db_scope:ident, $db_doc:literal;)* }
    ) => {
        /// Every key, in the order of the README's table.
        pub const KEYS: &[Key] = &[
            $(Key { name: $name, kind: $kind, default: $default, scope: Scope::$scope, doc: $doc },)*
            $(Key { name: $db_name, kind: $db_kind, default: $db_default, scope: Scope::$db_scope, doc: $db_doc },)*
        ];

        /// What the program needs: every value checked, alone and against the others.
        #[derive(Clone, Debug)]
        pub struct Config {
            $(#[doc = $doc] pub $field: $type,)*
            /// Which database, how its tables are called, and how long to wait for it.
            pub database: Database,
            /// Sockets that the machine's limit of open files leaves room for, those of clients being turned away among them.
            pub sockets_max: usize,
        }

        impl Config {
            /// Reads every field; how they go together is not looked at.
            pub(super) fn read(typed: &Typed, database: Database) -> Result<Config, Failure> {
                Ok(Config { $($field: typed.read($name)?,)* database, sockets_max: usize::MAX })
            }
        }
    };
}

use Kind::{Count, Milliseconds, Seconds};

keys! {
    fields {
        "listen": Kind::Address, "127.0.0.1:8000", Server => listen: SocketAddr,
            "Address and port to accept connections on; port 0 takes any free one.";
        "data_dir": Kind::Directory, "./ringroom-data", All => data_dir: PathBuf,
            "Directory of what ringroom keeps itself, such as the embedded database.";
        "shards": Count(0, SHARDS_MAX as u64), "0", Server => shards: usize,
            "Threads that serve connections, each pinned to a CPU; 0 is one for each CPU the process may use.";
        "durability": Kind::Durability, "sync", Server => durability: Durability,
            "What must hold before a message is broadcast: `commit`, its database transaction; `sync`, its journal has reached \
             the disk; `journal`, it is written to the journal; `none`, nothing.";
        "journal_segment_bytes": Count(JOURNAL_SEGMENT_BYTES_MIN, JOURNAL_SEGMENT_BYTES_MAX), "16777216", Server => journal_segment_bytes: u32,
            "Bytes of a journal file; smaller where `journal_bytes_max` would not leave each shard four of them.";
        "journal_bytes_max": Count(JOURNAL_BYTES_MIN, JOURNAL_BYTES_MAX), "1073741824", Server => journal_bytes_max: u64,
            "Bytes on disk that all journals may take while the database is away; then senders get an error.";
        "origins": Kind::Origins, "", Server => origins: Vec<String>,
            "Values of the Origin header that browsers may connect with, such as `https://chat.example`; none is any.";
        "connections_max": Count(1, CONNECTIONS_MAX), "1000000", Server => connections_max: usize,
            "Connections of the whole server; further ones are answered 503.";
        "handshakes_max": Count(1, CONNECTIONS_MAX), "16384", Server => handshakes_max: usize,
            "Connections of the whole server whose request is not answered yet; further ones are answered 503.";
        "head_timeout_seconds": Seconds(1, WAIT_SECONDS_MAX), "10", Server => head_timeout: Duration,
            "How long a request's head may take to arrive.";
        "ping_interval_seconds": Seconds(1, WAIT_SECONDS_MAX), "25", Server => ping_interval: Duration,
            "Time between pings; a peer that is silent for two of them is closed.";
        "close_timeout_seconds": Seconds(1, WAIT_SECONDS_MAX), "5", Server => close_timeout: Duration,
            "How long a peer may take to answer a close frame.";
        "drain_seconds": Seconds(0, WAIT_SECONDS_MAX), "10", Server => drain: Duration,
            "Time over which SIGTERM spreads the closing of connections, so that not all come back at once.";
        "message_chars_max": Count(1, MESSAGE_BYTES_MAX), "4096", Server => message_chars_max: usize,
            "Unicode characters of a message's text; a longer one is refused with an error.";
        "message_bytes_max": Count(MESSAGE_BYTES_MIN, MESSAGE_BYTES_MAX), "65536", Server => message_bytes_max: usize,
            "Bytes of a WebSocket message; a longer one closes its connection with 1009.";
        "lag_bytes_max": Count(MESSAGE_BYTES_MIN, LAG_BYTES_MAX), "1048576", Server => lag_bytes_max: usize,
            "Bytes of a room's log that are kept for slow members; one further behind is closed with 1013.";
        "spill_members": Count(0, CONNECTIONS_MAX), "512", Server => spill_members: u64,
            "Members of a room on one shard; when it has more, other shards take some, so that a room can outgrow a core. 0 is never.";
        "messages_per_second": Count(0, 1_000_000), "0", Server => messages_per_second: u32,
            "Messages that one connection may send in a second, on average; 0 is no limit.";
        "message_burst": Count(1, 1_000_000), "20", Server => message_burst: u32,
            "Messages that one connection may send at once before `messages_per_second` holds it back.";
        "errors_max": Count(1, 1_000_000), "100", Server => errors_max: u32,
            "Refused messages in a row before a connection is closed with 1008.";
        "auth_cache_seconds": Seconds(0, WAIT_SECONDS_MAX), "5", Server => auth_cache: Duration,
            "How long the answer to a token and room is kept; a change in the database counts at the latest then.";
        "auth_cache_entries": Count(0, CONNECTIONS_MAX), "100000", Server => auth_cache_entries: usize,
            "Answers to tokens and rooms that are kept.";
        "auth_outage_seconds": Seconds(0, WAIT_SECONDS_MAX), "600", Server => auth_outage: Duration,
            "How long whoever was admitted still is while the database is away; with 0 no longer than otherwise.";
        "auth_timeout_seconds": Seconds(1, WAIT_SECONDS_MAX), "5", Server => auth_timeout: Duration,
            "How long a new connection waits for the database before it is closed with 1013.";
        "commit_rows_max": Count(1, COMMIT_ROWS_MAX), "4096", Server => commit_rows_max: usize,
            "Messages that one database transaction holds.";
        "commit_delay_ms": Milliseconds(0, 60_000), "0", Server => commit_delay: Duration,
            "How long the writer waits for more messages before it commits; 0 commits what has come in meanwhile. What \
             is broadcast already is committed every 50 ms at most, unless a batch is full.";
        "save_timeout_seconds": Seconds(1, WAIT_SECONDS_MAX), "10", Server => save_timeout: Duration,
            "How long a message that is not broadcast may wait for a database that is away before its sender gets an error.";
        "writer_queue_rows": Count(1, WRITER_QUEUE_ROWS_MAX), "65536", Server => writer_queue_rows: usize,
            "Messages that may wait in memory to be journalled or saved; a sender beyond gets an error.";
        "writer_queue_bytes": Count(MESSAGE_BYTES_MIN, WRITER_QUEUE_BYTES_MAX), "134217728", Server => writer_queue_bytes: usize,
            "Bytes of the messages that may wait in memory, as they will be broadcast; a sender beyond gets an error.";
        "log": Kind::LogFilter, "info", All => log: String,
            "Log lines to write to standard error: `error`, `warn`, `info`, `debug`, `trace`, or by module, such as \
             `warn,ringroom::writer=debug`.";
    }
    database {
        "database_url": Kind::DatabaseUrl, "sqlite:{data_dir}/ringroom.db", Database,
            "Database: `postgres://USER:PASSWORD@HOST/NAME` or `sqlite:PATH`.";
        "database_connect_timeout_seconds": Seconds(1, WAIT_SECONDS_MAX), "5", All,
            "How long connecting to the database may take.";
        "database_query_timeout_seconds": Seconds(1, WAIT_SECONDS_MAX), "30", All,
            "How long one query or transaction may take before its connection is given up.";
    }
}

impl Key {
    /// The key of this name.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Its environment variable.
    pub fn variable(&self) -> String {
        format!("RINGROOM_{}", self.name.to_uppercase())
    }

    /// Its flag, without the leading hyphens.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }
}

impl Kind {
    /// What a value must be, to follow "must be".
    pub fn expected(self) -> String {
        match self {
            Kind::Address => "an IP address and a port, such as 127.0.0.1:8000 or [::]:8000".into(),
            Kind::Directory => "the path of a directory".into(),
            Kind::DatabaseUrl => "postgres://USER:PASSWORD@HOST:PORT/NAME or sqlite:PATH".into(),
            Count(least, most) => format!("a whole number from {least} to {most}"),
            Seconds(least, most) => format!("a whole number of seconds from {least} to {most}"),
            Milliseconds(least, most) => format!("a whole number of milliseconds from {least} to {most}"),
            Kind::Durability => "commit, sync, journal or none".into(),
            Kind::Origins => "origins as browsers send them, such as https://chat.example or http://localhost:3000, \
                              in lower case and without a path"
                .into(),
            Kind::LogFilter => "a filter such as info or warn,ringroom::writer=debug".into(),
        }
    }

    /// How a value is called in `--help`.
    pub fn placeholder(self) -> &'static str {
        match self {
            Kind::Address => "ADDRESS",
            Kind::Directory => "DIR",
            Kind::DatabaseUrl => "URL",
            Count(..) => "N",
            Seconds(..) => "SECONDS",
            Milliseconds(..) => "MS",
            Kind::Durability => "DURABILITY",
            Kind::Origins => "ORIGIN,…",
            Kind::LogFilter => "FILTER",
        }
    }

    /// Is the value a number in a TOML file?
    pub fn is_number(self) -> bool {
        matches!(self, Count(..) | Seconds(..) | Milliseconds(..))
    }

    /// The number that the text is, if it is one within the bounds.
    fn number(self, text: &str) -> Option<u64> {
        let (Count(least, most) | Seconds(least, most) | Milliseconds(least, most)) = self else { return None };
        text.parse().ok().filter(|number| (least..=most).contains(number))
    }
}

/// A type that a key's text can become.
pub(super) trait Field: Sized {
    /// The value, or `None` where the text is not of the kind.
    fn from_text(text: &str, kind: Kind) -> Option<Self>;
}

impl Field for SocketAddr {
    fn from_text(text: &str, _: Kind) -> Option<Self> {
        text.parse().ok()
    }
}

impl Field for PathBuf {
    fn from_text(text: &str, _: Kind) -> Option<Self> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }
}

impl Field for usize {
    fn from_text(text: &str, kind: Kind) -> Option<Self> {
        kind.number(text).and_then(|number| number.try_into().ok())
    }
}

impl Field for u64 {
    fn from_text(text: &str, kind: Kind) -> Option<Self> {
        kind.number(text)
    }
}

impl Field for u32 {
    fn from_text(text: &str, kind: Kind) -> Option<Self> {
        kind.number(text).and_then(|number| number.try_into().ok())
    }
}

impl Field for Duration {
    fn from_text(text: &str, kind: Kind) -> Option<Self> {
        let unit = if matches!(kind, Milliseconds(..)) { Duration::from_millis } else { Duration::from_secs };
        kind.number(text).map(unit)
    }
}

impl Field for Durability {
    fn from_text(text: &str, _: Kind) -> Option<Self> {
        Durability::ALL.iter().find(|(name, _)| *name == text).map(|(_, durability)| *durability)
    }
}

impl Field for Vec<String> {
    fn from_text(text: &str, _: Kind) -> Option<Self> {
        let origins = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
        origins.map(|origin| is_origin(origin).then(|| origin.to_owned())).collect()
    }
}

impl Field for String {
    fn from_text(text: &str, _: Kind) -> Option<Self> {
        EnvFilter::try_new(text).is_ok().then(|| text.to_owned())
    }
}

/// Is this what a browser can send as `Origin` (RFC 6454 section 7)? Anything else in the list would match nobody.
fn is_origin(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_graphic() && !c.is_ascii_uppercase() && !"/?#@\\".contains(c);
    match text.split_once("://") {
        Some((scheme, host)) => !scheme.is_empty() && !host.is_empty() && (scheme.to_owned() + host).chars().all(plain),
        None => text == "null",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        for (text, valid) in [
            ("https://chat.example", true),
            ("http://localhost:3000", true),
            ("http://[::1]:8000", true),
            ("null", true),
            ("chat.example", false),
            ("https://chat.example/", false),
            ("https://Chat.example", false),
            ("https://", false),
            ("*", false),
        ] {
            assert_eq!(is_origin(text), valid, "{text}");
        }
        let list = Vec::from_text("https://a.example, http://b.example:1,", Kind::Origins);
        assert_eq!(list, Some(vec!["https://a.example".to_owned(), "http://b.example:1".to_owned()]));
        assert_eq!(Vec::from_text("", Kind::Origins), Some(Vec::new()));
        assert_eq!(Vec::from_text("https://a.example,b", Kind::Origins), None);
    }

    #[test]
    fn numbers_keep_within_their_bounds() {
        for (text, kind, value) in [
            ("3", Count(3, 5), Some(3)),
            ("5", Count(3, 5), Some(5)),
            ("2", Count(3, 5), None),
            ("6", Count(3, 5), None),
            ("-1", Count(0, 5), None),
            ("1.0", Count(0, 5), None),
            ("", Count(0, 5), None),
            ("18446744073709551616", Count(0, u64::MAX), None),
        ] {
            assert_eq!(usize::from_text(text, kind), value, "{text:?} as {kind:?}");
        }
        assert_eq!(Duration::from_text("2", Seconds(0, 9)), Some(Duration::from_secs(2)));
        assert_eq!(Duration::from_text("2", Milliseconds(0, 9)), Some(Duration::from_millis(2)));
    }

    #[test]
    fn names_are_unique_and_end_in_their_unit() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..i].iter().all(|other| other.name != key.name), "{} is there twice", key.name);
            assert_eq!(key.name.ends_with("_seconds"), matches!(key.kind, Seconds(..)), "{}", key.name);
            assert_eq!(key.name.ends_with("_ms"), matches!(key.kind, Milliseconds(..)), "{}", key.name);
            assert!(key.doc.ends_with('.') && !key.doc.contains('|'), "{} has no sentence for the table", key.name);
        }
    }
}
