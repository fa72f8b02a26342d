//! What the original leans on: a Postgres and a Redis of the comparison's own, reached over Unix sockets in a temporary
//! folder, on the server's CPU. Both are stock but for where they listen, and Redis saves nothing. They end, and their
//! files go, with their value here.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use uuid::Uuid;

use crate::server::{Folder, Process, Spec};

const USER: &str = "chat";

/// Postgres and Redis. They are ended before the folder goes.
#[derive(Debug)]
pub(super) struct Backing {
    postgres: Process,
    redis: Process,
    postgres_url: String,
    redis_socket: PathBuf,
    _folder: Folder,
}

impl Backing {
    /// Starts both.
    ///
    /// # Errors
    /// One of them is not installed or does not start.
    pub(super) fn start(cpu: usize) -> Result<Self, String> {
        let folder = Folder::make()?;
        let said = |error: std::io::Error| format!("{}: {error}", folder.path().display());
        let user = other_user();
        let cluster = folder.path().join("postgres");
        fs::DirBuilder::new().mode(0o700).create(&cluster).map_err(said)?;
        if let Some((uid, gid)) = user {
            // Another user has to pass through the folder to its own, and may do no more.
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).map_err(said)?;
            chown(&cluster, Some(uid), Some(gid)).map_err(said)?;
        }
        let (postgres, postgres_url) = start_postgres(&cluster, user, cpu)?;
        let redis_socket = folder.path().join("redis.sock");
        let redis = Spec::new("redis", "redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocketperm", "700", "--unixsocket"])
            .args([&redis_socket])
            .dir(folder.path());
        let (redis, _) = Process::start(&redis, Some(cpu), "ready to accept connections")?;
        Ok(Self { postgres, redis, postgres_url, redis_socket, _folder: folder })
    }

    /// The database, with its password in it.
    pub(super) fn postgres_url(&self) -> &str {
        &self.postgres_url
    }

    pub(super) fn redis_url(&self) -> String {
        format!("unix://{}", self.redis_socket.display())
    }

    /// Their processes, by name.
    pub(super) fn processes(&self) -> Vec<(&'static str, u32)> {
        vec![("Postgres", self.postgres.id()), ("Redis", self.redis.id())]
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        for process in [&mut self.postgres, &mut self.redis] {
            if let Err(why) = process.end() {
                eprintln!("ringroom-perf: warning: {why}");
            }
        }
    }
}

fn start_postgres(folder: &Path, user: Option<(u32, u32)>, cpu: usize) -> Result<(Process, String), String> {
    let programs = postgres_programs().ok_or("no initdb in PATH or /usr/lib/postgresql/*/bin")?;
    let (data, secret, password) = (folder.join("data"), folder.join("password"), Uuid::new_v4().simple().to_string());
    let said = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::write(&secret, &password).map_err(said)?;
    if let Some((uid, gid)) = user {
        chown(&secret, Some(uid), Some(gid)).map_err(said)?;
    }
    let program = |name: &str| {
        let mut spec = Spec::new(name, programs.join(name)).dir(folder);
        spec.user = user;
        spec
    };
    let flags = ["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--username", USER, "--pwfile"];
    program("initdb").args(flags).args([&secret]).args(["--pgdata"]).args([&data]).run()?;
    fs::remove_file(&secret).map_err(said)?;
    let mut postgres =
        program("postgres").args(["-c", "listen_addresses=", "-k"]).args([folder]).args(["-D"]).args([&data]);
    // Fast shutdown: it ends its sessions and lets none finish.
    postgres.ending = Signal::INT;
    let (process, _) = Process::start(&postgres, Some(cpu), "ready to accept connections")?;
    let host = folder.display().to_string().replace('%', "%25").replace('/', "%2F");
    Ok((process, format!("postgres://{USER}:{password}@{host}/postgres")))
}

/// The folder of `initdb` and `postgres`: the first in PATH, else of the newest version of Debian's.
fn postgres_programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|version| version.path()).collect();
    let number = |version: &PathBuf| version.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    versions.sort_by_key(|version| std::cmp::Reverse(number(version)));
    let mut folders = std::env::split_paths(&path).chain(versions.into_iter().map(|version| version.join("bin")));
    folders.find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

/// User and group for Postgres, which refuses to run as root: `postgres` if there is one, else `nobody`.
fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let fields: Vec<&str> =
            users.lines().map(|line| line.split(':').collect()).find(|f: &Vec<&str>| f[0] == name)?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody"))
}
