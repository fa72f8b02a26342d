//! Everyone comes back at once: thousands of connections in one breath, each let in, with a handful of queries for all of
//! them together.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use ringroom::{identity::RoomId, store::SeededRoom};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{
    client::{FIN, Raw, TEXT, chat_message, frame, upgrade},
    place::Place,
    server::Server,
};

/// One large room and many small ones.
const LARGE: u32 = 1000;
const SMALL: (u32, u32) = (100, 40);
const ALL: usize = 5000;

/// Open files for both ends' worth of this test's sockets.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let room = maximum.is_none_or(|limit| limit >= ALL as u64 + 500);
    assert!(room, "this test needs more open files: raise the hard limit with `ulimit -Hn 8192`");
}

/// A client that says all it has to say at once and reads later, so that one thread can be thousands of them.
struct Guest {
    raw: Raw,
    room: RoomId,
}

/// Everyone connects, then everyone asks to be let in, then everyone's greeting is read.
fn rush(server: &Server, rooms: &[SeededRoom]) -> Vec<Guest> {
    let asking = rooms.iter().flat_map(|room| room.users.iter().map(|user| (room.room, &user.token)));
    let requests = asking.map(|(room, token)| (room, upgrade(&format!("/ws/chat/{room}/?token={token}"))));
    let (rooms, requests): (Vec<RoomId>, Vec<String>) = requests.unzip();
    assert_eq!(requests.len(), ALL);
    let mut guests: Vec<Guest> = rooms.into_iter().map(|room| Guest { raw: Raw::open(server.address), room }).collect();
    guests.iter_mut().zip(requests).for_each(|(guest, request)| guest.raw.send(request));
    guests.iter_mut().for_each(|guest| guest.raw.greeted());
    guests
}

/// The first member of each room says something, and every member hears it.
fn check_everyone_hears(guests: &mut [Guest], rooms: &[SeededRoom], text: &str) {
    for room in rooms {
        let speaker = guests.iter_mut().find(|guest| guest.room == room.room).unwrap();
        speaker.raw.send(frame(FIN | TEXT, chat_message(&format!("{text} {}", room.room))));
    }
    for guest in guests {
        let heard = guest.raw.frame();
        assert!(heard.text().contains(&format!(r#""message":"{text} {}""#, guest.room)), "{heard:?}");
    }
}

#[test]
fn thousands_come_at_once_and_come_back_with_few_queries() {
    raise_open_files();
    for mut place in Place::everywhere("a storm of connections").into_iter().take(2) {
        let mut rooms = place.seed(1, LARGE);
        rooms.extend(place.seed(SMALL.0, SMALL.1));
        // Nothing is remembered: every connection needs an answer of the database's own.
        let server = Server::start(&place, &["--auth-cache-seconds", "0", "--drain-seconds", "1"]);
        let began = Instant::now();
        let mut guests = rush(&server, &rooms);
        check_everyone_hears(&mut guests, &rooms, "first");
        let first = began.elapsed();

        // They all lose their connection in the same moment, as behind a proxy that restarts, and come back.
        drop(guests);
        let began = Instant::now();
        let mut guests = rush(&server, &rooms);
        check_everyone_hears(&mut guests, &rooms, "second");
        let second = began.elapsed();
        drop(guests);

        let ended = server.stop();
        assert_eq!(ended.counter("opened"), 2 * ALL as u64, "{}", ended.log);
        assert_eq!((ended.counter("refused"), ended.counter("queries_failed")), (0, 0), "{}", ended.log);
        assert_eq!(ended.counter("deliveries"), 2 * ALL as u64, "{}", ended.log);
        // Two for each connection would be twenty thousand.
        assert!(ended.counter("queries") < 2000, "{}", ended.log);
        assert!(first.max(second) < Duration::from_secs(15), "{first:?}, {second:?}");
    }
}
