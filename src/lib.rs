//! ringroom: a chat server for Linux on io_uring. This page is the map of its source.
//!
//! ```text
//!             accept -> request head -> room's shard -> auth -> 101 -> frames -> JSON -> room log -> send
//!  clients ==> [ shard 0 | core 0 ]   <-- crossbeam-channel: sockets, replicas -->     [ shard N | core N ]
//!                  |   ^                                                                    |   ^
//!          journal |   | held                                                     questions |   | answers
//!                  v   |                                                                    v   |
//!             [ writer thread ] --in bulk--> Postgres | SQLite <--in bulk-- [ control thread: look-ups, HTTP, signals ]
//! ```
//!
//! # Who owns what
//!
//! | thread | owns | never |
//! | --- | --- | --- |
//! | shard, one a core | its listener, ring, connections, rooms and their logs, its journal's files | takes a lock, blocks but for a copy into the page cache, talks to the database |
//! | writer | the database connection that writes; what it has read of the journals and not saved; the dead letters | speaks to clients |
//! | control | the one that reads; the cache of look-ups; HTTP; signals | is on a message's path |
//!
//! # A message meets, in this order
//!
//! [`shard::ring`] its bytes arrive in a buffer of the pool · [`shard::conn`] whose connection it is · [`ws::frame`] unmasked
//! where it lies · [`shard::chat`] · [`protocol::input`] parsed in place, checked · [`stamp`] its id and time ·
//! [`protocol::output`] written once, as a finished frame, into its room's open batch · [`journal`] a turn's messages of all
//! rooms in one write, held after one sync ([`shard::journal`] carries it out) · [`shard::chat`] again · [`shard::room`] the
//! batch enters the room's log · [`shard::ring`] one send for each member that is not sending already. Meanwhile the
//! [`writer`] reads it back, and commits it with those of other shards · [`store`].
//!
//! A room that has `spill_members` on its shard seats further ones on others: its home is as told above, and the others have a
//! [`shard::replica`] of its log. What a member says there is passed on to the home, and each batch from there to them, in one
//! parcel a turn.
//!
//! Before that, a connection met [`shard::accept`], [`ws::handshake`], [`protocol::connect`], [`topology`] (which shard its room
//! lives on) and [`auth`]; or, if it wanted a page, [`http`], and [`history`] if a room's past. At the end it meets [`close`].
//!
//! Around them: [`cli`] and [`config`] before [`server`] starts the threads, [`preflight`] to find out whether it can,
//! [`failure`] when it cannot; [`identity`], [`limits`], [`memory`], [`metrics`], [`scheduling`].
//!
//! # What always holds
//!
//! - **Held, then broadcast.** No frame of a message enters a room's log before what `durability` asks for holds: by default,
//!   that the journal with it is on the disk (`Chat::settle`; `tests/crash.rs`, `tests/journal_files.rs`).
//! - **Broadcast, then saved, once.** What is held is in the database in the end, or among the [`dead_letters`]; the journal
//!   forgets it not before. To insert it again does no harm.
//! - **One order.** A room has one home shard, which stamps rising ids and times and keeps one log; the writer saves what a
//!   shard holds in the order in which it came (`tests/order.rs`).
//! - **No gap.** A connection is a cursor into that log, or into a replica that gets all of it in the same order, from the
//!   turn of its greeting on ([`shard::room`], `tests/spill.rs`).
//! - **A shard takes no lock.** What crosses threads goes through [`shard::mailbox`]; counts that others read are in
//!   [`metrics`], [`shard::occupancy`] and [`shard::replica`].
//! - **Nothing is lost silently.** A full mailbox, a refused row, a closed member: each is counted, and whoever waited is told.
//! - **A buffer belongs to the kernel** until its operation completes; a connection's slot lives until both of its operations have
//!   come back ([`shard::conn`]).
//! - **Everything is bounded**, in [`limits`] or [`config`].
//! - **Every end is in one table**: [`close`].
//!
//! # What is deliberately absent
//!
//! [`ws`] and [`protocol`] do no I/O and read no clock. Nothing but [`store`] knows SQL. Only [`shard::ring`], [`memory`] and
//! [`scheduling`] hold `unsafe` code. There is no task and no timer for a connection, and no queue for a member.

pub mod auth;
pub mod cli;
pub mod close;
pub mod config;
pub mod dead_letters;
pub mod failure;
pub mod history;
pub mod http;
pub mod identity;
pub mod journal;
pub mod limits;
pub mod memory;
pub mod metrics;
pub mod preflight;
pub mod protocol;
pub mod scheduling;
pub mod server;
pub mod shard;
pub mod stamp;
pub mod store;
pub mod topology;
pub mod writer;
pub mod ws;
