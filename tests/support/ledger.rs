//! What the members of rooms said and were shown, over many lives of a server, to be held against the table.
//!
//! Every text says whose it is, and can be made again from that ([`name_of`], [`text_of`]): so texts need not be kept.

use std::collections::{BTreeMap, HashMap};

use ringroom::{
    identity::RoomId,
    stamp::read_rfc3339,
    store::{Saved, Stamp},
};

use super::load::{Account, Broadcast, check_order, name_of, text_of};

/// Of all rooms.
pub struct Ledger {
    rooms: HashMap<RoomId, Room>,
    padding_chars: usize,
}

#[derive(Default)]
struct Room {
    /// What anyone was shown: the names of the texts, and the senders.
    shown: BTreeMap<Stamp, (String, String)>,
    /// What each connection was shown, in its order.
    views: Vec<Vec<Stamp>>,
    /// What each member said in each run, by `user run`.
    said: HashMap<String, Said>,
}

struct Said {
    messages: usize,
    /// So many of them were answered with `not_saved`.
    not_saved: usize,
}

impl Ledger {
    /// An empty one, of texts with so much [padding](super::load::Manner).
    pub fn new(padding_chars: usize) -> Ledger {
        Ledger { rooms: HashMap::new(), padding_chars }
    }

    /// Enters what a member said and was shown.
    pub fn enter(&mut self, account: Account) {
        let Account { room, user, run, sent, heard, not_saved, .. } = account;
        let said = Said { messages: sent.len(), not_saved };
        assert!(
            self.room(room).said.insert(format!("{user} {run}"), said).is_none(),
            "two accounts of {user} in {run}"
        );
        self.enter_view(room, &heard);
    }

    /// Enters what one connection was shown.
    pub fn enter_view(&mut self, room: RoomId, heard: &[Broadcast]) {
        check_order(heard);
        let padding_chars = self.padding_chars;
        let Room { shown, views, .. } = self.room(room);
        let mut view = Vec::with_capacity(heard.len());
        for Broadcast { id, timestamp, sender, text } in heard {
            let name = name_of(text);
            assert!(*text == text_of(name, padding_chars), "{name}: the text shown is not the one said");
            let timestamp = read_rfc3339(timestamp).expect("a timestamp as PROTOCOL.md has it");
            let stamp = Stamp { timestamp, id: id.parse().unwrap() };
            let new = (name.to_owned(), sender.to_owned());
            assert_eq!(shown.entry(stamp).or_insert_with(|| new.clone()), &new, "{stamp:?}: shown in two ways");
            view.push(stamp);
        }
        views.push(view);
    }

    fn room(&mut self, room: RoomId) -> &mut Room {
        self.rooms.entry(room).or_default()
    }

    /// The last messages that anyone was shown in a room, oldest first.
    pub fn last(&self, room: RoomId, most: usize) -> Vec<Stamp> {
        let Some(room) = self.rooms.get(&room) else { return Vec::new() };
        let mut last: Vec<Stamp> = room.shown.keys().rev().take(most).copied().collect();
        last.reverse();
        last
    }

    /// How many different messages were shown.
    pub fn shown(&self) -> usize {
        self.rooms.values().map(|room| room.shown.len()).sum()
    }

    /// How many messages were answered with `not_saved`.
    pub fn not_saved(&self) -> usize {
        self.rooms.values().flat_map(|room| room.said.values()).map(|said| said.not_saved).sum()
    }

    /// Holds everything against the table, which `table` gives room by room, in order. A row that nobody was shown is one that
    /// the server was killed over.
    pub fn check(&self, table: impl Fn(RoomId) -> Vec<Saved>) {
        for (id, room) in &self.rooms {
            let rows = table(*id);
            room.check_rows(&rows, self.padding_chars);
            room.check_views(&rows);
        }
    }
}

impl Room {
    /// Ids and timestamps rise; each row is as it was said, and shown if it was; nothing is there twice.
    fn check_rows(&self, rows: &[Saved], padding_chars: usize) {
        for pair in rows.windows(2) {
            let in_order = pair[0].timestamp < pair[1].timestamp && pair[0].id < pair[1].id;
            assert!(in_order, "out of order: {:?}, {:?}", pair[0].stamp(), pair[1].stamp());
        }
        let mut found: HashMap<&str, (usize, usize)> = HashMap::new();
        for row in rows {
            let name = name_of(&row.content);
            assert!(*row.content == *text_of(name, padding_chars), "{name}: the text in the table is not the one said");
            assert!(row.receiver.is_none() && name.starts_with(&*row.sender_username), "{name}: {:?}", row.sender);
            if let Some((shown, sender)) = self.shown.get(&row.stamp()) {
                assert_eq!((shown.as_str(), sender), (name, &row.sender.to_string()), "shown, and in the table");
            }
            let (run, nth) = name.split_once(" #").expect("a text of these members");
            let (nth, (next, count)) = (nth.parse::<usize>().unwrap(), found.entry(run).or_default());
            assert!(nth >= *next, "{name}: twice in the table, or out of the order said");
            (*next, *count) = (nth + 1, *count + 1);
        }
        for (run, (next, count)) in found {
            let Said { messages, not_saved } = self.said[run];
            assert!(
                next <= messages && count + not_saved <= messages,
                "{run}: {count} of {messages} in the table, {not_saved} not_saved"
            );
        }
    }

    /// What a connection was shown is a stretch of the table without a gap.
    fn check_views(&self, rows: &[Saved]) {
        let places: BTreeMap<Stamp, usize> = rows.iter().enumerate().map(|(nth, row)| (row.stamp(), nth)).collect();
        for stamp in self.shown.keys() {
            assert!(places.contains_key(stamp), "{stamp:?} is lost: {:?}", self.shown[stamp]);
        }
        for view in &self.views {
            for pair in view.windows(2) {
                let step = places[&pair[1]].wrapping_sub(places[&pair[0]]);
                assert_eq!(step, 1, "a member was shown {:?} next after {:?}", pair[1], pair[0]);
            }
        }
    }
}
