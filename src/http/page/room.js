"use strict";
// A room that was joined: the link, the log, the outbox and the composer, brought together. History fills what the live
// connection did not carry, and meets it by message id. Ends by leaving, or when the server says never to come back.

/** Messages asked for on arrival and for each earlier page; and at once when a gap is filled after a break. */
const PAGE_MESSAGES = 50;
const GAP_MESSAGES = 200;
/** A gap of more pages is not filled: what lies before it is forgotten and can be loaded again. */
const GAP_PAGES_MAX = 20;
const HISTORY_MS_MAX = 15_000;
/** A clock that jumped this far means that the machine slept, and the connection with it. */
const SLEPT_MS = 90_000;
const TICK_MS = 1_000;
/** Earlier messages load by themselves this near to the top. */
const TOP_PIXELS = 80;

const byId = (id) => document.getElementById(id);
/** On a screen without a keyboard Enter makes a line, and the button sends. */
const touch = matchMedia("(hover: none) and (pointer: coarse)");

/** The server said no to a request for history. */
class Refused extends Error {
  constructor(status) {
    super(`history: ${status}`);
    this.status = status;
  }
}

class Room {
  #id;
  #token;
  #ended;
  #link;
  #log;
  #outbox;
  #state = { name: "connecting" };
  /** All messages up to this key are known; null until history was read for the first time. */
  #knownTo = null;
  #caughtUp = false;
  #round = 0;
  #loading = false;
  #unread = 0;
  #unseen = 0;
  #following = true;
  #ticked = Date.now();
  #stop = new AbortController();

  /** `ended(words, code)` is called once, when there is no way back into the room. */
  constructor({ room, token }, ended) {
    this.#id = room;
    this.#token = token;
    this.#ended = ended;
    this.#log = new Log(byId("log"), byId("scroller"));
    this.#outbox = new Outbox(byId("outbox"), (text) => this.#deliver(text), () => this.#written());
    this.#link = new Link(room, token, {
      state: (state) => this.#moved(state),
      message: (object) => this.#heard(object),
    });
  }

  enter() {
    byId("room-name").textContent = `Room ${this.#id.slice(0, 8)}`;
    byId("room-name").title = this.#id;
    this.#listen();
    this.#restore();
    this.#link.open();
    (touch.matches ? byId("room-name") : byId("text")).focus();
  }

  /** Stops everything and empties the page, so that nothing of this room is left for the next. */
  leave() {
    this.#stop.abort();
    this.#round += 1;
    this.#link.close();
    for (const id of ["log", "outbox"]) byId(id).replaceChildren();
    for (const id of ["earlier", "beginning", "trouble", "newest", "hurry", "count"]) byId(id).hidden = true;
    byId("text").value = "";
    document.title = "ringroom";
  }

  // --- the connection -------------------------------------------------------------------------------------------

  #moved(state) {
    if (state.name === "ended") return this.#ended(state.words, state.code);
    if (this.#state.name === "connected") this.#lost();
    this.#state = state;
    this.#showState();
    this.#stick();
  }

  #lost() {
    if (this.#caughtUp) this.#knownTo = this.#log.newest?.key ?? "";
    this.#caughtUp = false;
    this.#outbox.broke();
  }

  #heard(object) {
    if (object.type === "connection_established") this.#greeted(object);
    else if (object.type === "chat_message") this.#arrived(object);
    else if (object.type === "error") this.#refused(object);
  }

  #greeted({ user_id, username }) {
    this.#log.me = { id: String(user_id), name: username };
    this.#showState();
    this.#catchUp();
    this.#outbox.pump();
  }

  #arrived(message) {
    const [fresh] = this.#log.add([message]);
    if (!fresh) return;
    if (this.#mine(fresh)) {
      this.#outbox.confirm(fresh, true);
    } else {
      if (document.hidden) this.#unread += 1;
      if (!this.#following) this.#unseen += 1;
    }
    if (this.#log.trim()) this.#showBeginning(false);
    this.#stick();
    this.#showCounts();
  }

  #refused({ code, message }) {
    const words = ERRORS[code] ?? message;
    if (!this.#outbox.refuse(code, words)) this.#trouble(`The server refused something: ${words}`);
    this.#stick();
  }

  #mine(message) {
    return String(message.sender_id) === this.#log.me?.id;
  }

  // --- history --------------------------------------------------------------------------------------------------

  /** Newest first, as the server gives them. */
  async #history(limit, before) {
    const query = new URLSearchParams(before ? { limit, before } : { limit });
    const answer = await fetch(`/api/rooms/${this.#id}/messages?${query}`, {
      headers: { Authorization: `Token ${this.#token}` },
      credentials: "omit",
      cache: "no-store",
      signal: AbortSignal.timeout(HISTORY_MS_MAX),
    });
    if (!answer.ok) throw new Refused(answer.status);
    return (await answer.json()).messages;
  }

  /**
   * Reads history from its end back to what was known before, so that live messages and history leave no gap: what was
   * broadcast before the greeting is in history, what came after it is on the link.
   */
  async #catchUp() {
    const round = (this.#round += 1);
    const first = this.#knownTo === null;
    byId("trouble").hidden = true;
    try {
      let before;
      for (let pages = 0; ; pages += 1) {
        const limit = pages === 0 ? PAGE_MESSAGES : GAP_MESSAGES;
        const messages = await this.#history(limit, before);
        if (round !== this.#round) return;
        this.#remember(messages);
        const oldest = messages.at(-1);
        const whole = messages.length < limit;
        if (whole) this.#showBeginning(true);
        if (whole || Log.key(oldest) <= this.#knownTo) break;
        if (first || pages === GAP_PAGES_MAX) {
          this.#log.forgetBefore(Log.key(oldest));
          this.#showBeginning(false);
          break;
        }
        before = oldest.message_id;
      }
      this.#caughtUp = true;
      this.#knownTo = this.#log.newest?.key ?? "";
    } catch (error) {
      if (round === this.#round) this.#historyFailed(error, () => this.#catchUp());
    }
  }

  async #loadEarlier() {
    const oldest = this.#log.oldest;
    if (this.#loading || !this.#caughtUp || !oldest || byId("earlier").hidden) return;
    const round = this.#round;
    this.#loading = true;
    byId("earlier").textContent = "Loading…";
    try {
      const messages = await this.#history(PAGE_MESSAGES, oldest.id);
      if (round !== this.#round) return;
      this.#remember(messages);
      this.#showBeginning(messages.length < PAGE_MESSAGES);
    } catch (error) {
      if (round === this.#round) this.#historyFailed(error, () => this.#loadEarlier());
    } finally {
      this.#loading = false;
      byId("earlier").textContent = "Load earlier messages";
    }
  }

  #remember(messages) {
    const fresh = this.#log.addQuietly(messages);
    for (const message of fresh) if (this.#mine(message)) this.#outbox.confirm(message, false);
    this.#stick();
  }

  #historyFailed(error, again) {
    if (error.status === 401) return this.#ended(CLOSES[4001].words, 4001);
    if (error.status === 403) return this.#ended(CLOSES[4003].words, 4003);
    this.#trouble("Earlier messages could not be loaded.", again);
  }

  #showBeginning(whole) {
    byId("earlier").hidden = whole;
    byId("beginning").hidden = !whole;
    byId("beginning").textContent = this.#log.oldest ? "The room begins here." : "Nobody has said anything yet.";
  }

  // --- writing --------------------------------------------------------------------------------------------------

  #submit() {
    const text = byId("text").value;
    if (text.trim() === "" || count(text) > CHARACTERS_MAX) return;
    byId("text").value = "";
    this.#composed();
    this.#following = true;
    this.#outbox.push(text);
    if (!touch.matches || document.activeElement === byId("text")) byId("text").focus();
    this.#stick();
  }

  #deliver(message) {
    if (!this.#link.connected) return false;
    this.#link.send({ type: "chat_message", message });
    if (!this.#caughtUp) return null;
    return this.#log.newest?.key ?? "";
  }

  /** The composer's text changed: its height, what is left to write, and what a reload brings back. */
  #composed() {
    const text = byId("text");
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight}px`;
    const written = count(text.value);
    const left = CHARACTERS_MAX - written;
    byId("count").hidden = written < CHARACTERS_NEAR;
    byId("count").textContent = left < 0 ? `${-left} characters too many` : `${left} characters left`;
    byId("count").classList.toggle("over", left < 0);
    text.setAttribute("aria-invalid", String(left < 0));
    byId("send").disabled = text.value.trim() === "" || left < 0;
    this.#keep();
  }

  /** The outbox changed. What is on its way already looks as it will in the log, so nothing jumps when it arrives. */
  #written() {
    const [first, ...rest] = byId("outbox").children;
    first?.classList.toggle("continued", this.#log.continuedBy(this.#log.me?.id, Date.now()));
    for (const element of rest) element.classList.add("continued");
    if (first) byId("beginning").textContent = "The room begins here.";
    this.#keep();
  }

  #keep() {
    store("unsent", { room: this.#id, draft: byId("text").value, outbox: this.#outbox.save() });
  }

  #restore() {
    const unsent = stored("unsent");
    if (unsent?.room === this.#id) {
      this.#outbox.restore(unsent.outbox);
      byId("text").value = unsent.draft;
    }
    this.#composed();
  }

  // --- what is shown --------------------------------------------------------------------------------------------

  #showState() {
    const { name, words } = this.#state;
    const offline = name === "waiting" && !navigator.onLine;
    const me = this.#log.me?.name;
    const said = {
      connecting: me ? "Reconnecting…" : "Connecting…",
      connected: me ? `Connected as ${me}` : "Connected",
      waiting: offline ? "Offline" : [words, "Reconnecting"].join(" ").trim(),
    }[name];
    byId("room").dataset.state = offline ? "offline" : name;
    if (byId("state").textContent !== said) byId("state").textContent = said;
    if (name !== "waiting" && document.activeElement === byId("hurry")) byId("text").focus();
    byId("hurry").hidden = name !== "waiting";
    this.#showCountdown();
  }

  #showCountdown() {
    const { name, until } = this.#state;
    const seconds = Math.ceil((until - Date.now()) / 1000);
    byId("countdown").textContent = name === "waiting" && seconds > 0 ? ` in ${seconds} s` : "";
  }

  #showCounts() {
    document.title = this.#unread > 0 ? `(${this.#unread}) ringroom` : "ringroom";
    byId("newest").hidden = this.#unseen === 0;
    byId("newest").textContent = newMessages(this.#unseen);
  }

  #trouble(words, again) {
    byId("trouble").querySelector("span").textContent = words;
    byId("again").hidden = !again;
    byId("again").onclick = () => {
      byId("trouble").hidden = true;
      again();
    };
    byId("trouble").hidden = false;
    this.#stick();
  }

  /** Keeps the end in view for a reader who is there. */
  #stick() {
    if (this.#following) this.#log.toEnd();
  }

  // --- what wakes the room --------------------------------------------------------------------------------------

  #listen() {
    const on = (target, event, act) => target.addEventListener(event, act, { signal: this.#stop.signal });
    on(byId("composer"), "submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    on(byId("text"), "keydown", (event) => {
      const composing = event.isComposing || event.keyCode === 229;
      if (event.key !== "Enter" || event.shiftKey || composing || touch.matches) return;
      event.preventDefault();
      this.#submit();
    });
    on(byId("text"), "input", () => this.#composed());
    on(byId("scroller"), "scroll", () => this.#scrolled());
    on(byId("earlier"), "click", () => this.#loadEarlier());
    on(byId("newest"), "click", () => {
      this.#log.toEnd();
      byId("text").focus();
    });
    on(byId("hurry"), "click", () => this.#link.open());
    on(document, "visibilitychange", () => this.#looked());
    on(window, "online", () => this.#link.open());
    on(window, "offline", () => this.#showState());
    this.#every(TICK_MS, () => this.#tick());
    const resized = new ResizeObserver(() => this.#stick());
    resized.observe(byId("scroller"));
    resized.observe(byId("scroller").firstElementChild);
    this.#stop.signal.addEventListener("abort", () => resized.disconnect());
  }

  #every(ms, act) {
    const timer = setInterval(act, ms);
    this.#stop.signal.addEventListener("abort", () => clearInterval(timer));
  }

  #scrolled() {
    this.#following = this.#log.atEnd;
    if (this.#following && this.#unseen > 0) {
      this.#unseen = 0;
      this.#showCounts();
    }
    if (byId("scroller").scrollTop < TOP_PIXELS && byId("trouble").hidden) this.#loadEarlier();
  }

  /** Somebody looks at the page again: what was unread is read, and waiting is over. */
  #looked() {
    if (document.hidden) return;
    this.#unread = 0;
    this.#showCounts();
    this.#tick();
    if (this.#state.name === "waiting") this.#link.open();
  }

  #tick() {
    const [now, before] = [Date.now(), this.#ticked];
    this.#ticked = now;
    this.#showCountdown();
    if (new Date(now).getDate() !== new Date(before).getDate()) this.#log.renameDays();
    if (now - before > SLEPT_MS) this.#link.open();
  }
}

/** Unicode characters, as the server counts them. */
function count(text) {
  return [...text].length;
}

/** This tab's storage: gone with the tab. A browser that forbids it costs only the reload its memory. */
function store(key, value) {
  try {
    sessionStorage.setItem(`ringroom.${key}`, JSON.stringify(value));
  } catch {}
}

function stored(key) {
  try {
    return JSON.parse(sessionStorage.getItem(`ringroom.${key}`));
  } catch {
    return null;
  }
}

function forget(key) {
  try {
    sessionStorage.removeItem(`ringroom.${key}`);
  } catch {}
}
