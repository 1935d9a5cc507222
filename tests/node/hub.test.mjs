// What a user of the official JavaScript client sees.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as signalR from "@microsoft/signalr";
import { api, inbox, proxy } from "./support.mjs";

const { BASE, SHOP, PHONE, NUMBER } = process.env;
const { send, read } = api(BASE, SHOP, NUMBER);

function connection(token, { base = BASE, skip = false, reconnect } = {}) {
  const options = { accessTokenFactory: () => token };
  if (skip) {
    options.skipNegotiation = true;
    options.transport = signalR.HttpTransportType.WebSockets;
  }
  let builder = new signalR.HubConnectionBuilder()
    .withUrl(`${base}/hub`, options)
    .configureLogging(signalR.LogLevel.None);
  if (reconnect) builder = builder.withAutomaticReconnect(reconnect);
  return builder.build();
}

for (const skip of [false, true]) {
  test(`connects ${skip ? "without" : "with"} negotiation, receives and acknowledges`, async () => {
    const hub = connection(PHONE, { skip });
    const box = inbox(hub);
    await hub.start();
    assert.equal(hub.connectionId === null, skip);
    const id = await send("hello", { subject: "greeting" });
    const { how, message } = await box.next();
    assert.equal(how, "live");
    assert.equal(message.id, id);
    assert.equal(message.content, "hello");
    assert.equal(message.subject, "greeting");
    assert.equal(message.from, "shop");
    assert.equal(message.to, NUMBER);
    assert.equal(await hub.invoke("Acknowledge", [id]), 1);
    assert.equal(await hub.invoke("Acknowledge", [id]), 0);
    assert.equal((await read(id)).status, "delivered");
    assert.equal(await hub.invoke("MarkRead", { messageIds: [id] }), 1);
    assert.equal((await read(id)).status, "read");
    await hub.stop();
  });
}

test("gets what was sent while it was away", async () => {
  const ids = [await send("one"), await send("two"), await send("three")];
  const hub = connection(PHONE);
  const box = inbox(hub);
  await hub.start();
  for (const id of ids) {
    const { how, message } = await box.next();
    assert.equal(how, "page");
    assert.equal(message.id, id);
  }
  const pending = await hub.invoke("GetPendingMessages");
  assert.deepEqual(pending.map((message) => message.id), ids);
  assert.equal(await hub.invoke("Acknowledge", ids), 3);
  assert.deepEqual(await hub.invoke("GetPendingMessages"), []);
  await hub.stop();
});

test("echoes every kind of value, in order", async () => {
  const hub = connection(PHONE);
  await hub.start();
  const values = [null, true, -1.5, "☎ \u001e\u0000\"", [], {}, [{ a: [1, "b", null] }], "x".repeat(20000)];
  assert.deepEqual(await Promise.all(values.map((value) => hub.invoke("Echo", value))), values);
  await hub.stop();
});

test("tells what is wrong with a call and goes on", async () => {
  const hub = connection(PHONE);
  await hub.start();
  await assert.rejects(hub.invoke("Nothing"), /Method does not exist\./);
  await assert.rejects(hub.invoke("Echo"), /provides 0 argument\(s\) but target expects 1/);
  await assert.rejects(hub.invoke("Acknowledge", "no list"), /Error binding arguments/);
  await assert.rejects(hub.invoke("MarkRead", { nonsense: 1 }), /Error binding arguments/);
  await new Promise((done, fail) =>
    hub.stream("Echo", 1).subscribe({
      next: () => fail(new Error("an item came")),
      complete: () => fail(new Error("it completed")),
      error: (error) => { assert.match(error.message, /non-streaming 'Echo' method/); done(); },
    }));
  assert.equal(await hub.invoke("Echo", "still here"), "still here");
  await hub.stop();
});

test("is refused without a valid token, in the words clients know", async () => {
  await assert.rejects(connection("esh_wrong").start(), {
    message: "Failed to complete negotiation with the server: Error: Unauthorized: Status code '401'",
  });
  await assert.rejects(connection("esh_wrong", { skip: true }).start());
});

test("tells the sender what becomes of its messages", async () => {
  const shop = connection(SHOP);
  const changes = [];
  let wake = () => {};
  shop.on("MessageStatusChanged", (change) => { changes.push(change); wake(); });
  await shop.start();
  const phone = connection(PHONE);
  const box = inbox(phone);
  await phone.start();
  const id = await send("followed");
  assert.equal((await box.next()).message.id, id);
  await phone.invoke("Acknowledge", [id]);
  while (!changes.some((change) => change.id === id && change.status === "delivered")) {
    await new Promise((done) => { wake = done; });
  }
  await phone.stop();
  await shop.stop();
});

test("comes back by itself after its connection was cut, and misses nothing", async () => {
  const wire = await proxy(BASE);
  const hub = connection(PHONE, { base: wire.base, reconnect: { nextRetryDelayInMilliseconds: () => 100 } });
  const box = inbox(hub);
  await hub.start();
  const first = hub.connectionId;
  const back = new Promise((done) => hub.onreconnected(done));
  const away = new Promise((done) => hub.onreconnecting(done));
  wire.cut();
  await away;
  const id = await send("while away");
  assert.notEqual(await back, first);
  const { message } = await box.next();
  assert.equal(message.id, id);
  assert.equal(await hub.invoke("Acknowledge", [id]), 1);
  await hub.stop();
  wire.close();
});

test("two hundred messages, each once and in order", async () => {
  const hub = connection(PHONE);
  const box = inbox(hub);
  await hub.start();
  const sent = [];
  const sending = (async () => { for (let n = 0; n < 200; n++) sent.push(await send(String(n))); })();
  const got = [];
  while (got.length < 200) {
    const { message } = await box.next();
    got.push(message.id);
    await hub.invoke("Acknowledge", [message.id]);
  }
  await sending;
  assert.deepEqual(got, sent);
  assert.equal(box.size(), 0);
  await hub.stop();
});
