//! `ringroom-perf`: drives a chat server harder than it can be driven by its clients, from one thread.
//!
//! ```text
//! fixtures.rs  who may sit in which room            (a file written by `ringroom seed`)
//!      |
//! fleet.rs     one epoll, every connection          reads 64 KiB at a time, scans frames, answers pings
//!      |  text frames                               frame.rs (RFC 6455), handshake.rs (the upgrade)
//!      v
//! load/        who sends when, what came back       message.rs (our text), field.rs (theirs), sequence.rs (order)
//! connections.rs or nobody sends: what each costs; storm.rs: all are dropped, and come back at once
//!      |
//! report.rs    text for a person, JSON for a program, hgrm.rs for a plotter, html/ a page; out.rs where it goes
//! process.rs   the server's CPU and memory, from /proc
//! provenance.rs what a reader must know of command, program and machine
//!
//! server.rs    the server as a child process: started on a CPU, awaited, ended; and a database filled for it
//! belongings.rs what must not be left behind, whatever ends this process
//! floor/       without a server: what this machine can do at best; floor/ring.rs alone holds `unsafe` code
//! median.rs    rounds as one figure
//! knee.rs      where latency begins to climb with the rate
//! compare/     ringroom and its peers, in turns, each started here
//! capacity/    what a unit of work costs here, and what a load therefore needs
//! persist.rs   without a server: how fast its writer fills a database, beside the ways of ways.rs
//! ```
//!
//! Nothing on the path of a delivery allocates: the server must be the slower side, or its figures are ours.

mod belongings;
mod capacity;
mod cli;
mod compare;
mod connections;
mod field;
mod fixtures;
mod fleet;
mod floor;
mod frame;
mod handshake;
mod hgrm;
mod html;
mod knee;
mod load;
mod median;
mod message;
mod out;
mod persist;
// The private server of ringroom's own tests.
#[cfg(test)]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "made for more tests than are here")]
#[path = "../../tests/support/postgres.rs"]
mod postgres;
mod process;
mod provenance;
mod report;
mod sequence;
mod server;
#[cfg(test)]
mod stand_in;
mod storm;
mod url;
mod ways;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
