//! A chat on uWebSockets, as small as it can be. `server.cpp` is the server, this is what it asks: who may sit where, and
//! what is answered to a message. What it does not do, and ringroom does, is told in `chat`.

use chat::{Answer, Closed, User};

#[cxx::bridge]
mod ffi {
    /// What a connection is told first.
    struct Welcome {
        /// The code to close with, or 0.
        code: u16,
        /// The reason for that, or the greeting.
        text: String,
    }

    struct Reply {
        to_all: bool,
        text: String,
    }

    extern "Rust" {
        type Chat;
        type Guest<'a>;
        /// Whoever asks for a room with a token, let in or not.
        unsafe fn enter<'a>(self: &'a Chat, room: &str, token: &str) -> Box<Guest<'a>>;
        unsafe fn welcome<'a>(self: &Guest<'a>, room: &str) -> Welcome;
        unsafe fn say<'a>(self: &Guest<'a>, text: &[u8]) -> Reply;
    }

    unsafe extern "C++" {
        include!("uwebsockets-peer/src/server.h");
        /// Serves until the process ends; false when it cannot listen.
        fn serve(chat: &Chat) -> bool;
    }
}

struct Chat(chat::Chat);

struct Guest<'a>(Result<&'a User, Closed>);

impl Chat {
    fn enter(&self, room: &str, token: &str) -> Box<Guest<'_>> {
        Box::new(Guest(self.0.enter(room, token)))
    }
}

impl Guest<'_> {
    fn welcome(&self, room: &str) -> ffi::Welcome {
        match self.0 {
            Ok(user) => ffi::Welcome { code: 0, text: user.greeting(room) },
            Err(why) => ffi::Welcome { code: why.code(), text: why.reason().into() },
        }
    }

    fn say(&self, text: &[u8]) -> ffi::Reply {
        match self.0.map(|user| user.say(text)) {
            Ok(Answer::Broadcast(text)) => ffi::Reply { to_all: true, text },
            Ok(Answer::Refusal(text)) => ffi::Reply { to_all: false, text },
            Err(_) => ffi::Reply { to_all: false, text: String::new() },
        }
    }
}

fn main() -> Result<(), String> {
    let chat = Chat(chat::Chat::from_args()?);
    if ffi::serve(&chat) { Ok(()) } else { Err("no port to listen on".into()) }
}
