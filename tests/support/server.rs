//! The real program, serving a [`Place`] on a free loopback port. It ends with the test, and a failed test shows what it
//! logged.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, place::Place};

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
    log: Arc<Mutex<String>>,
    log_reader: Option<JoinHandle<()>>,
}

/// A server that does not accept connections yet, and perhaps never will.
pub struct Starting {
    server: Server,
    lines: mpsc::Receiver<String>,
}

/// What a server left when it ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub log: String,
}

impl Server {
    /// Starts a server and waits for its one line on standard output.
    pub fn start(place: &Place, flags: &[&str]) -> Server {
        Server::start_after("", place, flags)
    }

    /// As [`start`](Server::start), in a process that has run a line of bash first, such as `ulimit -n 100`.
    pub fn start_after(line: &str, place: &Place, flags: &[&str]) -> Server {
        let listening = Server::launch(line, place, flags).listening();
        listening.unwrap_or_else(|ended| panic!("{}: the server does not start: {ended:?}", place.kind))
    }

    /// As [`start_after`](Server::start_after), without waiting for anything.
    pub fn launch(line: &str, place: &Place, flags: &[&str]) -> Starting {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{line}\nexec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_ringroom")]);
        for (name, _) in env::vars().filter(|(name, _)| name.starts_with("RINGROOM_") || name == "DATABASE_URL") {
            command.env_remove(name);
        }
        command.env("RINGROOM_DATABASE_URL", &place.url);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(place.folder()).args(flags);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();

        let (mut stderr, log) = (child.stderr.take().unwrap(), Arc::<Mutex<String>>::default());
        let shared = Arc::clone(&log);
        let log_reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(len @ 1..) = stderr.read(&mut piece) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..len]));
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|len| len > 0) {
                let _ = sender.send(std::mem::take(&mut line));
            }
        });

        let unbound = "0.0.0.0:0".parse().unwrap();
        Starting { server: Server { address: unbound, child, log, log_reader: Some(log_reader) }, lines }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until it has logged this.
    pub fn wait_for_log(&self, text: &str) {
        let began = Instant::now();
        while !self.log().contains(text) {
            assert!(began.elapsed() < DEADLINE, "the server does not log {text:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its files in `/proc`.
    pub fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.child.id()).into()
    }

    /// SIGKILL. It has no exit code then, unless it had ended before.
    pub fn kill_9(mut self) -> Ended {
        self.child.kill().unwrap();
        self.wait()
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> Ended {
        self.wait_for(DEADLINE).expect("the server does not end")
    }

    /// Waits for it to end by itself; `None` if it is still there after so long.
    pub fn wait_for(&mut self, patience: Duration) -> Option<Ended> {
        let began = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if began.elapsed() > patience {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        };
        if let Some(reader) = self.log_reader.take() {
            reader.join().unwrap();
        }
        Some(Ended { code: status.code(), log: self.log() })
    }

    /// Asks it to end, which must succeed.
    pub fn stop(mut self) -> Ended {
        self.terminate();
        let ended = self.wait();
        assert_eq!(ended.code, Some(0), "SIGTERM must end a server in order");
        ended
    }
}

impl Starting {
    /// Waits until it accepts connections; or until it has ended instead.
    pub fn listening(mut self) -> Result<Server, Ended> {
        let line = match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(self.server.wait()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("the server neither starts nor ends:\n{}", self.server.log())
            }
        };
        let address = line.strip_prefix("ringroom is listening on http://").and_then(|rest| rest.split(' ').next());
        self.server.address = address.and_then(|address| address.parse().ok()).expect(&line);
        Ok(self.server)
    }

    /// SIGKILL, however far it has come.
    pub fn kill_9(self) -> Ended {
        self.server.kill_9()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By its process id, and only while it is our child.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("-- what the server logged\n{}", self.log());
        }
    }
}

impl Ended {
    /// One of the counters that the server's last line sums up.
    pub fn counter(&self, name: &str) -> u64 {
        let line = self.log.lines().rev().find_map(|line| line.split_once("stopped: ")).expect("the counters' line").1;
        let counters: HashMap<&str, u64> = line
            .split(", ")
            .filter_map(|part| part.split_once(' '))
            .map(|(name, count)| (name, count.trim().parse().unwrap()))
            .collect();
        counters.get(name).copied().unwrap_or(0)
    }
}
