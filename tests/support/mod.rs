//! What the integration tests stand on, shared by their binaries; each uses a part of it.

#![allow(dead_code, unreachable_pub)]

pub mod client;
pub mod load;
pub mod place;
pub mod postgres;
pub mod server;

use std::time::Duration;

/// No wait for anything that must come is longer than this, on the busiest machine.
pub const DEADLINE: Duration = Duration::from_secs(20);
