//! `ringroom room`: create, list, add and remove members. A room is named by its id or by what people call it.

use clap::Subcommand;
use serde_json::json;

use super::{Asked, answer};
use crate::{failure::Failure, identity::RoomId};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a room; prints the id
    #[command(after_help = "Examples:\n  ringroom room create general\n  ROOM=$(ringroom room create general)")]
    Create {
        /// What people call it
        name: String,
        /// The room's id instead of a new one
        #[arg(long, value_name = "UUID")]
        id: Option<RoomId>,
        #[command(flatten)]
        asked: Asked,
    },
    /// List all rooms: id, number of members, name
    List(Asked),
    /// Make users members of a room: all of them, or none if one does not exist
    #[command(after_help = "Examples:\n  ringroom room add general ann bob")]
    Add(Members),
    /// End users' membership of a room
    #[command(after_help = "Examples:\n  ringroom room remove general bob")]
    Remove(Members),
}

#[derive(clap::Args)]
pub(super) struct Members {
    /// The room's id or name
    room: String,
    /// The users' names
    #[arg(required = true, value_name = "USER")]
    users: Vec<String>,
    #[command(flatten)]
    asked: Asked,
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Command::Create { name, id, asked } => create(&name, id, asked),
            Command::List(asked) => list(asked),
            Command::Add(members) => add(members),
            Command::Remove(members) => remove(members),
        }
    }
}

fn create(name: &str, id: Option<RoomId>, asked: Asked) -> Result<(), Failure> {
    let json = asked.json;
    let id = asked.with_admin(async |admin| admin.create_room(name, id).await)?;
    answer(json, json!({ "id": id, "name": name }), || id.to_string())
}

fn list(asked: Asked) -> Result<(), Failure> {
    let json = asked.json;
    let rooms = asked.with_admin(async |admin| admin.list_rooms().await)?;
    let objects = rooms.iter().map(|(id, name, members)| json!({ "id": id, "name": name, "members": members }));
    answer(json, objects.collect::<Vec<_>>(), || {
        let lines = rooms.iter().map(|(id, name, members)| format!("{id}  {members:>7}  {name}"));
        lines.collect::<Vec<_>>().join("\n")
    })
}

fn add(Members { room, users, asked }: Members) -> Result<(), Failure> {
    let (json, users) = (asked.json, users.iter().map(String::as_str).collect::<Vec<_>>());
    let (id, added) = asked.with_admin(async |admin| {
        let id = admin.find_room(&room).await?;
        Ok((id, admin.add_members(id, &users).await?))
    })?;
    answer(json, json!({ "room": id, "added": added }), || match users.len() as u64 - added {
        0 => format!("added {added} to {room}"),
        already => format!("added {added} to {room}; {already} already there"),
    })
}

fn remove(Members { room, users, asked }: Members) -> Result<(), Failure> {
    let (json, users) = (asked.json, users.iter().map(String::as_str).collect::<Vec<_>>());
    let (id, removed) = asked.with_admin(async |admin| {
        let id = admin.find_room(&room).await?;
        Ok((id, admin.remove_members(id, &users).await?))
    })?;
    answer(json, json!({ "room": id, "removed": removed }), || {
        format!("removed {removed} from {room}; within `auth_cache_seconds` every server knows")
    })
}
