//! What a run leaves behind outside the server: segments of TCP, pages of the journal, bytes and transactions of the
//! database. Reads /proc, files and Postgres' own statistics; changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ringroom::store::{BadDatabaseUrl, DatabaseUrl};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use crate::process::CpuTime;

/// Segments of TCP with data that this machine has sent so far, everyone's (`TCPOrigDataSent` of /proc/net/netstat); 0
/// where the kernel does not say. Over loopback a send is one, for its segments hold 64 KiB.
pub(crate) fn data_segments() -> u64 {
    segments_in(&fs::read_to_string("/proc/net/netstat").unwrap_or_default())
}

/// The file has pairs of lines: names, and under them numbers.
fn segments_in(netstat: &str) -> u64 {
    let mut lines = netstat.lines().filter(|line| line.starts_with("TcpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let named = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "TCPOrigDataSent");
    named.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// Bytes that a process has made the disk write so far (`write_bytes`, proc(5)), but for those of its threads called
/// `writer`: what is left is the journal's.
pub(crate) fn journal_bytes(pid: u32) -> u64 {
    let all = write_bytes(&format!("/proc/{pid}/io"));
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let is_writer =
        |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "writer");
    let writers = tasks.filter(is_writer).map(|task| write_bytes(&task.path().join("io").to_string_lossy()));
    all.saturating_sub(writers.sum())
}

fn write_bytes(path: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// A moment's view of the database.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// What its messages take, indexes included.
    pub(crate) bytes: u64,
    /// What Postgres has written ahead so far.
    pub(crate) log_bytes: Option<u64>,
    pub(crate) transactions: Option<u64>,
}

/// The database that a server fills.
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres { runtime: Runtime, client: Client },
}

impl Database {
    /// Looks at the database under `url`.
    ///
    /// # Errors
    /// It is no database's, or Postgres does not answer.
    pub(crate) fn open(url: &str) -> Result<Self, String> {
        match url.parse().map_err(|error: BadDatabaseUrl| error.to_string())? {
            DatabaseUrl::Sqlite(path) => Ok(Self::Sqlite(path)),
            DatabaseUrl::Postgres(config) => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|error| error.to_string())?;
                let connected = runtime.block_on(config.connect(NoTls));
                let (client, connection) = connected.map_err(|error| format!("Postgres does not answer: {error}"))?;
                runtime.spawn(connection);
                Ok(Self::Postgres { runtime, client })
            }
        }
    }

    /// How reports call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres { .. } => "postgres",
        }
    }

    /// Looks. Exact only while no server runs: SQLite has a log beside its file, Postgres counts a session's transactions
    /// when it ends.
    ///
    /// # Errors
    /// The file is not there, or Postgres does not answer.
    pub(crate) fn read(&self) -> Result<Reading, String> {
        const READ: &str = "SELECT pg_total_relation_size('chat_message'), (pg_current_wal_lsn() - '0/0')::float8, \
            (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())";
        match self {
            Self::Sqlite(path) => {
                let bytes = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?.len();
                Ok(Reading { bytes, ..Reading::default() })
            }
            Self::Postgres { runtime, client } => {
                let row =
                    runtime.block_on(client.query_one(READ, &[])).map_err(|error| format!("Postgres: {error}"))?;
                let count = |at: usize| row.get::<_, i64>(at).unsigned_abs();
                let log_bytes = Some(row.get::<_, f64>(1) as u64);
                Ok(Reading { bytes: count(0), log_bytes, transactions: Some(count(2)) })
            }
        }
    }

    /// CPU that the server's sessions have used so far, where Postgres runs on this machine.
    pub(crate) fn sessions(&self) -> Option<CpuTime> {
        const SESSIONS: &str = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
            AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let Self::Postgres { runtime, client } = self else { return None };
        let rows = runtime.block_on(client.query(SESSIONS, &[])).ok()?;
        let pids: Vec<u32> = rows.iter().map(|row| row.get::<_, i32>(0).unsigned_abs()).collect();
        CpuTime::read(&pids).ok()
    }
}

/// Nanoseconds that a database's sessions used; nothing if the processes of those numbers are others', as on another
/// machine.
pub(crate) fn used_ns(from: Option<&CpuTime>, to: Option<&CpuTime>) -> Option<u64> {
    let used: BTreeMap<String, u64> = to?.since(from?);
    used.get("postgres").copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_found_by_their_name() {
        let netstat =
            "IpExt: A TCPOrigDataSent\nIpExt: 1 2\nTcpExt: SyncookiesSent TCPOrigDataSent X\nTcpExt: 0 77 5\n";
        assert_eq!(segments_in(netstat), 77);
        assert_eq!((segments_in(""), segments_in("TcpExt: A\nTcpExt: 1\n")), (0, 0));
    }

    #[test]
    fn a_database_that_is_not_there_is_told() {
        let url = "postgres://ringroom:secret@127.0.0.1:1/x";
        let why = Database::open(url).err().unwrap();
        assert!(why.contains("does not answer") && !why.contains("secret"), "{why}");
        assert!(Database::open("mysql://x").is_err());
        let sqlite = Database::open("sqlite:/no/such/file").unwrap();
        assert!(sqlite.read().unwrap_err().contains("/no/such/file"));
        assert!(sqlite.sessions().is_none() && used_ns(None, None).is_none());
    }
}
