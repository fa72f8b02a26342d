//! Members that leave a room at the same instant take nobody else with them: not the server, not the members that stay.

#![allow(clippy::unwrap_used)]

mod support;

use std::{thread::sleep, time::Duration};

use rustix::process::Signal;
use support::{client::Client, place::Place, server::Server};

#[test]
fn members_that_leave_together_leave_the_others_alone() {
    let mut place = Place::sqlite();
    let room = &place.seed(1, 40)[0];
    let server = Server::start(&place, &[]);
    let join = |token| Client::join(server.address, room.room, token);
    let mut members: Vec<_> = room.users.iter().map(|user| join(&user.token)).collect();
    let mut stay = members.split_off(30);
    // It sleeps while they leave, so that it hears of all of them in one turn.
    server.signal(Signal::STOP);
    drop(members);
    sleep(Duration::from_millis(100));
    server.signal(Signal::CONT);
    for number in 0..stay.len() {
        let text = format!("is anybody there? {number}");
        stay[number].say(&text);
        for member in &mut stay {
            assert_eq!(member.hears(), text);
        }
    }
    stay.into_iter().for_each(Client::leave);
    server.stop();
}
