"""Reaches for the network: the host's own ports, its addresses, names, routes, the metadata service."""
import fcntl
import socket
import struct

from escapekit import Probe, params

probe = Probe("network_out")
given = params()


def connect(address, port, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(3)
        s.connect((address, port))
        return "connected"


def datagram(address, port, family=socket.AF_INET):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.sendto(b"hello", (address, port))
        return "sent"


def broadcast():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(b"hello", ("255.255.255.255", 9))
        return "sent"


def interfaces():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        space = bytearray(4096)
        import array
        names = array.array("B", space)
        request = struct.pack("iL", len(space), names.buffer_info()[0])
        size = struct.unpack("iL", fcntl.ioctl(s.fileno(), 0x8912, request))[0]
        found = {names.tobytes()[i:i + 16].split(b"\0")[0].decode() for i in range(0, size, 40)}
    return sorted(found - {"lo"}) or None


def listed():
    return sorted(name for _, name in socket.if_nameindex() if name not in ("lo", "sit0", "tunl0", "gre0")) or None


for address in given.get("host_addresses", []):
    probe.attempt(f"host_{address}", connect, address, given["host_port"])
if "daemon_http" in given:
    probe.attempt("daemon_http", connect, "127.0.0.1", given["daemon_http"])
# The control run stays on the machine.
for address, port in () if given.get("local_only") else (("169.254.169.254", 80), ("1.1.1.1", 53), ("10.0.0.1", 80), ("172.17.0.1", 80)):
    probe.attempt(f"connect_{address}", connect, address, port)
    probe.attempt(f"datagram_{address}", datagram, address, port)
if not given.get("local_only"):
    probe.attempt("datagram6", datagram, "2606:4700:4700::1111", 53, socket.AF_INET6)
    probe.attempt("multicast", datagram, "224.0.0.251", 5353)
    probe.attempt("broadcast", broadcast)
    probe.attempt("name", lambda: socket.getaddrinfo("example.com", 80))
probe.attempt("interfaces", interfaces)
probe.attempt("listed", listed)
probe.done()
