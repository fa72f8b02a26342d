// ringroom's protocol as the Node library `ws` sees it, and as bytes on a bare socket where no library would send them.
// Needs the two page addresses that `ringroom demo` prints, in RINGROOM_URL_ALICE and RINGROOM_URL_BOB.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import net from "node:net";
import { after, test } from "node:test";
import WebSocket from "ws";

const DEADLINE_MS = 10_000;
const options = { timeout: 2 * DEADLINE_MS };

/** A member's place in the room, out of the address of their page. */
function seat(variable) {
  const page = new URL(process.env[variable] ?? assert.fail(`set ${variable}`));
  const { room, token } = Object.fromEntries(new URLSearchParams(page.hash.slice(1)));
  const bare = (to = room) => `ws://${page.host}/ws/chat/${to}/`;
  return { page, room, token, bare, url: (to) => `${bare(to)}?token=${token}` };
}

const alice = seat("RINGROOM_URL_ALICE");
const bob = seat("RINGROOM_URL_BOB");
const chat = (message, more) => JSON.stringify({ type: "chat_message", message, ...more });

const within = (promise, what) => {
  const late = new Promise((_, reject) =>
    setTimeout(() => reject(new Error(`not in time: ${what}`)), DEADLINE_MS).unref(),
  );
  return Promise.race([promise, late]);
};

// A test that failed has left its connection open, and the process would wait for it.
const opened = [];
after(() => opened.forEach((socket) => (socket.terminate ?? socket.destroy).call(socket)));

/** Everything that arrives on a socket, in order; `next()` takes one message, `closed` is the code at the end. */
class Ear {
  #heard = [];
  #waiting = [];

  constructor(socket) {
    this.socket = socket;
    opened.push(socket);
    this.closed = new Promise((resolve) => socket.on("close", (code, reason) => resolve({ code, reason: `${reason}` })));
    socket.on("error", () => {});
    socket.on("message", (data) => {
      const waiting = this.#waiting.shift();
      if (waiting) waiting(`${data}`);
      else this.#heard.push(`${data}`);
    });
  }

  text() {
    const heard = this.#heard.shift();
    return heard === undefined ? within(new Promise((resolve) => this.#waiting.push(resolve)), "a message") : heard;
  }

  async next() {
    return JSON.parse(await this.text());
  }

  async end() {
    return within(this.closed, "the close");
  }

  async leave() {
    this.socket.close(1000);
    assert.equal((await this.end()).code, 1000);
  }
}

/** A member who has been greeted. */
async function sit(at, ...how) {
  const ear = new Ear(new WebSocket(...(how.length ? how : [at.url()])));
  ear.greeting = await ear.next();
  assert.equal(ear.greeting.type, "connection_established");
  return ear;
}

test("the first clients of this chat are served as ever", options, async () => {
  const ws = new WebSocket(`ws://${alice.page.host}/ws/chat/${alice.room}/?token=${alice.token}`);
  opened.push(ws);
  const received = [];
  const done = new Promise((resolve, reject) => {
    ws.onopen = () =>
      ws.send(JSON.stringify({ type: "chat_message", message: "Hello from JavaScript!", receiver_id: null }));
    ws.onmessage = (event) => {
      received.push(JSON.parse(event.data));
      if (received.length === 2) ws.close();
    };
    ws.onclose = (event) => resolve(event);
    ws.onerror = reject;
  });
  const closed = await within(done, "the conversation");
  assert.deepEqual(
    received.map(({ type }) => type),
    ["connection_established", "chat_message"],
  );
  assert.equal(received[1].message, "Hello from JavaScript!");
  assert.equal(received[1].receiver_id, null);
  assert.equal(closed.code, 1005, "a close without a code is echoed without one");
  assert.ok(closed.wasClean);
});

test("a token comes by query, header or sub-protocol", options, async () => {
  const ways = [
    [alice.url()],
    [alice.bare(), { headers: { Authorization: `Token ${alice.token}` } }],
    [alice.bare(), { headers: { Authorization: `Bearer ${alice.token}` } }],
    [alice.bare(), ["ringroom.v1", `token.${alice.token}`]],
  ];
  for (const way of ways) {
    const ear = await sit(alice, ...way);
    assert.deepEqual(Object.keys(ear.greeting), ["type", "message", "user_id", "username"]);
    assert.equal(ear.greeting.username, "alice");
    assert.equal(ear.socket.protocol, Array.isArray(way[1]) ? "ringroom.v1" : "");
    await ear.leave();
  }
});

test("compression is offered and not taken", options, async () => {
  const ear = await sit(alice, alice.url(), { perMessageDeflate: true });
  assert.equal(ear.socket.extensions, "");
  await ear.leave();
});

test("both members get the same bytes, every field in order", options, async () => {
  const [one, two] = [await sit(alice), await sit(bob)];
  one.socket.send(chat("für Bob 👋", { receiver_id: two.greeting.user_id }));
  const [own, other] = [await one.text(), await two.text()];
  assert.equal(own, other);
  const message = JSON.parse(own);
  assert.deepEqual(Object.entries(message), [
    ["type", "chat_message"],
    ["message", "für Bob 👋"],
    ["sender_id", one.greeting.user_id],
    ["sender_username", "alice"],
    ["message_id", message.message_id],
    ["timestamp", message.timestamp],
    ["receiver_id", two.greeting.user_id],
  ]);
  assert.match(message.message_id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.match(message.timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
  await Promise.all([one.leave(), two.leave()]);
});

test("fifty messages at once arrive once and in one order", options, async () => {
  const ears = [await sit(alice), await sit(bob)];
  const texts = Array.from({ length: 50 }, (_, index) => `${index} together`);
  texts.forEach((text, index) => ears[index % 2].socket.send(chat(text)));
  const [first, second] = [[], []];
  for (let count = 0; count < texts.length; count += 1) {
    first.push(await ears[0].next());
    second.push(await ears[1].next());
  }
  assert.deepEqual(first, second);
  assert.deepEqual(first.map(({ message }) => message).sort(), [...texts].sort());
  const ids = first.map(({ message_id }) => message_id);
  assert.deepEqual(ids, [...new Set(ids)].sort());
  await Promise.all(ears.map((ear) => ear.leave()));
});

test("an error keeps the connection open", options, async () => {
  const ear = await sit(alice);
  ear.socket.send("{");
  assert.deepEqual(await ear.next(), { type: "error", message: "Invalid JSON format", code: "invalid_json" });
  ear.socket.send(chat("still here"));
  assert.equal((await ear.next()).message, "still here");
  await ear.leave();
});

test("pings are answered, also between the fragments of a message", options, async () => {
  const ear = await sit(alice);
  const pong = async (payload) => {
    const answer = once(ear.socket, "pong");
    ear.socket.ping(payload);
    assert.deepEqual((await within(answer, "a pong"))[0], payload);
  };
  for (const payload of [Buffer.alloc(0), Buffer.from("payload"), Buffer.alloc(125, 7)]) await pong(payload);
  const bytes = Buffer.from(chat("in pieces: é 👋"));
  for (let at = 0; at < bytes.length; at += 5) {
    // Cut at bytes, so in the middle of characters too.
    ear.socket.send(bytes.subarray(at, at + 5), { fin: at + 5 >= bytes.length, binary: false });
    await pong(Buffer.from(`${at}`));
  }
  assert.equal((await ear.next()).message, "in pieces: é 👋");
  await ear.leave();
});

test("who may not be there is let in and shown out", options, async () => {
  for (const [url, code] of [
    [alice.bare(), 4001],
    [`${alice.bare()}?token=${"0".repeat(40)}`, 4001],
    [alice.url(randomUUID()), 4003],
  ]) {
    const ear = new Ear(new WebSocket(url));
    const end = await ear.end();
    assert.equal(end.code, code);
    assert.notEqual(end.reason, "");
  }
});

test("what is no chat closes with its code", options, async () => {
  for (const [sent, code] of [
    [Buffer.from("binary"), 1003],
    [chat("x".repeat(64 * 1024)), 1009],
  ]) {
    const ear = await sit(alice);
    ear.socket.send(sent);
    assert.equal((await ear.end()).code, code);
  }
});

test("a close is echoed with its code, whatever it is", options, async () => {
  for (const code of [1000, 1001, 3000, 4999]) {
    const ear = await sit(alice);
    ear.socket.close(code, "bye");
    assert.equal((await ear.end()).code, code);
  }
});

/** A client frame; the mask is fixed, for nobody listens in. */
function frame(first, payload, { masked = true } = {}) {
  const mask = Buffer.from([1, 2, 3, 4]);
  const body = Buffer.from(payload);
  const length = body.length < 126 ? [body.length] : [126, body.length >> 8, body.length & 0xff];
  if (!masked) return Buffer.concat([Buffer.from([first, ...length]), body]);
  length[0] |= 0x80;
  return Buffer.concat([Buffer.from([first, ...length]), mask, body.map((byte, at) => byte ^ mask[at % 4])]);
}

/** The server's frames, out of all the bytes that follow the head of its answer. */
function frames(bytes) {
  const found = [];
  let rest = bytes.subarray(bytes.indexOf("\r\n\r\n") + 4);
  while (rest.length >= 2) {
    const [start, length] = rest[1] === 126 ? [4, rest.readUInt16BE(2)] : [2, rest[1]];
    found.push({ opcode: rest[0] & 0x0f, payload: rest.subarray(start, start + length) });
    rest = rest.subarray(start + length);
  }
  return found;
}

/** Waits until so many frames of the server have come. */
const heard = (count) => ({ count });

/**
 * Speaks the given bytes over a bare socket, waiting where it is told to have heard something first, and gives back the
 * frames that the server sent until it hung up.
 */
async function speak(...pieces) {
  const socket = net.connect(Number(alice.page.port), alice.page.hostname);
  opened.push(socket);
  socket.setNoDelay(true);
  socket.on("error", () => {});
  const arrived = [];
  socket.on("data", (data) => arrived.push(data));
  const ended = once(socket, "close");
  for (const piece of pieces) {
    if (Buffer.isBuffer(piece)) socket.write(piece);
    const until = Date.now() + DEADLINE_MS;
    do await new Promise((resolve) => setTimeout(resolve, 2));
    while (piece.count > frames(Buffer.concat(arrived)).length && Date.now() < until);
  }
  await within(ended, "the end of the connection");
  return frames(Buffer.concat(arrived));
}

const head = Buffer.from(
  `GET /ws/chat/${alice.room}/?token=${alice.token} HTTP/1.1\r\nHost: ${alice.page.host}\r\nUpgrade: websocket\r\n` +
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
);
const goodbye = frame(0x88, [0x03, 0xe8]);
const TEXT = 0x81;

test("bytes that break the protocol close with their code", { timeout: 12 * DEADLINE_MS }, async (t) => {
  for (const [what, bytes, code] of [
    ["text that is not UTF-8", frame(TEXT, [0x7b, 0xff, 0x7d]), 1007],
    ["a bad byte before the message is whole", frame(0x01, [0xc0, 0xaf]), 1007],
    ["a text that ends within a character", frame(TEXT, [0xe2, 0x82]), 1007],
    ["an unmasked frame", frame(TEXT, chat("x"), { masked: false }), 1002],
    ["a reserved bit", frame(TEXT | 0x40, chat("x")), 1002],
    ["a reserved opcode", frame(0x83, "x"), 1002],
    ["a continuation of nothing", frame(0x80, "x"), 1002],
    ["a ping in fragments", frame(0x09, "x"), 1002],
    ["a long ping", frame(0x89, "x".repeat(126)), 1002],
    ["a close with half a code", frame(0x88, [0x03]), 1002],
    ["a close with a code nobody may send", frame(0x88, [0x03, 0xed]), 1002],
  ]) {
    await t.test(what, options, async () => {
      const last = (await speak(head, bytes)).at(-1);
      assert.equal(last?.opcode, 8);
      assert.equal(last.payload.readUInt16BE(0), code);
      assert.ok(last.payload.length > 2, "a close has a reason");
    });
  }
});

test("frames in the packet of the request head, and a head byte by byte, are heard", options, async () => {
  const message = frame(TEXT, chat("early"));
  for (const pieces of [
    [Buffer.concat([head, message]), heard(2), goodbye],
    [...head].map((byte) => Buffer.from([byte])).concat([message, heard(2), goodbye]),
  ]) {
    const answers = await speak(...pieces);
    assert.deepEqual(
      answers.map(({ opcode }) => opcode),
      [1, 1, 8],
    );
    assert.equal(JSON.parse(answers[0].payload).type, "connection_established");
    assert.equal(JSON.parse(answers[1].payload).message, "early");
    assert.equal(answers[2].payload.readUInt16BE(0), 1000);
  }
});
