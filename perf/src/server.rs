//! A server under measurement: a process of its own, started on one CPU, awaited until it accepts connections, ended by
//! its process id. And the place that ringroom serves from: a database in a temporary folder, filled for a load.
//!
//! What is started says where it listens on its standard output, in a line with `listening on http://ADDRESS`, as
//! `ringroom serve` does; whatever else it prints is kept for the error that tells why it did not start. A server does
//! not outlive its value here.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::belongings::{self, Owned};
use crate::process;
use crate::url::Url;

/// How long a server may take until it listens, and to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 10 } else { 30 });

/// How long a step may take that makes something: a build, an installation.
const STEP_PATIENCE: Duration = Duration::from_secs(1200);

/// What stands before the address in the line that says where a server listens.
const LISTENING: &str = "listening on http://";

/// What ringroom logs: what is wrong, and at the end its counts.
const LOG: &str = "warn,ringroom::server=info";

/// Lines of a server's output that are kept.
const LINES_MAX: usize = 20;

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// What messages and reports call it.
    pub(crate) name: String,
    /// The program; without a slash it is looked for in PATH.
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Added to this process's own environment, without what that says to ringroom and to Postgres.
    pub(crate) env: Vec<(String, OsString)>,
    /// Where it runs, if not where this process does.
    pub(crate) dir: Option<PathBuf>,
    /// The user and the group that it runs as, if not as this process.
    pub(crate) user: Option<(u32, u32)>,
    /// The signal that ends it in order.
    pub(crate) ending: Signal,
    /// What it runs on or was built with, for reports.
    pub(crate) version: Option<String>,
}

impl Spec {
    /// `name` is `program`, with no arguments yet.
    pub(crate) fn new(name: &str, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            user: None,
            ending: Signal::TERM,
            version: None,
        }
    }

    /// With these arguments after those it has.
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// With this variable in its environment.
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// In this folder.
    pub(crate) fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// `program serve` on a free port of the loopback, with the database and the folder of `place`; `flags` win over
    /// what is set here.
    pub(crate) fn ringroom(program: &Path, place: &Place, flags: &[String]) -> Self {
        Self::new("ringroom", program)
            .args(["serve"])
            .args(flags)
            // A flag wins over a variable, and may stand there once.
            .env("RINGROOM_LISTEN", "127.0.0.1:0")
            .env("RINGROOM_DRAIN_SECONDS", "0")
            .env("RINGROOM_LOG", LOG)
            .env("RINGROOM_DATA_DIR", place.data_dir())
            .env("RINGROOM_DATABASE_URL", place.database_url())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            let said = name.to_string_lossy();
            // Those of Postgres are for whoever calls, and reach its server (PGPORT) and clients alike.
            if said.starts_with("RINGROOM_") || said.starts_with("PG") || name == "DATABASE_URL" {
                command.env_remove(name);
            }
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// Runs it to its end, for what is a step and not a server.
    ///
    /// # Errors
    /// It cannot be started, takes too long, or its exit code is not 0; with what it said.
    pub(crate) fn run(&self) -> Result<(), String> {
        let (mut process, _lines) = Process::spawn(self, None)?;
        match process.wait(STEP_PATIENCE) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(process.told(&format!("failed ({status})"))),
            None => Err(process.told(&format!("was not done within {} s", STEP_PATIENCE.as_secs()))),
        }
    }

    fn no_program(&self, error: &std::io::Error) -> String {
        format!("{} cannot be started: {}: {error}", self.name, self.program.display())
    }
}

/// What a program calls itself: the first line that `--version` has it say.
pub(crate) fn version(program: impl AsRef<OsStr>) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
    (output.status.success() && !said.is_empty()).then_some(said)
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) url: Url,
    process: Process,
}

impl Server {
    /// Starts it on `cpu`, or wherever this process may run, and waits until it says that it listens.
    ///
    /// # Errors
    /// It cannot be started, ends, or is silent for too long.
    pub(crate) fn start(spec: &Spec, cpu: Option<usize>) -> Result<Self, String> {
        let (process, rest) = Process::start(spec, cpu, LISTENING)?;
        let address = rest.split_whitespace().next().unwrap_or_default();
        let url = format!("ws://{address}").parse()?;
        Ok(Self { url, process })
    }

    /// The server's process, and all that it has started.
    pub(crate) fn pids(&self) -> Vec<u32> {
        process::descendants(self.process.id())
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// It had ended before, does not end in time and is killed, or says by its exit code that not all was well.
    pub(crate) fn stop(self) -> Result<(), String> {
        self.stop_and_hear().map(|_| ())
    }

    /// The same, and the last that it said.
    ///
    /// # Errors
    /// As [`Server::stop`].
    pub(crate) fn stop_and_hear(mut self) -> Result<Vec<String>, String> {
        self.process.end().map(|()| self.process.last_said())
    }
}

/// A child process and the last lines that it said. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    ending: Signal,
    said: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts it on `cpu`, or wherever this process may run, and waits until it says `ready`; and what it says after
    /// that in the same line.
    ///
    /// # Errors
    /// It cannot be started, ends, or is silent for too long.
    pub(crate) fn start(spec: &Spec, cpu: Option<usize>, ready: &str) -> Result<(Self, String), String> {
        let (mut process, lines) = Self::spawn(spec, cpu)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some((_, rest)) = line.split_once(ready) {
                        return Ok((process, rest.to_owned()));
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(process.told(&format!("was not ready within {} s", PATIENCE.as_secs())));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status =
                        process.wait(PATIENCE).map_or("with its output closed".into(), |status| status.to_string());
                    return Err(process.told(&format!("ended before it was ready ({status})")));
                }
            }
        }
    }

    /// Starts it; what it says comes line by line, until it says no more.
    fn spawn(spec: &Spec, cpu: Option<usize>) -> Result<(Self, mpsc::Receiver<String>), String> {
        let mut command = spec.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            on_cpu(cpu, || belongings::start(&mut command, spec.ending))?.map_err(|error| spec.no_program(&error))?;
        let said = Arc::default();
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().map(|output| keep(output, &said, sender.clone()));
        let stderr = child.stderr.take().map(|output| keep(output, &said, sender));
        let readers = stdout.into_iter().chain(stderr).collect();
        Ok((Self { name: spec.name.clone(), child, ending: spec.ending, said, readers }, lines))
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// As [`Server::stop`] says.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        if let Some(status) = self.wait(Duration::ZERO) {
            return Err(self.told(&format!("ended by itself ({status})")));
        }
        belongings::tell(&self.child, self.ending).map_err(|error| format!("{}: {error}", self.name))?;
        match self.wait(PATIENCE) {
            Some(status) if status.success() || status.signal() == Some(self.ending.as_raw()) => Ok(()),
            Some(status) => Err(self.told(&format!("did not end in order ({status})"))),
            None => {
                let _ended = belongings::tell(&self.child, Signal::KILL);
                Err(self.told(&format!("did not end within {} s of being asked, and was killed", PATIENCE.as_secs())))
            }
        }
    }

    /// How it ended, if it has within so long.
    fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            match belongings::reap(&mut self.child) {
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }

    /// What became of it, with the last that it said.
    fn told(&self, what: &str) -> String {
        self.last_said().iter().fold(format!("{} {what}", self.name), |text, line| text + "\n  | " + line)
    }

    fn last_said(&self) -> Vec<String> {
        // The last lines of one that has ended may still be on their way; what it has started may hold its output open.
        let deadline = Instant::now() + Duration::from_millis(500);
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = belongings::tell(&self.child, Signal::KILL);
        self.wait(PATIENCE);
    }
}

/// Reads lines until there are no more, so that whoever writes them never waits.
fn keep(
    output: impl Read + Send + 'static,
    said: &Arc<Mutex<VecDeque<String>>>,
    lines: mpsc::Sender<String>,
) -> JoinHandle<()> {
    let said = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_back(line.clone());
            let more = said.len().saturating_sub(LINES_MAX);
            said.drain(..more);
            drop(said);
            // Nobody listens any more once it is ready.
            let _heard = lines.send(line);
        }
    })
}

/// Does `what` on a thread of its own that may run on `cpu` alone: a process started there inherits that, and so does
/// all that it starts.
///
/// # Errors
/// There is no such CPU, or this process may not use it.
pub(crate) fn on_cpu<T: Send>(cpu: Option<usize>, what: impl FnOnce() -> T + Send) -> Result<T, String> {
    let pinned = || {
        if let Some(cpu) = cpu {
            pin(cpu)?;
        }
        Ok(what())
    };
    thread::scope(|scope| scope.spawn(pinned).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Lets the calling thread run on `cpu` alone.
///
/// # Errors
/// There is no such CPU, or this process may not use it.
pub(crate) fn pin(cpu: usize) -> Result<(), String> {
    let mut cpus = CpuSet::new();
    if cpu < CpuSet::MAX_CPU {
        cpus.set(cpu);
    }
    sched_setaffinity(None, &cpus).map_err(|error| format!("CPU {cpu} cannot be used: {error}; `nproc` counts them"))
}

/// A temporary folder that only its owner can look into. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Folder(Owned);

impl Folder {
    /// A new one.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn make() -> Result<Self, String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let nth = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("ringroom-perf-{}-{nth}", std::process::id()));
            let said = format!("{}", path.display());
            match Owned::make(path, |path| fs::DirBuilder::new().mode(0o700).create(path)) {
                // Of an earlier process of the same number, which was killed.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => return made.map(|(owned, ())| Self(owned)).map_err(|error| format!("{said}: {error}")),
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Where ringroom serves from: a folder, a database, and rooms with users for a load. Dropping it removes the folder.
#[derive(Debug)]
pub(crate) struct Place {
    folder: Folder,
    database_url: Option<String>,
}

impl Place {
    /// Makes the tables and `rooms` rooms of `users` users each, by means of `ringroom`. Without a database of the
    /// caller's, an SQLite file in the folder.
    ///
    /// # Errors
    /// The folder cannot be made, or `ringroom` fails.
    pub(crate) fn make(
        ringroom: &Path,
        database_url: Option<&str>,
        rooms: usize,
        users: usize,
    ) -> Result<Self, String> {
        let place = Self { folder: Folder::make()?, database_url: database_url.map(str::to_owned) };
        let ask = |command: &str| {
            Spec::new(&format!("ringroom {command}"), ringroom)
                .args([command, "--data-dir"])
                .args([place.data_dir()])
                .env("RINGROOM_DATABASE_URL", place.database_url())
        };
        ask("migrate").run()?;
        let counts = ["--rooms", &rooms.to_string(), "--users-per-room", &users.to_string(), "--out"];
        ask("seed").args(counts).args([place.fixtures()]).run()?;
        Ok(place)
    }

    /// The file of rooms, users and tokens.
    pub(crate) fn fixtures(&self) -> PathBuf {
        self.folder.path().join("fixtures.json")
    }

    /// What ringroom keeps its journal in.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The database, which may hold a password: for an environment, not for a command line.
    pub(crate) fn database_url(&self) -> String {
        let own = || format!("sqlite:{}", self.folder.path().join("chat.sqlite3").display());
        self.database_url.clone().unwrap_or_else(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Spec {
        Spec::new("the shell", "sh").args(["-c", script])
    }

    #[test]
    fn a_server_is_awaited_pinned_and_ended_with_what_it_started() {
        let cpu = on_cpu(None, || rustix::thread::sched_getaffinity(None)).unwrap().unwrap();
        let cpu = (0..CpuSet::MAX_CPU).find(|at| cpu.is_set(*at)).unwrap();
        let script =
            "sleep 60 & trap 'kill $!; wait; exit 0' TERM; echo hello; echo x listening on http://127.0.0.1:9 y; wait";
        let server = Server::start(&shell(script), Some(cpu)).unwrap();
        assert_eq!(server.url.to_string(), "ws://127.0.0.1:9");
        let pids = server.pids();
        assert_eq!(pids.len(), 2, "{pids:?}");
        for pid in &pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            assert!(status.contains(&format!("Cpus_allowed_list:\t{cpu}\n")), "{status}");
        }
        server.stop().unwrap();
        assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    }

    #[test]
    fn one_that_does_not_serve_is_told_with_what_it_said() {
        for (script, words) in [
            ("echo the port is taken >&2; exit 7", ["ended before it was ready (exit status: 7)", "the port is taken"]),
            ("seq 100; exit 1", ["exit status: 1", "| 100"]),
        ] {
            let why = Server::start(&shell(script), None).unwrap_err();
            assert!(words.iter().all(|word| why.contains(word)) && why.len() < 500, "{why}");
        }
        let why = Server::start(&Spec::new("nothing", "/no/such/program"), None).unwrap_err();
        assert!(why.contains("nothing cannot be started: /no/such/program"), "{why}");
        let why = Server::start(&shell("exit 0"), Some(CpuSet::MAX_CPU)).unwrap_err();
        assert!(why.contains("cannot be used"), "{why}");
    }

    #[test]
    fn one_that_does_not_end_well_is_told() {
        let end = |script: &str| Server::start(&shell(script), None).unwrap().stop();
        let listen = "echo listening on http://127.0.0.1:9";
        assert_eq!(end(&format!("{listen}; exec sleep 60")), Ok(()), "SIGTERM is an end in order");
        let why =
            end(&format!("trap 'echo 3 lost >&2; exit 1' TERM; {listen}; while :; do sleep 0.01; done")).unwrap_err();
        assert!(why.contains("did not end in order (exit status: 1)") && why.contains("3 lost"), "{why}");
    }

    #[test]
    fn a_step_that_fails_is_told_with_what_it_said() {
        assert_eq!(shell("exit 0").run(), Ok(()));
        let why = shell("echo no tables >&2; exit 2").run().unwrap_err();
        assert!(why.contains("the shell failed (exit status: 2)") && why.contains("no tables"), "{why}");
    }

    #[test]
    fn a_program_says_its_version() {
        assert!(version("cargo").unwrap().starts_with("cargo "));
        assert_eq!((version("false"), version("/no/such/program")), (None, None));
    }

    #[test]
    fn a_flag_wins_over_what_is_set_here() {
        let place = Place { folder: Folder::make().unwrap(), database_url: None };
        let spec = Spec::ringroom(Path::new("ringroom"), &place, &["--log".to_owned(), "debug".to_owned()]);
        assert_eq!(spec.args, ["serve", "--log", "debug"].map(OsString::from));
        assert!(spec.env.iter().any(|(name, value)| name == "RINGROOM_LOG" && value == LOG), "{spec:?}");
    }

    #[test]
    fn settings_of_whoever_calls_do_not_reach_a_server() {
        let spec = shell("").env("RINGROOM_DATABASE_URL", "sqlite:x");
        let command = spec.command();
        let given: Vec<_> = command.get_envs().filter(|(_, value)| value.is_some()).collect();
        assert_eq!(given, [("RINGROOM_DATABASE_URL".as_ref(), Some("sqlite:x".as_ref()))]);
    }
}
