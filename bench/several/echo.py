# A TCP echo, the floor of a call between hosts. It prints its address.
import socket
import sys

with socket.create_server((sys.argv[1], 0)) as server:
    print("echo at %s:%d" % server.getsockname(), flush=True)
    while True:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)
