//! ringroom: a chat server for Linux on io_uring.

pub mod auth;
pub mod cli;
pub mod close;
pub mod config;
pub mod failure;
pub mod http;
pub mod identity;
pub mod limits;
pub mod memory;
pub mod metrics;
pub mod preflight;
pub mod protocol;
pub mod server;
pub mod shard;
pub mod stamp;
pub mod store;
pub mod topology;
pub mod writer;
pub mod ws;
