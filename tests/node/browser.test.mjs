// The official client in a real browser, on a page of another origin.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";

const { BASE, PHONE, SHOP, NUMBER, CHROMIUM, PAGE_PORT } = process.env;
const modules = path.join(import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname), "node_modules", "@microsoft");
const scripts = {
  "/signalr.js": path.join(modules, "signalr/dist/browser/signalr.js"),
  "/msgpack.js": path.join(modules, "signalr-protocol-msgpack/dist/browser/signalr-protocol-msgpack.js"),
};

/** Runs in the page. */
async function inPage({ base, phone, shop, number }) {
  const { WebSockets, ServerSentEvents, LongPolling } = signalR.HttpTransportType;
  const results = [];
  for (const [name, transport, pack] of [
    ["WebSockets, json", WebSockets, false], ["WebSockets, messagepack", WebSockets, true],
    ["ServerSentEvents, json", ServerSentEvents, false],
    ["LongPolling, json", LongPolling, false], ["LongPolling, messagepack", LongPolling, true],
    ["whatever works", undefined, false],
  ]) {
    const check = (good, what) => { if (!good) throw new Error(what); };
    try {
      const build = (hub, token) => {
        const builder = new signalR.HubConnectionBuilder()
          .withUrl(`${base}${hub}`, { accessTokenFactory: () => token, transport })
          .configureLogging(signalR.LogLevel.None);
        if (pack) builder.withHubProtocol(new signalR.protocols.msgpack.MessagePackHubProtocol());
        return builder.build();
      };
      const diagnostics = build("/hub/diagnostics", phone);
      await diagnostics.start();
      check((await diagnostics.invoke("Echo", "☎")) === "☎", "Echo");
      let count = 0;
      await new Promise((done, fail) =>
        diagnostics.stream("Count", 10).subscribe({ next: () => count++, complete: done, error: fail }));
      check(count === 10, "Count");
      await diagnostics.stop();
      const hub = build("/hub", phone);
      const got = new Promise((done) => hub.on("ReceiveMessage", done));
      await hub.start();
      const sent = await fetch("/send", { method: "POST", body: name });
      const { id } = await sent.json();
      const message = await got;
      check(message.id === id && message.content === name, "ReceiveMessage");
      check((await hub.invoke("Acknowledge", [id])) === 1, "Acknowledge");
      await hub.stop();
      let refused = "";
      await build("/hub", "esh_wrong").start().catch((error) => { refused = String(error); });
      check(refused.includes("Status code '401'"), `refused: ${refused}`);
      results.push({ name, ok: true });
    } catch (error) {
      results.push({ name, ok: false, error: String(error) });
    }
  }
  await fetch("/done", { method: "POST", body: JSON.stringify(results) });
}

test("every transport and encoding in a browser", async () => {
  let report;
  const reported = new Promise((done) => { report = done; });
  const page = `<!doctype html><meta charset="utf-8"><title>esh3ar</title>
    <script src="/signalr.js"></script><script src="/msgpack.js"></script>
    <script>(${inPage})(${JSON.stringify({ base: BASE, phone: PHONE, shop: SHOP, number: NUMBER })})</script>`;
  const server = http.createServer(async (request, response) => {
    if (scripts[request.url]) return void response.end(readFileSync(scripts[request.url]));
    if (request.method === "GET") {
      response.setHeader("content-type", "text/html");
      return void response.end(request.url === "/" ? page : "");
    }
    let body = "";
    for await (const chunk of request) body += chunk;
    if (request.url === "/done") {
      report(JSON.parse(body));
      return void response.end();
    }
    const sent = await fetch(`${BASE}/api/v1/messages`, {
      method: "POST",
      headers: { authorization: `Bearer ${SHOP}`, "content-type": "application/json" },
      body: JSON.stringify({ to: NUMBER, content: body }),
    });
    response.end(await sent.text());
  });
  await new Promise((done) => server.listen(Number(PAGE_PORT), "127.0.0.1", done));
  const profile = mkdtempSync(path.join(tmpdir(), "esh3ar-browser-"));
  const browser = spawn(CHROMIUM, [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    `--user-data-dir=${profile}`, `http://127.0.0.1:${server.address().port}/`,
  ], { stdio: "ignore" });
  try {
    const ended = new Promise((_, fail) => {
      browser.on("error", fail);
      browser.on("exit", (code) => fail(new Error(`the browser ended with ${code}`)));
      setTimeout(() => fail(new Error("the page did not report in time")), 50_000).unref();
    });
    const results = await Promise.race([reported, ended]);
    assert.equal(results.length, 6);
    assert.deepEqual(results.filter((result) => !result.ok), []);
  } finally {
    browser.removeAllListeners("exit");
    const gone = new Promise((done) => browser.on("exit", done));
    browser.kill("SIGKILL");
    await gone;
    server.closeAllConnections();
    server.close();
    // Processes of the browser may still be ending.
    rmSync(profile, { recursive: true, force: true, maxRetries: 30, retryDelay: 50 });
  }
});
