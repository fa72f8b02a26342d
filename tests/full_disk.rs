//! The embedded database's disk is full: senders are told, nobody is shown a message that is not in the table, and once
//! there is room again all goes on by itself.
//!
//! A limit on the size of the server's files stands for the disk: it needs no rights, and SQLite meets it at the same
//! writes.

#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Resource, Rlimit, prlimit};
use support::{
    load::{Load, check_settled},
    place::Place,
    server::{Ended, Server},
};

/// Files of at most 1 MiB, which the write-ahead log soon is; and no signal at the limit, for a disk sends none.
const SMALL_DISK: &str = "trap '' XFSZ; ulimit -S -f 1024";

#[test]
fn a_full_disk_costs_no_message_that_anyone_was_shown() {
    let mut place = Place::sqlite();
    let rooms = place.seed(2, 3);
    let server = Server::start_after(SMALL_DISK, &place, &["--durability", "commit", "--save-timeout-seconds", "1"]);
    let load = Load::start(&server, &rooms, 2, 0);
    load.wait_for(10);
    load.wait_for_refusals(20);
    // Everybody hears what became of their messages while the disk is as full as it was.
    let mut accounts = load.settle();
    check_settled(&accounts, |room| place.saved(room));

    prlimit(Some(server.pid()), Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    let load = Load::start(&server, &rooms, 2, 1);
    load.wait_for(100);
    for (account, later) in accounts.iter_mut().zip(load.settle()) {
        account.join(later);
    }
    check_settled(&accounts, |room| place.saved(room));

    let Ended { log, .. } = server.stop();
    // A small transaction may find room where a larger one did not, so it may be away more than once.
    let lines = ["the database is away", "the database is back"].map(|words| log.matches(words).count());
    assert!(lines[0] > 0 && lines[0] == lines[1], "{log}");
}
