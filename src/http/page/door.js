"use strict";
// The way in and out: a room and a token from the address, from this tab's memory or from the form; and back to the form,
// with the reason, when the room is left. The token is taken out of the address bar before anything else happens.

let room = null;

/** Reads `#room=…&token=…`, and leaves only the room in the address. */
function arrive() {
  const given = new URLSearchParams(location.hash.slice(1));
  const [id, token] = [given.get("room") ?? "", given.get("token") ?? ""];
  const kept = stored("session");
  if (given.has("token")) showAddress(id);
  if (token) return tryToEnter(id, token);
  if (kept && (!id || tidyRoomId(id) === kept.room)) return enter(kept);
  knock("", id);
}

/** Without the token; without a fragment at all if there is no room. */
function showAddress(id) {
  history.replaceState(null, "", location.pathname + location.search + (id ? `#room=${id}` : ""));
}

/** Checks what was typed or came with the address: enters, or says what is wrong with it. */
function tryToEnter(id, token) {
  const wrong = [
    ["room", ROOM_ID.test(id) ? "" : "A room id has 32 letters a to f and digits, like 6f1e8a52-7d1c-4b1f-9d7e-0b9f2f1d3c4a."],
    ["token", token === "" ? "Enter your token." : TOKEN_KEY.test(token) ? "" : "This holds characters that no token has."],
  ];
  if (wrong.some(([, words]) => words)) {
    knock("", id, token);
    return blame(wrong);
  }
  enter({ room: tidyRoomId(id), token });
}

function enter(session) {
  room?.leave();
  store("session", session);
  showAddress(session.room);
  show("room");
  room = new Room(session, (words, code) => {
    // A refused token is forgotten; another reason may pass, so the form keeps the token at hand.
    leave(words, session.room, code === 4001 ? "" : session.token);
  });
  room.enter();
}

function leave(words, id, token) {
  room?.leave();
  room = null;
  forget("session");
  showAddress(id);
  knock(words, id, token);
}

/** Shows the form, with the reason if there is one, the cursor where something is missing. */
function knock(words, id = "", token = "") {
  room?.leave();
  room = null;
  show("door");
  byId("room-id").value = id;
  byId("token").value = token;
  byId("why").textContent = words;
  byId("why").hidden = !words;
  blame([["room", ""], ["token", ""]]);
  (id && !token ? byId("token") : byId("room-id")).focus();
}

/** Says beside each field what is wrong with it, and goes to the first. */
function blame(wrong) {
  const field = { room: byId("room-id"), token: byId("token") };
  for (const [name, words] of wrong) {
    byId(`${name}-wrong`).textContent = words;
    byId(`${name}-wrong`).hidden = !words;
    field[name].setAttribute("aria-invalid", String(words !== ""));
  }
  const first = wrong.find(([, words]) => words);
  if (first) field[first[0]].focus();
}

function show(id) {
  for (const part of ["door", "room"]) byId(part).hidden = part !== id;
}

/** The room field also takes a whole address, and fills the token from it. */
function unpack() {
  const fragment = byId("room-id").value.split("#")[1];
  const given = new URLSearchParams(fragment ?? "");
  if (given.has("room")) byId("room-id").value = given.get("room");
  if (given.has("token")) byId("token").value = given.get("token");
}

function reveal(shown) {
  byId("token").type = shown ? "text" : "password";
  byId("reveal").textContent = shown ? "Hide" : "Show";
  byId("reveal").setAttribute("aria-pressed", String(shown));
}

byId("join").addEventListener("submit", (event) => {
  event.preventDefault();
  unpack();
  reveal(false);
  tryToEnter(byId("room-id").value.trim(), byId("token").value.trim());
});
byId("room-id").addEventListener("input", unpack);
byId("reveal").addEventListener("click", () => reveal(byId("token").type === "password"));
byId("leave").addEventListener("click", () => {
  forget("unsent");
  leave("", "", "");
});
window.addEventListener("hashchange", () => {
  if (new URLSearchParams(location.hash.slice(1)).has("token")) arrive();
});

// The keyboard of a phone covers the page without changing its height everywhere; this height is what can be seen.
visualViewport?.addEventListener("resize", () => {
  document.documentElement.style.setProperty("--seen", `${visualViewport.height}px`);
  scrollTo(0, 0);
});

arrive();
