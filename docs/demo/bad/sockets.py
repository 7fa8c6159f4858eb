# Opens sockets: to a server on the host, to one with an abstract name, to the
# network, and raw.
import os
import socket
import sys

port, abstract, daemon = int(sys.argv[1]), sys.argv[2], sys.argv[3]
found = []


def attempt(name, action):
    try:
        action()
        found.append(name)
    except OSError:
        pass


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(2)
        s.connect(address)


attempt("loopback", lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
attempt("abstract", lambda: connect(socket.AF_UNIX, "\0" + abstract))
attempt("daemon", lambda: connect(socket.AF_UNIX, daemon))
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
attempt("resolver", lambda: open("/etc/resolv.conf").read(1) or None)
attempt("interfaces", lambda: [n for _, n in socket.if_nameindex() if n != "lo"][0:1] or os.stat("/nowhere"))
print(f"reached {len(found)} of 8: {', '.join(found) or 'nothing'}")
