//! What a process has used, out of /proc: CPU by thread, memory. Reads files; owns nothing; wants no privilege but to be
//! allowed to look at the process.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::Serialize;

/// What the CPU of threads that ended meanwhile is called.
pub(crate) const ENDED: &str = "ended threads";

/// CPU time that each thread of some processes has used so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuTime {
    threads: BTreeMap<u32, (String, u64)>,
    /// That of each process with its threads that have ended, just before and just after the others were read.
    whole_ns: BTreeMap<u32, (u64, u64)>,
}

impl CpuTime {
    /// Reads `/proc/PID/task/*/comm` and `schedstat` (time on a CPU in nanoseconds: proc(5)).
    ///
    /// # Errors
    /// There is no such process, or the kernel keeps no schedstat.
    pub(crate) fn read(pids: &[u32]) -> Result<Self, String> {
        let (mut threads, mut whole_ns) = (BTreeMap::new(), BTreeMap::new());
        for pid in pids {
            let before_ns = ticks_ns(*pid, OWN_TICKS);
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| no_process(*pid, &error))?;
            for task in tasks.flatten() {
                let Ok(tid) = task.file_name().to_string_lossy().parse() else { continue };
                // A thread may end between being listed and being read.
                let Ok(name) = fs::read_to_string(task.path().join("comm")) else { continue };
                let Ok(stat) = fs::read_to_string(task.path().join("schedstat")) else { continue };
                let ran_ns = stat.split(' ').next().and_then(|field| field.parse().ok()).unwrap_or(0);
                threads.insert(tid, (name.trim_end().to_owned(), ran_ns));
            }
            if threads.is_empty() {
                return Err(format!("/proc/{pid}/task/*/schedstat cannot be read; the kernel needs CONFIG_SCHED_INFO"));
            }
            whole_ns.insert(*pid, (before_ns, ticks_ns(*pid, OWN_TICKS)));
        }
        Ok(Self { threads, whole_ns })
    }

    /// Nanoseconds used since `earlier`, summed over the threads of a name; numbers at a name's end do not tell names
    /// apart (`shard-0` and `shard-1` are `shard`). Threads that ended meanwhile are [`ENDED`], when they used more than can
    /// be rounding.
    pub(crate) fn since(&self, earlier: &Self) -> BTreeMap<String, u64> {
        let mut by_name = BTreeMap::new();
        for (tid, (name, ran_ns)) in &self.threads {
            let before_ns = earlier.threads.get(tid).map_or(0, |(_, before)| *before);
            *by_name.entry(family(name)).or_insert(0) += ran_ns.saturating_sub(before_ns);
        }
        let ended_ns = self.whole_since(earlier).saturating_sub(by_name.values().sum());
        if ended_ns > 2 * tick_ns() * self.whole_ns.len() as u64 {
            by_name.insert(ENDED.to_owned(), ended_ns);
        }
        by_name
    }

    /// What the processes have used at least, whatever came between the readings.
    fn whole_since(&self, earlier: &Self) -> u64 {
        let since = |(pid, (before_ns, _)): (&u32, &(u64, u64))| {
            earlier.whole_ns.get(pid).map_or(0, |(_, after_ns)| before_ns.saturating_sub(*after_ns))
        };
        self.whole_ns.iter().map(since).sum()
    }
}

fn no_process(pid: u32, error: &io::Error) -> String {
    format!("process {pid}: {error}; give the server's process id with --pid")
}

fn family(name: &str) -> String {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '-' | '_' | '/' | ':' | '#' | '.'));
    if stem.is_empty() { name.to_owned() } else { stem.to_owned() }
}

/// Memory of some processes, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// Resident set (`VmRSS`).
    pub(crate) rss_bytes: u64,
    /// Its anonymous part (`RssAnon`): heap and stacks, what connections grow.
    pub(crate) anonymous_bytes: u64,
    /// Proportional share (`Pss`), 0 where smaps_rollup may not be read.
    pub(crate) pss_bytes: u64,
    /// Pages that are the process's alone (`Private_Clean` and `Private_Dirty`), 0 likewise.
    pub(crate) private_bytes: u64,
}

impl Memory {
    /// Reads `/proc/PID/status` and `/proc/PID/smaps_rollup`.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn read(pids: &[u32]) -> Result<Self, String> {
        let mut sum = Self::default();
        for pid in pids {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| no_process(*pid, &error))?;
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            sum.rss_bytes += kib_line(&status, "VmRSS:");
            sum.anonymous_bytes += kib_line(&status, "RssAnon:");
            sum.pss_bytes += kib_line(&rollup, "Pss:");
            sum.private_bytes += kib_line(&rollup, "Private_Clean:") + kib_line(&rollup, "Private_Dirty:");
        }
        Ok(sum)
    }
}

/// Resident bytes of some processes, by `/proc/PID/statm`, which is cheap to read; `None` for no process, or one that has
/// ended.
pub(crate) fn resident_bytes(pids: &[u32]) -> Option<u64> {
    let pages = pids.iter().map(|pid| {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        statm.split(' ').nth(1)?.parse::<u64>().ok()
    });
    let pages: u64 = pages.sum::<Option<u64>>()?;
    (!pids.is_empty()).then(|| pages * rustix::param::page_size() as u64)
}

/// Memory that the kernel holds on behalf of everyone, in bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct KernelMemory {
    /// `Slab` of /proc/meminfo: sockets, files, and all else that the kernel allocates.
    pub(crate) slab_bytes: u64,
    /// Socket buffers (`mem` of the TCP line in /proc/net/sockstat).
    pub(crate) tcp_buffer_bytes: u64,
}

impl KernelMemory {
    /// Reads what may be read; the rest is 0.
    pub(crate) fn read() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let tcp_pages = sockstat
            .lines()
            .find(|line| line.starts_with("TCP:"))
            .and_then(|line| line.rsplit_once("mem "))
            .and_then(|(_, pages)| pages.trim().parse::<u64>().ok())
            .unwrap_or(0);
        Self {
            slab_bytes: kib_line(&meminfo, "Slab:"),
            tcp_buffer_bytes: tcp_pages * rustix::param::page_size() as u64,
        }
    }
}

/// Bytes of the line of a /proc file that begins with `key` and counts in KiB.
pub(crate) fn kib_line(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// CPU time that the calling thread has used, in nanoseconds.
pub(crate) fn own_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A process and all that descend from it.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        all.extend(children(parent));
        at += 1;
    }
    all
}

/// The children of each of its threads (proc(5); the kernel needs CONFIG_PROC_CHILDREN, as Debian's has).
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split(' ').filter_map(|child| child.parse().ok()).collect::<Vec<_>>()).collect()
}

/// CPU time in nanoseconds that a process and all that it has started have used so far, those that have ended included.
///
/// # Errors
/// There is no such process.
pub(crate) fn tree_cpu_ns(pid: u32) -> Result<u64, String> {
    let live = descendants(pid);
    // A child may end between being listed and being read; then its time is its parent's.
    let ran = live.iter().filter_map(|pid| CpuTime::read(&[*pid]).ok()).flat_map(|time| time.threads.into_values());
    let ran: u64 = ran.map(|(_, ran_ns)| ran_ns).sum();
    let ended: u64 = live.iter().map(|pid| ticks_ns(*pid, ENDED_CHILDREN_TICKS)).sum();
    CpuTime::read(&[pid]).map(|_| ran + ended)
}

/// Where `utime` and `stime` stand in /proc/PID/stat (proc(5)), behind the name, and `cutime` and `cstime`.
const OWN_TICKS: usize = 11;
const ENDED_CHILDREN_TICKS: usize = 13;

/// Two counts of a process's ticks, as nanoseconds. The name before them stands in parentheses and may hold anything.
fn ticks_ns(pid: u32, at: usize) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    fields.skip(at).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * tick_ns()
}

fn tick_ns() -> u64 {
    1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)
}

/// Whether one of these processes listens on this port of TCP; `None` if nobody here does, or they may not be looked into.
pub(crate) fn listens(pids: &[u32], port: u16) -> Option<bool> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: Vec<String> = tables.iter().flat_map(|table| listeners(table, port)).collect();
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        Some(targets.into_iter().any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str())))
    };
    let held = pids.iter().map(holds).collect::<Option<Vec<bool>>>()?;
    (!sockets.is_empty()).then(|| held.contains(&true))
}

/// The sockets that listen on a port, out of /proc/net/tcp, as links of /proc/PID/fd call them.
fn listeners(table: &str, port: u16) -> impl Iterator<Item = String> {
    let end = format!(":{port:04X}");
    table.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_listening = fields.get(1)?.ends_with(&end) && *fields.get(3)? == "0A";
        is_listening.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
    })
}

/// A CPU that this process and process `pid` may both run on, when there is one.
pub(crate) fn shared_cpu(pid: u32) -> Option<u32> {
    let allowed = |pid: u32| cpu_list(&allowed_cpus(pid).unwrap_or_default());
    let ours = allowed(std::process::id());
    allowed(pid).into_iter().find(|cpu| ours.contains(cpu))
}

/// The CPUs that a process may run on, as the kernel lists them: `0-2,5`.
pub(crate) fn allowed_cpus(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(list.trim().to_owned())
}

fn cpu_list(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u32>().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_kind_are_summed() {
        for (name, want) in [("shard-0", "shard"), ("shard12", "shard"), ("iou-wrk-771", "iou-wrk"), ("42", "42")] {
            assert_eq!(family(name), want);
        }
        let at = |threads: &[(u32, &str, u64)]| CpuTime {
            threads: threads.iter().map(|(tid, name, ns)| (*tid, ((*name).to_owned(), *ns))).collect(),
            whole_ns: BTreeMap::new(),
        };
        let earlier = at(&[(1, "main", 100), (2, "shard-0", 50), (3, "gone", 9)]);
        let later = at(&[(1, "main", 110), (2, "shard-0", 80), (4, "shard-1", 7)]);
        let used = later.since(&earlier);
        assert_eq!(used, BTreeMap::from([("main".to_owned(), 10), ("shard".to_owned(), 37)]));
    }

    #[test]
    fn this_process_can_be_read() {
        let own = [std::process::id()];
        let before = CpuTime::read(&own).unwrap();
        let cpu_ns = own_cpu_ns();
        while own_cpu_ns() - cpu_ns < 30_000_000 {}
        let used: u64 = CpuTime::read(&own).unwrap().since(&before).values().sum();
        assert!(used >= 15_000_000, "{used}");
        let memory = Memory::read(&own).unwrap();
        assert!(memory.rss_bytes >= memory.anonymous_bytes && memory.anonymous_bytes > 0, "{memory:?}");
        let resident = resident_bytes(&own).unwrap() as f64 / memory.rss_bytes as f64;
        assert!((0.5..2.0).contains(&resident), "{resident} of {memory:?}");
        assert_eq!((resident_bytes(&[]), resident_bytes(&[u32::MAX])), (None, None));
        assert!(shared_cpu(own[0]).is_some());
        assert!(CpuTime::read(&[u32::MAX]).unwrap_err().contains("--pid"));
    }

    #[test]
    fn what_a_thread_has_used_counts_when_it_has_ended() {
        let own = [std::process::id()];
        let before = CpuTime::read(&own).unwrap();
        let burn = || while own_cpu_ns() < 200_000_000 {};
        std::thread::spawn(burn).join().unwrap();
        let used = CpuTime::read(&own).unwrap().since(&before);
        assert!(used[ENDED] >= 150_000_000, "{used:?}");
    }

    #[test]
    fn what_a_child_has_started_counts_while_it_runs_and_after() {
        let count = "i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &format!("({count}); sleep 60 & echo; read x; kill $!; wait")]);
        let mut child =
            command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert_eq!(descendants(child.id()).len(), 2);
        assert!(ticks_ns(child.id(), ENDED_CHILDREN_TICKS) > 0);
        let own: u64 = CpuTime::read(&[child.id()]).unwrap().threads.values().map(|(_, ran_ns)| ran_ns).sum();
        assert!(tree_cpu_ns(child.id()).unwrap() > own);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(tree_cpu_ns(child.id()).is_err());
    }

    #[test]
    fn whoever_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (own, other) = (std::process::id(), child.id());
        assert_eq!((listens(&[own], port), listens(&[other, own], port)), (Some(true), Some(true)));
        assert_eq!((listens(&[other], port), listens(&[u32::MAX], port)), (Some(false), None));
        drop(listener);
        assert_eq!(listens(&[own], port), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn lists_and_lines_of_proc_are_read() {
        assert_eq!(cpu_list("\t0-2,5"), [0, 1, 2, 5]);
        assert_eq!(cpu_list(""), [0; 0]);
        assert_eq!(kib_line("VmHWM:  9 kB\nVmRSS:\t  12 kB\n", "VmRSS:"), 12 * 1024);
        assert_eq!(kib_line("", "VmRSS:"), 0);
    }
}
