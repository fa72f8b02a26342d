//! The way of a good message, from the received bytes to the frame that is broadcast, allocates nothing.
//!
//! An allocator that counts stands in for the real one; it counts the calls of this thread only.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::BytesMut;
use ringroom::{
    identity::UserId,
    protocol::{Envelope, Parser, output},
    stamp::Stamper,
    ws::frame::{Decoder, Event, Limits},
};
use uuid::Uuid;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed to `System` as it came; the count is a plain cell of the calling thread, made without
// allocating.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promises about `layout` are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` through `alloc` above, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A masked text frame, as a client sends it.
fn client_frame(payload: &str) -> Vec<u8> {
    let key = [9, 8, 7, 6];
    let mut frame = vec![0x81, 0xfe];
    frame.extend(u16::try_from(payload.len()).expect("a short payload").to_be_bytes());
    frame.extend(key);
    frame.extend(payload.bytes().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// How often one message allocates, after a few that let the buffers grow.
fn calls_a_message(payload: &str) -> usize {
    let limits = Limits { message_bytes_max: 65_536, binary: false };
    let (mut decoder, mut parser, mut stamper) = (Decoder::new(), Parser::new(), Stamper::seeded(1));
    let mut batch = BytesMut::with_capacity(1 << 20);
    let mut calls = 0;
    for _ in 0..4 {
        let mut received = client_frame(payload);
        let before = CALLS.get();
        let Ok((_, Some(Event::Text(text)))) = decoder.decode(&mut received, &limits) else { panic!("a text message") };
        let message = parser.parse(text, 4096).expect("a good message");
        let (id, timestamp) = stamper.stamp(1_704_110_400_000_000);
        let sender = UserId::Uuid(Uuid::nil());
        let (message, receiver) = (&*message.message, message.receiver);
        output::chat_message(&mut batch, &Envelope { message, sender, sender_username: "al", id, timestamp, receiver });
        calls = CALLS.get() - before;
    }
    calls
}

#[test]
fn a_good_message_allocates_nothing() {
    for message in ["x".repeat(100), "\\u00e9\\n\\\"".repeat(100), "\u{1f600}".repeat(1000)] {
        let receiver = "6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a";
        let payload = format!(
            r#"{{"type":"chat_message","message":"{message}","receiver_id":"{receiver}","other":[1,{{"a":2.5}},"\t"]}}"#
        );
        assert_eq!(calls_a_message(&payload), 0, "{} bytes", payload.len());
    }
}

#[test]
fn the_count_sees_an_allocation() {
    let lone_surrogate = format!(r#"{{"type":"chat_message","message":"{}","x":"\ud800"}}"#, "x".repeat(100));
    assert!(calls_a_message(&lone_surrogate) > 0, "the slow path allocates");
}
