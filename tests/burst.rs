//! Many messages that become durable in the same moment: a member that reads as fast as they come gets them all, however
//! much more than the window they are.

#![allow(clippy::unwrap_used)]

mod support;

use std::{thread::sleep, time::Duration};

use support::{client::Client, place::Place, server::Server};

#[test]
fn a_commit_of_more_than_the_window_reaches_those_who_read() {
    let mut place = Place::sqlite();
    let room = place.seed(1, 3).remove(0);
    // All of the messages are saved, and so broadcast, at once.
    let flags =
        ["--durability", "commit", "--commit-delay-ms", "700", "--lag-bytes-max", "131072", "--drain-seconds", "0"];
    let server = Server::start(&place, &flags);
    let members: Vec<Client> =
        room.users.iter().map(|user| Client::join(server.address, room.room, &user.token)).collect();
    let mut sender = members[0].sender();
    let texts: Vec<String> = (0..200).map(|number| format!("{number} {}", "x".repeat(2000))).collect();
    for text in &texts {
        sender.say(text);
        // In a turn of its own, mostly.
        sleep(Duration::from_millis(1));
    }
    drop(sender);
    for mut member in members {
        for text in &texts {
            assert_eq!(&member.hears(), text);
        }
    }
    assert_eq!(server.stop().counter("too_slow"), 0);
}
