//! How the kernel schedules a thread: on which CPU, and how soon once it has something to do.
//!
//! A shard calls both as it begins, for its own thread. What the kernel refuses is told and harmless: the thread runs, only
//! less evenly.
#![allow(unsafe_code)]

use std::io;

/// How long a shard wants to run at a time, in nanoseconds: the least that the kernel takes.
///
/// Not a limit: alone on its CPU a thread runs on. But whoever is woken with a shorter wish than the one who runs goes first,
/// at once (EEVDF, Linux 6.12). So the writer, which shares a CPU with a shard and wishes nothing, does not keep it waiting
/// for the milliseconds of a commit. Both get the same share in the end.
const SLICE_NS: u64 = 100_000;

/// Binds the calling thread to a CPU.
pub fn pin(cpu: usize) {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cpus) {
        tracing::warn!(cpu, %error, "a shard cannot be pinned to its CPU; it runs wherever the kernel puts it");
    }
}

/// Lets the calling thread run as soon as it is woken, before others that have been running. Linux before 6.12 takes it for
/// nothing.
pub fn run_promptly() {
    let asked = attributes().and_then(|mut attributes| {
        attributes.sched_runtime = SLICE_NS;
        set(&attributes)
    });
    if let Err(error) = asked {
        tracing::debug!(%error, "a shard may have to wait for other threads of its CPU: sched_setattr is not allowed here");
    }
}

/// Those of the calling thread (sched_setattr(2)), of which only some are to change.
fn attributes() -> io::Result<libc::sched_attr> {
    // SAFETY: all of it is integers, for which zeros are valid.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::sched_attr>();
    // SAFETY: thread 0 is the caller; the kernel writes at most `size` bytes to `attributes`, which has as many.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if got == 0 { Ok(attributes) } else { Err(io::Error::last_os_error()) }
}

fn set(attributes: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: thread 0 is the caller; the kernel reads as many bytes as `attributes` says it has, which sched_getattr wrote.
    let got = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *attributes, 0) };
    if got == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_asks_for_short_turns_and_keeps_the_rest() {
        let (before, after) = std::thread::spawn(|| {
            let before = attributes().unwrap();
            run_promptly();
            (before, attributes().unwrap())
        })
        .join()
        .unwrap();
        let rest = |of: &libc::sched_attr| (of.sched_policy, of.sched_flags, of.sched_nice, of.sched_priority);
        assert_eq!(rest(&before), rest(&after));
        // An older kernel tells of none.
        assert!([SLICE_NS, 0].contains(&after.sched_runtime), "{} ns", after.sched_runtime);
    }
}
