//! What the integration tests stand on, shared by their binaries; each uses a part of it.

#![allow(dead_code, unreachable_pub)]

pub mod client;
pub mod hold;
pub mod load;
pub mod place;
pub mod postgres;
pub mod server;

use std::{env, time::Duration};

use rand::{SeedableRng, rngs::StdRng};

/// No wait for anything that must come is longer than this, on the busiest machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A generator whose seed is printed; `TEST_SEED` gives the same again.
pub fn random() -> StdRng {
    let seed = env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
