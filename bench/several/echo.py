# A TCP echo, the floor of a call between hosts. It prints its port. "apart" keeps it to the last core.
import os
import socket
import sys

if sys.argv[2] == "apart":
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
with socket.create_server((sys.argv[1], 0)) as server:
    print("echo at", server.getsockname()[1], flush=True)
    while True:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)
