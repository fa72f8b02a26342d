//! `ringroom demo`: a chat to try within seconds, in an embedded database of its own.
//!
//! The first start furnishes the database; later ones take what is there. Prints how to get in, tokens included: they
//! open nothing but this database.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    admin::block_on,
    print,
    serve::{checked, prepare_machine},
    settings::{ForDemo, Settings},
    start_log,
};
use crate::{
    failure::Failure,
    identity::{RoomId, Token},
    server,
    store::{Admin, Database, StoreError},
};

pub(super) const NOTES: &str = "\
Examples:
  ringroom demo
  ringroom demo --listen 127.0.0.1:0 --data-dir /tmp/chat

On the first start the room `lobby` and the users `alice` and `bob` are made; later starts keep them, their tokens and
all messages. The database is always DIR/ringroom.db of --data-dir DIR, whatever DATABASE_URL says. To begin anew,
remove the directory.";

const ROOM: &str = "lobby";
const USERS: [&str; 2] = ["alice", "bob"];

pub(super) fn run(settings: Settings<ForDemo>) -> Result<(), Failure> {
    let mut typed = settings.gather()?;
    typed.forget("database_url");
    let mut config = checked(&typed)?;
    start_log(&config);
    prepare_machine(&mut config)?;
    let (room, tokens) = block_on(furnish(&config.database))?;
    let data_dir = config.data_dir.display().to_string();
    server::run(config, move |address| {
        // Nobody reads it any more: that is no reason to end the server.
        let _ = print(&invitation(address, &data_dir, room, &tokens));
    })
}

/// The room, and the users' tokens in the order of [`USERS`]. Makes what is missing and changes nothing that is there: a
/// member whom somebody has removed stays removed.
async fn furnish(database: &Database) -> Result<(RoomId, Vec<Token>), StoreError> {
    let mut admin = Admin::create(database).await?;
    admin.migrate().await?;
    let known = admin.list_users().await?;
    let is_new = |name: &&str| known.iter().all(|(user, _)| *user.username != **name);
    let mut members: Vec<&str> = USERS.into_iter().filter(is_new).collect();
    for name in &members {
        admin.create_user(name, None).await?;
    }
    let room = match admin.list_rooms().await?.into_iter().find(|(_, name, _)| name == ROOM) {
        Some((room, ..)) => room,
        None => {
            members = USERS.to_vec();
            admin.create_room(ROOM, None).await?
        }
    };
    admin.add_members(room, &members).await?;
    let mut tokens = Vec::new();
    for name in USERS {
        tokens.push(admin.create_token(name).await?.0);
    }
    Ok((room, tokens))
}

/// How to get in. The token of the page is in the fragment, which a browser sends to no server. The addresses for a
/// shell stand in single quotes, for `?` is a pattern there.
fn invitation(address: SocketAddr, data_dir: &str, room: RoomId, tokens: &[Token]) -> String {
    let place = reachable(address);
    let pages = USERS
        .iter()
        .zip(tokens)
        .map(|(user, token)| format!("  {user:5}  http://{place}/#room={room}&token={}\n", token.expose()));
    let socket = |token: &Token| format!("ws://{place}/ws/chat/{room}/?token={}", token.expose());
    let (alice, bob) = (socket(&tokens[0]), socket(&tokens[1]));
    let hello = r#"{"type":"chat_message","message":"hello"}"#;
    format!(
        "\
ringroom is listening on http://{address}, its database is in {data_dir}

Open a page for each of the two:

{}
Or paste into the JavaScript console of one of these pages:

  ws = new WebSocket(\"{bob}\"); ws.onmessage = event => console.log(event.data); \
         ws.onopen = () => ws.send('{hello}')

Or into a shell, one of:

  websocat '{alice}'
  wscat --connect '{alice}'

and then type:

  {hello}

Ctrl-C ends it; the next start keeps the room, the users and the messages.",
        pages.collect::<String>()
    )
}

/// The address for a client on this machine: one that listens everywhere is reached by the loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_listens_everywhere_is_reached_by_the_loopback() {
        for (bound, reached) in
            [("0.0.0.0:8000", "127.0.0.1:8000"), ("[::]:8000", "[::1]:8000"), ("10.1.2.3:80", "10.1.2.3:80")]
        {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), reached);
        }
    }
}
