//! `ringroom user`: create, list, deactivate.

use clap::Subcommand;
use serde_json::json;

use super::{Asked, answer};
use crate::{failure::Failure, identity::UserId};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a user; prints the id
    #[command(after_help = "Examples:\n  ringroom user create ann\n  ringroom user create ann --id \
        6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a --json")]
    Create {
        /// The name that other members see; nobody else may have it
        name: String,
        /// The user's id, a UUID or a whole number as the database has it, instead of a new one
        #[arg(long)]
        id: Option<UserId>,
        #[command(flatten)]
        asked: Asked,
    },
    /// List all users: id, name, and whether they may connect
    List(Asked),
    /// Forbid a user to connect; what they wrote stays
    Deactivate {
        /// The user's name
        name: String,
        #[command(flatten)]
        asked: Asked,
    },
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Command::Create { name, id, asked } => create(&name, id, asked),
            Command::List(asked) => list(asked),
            Command::Deactivate { name, asked } => deactivate(&name, asked),
        }
    }
}

fn create(name: &str, id: Option<UserId>, asked: Asked) -> Result<(), Failure> {
    let json = asked.json;
    let user = asked.with_admin(async |admin| admin.create_user(name, id).await)?;
    let id = user.id.to_string();
    answer(json, json!({ "id": id, "username": user.username }), || id.clone())
}

fn list(asked: Asked) -> Result<(), Failure> {
    let json = asked.json;
    let users = asked.with_admin(async |admin| admin.list_users().await)?;
    let object = |(user, active): &(crate::identity::User, bool)| json!({ "id": user.id.to_string(), "username": user.username, "active": active });
    let objects: Vec<_> = users.iter().map(object).collect();
    answer(json, objects, || {
        let line = |(user, active): &(crate::identity::User, bool)| {
            format!("{}  {}{}", user.id, user.username, if *active { "" } else { "  (not active)" })
        };
        users.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

fn deactivate(name: &str, asked: Asked) -> Result<(), Failure> {
    let json = asked.json;
    asked.with_admin(async |admin| admin.deactivate_user(name).await)?;
    answer(json, json!({ "username": name, "active": false }), || {
        format!("{name} may not connect any more; within `auth_cache_seconds` every server knows")
    })
}
