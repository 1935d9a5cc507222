"""What a user of Python's signalrcore sees."""

import json
import os
import queue
import socket
import sys
import threading
import time
import urllib.parse
import urllib.request

from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.protocol.messagepack_protocol import MessagePackHubProtocol
from signalrcore.types import HttpTransportType

BASE, SHOP, PHONE, NUMBER = (os.environ[name] for name in ("BASE", "SHOP", "PHONE", "NUMBER"))
WAIT = 20


def send(content):
    request = urllib.request.Request(
        f"{BASE}/api/v1/messages",
        data=json.dumps({"to": NUMBER, "content": content}).encode(),
        headers={"authorization": f"Bearer {SHOP}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["id"]


def status(message):
    request = urllib.request.Request(
        f"{BASE}/api/v1/messages/{message}", headers={"authorization": f"Bearer {SHOP}"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["status"]


def answer(hub, method, arguments):
    """Calls a method and waits for what it returns."""
    answers = queue.Queue()
    hub.send(method, arguments, lambda completion: answers.put(completion.result))
    return answers.get(timeout=WAIT)


def check(name, transport, protocol):
    builder = HubConnectionBuilder().with_url(
        f"{BASE}/hub",
        options={"access_token_factory": lambda: PHONE, "transport": transport},
    )
    if protocol:
        builder = builder.with_hub_protocol(protocol)
    hub = builder.build()
    opened, messages = queue.Queue(), queue.Queue()
    hub.on_open(lambda: opened.put(True))
    hub.on("ReceiveMessage", lambda arguments: messages.put(arguments[0]))
    hub.on("ReceivePendingMessages", lambda arguments: [messages.put(m) for m in arguments[0]])
    waiting = send(f"{name}: waiting")
    hub.start()
    opened.get(timeout=WAIT)
    try:
        message = messages.get(timeout=WAIT)
        assert (message["id"], message["content"]) == (waiting, f"{name}: waiting"), message
        assert answer(hub, "Acknowledge", [[waiting]]) == 1
        live = send(f"{name}: live ☎")
        message = messages.get(timeout=WAIT)
        assert (message["id"], message["content"]) == (live, f"{name}: live ☎"), message
        assert answer(hub, "MarkRead", [{"messageIds": [live]}]) == 1
        assert (status(waiting), status(live)) == ("delivered", "read")
        assert answer(hub, "Echo", [{"a": [1, None, "b"]}]) == {"a": [1, None, "b"]}
    finally:
        hub.stop()
    print("ok", name, flush=True)


def check_coming_back():
    """The loop of the manual, over a wire that is cut, refused for a while, and cut again."""
    wire = Wire()
    opened, messages = queue.Queue(), queue.Queue()

    def for_ever():
        while True:
            closed = threading.Event()
            hub = (
                HubConnectionBuilder()
                .with_url(f"{wire.base}/hub", options={"access_token_factory": lambda: PHONE})
                .build()
            )
            hub.on_open(lambda: opened.put(hub))
            hub.on_close(closed.set)
            hub.on("ReceiveMessage", lambda arguments: messages.put(arguments[0]))
            hub.on("ReceivePendingMessages", lambda arguments: [messages.put(m) for m in arguments[0]])
            try:
                hub.start()
                closed.wait()
            except Exception:
                pass
            time.sleep(0.5)

    threading.Thread(target=for_ever, daemon=True).start()
    opened.get(timeout=WAIT)
    for outage in (0, 3):
        wire.refusing = outage > 0
        wire.cut()
        sent = send(f"during an outage of {outage} s")
        time.sleep(outage)
        wire.refusing = False
        hub = opened.get(timeout=WAIT)
        assert messages.get(timeout=WAIT)["id"] == sent
        assert answer(hub, "Acknowledge", [[sent]]) == 1
    print("ok comes back", flush=True)


class Wire:
    """Passes TCP through until it is told to do worse."""

    def __init__(self):
        self.refusing, self.pairs = False, []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        target = urllib.parse.urlparse(BASE)
        while True:
            inner, _ = self.server.accept()
            if self.refusing:
                inner.close()
                continue
            outer = socket.create_connection((target.hostname, target.port))
            self.pairs += [inner, outer]
            for way in ((inner, outer), (outer, inner)):
                threading.Thread(target=pump, args=way, daemon=True).start()

    def cut(self):
        for end in self.pairs:
            end_both_ways(end)
        self.pairs = []


def pump(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    end_both_ways(source)
    end_both_ways(target)


def end_both_ways(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


# Its long polling sends no token with its polls, which no server with tokens can serve.
check("WebSockets, json", HttpTransportType.web_sockets, None)
check("WebSockets, messagepack", HttpTransportType.web_sockets, MessagePackHubProtocol())
check("ServerSentEvents, json", HttpTransportType.server_sent_events, None)
check_coming_back()
print("4 passed", flush=True)
sys.stdout.flush()
os._exit(0)
