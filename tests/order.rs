//! One order for everyone: many senders at once, rooms on every shard, members that the kernel hands to the wrong one, members
//! that come in the middle, and rooms that spill over to all shards. Each message arrives exactly once, in the same place for
//! all, and is in the table.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use ringroom::{identity::RoomId, store::SeededRoom, topology::Topology};
use support::{
    DEADLINE,
    client::Client,
    place::Place,
    server::{Ended, Server},
};

const SHARDS: usize = 4;
const MEMBERS: usize = 50;
const SENDERS: usize = 20;
/// Messages of each sender.
const MESSAGES: usize = 15;
/// The last messages of each sender are only said once the late members are there.
const HELD_BACK: usize = 5;
const LATE: usize = 10;

/// A room's members, each with a connection, and how many messages every sender has begun to send.
struct Stage<'a> {
    server: &'a Server,
    room: &'a SeededRoom,
    members: Vec<Client>,
    said: Vec<AtomicUsize>,
    /// A member has heard something.
    has_begun: AtomicBool,
    latecomers: AtomicUsize,
}

/// What somebody who came late heard, and how much everybody had begun to say when the greeting had been read.
struct Late {
    heard: Vec<String>,
    said: Vec<usize>,
}

fn text(sender: usize, nth: usize) -> String {
    format!("{sender}/{nth}")
}

impl<'a> Stage<'a> {
    fn new(server: &'a Server, room: &'a SeededRoom) -> Stage<'a> {
        let members = room.users.iter().map(|user| Client::join(server.address, room.room, &user.token)).collect();
        let said = (0..SENDERS).map(|_| AtomicUsize::new(0)).collect();
        Stage { server, room, members, said, has_begun: AtomicBool::new(false), latecomers: AtomicUsize::new(0) }
    }

    /// Everybody sends and everybody listens. What each member heard, and each of those who came late.
    fn play(mut self) -> (Vec<Vec<String>>, Vec<Late>) {
        let senders: Vec<_> = self.members[..SENDERS].iter().map(Client::sender).collect();
        let members = std::mem::take(&mut self.members);
        thread::scope(|scope| {
            let stage = &self;
            for (sender, mut line) in senders.into_iter().enumerate() {
                scope.spawn(move || stage.send(sender, |text| line.say(text)));
            }
            // A few threads for many members: whoever is not read in the meantime has it all in the socket.
            let listening: Vec<_> = chunks(members, 10)
                .map(|members| {
                    scope.spawn(|| members.into_iter().map(|mut member| stage.hear(&mut member)).collect::<Vec<_>>())
                })
                .collect();
            let late: Vec<_> = (0..LATE).map(|nth| scope.spawn(move || stage.come_late(nth))).collect();
            let heard = listening.into_iter().flat_map(|members| members.join().unwrap()).collect();
            (heard, late.into_iter().map(|late| late.join().unwrap()).collect())
        })
    }

    fn send(&self, sender: usize, mut say: impl FnMut(&str)) {
        for nth in 0..MESSAGES {
            while nth >= MESSAGES - HELD_BACK && self.latecomers.load(SeqCst) < LATE {
                thread::sleep(Duration::from_millis(1));
            }
            self.said[sender].store(nth + 1, SeqCst);
            say(&text(sender, nth));
        }
    }

    fn come_late(&self, nth: usize) -> Late {
        // Spread over the time in which the others talk, and so late that something was missed.
        let began = Instant::now();
        while !self.has_begun.load(SeqCst) && began.elapsed() < DEADLINE {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(3 * nth as u64));
        // On the way out even of a panic, or the senders would wait for ever.
        struct Arrived<'a>(&'a AtomicUsize);
        impl Drop for Arrived<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let arrived = Arrived(&self.latecomers);
        let token = &self.room.users[nth].token;
        let mut client = Client::join(self.server.address, self.room.room, token);
        let said = self.said.iter().map(|said| said.load(SeqCst)).collect();
        drop(arrived);
        Late { heard: self.hear(&mut client), said }
    }

    /// Every text, up to when the last message of every sender was heard.
    fn hear(&self, client: &mut Client) -> Vec<String> {
        let mut heard = Vec::new();
        let mut endings: HashSet<String> = (0..SENDERS).map(|sender| text(sender, MESSAGES - 1)).collect();
        while !endings.is_empty() {
            let text = client.text();
            self.has_begun.store(true, SeqCst);
            endings.remove(message(&text));
            heard.push(text);
        }
        heard
    }
}

/// The `message` of a broadcast whose text needs no escapes.
fn message(broadcast: &str) -> &str {
    field(broadcast, r#""message":""#)
}

fn field<'t>(broadcast: &'t str, before: &str) -> &'t str {
    let (_, rest) = broadcast.split_once(before).expect(broadcast);
    rest.split('"').next().unwrap()
}

fn chunks<T>(mut all: Vec<T>, size: usize) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        let rest = all.split_off(size.min(all.len()));
        Some(std::mem::replace(&mut all, rest)).filter(|chunk| !chunk.is_empty())
    })
}

/// Seeded rooms, one on each shard.
fn rooms_on_every_shard(place: &mut Place) -> Vec<SeededRoom> {
    let topology = Topology::new(&[0], SHARDS);
    let mut rooms: Vec<Option<SeededRoom>> = (0..SHARDS).map(|_| None).collect();
    while rooms.iter().any(Option::is_none) {
        for room in place.seed(4, MEMBERS as u32) {
            let shard = topology.shard_of(room.room);
            rooms[shard].get_or_insert(room);
        }
    }
    rooms.into_iter().flatten().collect()
}

fn check_room(place: &Place, room: RoomId, heard: &[Vec<String>], late: &[Late]) {
    let order = &heard[0];
    let texts: Vec<&str> = order.iter().map(|broadcast| message(broadcast)).collect();
    // Exactly once, and each sender's in the order sent.
    assert_eq!(texts.len(), SENDERS * MESSAGES);
    for sender in 0..SENDERS {
        let own = format!("{sender}/");
        let own: Vec<&str> = texts.iter().copied().filter(|text| text.starts_with(&own)).collect();
        assert_eq!(own, (0..MESSAGES).map(|nth| text(sender, nth)).collect::<Vec<_>>());
    }
    // The same for everyone, to the last byte.
    for (member, other) in heard.iter().enumerate() {
        assert!(other == order, "member {member} heard another order");
    }
    let ids: Vec<&str> = order.iter().map(|broadcast| field(broadcast, r#""message_id":""#)).collect();
    let times: Vec<&str> = order.iter().map(|broadcast| field(broadcast, r#""timestamp":""#)).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "ids rise");
    assert!(times.is_sorted_by(|one, next| one < next), "timestamps rise");
    // Who came late heard everything from the first message on, and that one is no later than the greeting.
    for (nth, late) in late.iter().enumerate() {
        assert!(order.ends_with(&late.heard), "latecomer {nth} has a gap");
        for (sender, said) in late.said.iter().enumerate() {
            let after = (*said..MESSAGES).map(|nth| text(sender, nth));
            let missing: Vec<String> =
                after.filter(|text| !late.heard.iter().any(|heard| message(heard) == text)).collect();
            assert!(missing.is_empty(), "said after latecomer {nth} was greeted, and not heard: {missing:?}");
        }
    }
    let saved = place.saved(room);
    let saved: Vec<(String, &str)> = saved.iter().map(|saved| (saved.id.to_string(), &*saved.content)).collect();
    let expected: Vec<(String, &str)> = ids.iter().map(|id| (*id).to_owned()).zip(texts).collect();
    assert_eq!(saved, expected, "what is in the table is what was heard");
}

/// Everybody talks at once in a room of every shard. What the server counted, when it has ended.
fn play(place: &mut Place, options: &[&str]) -> Ended {
    let rooms = rooms_on_every_shard(place);
    let server = Server::start(place, &[&["--shards", &SHARDS.to_string()], options].concat());
    let stages: Vec<Stage<'_>> = rooms.iter().map(|room| Stage::new(&server, room)).collect();
    let results: Vec<_> = thread::scope(|scope| {
        let playing: Vec<_> = stages.into_iter().map(|stage| scope.spawn(|| stage.play())).collect();
        playing.into_iter().map(|stage| stage.join().unwrap()).collect()
    });
    let some_came_late = results.iter().flat_map(|(_, late)| late).any(|late| late.heard.len() < SENDERS * MESSAGES);
    assert!(some_came_late, "nobody came in the middle");
    let ended = server.stop();
    for (room, (heard, late)) in rooms.iter().zip(&results) {
        assert_eq!(heard.len(), MEMBERS);
        check_room(place, room.room, heard, late);
    }
    assert_eq!(ended.counter("opened"), (SHARDS * (MEMBERS + LATE)) as u64, "{}", ended.log);
    assert_eq!(ended.counter("rows"), (SHARDS * SENDERS * MESSAGES) as u64, "{}", ended.log);
    ended
}

#[test]
fn everyone_hears_everything_once_and_in_one_order() {
    for mut place in Place::everywhere("the order of messages").into_iter().take(2) {
        let ended = play(&mut place, &[]);
        // Each finds its room's shard with the chance of one in four.
        let connections = (SHARDS * (MEMBERS + LATE)) as u64;
        let handed_over = ended.counter("handed_over");
        assert!((connections / 2..connections).contains(&handed_over), "{handed_over} of {connections}");
        assert_eq!(ended.counter("spilled"), 0, "{}", ended.log);
    }
}

#[test]
fn a_room_on_every_shard_has_one_order_too() {
    for durability in ["none", "commit", "journal", "sync"] {
        let mut place = Place::sqlite();
        let ended = play(&mut place, &["--spill-members", "3", "--durability", durability]);
        // Of each room's members most sit elsewhere than at home: at first all but 3, then about three quarters.
        let connections = (SHARDS * (MEMBERS + LATE)) as u64;
        let spilled = ended.counter("spilled");
        assert!(spilled > connections / 2, "{spilled} of {connections}: {}", ended.log);
        assert_eq!(ended.counter("replicas_cut_off"), 0, "{}", ended.log);
    }
}
