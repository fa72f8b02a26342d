//! What the integration tests stand on, shared by their binaries; each uses a part of it.

#![allow(dead_code, unreachable_pub)]

pub mod postgres;
