// Two people who talk, each with the official client, over connections that are cut.
import assert from "node:assert/strict";
import { test } from "node:test";
import * as signalR from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";
import { proxy } from "./support.mjs";

const { BASE, SHOP, PHONE, NUMBER } = process.env;
const EACH = 500;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** An app that follows the three rules of docs/HUB.md, and says each message until that is heard. */
class App {
  constructor(name, base, token) {
    this.name = name;
    this.known = new Map(); // by id
    this.got = []; // of the other side, in the order in which they were shown
    this.starts = 0;
    this.hub = new signalR.HubConnectionBuilder()
      .withUrl(`${base}/hub`, { accessTokenFactory: () => token })
      .withAutomaticReconnect({ nextRetryDelayInMilliseconds: () => 20 + Math.random() * 100 })
      .configureLogging(signalR.LogLevel.None)
      .build();
    const take = (messages) => {
      for (const message of messages) {
        if (this.known.has(message.id)) continue;
        this.known.set(message.id, message);
        if (message.content.startsWith(`${this.name}/`)) continue; // said on a connection before this
        this.got.push(message);
      }
      const ids = messages.filter((m) => !m.content.startsWith(`${this.name}/`)).map((m) => m.id);
      if (ids.length) this.hub.invoke("Acknowledge", ids).catch(() => {});
    };
    this.hub.on("ReceiveMessage", (message) => take([message]));
    this.hub.on("ReceivePendingMessages", take);
    this.hub.on("MessageStatusChanged", () => {});
    this.hub.on("ConversationChanged", (conversation) => { this.conversation = conversation; });
    this.hub.onclose(() => this.stopped || this.start());
  }

  async start() {
    for (;;) {
      try {
        this.starts++;
        return await this.hub.start();
      } catch {
        await sleep(50);
      }
    }
  }

  async surely(method, ...given) {
    for (;;) {
      try {
        return await this.hub.invoke(method, ...given);
      } catch (error) {
        // What the server refuses it would refuse again.
        if (/on the server/.test(String(error))) throw error;
        await sleep(20);
      }
    }
  }

  async say(conversationId, n) {
    const content = `${this.name}/${n}`;
    const message = await this.surely("SendMessage", { conversationId, content, clientMessageId: content });
    assert.equal(message.content, content);
    this.known.set(message.id, message);
    return message;
  }

  async history(conversationId) {
    const all = [];
    for (;;) {
      const after = all.at(-1)?.seq ?? 0;
      const page = await this.surely("GetHistory", { conversationId, after, limit: 200 });
      if (!page.length) return all;
      all.push(...page);
    }
  }

  async unread() {
    return (await this.surely("GetConversations"))[0].unreadCount;
  }

  async stop() {
    this.stopped = true;
    await this.hub.stop();
  }
}

test("a thousand messages both ways over connections that are cut", async () => {
  const opened = await fetch(`${BASE}/api/v1/conversations`, {
    method: "POST",
    headers: { authorization: `Bearer ${SHOP}`, "content-type": "application/json" },
    body: JSON.stringify({ phone: NUMBER }),
  });
  const id = (await opened.json()).id;
  const wires = [await proxy(BASE), await proxy(BASE)];
  const shop = new App("shop", wires[0].base, SHOP);
  const phone = new App("phone", wires[1].base, PHONE);
  await Promise.all([shop.start(), phone.start()]);
  let talking = true;
  const cutting = (async () => {
    for (let n = 0; talking; n++) {
      await sleep(200 + Math.random() * 400);
      const wire = wires[n % 2];
      // Now an answer is lost, now a call, now the connection in the middle of nothing.
      if (n % 3 === 0) wire.loseDown();
      else if (n % 3 === 1) wire.loseUp();
      else wire.cut();
    }
  })();
  const sent = { shop: [], phone: [] };
  const speak = async (app, pause) => {
    for (let n = 0; n < EACH; n++) {
      sent[app.name].push(await app.say(id, n));
      if (n % 50 === 49) await app.surely("MarkRead", { conversationId: id, upToSeq: n });
      if (n % 100 === 0) await sleep(pause);
    }
  };
  await Promise.all([speak(shop, 30), speak(phone, 70)]);
  while (shop.got.length < EACH || phone.got.length < EACH) await sleep(20);
  talking = false;
  await cutting;
  assert.ok(wires.every((wire) => wire.accepted() > 3), "nothing was cut");

  const [left, right] = [await shop.history(id), await phone.history(id)];
  const shown = (all) => all.map(({ seq, id, content }) => [seq, id, content]);
  assert.deepEqual(shown(left), shown(right));
  assert.deepEqual(left.map((m) => m.seq), [...Array(2 * EACH).keys()].map((n) => n + 1));
  for (const [app, other] of [[shop, "phone"], [phone, "shop"]]) {
    // What each saw is what the other said, once and in its order.
    const said = [...Array(EACH).keys()].map((n) => `${other}/${n}`);
    assert.deepEqual(app.got.map((m) => m.content), said);
    assert.deepEqual(left.filter((m) => m.content.startsWith(`${other}/`)).map((m) => m.content), said);
    assert.deepEqual(app.got.map((m) => m.id), sent[other].map((m) => m.id));
    const seqs = app.got.map((m) => m.seq);
    assert.deepEqual(seqs, seqs.toSorted((a, b) => a - b));
  }
  // Counts are what they count, and what is read is known to be read.
  for (const [app, other] of [[shop, phone], [phone, shop]]) {
    const unread = (await app.history(id))
      .filter((m) => m.content.startsWith(`${other.name}/`) && m.status !== "read").length;
    assert.ok(unread > 0 && unread < EACH, `${unread} are unread`);
    assert.equal(await app.unread(), unread);
    assert.equal(await app.surely("MarkRead", { conversationId: id }), unread);
    assert.equal(await app.unread(), 0);
    const own = (await other.history(id)).filter((m) => m.content.startsWith(`${other.name}/`));
    assert.ok(own.every((m) => m.status === "read" && m.readAt));
  }
  await Promise.all([shop.stop(), phone.stop()]);
  wires.forEach((wire) => wire.close());
});

test("the longest message is said and heard, in both encodings", async () => {
  for (const protocol of [new signalR.JsonHubProtocol(), new MessagePackHubProtocol()]) {
    const build = (token) => new signalR.HubConnectionBuilder()
      .withUrl(`${BASE}/hub`, { accessTokenFactory: () => token })
      .withHubProtocol(protocol)
      .configureLogging(signalR.LogLevel.None)
      .build();
    const [shop, phone] = [build(SHOP), build(PHONE)];
    const heard = [];
    phone.on("ReceivePendingMessages", (messages) => phone.invoke("Acknowledge", messages.map((m) => m.id)));
    phone.on("ReceiveMessage", (message) => heard.push(message));
    for (const call of ["ReceiveMessage", "ConversationChanged", "MessageStatusChanged"]) shop.on(call, () => {});
    phone.on("ConversationChanged", () => {});
    await Promise.all([shop.start(), phone.start()]);
    for (const letter of ["😀", "م", "\\"]) {
      const content = letter.repeat(10_000);
      const said = await shop.invoke("SendMessage", { to: NUMBER, content });
      while (!heard.length) await sleep(20);
      const [message] = heard.splice(0);
      assert.deepEqual([message.id, message.content === content], [said.id, true], letter);
      await phone.invoke("Acknowledge", [message.id]);
    }
    await Promise.all([shop.stop(), phone.stop()]);
  }
});
