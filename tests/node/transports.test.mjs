// The official client over every transport and both encodings, and what breaks in between.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as signalR from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";
import { proxy, inbox, api } from "./support.mjs";

const { BASE, PHONE, SHOP, NUMBER } = process.env;
const { send, read } = api(BASE, SHOP, NUMBER);
const { WebSockets, ServerSentEvents, LongPolling } = signalR.HttpTransportType;

const matrix = [];
for (const [name, transport] of Object.entries({ WebSockets, ServerSentEvents, LongPolling })) {
  for (const encoding of ["json", "messagepack"]) {
    if (transport === ServerSentEvents && encoding === "messagepack") continue;
    matrix.push({ name: `${name}, ${encoding}`, transport, encoding });
  }
}

function build({ path = "/hub/diagnostics", transport, encoding = "json", token = PHONE, base = BASE, more = (b) => b }) {
  const builder = new signalR.HubConnectionBuilder()
    .withUrl(`${base}${path}`, { accessTokenFactory: () => token, transport })
    .configureLogging(signalR.LogLevel.None);
  if (encoding === "messagepack") builder.withHubProtocol(new MessagePackHubProtocol());
  return more(builder).build();
}

const collect = (stream) =>
  new Promise((done, fail) => {
    const items = [];
    stream.subscribe({ next: (item) => items.push(item), complete: () => done(items), error: fail });
  });

async function open(options) {
  const hub = build(options);
  await hub.start();
  return hub;
}

for (const way of matrix) {
  test(`${way.name}: calls and answers, in order`, async () => {
    const hub = await open(way);
    const values = [null, true, -1.5, 1e15, "☎ \u001e\u0000\"", [], {}, [{ a: [1, "b", null] }], "x".repeat(20000)];
    assert.deepEqual(await Promise.all(values.map((value) => hub.invoke("echo", value))), values);
    await assert.rejects(hub.invoke("Fail", "what went wrong"), /HubException: what went wrong$/);
    await assert.rejects(hub.invoke("Nothing"), /Method does not exist\./);
    await assert.rejects(hub.invoke("Echo", 1, 2), /provides 2 argument\(s\) but target expects 1/);
    assert.equal(await hub.invoke("Calls"), 1);
    await hub.send("Calls");
    assert.equal(await hub.invoke("Calls"), 3);
    const id = await hub.invoke("ConnectionId");
    assert.equal(id, hub.connectionId);
    await hub.stop();
  });

  test(`${way.name}: streams down`, async () => {
    const hub = await open(way);
    assert.deepEqual(await collect(hub.stream("Count", 0)), []);
    assert.deepEqual(await collect(hub.stream("Count", 500)), [...Array(500).keys()]);
    const both = await Promise.all([collect(hub.stream("Count", 100)), collect(hub.stream("Count", 3))]);
    assert.deepEqual(both.map((items) => items.length), [100, 3]);
    await assert.rejects(collect(hub.stream("Echo", 1)), /non-streaming 'Echo' method/);
    await assert.rejects(hub.invoke("Count", 1), /streaming 'Count' method with a non-streaming/);
    await new Promise((done, fail) => {
      const subscription = hub.stream("Forever").subscribe({
        next: (n) => { if (n === 2) { subscription.dispose(); done(); } },
        complete: () => fail(new Error("it ended")),
        error: fail,
      });
    });
    assert.equal(await hub.invoke("Echo", "after"), "after");
    await hub.stop();
  });

  test(`${way.name}: streams up`, async () => {
    const hub = await open(way);
    const subject = new signalR.Subject();
    const joined = hub.invoke("Concat", subject);
    // It does not hold up what follows.
    assert.equal(await hub.invoke("Echo", 1), 1);
    for (let n = 0; n < 50; n++) subject.next(String(n % 10));
    subject.complete();
    assert.equal(await joined, "0123456789".repeat(5));
    const broken = new signalR.Subject();
    const failing = hub.invoke("Concat", broken);
    broken.next("a");
    broken.error(new Error("Something bad"));
    await assert.rejects(failing, /HubException: Something bad$/);
    const wrong = new signalR.Subject();
    const refused = hub.invoke("Concat", wrong);
    wrong.next(1);
    await assert.rejects(refused, /Failed to bind Stream message\.$/);
    await assert.rejects(hub.invoke("Echo", 1, new signalR.Subject()), /Client sent 1 stream\(s\), Hub method expects 0\./);
    await hub.stop();
  });

  test(`${way.name}: the server calls and asks`, async () => {
    const hub = await open(way);
    const called = new Promise((done) => hub.on("called", done));
    await hub.invoke("CallMe", "hello");
    assert.equal(await called, "hello");
    await assert.rejects(hub.invoke("AskMe", "x"), /HubException: Client didn't provide a result\.$/);
    hub.on("asked", (text) => {
      if (text === "throw") throw new Error("from callback");
      return { answer: text };
    });
    assert.deepEqual(await hub.invoke("AskMe", "1"), { answer: "1" });
    const three = ["a", "b", "c"].map((text) => hub.invoke("AskMe", text));
    assert.deepEqual(await Promise.all(three), [{ answer: "a" }, { answer: "b" }, { answer: "c" }]);
    await assert.rejects(hub.invoke("AskMe", "throw"), /HubException: Error: from callback$/);
    await hub.stop();
  });

  test(`${way.name}: is stopped and started again`, async () => {
    const hub = build(way);
    for (let n = 0; n < 3; n++) {
      await hub.start();
      assert.equal(await hub.invoke("Echo", n), n);
      await hub.stop();
    }
  });

  test(`${way.name}: messages arrive, live and pending, and are acknowledged`, async () => {
    const earlier = [await send("one"), await send("two")];
    const hub = build({ ...way, path: "/hub" });
    const box = inbox(hub);
    await hub.start();
    for (const id of earlier) assert.equal((await box.next()).message.id, id);
    assert.equal(await hub.invoke("Acknowledge", earlier), 2);
    const live = await send("☎ live", { subject: "s" });
    const { how, message } = await box.next();
    assert.deepEqual([how, message.id, message.content, message.subject], ["live", live, "☎ live", "s"]);
    assert.equal(message.to, NUMBER);
    assert.ok(!Number.isNaN(Date.parse(message.createdAt)));
    assert.equal(await hub.invoke("MarkRead", { messageIds: [live] }), 1);
    assert.equal((await read(live)).status, "read");
    await hub.stop();
  });

  test(`${way.name}: a token that is none is refused with the words clients know`, async () => {
    await assert.rejects(open({ ...way, token: "esh_wrong" }), {
      message: "Failed to complete negotiation with the server: Error: Unauthorized: Status code '401'",
    });
  });
}

test("messagepack: bytes and times stay what they are", async () => {
  const hub = await open({ transport: WebSockets, encoding: "messagepack" });
  const bytes = new Uint8Array([0, 255, 128]);
  assert.deepEqual(new Uint8Array(await hub.invoke("Echo", bytes)), bytes);
  const time = new Date("2026-02-03T04:05:06.789Z");
  assert.deepEqual(await hub.invoke("Echo", time), time);
  await hub.stop();
});

test("a message that is too long is answered, and the connection stays", async () => {
  for (const way of matrix) {
    const hub = await open(way);
    const closed = [];
    hub.onclose((error) => closed.push(error));
    const long = hub.invoke("Echo", "x".repeat(300_000));
    const error = await long.then(() => null, (error) => String(error));
    assert.match(error, /HubException: message_too_large: esh3ar takes at most 262144 bytes/, way.name);
    assert.equal(await hub.invoke("Echo", "after"), "after", way.name);
    assert.deepEqual(closed, [], way.name);
    await hub.stop();
  }
});

test("many calls at once, joined into large frames", async () => {
  for (const way of matrix) {
    const hub = await open(way);
    // More than a library takes in one frame by default.
    const values = [...Array(300).keys()].map((n) => `${n}:${"y".repeat(8000)}`);
    assert.deepEqual(await Promise.all(values.map((value) => hub.invoke("Echo", value))), values);
    await hub.stop();
  }
});

/** Counts on the server's side what reached it, over a connection that is cut again and again. */
async function outliving(encoding, fault) {
  const wire = await proxy(BASE);
  const hub = build({
    base: wire.base, transport: WebSockets, encoding,
    more: (builder) => builder.withStatefulReconnect(),
  });
  await hub.start();
  const id = hub.connectionId;
  let reconnecting = 0;
  hub.onreconnecting(() => reconnecting++);
  let closed = null;
  hub.onclose((error) => { closed = error ?? "closed"; });
  const called = [];
  hub.on("called", (text) => called.push(text));
  for (let n = 1; n <= 40; n++) {
    if (n % 8 === 0) fault(wire, n);
    const calls = hub.invoke("Calls");
    const push = hub.invoke("CallMe", String(n));
    assert.equal(await calls, n, `call ${n}: ${closed}`);
    await push;
  }
  assert.deepEqual(called, [...Array(40).keys()].map((n) => String(n + 1)));
  assert.equal(hub.connectionId, id);
  assert.equal(reconnecting, 0);
  assert.ok(wire.accepted() > 3, `only ${wire.accepted()} sockets`);
  await hub.stop();
  wire.close();
}

for (const encoding of ["json", "messagepack"]) {
  test(`stateful reconnect, ${encoding}: nothing is lost or done twice when sockets are cut`, () =>
    outliving(encoding, (wire) => wire.cut()));
  test(`stateful reconnect, ${encoding}: an answer is lost`, () =>
    outliving(encoding, (wire) => wire.loseDown()));
  test(`stateful reconnect, ${encoding}: a call is lost`, () =>
    outliving(encoding, (wire) => wire.loseUp()));
}

test("stateful reconnect: messages come once, acknowledged once", async () => {
  const wire = await proxy(BASE);
  const hub = build({
    base: wire.base, path: "/hub", transport: WebSockets,
    more: (builder) => builder.withStatefulReconnect(),
  });
  const box = inbox(hub);
  await hub.start();
  const sent = [];
  // Cut again before it is back, the client gives up.
  const back = () => hub.invoke("Acknowledge", []);
  for (let n = 0; n < 60; n++) {
    if (n % 10 === 5) {
      await back();
      wire.loseDown();
    }
    sent.push(await send(String(n)));
    if (n % 10 === 9) {
      await back();
      wire.cut();
    }
  }
  const got = [];
  while (got.length < sent.length) {
    const { message } = await box.next();
    got.push(message.id);
    await hub.invoke("Acknowledge", [message.id]);
  }
  assert.deepEqual(got, sent);
  assert.equal(box.size(), 0);
  await hub.stop();
  wire.close();
});

test("who does not come back in time is gone, and comes back anew", async () => {
  const wire = await proxy(BASE);
  const hub = build({
    base: wire.base, transport: WebSockets,
    more: (b) => b.withStatefulReconnect().withAutomaticReconnect([100, 100, 100, 200, 500, 1000, 1000]),
  });
  await hub.start();
  const first = hub.connectionId;
  const back = new Promise((done) => hub.onreconnected(done));
  wire.refuse(true);
  wire.cut();
  setTimeout(() => wire.refuse(false), 500);
  assert.notEqual(await back, first);
  await hub.stop();
  wire.close();
});

test("the client falls back by itself when WebSockets do not pass", async () => {
  const wire = await proxy(BASE, { noUpgrade: true });
  const hub = new signalR.HubConnectionBuilder()
    .withUrl(`${wire.base}/hub/diagnostics`, { accessTokenFactory: () => PHONE })
    .configureLogging(signalR.LogLevel.None)
    .build();
  await hub.start();
  assert.equal(await hub.invoke("Echo", "by events"), "by events");
  await hub.stop();
  wire.close();
});
