//! `kill -9` of ringroom in the middle of it: with the embedded database, all that anyone was shown is in the table, once
//! and in the order shown, and the next start needs no repair.

#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::HashMap, thread::sleep, time::Duration};

use rand::RngExt;
use support::{
    load::{Account, Load, check_order},
    place::Place,
    random,
    server::Server,
};

#[test]
fn what_was_broadcast_survives_every_crash_of_the_server() {
    let mut place = Place::sqlite();
    let rooms = place.seed(2, 3);
    let mut random = random();
    let mut accounts = Vec::new();
    for run in 0..10 {
        let server = Server::start(&place, &["--durability", "commit"]);
        let load = Load::start(&server, &rooms, 2, run);
        load.wait_for(20);
        sleep(Duration::from_millis(random.random_range(0..300)));
        server.kill_9();
        accounts.extend(load.leave());
        check(&accounts, &place);
    }
    let shown: usize = accounts.iter().map(|account| account.heard.len()).sum();
    println!("{shown} messages shown before ten crashes");
    // The table serves on.
    let server = Server::start(&place, &["--durability", "commit"]);
    let load = Load::start(&server, &rooms, 2, 10);
    load.wait_for(20);
    accounts.extend(load.settle());
    check(&accounts, &place);
    server.stop();
}

/// Every message that anyone heard is a row, and the rows are in the order heard. A row that nobody heard is one whose
/// broadcast the crash prevented.
fn check(accounts: &[Account], place: &Place) {
    for account in accounts {
        check_order(&account.heard);
        let rows = place.saved(account.room);
        let places: HashMap<_, _> =
            rows.iter().enumerate().map(|(nth, row)| ((row.id.to_string(), &*row.content), nth)).collect();
        let heard = account.heard.iter().map(|heard| (heard.id.clone(), heard.text.as_str()));
        let nths: Vec<_> =
            heard.map(|heard| *places.get(&heard).unwrap_or_else(|| panic!("{heard:?}: lost"))).collect();
        assert!(nths.is_sorted_by(|one, next| one < next), "{}: heard in another order", account.user);
    }
}
