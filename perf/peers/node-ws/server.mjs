// A chat on Node's ws, as small as it can be. What it does not do, and ringroom does, flatters it: users, tokens and
// rooms come from the file that `ringroom seed` wrote and stay in memory, no message is journalled or saved, a receiver
// is not checked, a slow member is never closed, and nothing limits who sends how much.
//
// In the style that serves it best: a message is encoded once, as bytes, and those are sent to all; bufferutil unmasks;
// no compression.

import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { v7 as uuidv7 } from 'uuid';
import { WebSocket, WebSocketServer } from 'ws';

const CHARS_MAX = 4096;
const PATH = /^\/ws\/chat\/([0-9a-f-]{36})\/?$/i;

const { values: options } = parseArgs({ options: { fixtures: { type: 'string' } } });
const rooms = new Map();
const tokens = new Set();
for (const { room, users } of JSON.parse(readFileSync(options.fixtures, 'utf8')).rooms) {
  rooms.set(room, { users: new Map(users.map((user) => [user.token, user])), members: new Set() });
  for (const user of users) tokens.add(user.token);
}

const tokenOf = (request, url) =>
  url.searchParams.get('token') ?? request.headers.authorization?.match(/^Token (.+)$/)?.[1];

const refusal = (message, code) => JSON.stringify({ type: 'error', message, code });

// The text to broadcast, or the refusal for the sender alone.
function answer(user, text) {
  let input;
  try {
    input = JSON.parse(text);
  } catch {
    return { refusal: refusal('Invalid JSON format', 'invalid_json') };
  }
  if (input === null || typeof input !== 'object' || Array.isArray(input)) {
    return { refusal: refusal('Message must be a JSON object', 'invalid_json') };
  }
  const { type, message, receiver_id = null } = input;
  if (type === undefined) return { refusal: refusal('Message type is required', 'missing_type') };
  if (type !== 'chat_message') return { refusal: refusal('Unknown message type', 'unknown_type') };
  if (typeof message !== 'string') return { refusal: refusal('Message must be a string', 'invalid_message') };
  if (message.trim() === '') return { refusal: refusal('Message cannot be empty', 'empty_message') };
  if (message.length > CHARS_MAX && [...message].length > CHARS_MAX) {
    return { refusal: refusal('Message is too long', 'message_too_long') };
  }
  return {
    broadcast: JSON.stringify({
      type: 'chat_message',
      message,
      sender_id: user.id,
      sender_username: user.username,
      message_id: uuidv7(),
      timestamp: new Date().toISOString().replace('Z', '000Z'),
      receiver_id,
    }),
  };
}

function converse(socket, room, user, members) {
  members.add(socket);
  socket.on('close', () => members.delete(socket));
  // A connection that breaks concerns nobody else.
  socket.on('error', () => socket.terminate());
  socket.on('message', (data, isBinary) => {
    if (isBinary) return socket.close(1003, 'Binary messages are not spoken');
    const { broadcast, refusal } = answer(user, data.toString());
    if (refusal !== undefined) return socket.send(refusal);
    const bytes = Buffer.from(broadcast);
    for (const member of members) {
      if (member.readyState === WebSocket.OPEN) member.send(bytes, { binary: false });
    }
  });
  socket.send(
    JSON.stringify({
      type: 'connection_established',
      message: `Connected to chat room ${room}`,
      user_id: user.id,
      username: user.username,
    }),
  );
}

const server = createServer((_request, response) => response.writeHead(404).end());
const sockets = new WebSocketServer({ server, perMessageDeflate: false, maxPayload: 65536 });
sockets.on('connection', (socket, request) => {
  const url = new URL(request.url, 'http://localhost');
  const room = url.pathname.match(PATH)?.[1].toLowerCase();
  const token = tokenOf(request, url);
  if (!tokens.has(token)) return socket.close(4001, 'Unauthorized');
  const user = rooms.get(room)?.users.get(token);
  if (user === undefined) return socket.close(4003, 'Not a member of this chat room');
  converse(socket, room, user, rooms.get(room).members);
});
server.listen({ host: '127.0.0.1', port: 0, backlog: 4096 }, () => {
  console.log(`node-ws is listening on http://127.0.0.1:${server.address().port}`);
});
