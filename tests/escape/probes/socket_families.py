"""Makes sockets of every family, type and protocol; a box has unix, TCP and UDP."""
import socket

from escapekit import Probe

probe = Probe("socket_families")
GOOD = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6}


def make(family, kind, protocol):
    socket.socket(family, kind, protocol).close()
    return "made"


for family in range(0, 64):
    for kind in range(1, 11):
        for protocol in (0, 1, 2, 3, 16):
            if family in GOOD and (kind in (1, 2) and protocol == 0 or kind == 5 and family == socket.AF_UNIX
                                   or family == socket.AF_UNIX and kind in (1, 2, 5)):
                continue
            probe.attempt(f"{family}/{kind}/{protocol}", make, family, kind, protocol)
for name, kind, protocol in (("icmp", 3, 1), ("raw", 3, 255), ("ping", 2, 1), ("mptcp", 1, 262), ("sctp", 1, 132),
                             ("udplite", 2, 136), ("dccp", 6, 33), ("packet", 10, 0x300)):
    probe.attempt(name, make, socket.AF_INET, kind, protocol)
    probe.attempt(name + "6", make, socket.AF_INET6, kind, 58 if name == "ping" else protocol)
probe.refused = {"count": len(probe.refused)}
probe.done()
