"use strict";
// What the server's codes mean, in words for people, and what the page does about them. Knows neither network nor page.

/** The error codes of the protocol: what to say beside the message that was refused. */
const ERRORS = {
  invalid_json: "The server could not read it.",
  missing_type: "The server could not read it.",
  unknown_type: "The server could not read it.",
  invalid_message: "It holds a character that cannot be saved.",
  empty_message: "It is empty.",
  message_too_long: "It is too long.",
  invalid_receiver: "It addresses someone who is not in this room.",
  rate_limited: "That was too fast. Wait a moment.",
  not_saved: "The server could not save it just now.",
};

/**
 * The close codes: what to say, and whether to come back. `soon` is after a short pause, `later` after a longer one,
 * `never` because the same would happen again. A code that is not here is a broken connection: `soon`.
 */
const CLOSES = {
  1001: { again: "soon", words: "The server is going away." },
  1002: { again: "never", words: "The server and this page did not understand each other. Reload the page, then join again." },
  1003: { again: "never", words: "The server refused what this page sent. Reload the page, then join again." },
  1007: { again: "never", words: "The server refused a message as unreadable. Join again without it." },
  1008: { again: "later", words: "The server asked for a pause." },
  1009: { again: "never", words: "A message was too big for the server. Join again and send it in parts." },
  1011: { again: "soon", words: "The server had a fault." },
  1012: { again: "soon", words: "The server is restarting." },
  1013: { again: "soon", words: "The server is busy." },
  4001: { again: "never", words: "This token is not valid, or no longer. Check it, or ask for a new one." },
  4003: { again: "never", words: "You are not a member of this room, or there is no such room." },
};

/** The longest message, in Unicode characters. The server has the last word. */
const CHARACTERS_MAX = 4096;
/** From here on the composer counts what is left. */
const CHARACTERS_NEAR = 3800;

const ROOM_ID = /^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i;
/** What may stand in a WebSocket sub-protocol (RFC 9110, token), by which the key travels. */
const TOKEN_KEY = /^[!#$%&'*+.^_`|~0-9a-z-]{1,128}$/i;

/** A room's id in the form the server writes: lower case, with hyphens. */
function tidyRoomId(text) {
  const digits = text.toLowerCase().replaceAll("-", "");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** 3 → "3 new messages", 1 → "1 new message". */
function newMessages(count) {
  return `${count} new message${count === 1 ? "" : "s"}`;
}
