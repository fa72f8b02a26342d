//! `ringroom token`: create, revoke. The one place where a token is printed because somebody asked for it.

use clap::Subcommand;
use serde_json::json;

use super::{Asked, answer};
use crate::failure::Failure;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print a user's token, which is made if there is none: a user has one
    #[command(after_help = "Examples:\n  ringroom token create ann\n  TOKEN=$(ringroom token create ann)")]
    Create {
        /// The user's name
        user: String,
        #[command(flatten)]
        asked: Asked,
    },
    /// Delete a user's token: nobody can connect with it any more
    Revoke {
        /// The user's name
        user: String,
        #[command(flatten)]
        asked: Asked,
    },
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Command::Create { user, asked } => create(&user, asked),
            Command::Revoke { user, asked } => revoke(&user, asked),
        }
    }
}

fn create(user: &str, asked: Asked) -> Result<(), Failure> {
    let json = asked.json;
    let (token, created) = asked.with_admin(async |admin| admin.create_token(user).await)?;
    let key = token.expose();
    answer(json, json!({ "username": user, "token": key, "created": created }), || key.into())
}

fn revoke(user: &str, asked: Asked) -> Result<(), Failure> {
    let json = asked.json;
    let revoked = asked.with_admin(async |admin| admin.revoke_token(user).await)?;
    answer(json, json!({ "username": user, "revoked": revoked }), || match revoked {
        true => format!("the token of {user} is deleted; within `auth_cache_seconds` every server knows"),
        false => format!("{user} had no token"),
    })
}
