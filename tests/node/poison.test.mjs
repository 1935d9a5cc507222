// Recipients of the worst messages that there are, each with the official client as it is.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import * as signalR from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";

const { BASE, CLIENTS } = process.env;
const clients = JSON.parse(readFileSync(CLIENTS, "utf8"));

/** The messages of a call, and how they are acknowledged, by the hub's form. */
function form(path) {
  if (path === "/hub") {
    return {
      read: (argument) => [argument].flat(),
      id: (message) => message.id,
      acknowledge: (hub, ids) => hub.invoke("Acknowledge", ids),
    };
  }
  return {
    read: (text) => [JSON.parse(text)].flat(),
    id: (message) => message.Id,
    // The programs of businesses have no call for it.
    acknowledge: (hub, ids) =>
      path === "/business-user" || Promise.all(ids.map((id) => hub.invoke("AcknowledgeMessage", id))),
  };
}

async function history(hub, { conversation, ids }) {
  const got = [];
  for (let after = 0; ;) {
    const page = await hub.invoke("GetHistory", { conversationId: conversation, after, limit: 200 });
    if (page.length === 0) break;
    got.push(...page.map((message) => message.id));
    after = page.at(-1).seq;
  }
  assert.deepEqual(got, ids);
}

/** Waits until the server has the acknowledgement of a message. */
async function delivered(id, token) {
  for (let status; status !== "delivered";) {
    const headers = { authorization: `Bearer ${token}` };
    status = (await (await fetch(`${BASE}/api/v1/messages/${id}`, { headers })).json()).status;
    await new Promise((done) => setTimeout(done, 20));
  }
}

describe("recipients", { concurrency: true }, () => {
  for (const client of clients) {
    const { path, protocol, stateful, token, ids } = client;
    test(`${path}, ${protocol}${stateful ? ", stateful" : ""}`, async () => {
      const builder = new signalR.HubConnectionBuilder()
        .withUrl(`${BASE}${path}`, { accessTokenFactory: () => token })
        .configureLogging(signalR.LogLevel.None);
      if (protocol === "messagepack") builder.withHubProtocol(new MessagePackHubProtocol());
      if (stateful) builder.withStatefulReconnect();
      const hub = builder.build();
      const { read, id, acknowledge } = form(path);
      const got = [];
      const done = new Promise((complete, fail) => {
        hub.onclose((error) => fail(error ?? new Error("closed")));
        const take = (argument) => {
          const messages = read(argument);
          got.push(...messages.map(id));
          Promise.resolve(acknowledge(hub, messages.map(id)))
            .then(() => got.length >= ids.length && complete())
            .catch(fail);
        };
        for (const name of ["ReceiveMessage", "ReceiveChatMessage", "ReceivePendingMessages"]) {
          hub.on(name, take);
        }
        if (ids.length === 0) complete();
      });
      await hub.start();
      await done;
      assert.deepEqual(got, ids);
      if (ids.length > 0) await delivered(ids.at(-1), token);
      if (client.history) await history(hub, client.history);
      // It goes on, and nobody was closed for what was not acknowledged.
      assert.equal(await hub.invoke("Echo", "still here"), "still here");
      await hub.stop().catch(() => {});
    });
  }
});
