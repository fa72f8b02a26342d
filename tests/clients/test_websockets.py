"""ringroom's protocol as the Python library `websockets` sees it, against a running demo.

Run by python itself. Needs the two page addresses that `ringroom demo` prints, in RINGROOM_URL_ALICE and
RINGROOM_URL_BOB. Each test sits alone in the room; every wait has a deadline. Exit code 1 when a promise is broken.
"""

import asyncio
import json
import os
import re
import sys
import traceback
import urllib.error
import urllib.parse
import urllib.request
import uuid

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

DEADLINE_S = 20
MESSAGE_CHARS_MAX = 4096
FRAME_BYTES_MAX = 64 * 1024
MESSAGE_KEYS = ["type", "message", "sender_id", "sender_username", "message_id", "timestamp", "receiver_id"]
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Seat:
    """A member's place in the room: where it is, and the token that opens it."""

    def __init__(self, variable):
        page = urllib.parse.urlsplit(os.environ[variable])
        fragment = dict(urllib.parse.parse_qsl(page.fragment))
        self.place, self.room, self.token = page.netloc, fragment["room"], fragment["token"]

    def url(self, room=None, token=None):
        """The WebSocket's address with the token in its query."""
        return f"{self.bare_url(room)}?token={token or self.token}"

    def bare_url(self, room=None):
        return f"ws://{self.place}/ws/chat/{room or self.room}/"

    async def sit(self):
        """A connection that has been greeted."""
        socket = await connect(self.url())
        socket.greeting = json.loads(await socket.recv())
        return socket

    def get(self, path, **headers):
        """Status and body of a plain HTTP request."""
        request = urllib.request.Request(f"http://{self.place}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read(), refusal.headers


ALICE, BOB = Seat("RINGROOM_URL_ALICE"), Seat("RINGROOM_URL_BOB")


def chat(message, **more):
    return json.dumps({"type": "chat_message", "message": message, **more})


async def said(socket):
    return json.loads(await socket.recv())


async def closing(socket):
    """Code and reason with which the server closed."""
    try:
        while True:
            await socket.recv()
    except ConnectionClosed:
        received = socket.protocol.close_rcvd
        assert received is not None, "the connection ended without a close frame"
        assert received.reason, f"{received.code} came without a reason"
        return received.code


async def test_every_way_to_bring_a_token_is_greeted_first():
    ways = [
        {"uri": ALICE.url()},
        {"uri": ALICE.bare_url(), "additional_headers": {"Authorization": f"Token {ALICE.token}"}},
        {"uri": ALICE.bare_url(), "additional_headers": {"Authorization": f"Bearer {ALICE.token}"}},
        {"uri": ALICE.bare_url(), "subprotocols": ["ringroom.v1", f"token.{ALICE.token}"]},
        {"uri": ALICE.url(room=ALICE.room.upper())},
        {"uri": ALICE.url().replace("/?", "?")},
    ]
    for way in ways:
        async with connect(**way) as socket:
            greeting = await said(socket)
            assert list(greeting) == ["type", "message", "user_id", "username"], greeting
            assert greeting["type"] == "connection_established"
            assert greeting["message"] == f"Connected to chat room {ALICE.room}", greeting
            assert greeting["username"] == "alice"
            assert str(uuid.UUID(greeting["user_id"])) == greeting["user_id"]
            assert socket.subprotocol == ("ringroom.v1" if "subprotocols" in way else None)


async def test_a_message_reaches_both_with_every_field_in_order():
    alice, bob = await ALICE.sit(), await BOB.sit()
    for text in ["Hello, world!", 'quotes " and \\ and / and \t\n', "Grüße, 世界 👋🏽", "<b>&amp;</b>", " x ", "\u2028\x7f"]:
        for receiver in [None, bob.greeting["user_id"]]:
            await alice.send(chat(text, receiver_id=receiver, unknown=[1, {"key": 2}]))
            own, other = await alice.recv(), await bob.recv()
            assert own == other, "both members are sent the same bytes"
            message = json.loads(own)
            assert list(message) == MESSAGE_KEYS, message
            assert message["type"] == "chat_message" and message["message"] == text, message
            assert message["sender_id"] == alice.greeting["user_id"]
            assert message["sender_username"] == "alice"
            assert uuid.UUID(message["message_id"]).version == 7
            assert str(uuid.UUID(message["message_id"])) == message["message_id"]
            assert TIMESTAMP.fullmatch(message["timestamp"]), message["timestamp"]
            assert message["receiver_id"] == receiver
    await alice.close()
    await bob.close()


async def test_an_error_goes_to_the_sender_alone_and_keeps_the_connection_open():
    stranger = str(uuid.uuid4())
    cases = [
        ("{", "Invalid JSON format", "invalid_json"),
        ("", "Invalid JSON format", "invalid_json"),
        ('{"type":"chat_message","message":"x"} x', "Invalid JSON format", "invalid_json"),
        ("[1]", "Message must be a JSON object", "invalid_json"),
        ('"text"', "Message must be a JSON object", "invalid_json"),
        ("{}", "Message type is required", "missing_type"),
        ('{"type":"typing"}', "Unknown message type", "unknown_type"),
        ('{"type":"chat_message"}', "Message must be a string", "invalid_message"),
        (chat(7), "Message must be a string", "invalid_message"),
        (chat(""), "Message cannot be empty", "empty_message"),
        (chat(" \t\n\u2003"), "Message cannot be empty", "empty_message"),
        (chat("a\0b"), "Message contains invalid characters", "invalid_message"),
        (chat("a\ud800b"), "Message contains invalid characters", "invalid_message"),
        (chat("x" * (MESSAGE_CHARS_MAX + 1)), "Message is too long", "message_too_long"),
        (chat("x", receiver_id="bob"), "Invalid receiver_id", "invalid_receiver"),
        (chat("x", receiver_id=5), "Invalid receiver_id", "invalid_receiver"),
        (chat("x", receiver_id=stranger), "Receiver is not a member of this chat room", "invalid_receiver"),
    ]
    bob = await BOB.sit()
    for number, (sent, message, code) in enumerate(cases):
        alice = await ALICE.sit()
        await alice.send(sent)
        await alice.send(chat(f"after error {number}"))
        answer = await said(alice)
        assert answer == {"type": "error", "message": message, "code": code}, f"{sent[:80]!r}: {answer}"
        assert (await said(alice))["message"] == f"after error {number}"
        assert (await said(bob))["message"] == f"after error {number}", "an error reached another member"
        await alice.close()
    await bob.close()


async def test_the_longest_message_is_taken_in_characters_not_bytes():
    text = "👋" * MESSAGE_CHARS_MAX
    async with await ALICE.sit() as alice:
        await alice.send(json.dumps({"type": "chat_message", "message": text}, ensure_ascii=False))
        assert (await said(alice))["message"] == text


async def test_who_may_not_be_there_is_let_in_and_shown_out():
    wrong = "0" * 40
    for url, code in [
        (ALICE.bare_url(), 4001),
        (ALICE.url(token=wrong), 4001),
        (ALICE.url(room=uuid.uuid4(), token=wrong), 4001),
        (ALICE.url(room=uuid.uuid4()), 4003),
    ]:
        async with connect(url) as socket:
            assert await closing(socket) == code, url.partition("?")[0]


async def test_what_is_no_chat_closes_with_its_code():
    for sent, code in [(b"binary", 1003), (chat("x" * FRAME_BYTES_MAX), 1009)]:
        async with await ALICE.sit() as alice:
            await alice.send(sent)
            assert await closing(alice) == code


async def test_pings_are_answered_with_their_payload():
    async with await ALICE.sit() as alice:
        for payload in [b"", b"payload", bytes(range(125))]:
            await (await alice.ping(payload))


async def test_a_ping_is_answered_between_the_fragments_of_a_message():
    async with await ALICE.sit() as alice:
        whole = chat("in pieces, with é and 👋 cut anywhere")

        async def pieces():
            for at in range(0, len(whole), 7):
                yield whole[at : at + 7]
                await (await alice.ping())

        await alice.send(pieces())
        assert (await said(alice))["message"] == json.loads(whole)["message"]


async def test_compression_is_offered_and_not_taken():
    async with connect(ALICE.url(), compression="deflate") as socket:
        assert "permessage-deflate" in socket.request.headers["Sec-WebSocket-Extensions"]
        assert "Sec-WebSocket-Extensions" not in socket.response.headers
        assert (await said(socket))["type"] == "connection_established"


async def test_fifty_messages_at_once_arrive_once_and_in_one_order():
    alice, bob = await ALICE.sit(), await BOB.sit()
    texts = [f"{index} at once" for index in range(50)]
    speakers = [alice, bob]
    await asyncio.gather(*(speakers[index % 2].send(chat(text)) for index, text in enumerate(texts)))
    heard = [[await said(socket) for _ in texts] for socket in speakers]
    assert heard[0] == heard[1]
    assert sorted(message["message"] for message in heard[0]) == sorted(texts)
    for key in ["message_id", "timestamp"]:
        values = [message[key] for message in heard[0]]
        assert values == sorted(values), f"{key} does not rise"
    assert len({message["message_id"] for message in heard[0]}) == len(texts)
    for own, name in [(texts[::2], "alice"), (texts[1::2], "bob")]:
        assert [message["message"] for message in heard[0] if message["sender_username"] == name] == own
    await alice.close()
    await bob.close()


async def test_a_close_is_echoed_with_its_code():
    for code in [1000, 1001, 3000, 4999]:
        alice = await ALICE.sit()
        await alice.close(code, "bye")
        assert alice.protocol.close_rcvd is not None, "the connection ended without a close frame"
        assert alice.protocol.close_rcvd.code == code
        assert not alice.protocol.close_rcvd_then_sent


async def test_history_shows_what_was_said_newest_first():
    async with await ALICE.sit() as alice:
        broadcast = []
        for index in range(3):
            await alice.send(chat(f"for the history {index}"))
            broadcast.append(await said(alice))
    messages = f"/api/rooms/{ALICE.room}/messages"
    owner = {"Authorization": f"Token {ALICE.token}"}

    def page(query):
        status, body, _ = ALICE.get(f"{messages}?{query}", **owner)
        assert status == 200, (status, body)
        return json.loads(body)["messages"]

    newest = page("limit=3")
    assert newest == broadcast[::-1]
    assert list(newest[0]) == MESSAGE_KEYS
    assert page(f"limit=1&before={newest[1]['message_id']}") == [broadcast[0]]
    for path, headers, want in [
        (messages, {}, 401),
        (messages, {"Authorization": "Token " + "0" * 40}, 401),
        (f"/api/rooms/{uuid.uuid4()}/messages", owner, 403),
        (f"{messages}?limit=0", owner, 400),
        (f"{messages}?limit=201", owner, 400),
        (f"{messages}?before=yesterday", owner, 400),
    ]:
        status, body, _ = ALICE.get(path, **headers)
        assert status == want, (path, status, body)
        assert json.loads(body)["error"]


async def test_what_is_not_served_is_said_over_http():
    assert ALICE.get("/healthz")[0] == 200
    assert ALICE.get("/nowhere")[0] == 404
    status, _, headers = ALICE.get(f"/ws/chat/{ALICE.room}/")
    assert (status, headers["Upgrade"], headers["Sec-WebSocket-Version"]) == (426, "websocket", "13")
    try:
        await connect(f"ws://{ALICE.place}/ws/chat/lobby/?token={ALICE.token}")
        assert False, "a room that is no UUID was served"
    except InvalidStatus as refusal:
        assert refusal.response.status_code == 404


async def main():
    tests = [(name, test) for name, test in globals().items() if name.startswith("test_")]
    failed = 0
    for name, test in tests:
        try:
            async with asyncio.timeout(DEADLINE_S):
                await test()
            print(f"ok      {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(asyncio.run(main()))
