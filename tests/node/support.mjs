// What the tests of the official client share.
import assert from "node:assert/strict";
import net from "node:net";

/** The HTTP API, as the sender uses it. */
export function api(base, shop, number) {
  const authorization = `Bearer ${shop}`;
  return {
    async send(content, extra = {}) {
      const response = await fetch(`${base}/api/v1/messages`, {
        method: "POST",
        headers: { authorization, "content-type": "application/json" },
        body: JSON.stringify({ to: number, content, ...extra }),
      });
      assert.equal(response.status, 202);
      return (await response.json()).id;
    },
    async read(id) {
      return (await fetch(`${base}/api/v1/messages/${id}`, { headers: { authorization } })).json();
    },
  };
}

/** Collects what a connection receives; `next()` waits for the next message. */
export function inbox(hub) {
  const queue = [];
  const waiting = [];
  const put = (how) => (argument) => {
    for (const message of how === "page" ? argument : [argument]) {
      const item = { how, message };
      const waiter = waiting.shift();
      if (waiter) waiter(item);
      else queue.push(item);
    }
  };
  hub.on("ReceiveMessage", put("live"));
  hub.on("ReceivePendingMessages", put("page"));
  return {
    next: () =>
      queue.length ? Promise.resolve(queue.shift()) : new Promise((done) => waiting.push(done)),
    size: () => queue.length,
  };
}

/** Passes TCP through until it is told to do worse. */
export async function proxy(to, { noUpgrade = false } = {}) {
  const target = new URL(to);
  const pairs = new Set();
  let accepted = 0;
  let refusing = false;
  const server = net.createServer((inner) => {
    if (refusing) return void inner.destroy();
    accepted++;
    const outer = net.connect(Number(target.port), target.hostname);
    const pair = { loseUp: false, loseDown: false, destroy: () => { inner.destroy(); outer.destroy(); } };
    pairs.add(pair);
    for (const socket of [inner, outer]) {
      socket.on("error", () => {});
      socket.on("close", () => { pair.destroy(); pairs.delete(pair); });
    }
    inner.on("data", (data) => {
      if (noUpgrade && /upgrade: websocket/i.test(data.toString("latin1"))) return pair.destroy();
      // What is lost takes the connection with it, as in life.
      if (pair.loseUp) return pair.destroy();
      outer.write(data);
    });
    outer.on("data", (data) => {
      if (pair.loseDown) return pair.destroy();
      inner.write(data);
    });
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const all = (what) => pairs.forEach(what);
  return {
    base: `http://127.0.0.1:${server.address().port}`,
    accepted: () => accepted,
    refuse: (on) => { refusing = on; },
    cut: () => all((pair) => pair.destroy()),
    loseUp: () => all((pair) => { pair.loseUp = true; }),
    loseDown: () => all((pair) => { pair.loseDown = true; }),
    close: () => { all((pair) => pair.destroy()); server.close(); },
  };
}
