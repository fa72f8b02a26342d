//! Every reason for which ringroom ends a connection: its close code, the words sent with it, whether the client
//! should come back, and the label it is counted under.
//!
//! One table, so that PROTOCOL's, the page's and the metrics' ideas of an end cannot drift apart. The codes are those of
//! RFC 6455 section 7.4.1, the IANA registry (1012, 1013), and the original application's own (4001, 4003).

/// May a client that was closed for this reason connect again, and how soon?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// It would be closed again for the same reason.
    Never,
    /// At once or after a pause with jitter.
    Soon,
    /// Only after a long pause.
    Later,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal, $reconnect:ident, $label:literal;)*) => {
        /// Why a connection is closed by the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Close { $($(#[$doc])* $name,)* }

        impl Close {
            /// Every reason, in the order of their counters.
            pub const ALL: &[Close] = &[$(Close::$name,)*];

            /// The close code (RFC 6455 section 7.4).
            pub const fn code(self) -> u16 { match self { $(Close::$name => $code,)* } }

            /// The words in the close frame: at most 123 bytes, and nothing of the server's inside.
            pub const fn reason(self) -> &'static str { match self { $(Close::$name => $reason,)* } }

            /// May the client come back?
            pub const fn reconnect(self) -> Reconnect { match self { $(Close::$name => Reconnect::$reconnect,)* } }

            /// The name of its counter.
            pub const fn label(self) -> &'static str { match self { $(Close::$name => $label,)* } }
        }
    };
}

reasons! {
    /// The server stops for good.
    GoingAway = 1001, "Server is going away", Soon, "going_away";
    /// The peer broke RFC 6455.
    ProtocolError = 1002, "WebSocket protocol error", Never, "protocol_error";
    /// A binary message, where only text is understood.
    BinaryMessage = 1003, "Only text messages are accepted", Never, "binary_message";
    /// A text message that is not UTF-8.
    NotUtf8 = 1007, "Text is not UTF-8", Never, "not_utf8";
    /// No sign of life for two heartbeats. Often nobody is left to read the close frame.
    Idle = 1008, "No answer to pings", Later, "idle";
    /// Too many rejected messages in a row.
    TooManyErrors = 1008, "Too many errors", Later, "too_many_errors";
    /// A message over the byte limit.
    MessageTooBig = 1009, "Message is too big", Never, "message_too_big";
    /// A fault of the server's own.
    InternalError = 1011, "Internal error", Soon, "internal_error";
    /// The server restarts; sent spread over the drain time.
    Restart = 1012, "Server is restarting", Soon, "restart";
    /// The database could not be asked who this is.
    DatabaseUnavailable = 1013, "Try again later", Soon, "database_unavailable";
    /// The member fell out of its room's window: it reads too slowly.
    TooSlow = 1013, "Reading too slowly", Soon, "too_slow";
    /// The shard that the member sits on is overloaded and missed messages of the room. Reading faster would not have helped.
    CutOff = 1013, "Server is overloaded", Soon, "cut_off";
    /// The token is missing, unknown, or its user is not active.
    Unauthorized = 4001, "Unauthorized", Never, "unauthorized";
    /// The room is unknown, or the user is not a member of it.
    NotMember = 4003, "Not a member of this chat room", Never, "not_member";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn reasons_fit_their_frames_and_labels_differ() {
        let labels: HashSet<_> = Close::ALL.iter().map(|close| close.label()).collect();
        assert_eq!(labels.len(), Close::ALL.len());
        for close in Close::ALL {
            assert!((1..=123).contains(&close.reason().len()), "{close:?}: RFC 6455 5.5 bounds control frames");
            assert_eq!(Close::ALL[*close as usize], *close);
        }
    }
}
