"""What the tests of Python's clients share."""

import json
import os
import socket
import threading
import urllib.parse
import urllib.request

BASE, SHOP, PHONE, NUMBER = (os.environ[name] for name in ("BASE", "SHOP", "PHONE", "NUMBER"))
ADMIN, PHONE_LIMIT = os.environ.get("ADMIN"), int(os.environ.get("PHONE_LIMIT", "16"))
WAIT = 20


def request(method, path, token, body=None):
    asked = urllib.request.Request(
        f"{BASE}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(asked) as response:
        text = response.read()
        return json.loads(text) if text else None


def send(content):
    return request("POST", "/api/v1/messages", SHOP, {"to": NUMBER, "content": content})["id"]


def status(message):
    return request("GET", f"/api/v1/messages/{message}", SHOP)["status"]


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
