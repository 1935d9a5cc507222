"""What users of Python's signalrcore and pysignalr see."""

import asyncio
import os
import queue
import sys
import threading
import time

from pysignalr.client import SignalRClient
from pysignalr.protocol.messagepack import MessagepackProtocol
from signalrcore.hub_connection_builder import HubConnectionBuilder
from signalrcore.protocol.messagepack_protocol import MessagePackHubProtocol
from signalrcore.types import HttpTransportType

from support import BASE, NUMBER, PHONE, SHOP, WAIT, Wire, request, send, status

TALK = request("POST", "/api/v1/conversations", SHOP, {"phone": NUMBER})["id"]
# Six bytes a letter in the JSON that Python writes.
LONG = "م" * 6000


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
        said = answer(hub, "SendMessage", [{"conversationId": TALK, "content": LONG}])
        assert said["content"] == LONG, said
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


async def check_asyncio(name, protocol):
    """The same story with the other client."""
    headers = {"Authorization": f"Bearer {PHONE}"}
    hub = SignalRClient(f"{BASE}/hub", protocol=protocol, headers=headers)
    messages = asyncio.Queue()

    async def live(arguments):
        messages.put_nowait(arguments[0])

    async def page(arguments):
        # While it is still connecting it can send nothing.
        for message in arguments[0]:
            messages.put_nowait(message)
        await hub.send("Acknowledge", [[message["id"] for message in arguments[0]]])

    hub.on("ReceiveMessage", live)
    hub.on("ReceivePendingMessages", page)

    async def answer(method, *arguments):
        answers = asyncio.Queue()

        async def take(completion):
            answers.put_nowait(completion)

        await hub.send(method, list(arguments), take)
        return (await asyncio.wait_for(answers.get(), WAIT)).result

    async def story():
        waiting = await asyncio.to_thread(send, f"{name}: waiting")
        running = asyncio.create_task(hub.run())
        message = await asyncio.wait_for(messages.get(), WAIT)
        assert (message["id"], message["content"]) == (waiting, f"{name}: waiting"), message
        end = time.monotonic() + WAIT
        while await asyncio.to_thread(status, waiting) != "delivered":
            assert time.monotonic() < end and not running.done(), "the page was not acknowledged"
        live_one = await asyncio.to_thread(send, f"{name}: live ☎")
        message = await asyncio.wait_for(messages.get(), WAIT)
        assert (message["id"], message["content"]) == (live_one, f"{name}: live ☎"), message
        assert await answer("MarkRead", {"messageIds": [live_one]}) == 1
        assert await asyncio.to_thread(status, live_one) == "read"
        assert await answer("Echo", {"a": [1, None, "b"]}) == {"a": [1, None, "b"]}
        said = await answer("SendMessage", {"conversationId": TALK, "content": LONG})
        assert said["content"] == LONG, said
        running.cancel()

    await story()
    print("ok", name, flush=True)


# Its long polling sends no token with its polls, which no server with tokens can serve.
check("WebSockets, json", HttpTransportType.web_sockets, None)
check("WebSockets, messagepack", HttpTransportType.web_sockets, MessagePackHubProtocol())
check("ServerSentEvents, json", HttpTransportType.server_sent_events, None)
check_coming_back()
asyncio.run(check_asyncio("asyncio, json", None))
asyncio.run(check_asyncio("asyncio, messagepack", MessagepackProtocol()))
print("6 passed", flush=True)
sys.stdout.flush()
os._exit(0)
