//! Rooms that spill over: their members sit on several shards, come and go meanwhile, and none of them can tell. What is
//! wrong with a message is told to its sender wherever that sits, and a stop reaches everybody.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
};

use ringroom::store::SeededRoom;
use serde_json::json;
use support::{client::Client, place::Place, server::Server};

/// Every member after the first sits away from home, one on each shard.
const FLAGS: [&str; 4] = ["--shards", "4", "--spill-members", "1"];

fn join(server: &Server, room: &SeededRoom, user: usize) -> Client {
    Client::join(server.address, room.room, &room.users[user].token)
}

/// How many waves of members come and go.
const WAVES: usize = 12;
/// Members of a wave.
const WAVE: usize = 8;
/// Messages that a member of a wave hears before it goes.
const STAY: usize = 5;

/// One member talks all the time, while others come, hear some messages in a row without a gap, and go, so that replicas
/// begin and end under its words.
#[test]
fn members_come_and_go_while_a_room_is_on_several_shards() {
    let mut place = Place::sqlite();
    let room = &place.seed(1, 1 + WAVE as u32)[0];
    let server = Server::start(&place, &FLAGS);
    let mut talker = join(&server, room, 0);
    let mut line = talker.sender();
    let (is_over, said) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let talking = scope.spawn(|| {
            while !is_over.load(SeqCst) {
                line.say(&said.load(SeqCst).to_string());
                // Its own echo is the pace: nothing heaps up, and nothing waits for a clock.
                assert_eq!(talker.hears(), said.fetch_add(1, SeqCst).to_string());
            }
        });
        let (server, said) = (&server, &said);
        let goes_well = (0..WAVES).all(|_| {
            let visit = |user| scope.spawn(move || visit(server, room, user, said));
            let members: Vec<_> = (1..=WAVE).map(visit).collect();
            members.into_iter().map(|member| member.join()).filter(Result::is_err).count() == 0
        });
        // Whatever became of them, or the talker would talk for ever.
        is_over.store(true, SeqCst);
        talking.join().unwrap();
        assert!(goes_well, "a member of a wave missed something");
    });
    drop(talker);
    let texts: Vec<String> = (0..said.load(SeqCst)).map(|nth| nth.to_string()).collect();
    let ended = server.stop();
    assert_eq!(place.texts(room.room), texts);
    assert_eq!(ended.counter("opened"), (1 + WAVES * WAVE) as u64, "{}", ended.log);
    assert!(ended.counter("spilled") > (WAVES * WAVE / 2) as u64, "{}", ended.log);
}

/// Comes, hears what is said from then on, and goes.
fn visit(server: &Server, room: &SeededRoom, user: usize, said: &AtomicUsize) {
    let mut client = join(server, room, user);
    // All that its own echo has not reached when the greeting is read must be heard.
    let greeted = said.load(SeqCst);
    let heard: Vec<usize> = (0..STAY).map(|_| client.hears().parse().unwrap()).collect();
    assert!(heard[0] <= greeted + 1, "{} was not heard, but {heard:?}", greeted + 1);
    assert!(heard.is_sorted_by(|one, next| one + 1 == *next), "a gap: {heard:?}");
    client.leave();
}

#[test]
fn what_is_said_away_from_home_is_answered_there() {
    let mut place = Place::sqlite();
    let room = &place.seed(1, 6)[0];
    let server = Server::start(&place, &[&FLAGS[..], &["--durability", "commit", "--errors-max", "1"]].concat());
    let mut clients: Vec<Client> = (0..6).map(|user| join(&server, room, user)).collect();
    for user in 0..6 {
        clients[user].send(json!({"type": "chat_message"}).to_string());
        assert_eq!(clients[user].json()["code"], "invalid_message", "{user}");
        let receiver = json!(room.users[(user + 1) % 6].id);
        clients[user].send(json!({"type": "chat_message", "message": "to one", "receiver_id": receiver}).to_string());
        for client in &mut clients {
            let heard = client.json();
            assert_eq!((&heard["message"], &heard["receiver_id"]), (&json!("to one"), &receiver));
        }
    }
    // The room is gone: what is said is refused by the database, told to whoever said it, and in the end not borne.
    place.sql(&format!("DELETE FROM chat_message; DELETE FROM chat_chatroom WHERE id = '{}'", room.room));
    for client in &mut clients {
        client.say("into the void");
        assert_eq!(client.json()["code"], "not_saved");
        client.say("and again");
        assert_eq!(client.json()["code"], "not_saved");
        assert_eq!(client.closed().0, 1008);
    }
    let ended = server.stop();
    assert_eq!(ended.counter("not_saved"), 12, "{}", ended.log);
    // One sits at home, three elsewhere, and the last two wherever of the four.
    assert!((3..=5).contains(&ended.counter("spilled")), "{}", ended.log);
}

#[test]
fn a_stop_reaches_every_shard_of_a_room() {
    let mut place = Place::sqlite();
    let room = &place.seed(1, 8)[0];
    let mut server = Server::start(&place, &[&FLAGS[..], &["--drain-seconds", "1"]].concat());
    let mut clients: Vec<Client> = (0..8).map(|user| join(&server, room, user)).collect();
    let texts: Vec<String> = (0..8).map(|user| format!("last words of {user}")).collect();
    clients.iter_mut().zip(&texts).for_each(|(client, text)| client.say(text));
    // Everyone has heard everything, in one order: now there is nothing that a stop could cut off.
    let heard: Vec<Vec<String>> =
        clients.iter_mut().map(|client| (0..texts.len()).map(|_| client.hears()).collect()).collect();
    assert!(heard.iter().all(|one| *one == heard[0]), "{heard:?}");
    server.terminate();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || assert_eq!(client.closed().0, 1012));
        }
    });
    let ended = server.wait();
    assert_eq!((ended.code, ended.counter("restart")), (Some(0), 8), "{}", ended.log);
    assert_eq!(place.texts(room.room), heard[0]);
}
