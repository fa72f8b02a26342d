//! One thread of a server held still while the others run on, as on a core that something else has taken.

use std::{fs, marker::PhantomData};

use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use super::server::Server;

/// A thread of a server that stands still, wherever it was, until this is dropped.
pub struct Stalled {
    thread: Pid,
    /// Only the thread that began this can end it (ptrace(2)); if that ends first, the kernel lets go of the other.
    _here: PhantomData<*const ()>,
}

impl Stalled {
    /// The thread of this name, such as `shard-1`.
    pub fn thread(server: &Server, name: &str) -> Stalled {
        let thread = thread_of(server, name).unwrap_or_else(|| panic!("the server has no thread {name}"));
        Stalled::hold(thread)
    }

    /// The thread that runs `main`, which is the control thread.
    pub fn control(server: &Server) -> Stalled {
        Stalled::hold(Pid::from_raw(server.pid().as_raw_nonzero().get()))
    }

    /// The server has a thread of this name yet.
    pub fn has_thread(server: &Server, name: &str) -> bool {
        thread_of(server, name).is_some()
    }

    fn hold(thread: Pid) -> Stalled {
        ptrace::seize(thread, ptrace::Options::empty()).expect("a child may be traced (kernel.yama.ptrace_scope)");
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Stalled { thread, _here: PhantomData }
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.thread, None);
    }
}

fn thread_of(server: &Server, name: &str) -> Option<Pid> {
    let threads = fs::read_dir(server.proc("task")).unwrap().flatten();
    let mut named = threads
        .filter(|thread| fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name));
    Some(Pid::from_raw(named.next()?.file_name().to_str()?.parse().ok()?))
}
