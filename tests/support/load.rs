//! Members of rooms that talk without pause while something breaks, and the account of what each sent and heard.
//!
//! Each connection has a thread. A message's text says who sent it and which of theirs it is, so that the accounts can be
//! compared with each other and with the table afterwards.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use ringroom::{
    identity::RoomId,
    store::{Saved, SeededRoom},
};

use serde_json::Value;
use tungstenite::Message;

use super::{
    DEADLINE,
    client::{Client, chat_message},
    server::Server,
};

/// How members talk.
#[derive(Clone, Copy)]
pub struct Manner {
    /// Messages that a sender has under way at a time.
    pub window: usize,
    /// Between two messages of a sender.
    pub pause: Duration,
    /// The most characters that a text has beyond what tells it from others. Half of them have much less.
    pub padding_chars: usize,
}

/// Enough load to be in the middle of something always, and no busy loop.
const CALM: Manner = Manner { window: 8, pause: Duration::from_millis(4), padding_chars: 0 };

/// Members of several rooms, at it.
pub struct Load {
    members: Vec<JoinHandle<Account>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Nobody begins another message.
    quiet: AtomicBool,
    /// Everybody leaves.
    over: AtomicBool,
    unanswered: AtomicUsize,
    heard: AtomicUsize,
    not_saved: AtomicUsize,
}

/// What one member sent and heard, in order.
pub struct Account {
    pub room: RoomId,
    pub user: String,
    /// Makes its texts differ from those of the same user in other runs.
    pub run: usize,
    manner: Manner,
    /// How many of the messages heard are its own.
    own: usize,
    pub sent: Vec<String>,
    pub heard: Vec<Broadcast>,
    /// How many messages were answered with `not_saved`.
    pub not_saved: usize,
    /// The connection ended before its member left.
    pub ended: bool,
}

/// A message as it was broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Broadcast {
    pub id: String,
    pub timestamp: String,
    pub sender: String,
    pub text: String,
}

impl Load {
    /// Connects every user of every room; the first `senders` of each room talk. `run` makes texts of several loads differ.
    pub fn start(server: &Server, rooms: &[SeededRoom], senders: usize, run: usize) -> Load {
        Load::start_with(server, rooms, senders, run, CALM)
    }

    /// As [`start`](Load::start), in another manner.
    pub fn start_with(server: &Server, rooms: &[SeededRoom], senders: usize, run: usize, manner: Manner) -> Load {
        let state = Arc::new(State::default());
        let mut members = Vec::new();
        for room in rooms {
            for (place, user) in room.users.iter().enumerate() {
                let client = Client::join(server.address, room.room, &user.token);
                let account = Account {
                    room: room.room,
                    user: user.username.clone(),
                    run,
                    manner,
                    own: 0,
                    sent: Vec::new(),
                    heard: Vec::new(),
                    not_saved: 0,
                    ended: false,
                };
                members.push((client, account, place < senders));
            }
        }
        // All are in before the first speaks, so that all hear the same.
        let members = members.into_iter().map(|(client, account, talks)| {
            let state = Arc::clone(&state);
            thread::spawn(move || account.keep(client, talks, &state))
        });
        Load { members: members.collect(), state }
    }

    /// Waits until `count` more messages were heard, by anyone.
    pub fn wait_for(&self, count: usize) {
        wait_for_more(&self.state.heard, count, "messages");
    }

    /// Waits until `count` more messages were answered with `not_saved`.
    pub fn wait_for_refusals(&self, count: usize) {
        wait_for_more(&self.state.not_saved, count, "not_saved");
    }

    /// Waits until at least `count` messages are said and not answered.
    pub fn wait_for_unanswered(&self, count: usize) {
        let began = Instant::now();
        while self.state.unanswered.load(Relaxed) < count {
            assert!(began.elapsed() < DEADLINE, "every message is answered");
            sleep(Duration::from_millis(5));
        }
    }

    /// Lets nobody begin a message, waits until each is answered, and until nothing more comes; then all leave.
    pub fn settle(self) -> Vec<Account> {
        self.state.quiet.store(true, Relaxed);
        let until = Instant::now() + DEADLINE;
        while self.state.unanswered.load(Relaxed) > 0 {
            assert!(Instant::now() < until, "{} messages are not answered", self.state.unanswered.load(Relaxed));
            sleep(Duration::from_millis(10));
        }
        let mut heard = usize::MAX;
        while heard != self.state.heard.load(Relaxed) {
            assert!(Instant::now() < until, "messages keep coming");
            heard = self.state.heard.load(Relaxed);
            sleep(Duration::from_millis(500));
        }
        self.leave()
    }

    /// The accounts, when the server is gone and each has read all that reached it.
    pub fn bereft(self) -> Vec<Account> {
        self.state.quiet.store(true, Relaxed);
        self.members.into_iter().map(|member| member.join().unwrap()).collect()
    }

    /// The accounts, as they are when all have left or lost their connection.
    pub fn leave(self) -> Vec<Account> {
        self.state.quiet.store(true, Relaxed);
        self.state.over.store(true, Relaxed);
        self.members.into_iter().map(|member| member.join().unwrap()).collect()
    }
}

fn wait_for_more(counter: &AtomicUsize, count: usize, what: &str) {
    let (before, began) = (counter.load(Relaxed), Instant::now());
    while counter.load(Relaxed) < before + count {
        assert!(began.elapsed() < DEADLINE, "nobody heard {count} more {what}");
        sleep(Duration::from_millis(5));
    }
}

impl Account {
    /// Goes on with the same user's account of a later run.
    pub fn join(&mut self, later: Account) {
        assert_eq!(self.user, later.user);
        self.sent.extend(later.sent);
        self.heard.extend(later.heard);
        self.own += later.own;
        self.not_saved += later.not_saved;
        self.ended |= later.ended;
    }

    fn keep(mut self, mut client: Client, talks: bool, state: &State) -> Account {
        let mut spoke = Instant::now();
        while !state.over.load(Relaxed) && !self.ended {
            let may_talk = talks && !state.quiet.load(Relaxed) && spoke.elapsed() >= self.manner.pause;
            if may_talk && self.unanswered() < self.manner.window {
                spoke = Instant::now();
                self.send(&mut client, state);
            }
            self.listen(&mut client, state);
        }
        if self.ended {
            state.unanswered.fetch_sub(self.unanswered(), Relaxed);
        } else {
            client.leave();
        }
        self
    }

    fn send(&mut self, client: &mut Client, state: &State) {
        let text = text_of(&format!("{} {} #{}", self.user, self.run, self.sent.len()), self.manner.padding_chars);
        state.unanswered.fetch_add(1, Relaxed);
        self.ended |= client.socket.send(Message::text(chat_message(&text))).is_err();
        self.sent.push(text);
    }

    fn listen(&mut self, client: &mut Client, state: &State) {
        match client.hear(self.manner.pause) {
            None => {}
            Some(Err(_)) => self.ended = true,
            Some(Ok(message)) if message["code"] == "not_saved" => {
                self.not_saved += 1;
                state.not_saved.fetch_add(1, Relaxed);
                state.unanswered.fetch_sub(1, Relaxed);
            }
            Some(Ok(message)) => {
                let heard = Broadcast::from(&message);
                if self.is_mine(&heard.text) {
                    self.own += 1;
                    state.unanswered.fetch_sub(1, Relaxed);
                }
                self.heard.push(heard);
                state.heard.fetch_add(1, Relaxed);
            }
        }
    }

    fn is_mine(&self, text: &str) -> bool {
        text.split(' ').next() == Some(&self.user)
    }

    fn unanswered(&self) -> usize {
        self.sent.len() - self.own - self.not_saved
    }
}

impl From<&Value> for Broadcast {
    fn from(message: &Value) -> Broadcast {
        let field = |name: &str| message[name].as_str().unwrap_or_else(|| panic!("{message}")).to_owned();
        Broadcast {
            id: field("message_id"),
            timestamp: field("timestamp"),
            sender: field("sender_id"),
            text: field("message"),
        }
    }
}

/// The text that begins with `name`, and is longer by up to `padding_chars`: always the same for the same name.
pub fn text_of(name: &str, padding_chars: usize) -> String {
    /// Of all lengths in UTF-8, and some that JSON escapes; no digit, for [`name_of`].
    const PADDING: [&str; 4] = ["a ü\"\\漢\n🙂", "lorem ip", "ünïcödé ", "漢字かな交じり文"];
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let hash = hasher.finish() as usize;
    let most = if hash.is_multiple_of(2) { padding_chars } else { padding_chars / 32 };
    let padding = PADDING[hash / 2 % PADDING.len()];
    format!("{name}{}", padding.repeat(hash / 8 % (most / 8 + 1)))
}

/// What [`text_of`] made this text from.
pub fn name_of(text: &str) -> &str {
    let digits = text.find('#').map_or(0, |at| at + 1);
    let end = text[digits..].find(|c: char| !c.is_ascii_digit()).map_or(text.len(), |len| digits + len);
    &text[..end]
}

/// Holds the accounts of members that stayed to the end against each other and against the table: `table` gives a room's
/// rows in order. All that was said in these rooms was said by these members.
pub fn check_settled(accounts: &[Account], table: impl Fn(RoomId) -> Vec<Saved>) {
    for account in accounts {
        let user = &account.user;
        assert!(!account.ended, "{user}: the connection ended");
        let first = accounts.iter().find(|other| other.room == account.room).unwrap();
        assert!(account.heard == first.heard, "{user} and {} heard different things", first.user);
        check_own(account);
    }
    for room in accounts.iter().map(|account| account.room).collect::<HashSet<_>>() {
        let heard = &accounts.iter().find(|account| account.room == room).unwrap().heard;
        check_order(heard);
        let heard: Vec<_> = heard.iter().map(|heard| (heard.id.clone(), heard.text.clone())).collect();
        // Exactly once, in the order heard, and nothing beside: so what was answered `not_saved` is not in it.
        let rows: Vec<_> = table(room).into_iter().map(|row| (row.id.to_string(), row.content.to_string())).collect();
        let first_difference = rows.iter().zip(&heard).position(|(row, heard)| row != heard);
        assert!(rows == heard, "{} rows, {} heard; they part at {first_difference:?}", rows.len(), heard.len());
    }
}

/// Every message of a member came back, in the order sent, or was answered `not_saved`.
fn check_own(account: &Account) {
    let own: Vec<_> = account.heard.iter().map(|heard| &heard.text).filter(|text| account.is_mine(text)).collect();
    let mut sent = account.sent.iter();
    assert!(own.iter().all(|text| sent.any(|sent| sent == *text)), "{}: out of the order sent", account.user);
    assert_eq!(own.len() + account.not_saved, account.sent.len(), "{}: answers and messages", account.user);
}

/// Ids and timestamps rise as they are heard, so none is heard twice.
pub fn check_order(heard: &[Broadcast]) {
    for pair in heard.windows(2) {
        assert!(pair[0].id < pair[1].id && pair[0].timestamp <= pair[1].timestamp, "{pair:?}");
    }
    let texts: HashSet<_> = heard.iter().map(|heard| &heard.text).collect();
    assert_eq!(texts.len(), heard.len(), "a message was broadcast twice");
}
