//! A chat on tokio-tungstenite, as small as it can be: one task a connection, one broadcast channel a room. What it
//! does not do, and ringroom does, is told in `chat`.
//!
//! In the style that serves it best: a runtime of one thread for its one core, a message encoded once and shared by
//! reference, all that waits for a member written at once, mimalloc.

use std::collections::HashMap;

use chat::{Answer, Chat, Closed, User};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Messages that a member may lag behind.
const LAG_MESSAGES_MAX: usize = 4096;

type Sender = broadcast::Sender<Utf8Bytes>;

struct Server {
    chat: Chat,
    rooms: HashMap<String, Sender>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let chat = Chat::from_args()?;
    let rooms = chat.rooms().map(|room| (room.to_owned(), broadcast::channel(LAG_MESSAGES_MAX).0)).collect();
    let server: &'static Server = Box::leak(Box::new(Server { chat, rooms }));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("tokio-tungstenite is listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that breaks concerns nobody else.
        tokio::spawn(async move { drop(server.receive(stream).await) });
    }
}

impl Server {
    async fn receive(&'static self, stream: TcpStream) -> Result<(), Error> {
        let (mut room, mut token) = (String::new(), String::new());
        #[allow(clippy::result_large_err, reason = "the type of the library's callback")]
        let callback = |request: &Request, response: Response| {
            (room, token) = asked(request);
            Ok(response)
        };
        let mut socket = accept_hdr_async(stream, callback).await?;
        match (self.chat.enter(&room, &token), self.rooms.get(&room)) {
            (Ok(user), Some(members)) => converse(socket, user, &room, members).await,
            (Err(why), _) => close(&mut socket, why.code(), why.reason()).await,
            (Ok(_), None) => close(&mut socket, Closed::NotAMember.code(), Closed::NotAMember.reason()).await,
        }
    }
}

/// The room and the token that a request names.
fn asked(request: &Request) -> (String, String) {
    let room = request.uri().path().trim_start_matches("/ws/chat/").trim_end_matches('/').to_lowercase();
    let query = request.uri().query().unwrap_or_default();
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let token = query.split('&').find_map(|pair| pair.strip_prefix("token="));
    let token = token.or_else(|| header.and_then(|value| value.strip_prefix("Token ")));
    (room, token.unwrap_or_default().to_owned())
}

async fn converse(
    mut socket: WebSocketStream<TcpStream>,
    user: &User,
    room: &str,
    members: &Sender,
) -> Result<(), Error> {
    let mut messages = members.subscribe();
    socket.send(Message::text(user.greeting(room))).await?;
    loop {
        tokio::select! {
            said = socket.next() => match said {
                Some(Ok(Message::Text(text))) => match user.say(text.as_bytes()) {
                    // There is at least this member to hear it.
                    Answer::Broadcast(json) => drop(members.send(json.into())),
                    Answer::Refusal(json) => socket.send(Message::text(json)).await?,
                },
                Some(Ok(Message::Binary(_))) => return close(&mut socket, 1003, "Binary messages are not spoken").await,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            heard = messages.recv() => match heard {
                Ok(json) => {
                    socket.feed(Message::Text(json)).await?;
                    loop {
                        match messages.try_recv() {
                            Ok(json) => socket.feed(Message::Text(json)).await?,
                            // The next one would come after a gap.
                            Err(TryRecvError::Lagged(_)) => return close(&mut socket, 1013, "Too slow").await,
                            Err(_) => break,
                        }
                    }
                    socket.flush().await?;
                }
                Err(RecvError::Lagged(_)) => return close(&mut socket, 1013, "Too slow").await,
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

async fn close(socket: &mut WebSocketStream<TcpStream>, code: u16, reason: &'static str) -> Result<(), Error> {
    socket.close(Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() })).await
}
