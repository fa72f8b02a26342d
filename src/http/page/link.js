"use strict";
// One WebSocket to one room, opened again whenever it breaks. Parsed JSON goes out through `hears`, objects to send come
// in; knows no page. Never comes back after a close that would only happen again.

/** Connected this long, a break counts as the first one again. */
const STABLE_MS = 10_000;
/** The first pause is at most this long, and each further one at most twice the one before it. */
const PAUSE_MS_FIRST = 1_000;
const PAUSE_MS_MAX = 30_000;
/** The least pause where the server asked for one. */
const PAUSE_MS_LATER = 10_000;
/** A connection that was not greeted by then has failed. */
const GREETING_MS_MAX = 15_000;

class Link {
  #address;
  #protocols;
  #hears;
  #socket = null;
  #timer = 0;
  #breaks = 0;
  #greetedAt = 0;

  /**
   * `hears.state(state)` is told `{name}`: `connecting`; `connected`; `waiting` with `until` (epoch milliseconds) and
   * `words`; `ended` with `code` and `words`. `hears.message(object)` gets all else, from `connection_established` on.
   */
  constructor(room, token, hears) {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.#address = `${scheme}://${location.host}/ws/chat/${room}/`;
    // The token goes as a sub-protocol: a browser can set no header here, and addresses end up in logs.
    this.#protocols = ["ringroom.v1", `token.${token}`];
    this.#hears = hears;
  }

  get connected() {
    return this.#greetedAt > 0;
  }

  /** Connects now: at first, instead of waiting on, or in place of a connection that may be dead. */
  open() {
    this.close();
    this.#hears.state({ name: "connecting" });
    const socket = new WebSocket(this.#address, this.#protocols);
    const ours = (act) => (event) => socket === this.#socket && act(event);
    socket.onmessage = ours((event) => this.#heard(JSON.parse(event.data)));
    socket.onclose = ours((event) => this.#broke(event.code));
    this.#socket = socket;
    this.#timer = setTimeout(() => this.#broke(1006), GREETING_MS_MAX);
  }

  /** Says goodbye and stays away until `open`. */
  close() {
    clearTimeout(this.#timer);
    this.#greetedAt = 0;
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
  }

  send(object) {
    this.#socket.send(JSON.stringify(object));
  }

  #heard(object) {
    if (object.type === "connection_established") {
      clearTimeout(this.#timer);
      this.#greetedAt = Date.now();
      this.#hears.state({ name: "connected" });
    }
    this.#hears.message(object);
  }

  #broke(code) {
    if (this.connected && Date.now() - this.#greetedAt > STABLE_MS) this.#breaks = 0;
    this.close();
    const { again, words } = CLOSES[code] ?? { again: "soon", words: "" };
    if (again === "never") return this.#hears.state({ name: "ended", code, words });
    const pause = this.#pause(again);
    this.#timer = setTimeout(() => this.open(), pause);
    this.#hears.state({ name: "waiting", until: Date.now() + pause, words });
  }

  /** Exponential with full jitter, so that all who lost one server do not return to it in step. */
  #pause(again) {
    const most = Math.min(PAUSE_MS_MAX, PAUSE_MS_FIRST * 2 ** this.#breaks++);
    const least = again === "later" ? PAUSE_MS_LATER : 0;
    return least + Math.random() * most;
  }
}
