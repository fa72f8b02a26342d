//! Where figures come from: the command, the program, the machine, the server. Read once, before a run; no secret of the
//! command line leaves this file.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::time::SystemTime;

use bytes::BytesMut;
use ringroom::stamp::put_rfc3339;
use serde::Serialize;

use crate::process;

/// What a reader must know to judge a figure, and to measure it again.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Provenance {
    /// As typed, for a shell to read again; secrets are masked.
    pub(crate) command: String,
    /// When it was typed, in UTC (RFC 3339).
    pub(crate) started_at: String,
    pub(crate) program: Program,
    pub(crate) machine: Machine,
    /// The server, if it is known before the run.
    pub(crate) server: Option<Server>,
}

/// This program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Program {
    pub(crate) version: &'static str,
    /// What it was built from; `None` if that was no checkout.
    pub(crate) commit: Option<&'static str>,
    /// Whether its sources were other than the commit's.
    pub(crate) changed: bool,
    /// Whether it was built with `--release`.
    pub(crate) release: bool,
    /// CPUs that it may use, such as `0-1`.
    pub(crate) cpus: Option<String>,
}

/// What it ran on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu_model: String,
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    /// Of the minute before the run: what else was going on.
    pub(crate) load_average: Option<f64>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) processes: Vec<Process>,
}

/// A process of the server.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: String,
    /// CPUs that it may use.
    pub(crate) cpus: Option<String>,
}

impl Provenance {
    /// Of this process, now.
    pub(crate) fn now() -> Self {
        Self {
            command: command_line(std::env::args_os().map(|arg| arg.to_string_lossy().into_owned())),
            started_at: now_utc(),
            program: Program {
                version: env!("CARGO_PKG_VERSION"),
                commit: option_env!("RINGROOM_PERF_COMMIT"),
                changed: option_env!("RINGROOM_PERF_CHANGED") == Some("true"),
                release: !cfg!(debug_assertions),
                cpus: process::allowed_cpus(std::process::id()),
            },
            machine: Machine::read(),
            server: None,
        }
    }

    /// With the server.
    pub(crate) fn of_server(mut self, address: &str, pids: &[u32]) -> Self {
        let name =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned();
        let processes =
            pids.iter().map(|pid| Process { pid: *pid, name: name(pid), cpus: process::allowed_cpus(*pid) }).collect();
        self.server = Some(Server { address: address.to_owned(), processes });
        self
    }
}

/// As a person would say it: the version, its commit, and what speaks against its figures.
impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "ringroom-perf {}", self.version)?;
        match self.commit {
            Some(commit) => write!(f, ", commit {}", commit.get(..12).unwrap_or(commit))?,
            None => write!(f, ", commit unknown")?,
        }
        if self.changed {
            write!(f, " with uncommitted changes")?;
        }
        if !self.release {
            write!(f, ", a debug build")?;
        }
        Ok(())
    }
}

impl Machine {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpuinfo, uname) = (read("/proc/cpuinfo"), rustix::system::uname());
        let value = |line: &str| Some(line.split_once(':')?.1.trim().to_owned());
        let part = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        Self {
            kernel: [uname.sysname(), uname.release(), uname.machine()].map(part).join(" "),
            cpu_model: cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(value).unwrap_or_default(),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: process::kib_line(&read("/proc/meminfo"), "MemTotal:"),
            load_average: read("/proc/loadavg").split(' ').next().and_then(|minute| minute.parse().ok()),
        }
    }
}

fn now_utc() -> String {
    let micros = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_micros() as i64);
    let mut text = BytesMut::new();
    put_rfc3339(&mut text, micros);
    // Whole seconds will do.
    format!("{}Z", String::from_utf8_lossy(&text[..19]))
}

/// What stands for a secret.
const MASK: &str = "***";

/// Words in the names of flags and parameters whose values are nobody's business.
const SECRET_NAMES: [&str; 4] = ["password", "passwd", "token", "secret"];

/// The arguments as one line; of the program's path its name alone.
fn command_line(args: impl IntoIterator<Item = String>) -> String {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_default();
    let mut line = quoted(program.rsplit('/').next().unwrap_or_default());
    let mut value_is_secret = false;
    for arg in args {
        let shown = if value_is_secret { MASK.to_owned() } else { masked(&arg) };
        value_is_secret = arg.starts_with('-') && !arg.contains('=') && is_secret_name(&arg);
        line = line + " " + &quoted(&shown);
    }
    line
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// An argument without the password of an address in it, and without the values of parameters that name a secret:
/// `password=…`, among others or alone.
fn masked(arg: &str) -> String {
    let separator = |c: char| c.is_whitespace() || matches!(c, '&' | '?' | ';' | '#');
    without_password(arg)
        .split_inclusive(separator)
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match value.trim_end_matches(separator) {
                value if value.is_empty() || !is_secret_name(name) => part.to_owned(),
                value => format!("{name}={MASK}{}", &part[name.len() + 1 + value.len()..]),
            }
        })
        .collect()
}

/// `scheme://user:***@host` of `scheme://user:password@host`. A password may hold anything, so it ends at the last `@`.
fn without_password(arg: &str) -> String {
    let parts = || {
        let (scheme, rest) = arg.split_once("://")?;
        let (login, host) = rest.rsplit_once('@')?;
        let (user, _password) = login.split_once(':')?;
        Some(format!("{scheme}://{user}:{MASK}@{host}"))
    };
    parts().unwrap_or_else(|| arg.to_owned())
}

/// As a shell reads it.
fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=@,+%*".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) { arg.to_owned() } else { format!("'{}'", arg.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> String {
        command_line(args.iter().map(|arg| (*arg).to_owned()))
    }

    #[test]
    fn a_command_can_be_typed_again() {
        for (args, want) in [
            (&["/usr/bin/ringroom-perf", "load", "--rate", "5"][..], "ringroom-perf load --rate 5"),
            (&["p", "--json", "a b.json", ""], "p --json 'a b.json' ''"),
            (&["p", "it's", "$HOME", "`x`"], r"p 'it'\''s' '$HOME' '`x`'"),
            (&["p", "--url", "ws://127.0.0.1:8000/x"], "p --url ws://127.0.0.1:8000/x"),
            (&[], "''"),
        ] {
            assert_eq!(line(args), want);
        }
    }

    #[test]
    fn no_secret_is_in_it() {
        for arg in [
            "postgres://chat:apricot@db/chat",
            "postgres://chat:apri@apricot@db/chat",
            "postgres://chat:apri/apricot@db/chat",
            "--database-url=postgres://chat:apricot@db/chat",
            "postgres://db/chat?user=chat&password=apricot",
            "postgres://db/chat?password=apricot&user=chat",
            "host=db password=apricot user=chat",
            "ws://127.0.0.1:1/?token=apricot",
            "--token=apricot",
            "PASSWORD=apricot",
        ] {
            let shown = line(&["p", arg]);
            assert!(!shown.contains("apricot") && shown.contains(MASK), "{arg}: {shown}");
            assert!(arg.contains("chat") <= shown.contains("chat"), "{arg}: {shown}");
        }
        assert_eq!(line(&["p", "--token", "apricot", "--rate", "5"]), "p --token *** --rate 5");
        assert_eq!(line(&["p", "host=db password=x user=a"]), "p 'host=db password=*** user=a'");
        assert_eq!(line(&["p", "--password=", "--rate", "5"]), "p --password= --rate 5");
    }

    #[test]
    fn this_machine_and_process_are_read() {
        let own = std::process::id();
        let provenance = Provenance::now().of_server("ws://127.0.0.1:1", &[own]);
        let machine = &provenance.machine;
        assert!(machine.kernel.starts_with("Linux ") && machine.cpus > 0 && machine.memory_bytes > 0, "{machine:?}");
        assert_eq!((provenance.started_at.len(), &provenance.started_at[19..]), (20, "Z"));
        let server = provenance.server.unwrap();
        assert_eq!((server.processes[0].pid, server.processes[0].cpus.is_some()), (own, true));
        assert!(!server.processes[0].name.is_empty());
    }

    #[test]
    fn what_speaks_against_a_figure_is_said() {
        let program =
            Program { version: "1", commit: Some("0123456789abcdef"), changed: false, release: true, cpus: None };
        assert_eq!(program.to_string(), "ringroom-perf 1, commit 0123456789ab");
        let worse = Program { changed: true, release: false, ..program };
        assert_eq!(worse.to_string(), "ringroom-perf 1, commit 0123456789ab with uncommitted changes, a debug build");
    }
}
