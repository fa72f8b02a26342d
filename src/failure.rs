//! Why a command ends early: one message for the operator and the exit code that goes with it.
//!
//! Made at start-up and by the command line, never on a message's path. It carries no secret: whoever makes one masks
//! what it quotes.

use std::fmt;

/// The end of a command: what happened, the likely cause, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
    exit_code: u8,
}

impl Failure {
    /// ringroom cannot start as asked: a bad command line or configuration, a database out of reach, a kernel that
    /// cannot, a port that is taken. Exit code 2; trying again without a change is useless.
    pub fn unusable(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit_code: 2 }
    }

    /// It started and something failed on the way. Exit code 1.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit_code: 1 }
    }

    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
