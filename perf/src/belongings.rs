//! What this process has started and made and must not leave behind: child processes, folders, files. Whoever starts or
//! makes one ends it. If SIGINT, SIGTERM or SIGHUP comes before, a thread of this file does, and ends this process.
//!
//! A process is reaped only here, and under the same lock under which it is signalled: until then its number is its own.
//! Each is the first of a process group, so that a terminal's Ctrl-C reaches this process alone, which then ends the
//! others as each wants to be ended, with all that they have started.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::runtime::Runtime;
use tokio::signal::unix::{self, SignalKind, signal};

/// How long processes may take to end when this one was told to.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// Between two looks at whether they have.
const PAUSE: Duration = Duration::from_millis(5);

/// All of it.
struct Belongings {
    /// Processes that have not been reaped, and the signal that each wants to be ended with.
    processes: Vec<(Pid, Signal)>,
    /// Folders and files.
    paths: Vec<PathBuf>,
    is_watched: bool,
}

static BELONGINGS: Mutex<Belongings> =
    Mutex::new(Belongings { processes: Vec::new(), paths: Vec::new(), is_watched: false });

/// Whoever holds it knows that nothing is being ended for a signal, and ends it soon.
fn belongings() -> MutexGuard<'static, Belongings> {
    let mut belongings = BELONGINGS.lock().unwrap_or_else(PoisonError::into_inner);
    if !belongings.is_watched {
        belongings.is_watched = true;
        // Before anything is started or made. Where that fails a signal ends this process at once, as it did without.
        let watching = Watch::new().map(|watch| thread::Builder::new().name("signals".into()).spawn(|| watch.run()));
        let _unwatched = watching.err();
    }
    belongings
}

/// Starts a process that `ending` ends.
///
/// # Errors
/// It cannot be started.
pub(crate) fn start(command: &mut Command, ending: Signal) -> io::Result<Child> {
    let mut belongings = belongings();
    let child = command.process_group(0).spawn()?;
    belongings.processes.push((Pid::from_child(&child), ending));
    Ok(child)
}

/// Sends `signal` to a process that has not been reaped, and to what it has started.
///
/// # Errors
/// It may not be signalled.
pub(crate) fn tell(child: &Child, signal: Signal) -> io::Result<()> {
    let (belongings, pid) = (belongings(), Pid::from_child(child));
    let is_there = belongings.processes.iter().any(|(other, _)| *other == pid);
    if is_there { Ok(kill_process_group(pid, signal)?) } else { Ok(()) }
}

/// How a process ended, if it has.
///
/// # Errors
/// It cannot be asked.
pub(crate) fn reap(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let mut belongings = belongings();
    let status = child.try_wait()?;
    if status.is_some() {
        let pid = Pid::from_child(child);
        belongings.processes.retain(|(other, _)| *other != pid);
    }
    Ok(status)
}

/// A folder or file of this process, which goes with this value.
#[derive(Debug)]
pub(crate) struct Owned(PathBuf);

impl Owned {
    /// What `make` makes at `path`.
    ///
    /// # Errors
    /// As of `make`.
    pub(crate) fn make<T>(path: PathBuf, make: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<(Self, T)> {
        let mut belongings = belongings();
        let made = make(&path)?;
        belongings.paths.push(path.clone());
        Ok((Self(path), made))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let mut belongings = belongings();
        remove(&self.0);
        belongings.paths.retain(|path| *path != self.0);
    }
}

fn remove(path: &Path) {
    let _left = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

/// The signals that ask this process to end, but for those that it was started to ignore (`nohup`, a shell's `&`).
pub(crate) struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// From here on they end this process no more by themselves. Within a runtime only.
    ///
    /// # Errors
    /// They cannot be handled.
    pub(crate) fn new() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let wanted =
            [Signal::INT, Signal::TERM, Signal::HUP].into_iter().filter(|signal| !is_ignored(&status, *signal));
        let open = |wanted: Signal| Ok((wanted, signal(SignalKind::from_raw(wanted.as_raw()))?));
        wanted.map(open).collect::<io::Result<_>>().map(Self)
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            let came =
                self.0.iter_mut().find_map(|(signal, stream)| stream.poll_recv(context).is_ready().then_some(*signal));
            came.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// By the line `SigIgn` of proc(5), a mask.
fn is_ignored(status: &str, signal: Signal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw() - 1) & 1 == 1
}

/// The exit code of whoever was ended by it, as a shell tells it.
pub(crate) fn exit_code(signal: Signal) -> i32 {
    128 + signal.as_raw()
}

/// Waits for a signal on a thread of its own, and heeds it.
struct Watch {
    runtime: Runtime,
    signals: Signals,
}

impl Watch {
    fn new() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _entered = runtime.enter();
            Signals::new()?
        };
        Ok(Self { runtime, signals })
    }

    fn run(mut self) {
        let signal = self.runtime.block_on(self.signals.next());
        // Never given back: nothing is started, made or reaped any more.
        let belongings = BELONGINGS.lock().unwrap_or_else(PoisonError::into_inner);
        if !belongings.processes.is_empty() {
            eprintln!("ringroom-perf: ending what was started; a second signal kills it");
        }
        self.runtime.block_on(async {
            tokio::select! {
                () = end(&belongings.processes) => {}
                _again = self.signals.next() => {}
            }
        });
        kill(&belongings.processes);
        belongings.paths.iter().for_each(|path| remove(path));
        std::process::exit(exit_code(signal));
    }
}

/// Asks all of them to end, and waits until they have, but not for ever.
async fn end(processes: &[(Pid, Signal)]) {
    for (pid, signal) in processes {
        let _gone = kill_process_group(*pid, *signal);
    }
    let deadline = Instant::now() + PATIENCE;
    while !processes.iter().all(has_ended) && Instant::now() < deadline {
        tokio::time::sleep(PAUSE).await;
    }
}

fn kill(processes: &[(Pid, Signal)]) {
    for (pid, _) in processes {
        let _gone = kill_process_group(*pid, Signal::KILL);
    }
    let deadline = Instant::now() + PATIENCE;
    while !processes.iter().all(has_ended) && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
}

/// Whether a child of this process has ended; it stays to be reaped.
fn has_ended((pid, _): &(Pid, Signal)) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(*pid), options), Ok(None))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;

    use super::*;
    use crate::server::{Folder, Process, Spec};

    /// What the process below starts: it ends in order, or does not listen.
    const OBEDIENT: &str = "sleep 60 & echo ready; wait";
    const DEAF: &str = "trap '' TERM INT HUP; sleep 60 & echo ready; while :; do wait; done";

    #[test]
    #[ignore = "not a test: the process that the one below ends"]
    fn a_process_that_starts_others() {
        let Ok(script) = std::env::var("BELONGINGS_SCRIPT") else { return };
        let folder = Folder::make().unwrap();
        fs::write(folder.path().join("token"), "x").unwrap();
        let (process, _) = Process::start(&Spec::new("sh", "sh").args(["-c", &script]), None, "ready").unwrap();
        println!("has {} {}", process.id(), folder.path().display());
        loop {
            thread::park();
        }
    }

    /// Ends such a process; what it had started and made.
    fn end_one(script: &str, ignored: &str, signal: Signal) -> (ExitStatus, Vec<u32>, PathBuf) {
        let name = "belongings::tests::a_process_that_starts_others";
        let test = format!("{ignored} exec \"$0\" {name} --exact --ignored --nocapture");
        let mut child = Command::new("sh")
            .args(["-c", &test])
            .arg(std::env::current_exe().unwrap())
            .env("BELONGINGS_SCRIPT", script)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines
            .filter(|line| line.contains("has "))
            .find_map(|line| line.split_once("has ").map(|at| at.1.to_owned()));
        let line = line.unwrap();
        let (pid, folder) = line.split_once(' ').unwrap();
        let pids = crate::process::descendants(pid.parse().unwrap());
        assert_eq!((pids.len(), Path::new(folder).join("token").exists()), (2, true), "{script}");
        if !ignored.is_empty() {
            rustix::process::kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
        }
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        (child.wait().unwrap(), pids, folder.into())
    }

    #[test]
    fn a_signal_leaves_nothing_behind() {
        for (script, ignored, signal) in [
            (OBEDIENT, "", Signal::TERM),
            (OBEDIENT, "", Signal::INT),
            (OBEDIENT, "", Signal::HUP),
            (DEAF, "", Signal::TERM),
            (OBEDIENT, "trap '' HUP;", Signal::TERM),
        ] {
            let (status, pids, folder) = end_one(script, ignored, signal);
            assert_eq!((status.code(), status.signal()), (Some(exit_code(signal)), None), "{script} {signal:?}");
            assert!(!folder.exists(), "{script} {signal:?}: {} is left", folder.display());
            // Its children have been killed, and whoever inherits them reaps them.
            let is_running = |pid: &u32| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                !stat.is_empty() && !stat.contains(") Z ") && !stat.contains(") X ")
            };
            let deadline = Instant::now() + Duration::from_secs(10);
            while pids.iter().any(is_running) {
                assert!(Instant::now() < deadline, "{script} {signal:?}: {pids:?} still run");
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn what_is_ignored_is_told_by_the_mask() {
        let status = "Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000004000\n";
        assert!(is_ignored(status, Signal::HUP) && !is_ignored(status, Signal::INT) && !is_ignored("", Signal::HUP));
    }
}
