//! The frame decoder understands every stream as RFC 6455 has it, however the stream is cut into receives.
//!
//! First the edge cases that conformance suites ask for, in their order; then random streams, good and bad, against a
//! decoder that is given the whole stream and takes it apart in the plainest way. `RINGROOM_SEED` repeats a run.

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ringroom::ws::frame::{Decoder, Event, Limits};

const LIMITS: Limits = Limits { message_bytes_max: 16 << 20, binary: true };

const CONTINUE: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// What a stream amounts to, one step after the other; a [`Seen::Closed`] is the last.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    /// The stream was cut off with this code.
    Closed(u16),
}

/// A masked frame with any first byte.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len @ 126..65_536 => bytes.extend([&[0xfe], &(len as u16).to_be_bytes()[..]].concat()),
        len => bytes.extend([&[0xff], &(len as u64).to_be_bytes()[..]].concat()),
    }
    let key = [0xa5, 0x0f, 0x3c, 0x71];
    bytes.extend(key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// Gives the decoder one receive after the other; it stops at a close frame and at an offence.
fn decoded<'a>(receives: impl IntoIterator<Item = &'a [u8]>, limits: &Limits) -> Vec<Seen> {
    let (mut decoder, mut seen) = (Decoder::new(), Vec::new());
    for receive in receives {
        let mut buffer = receive.to_vec();
        let mut at = 0;
        loop {
            let (taken, event) = match decoder.decode(&mut buffer[at..], limits) {
                Ok(step) => step,
                Err(offence) => {
                    seen.push(Seen::Closed(offence.close().code()));
                    return seen;
                }
            };
            at += taken;
            let Some(event) = event else { break };
            seen.push(kept(&event));
            if let Event::Close(..) = event {
                return seen;
            }
        }
        assert_eq!(at, buffer.len(), "a receive is taken whole");
    }
    seen
}

fn kept(event: &Event<'_>) -> Seen {
    match event {
        Event::Text(bytes) => Seen::Text(String::from_utf8(bytes.to_vec()).expect("the decoder checked it")),
        Event::Binary(bytes) => Seen::Binary(bytes.to_vec()),
        Event::Ping(bytes) => Seen::Ping(bytes.to_vec()),
        Event::Pong(bytes) => Seen::Pong(bytes.to_vec()),
        Event::Close(code, reason) => Seen::Close(*code, (*reason).to_owned()),
    }
}

/// The stream of `frames`, whole and in pieces of several sizes, amounts to `expected`.
#[track_caller]
fn check(frames: &[Vec<u8>], expected: &[Seen]) {
    let stream = frames.concat();
    for step in [usize::MAX, 1, 2, 997] {
        if step < 100 && stream.len() > 200_000 {
            continue;
        }
        let seen = decoded(stream.chunks(step.min(stream.len())), &LIMITS);
        assert!(seen == expected, "in pieces of {step}: {seen:.200?}\nexpected {expected:.200?}");
    }
}

fn text(text: impl Into<String>) -> Seen {
    Seen::Text(text.into())
}

fn close(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | CLOSE, [&code.to_be_bytes()[..], reason.as_ref()].concat())
}

#[test]
fn case_1_messages_of_every_size_class() {
    for len in [0, 1, 125, 126, 127, 128, 65_535, 65_536] {
        check(&[frame(FIN | TEXT, "*".repeat(len))], &[text("*".repeat(len))]);
        check(&[frame(FIN | BINARY, vec![0xfe; len])], &[Seen::Binary(vec![0xfe; len])]);
    }
}

#[test]
fn case_2_pings_and_pongs() {
    for payload in [&b""[..], b"Hello", &[0, 255, 254, 253], &[0xfe; 125]] {
        check(&[frame(FIN | PING, payload)], &[Seen::Ping(payload.to_vec())]);
        check(&[frame(FIN | PONG, payload)], &[Seen::Pong(payload.to_vec())]);
    }
    for opcode in [PING, PONG, CLOSE] {
        check(&[frame(FIN | opcode, [0xfe; 126])], &[Seen::Closed(1002)]);
    }
    let ten: Vec<_> = (0..10).map(|number| frame(FIN | PING, [number])).collect();
    check(&ten, &(0..10).map(|number| Seen::Ping(vec![number])).collect::<Vec<_>>());
}

#[test]
fn case_3_reserved_bits() {
    for bits in 1..8_u8 {
        for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
            let reserved = frame(FIN | bits << 4 | opcode, "");
            check(&[frame(FIN | TEXT, "before"), reserved], &[text("before"), Seen::Closed(1002)]);
        }
    }
}

#[test]
fn case_4_reserved_opcodes() {
    for opcode in (3..8).chain(11..16) {
        for payload in ["", "payload"] {
            let stream = [frame(FIN | TEXT, "before"), frame(FIN | opcode, payload), frame(FIN | PING, "")];
            check(&stream, &[text("before"), Seen::Closed(1002)]);
        }
    }
}

#[test]
fn case_5_fragments() {
    let first = || frame(TEXT, "frag");
    let middle = || frame(CONTINUE, "men");
    let last = || frame(FIN | CONTINUE, "t");
    let ping = || frame(FIN | PING, "p");
    let pinged = || Seen::Ping(b"p".to_vec());
    check(&[first(), last()], &[text("fragt")]);
    check(&[first(), ping(), middle(), ping(), last()], &[pinged(), pinged(), text("fragment")]);
    check(&[frame(TEXT, ""), frame(CONTINUE, ""), frame(FIN | CONTINUE, "")], &[text("")]);
    check(&[first(), last(), frame(FIN | CONTINUE, "x")], &[text("fragt"), Seen::Closed(1002)]);
    check(&[frame(FIN | CONTINUE, "x"), frame(FIN | TEXT, "x")], &[Seen::Closed(1002)]);
    check(&[frame(CONTINUE, "x"), frame(FIN | TEXT, "x")], &[Seen::Closed(1002)]);
    check(&[first(), frame(FIN | TEXT, "x")], &[Seen::Closed(1002)]);
    check(&[first(), frame(BINARY, "x")], &[Seen::Closed(1002)]);
    check(&[frame(PING, "p"), frame(FIN | CONTINUE, "p")], &[Seen::Closed(1002)]);
    check(&[frame(PONG, "p")], &[Seen::Closed(1002)]);
    check(&[first(), close(1000, "")], &[Seen::Close(Some(1000), String::new())]);
    let twice = [first(), middle(), last(), frame(BINARY, [1]), ping(), frame(FIN | CONTINUE, [2])];
    check(&twice, &[text("fragment"), pinged(), Seen::Binary(vec![1, 2])]);
}

/// Texts that UTF-8 can hold, among them the first and last of each length, and noncharacters.
const GOOD_TEXT: &[&str] = &[
    "\u{3ba}\u{1f79}\u{3c3}\u{3bc}\u{3b5}",
    "\0\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}",
    "\u{d7ff}\u{e000}\u{fffd}\u{fffe}\u{1fffe}\u{feff}",
];

/// Bytes that are no UTF-8, each bad at its last byte at the latest.
const BAD_TEXT: &[&[u8]] = &[
    &[0x80],
    &[0xbf, 0x80],
    &[0xfe],
    &[0xff],
    &[0xc0, 0xaf],
    &[0xc1, 0xbf],
    &[0xe0, 0x80, 0xaf],
    &[0xe0, 0x9f, 0xbf],
    &[0xf0, 0x80, 0x80, 0xaf],
    &[0xf0, 0x8f, 0xbf, 0xbf],
    &[0xed, 0xa0, 0x80],
    &[0xed, 0xbf, 0xbf],
    &[0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80],
    &[0xf4, 0x90, 0x80, 0x80],
    &[0xf5, 0x80, 0x80, 0x80],
    &[0xf8, 0x88, 0x80, 0x80, 0x80],
    &[0xfc, 0x84, 0x80, 0x80, 0x80, 0x80],
    &[0xc3, 0x28],
    &[0xe2, 0x82, 0x28],
    &[0xf0, 0x9f, 0x98, 0x28],
];

#[test]
fn case_6_utf8_good_and_bad_whole_and_in_fragments() {
    for good in GOOD_TEXT {
        check(&[frame(FIN | TEXT, good)], &[text(*good)]);
        let bytes: Vec<_> = good.bytes().map(|byte| frame(CONTINUE, [byte])).collect();
        check(&[&[frame(TEXT, "")], &bytes[..], &[frame(FIN | CONTINUE, "")]].concat(), &[text(*good)]);
    }
    for bad in BAD_TEXT {
        let payload = [b"ok ", *bad].concat();
        check(&[frame(FIN | TEXT, &payload)], &[Seen::Closed(1007)]);
        let bytes: Vec<_> = payload.iter().map(|byte| frame(CONTINUE, [*byte])).collect();
        check(&[&[frame(TEXT, "")], &bytes[..], &[frame(FIN | CONTINUE, "")]].concat(), &[Seen::Closed(1007)]);
        check(&[frame(FIN | BINARY, &payload)], &[Seen::Binary(payload)]);
    }
    for cut in ["\u{e9}", "\u{20ac}", "\u{1f600}"] {
        for len in 1..cut.len() {
            check(&[frame(FIN | TEXT, &cut.as_bytes()[..len])], &[Seen::Closed(1007)]);
            let stream = [frame(TEXT, &cut.as_bytes()[..len]), frame(FIN | CONTINUE, "")];
            check(&stream, &[Seen::Closed(1007)]);
        }
    }
}

#[test]
fn case_6_4_bad_text_fails_before_its_frame_and_its_message_end() {
    for bad in BAD_TEXT {
        let whole = frame(FIN | TEXT, [b"ok ", *bad, &[b'x'; 50]].concat());
        let until_bad = &whole[..6 + 3 + bad.len()];
        for receives in [vec![until_bad], until_bad.chunks(1).collect()] {
            assert_eq!(decoded(receives, &LIMITS), [Seen::Closed(1007)], "{bad:x?}");
        }
        check(&[frame(TEXT, bad)], &[Seen::Closed(1007)]);
    }
}

#[test]
fn case_7_closes() {
    check(&[frame(FIN | CLOSE, "")], &[Seen::Close(None, String::new())]);
    check(&[frame(FIN | CLOSE, "x")], &[Seen::Closed(1002)]);
    check(&[close(1000, "Hello"), frame(FIN | PING, "")], &[Seen::Close(Some(1000), "Hello".into())]);
    check(&[close(1000, "x".repeat(123))], &[Seen::Close(Some(1000), "x".repeat(123))]);
    check(&[close(1000, "x".repeat(124))], &[Seen::Closed(1002)]);
    for bad in BAD_TEXT {
        check(&[close(1000, bad)], &[Seen::Closed(1007)]);
    }
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        check(&[close(code, "")], &[Seen::Close(Some(code), String::new())]);
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        check(&[close(code, "")], &[Seen::Closed(1002)]);
    }
}

#[test]
fn case_9_large_messages_and_their_bound() {
    let len = LIMITS.message_bytes_max;
    let payload = "*".repeat(len);
    check(&[frame(FIN | TEXT, &payload)], &[text(payload.clone())]);
    let fragments: Vec<_> = payload.as_bytes()[..1 << 18].chunks(64).map(|piece| frame(CONTINUE, piece)).collect();
    let stream = [&[frame(BINARY, "")], &fragments[..], &[frame(FIN | CONTINUE, "")]].concat();
    check(&stream, &[Seen::Binary(payload.as_bytes()[..1 << 18].to_vec())]);
    let header = |len: usize| frame(FIN | BINARY, vec![0; len])[..14].to_vec();
    check(&[header(len + 1)], &[Seen::Closed(1009)]);
    check(&[header(len)], &[]);
}

/// Reads a whole stream at once, by the letter of RFC 6455.
struct Naive<'a> {
    rest: &'a [u8],
    limits: Limits,
    /// Is a message open, is it text, and what of it is there?
    message: Option<(bool, Vec<u8>)>,
    seen: Vec<Seen>,
}

impl Naive<'_> {
    fn decoded(stream: &[u8], limits: Limits) -> Vec<Seen> {
        let mut naive = Naive { rest: stream, limits, message: None, seen: Vec::new() };
        while let Some(step) = naive.frame() {
            match step {
                Ok(()) if matches!(naive.seen.last(), Some(Seen::Close(..))) => break,
                Ok(()) => {}
                Err(code) => {
                    naive.seen.push(Seen::Closed(code));
                    break;
                }
            }
        }
        naive.seen
    }

    /// `None` when no more of the stream can be judged.
    fn frame(&mut self) -> Option<Result<(), u16>> {
        let (first, second) = (*self.rest.first()?, *self.rest.get(1)?);
        let (header, len) = match second & 0x7f {
            126 => (4, u64::from(u16::from_be_bytes(self.rest.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(self.rest.get(2..10)?.try_into().ok()?)),
            len => (2, u64::from(len)),
        };
        if second & 0x80 == 0 {
            return Some(Err(1002));
        }
        let key: [u8; 4] = self.rest.get(header..header + 4)?.try_into().ok()?;
        let minimal = if len < 126 {
            2
        } else if len < 65_536 {
            4
        } else {
            10
        };
        if first & 0x70 != 0 || header != minimal || len >> 63 != 0 {
            return Some(Err(1002));
        }
        let there = &self.rest[header + 4..];
        let there = &there[..there.len().min(usize::try_from(len).ok()?)];
        let payload: Vec<u8> = there.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
        let is_whole = payload.len() as u64 == len;
        self.rest = &self.rest[header + 4 + payload.len()..];
        let result = match first & 0x0f {
            0..=2 => self.data(first & FIN != 0, first & 0x0f, len, payload, is_whole),
            8..=10 if first & FIN == 0 || len > 125 => Err(1002),
            8..=10 if !is_whole => return None,
            CLOSE => self.close(&payload),
            PING => self.see(Seen::Ping(payload)),
            PONG => self.see(Seen::Pong(payload)),
            _ => Err(1002),
        };
        Some(result)
    }

    fn see(&mut self, seen: Seen) -> Result<(), u16> {
        self.seen.push(seen);
        Ok(())
    }

    fn data(&mut self, is_final: bool, opcode: u8, len: u64, payload: Vec<u8>, is_whole: bool) -> Result<(), u16> {
        if (opcode == CONTINUE) != self.message.is_some() {
            return Err(1002);
        }
        if opcode == BINARY && !self.limits.binary {
            return Err(1003);
        }
        let (is_text, mut bytes) = self.message.take().unwrap_or((opcode == TEXT, Vec::new()));
        if bytes.len() as u64 + len > self.limits.message_bytes_max as u64 {
            return Err(1009);
        }
        bytes.extend(payload);
        if is_text && !could_become_text(&bytes) {
            return Err(1007);
        }
        match (is_final && is_whole, is_text) {
            (false, _) => self.message = Some((is_text, bytes)),
            (true, true) => self.seen.push(Seen::Text(String::from_utf8(bytes).map_err(|_| 1007_u16)?)),
            (true, false) => self.seen.push(Seen::Binary(bytes)),
        }
        Ok(())
    }

    fn close(&mut self, payload: &[u8]) -> Result<(), u16> {
        let (code, reason) = match payload {
            [] => (None, &[][..]),
            [_] => return Err(1002),
            [high, low, reason @ ..] => (Some(u16::from_be_bytes([*high, *low])), reason),
        };
        if code.is_some_and(|code| !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)) {
            return Err(1002);
        }
        let reason = String::from_utf8(reason.to_vec()).map_err(|_| 1007_u16)?;
        self.see(Seen::Close(code, reason))
    }
}

/// Is there any continuation that makes `bytes` UTF-8? Tried, not reasoned.
fn could_become_text(bytes: &[u8]) -> bool {
    const ENDS: &[u8] = &[0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf];
    let is_text = |end: &[u8]| std::str::from_utf8(&[bytes, end].concat()).is_ok();
    is_text(&[])
        || ENDS.iter().any(|a| {
            is_text(&[*a]) || ENDS.iter().any(|b| is_text(&[*a, *b]) || ENDS.iter().any(|c| is_text(&[*a, *b, *c])))
        })
}

/// A few frames, mostly such as follow the rules, with a fault here and there.
fn random_stream(random: &mut StdRng) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut is_open = false;
    for _ in 0..random.random_range(1..8) {
        let opcode = match (random.random_range(0..100), is_open) {
            (0..15, _) => *[PING, PONG].choose(random).expect("two"),
            (15..18, _) => CLOSE,
            (18..20, _) => random.random_range(0..16),
            (_, true) => CONTINUE,
            (_, false) => *[TEXT, TEXT, BINARY].choose(random).expect("three"),
        };
        let is_final = opcode >= 8 || random.random_bool(0.5);
        is_open = if opcode >= 8 { is_open } else { !is_final };
        let mut bytes = frame(if is_final { FIN } else { 0 } | opcode, random_payload(random, opcode));
        if random.random_bool(0.03) {
            let at = random.random_range(0..bytes.len().min(8));
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        if random.random_bool(0.05) {
            bytes.truncate(random.random_range(0..bytes.len()));
        }
        stream.extend(bytes);
    }
    stream
}

fn random_payload(random: &mut StdRng, opcode: u8) -> Vec<u8> {
    let len = *[0, 1, 2, 5, 20, 125, 126, 300, 1000].choose(random).expect("nine");
    let mut payload: Vec<u8> = match random.random_range(0..10) {
        0 => {
            let mut noise = vec![0; len];
            random.fill_bytes(&mut noise);
            noise
        }
        1 => [*BAD_TEXT.choose(random).expect("some"), &vec![b'x'; len / 2]].concat(),
        _ => "a\u{e9}\u{20ac}\u{1f600}".bytes().cycle().skip(random.random_range(0..2)).take(len).collect(),
    };
    if opcode == CLOSE && random.random_bool(0.8) {
        let code: u16 = *[1000, 1001, 1005, 1014, 3000, 4999, 5000].choose(random).expect("seven");
        payload = [&code.to_be_bytes()[..], b"bye"].concat();
    }
    if opcode >= 8 {
        payload.truncate(125)
    }
    payload
}

/// The stream, cut at random places.
fn random_receives<'a>(random: &mut StdRng, mut stream: &'a [u8]) -> Vec<&'a [u8]> {
    let longest = *[1, 3, 17, 400, 5000].choose(random).expect("five");
    let mut receives = Vec::new();
    while !stream.is_empty() {
        let (receive, rest) = stream.split_at(random.random_range(1..=longest).min(stream.len()));
        receives.push(receive);
        stream = rest;
    }
    receives
}

#[test]
fn random_streams_are_understood_as_a_naive_decoder_understands_them() {
    let seed =
        std::env::var("RINGROOM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("RINGROOM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut whole, mut closed) = (0, 0);
    for round in 0..5_000 {
        let stream = random_stream(&mut random);
        let limits = Limits { message_bytes_max: 1500, binary: random.random_bool(0.9) };
        let expected = Naive::decoded(&stream, limits);
        let receives = random_receives(&mut random, &stream);
        assert_eq!(decoded([&stream[..]], &limits), expected, "round {round}, one receive: {stream:x?}");
        assert_eq!(decoded(receives, &limits), expected, "round {round}, cut up: {stream:x?}");
        whole += expected.iter().filter(|seen| matches!(seen, Seen::Text(_) | Seen::Binary(_))).count();
        closed += usize::from(matches!(expected.last(), Some(Seen::Closed(_))));
    }
    assert!(whole > 2_500 && (500..4_500).contains(&closed), "{whole} messages, {closed} streams with an offence");
}
