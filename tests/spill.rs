//! Rooms that spill over: their members sit on several shards, come and go meanwhile, and none of them can tell. What is
//! wrong with a message is told to its sender wherever that sits, and a stop reaches everybody.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Instant,
};

use ringroom::{store::SeededRoom, topology::Topology};
use serde_json::json;
use support::{
    DEADLINE,
    client::{Client, Raw, upgrade},
    hold::Hold,
    ledger::Ledger,
    load::Load,
    place::Place,
    server::Server,
    stall::Stalled,
};
use tungstenite::Message;

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

/// Members on all shards talk while the server stops, with messages on every part of their way, so that some are said and not
/// answered. Nobody sees one twice, out of order or with a gap, and what anybody saw is in the table.
#[test]
fn a_stop_amid_messages_loses_none_that_anybody_saw() {
    for durability in ["none", "commit", "journal", "sync"] {
        let mut place = Place::sqlite();
        let rooms = place.seed(2, 8);
        let flags = [&FLAGS[..], &["--drain-seconds", "1", "--durability", durability]].concat();
        let mut server = Server::start(&place, &flags);
        let load = Load::start(&server, &rooms, 8, 0);
        load.wait_for(500);
        // Nobody can save: with `commit` everything that is said from now on waits, else only the table lacks it.
        let hold = Hold::writers_of(&place);
        match durability {
            "commit" => load.wait_for_unanswered(8),
            _ => load.wait_for(500),
        }
        server.terminate();
        server.wait_for_log("stopping");
        drop(hold);
        let mut ledger = Ledger::new(0);
        for account in load.bereft() {
            assert!(account.ended && account.not_saved == 0, "{durability}: {}", account.user);
            ledger.enter(account);
        }
        let ended = server.wait();
        assert_eq!((ended.code, ended.counter("restart")), (Some(0), 16), "{durability}: {}", ended.log);
        assert_eq!(ended.counter("rows"), ended.counter("messages"), "{durability}: {}", ended.log);
        ledger.check(|room| place.saved(room));
    }
}

/// A shard stands still while its members of a room have messages under way, until the home has more for it than it may keep. It
/// is cut off: its members miss nothing before their end, which says what it was, the others miss nothing at all, and who comes
/// back takes part again.
#[test]
fn a_shard_that_stands_still_is_cut_off_amid_messages_and_nobody_else_notices() {
    let mut place = Place::sqlite();
    let topology = Topology::new(&[0], 3);
    let room =
        std::iter::repeat_with(|| place.seed(1, 3).remove(0)).find(|room| topology.shard_of(room.room) == 0).unwrap();
    let sizes = ["--message-chars-max", "4200000", "--message-bytes-max", "4400000", "--lag-bytes-max", "9000000"];
    let flags = [&["--shards", "3", "--spill-members", "1", "--durability", "commit"], &sizes[..]].concat();
    let server = Server::start(&place, &flags);
    // One on each shard, in this order.
    let (mut talker, mut cut_off, mut other) =
        (join(&server, &room, 0), join(&server, &room, 1), join(&server, &room, 2));

    let mut heard = [Vec::new(), Vec::new(), Vec::new()];
    talker.say("all are here");
    for (client, heard) in [&mut talker, &mut cut_off, &mut other].into_iter().zip(&mut heard) {
        hear_until(client, heard, "all are here");
    }
    let [by_talker, by_cut_off, by_other] = &mut heard;

    let hold = Hold::writers_of(&place);
    (0..5).for_each(|nth| cut_off.say(&format!("under way {nth}")));
    (0..5).for_each(|nth| other.say(&format!("beside it {nth}")));
    // Now all of them are at the home, and wait to be saved.
    [&mut cut_off, &mut other, &mut talker].into_iter().for_each(sees_a_turn);
    let stalled = Stalled::thread(&server, "shard-1");
    (0..3).for_each(|nth| cut_off.say(&format!("nobody reads this {nth}")));
    drop(hold);
    let mut said = 0;
    while !server.log().contains("a shard is so far behind") {
        assert!(said < 40, "the shard is not cut off");
        let name = format!("{said} of many bytes");
        talker.say(&format!("{name}{}", "x".repeat(4_000_000)));
        // Its own echo is the pace: the home broadcasts each in a turn of its own.
        hear_until(&mut talker, by_talker, &name);
        hear_until(&mut other, by_other, &name);
        said += 1;
    }
    drop(stalled);
    let closed = loop {
        match cut_off.socket.read().unwrap() {
            Message::Text(text) => by_cut_off.push(name_of(&text)),
            Message::Close(frame) => break frame.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((u16::from(closed.code), closed.reason.as_str()), (1013, "Server is overloaded"));
    assert!(by_talker.starts_with(by_cut_off), "{by_cut_off:?} of {by_talker:?}");
    drop(cut_off);

    let mut back = join(&server, &room, 1);
    back.say("I am back");
    hear_until(&mut back, &mut Vec::new(), "I am back");
    hear_until(&mut talker, by_talker, "I am back");
    hear_until(&mut other, by_other, "I am back");
    [talker, other, back].into_iter().for_each(Client::leave);
    let ended = server.stop();
    let saved: Vec<String> =
        place.texts(room.room).into_iter().map(|text| text.trim_end_matches('x').to_owned()).collect();
    assert!(saved == *by_talker && saved == *by_other, "{saved:?}, {by_talker:?}, {by_other:?}");
    assert!((12 + said..=15 + said).contains(&saved.len()), "{saved:?}");
    let counters = ["replicas_cut_off", "cut_off", "too_slow", "not_saved"].map(|name| ended.counter(name));
    assert_eq!(counters, [1, 1, 0, 0], "{}", ended.log);
}

/// Adds the names of the messages that a client hears, up to this one.
fn hear_until(client: &mut Client, heard: &mut Vec<String>, name: &str) {
    while heard.last().is_none_or(|last| last != name) {
        heard.push(name_of(&client.text()));
    }
}

/// What a broadcast's message says, without what only makes it long.
fn name_of(broadcast: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(broadcast).unwrap();
    json["message"].as_str().unwrap().trim_end_matches('x').to_owned()
}

/// Somebody was let in and has a seat on another shard, but the home is so slow to say so that the other one would have ended by
/// then. It waits, and the member is told to come back.
#[test]
fn who_is_on_the_way_to_a_seat_when_the_server_stops_is_answered() {
    const COMING: usize = 5;
    let mut place = Place::sqlite();
    let (at_home, elsewhere) = a_room_on_each_of_two_shards(&mut place, 1 + COMING as u32);
    let flags = ["--shards", "2", "--spill-members", "1", "--drain-seconds", "0", "--auth-cache-seconds", "60"];
    let mut server = Server::start(&place, &flags);
    // Everybody is known, so that the control thread answers at once.
    (1..=COMING).for_each(|user| join(&server, &at_home, user).leave());
    let (mut member, mut other_member) = (join(&server, &at_home, 0), join(&server, &elsewhere, 0));

    let control = Stalled::control(&server);
    let ask = |user: usize| {
        let mut comer = Raw::open(server.address);
        comer.send(upgrade(&format!("/ws/chat/{}/?token={}", at_home.room, at_home.users[user].token)));
        comer
    };
    let mut coming: Vec<Raw> = (1..=COMING).map(ask).collect();
    // Whichever shard accepted them, in these turns they were read, handed over, and asked about.
    for _ in 0..4 {
        sees_a_turn(&mut other_member);
        sees_a_turn(&mut member);
    }
    let home = Stalled::thread(&server, "shard-0");
    drop(control);
    answers_health(&server);
    server.terminate();
    // With its only member the other shard has lost all reason to stay, but for those who are on their way.
    assert_eq!(other_member.closed().0, 1012);
    drop(other_member);
    let began = Instant::now();
    while Stalled::has_thread(&server, "shard-1") && began.elapsed() < DEADLINE / 40 {
        thread::yield_now();
    }
    drop(home);
    // Every other one has a seat at home and is asked to go from there.
    let heads: Vec<String> = coming.iter_mut().map(Raw::head).collect();
    let turned_away = heads.iter().filter(|head| head.starts_with("HTTP/1.1 503 ")).count();
    let let_in = heads.iter().filter(|head| head.starts_with("HTTP/1.1 101 ")).count();
    assert!(turned_away >= COMING / 2 && turned_away + let_in == COMING, "{heads:?}");
    assert_eq!(member.closed().0, 1012);
    drop((member, coming));
    let ended = server.wait();
    let counters = ["opened", "vanished", "lost_on_the_way"].map(|name| ended.counter(name));
    assert_eq!((ended.code, counters), (Some(0), [(COMING + 2 + let_in) as u64, 0, 0]), "{}", ended.log);
    assert!(ended.counter("refused") >= turned_away as u64, "{}", ended.log);
}

/// Two rooms, the first with its home on shard 0, the second on shard 1.
fn a_room_on_each_of_two_shards(place: &mut Place, users: u32) -> (SeededRoom, SeededRoom) {
    let topology = Topology::new(&[0], 2);
    let mut rooms = [None, None];
    while rooms.iter().any(Option::is_none) {
        let room = place.seed(1, users).remove(0);
        let shard = topology.shard_of(room.room);
        rooms[shard] = Some(room);
    }
    let [one, other] = rooms.map(Option::unwrap);
    (one, other)
}

/// The shard of this member looks at what has come in.
fn sees_a_turn(member: &mut Client) {
    member.socket.send(Message::Ping("turn".into())).unwrap();
    loop {
        match member.socket.read() {
            Ok(Message::Pong(_)) => return,
            Ok(Message::Ping(_)) => {}
            other => panic!("no answer to a ping: {other:?}"),
        }
    }
}

/// The control thread has answered whatever it was asked before, though one shard stands still: whoever asks there gets no answer.
fn answers_health(server: &Server) {
    support::client::eventually("/healthz", || {
        let mut socket = TcpStream::connect(server.address)?;
        socket.set_read_timeout(Some(DEADLINE / 100))?;
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")?;
        socket.read_exact(&mut [0; 12])
    });
}

/// How often a server is stopped.
const STOPS: usize = 4;
/// Clients that keep coming, each with one connection at a time.
const COMERS: usize = 12;

/// Members keep coming, most of them passed from shard to shard, while the server stops. The shards end one after the other, and
/// nobody whom one of them had accepted is left without an answer because another has ended.
#[test]
fn a_stop_amid_arrivals_answers_everybody() {
    let mut place = Place::sqlite();
    let rooms = place.seed(12, COMERS as u32);
    for stop in 0..STOPS {
        // Clients on a busy machine may take their time to read the answer.
        let patient = ["--close-timeout-seconds", "20"];
        let flags = [&["--shards", "8", "--spill-members", "1", "--drain-seconds", "0"][..], &patient].concat();
        let server = Server::start(&place, &flags);
        let (answered, address) = (AtomicUsize::new(0), server.address);
        let ended = thread::scope(|scope| {
            let (rooms, answered) = (&rooms, &answered);
            for user in 0..COMERS {
                scope.spawn(move || {
                    let mut visits = rooms.iter().cycle().skip(user);
                    while let Ok(socket) = TcpStream::connect_timeout(&address, DEADLINE) {
                        let room = visits.next().unwrap();
                        let request = upgrade(&format!("/ws/chat/{}/?token={}", room.room, room.users[user].token));
                        answered.fetch_add(usize::from(is_answered(socket, &request)), SeqCst);
                    }
                });
            }
            support::client::eventually("clients come and go", || match answered.load(SeqCst) {
                0..60 => Err(std::io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            });
            server.stop()
        });
        let counters = ["accepted", "lost_on_the_way"].map(|name| ended.counter(name));
        assert_eq!(counters, [answered.load(SeqCst) as u64, 0], "stop {stop}: {}", ended.log);
        assert_eq!(counters[0], ended.counter("opened") + ended.counter("refused"), "{}", ended.log);
    }
}

/// Asks, and goes as soon as there is an answer. False if the connection ended without any.
fn is_answered(mut socket: TcpStream, request: &str) -> bool {
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut status = [0; 12];
    // Whoever is turned away may be told before it has asked, and the answer counts.
    let _ = socket.write_all(request.as_bytes());
    let answer = socket.read_exact(&mut status);
    if let Err(error) = &answer {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the connection is open and not answered");
    }
    answer.is_ok()
}
