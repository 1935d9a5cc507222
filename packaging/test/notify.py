#!/usr/bin/python3
"""A service manager's ear: writes each message that comes to a socket as one line into a file.

    notify.py SOCKET FILE
"""

import os
import socket
import sys

path, log = sys.argv[1:]
ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
ear.bind(path)
os.chmod(path, 0o777)
with open(log, "a", buffering=1) as file:
    while True:
        file.write(ear.recv(4096).decode().replace("\n", " ") + "\n")
