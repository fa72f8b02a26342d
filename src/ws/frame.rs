//! A client's bytes become messages, pings and closes: RFC 6455 sections 5 and 7 as a state machine.
//!
//! In: whatever a receive brought, split anywhere. Out: one [`Event`] a call, or the [`Offence`] for which the connection
//! must be closed. The connection's shard owns the [`Decoder`]. It never reads a socket, never allocates for a message
//! that lies whole and in one frame in its input, and never allocates what a header only claims.

use std::{fmt, io::Cursor};

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

use super::{encode::CONTROL_BYTES_MAX, mask::unmask};
use crate::close::Close;

/// The longest header of a client's frame: two bytes, a length of 64 bits, a masking key.
const HEADER_BYTES_MAX: usize = 14;

/// The most that is reserved because a header claims it; beyond this a gathered message grows as its bytes arrive.
const RESERVE_BYTES_MAX: usize = 4096;

/// What a connection accepts.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest message, in bytes, over all of its fragments.
    pub message_bytes_max: usize,
    /// Whether binary messages are accepted at all.
    pub binary: bool,
}

/// What a client's bytes amount to. Payloads are unmasked and lie in the input where they came in, or in the decoder
/// when they came in pieces.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message. The bytes are UTF-8; they are mutable for a parser that works in place.
    Text(&'a mut [u8]),
    /// A binary message.
    Binary(&'a mut [u8]),
    /// A ping: to be answered with the same payload.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong(&'a [u8]),
    /// The client's last frame: its code, when it gave one, and its reason. What follows in the input is not read.
    Close(Option<u16>, &'a str),
}

macro_rules! offences {
    ($($(#[$doc:meta])* $name:ident = $close:ident, $text:literal;)*) => {
        /// How a peer broke the protocol. The connection is closed for it and its decoder not used again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Offence { $($(#[$doc])* $name,)* }

        impl Offence {
            /// Every offence.
            pub const ALL: &[Offence] = &[$(Offence::$name,)*];

            /// What the connection is closed with.
            pub const fn close(self) -> Close { match self { $(Offence::$name => Close::$close,)* } }
        }

        impl fmt::Display for Offence {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Offence::$name => $text,)* })
            }
        }
    };
}

offences! {
    /// A reserved bit is set, and no extension that gives it a meaning was agreed on (section 5.2).
    ReservedBits = ProtocolError, "a reserved bit is set, but no extension was negotiated";
    /// Opcodes 3 to 7 and 11 to 15 (section 5.2).
    ReservedOpcode = ProtocolError, "a frame has a reserved opcode";
    /// A client's frames must be masked (section 5.1).
    Unmasked = ProtocolError, "a frame is not masked";
    /// A length spelled with more bytes than it needs (section 5.2). Few servers mind; ringroom does, because one length
    /// having two spellings only ever serves those who want two readers to disagree.
    LengthNotMinimal = ProtocolError, "a payload length is not encoded in the fewest bytes";
    /// A 64-bit length with its top bit set (section 5.2).
    LengthTopBit = ProtocolError, "a payload length has its top bit set";
    /// A ping, pong or close in several frames (section 5.5).
    FragmentedControl = ProtocolError, "a control frame is fragmented";
    /// A ping, pong or close over 125 bytes (section 5.5).
    ControlTooLong = ProtocolError, "a control frame is longer than 125 bytes";
    /// A continuation while no message is open (section 5.4).
    UnexpectedContinuation = ProtocolError, "a continuation frame continues nothing";
    /// A new message while another is open (section 5.4).
    MessageInterrupted = ProtocolError, "a new message begins within a fragmented one";
    /// A close payload of one byte, which cannot be a code (section 5.5.1).
    ClosePayload = ProtocolError, "a close frame holds half a code";
    /// A close code that must not be sent, or has no meaning (section 7.4).
    CloseCodeInvalid = ProtocolError, "a close frame has a code that must not be sent";
    /// A text message or close reason that is not UTF-8 (section 8.1).
    NotUtf8 = NotUtf8, "text is not UTF-8";
    /// A message over [`Limits::message_bytes_max`].
    TooBig = MessageTooBig, "a message is over the byte limit";
    /// A binary message where [`Limits::binary`] forbids them.
    Binary = BinaryMessage, "a binary message, where only text is accepted";
}

/// The reading half of one connection. While nothing is pending it is one null pointer.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub const fn new() -> Decoder {
        Decoder { partial: None }
    }

    /// Is a frame or a fragmented message incomplete?
    pub fn is_pending(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| !partial.is_empty())
    }

    /// Reads from `input` up to the end of the next event and returns how many bytes that took. `None` means that all of
    /// `input` was taken and nothing is complete yet. Call again with the rest until it yields `None`: that last call
    /// also frees what a gathered message occupied.
    ///
    /// # Errors
    /// An [`Offence`] as soon as it shows: in the header for sizes and framing, in the first bad byte for text.
    pub fn decode<'a>(
        &'a mut self,
        input: &'a mut [u8],
        limits: &Limits,
    ) -> Result<(usize, Option<Event<'a>>), Offence> {
        self.give_back();
        if self.partial.is_none() {
            if input.is_empty() {
                return Ok((0, None));
            }
            let header = Header::read(input)?;
            if let Some(header) = header.filter(|header| header.is_whole_message(input)) {
                header.admit(None, limits)?;
                let end = header.bytes + header.payload_bytes;
                let payload = &mut input[header.bytes..end];
                unmask(payload, header.key, 0);
                return Ok((end, Some(event(header.opcode, payload)?)));
            }
        }
        let partial = self.partial.get_or_insert_default();
        let (taken, whole) = partial.gather(input, limits)?;
        let event = whole.map(|opcode| partial.lend(opcode)).transpose()?;
        Ok((taken, event))
    }

    /// Forgets what the last event lent out, and frees it when nothing else is pending.
    fn give_back(&mut self) {
        if let Some(partial) = &mut self.partial {
            partial.forget_lent();
            if partial.is_empty() {
                self.partial = None;
            }
        }
    }
}

/// A frame's header, checked as far as it can be without its neighbours.
#[derive(Clone, Copy, Debug)]
struct Header {
    opcode: OpCode,
    is_final: bool,
    key: [u8; 4],
    payload_bytes: usize,
    /// The header's own length.
    bytes: usize,
}

impl Header {
    /// `None` while the header is incomplete. A parser by hand takes 2 ns where tungstenite's takes 15 to 24
    /// (`benches/frame.rs`); of the 400 ns that a message costs until it is in its batch, that is not worth a second one.
    fn read(input: &[u8]) -> Result<Option<Header>, Offence> {
        let mut cursor = Cursor::new(input);
        // The only error that parsing has left is an opcode without a meaning.
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Offence::ReservedOpcode)?;
        let Some((head, payload_bytes)) = parsed else { return Ok(None) };
        let bytes = cursor.position() as usize;
        if head.rsv1 || head.rsv2 || head.rsv3 {
            return Err(Offence::ReservedBits);
        }
        let Some(key) = head.mask else { return Err(Offence::Unmasked) };
        if matches!(head.opcode, OpCode::Control(_)) {
            check_control(&head, payload_bytes)?;
        }
        if payload_bytes >> 63 != 0 {
            return Err(Offence::LengthTopBit);
        }
        if head.len(payload_bytes) != bytes {
            return Err(Offence::LengthNotMinimal);
        }
        let payload_bytes = usize::try_from(payload_bytes).map_err(|_| Offence::TooBig)?;
        Ok(Some(Header { opcode: head.opcode, is_final: head.is_final, key, payload_bytes, bytes }))
    }

    /// Does `input`, which begins with this header, hold all of a message in this one frame?
    fn is_whole_message(&self, input: &[u8]) -> bool {
        self.is_final && input.len() - self.bytes >= self.payload_bytes
    }

    /// May this frame come now, after the fragments in `message`, and is the message still small enough?
    fn admit(&self, message: Option<&Message>, limits: &Limits) -> Result<(), Offence> {
        let before = match (self.opcode, message) {
            (OpCode::Control(_), _) => return Ok(()),
            (OpCode::Data(Data::Continue), None) => return Err(Offence::UnexpectedContinuation),
            (OpCode::Data(Data::Continue), Some(message)) => message.bytes.len(),
            (OpCode::Data(_), Some(_)) => return Err(Offence::MessageInterrupted),
            (OpCode::Data(Data::Binary), None) if !limits.binary => return Err(Offence::Binary),
            (OpCode::Data(_), None) => 0,
        };
        if self.payload_bytes > limits.message_bytes_max.saturating_sub(before) {
            return Err(Offence::TooBig);
        }
        Ok(())
    }
}

fn check_control(head: &FrameHeader, payload_bytes: u64) -> Result<(), Offence> {
    if !head.is_final {
        return Err(Offence::FragmentedControl);
    }
    if payload_bytes > CONTROL_BYTES_MAX as u64 {
        return Err(Offence::ControlTooLong);
    }
    Ok(())
}

/// What is pending between two inputs: part of a header, a frame whose payload is arriving, a message in fragments.
#[derive(Debug, Default)]
struct Partial {
    /// The bytes of a header that has not fully arrived.
    head: [u8; HEADER_BYTES_MAX],
    head_bytes: usize,
    /// The frame whose payload is arriving, and how many bytes of it have.
    frame: Option<(Header, usize)>,
    /// The data message being gathered.
    message: Option<Message>,
    /// The payload of the control frame being gathered, which may come between the fragments of a message.
    control: Vec<u8>,
    /// What the last event borrows: the payload of a frame with this opcode.
    lent: Option<OpCode>,
}

impl Partial {
    fn is_empty(&self) -> bool {
        self.head_bytes == 0 && self.frame.is_none() && self.message.is_none()
    }

    fn forget_lent(&mut self) {
        match self.lent.take() {
            Some(OpCode::Data(_)) => self.message = None,
            Some(OpCode::Control(_)) => self.control.clear(),
            None => {}
        }
    }

    /// Takes bytes of `input` up to the end of a control frame or of a message; says how many, and the opcode of the frame
    /// that made it whole.
    fn gather(&mut self, input: &[u8], limits: &Limits) -> Result<(usize, Option<OpCode>), Offence> {
        let mut taken = 0;
        loop {
            let Some((header, arrived)) = self.frame else {
                taken += self.gather_header(&input[taken..], limits)?;
                if self.frame.is_none() {
                    return Ok((taken, None));
                }
                continue;
            };
            let piece = &input[taken..];
            let piece = &piece[..piece.len().min(header.payload_bytes - arrived)];
            self.gather_payload(&header, arrived, piece)?;
            taken += piece.len();
            if arrived + piece.len() < header.payload_bytes {
                self.frame = Some((header, arrived + piece.len()));
                return Ok((taken, None));
            }
            self.frame = None;
            if header.is_final {
                return Ok((taken, Some(header.opcode)));
            }
        }
    }

    /// Takes what is missing of the next frame's header, and opens the frame once it is complete.
    fn gather_header(&mut self, input: &[u8], limits: &Limits) -> Result<usize, Offence> {
        let before = self.head_bytes;
        let piece = &input[..input.len().min(HEADER_BYTES_MAX - before)];
        self.head[before..before + piece.len()].copy_from_slice(piece);
        let Some(header) = Header::read(&self.head[..before + piece.len()])? else {
            self.head_bytes += piece.len();
            return Ok(piece.len());
        };
        header.admit(self.message.as_ref(), limits)?;
        if let OpCode::Data(kind @ (Data::Text | Data::Binary)) = header.opcode {
            self.message = Some(Message::new(kind));
        }
        self.head_bytes = 0;
        self.frame = Some((header, 0));
        Ok(header.bytes - before)
    }

    /// Unmasks one more piece of the open frame's payload onto what is there of it.
    fn gather_payload(&mut self, header: &Header, arrived: usize, piece: &[u8]) -> Result<(), Offence> {
        let (bytes, message) = match (header.opcode, &mut self.message) {
            (OpCode::Data(_), Some(message)) => (&mut message.bytes, Some(&mut message.utf8)),
            _ => (&mut self.control, None),
        };
        let start = bytes.len();
        bytes.reserve((header.payload_bytes - arrived).min(RESERVE_BYTES_MAX));
        bytes.extend_from_slice(piece);
        unmask(&mut bytes[start..], header.key, arrived);
        match message {
            Some(Some(utf8)) => utf8.advance(bytes),
            _ => Ok(()),
        }
    }

    /// The event of what [`Partial::gather`] has just made whole. It stays here until [`Partial::forget_lent`].
    fn lend(&mut self, opcode: OpCode) -> Result<Event<'_>, Offence> {
        self.lent = Some(opcode);
        match (opcode, &mut self.message) {
            (OpCode::Data(_), Some(message)) => message.event(),
            _ => event(opcode, &mut self.control),
        }
    }
}

/// A data message of which not all is there.
#[derive(Debug)]
struct Message {
    /// The payload so far, unmasked.
    bytes: Vec<u8>,
    /// For text: how far it is checked.
    utf8: Option<Utf8>,
}

impl Message {
    fn new(kind: Data) -> Message {
        Message { bytes: Vec::new(), utf8: (kind == Data::Text).then(Utf8::default) }
    }

    fn event(&mut self) -> Result<Event<'_>, Offence> {
        match &self.utf8 {
            Some(utf8) if utf8.checked < self.bytes.len() => Err(Offence::NotUtf8),
            Some(_) => Ok(Event::Text(&mut self.bytes)),
            None => Ok(Event::Binary(&mut self.bytes)),
        }
    }
}

/// Text that is checked as it arrives.
#[derive(Debug, Default)]
struct Utf8 {
    /// The bytes known to be whole code points; at most three follow, the beginning of another.
    checked: usize,
}

impl Utf8 {
    /// Checks what is new in `text`. A code point may still be incomplete, but must be one that can be completed.
    fn advance(&mut self, text: &[u8]) -> Result<(), Offence> {
        match std::str::from_utf8(&text[self.checked..]) {
            Ok(_) => self.checked = text.len(),
            Err(error) if error.error_len().is_some() => return Err(Offence::NotUtf8),
            Err(error) => self.checked += error.valid_up_to(),
        }
        Ok(())
    }
}

/// The event of one whole frame with an unmasked payload.
#[inline]
fn event(opcode: OpCode, payload: &mut [u8]) -> Result<Event<'_>, Offence> {
    match opcode {
        OpCode::Data(Data::Text) if std::str::from_utf8(payload).is_ok() => Ok(Event::Text(payload)),
        OpCode::Data(Data::Text) => Err(Offence::NotUtf8),
        OpCode::Data(_) => Ok(Event::Binary(payload)),
        OpCode::Control(Control::Ping) => Ok(Event::Ping(payload)),
        OpCode::Control(Control::Close) => close_event(payload),
        OpCode::Control(_) => Ok(Event::Pong(payload)),
    }
}

/// A close frame's code and reason (section 5.5.1).
fn close_event(payload: &[u8]) -> Result<Event<'_>, Offence> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(Event::Close(None, "")) } else { Err(Offence::ClosePayload) };
    };
    let code = u16::from_be_bytes(*code);
    if !may_be_sent(code) {
        return Err(Offence::CloseCodeInvalid);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| Offence::NotUtf8)?;
    Ok(Event::Close(Some(code), reason))
}

/// May a peer send this close code (section 7.4 and its IANA registry)? 1014, "bad gateway", was registered later than
/// tungstenite's list.
fn may_be_sent(code: u16) -> bool {
    code == 1014 || CloseCode::from(code).is_allowed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { message_bytes_max: 1000, binary: true };
    const KEY: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

    /// A client's frame; `first` is its first byte.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..=125 => bytes.push(0x80 | len as u8),
            len @ 126..=65_535 => bytes.extend([&[0xfe][..], &(len as u16).to_be_bytes()].concat()),
            len => bytes.extend([&[0xff][..], &(len as u64).to_be_bytes()].concat()),
        }
        bytes.extend(KEY);
        bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
        bytes
    }

    /// Feeds `input` in pieces of `step` bytes; the events as text, the last of them the offence if there was one.
    fn fed(input: &[u8], step: usize, limits: &Limits) -> Vec<String> {
        let (mut decoder, mut events) = (Decoder::new(), Vec::new());
        for piece in input.chunks(step) {
            let mut piece = piece.to_vec();
            let mut at = 0;
            loop {
                match decoder.decode(&mut piece[at..], limits) {
                    Ok((taken, Some(event))) => {
                        events.push(shown(&event));
                        at += taken;
                    }
                    Ok((taken, None)) => {
                        assert_eq!(at + taken, piece.len(), "None means that all input was taken");
                        break;
                    }
                    Err(offence) => {
                        events.push(format!("{offence:?}"));
                        return events;
                    }
                }
            }
        }
        events
    }

    fn shown(event: &Event<'_>) -> String {
        match event {
            Event::Text(bytes) => format!("text {}", std::str::from_utf8(bytes).expect("checked by the decoder")),
            Event::Binary(bytes) => format!("binary {bytes:?}"),
            Event::Ping(bytes) => format!("ping {bytes:?}"),
            Event::Pong(bytes) => format!("pong {bytes:?}"),
            Event::Close(code, reason) => format!("close {code:?} {reason}"),
        }
    }

    #[track_caller]
    fn check(input: &[u8], expected: &[&str]) {
        for step in [input.len().max(1), 1, 2, 3, 7] {
            assert_eq!(fed(input, step, &LIMITS), expected, "in pieces of {step}");
        }
    }

    #[test]
    fn messages_come_out_however_they_are_cut() {
        check(&frame(0x81, b""), &["text "]);
        check(&frame(0x81, "h\u{e9}llo".as_bytes()), &["text h\u{e9}llo"]);
        check(&frame(0x82, &[0xff, 0]), &["binary [255, 0]"]);
        check(&[frame(0x81, b"a"), frame(0x81, b"b")].concat(), &["text a", "text b"]);
        check(&[frame(0x01, b"a"), frame(0x00, b""), frame(0x80, b"b")].concat(), &["text ab"]);
    }

    #[test]
    fn control_frames_pass_between_the_fragments_of_a_message() {
        let stream = [frame(0x01, b"a"), frame(0x89, b"1"), frame(0x8a, b"2"), frame(0x80, b"b"), frame(0x88, b"")];
        check(&stream.concat(), &["ping [49]", "pong [50]", "text ab", "close None "]);
    }

    #[test]
    fn each_offence_is_named() {
        let unmasked = [0x81, 0x01, b'a'];
        let long_form = [&[0x81, 0xfe, 0, 1][..], &KEY, b"a"].concat();
        let longest_form = [&[0x81, 0xff, 0, 0, 0, 0, 0, 0, 1, 0][..], &KEY].concat();
        let top_bit = [&[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &KEY].concat();
        for (input, offence) in [
            (frame(0xc1, b""), Offence::ReservedBits),
            (frame(0xa1, b""), Offence::ReservedBits),
            (frame(0x91, b""), Offence::ReservedBits),
            (frame(0x83, b""), Offence::ReservedOpcode),
            (frame(0x8f, b""), Offence::ReservedOpcode),
            (unmasked.to_vec(), Offence::Unmasked),
            (long_form, Offence::LengthNotMinimal),
            (longest_form, Offence::LengthNotMinimal),
            (top_bit, Offence::LengthTopBit),
            (frame(0x09, b""), Offence::FragmentedControl),
            (frame(0x89, &[0; 126]), Offence::ControlTooLong),
            (frame(0x80, b""), Offence::UnexpectedContinuation),
            ([frame(0x01, b"a"), frame(0x81, b"b")].concat(), Offence::MessageInterrupted),
            (frame(0x88, &[3]), Offence::ClosePayload),
            (frame(0x88, &[3, 0xed]), Offence::CloseCodeInvalid),
            (frame(0x88, &[3, 0xe8, 0xff]), Offence::NotUtf8),
            (frame(0x81, &[0xff]), Offence::NotUtf8),
            (frame(0x81, &[0xe2, 0x82]), Offence::NotUtf8),
            (frame(0x82, &[0; 1001]), Offence::TooBig),
        ] {
            check(&input, &[&format!("{offence:?}")]);
        }
        let text_only = Limits { binary: false, ..LIMITS };
        assert_eq!(fed(&frame(0x02, b""), 6, &text_only), ["Binary"]);
    }

    #[test]
    fn close_codes_follow_the_registry() {
        let valid = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        for code in 0..=u16::MAX {
            assert_eq!(may_be_sent(code), valid(code), "{code}");
        }
    }

    #[test]
    fn sizes_fail_in_the_header_before_any_payload() {
        let claim = &frame(0x82, &[0; 1001])[..8];
        assert_eq!(fed(claim, 8, &LIMITS), ["TooBig"]);
        let fragments = [frame(0x02, &[0; 600]), frame(0x00, &[0; 401])[..8].to_vec()].concat();
        assert_eq!(fed(&fragments, 5, &LIMITS), ["TooBig"]);
        let fits = [frame(0x02, &[0; 600]), frame(0x80, &[0; 400])].concat();
        assert_eq!(fed(&fits, 5, &LIMITS).len(), 1);
    }

    #[test]
    fn text_fails_at_its_first_bad_byte() {
        // Autobahn 6.4: the rest of the message never arrives, and need not.
        let bad = frame(0x01, &[b'o', b'k', 0xf4, 0x90, 0x80, 0x80]);
        for cut in 0..bad.len() {
            let expected: &[&str] = if cut < 6 + 4 { &[] } else { &["NotUtf8"] };
            assert_eq!(fed(&bad[..cut], 1, &LIMITS), expected, "after {cut} bytes");
        }
        let half = [frame(0x01, &[0xce]), frame(0x00, &[0x61])].concat();
        check(&half, &["NotUtf8"]);
        let euro = [frame(0x01, &[0xe2]), frame(0x89, b""), frame(0x00, &[0x82]), frame(0x80, &[0xac])].concat();
        check(&euro, &["ping []", "text \u{20ac}"]);
    }

    #[test]
    fn an_idle_connection_keeps_one_pointer_and_a_claim_allocates_little() {
        assert_eq!(size_of::<Decoder>(), size_of::<usize>());
        let limits = Limits { message_bytes_max: 64 << 20, binary: true };
        let claim = [&[0x82, 0xff][..], &(64_u64 << 20).to_be_bytes(), &KEY, b"few"].concat();
        let mut decoder = Decoder::new();
        assert!(matches!(decoder.decode(&mut claim.clone(), &limits), Ok((17, None))));
        let message = decoder.partial.as_ref().and_then(|partial| partial.message.as_ref()).expect("a pending message");
        assert!(message.bytes.capacity() <= 2 * RESERVE_BYTES_MAX, "{}", message.bytes.capacity());

        let mut decoder = Decoder::new();
        let (mut first, mut second) = (frame(0x81, b"hello"), Vec::new());
        second.extend(first.split_off(8));
        assert!(matches!(decoder.decode(&mut first, &limits), Ok((8, None))));
        assert!(decoder.is_pending());
        assert!(matches!(decoder.decode(&mut second, &limits), Ok((3, Some(Event::Text(_))))));
        assert!(matches!(decoder.decode(&mut [], &limits), Ok((0, None))));
        assert!(decoder.partial.is_none(), "the last call frees what was gathered");
    }
}
