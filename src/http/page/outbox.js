"use strict";
// Messages that were written here and are not in the log yet. One is under way at a time, so an error is always about
// that one; the room's echo of it is its receipt. Nothing written is ever lost silently: it waits for a connection, or
// stands there as refused or not confirmed until its author decides. Kept in this tab's storage, so a reload loses none.

/** How long to hold back after the server said that this was too fast. */
const RATE_PAUSE_MS = 2_000;

class Outbox {
  /** In order; each `{ text, written, state, why, after, element }`, state one of the keys of `STATES`. */
  #entries = [];
  #list;
  #deliver;
  #changed;
  #held = 0;

  static STATES = {
    waiting: "Waiting for the connection",
    sent: "Sending…",
    unconfirmed: "Not confirmed: the connection broke before the server answered.",
    refused: "Not sent.",
  };

  /**
   * `deliver(text)` sends if it can, and gives false, or the key of the newest message known then (null if history has
   * not been read): only a later one in history can be this one.
   */
  constructor(list, deliver, changed) {
    this.#list = list;
    this.#deliver = deliver;
    this.#changed = changed;
  }

  push(text) {
    this.#append({ text, written: Date.now(), state: "waiting", why: "", after: null });
    this.pump();
  }

  /** Sends the next one that waits, unless one is under way. */
  pump() {
    const next = this.#entries.find((entry) => entry.state === "waiting");
    const busy = this.#held || this.#entries.some((entry) => entry.state === "sent");
    if (next && !busy) {
      const after = this.#deliver(next.text);
      if (after !== false) this.#set(next, "sent", "", after);
    }
  }

  /** One of this user's messages came up, live or in history: if it was written here, it has arrived. */
  confirm(message, live) {
    const later = (after) => live || (after !== null && Log.key(message) > after);
    const same = (entry) => entry.text === message.message && later(entry.after);
    const among = (state) => this.#entries.find((entry) => entry.state === state && same(entry));
    const entry = among("sent") ?? among("unconfirmed");
    if (entry) this.#remove(entry);
    this.pump();
  }

  /** The server refused the one under way. False if none is. */
  refuse(code, why) {
    const entry = this.#entries.find((entry) => entry.state === "sent");
    if (!entry) return false;
    if (code === "rate_limited") this.#hold();
    this.#set(entry, "refused", why);
    this.pump();
    return true;
  }

  /** The connection broke: the one under way may have arrived, or not. */
  broke() {
    for (const entry of this.#entries) if (entry.state === "sent") this.#set(entry, "unconfirmed");
  }

  /** What is here, as plain values; and back. */
  save() {
    return this.#entries.map(({ element, ...entry }) => entry);
  }

  restore(entries) {
    for (const entry of entries) {
      this.#append({ ...entry, state: entry.state === "sent" ? "unconfirmed" : entry.state });
    }
  }

  #hold() {
    clearTimeout(this.#held);
    this.#held = setTimeout(() => {
      this.#held = 0;
      this.pump();
    }, RATE_PAUSE_MS);
  }

  #append(entry) {
    entry.element = messageElement(entry.text, "You", new Date(entry.written));
    entry.element.classList.add("mine");
    this.#list.append(entry.element);
    this.#entries.push(entry);
    this.#set(entry, entry.state, entry.why, entry.after);
  }

  #remove(entry) {
    this.#entries = this.#entries.filter((other) => other !== entry);
    entry.element.remove();
    this.#list.hidden = this.#entries.length === 0;
    this.#changed();
  }

  #set(entry, state, why = "", after = entry.after) {
    Object.assign(entry, { state, why, after });
    entry.element.dataset.state = state;
    entry.element.querySelector(".fate")?.remove();
    const fate = make("div", "fate");
    fate.append(make("span", "", [Outbox.STATES[state], why].join(" ").trim()));
    if (state === "unconfirmed" || state === "refused") {
      const choice = make("span", "choice");
      choice.append(this.#button("Resend", () => this.#resend(entry)));
      choice.append(this.#button("Discard", () => this.#remove(entry)));
      fate.setAttribute("role", "alert");
      fate.append(choice);
    }
    entry.element.append(fate);
    this.#list.hidden = false;
    this.#changed();
  }

  #resend(entry) {
    const { text } = entry;
    this.#remove(entry);
    this.push(text);
  }

  #button(label, act) {
    const button = make("button", "quiet", label);
    button.type = "button";
    button.addEventListener("click", act);
    return button;
  }
}
