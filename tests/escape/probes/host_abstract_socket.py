"""Connects to an abstract unix socket on which the host listens."""
import socket

from escapekit import Probe, params

probe = Probe("host_abstract_socket")
name = "\0" + params()["abstract_name"]


def connect(kind):
    with socket.socket(socket.AF_UNIX, kind) as s:
        s.connect(name)
        return "connected"


def send():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(b"hello", name + "-dgram")
        return "sent"


probe.attempt("stream", connect, socket.SOCK_STREAM)
probe.attempt("datagram", send)
probe.attempt("listed", lambda: params()["abstract_name"] in open("/proc/self/net/unix").read() and "listed")
probe.done()
