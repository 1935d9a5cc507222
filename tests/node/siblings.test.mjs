// Several connections of one business user and of one phone, over every transport and encoding, fast and
// slow, some of them cut again and again. Each acknowledges all that it gets. What happened goes to a file
// for the history checker, which knows what each had to get.
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import * as signalR from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";
import { proxy, api } from "./support.mjs";

const { BASE, OTHER, SHOP, PHONE, NUMBER, HISTORY } = process.env;
const { WebSockets, ServerSentEvents, LongPolling } = signalR.HttpTransportType;
const EACH = Number(process.env.EACH ?? 300);
const PATIENCE = 60_000;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const now = () => Math.floor((performance.timeOrigin + performance.now()) * 1000);
const log = [];
const note = (entry) => log.push(JSON.stringify(entry));

/** Asks for its messages a moment later each time. */
class Slow extends signalR.DefaultHttpClient {
  async send(request) {
    if (request.method === "GET") await sleep(300);
    return super.send(request);
  }
}

let connections = 0;

/** One device or agent: a connection after another. */
class Device {
  constructor(name, recipient, base, token, { transport, binary, slow, stateful }) {
    Object.assign(this, { name, recipient });
    const quiet = { log() {} };
    const options = { accessTokenFactory: () => token, transport };
    if (slow) options.httpClient = new Slow(quiet);
    const builder = new signalR.HubConnectionBuilder()
      .withUrl(`${base}/hub`, options)
      .configureLogging(signalR.LogLevel.None)
      .withAutomaticReconnect({ nextRetryDelayInMilliseconds: () => 50 });
    if (binary) builder.withHubProtocol(new MessagePackHubProtocol());
    if (stateful) builder.withStatefulReconnect();
    this.hub = builder.build();
    this.hub.serverTimeoutInMilliseconds = 120_000;
    this.missed = 0;
    this.begin();
    const take = (messages) => this.take(messages);
    this.hub.on("ReceiveMessage", (message) => take([message]));
    this.hub.on("ReceivePendingMessages", take);
    for (const other of ["MessageStatusChanged", "ConversationChanged", "Typing"]) this.hub.on(other, () => {});
    this.hub.on("Missed", ({ since }) => {
      this.missed++;
      note({ missed: this.connection, since: Date.parse(since) * 1000, at: now() });
    });
    this.hub.onreconnecting(() => { note({ closed: this.connection }); this.begin(); });
    this.hub.onreconnected(() => this.opened());
    this.hub.onclose((error) => { if (!this.stopped) this.failed = error ?? new Error("closed"); });
  }

  begin() {
    this.connection = ++connections;
    this.got = new Map();
    this.since = Infinity;
  }

  opened() {
    this.since = now();
    note({ opened: this.connection, recipient: this.recipient, at: this.since });
  }

  async start() {
    await this.hub.start();
    this.opened();
  }

  take(messages) {
    const ids = [];
    for (const { id, content, conversationId, seq } of messages) {
      const tag = Number(content.split(" ")[0]);
      if (sides.get(tag) !== this.recipient) continue; // what this user said itself
      const last = this.got.get(tag);
      this.got.set(tag, performance.now());
      // Acknowledged too late on a busy machine, it is tried again.
      const retry = last !== undefined && performance.now() - last > 4500;
      note({ got: this.connection, recipient: this.recipient, tag, id, conversation: conversationId, seq, retry });
      ids.push(id);
    }
    if (ids.length) this.hub.invoke("Acknowledge", ids).catch(() => {});
  }

  lacks() {
    const due = sent.filter((send) => send.recipient === this.recipient && send.began >= this.since);
    return due.filter((send) => !this.got.has(send.tag)).length;
  }

  async stop() {
    this.stopped = true;
    await this.hub.stop();
  }
}

const BUSINESS = 1;
const MOBILE = 2;
const sides = new Map(); // by tag: to whom
const sent = [];
let tags = 0;

async function say(recipient, sender, how) {
  const tag = ++tags;
  sides.set(tag, recipient);
  const began = now();
  const entry = { sent: tag, tag, sender, recipient, began };
  try {
    const message = await how(`${tag} ${"x".repeat(tag % 50)}`);
    Object.assign(entry, { ended: now(), id: message.id, conversation: message.conversationId, seq: message.seq });
    sent.push(entry);
  } catch (error) {
    Object.assign(entry, { ended: now(), error: String(error) });
  }
  note(entry);
}

test("each connection gets everything, whoever acknowledges first", async () => {
  const wires = [await proxy(BASE), await proxy(OTHER), await proxy(OTHER)];
  const devices = [];
  const add = (recipient, base, options, name) => {
    const device = new Device(name, recipient, base, recipient === BUSINESS ? SHOP : PHONE, options);
    devices.push(device);
    return device;
  };
  for (const recipient of [BUSINESS, MOBILE]) {
    add(recipient, BASE, { transport: WebSockets }, "WebSockets, json");
    add(recipient, OTHER, { transport: WebSockets, binary: true }, "WebSockets, messagepack");
    add(recipient, OTHER, { transport: ServerSentEvents }, "ServerSentEvents");
    add(recipient, BASE, { transport: LongPolling, slow: true }, "LongPolling, json, slow");
    add(recipient, OTHER, { transport: LongPolling, binary: true, slow: true }, "LongPolling, messagepack, slow");
    add(recipient, wires[0].base, { transport: WebSockets, stateful: true }, "stateful, cut");
    add(recipient, wires[1].base, { transport: WebSockets, stateful: true, binary: true }, "stateful, messagepack, cut");
    add(recipient, wires[2].base, { transport: WebSockets }, "cut, comes back anew");
  }
  await Promise.all(devices.map((device) => device.start()));

  const talk = await devices[0].hub.invoke("SendMessage", { to: NUMBER, content: "0 hello" });
  const conversationId = talk.conversationId;
  const { send } = api(BASE, SHOP, NUMBER);
  const phone = devices.find((device) => device.recipient === MOBILE).hub;
  const shop = devices[0].hub;
  const late = [];
  const ways = [];
  for (let n = 0; n < EACH; n++) {
    ways.push(say(BUSINESS, 20, (content) => phone.invoke("SendMessage", { conversationId, content })));
    if (n % 2) ways.push(say(MOBILE, 10, (content) => shop.invoke("SendMessage", { conversationId, content })));
    else ways.push(say(MOBILE, 11, async (content) => ({ id: await send(content) })));
    if (n % 100 === 50) wires.forEach((wire) => wire.cut());
    // New connections while everything is on its way.
    if (n % 200 === 100) {
      for (const recipient of [BUSINESS, MOBILE]) {
        late.push(add(recipient, n % 400 === 100 ? BASE : OTHER, { transport: WebSockets }, `late at ${n}`).start());
      }
    }
    if (n % 10 === 9) await Promise.all(ways.splice(0));
  }
  await Promise.all([...ways, ...late]);

  const until = performance.now() + PATIENCE;
  const waits = () => devices.filter((device) => device.lacks() > 0);
  while (waits().length && performance.now() < until) await sleep(50);
  const lacking = waits().map((device) => `${device.name} of ${device.recipient} lacks ${device.lacks()}`);
  for (const device of devices) {
    assert.equal(device.failed, undefined, `${device.name}: ${device.failed}`);
    note({ name: device.name, connection: device.connection, missed: undefined, times: device.missed });
  }
  fs.writeFileSync(HISTORY, `${log.join("\n")}\n`);
  assert.deepEqual(lacking, []);
  await Promise.all(devices.map((device) => device.stop()));
  wires.forEach((wire) => wire.close());
});
