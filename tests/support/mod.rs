//! What the integration tests stand on, shared by their binaries; each uses a part of it.

#![allow(dead_code, unreachable_pub)]

pub mod client;
pub mod disk;
pub mod hold;
pub mod ledger;
pub mod load;
pub mod place;
pub mod postgres;
pub mod server;
pub mod stall;

use std::{env, time::Duration};

use rand::{SeedableRng, rngs::StdRng};

/// No wait for anything that must come is longer than this, on the busiest machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A generator whose seed is printed; `RINGROOM_TEST_SEED` gives the same again.
pub fn random() -> StdRng {
    let seed = seed();
    println!("RINGROOM_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// The seed that `RINGROOM_TEST_SEED` gives, or else any.
pub fn seed() -> u64 {
    number("RINGROOM_TEST_SEED").unwrap_or_else(rand::random)
}

/// The number that a variable of the environment holds, if there is one.
pub fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}
