// The example of docs/HUB.md as it stands there, with the app's own parts put in.
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import * as signalR from "@microsoft/signalr";
import { api, proxy } from "./support.mjs";

const { BASE, SHOP, ADMIN, NUMBER, PHONE_LIMIT } = process.env;
const URL_OF_THE_PAGE = "https://messages.example.com";
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const { send, read } = api(BASE, SHOP, NUMBER);

const page = fs.readFileSync(new URL("../../docs/HUB.md", import.meta.url), "utf8");
const [, example] = page.match(/```js\n([\s\S]*?)```/);

async function until(what, look) {
  for (const end = performance.now() + 30_000; performance.now() < end; await sleep(20)) {
    const found = await look();
    if (found) return found;
  }
  assert.fail(`waited in vain for ${what}`);
}

async function admin(method, path, body) {
  const headers = { authorization: `Bearer ${ADMIN}`, "content-type": "application/json" };
  const response = await fetch(`${BASE}/api/v1/admin/${path}`, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(response.ok, `${path}: ${response.status}`);
  return response.status === 204 ? null : response.json();
}

/** Runs the example; what it does to the app is written down. */
function app(base, token) {
  const seen = { shown: [], signIns: 0, tooMany: 0, timers: 0, readAgain: [] };
  const known = new Set();
  const parts = {
    signalR, token,
    store: { addIfNew: ({ id }) => !known.has(id) && !!known.add(id) },
    show: (message) => seen.shown.push(message.id),
    readAgain: (since) => seen.readAgain.push(since),
    signIn: () => seen.signIns++,
    tooMany: () => seen.tooMany++,
    setTimeout: (what, ms) => { seen.timers++; seen.again = what; return setTimeout(what, ms / 20); },
  };
  const code = example
    .replace(/^import .*\n/m, "")
    .replace(URL_OF_THE_PAGE, base)
    .replace(".build()", ".configureLogging(signalR.LogLevel.None).build()");
  assert.ok(code.includes(`${base}/hub`), "the address");
  const run = new Function(...Object.keys(parts), `${code}\nreturn { hub, stop };`);
  return Object.assign(seen, run(...Object.values(parts)));
}

test("messages are shown once and acknowledged, through a cut and after a restart of the way", async () => {
  const wire = await proxy(BASE);
  const pending = await send("pending");
  const seen = app(wire.base, process.env.PHONE);
  await until("what was pending", () => seen.shown.includes(pending));
  const sent = [pending];
  for (let n = 0; n < 6; n++) {
    if (n === 2) wire.cut();
    if (n === 4) { wire.refuse(true); wire.cut(); setTimeout(() => wire.refuse(false), 500); }
    sent.push(await send(String(n)));
  }
  await until("all", () => seen.shown.length === sent.length);
  assert.deepEqual(seen.shown, sent);
  for (const id of sent) await until(`the acknowledgement of ${id}`, async () => (await read(id)).status === "delivered");
  assert.deepEqual([seen.signIns, seen.tooMany], [0, 0]);
  // The app's own stop is the end of it.
  const timers = seen.timers;
  await seen.stop();
  await until("the end", () => seen.hub.state === "Disconnected");
  assert.deepEqual([seen.timers, seen.signIns, seen.tooMany], [timers, 0, 0]);
  wire.close();
});

test("who is stopped while it waits to connect again does not connect", async () => {
  const wire = await proxy(BASE);
  wire.refuse(true);
  const seen = app(wire.base, process.env.PHONE);
  await until("the wait", () => seen.again);
  await seen.stop();
  wire.refuse(false);
  // The wait is over.
  await seen.again();
  assert.deepEqual([seen.hub.state, wire.accepted()], ["Disconnected", 0]);
  wire.close();
});

test("who is one too many does not come back", async () => {
  const oldest = app(BASE, process.env.PHONE);
  await until("the first", () => oldest.hub.state === "Connected");
  const others = [];
  for (let n = 0; n < Number(PHONE_LIMIT); n++) {
    others.push(app(BASE, process.env.PHONE));
    await until("another", () => others[n].hub.state === "Connected");
  }
  await until("the word of it", () => oldest.tooMany === 1);
  assert.deepEqual([oldest.hub.state, oldest.timers, oldest.signIns], ["Disconnected", 0, 0]);
  assert.deepEqual(others.map((other) => other.tooMany), others.map(() => 0));
  await Promise.all(others.map((other) => other.stop()));
});

test("a token that is refused is not tried again", async () => {
  const { id, token } = await admin("POST", "tokens", { mobile: NUMBER });
  const seen = app(BASE, token);
  await until("the connection", () => seen.hub.state === "Connected");
  await admin("DELETE", `tokens/${id}`);
  await until("the word of it", () => seen.signIns === 1);
  assert.deepEqual([seen.hub.state, seen.timers, seen.tooMany], ["Disconnected", 0, 0]);
  // And not when it is refused from the beginning.
  const refused = app(BASE, token);
  await until("the word of it", () => refused.signIns === 1);
  assert.deepEqual([refused.hub.state, refused.timers], ["Disconnected", 0]);
});
