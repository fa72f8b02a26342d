//! `load`: members sit in rooms, some of them send, everyone receives; how fast, how late, at what cost to the server,
//! and whether each member saw every message once and in its room's order.
//!
//! Closed loop: each room has a fixed number of messages outstanding; an echo lets the next one go. It finds the most
//! that a server can do. Open loop: messages leave by the clock, whether or not the server keeps up, and latency counts
//! from the time a message was due, so that a stalled server cannot hide its stall (coordinated omission).
//!
//! Connections may come and go meanwhile ([`churn`]), and members read slowly ([`slow`]); [`audit`] says what is proved of
//! them.
//!
//! [`plan`] says what a load is, [`schedule`] when messages are due, [`traffic`] what came of them, [`lateness`] how late;
//! [`sizes`] says how long texts are, [`series`] looks at the load over time and [`progress`] shows it, [`measured`] sums up a measured time; [`run()`] drives it all.

mod audit;
mod churn;
mod lateness;
mod measured;
mod plan;
mod progress;
mod run;
mod schedule;
mod series;
mod sizes;
mod slow;
mod traffic;

pub(crate) use plan::{CONNECTIONS_MAX, Pace, Plan};
pub(crate) use run::run;
pub(crate) use sizes::TextBytes;
