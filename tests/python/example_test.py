"""The examples for Python of docs/HUB.md as they stand there, with the app's own parts put in."""

import asyncio
import os
import pathlib
import re
import sys
import threading
import time

from support import ADMIN, NUMBER, PHONE, PHONE_LIMIT, Wire, request, send, status

PAGE = pathlib.Path(__file__).parent.parent.parent / "docs" / "HUB.md"
URL = "https://messages.example.com"
THREADS, ASYNC = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def until(what, look):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if look():
            return
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


class App:
    """Runs an example; what it does to the app is written down."""

    def __init__(self, example, token):
        self.wire = Wire()
        self.shown, self.sign_ins, self.too_many, self.over, self.known = [], 0, 0, False, set()
        assert f'"{URL}/hub"' in example
        self.names = {
            "token": token, "store": self, "show": lambda message: self.shown.append(message["id"]),
            "read_again": lambda since: None, "sign_in": self.sign_in, "too_many": self.one_too_many,
        }
        exec(compile(example.replace(URL, self.wire.base), "docs/HUB.md", "exec"), self.names)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        run = self.names["run"]
        asyncio.run(self.in_task(run)) if asyncio.iscoroutinefunction(run) else run()
        self.over = True

    async def in_task(self, run):
        self.loop, self.task = asyncio.get_running_loop(), asyncio.ensure_future(run())
        try:
            await self.task
        except asyncio.CancelledError:
            pass

    def stop(self):
        if "stop" in self.names:
            self.names["stop"]()
        else:
            self.loop.call_soon_threadsafe(self.task.cancel)

    def add_if_new(self, message):
        new = message["id"] not in self.known
        self.known.add(message["id"])
        return new

    def sign_in(self):
        self.sign_ins += 1

    def one_too_many(self):
        self.too_many += 1

    def has_got(self, content):
        sent = send(content)
        until(content, lambda: sent in self.shown)
        return sent

    def is_connected(self):
        """A message comes to every connection that is open; before that, another may have it already."""
        for n in range(200):
            sent = send(f"is it there? {n}")
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                if sent in self.shown:
                    return
                time.sleep(0.02)
        raise AssertionError("it does not connect")


def check(name, example):
    pending = send("pending")
    app = App(example, PHONE)
    wire = app.wire
    until("what was pending", lambda: pending in app.shown)
    sent = [pending, app.has_got("live")]
    for outage in (0, 1):
        wire.refusing = outage > 0
        wire.cut()
        sent.append(send(f"during an outage of {outage} s"))
        time.sleep(outage)
        wire.refusing = False
        until("what came during the outage", lambda: sent[-1] in app.shown)
    assert app.shown == sent, (app.shown, sent)
    for message in sent:
        until("the acknowledgement", lambda: status(message) == "delivered")
    assert (app.sign_ins, app.too_many, app.over) == (0, 0, False)

    # The app's own stop is the end, of a connection and of the wait for the next.
    for waits in (False, True):
        stopped = App(example, PHONE)
        stopped.is_connected()
        if waits:
            stopped.wire.refusing = True
            stopped.wire.cut()
        stopped.stop()
        until("the end of the stopped", lambda: stopped.over)
        assert (stopped.sign_ins, stopped.too_many) == (0, 0)

    newer = []
    for n in range(PHONE_LIMIT):
        newer.append(App(example, PHONE))
        newer[n].is_connected()
    until("the end of the oldest", lambda: app.over)
    assert (app.too_many, app.sign_ins) == (1, 0)

    made = request("POST", "/api/v1/admin/tokens", ADMIN, {"mobile": NUMBER})
    revoked = App(example, made["token"])
    revoked.is_connected()
    request("DELETE", f"/api/v1/admin/tokens/{made['id']}", ADMIN)
    until("the end of the revoked", lambda: revoked.over)
    refused = App(example, made["token"])
    until("the end of the refused", lambda: refused.over)
    assert (revoked.sign_ins, revoked.too_many, refused.sign_ins, refused.too_many) == (1, 0, 1, 0)
    for over in [app, *newer, revoked, refused]:
        # It would acknowledge what the next example waits for.
        over.wire.refusing = True
        over.wire.cut()
    print("ok", name, flush=True)


check("with threads", THREADS)
check("with asyncio", ASYNC)
print("2 passed", flush=True)
sys.stdout.flush()
os._exit(0)
