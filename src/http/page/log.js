"use strict";
// The messages that are known, in the room's order, and how they look. They come in from the live connection and from
// history in any order and more than once; each is shown once, in its place. Text is set as text: nothing here parses
// markup.

/** More messages than this are not kept on the page; earlier ones can be loaded again. */
const KEPT_MAX = 2_000;
const DROPPED_AT_ONCE = 500;
/** Messages of one sender this close together share one heading. */
const TOGETHER_MS = 5 * 60_000;
/** This near to the end counts as reading along. */
const END_PIXELS = 60;
const HUES = 8;

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const DAY_AND_YEAR = new Intl.DateTimeFormat(undefined, { dateStyle: "full" });

class Log {
  /** In order; each `{ key, id, at, from, element }`. */
  #entries = [];
  #ids = new Set();
  #list;
  #scroller;
  /** Whom `mine` and "to you" mean; known from the first greeting on. */
  me = null;

  constructor(list, scroller) {
    this.#list = list;
    this.#scroller = scroller;
  }

  /** The entries at both ends, or undefined. */
  get oldest() {
    return this.#entries[0];
  }

  get newest() {
    return this.#entries.at(-1);
  }

  /** Orders messages: by time, then by id. */
  static key(message) {
    return message.timestamp + message.message_id;
  }

  /** Puts messages in their places and returns those that were not there yet. */
  add(messages) {
    const fresh = messages.filter((message) => !this.#ids.has(message.message_id));
    for (const message of fresh) this.#place(this.#entry(message));
    return fresh;
  }

  /** Like `add`, for what was said before: no screen reader reads it all out, and the reader's place stays put. */
  addQuietly(messages) {
    const atEnd = this.atEnd;
    const { scrollHeight, scrollTop } = this.#scroller;
    this.#list.setAttribute("aria-live", "off");
    const fresh = this.add(messages);
    setTimeout(() => this.#list.removeAttribute("aria-live"), 500);
    if (atEnd) this.toEnd();
    else this.#scroller.scrollTop = scrollTop + this.#scroller.scrollHeight - scrollHeight;
    return fresh;
  }

  /** Forgets messages before `key`: what lies between them and the rest is not known. */
  forgetBefore(key) {
    this.#drop(this.#entries.findIndex((entry) => entry.key >= key));
  }

  /** Bounds what is kept while the reader is at the end. True if earlier messages were dropped. */
  trim() {
    const full = this.#entries.length > KEPT_MAX && this.atEnd;
    if (full) this.#drop(DROPPED_AT_ONCE);
    return full;
  }

  /** "Today" becomes "Yesterday" at midnight. */
  renameDays() {
    this.#entries.forEach((_, index) => this.#dress(index));
  }

  /** Would a message by this sender, now, come under the heading of the newest one? */
  continuedBy(from, at) {
    return continues(this.newest, from, at);
  }

  get atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < END_PIXELS;
  }

  toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #entry(message) {
    const at = instant(message.timestamp);
    const from = String(message.sender_id);
    const mine = from === this.me?.id;
    const element = messageElement(message.message, mine ? "You" : message.sender_username, at);
    element.classList.add(mine ? "mine" : `hue${hueOf(from)}`);
    if (!mine && this.me && String(message.receiver_id) === this.me.id) {
      element.querySelector(".heading").append(make("span", "to-you", "to you"));
    }
    return { key: Log.key(message), id: message.message_id, at, from, element };
  }

  #place(entry) {
    let index = this.#entries.length;
    while (index > 0 && this.#entries[index - 1].key > entry.key) index -= 1;
    this.#list.insertBefore(entry.element, this.#entries[index]?.element ?? null);
    this.#entries.splice(index, 0, entry);
    this.#ids.add(entry.id);
    this.#dress(index);
    if (index + 1 < this.#entries.length) this.#dress(index + 1);
  }

  /** What an entry shows depends on the one before it: a new day, a new heading, or neither. */
  #dress(index) {
    const [before, entry] = [this.#entries[index - 1], this.#entries[index]];
    const newDay = before?.at.toDateString() !== entry.at.toDateString();
    const together = !newDay && continues(before, entry.from, entry.at);
    entry.element.classList.toggle("continued", together);
    entry.element.querySelector(".day")?.remove();
    if (newDay) entry.element.prepend(make("h2", "day", dayName(entry.at)));
  }

  #drop(count) {
    for (const entry of this.#entries.splice(0, Math.max(0, count))) {
      this.#ids.delete(entry.id);
      entry.element.remove();
    }
    if (this.#entries.length > 0) this.#dress(0);
  }
}

function continues(before, from, at) {
  return before?.from === from && at - before.at < TOGETHER_MS;
}

/** One message as it stands in the log or the outbox. */
function messageElement(text, who, at) {
  const element = make("article", "message");
  const heading = make("header", "heading");
  const seal = make("span", "seal", [...who][0]?.toUpperCase() ?? "");
  seal.setAttribute("aria-hidden", "true");
  const name = make("bdi", "who", who);
  const time = make("time", "", CLOCK.format(at));
  time.dateTime = at.toISOString();
  time.title = FULL.format(at);
  heading.append(seal, name, " ", time);
  const body = make("p", "text", text);
  body.dir = "auto";
  body.title = time.title;
  element.append(heading, body);
  return element;
}

/** An element with a class and text. */
function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** The server writes microseconds; not every browser reads them. */
function instant(timestamp) {
  return new Date(`${timestamp.slice(0, 23)}Z`);
}

function dayName(at) {
  const day = at.toDateString();
  const now = new Date();
  if (day === now.toDateString()) return "Today";
  if (day === new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1).toDateString()) return "Yesterday";
  return (at.getFullYear() === now.getFullYear() ? DAY : DAY_AND_YEAR).format(at);
}

/** One of a few colours for each person, the same on every screen: FNV-1a, folded. */
function hueOf(id) {
  let hash = 0x811c9dc5;
  for (const character of id) hash = Math.imul(hash ^ character.codePointAt(0), 0x01000193);
  return ((hash ^ (hash >>> 15)) >>> 0) % HUES;
}
