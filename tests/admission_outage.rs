//! Postgres is away when clients come back: who was there a while ago is let in, who is not known is told to try later, and what
//! has been decided meanwhile counts as soon as Postgres can be asked.

#![allow(clippy::unwrap_used)]

mod support;

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use support::{
    DEADLINE,
    client::Client,
    place::Place,
    postgres::{PASSWORD, Postgres},
    server::Server,
};

#[test]
fn who_was_admitted_comes_back_while_the_database_is_away() {
    let Some(mut postgres) = Postgres::start("an outage when clients connect") else { return };
    let mut place = Place::postgres(postgres.create_database("chat"));
    let [alice, bob, eve] = place.people(["alice", "bob", "eve"]);
    let room = place.room([&alice, &bob]);
    let server = Server::start(&place, &["--auth-cache-seconds", "1", "--auth-timeout-seconds", "2"]);
    Client::join(server.address, room, &alice.token).leave();
    assert_eq!(Client::connect(server.address, room, &eve.token).closed().0, 4003);

    postgres.kill_9();
    // Past the cache, and past the next time that it is cleaned.
    sleep(Duration::from_secs(3));
    for attempt in 0..3 {
        let began = Instant::now();
        let mut client = Client::join(server.address, room, &alice.token);
        assert!(began.elapsed() < Duration::from_secs(2), "attempt {attempt} took {:?}", began.elapsed());
        // It stays: a frame of its own is answered.
        client.send("nonsense");
        assert_eq!(client.json()["code"], "invalid_json");
        client.leave();
    }
    for (token, who) in [(&*bob.token, "never asked for"), (&*eve.token, "refused before"), ("made-up", "nobody's")] {
        assert_eq!(Client::connect(server.address, room, token).closed().0, 1013, "a token {who}");
    }

    postgres.restart();
    Client::join(server.address, room, &alice.token).leave();
    let mut place = Place::postgres(place.url.clone());
    place.deactivate(&alice);
    let until = Instant::now() + DEADLINE;
    let refused = loop {
        match Client::connect(server.address, room, &alice.token).hear(DEADLINE) {
            Some(Err(code)) => break code,
            _ => assert!(Instant::now() < until, "alice is still let in"),
        }
        sleep(Duration::from_millis(50));
    };
    assert_eq!(refused, Some(4001));
    Client::join(server.address, room, &bob.token).leave();

    let ended = server.stop();
    assert!(ended.counter("answers_stale") >= 6, "{}", ended.log);
    let lines = ended.log.lines().filter(|line| line.contains("cannot be asked who somebody is")).count();
    assert!(lines < 10, "{lines} lines for one outage:\n{}", ended.log);
    for secret in [&alice.token, &bob.token, &eve.token, PASSWORD] {
        assert!(!ended.log.contains(secret), "a secret is in the log");
    }
}
