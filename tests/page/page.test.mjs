// The chat page in a real browser, against a running server: two people talk, nothing they say runs, and what goes
// wrong is said in words. Needs the page addresses of two members of one room, as `ringroom demo` prints them, in
// RINGROOM_URL_ALICE and RINGROOM_URL_BOB, and a Chromium (CHROMIUM, or one of the usual places).

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { after, afterEach, before, test } from "node:test";
import { chromium } from "playwright-core";

const DEADLINE_MS = 10_000;
const CHROMIUMS = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const alice = process.env.RINGROOM_URL_ALICE;
const bob = process.env.RINGROOM_URL_BOB;

let browser;
let windows = [];

before(async () => {
  assert.ok(alice && bob, "set RINGROOM_URL_ALICE and RINGROOM_URL_BOB to the addresses that `ringroom demo` prints");
  const executablePath = process.env.CHROMIUM ?? CHROMIUMS.find(existsSync);
  assert.ok(executablePath, "no Chromium found: install one, or set CHROMIUM to its path");
  browser = await chromium.launch({ executablePath, args: FLAGS });
});

after(() => browser?.close());

/** Whatever a test does, no window may complain, break the policy or load anything from elsewhere. */
afterEach(async () => {
  const opened = windows;
  windows = [];
  const complaints = [];
  for (const { page, heard } of opened) {
    complaints.push(...heard, ...(await page.evaluate(() => globalThis.violations)));
    await page.context().close();
  }
  assert.deepEqual(complaints, []);
});

/** A window of its own. `route` may stand between the page and the server's WebSocket. */
async function open(address, { route, ...options } = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  const heard = [];
  page.on("console", (said) => ["error", "warning"].includes(said.type()) && heard.push(said.text()));
  page.on("pageerror", (error) => heard.push(String(error)));
  page.on("dialog", (dialog) => heard.push(`dialog: ${dialog.message()}`) && dialog.dismiss());
  const origin = new URL(address).origin;
  page.on("request", (request) => {
    const { protocol, origin: asked } = new URL(request.url());
    if (protocol !== "data:" && asked !== origin) heard.push(`loads ${request.url()}`);
  });
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => {
      globalThis.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`);
    });
  });
  if (route) await page.routeWebSocket(/\/ws\/chat\//, route);
  windows.push({ page, heard });
  await page.goto(address);
  return page;
}

async function connected(page) {
  await page.locator("#room[data-state=connected]").waitFor();
}

async function enter(address, options) {
  const page = await open(address, options);
  await connected(page);
  return page;
}

async function say(page, text) {
  await page.locator("#text").fill(text);
  await page.locator("#text").press("Enter");
}

/** Messages of the log that are exactly this text. */
function shown(page, text) {
  return page.locator("#log .text").filter({ hasText: new RegExp(`^${escape(text)}$`) });
}

function escape(text) {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}

async function sees(page, text) {
  await shown(page, text).waitFor();
  assert.equal(await shown(page, text).count(), 1, `${text} is there once`);
}

function withToken(address, token) {
  return address.replace(/token=[^&]*/, `token=${token}`);
}

const unique = (text) => `${text} ${randomUUID()}`;

/**
 * Stands between page and server: `cut` ends the present connection, `down` ends each new one at once, `deaf` swallows
 * what the page sends.
 */
class Wire {
  opened = 0;
  down = false;
  deaf = false;
  #page;
  #server;

  route = (page) => {
    this.opened += 1;
    if (this.down) return page.close({ code: 1012, reason: "down" });
    this.#page = page;
    this.#server = page.connectToServer();
    page.onMessage((message) => this.deaf || this.#server.send(message));
    this.#server.onMessage((message) => page.send(message));
  };

  async cut(code) {
    await this.#server.close();
    await this.#page.close({ code, reason: "cut" });
  }
}

test("two windows talk, each sees who said what", async () => {
  const [one, two] = await Promise.all([enter(alice), enter(bob)]);
  const [question, answer] = [unique("Are you there?"), unique("Here.")];
  await say(one, question);
  await sees(two, question);
  await say(two, answer);
  await sees(one, answer);
  await sees(one, question);
  const said = (page, text) => page.locator("#log .message", { hasText: text });
  assert.match(await said(one, question).getAttribute("class"), /\bmine\b/);
  assert.doesNotMatch(await said(two, question).getAttribute("class"), /\bmine\b/);
  assert.match(await one.locator("#state").textContent(), /^Connected as \S/);
  assert.equal(await one.locator("#outbox").isVisible(), false, "an echo is the receipt");
});

test("a message is text, whatever it holds", async () => {
  const [one, two] = await Promise.all([enter(alice), enter(bob)]);
  const mark = randomUUID();
  const hostile = `<img src=x onerror="window.ran=1"><script>window.ran=1</script><b>&amp;</b> ${mark}`;
  await say(one, hostile);
  for (const page of [one, two]) {
    await page.locator("#log .text", { hasText: mark }).waitFor();
    assert.equal(await page.locator("#log .text", { hasText: mark }).textContent(), hostile);
    assert.equal(await page.locator("#log :is(img, script, b)").count(), 0);
    assert.equal(await page.evaluate(() => window.ran), undefined);
  }
});

test("what everyone writes arrives as it was written", async () => {
  const [one, two] = await Promise.all([enter(alice), enter(bob)]);
  const texts = ["  two\n lines ", "👩‍👩‍👧 \u{10ffff}", "שלום ‏عليكم", "\"\\/\b\f\t", "x".repeat(4096)];
  for (const text of texts) {
    await two.evaluate(() => (globalThis.last = document.querySelector("#log").lastElementChild));
    await say(one, text);
    const arrived = () => document.querySelector("#log").lastElementChild !== globalThis.last;
    await two.waitForFunction(arrived);
    assert.equal(await two.locator("#log .text").last().textContent(), text);
  }
});

test("the policy holds: markup and scripts that get into the page do not run", async () => {
  const page = await enter(alice);
  const refused = await page.evaluate(() => {
    const attempts = [
      () => (document.body.innerHTML += "<p>markup</p>"),
      () => (document.createElement("script").textContent = "window.ran = 1"),
      () => document.body.setAttribute("onclick", "window.ran = 1"),
    ];
    const fails = (attempt) => {
      try {
        return attempt(), false;
      } catch {
        return true;
      }
    };
    return attempts.map(fails);
  });
  assert.deepEqual(refused.slice(0, 2), [true, true]);
  await page.evaluate(() => document.body.click());
  assert.equal(await page.evaluate(() => window.ran), undefined);
  assert.ok(await page.evaluate(() => globalThis.violations.length >= 2), "these tests notice violations");
  windows = windows.filter((window) => window.page !== page);
  await page.context().close();
});

test("the token leaves the address bar, and a reload keeps session, history and draft", async () => {
  const page = await enter(alice);
  const token = new URLSearchParams(new URL(alice).hash.slice(1)).get("token");
  assert.equal((await page.evaluate(() => location.href)).includes(token), false);
  const text = unique("Before the reload");
  await say(page, text);
  await sees(page, text);
  await page.locator("#text").fill("not sent yet");
  await page.reload();
  await connected(page);
  await sees(page, text);
  assert.equal(await page.locator("#text").inputValue(), "not sent yet");
});

test("leaving forgets the token", async () => {
  const page = await enter(alice);
  await page.locator("#leave").click();
  await page.locator("#door").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await page.reload();
  assert.equal(await page.locator("#door").isVisible(), true);
});

test("a wrong token is said in words, and not tried again", async () => {
  const wire = new Wire();
  const page = await open(withToken(alice, "0".repeat(40)), wire);
  await page.locator("#why").waitFor();
  assert.match(await page.locator("#why").textContent(), /token is not valid/);
  assert.equal(await page.locator("#join").isVisible(), true);
  assert.match(await page.locator("#room-id").inputValue(), /^[0-9a-f-]{36}$/);
  await page.waitForTimeout(2_500);
  assert.equal(wire.opened, 1);
});

test("a room that one is no member of is said in words, and not tried again", async () => {
  const wire = new Wire();
  const page = await open(alice.replace(/room=[^&]*/, `room=${randomUUID()}`), wire);
  await page.locator("#why").waitFor();
  assert.match(await page.locator("#why").textContent(), /not a member/);
  await page.waitForTimeout(2_500);
  assert.equal(wire.opened, 1);
});

test("the form lets in, says what is wrong with a field, and takes a whole address", async () => {
  const page = await open(new URL("/", alice).href);
  await page.locator("#room-id").fill("lobby");
  await page.locator("#room-id").press("Enter");
  assert.match(await page.locator("#room-wrong").textContent(), /room id/);
  assert.match(await page.locator("#token-wrong").textContent(), /token/);
  assert.equal(await page.evaluate(() => document.activeElement.id), "room-id");
  await page.locator("#room-id").fill(alice);
  await page.locator("#join [type=submit]").click();
  await connected(page);
});

test("the keyboard alone joins, sends and leaves", async () => {
  const page = await open(new URL("/", alice).href);
  const given = new URLSearchParams(new URL(alice).hash.slice(1));
  await page.keyboard.type(given.get("room"));
  await page.keyboard.press("Tab");
  await page.keyboard.type(given.get("token"));
  await page.keyboard.press("Enter");
  await connected(page);
  const mark = randomUUID();
  await page.keyboard.type("one line");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type(mark);
  await page.keyboard.press("Enter");
  await page.locator("#log .text", { hasText: mark }).waitFor();
  assert.equal(await page.locator("#log .text", { hasText: mark }).textContent(), `one line\n${mark}`);
  for (let tabs = 0; tabs < 10; tabs += 1) {
    await page.keyboard.press("Shift+Tab");
    if ((await page.evaluate(() => document.activeElement.id)) === "leave") break;
  }
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#door").isVisible(), true);
});

test("on a phone Enter makes a line, the button sends, and everything can be touched", async () => {
  const page = await enter(alice, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
  const mark = randomUUID();
  await page.locator("#text").fill("one line");
  await page.locator("#text").press("Enter");
  await page.locator("#text").pressSequentially(mark);
  for (const id of ["text", "send", "leave"]) {
    const { width, height } = await page.locator(`#${id}`).boundingBox();
    assert.ok(width >= 44 && height >= 44, `${id}: ${width} x ${height}`);
  }
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
  await page.locator("#send").tap();
  await page.locator("#log .text", { hasText: mark }).waitFor();
  assert.equal(await page.locator("#log .text", { hasText: mark }).textContent(), `one line\n${mark}`);
});

test("earlier messages load page by page, in order, without gap or repeat", async () => {
  const one = await enter(alice);
  const mark = randomUUID();
  for (let number = 0; number < 70; number += 1) {
    await say(one, `${mark} ${number}`);
    await shown(one, `${mark} ${number}`).waitFor();
  }
  const two = await enter(bob);
  await shown(two, `${mark} 69`).waitFor();
  const first = shown(two, `${mark} 0`);
  while ((await first.count()) === 0) {
    const known = await two.locator("#log .text").count();
    await two.locator("#earlier").click();
    await two.waitForFunction((known) => document.querySelectorAll("#log .text").length > known, known);
  }
  const texts = await two.locator("#log .text", { hasText: mark }).allTextContents();
  assert.deepEqual(texts, Array.from({ length: 70 }, (_, number) => `${mark} ${number}`));
});

test("after a break the page comes back and shows what was said meanwhile", async () => {
  const wire = new Wire();
  const [one, two] = await Promise.all([enter(alice, wire), enter(bob)]);
  const texts = Array.from({ length: 60 }, (_, number) => unique(`Meanwhile ${number}`));
  const before = unique("Before the break");
  await say(two, before);
  await sees(one, before);
  wire.down = true;
  await wire.cut(1012);
  for (const text of texts) {
    await say(two, text);
    await shown(two, text).waitFor();
  }
  assert.match(await one.locator("#state").textContent(), /Reconnecting/);
  assert.ok(wire.opened > 1, "it tries again");
  wire.down = false;
  await one.evaluate(() => dispatchEvent(new Event("online")));
  await connected(one);
  await sees(one, texts.at(-1));
  await sees(one, texts[0]);
  const seen = await one.locator("#log .text").allTextContents();
  assert.deepEqual(seen.slice(seen.indexOf(before)), [before, ...texts]);
});

test("a message without a receipt is marked, and sent again when its author says so", async () => {
  const wire = new Wire();
  const page = await enter(alice, wire);
  const text = unique("Into the void");
  wire.deaf = true;
  await say(page, text);
  await page.locator("#outbox [data-state=sent]").waitFor();
  await wire.cut(1011);
  await page.locator("#outbox [data-state=unconfirmed]").waitFor();
  wire.deaf = false;
  await connected(page);
  assert.equal(await shown(page, text).count(), 0);
  await page.getByRole("button", { name: "Resend" }).click();
  await sees(page, text);
  assert.equal(await page.locator("#outbox").isVisible(), false);
});

test("what was written without a connection is sent when it is back", async () => {
  const wire = new Wire();
  const page = await enter(alice, wire);
  const texts = [unique("First"), unique("Second")];
  await wire.cut(1001);
  for (const text of texts) await say(page, text);
  await connected(page);
  await sees(page, texts[0]);
  await sees(page, texts[1]);
  const seen = await page.locator("#log .text").allTextContents();
  assert.deepEqual(seen.slice(-2), texts);
});

test("somebody who is put out of the room is told, keeps the draft, and does not come back", async () => {
  const wire = new Wire();
  const page = await enter(alice, wire);
  await page.locator("#text").fill("half a thought");
  await wire.cut(4003);
  await page.locator("#why").waitFor();
  assert.match(await page.locator("#why").textContent(), /not a member/);
  await page.waitForTimeout(2_500);
  assert.equal(wire.opened, 1);
  await page.locator("#join [type=submit]").click();
  await connected(page);
  assert.equal(await page.locator("#text").inputValue(), "half a thought");
});

test("a reader who scrolled up stays there and is told of new messages", async () => {
  const [one, two] = await Promise.all([enter(alice), enter(bob)]);
  await say(one, Array.from({ length: 80 }, (_, line) => `line ${line}`).join("\n"));
  await two.waitForTimeout(300);
  await two.evaluate(() => (document.querySelector("#scroller").scrollTop -= 500));
  await two.waitForTimeout(100);
  const place = await two.evaluate(() => document.querySelector("#scroller").scrollTop);
  const text = unique("News");
  await say(one, text);
  await two.locator("#newest").waitFor();
  assert.equal(await two.locator("#newest").textContent(), "1 new message");
  assert.equal(await two.evaluate(() => document.querySelector("#scroller").scrollTop), place);
  await two.locator("#newest").click();
  await two.locator("#newest").waitFor({ state: "hidden" });
  await sees(two, text);
});
