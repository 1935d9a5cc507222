"""What a user of Python's signalrcore sees."""

import json
import os
import queue
import sys
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


# Its long polling sends no token with its polls, which no server with tokens can serve.
check("WebSockets, json", HttpTransportType.web_sockets, None)
check("WebSockets, messagepack", HttpTransportType.web_sockets, MessagePackHubProtocol())
check("ServerSentEvents, json", HttpTransportType.server_sent_events, None)
print("3 passed", flush=True)
sys.stdout.flush()
os._exit(0)
