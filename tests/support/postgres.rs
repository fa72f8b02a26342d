//! A private Postgres for tests: its own cluster in a temporary folder, on a loopback port of its own.
//!
//! Runs only when `RINGROOM_TEST_POSTGRES=require` (the gate sets it), and then a missing Postgres fails the test;
//! otherwise the test says what it left out. The server ends with the test process, however that ends: a shell waits on
//! a pipe from it, stops the server when the pipe closes, and removes the folder.

use std::{
    env, fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio, id},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use tokio_postgres::{NoTls, SimpleQueryMessage};

/// The superuser of every cluster.
pub const USER: &str = "chat";
/// Its password, over TCP and over the socket.
pub const PASSWORD: &str = "correct-horse-battery";

/// How long starting or stopping may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster. Dropping it stops it and removes its files.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    postmaster: Option<Child>,
    watchdog: Child,
    /// Closing it makes the watchdog clean up.
    alive: Option<ChildStdin>,
}

/// The cluster that the tests of a binary share. `None` when tests run without Postgres; `what` is then left out.
pub fn shared(what: &str) -> Option<&'static Postgres> {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    wanted(what).map(|programs| SHARED.get_or_init(|| Postgres::with(programs, &[])))
}

/// Where the server's programs are, or `None` when tests run without Postgres.
fn wanted(what: &str) -> Option<PathBuf> {
    let required = env::var("RINGROOM_TEST_POSTGRES").is_ok_and(|value| value == "require");
    match (required, programs()) {
        (true, Some(programs)) => Some(programs),
        (true, None) => panic!("no Postgres for {what}: no initdb in PATH or /usr/lib/postgresql/*/bin"),
        (false, found) => {
            let found = if found.is_some() { "is installed" } else { "is not installed (no initdb found)" };
            let line = format!(
                "LEFT OUT: {what}, on Postgres: set RINGROOM_TEST_POSTGRES=require to have it; Postgres {found}\n"
            );
            // Past the test harness, which swallows what a passing test prints.
            let _ = std::io::stderr().write_all(line.as_bytes());
            None
        }
    }
}

/// The folder of `initdb` and `postgres`: the first in PATH, else of the newest installed version.
fn programs() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&path).collect();
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut installed: Vec<PathBuf> = installed.map(|version| version.path().join("bin")).collect();
    installed.sort_by_key(|folder| {
        folder.to_string_lossy().matches(char::is_numeric).collect::<String>().parse().unwrap_or(0_u64)
    });
    folders.extend(installed.into_iter().rev());
    folders.into_iter().find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

impl Postgres {
    /// A cluster of the test's own, to be killed and restarted. `None` when tests run without Postgres.
    pub fn start(what: &str) -> Option<Postgres> {
        Self::start_with(what, &[])
    }

    /// As [`start`](Postgres::start), with settings such as `fsync=on`, which is off unless asked for.
    pub fn start_with(what: &str, settings: &[&str]) -> Option<Postgres> {
        wanted(what).map(|programs| Postgres::with(programs, settings))
    }

    fn with(programs: PathBuf, settings: &[&str]) -> Postgres {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("ringroom-postgres-{}-{nth}", id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        if let Some((uid, gid)) = other_user() {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let mut watchdog = watchdog(&folder);
        let alive = watchdog.stdin.take();
        let defaults = ["fsync=off", "max_connections=50", "shared_buffers=16MB", "log_min_messages=fatal"];
        let settings = defaults.iter().chain(settings).map(|setting| setting.to_string()).collect();
        let mut cluster = Postgres { programs, folder, port: 0, settings, postmaster: None, watchdog, alive };
        cluster.initdb();
        cluster.start_on_free_port();
        cluster
    }

    /// The cluster's own database.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }

    /// An empty database; its URL.
    pub fn create_database(&self, name: &str) -> String {
        execute(&self.url(), &format!("CREATE DATABASE {name}")).unwrap();
        self.url_of(name)
    }

    /// A database as Django made it, with user ids of type `uuid`, `bigint` or `integer`; its URL.
    pub fn django_shaped(&self, name: &str, user_id: &str) -> String {
        let key = match user_id {
            "uuid" => "uuid NOT NULL".to_owned(),
            number => format!("{number} NOT NULL GENERATED BY DEFAULT AS IDENTITY"),
        };
        let schema = include_str!("django.sql").replace("USER_KEY", &key).replace("USER_ID_TYPE", user_id);
        let url = self.create_database(name);
        execute(&url, &schema).unwrap();
        url
    }

    /// `kill -9` to the whole cluster, as a crash of the machine would have it.
    pub fn kill_9(&mut self) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        let pid = postmaster.id();
        // Stopped first, so that it cannot start another child between the two.
        signal("STOP", &[pid]);
        let mut pids = children_of(pid);
        pids.push(pid);
        signal("KILL", &pids);
        postmaster.wait().unwrap();
        // Its children are nobody's here. Until the last has ended, the shared memory is in use, and no other server starts.
        let deadline = Instant::now() + PATIENCE;
        while pids.iter().any(|pid| has_memory(*pid)) {
            assert!(Instant::now() < deadline, "processes of Postgres outlive SIGKILL: {pids:?}");
            sleep(Duration::from_millis(1));
        }
    }

    /// It was not killed or stopped.
    pub fn is_running(&self) -> bool {
        self.postmaster.is_some()
    }

    /// Stops the server, lets no session finish, and leaves its files.
    pub fn stop(&mut self) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        signal("INT", &[postmaster.id()]);
        let deadline = Instant::now() + PATIENCE;
        while postmaster.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                self.postmaster = Some(postmaster);
                return self.kill_9();
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Starts the server again on the same port, after [`stop`](Postgres::stop) or [`kill_9`](Postgres::kill_9).
    pub fn restart(&mut self) {
        self.stop();
        assert!(self.try_start(), "Postgres did not start again on port {}:\n{}", self.port, self.log());
    }

    fn initdb(&self) {
        let secret = self.folder.join("password");
        fs::write(&secret, PASSWORD).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
        let made = self
            .command("initdb")
            .args([
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
                "--auth=scram-sha-256",
                "--username",
                USER,
                "--pwfile",
            ])
            .arg(&secret)
            .arg("--pgdata")
            .arg(self.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb failed:\n{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Between choosing a free port and taking it, somebody else may take it: then another is tried.
    fn start_on_free_port(&mut self) {
        for _ in 0..5 {
            self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if self.try_start() {
                return;
            }
        }
        panic!("Postgres does not start:\n{}", self.log());
    }

    /// Starts the server and waits until it answers. `false` when it ended instead.
    fn try_start(&mut self) -> bool {
        let log = fs::File::create(self.folder.join("log")).unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.folder);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let mut postmaster = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while execute(&self.url(), "SELECT 1").is_err() {
            if postmaster.try_wait().unwrap().is_some() {
                return false;
            }
            if Instant::now() > deadline {
                self.postmaster = Some(postmaster);
                self.kill_9();
                return false;
            }
            sleep(Duration::from_millis(20));
        }
        self.postmaster = Some(postmaster);
        true
    }

    /// One of the server's programs; Postgres refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(&self.folder).stdin(Stdio::null()).process_group(0);
        if let Some((uid, gid)) = other_user() {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
        drop(self.alive.take());
        let _ = self.watchdog.wait();
    }
}

/// A shell that waits until its standard input closes, then stops what server there is and removes the folder. Of a
/// process group of its own, so that a Ctrl-C for the tests does not end it early.
fn watchdog(folder: &Path) -> Child {
    const SCRIPT: &str = r#"
        cat >/dev/null
        # A server that was killed leaves its file, and its number may be another process's by now.
        if read -r pid <"$1/data/postmaster.pid" && grep -qF "$1" "/proc/$pid/cmdline"; then
            kill -INT "$pid"
            for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" || break; sleep 0.3; done
            kill -KILL "$pid"
        fi
        rm -rf "$1""#;
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "watchdog"]).arg(folder).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// User and group for the server when the tests run as root: `postgres` if there is one, else `nobody`.
fn other_user() -> Option<(u32, u32)> {
    let mut own = String::new();
    fs::File::open("/proc/self/status").unwrap().read_to_string(&mut own).unwrap();
    let root = own.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2).map(|field| field.parse().ok());
        Some((fields.next()??, fields.next()??))
    };
    if root { ids("postgres").or_else(|| ids("nobody")) } else { None }
}

/// The process is there, and not merely unburied.
fn has_memory(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may hold anything, comes the state.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The processes whose parent is `pid`.
fn children_of(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|parent| parent.trim() == pid.to_string()))
    })
    .collect()
}

/// Signals processes that this module started.
fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    let script = r#"name=$1; shift; kill -s "$name" "$@""#;
    Command::new("sh").args(["-c", script, "signal", name]).args(pids).stderr(Stdio::null()).status().unwrap();
}

/// Runs SQL, several statements if need be, and gives the rows' columns as text. Blocks, also inside a tokio runtime.
pub fn query(url: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
    let work = async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let driver = tokio::spawn(connection);
        let answer = client.simple_query(sql).await?;
        drop(client);
        let _ = driver.await;
        let row =
            |row: tokio_postgres::SimpleQueryRow| (0..row.len()).map(|nth| row.get(nth).map(str::to_owned)).collect();
        Ok(answer
            .into_iter()
            .filter_map(|part| if let SimpleQueryMessage::Row(r) = part { Some(row(r)) } else { None })
            .collect())
    };
    thread::scope(|scope| {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        scope.spawn(move || runtime().block_on(work)).join().unwrap()
    })
}

/// Runs SQL, several statements if need be. Blocks, also inside a tokio runtime.
pub fn execute(url: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    query(url, sql).map(|_| ())
}
