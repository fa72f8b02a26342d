//! Can this machine run ringroom? Asked once on the main thread before any other starts; the answer is nothing, or what
//! is missing and the setting that mends it.
//!
//! It tries rather than looks: a ring is really built, the port really bound. [`explain`] and [`Capacity::of`], which
//! word the answers, are pure.

use std::{
    fs,
    io::{Error, ErrorKind},
    net::{SocketAddr, TcpListener},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    failure::Failure,
    limits::{OPEN_FILES_PER_SHARD, OPEN_FILES_RESERVED, OPEN_FILES_TO_REFUSE_PER_SHARD, RING_ENTRIES},
    shard,
};

/// The oldest kernel that will do: rings that one thread alone submits to (`IORING_SETUP_SINGLE_ISSUER`) came with it.
pub const KERNEL_MIN: (u32, u32) = (6, 0);

/// Builds and drops a ring of the kind that every shard has.
pub fn kernel() -> Result<(), Failure> {
    let built = shard::ring_builder().build(RING_ENTRIES);
    let Err(error) = built else { return Ok(()) };
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Err(Failure::unusable(explain(&error, disabled.as_deref().map(str::trim), release.trim())))
}

/// Why the kernel refused a ring, and what to set, from its error, the sysctl `kernel.io_uring_disabled` (kernels before
/// 6.6 have none) and its release.
pub fn explain(error: &Error, disabled: Option<&str>, release: &str) -> String {
    let (major, minor) = KERNEL_MIN;
    if kernel_version(release).is_some_and(|version| version < KERNEL_MIN) {
        return format!("the kernel is too old: ringroom needs Linux {major}.{minor} or later, and this is {release}");
    }
    let cause = match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM), Some("2")) => {
            "io_uring is disabled on this machine: set `sysctl -w kernel.io_uring_disabled=0`".into()
        }
        (Some(libc::EPERM), Some("1")) => "io_uring is reserved to one group of users on this machine: set `sysctl -w \
             kernel.io_uring_disabled=0`, or run ringroom as a user of the group that `sysctl kernel.io_uring_group` names"
            .into(),
        (Some(libc::EPERM | libc::EACCES), _) => "io_uring is forbidden to this process, most likely by a container's \
             seccomp profile: allow io_uring_setup, io_uring_enter and io_uring_register in the profile, or start the \
             container with `--security-opt seccomp=unconfined`"
            .into(),
        (Some(libc::ENOSYS), _) => format!(
            "the kernel has no io_uring: it was built without CONFIG_IO_URING, or a sandbox hides it; ringroom needs \
             Linux {major}.{minor} or later with it"
        ),
        (Some(libc::EINVAL), _) => format!(
            "the kernel does not know the kind of io_uring that ringroom uses: Linux {major}.{minor} or later is needed"
        ),
        (Some(libc::ENOMEM), _) => "no memory may be locked for an io_uring: raise the limit with `ulimit -l unlimited` \
             (systemd: LimitMEMLOCK=infinity, Docker: --ulimit memlock=-1), or the container's memory limit"
            .into(),
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            "no file can be opened any more: raise the limit with `ulimit -n` (systemd: LimitNOFILE=)".into()
        }
        _ => "the kernel refused an io_uring".into(),
    };
    format!("{cause} (io_uring_setup: {error}; Linux {release})")
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// How many connections the limit of open files leaves room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Connections to take: as many as asked for, or as many as there is room for.
    pub connections: usize,
    /// Sockets that there is room for: further ones are to be turned away.
    pub sockets: usize,
    /// A text for the operator when that is less than asked for.
    pub shortfall: Option<String>,
}

impl Capacity {
    /// Raises the soft limit of open files to the hard one and sees how far it goes.
    pub fn reserve(connections_max: usize, shards: usize) -> Result<Capacity, Failure> {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        // A limit that does not exist is unlimited; one that cannot be raised stays what it was.
        let limit = if raised.is_ok() { maximum } else { current }.unwrap_or(u64::MAX);
        let others = OPEN_FILES_RESERVED + OPEN_FILES_PER_SHARD * shards as u64;
        Capacity::of(limit, others, OPEN_FILES_TO_REFUSE_PER_SHARD * shards as u64, connections_max)
    }

    /// What a limit of so many open files means when so many are needed for other things, and `refused` to turn clients away.
    fn of(limit: u64, others: u64, refused: u64, connections_max: usize) -> Result<Capacity, Failure> {
        let mend = |wanted: u64| {
            format!(
                "raise the hard limit with `ulimit -Hn {wanted}` (systemd: LimitNOFILE={wanted}, Docker: --ulimit nofile={wanted})"
            )
        };
        let sockets = limit.saturating_sub(others);
        let room = usize::try_from(sockets - refused.min(sockets / 4)).unwrap_or(usize::MAX);
        if room == 0 {
            let message = format!("a limit of {limit} open files leaves none for connections: {}", mend(65_536));
            return Err(Failure::unusable(message));
        }
        let shortfall = (room < connections_max).then(|| {
            let wanted = connections_max as u64 + others + refused;
            format!(
                "a limit of {limit} open files leaves room for {room} connections, not {connections_max}: {}",
                mend(wanted)
            )
        });
        let sockets = usize::try_from(sockets).unwrap_or(usize::MAX);
        Ok(Capacity { connections: room.min(connections_max), sockets, shortfall })
    }
}

/// Binds the address alone for a moment. The shards' own listeners share a port with each other (`SO_REUSEPORT`), so
/// they would share it with another ringroom of the same user as well, each getting half of the connections.
pub fn address(listen: SocketAddr) -> Result<(), Failure> {
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::unusable(unbindable(listen, &error))),
    }
}

fn unbindable(listen: SocketAddr, error: &Error) -> String {
    let port = listen.port();
    match error.kind() {
        ErrorKind::AddrInUse => format!(
            "port {port} is taken: another program, perhaps another ringroom, listens on {listen}; end it, or choose \
             another address with `--listen {}`",
            SocketAddr::new(listen.ip(), 0)
        ),
        ErrorKind::AddrNotAvailable => {
            format!("cannot listen on {listen}: no network interface has the address {}; see `ip address`", listen.ip())
        }
        ErrorKind::PermissionDenied => format!(
            "cannot listen on {listen}: ports below 1024 need a permission (CAP_NET_BIND_SERVICE); choose another with \
             `--listen`"
        ),
        _ => format!("cannot listen on {listen}: {error}; choose another address with `--listen`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_ring_is_explained_with_the_setting_that_mends_it() {
        for (errno, disabled, release, words) in [
            (libc::EPERM, Some("2"), "6.8.0-45-generic", "kernel.io_uring_disabled=0"),
            (libc::EPERM, Some("1"), "6.8.0", "kernel.io_uring_group"),
            (libc::EPERM, Some("0"), "6.8.0", "seccomp"),
            (libc::EPERM, None, "6.1.0-18-amd64", "seccomp"),
            (libc::ENOSYS, None, "6.1.0", "CONFIG_IO_URING"),
            (libc::ENOSYS, None, "4.19.0", "too old: ringroom needs Linux 6.0 or later, and this is 4.19.0"),
            (libc::EINVAL, None, "5.15.0-100-generic", "too old"),
            (libc::EINVAL, None, "what", "6.0 or later"),
            (libc::ENOMEM, Some("0"), "6.1.0", "ulimit -l"),
            (libc::EMFILE, Some("0"), "6.1.0", "ulimit -n"),
            (libc::EIO, Some("0"), "6.1.0", "refused an io_uring"),
        ] {
            let text = explain(&Error::from_raw_os_error(errno), disabled, release);
            assert!(text.contains(words), "{errno} {disabled:?} {release}: {text}");
        }
    }

    #[test]
    fn releases_of_all_shapes_are_read() {
        for (release, version) in [
            ("6.0.0", Some((6, 0))),
            ("5.15.0-100-generic", Some((5, 15))),
            ("6.1-rc3", Some((6, 1))),
            ("10.2", Some((10, 2))),
            ("", None),
            ("rolling", None),
        ] {
            assert_eq!(kernel_version(release), version, "{release:?}");
        }
    }

    #[test]
    fn open_files_bound_the_connections() {
        for (limit, wanted, connections, sockets, short) in [
            (1100, 1000, 1000, 1020, false),
            (1099, 1000, 999, 1019, true),
            (u64::MAX, 1_000_000, 1_000_000, usize::MAX - 80, false),
            // Where there are few, few are set aside.
            (100, 1000, 15, 20, true),
            (81, 1000, 1, 1, true),
        ] {
            let capacity = Capacity::of(limit, 80, 20, wanted).unwrap();
            assert_eq!((capacity.connections, capacity.sockets), (connections, sockets), "{limit} {wanted}");
            assert_eq!(capacity.shortfall.is_some(), short, "{limit} {wanted}");
        }
        assert!(Capacity::of(80, 80, 20, 1).unwrap_err().to_string().contains("ulimit -Hn"));
    }

    #[test]
    fn the_soft_limit_of_open_files_is_raised_to_the_hard_one() {
        Capacity::reserve(1, 1).unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
    }

    #[test]
    fn a_taken_port_is_named_with_the_flag_that_mends_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap();
        let failure = address(listen).unwrap_err();
        let text = failure.to_string();
        assert!(text.contains(&format!("port {} is taken", listen.port())) && text.contains("--listen"), "{text}");
        assert_eq!(failure.exit_code(), 2);
        drop(listener);
        address(listen).unwrap();
    }

    #[test]
    fn a_port_that_shards_of_another_server_share_counts_as_taken() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(1).unwrap();
        assert!(address(socket.local_addr().unwrap().as_socket().unwrap()).is_err());
    }
}
