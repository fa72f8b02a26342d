//! What each level of `durability` promises, held against databases of every kind: what is broadcast, when, and what becomes of
//! it when the database is away, takes a message for none of its own, or when the server dies.
//!
//! | `durability` | the database is away | SIGTERM then | `kill -9` then |
//! | --- | --- | --- | --- |
//! | `commit` | senders get an error | nothing was broadcast | nothing was broadcast |
//! | `sync`, `journal` | the journal takes it | the journal keeps it | the journal keeps it |
//! | `none` | memory takes it, up to its bounds | dead letters | lost |

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use ringroom::{identity::RoomId, store::SeededRoom};
use serde_json::Value;
use support::{
    DEADLINE,
    client::{Client, eventually},
    hold::Hold,
    place::Place,
    postgres::{self, Postgres},
    server::Server,
};

const LEVELS: [&str; 4] = ["commit", "sync", "journal", "none"];

/// What a server takes beside its configured times, on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

// ---- The databases ------------------------------------------------------------------------------------------------------

/// A database for each level, and what makes all of them go away together.
struct Databases {
    places: Vec<Place>,
    /// `None`: they are SQLite's, and another connection keeps their writers out.
    postgres: Option<Postgres>,
    holds: Vec<Hold>,
}

impl Databases {
    /// So many of each kind.
    fn everywhere(what: &str, count: usize) -> Vec<Databases> {
        let sqlite = (0..count).map(|_| Place::sqlite()).collect();
        let mut all = vec![Databases { places: sqlite, postgres: None, holds: Vec::new() }];
        all.extend(Postgres::start(what).map(|postgres| {
            let place = |nth: usize| Place::postgres(postgres.create_database(&format!("chat_{nth}")));
            Databases { places: (0..count).map(place).collect(), postgres: Some(postgres), holds: Vec::new() }
        }));
        all
    }

    fn go_away(&mut self) {
        match &mut self.postgres {
            Some(postgres) => postgres.stop(),
            None => self.holds.extend(self.places.iter().map(Hold::writers_of)),
        }
    }

    fn come_back(&mut self) {
        match &mut self.postgres {
            Some(postgres) => postgres.restart(),
            None => self.holds.clear(),
        }
    }
}

// ---- The rooms ----------------------------------------------------------------------------------------------------------

/// A room of a running server: one member talks, another listens.
struct Talk {
    room: SeededRoom,
    talks: Client,
    listens: Client,
    /// What both have heard.
    heard: Vec<String>,
}

impl Talk {
    fn join(server: &Server, room: &SeededRoom) -> Talk {
        let join = |user: usize| Client::join(server.address, room.room, &room.users[user].token);
        Talk { room: room.clone(), talks: join(0), listens: join(1), heard: Vec::new() }
    }

    /// A message that both receive.
    fn say(&mut self, text: &str) {
        self.talks.say(text);
        assert_eq!((self.talks.hears(), self.listens.hears()), (text.to_owned(), text.to_owned()));
        self.heard.push(text.to_owned());
    }

    fn say_all(&mut self, what: &str, count: usize) {
        (0..count).for_each(|nth| self.say(&format!("{what} {nth}")));
    }

    /// A message that its sender is told not to be saved.
    fn say_in_vain(&mut self, text: &str) -> Duration {
        self.talks.say(text);
        let said = Instant::now();
        let answer = self.talks.json();
        assert_eq!(answer["code"], "not_saved", "{answer}");
        said.elapsed()
    }

    /// Leaves, and what was heard remains.
    fn end(self) -> Vec<String> {
        self.talks.leave();
        self.listens.leave();
        self.heard
    }
}

/// Quick to notice, and to give up, and with short files to look through.
fn start(place: &Place, durability: &str, more: &[&str]) -> Server {
    let flags = "--save-timeout-seconds 1 --drain-seconds 0 --close-timeout-seconds 1 --auth-cache-seconds 60 \
                 --database-query-timeout-seconds 1 --journal-segment-bytes 1048576 --durability";
    let flags: Vec<&str> = flags.split(' ').chain([durability]).collect();
    Server::start(place, &[&flags, more].concat())
}

/// Waits until the table holds all of these texts, and nothing else.
fn saved(place: &Place, room: RoomId, texts: &[String]) {
    eventually("all is saved", || match place.texts(room).len() {
        count if count >= texts.len() => Ok(()),
        count => Err(io::Error::other(format!("{count} of {}", texts.len()))),
    });
    assert_eq!(place.texts(room), texts, "{}", place.kind);
}

/// The journal's segments that are left.
fn segments(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.folder().join("journal")).unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "journal")).collect()
}

fn is_journalled(durability: &str) -> bool {
    ["sync", "journal"].contains(&durability)
}

// ---- All is well --------------------------------------------------------------------------------------------------------

#[test]
fn at_every_level_all_is_received_and_saved_and_no_journal_remains() {
    for mut place in Place::everywhere("every level of durability") {
        for durability in LEVELS {
            let room = place.seed(1, 2).remove(0);
            let server = start(&place, durability, &[]);
            let mut talk = Talk::join(&server, &room);
            talk.say_all("well", 20);
            let heard = talk.end();
            let ended = server.stop();
            assert_eq!(place.texts(room.room), heard, "{}, {durability}", place.kind);
            assert_eq!(ended.counter("journal_writes") > 0, is_journalled(durability), "{}", ended.log);
            assert_eq!(ended.counter("journal_syncs") > 0, durability == "sync", "{}", ended.log);
            assert_eq!(segments(&place), [] as [PathBuf; 0], "{}, {durability}", place.kind);
            assert_eq!(start(&place, durability, &[]).stop().counter("replayed"), 0, "{}, {durability}", place.kind);
        }
    }
}

// ---- The database is away ---------------------------------------------------------------------------------------------

#[test]
fn an_outage_is_bridged_by_every_level_but_commit() {
    for mut databases in Databases::everywhere("an outage at every level", LEVELS.len()) {
        let rooms: Vec<SeededRoom> = databases.places.iter_mut().map(|place| place.seed(1, 2).remove(0)).collect();
        let servers: Vec<Server> =
            databases.places.iter().zip(LEVELS).map(|(place, durability)| start(place, durability, &[])).collect();
        let mut talks: Vec<Talk> = servers.iter().zip(&rooms).map(|(server, room)| Talk::join(server, room)).collect();
        for (place, talk) in databases.places.iter().zip(&mut talks) {
            talk.say_all("before", 3);
            saved(place, talk.room.room, &talk.heard);
        }
        databases.go_away();
        for (talk, durability) in talks.iter_mut().zip(LEVELS) {
            match durability {
                "commit" => {
                    let waited = talk.say_in_vain("in vain");
                    // Tried again after at most two seconds, and what waits is looked at then.
                    assert!(waited < Duration::from_secs(1 + 1 + 2) + SLACK, "told only after {waited:?}");
                }
                _ => talk.say_all("meanwhile", 10),
            }
        }
        databases.come_back();
        for ((place, mut talk), server) in databases.places.iter().zip(talks).zip(servers) {
            talk.say_all("after", 3);
            let room = talk.room.room;
            let heard = talk.end();
            saved(place, room, &heard);
            server.stop();
            assert_eq!(place.texts(room), heard, "exactly once");
            assert_eq!(segments(place), [] as [PathBuf; 0]);
        }
    }
}

#[test]
fn without_a_journal_memory_is_bounded_in_an_outage() {
    for mut databases in Databases::everywhere("an outage in memory", 1) {
        let room = databases.places[0].seed(1, 2).remove(0);
        let server = start(
            &databases.places[0],
            "none",
            &["--shards", "1", "--writer-queue-rows", "20", "--commit-rows-max", "20"],
        );
        let mut talk = Talk::join(&server, &room);
        talk.say("before");
        saved(&databases.places[0], room.room, &talk.heard);
        databases.go_away();
        talk.say_all("meanwhile", 20);
        for _ in 0..5 {
            talk.say_in_vain("too much");
        }
        databases.come_back();
        saved(&databases.places[0], room.room, &talk.heard);
        // The shard hears of it after the table shows it.
        eventually("there is room again", || {
            talk.talks.say("room?");
            match talk.talks.json()["code"].as_str() {
                Some(code) => Err(io::Error::other(code.to_owned())),
                None => {
                    assert_eq!(talk.listens.hears(), "room?");
                    Ok(())
                }
            }
        });
        talk.heard.push("room?".into());
        let heard = talk.end();
        server.stop();
        assert_eq!(databases.places[0].texts(room.room), heard);
    }
}

// ---- The server ends meanwhile ------------------------------------------------------------------------------------------

#[test]
fn what_the_database_lacks_at_sigterm_is_kept_for_it() {
    const KEPT: [&str; 3] = ["sync", "journal", "none"];
    for mut databases in Databases::everywhere("SIGTERM in an outage, at every level", KEPT.len()) {
        let rooms: Vec<SeededRoom> = databases.places.iter_mut().map(|place| place.seed(1, 2).remove(0)).collect();
        let servers: Vec<Server> =
            databases.places.iter().zip(KEPT).map(|(place, durability)| start(place, durability, &[])).collect();
        let mut talks: Vec<Talk> = servers.iter().zip(&rooms).map(|(server, room)| Talk::join(server, room)).collect();
        for (place, talk) in databases.places.iter().zip(&mut talks) {
            talk.say("before");
            saved(place, talk.room.room, &talk.heard);
        }
        databases.go_away();
        talks.iter_mut().for_each(|talk| talk.say_all("meanwhile", 10));
        let heard: Vec<Vec<String>> = talks.into_iter().map(Talk::end).collect();
        for ((server, place), durability) in servers.into_iter().zip(&databases.places).zip(KEPT) {
            let ended = server.stop();
            let in_journal = ended.log.matches("the journal keeps what is not saved").count();
            let letters = fs::read_to_string(place.folder().join("dead-letters.jsonl")).unwrap_or_default();
            let expected = if is_journalled(durability) { (1, 0, 0) } else { (0, 10, 10) };
            let found = (in_journal, letters.lines().count(), ended.counter("dead_letters"));
            assert_eq!(found, expected, "{}, {durability}: {}", place.kind, ended.log);
            assert_eq!(segments(place).is_empty(), !is_journalled(durability));
        }

        databases.come_back();
        for (((place, room), heard), durability) in databases.places.iter().zip(&rooms).zip(&heard).zip(KEPT) {
            let server = start(place, durability, &[]);
            if !is_journalled(durability) {
                retry_dead_letters(place, 10);
            }
            saved(place, room.room, heard);
            // Of what is in a segment all is read again, also what was saved before.
            let replayed = if is_journalled(durability) { 11 } else { 0 };
            assert_eq!(server.stop().counter("replayed"), replayed, "{}, {durability}", place.kind);
            assert_eq!(place.texts(room.room), *heard);
            assert_eq!(segments(place), [] as [PathBuf; 0]);
        }
    }
}

/// Has the program try the dead letters again, all of which must be saved.
fn retry_dead_letters(place: &Place, count: u64) {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &DEADLINE.as_secs().to_string(), env!("CARGO_BIN_EXE_ringroom")]);
    command.args(["dead-letters", "retry", "--all", "--json", "--data-dir"]).arg(place.folder());
    command.env("RINGROOM_DATABASE_URL", &place.url).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let answer: Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!((&answer["saved"], &answer["refused"]), (&count.into(), &0.into()), "{answer}");
}

#[test]
fn what_was_received_from_a_journal_survives_a_kill_with_other_shards_after_it() {
    /// Rooms enough for every shard to have some.
    const ROOMS: u32 = 8;
    for durability in ["sync", "journal"] {
        // Fewer shards than before, then more.
        for mut databases in Databases::everywhere("kill -9 in an outage", 1) {
            let rooms = databases.places[0].seed(ROOMS, 2);
            let mut heard = vec![Vec::new(); rooms.len()];
            for (run, shards) in ["3", "1", "4"].into_iter().enumerate() {
                let server = start(&databases.places[0], durability, &["--shards", shards]);
                let mut talks: Vec<Talk> = rooms.iter().map(|room| Talk::join(&server, room)).collect();
                databases.go_away();
                for talk in &mut talks {
                    talk.say_all(&format!("run {run}"), 3);
                }
                server.kill_9();
                for (talk, heard) in talks.into_iter().zip(&mut heard) {
                    heard.extend(talk.heard);
                }
                databases.come_back();
            }
            let place = &databases.places[0];
            let server = start(place, durability, &["--shards", "2"]);
            for (room, heard) in rooms.iter().zip(&heard) {
                saved(place, room.room, heard);
            }
            let ended = server.stop();
            assert!(ended.counter("replayed") >= 3 * u64::from(ROOMS), "{}", ended.log);
            assert_eq!(ended.counter("journal_damaged"), 0);
            assert_eq!(segments(place), [] as [PathBuf; 0]);
            for (room, heard) in rooms.iter().zip(&heard) {
                assert_eq!(place.texts(room.room), *heard, "{}, {durability}: exactly once", place.kind);
            }
        }
    }
}

/// Eight shards have no room for a journal in so few bytes, and no need of one.
#[test]
fn a_level_without_a_journal_saves_what_one_with_a_journal_left_however_small_that_may_be_now() {
    for durability in ["commit", "none"] {
        for mut databases in Databases::everywhere("kill -9 in an outage, then no journal", 1) {
            let rooms = databases.places[0].seed(1, 2);
            let server = start(&databases.places[0], "sync", &["--shards", "2"]);
            let mut talk = Talk::join(&server, &rooms[0]);
            databases.go_away();
            talk.say_all("before", 3);
            server.kill_9();
            databases.come_back();
            let place = &databases.places[0];
            let server = start(place, durability, &["--shards", "8", "--journal-bytes-max", "4194304"]);
            saved(place, rooms[0].room, &talk.heard);
            let mut later = Talk::join(&server, &rooms[0]);
            later.say("after");
            saved(place, rooms[0].room, &[&talk.heard[..], &later.end()].concat());
            server.stop();
            assert_eq!(segments(place), [] as [PathBuf; 0]);
        }
    }
}

// ---- The database takes some messages for none of its own ------------------------------------------------------------

/// The letters' texts and reasons.
fn letters(folder: &Path) -> Vec<(String, String)> {
    let lines = fs::read_to_string(folder.join("dead-letters.jsonl")).unwrap_or_default();
    let letter = |line: &str| {
        let letter: Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| letter[name].as_str().unwrap_or_else(|| panic!("{letter}")).to_owned();
        (field("text"), field("reason"))
    };
    lines.lines().map(letter).collect()
}

#[test]
fn a_message_to_a_room_that_is_gone_becomes_a_dead_letter_and_its_sender_is_stopped() {
    for mut place in Place::everywhere("a room that is deleted") {
        for durability in ["sync", "none"] {
            let kind = format!("{}, {durability}", place.kind);
            let rooms = place.seed(2, 2);
            let (gone, stays) = (&rooms[0], &rooms[1]);
            // One transaction for all of them.
            let flags = ["--commit-delay-ms", "200", "--errors-max", "5"];
            let server = start(&place, durability, &flags);
            let (mut to_gone, mut to_stays) = (Talk::join(&server, gone), Talk::join(&server, stays));
            place.sql(&format!(
                "DELETE FROM chat_chatroom_members WHERE chatroom_id = '{room}';
                 DELETE FROM chat_chatroom WHERE id = '{room}';",
                room = gone.room
            ));
            let refused_before = letters(place.folder()).len();
            to_stays.say("one");
            to_gone.say("to nowhere");
            to_stays.say("two");
            saved(&place, stays.room, &to_stays.heard);
            eventually("there is a dead letter", || match letters(place.folder()).len() - refused_before {
                1.. => Ok(()),
                _ => Err(io::Error::other("none")),
            });
            // The shard hears of it at the same time: then for `auth_cache_seconds` nothing of this sender is taken here.
            let mut refused = 1;
            eventually("its sender is refused", || {
                to_gone.talks.say("to nowhere");
                match to_gone.talks.json()["code"].as_str() {
                    Some("not_saved") => Ok(()),
                    other => {
                        refused += 1;
                        Err(io::Error::other(format!("{other:?}")))
                    }
                }
            });
            for _ in 0..4 {
                to_gone.say_in_vain("to nowhere");
            }
            // That is his alone.
            to_stays.say("three");
            to_gone.talks.say("to nowhere");
            assert_eq!(to_gone.talks.closed().0, 1008, "{kind}");
            to_gone.listens.leave();
            let heard = to_stays.end();
            let ended = server.stop();
            assert_eq!(place.texts(stays.room), heard, "{kind}");
            let counted = (ended.counter("dead_letters"), ended.counter("rows_refused"));
            assert_eq!(counted, (refused, refused), "{kind}: {}", ended.log);
            let letters = letters(place.folder()).split_off(refused_before);
            assert_eq!(letters.len() as u64, refused);
            for (text, reason) in letters {
                assert_eq!(text, "to nowhere");
                assert!(reason.to_lowercase().contains("foreign key"), "{kind}: {reason}");
            }
            assert_eq!(segments(&place), [] as [PathBuf; 0], "{kind}");
        }
    }
}

#[test]
fn a_text_that_the_database_cannot_hold_becomes_a_dead_letter() {
    let Some(cluster) = postgres::shared("a LATIN1 database behind a journal") else { return };
    let make = "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    postgres::execute(&cluster.url(), make).unwrap();
    let mut place = Place::postgres(cluster.url().replace("/postgres", "/latin"));
    let room = place.seed(1, 2).remove(0);
    let server = start(&place, "sync", &["--commit-delay-ms", "400"]);
    let mut talk = Talk::join(&server, &room);
    ["caf\u{e9}", "\u{1f600}", "plain"].into_iter().for_each(|text| talk.say(text));
    let heard = talk.end();
    saved(&place, room.room, &[heard[0].clone(), heard[2].clone()]);
    let ended = server.stop();
    assert_eq!(ended.counter("dead_letters"), 1, "{}", ended.log);
    let letters = letters(place.folder());
    assert!(matches!(&letters[..], [(text, reason)] if text == "\u{1f600}" && reason.contains("22P05")), "{letters:?}");
}
