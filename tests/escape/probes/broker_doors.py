"""Reaches for the doors to the broker, or makes one of its own: broker_doors.py closed|open [TOKEN].

`closed`: a task without grants; nobody may listen. `open`: a task with one may connect, and that is all.
The control runs where a door listens and nothing guards it, as root of namespaces of its own.
"""
import os
import socket
import sys

from escapekit import Probe, params

DOOR = "/run/broker.sock"
ADDRESSES = ("127.0.0.1", "127.0.0.2", "0.0.0.0", "localhost")
role = sys.argv[1] if len(sys.argv) > 1 else params().get("doors_role", "closed")
held = []


def serve():
    """The control's doors: bound and listening, and this process may replace them."""
    import ctypes
    import fcntl
    import struct
    libc = ctypes.CDLL(None)
    libc.mount(b"none", b"/run", b"tmpfs", 0, None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 1 | 64))  # SIOCSIFFLAGS, up and running
    for family, place in ((socket.AF_UNIX, DOOR), (socket.AF_INET, ("127.0.0.1", 80))):
        s = socket.socket(family)
        s.bind(place)
        s.listen(4)
        held.append(s)


def connect(family, place):
    with socket.socket(family) as s:
        s.settimeout(5)
        s.connect(place)
        return f"connected to {place}"


def bind(family, place, option=None):
    with socket.socket(family) as s:
        if option is not None:
            s.setsockopt(socket.SOL_SOCKET, option, 1)
        s.bind(place)
        s.listen(1)
        return f"listens at {place}"


def remove():
    os.unlink(DOOR)
    return "removed"


def rename():
    os.rename(DOOR, "/run/other.sock")
    os.rename("/run/other.sock", DOOR)  # for the control's next attempt
    return "renamed"


def replace():
    with open("/run/another", "w"):
        pass
    os.rename("/run/another", DOOR)
    return "replaced"


def exchange():
    """renameat2 with RENAME_EXCHANGE."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/run/mine", "w"):
        pass
    if libc.syscall(316, -100, b"/run/mine", -100, DOOR.encode(), 2) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")
    return "exchanged"


def move_folder():
    os.rename("/run", "/tmp/run")
    return "moved"


def change_mode(path):
    os.chmod(path, 0o777)
    return "its mode set"


def cover():
    """A symbolic link, or a socket of the task's own, in the door's place."""
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(DOOR)
        return "bound"


def low_ports():
    """A resolver may prefer another address of this host; no port below 1024 may be the task's."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w") as f:
        f.write("0")
    return "lowered"


probe = Probe(f"broker_doors/{role}")
if role == "control":
    serve()
if role != "open":
    probe.attempt("local", connect, socket.AF_UNIX, DOOR)
    probe.attempt("tcp", connect, socket.AF_INET, ("127.0.0.1", 80))
for address in ADDRESSES:
    place = (address, 80) if role != "control" else (address, 81)  # its own door has 80
    for name, option in (("", None), ("_reuse", socket.SO_REUSEADDR), ("_reuse_port", socket.SO_REUSEPORT)):
        probe.attempt(f"bind_{address}{name}", bind, socket.AF_INET, place, option)
if socket.has_ipv6:
    probe.attempt("bind_v6", bind, socket.AF_INET6, ("::1", 80))
    probe.attempt("bind_v6_any", bind, socket.AF_INET6, ("::", 80 if role != "control" else 82))
probe.attempt("abstract", connect, socket.AF_UNIX, "\0" + DOOR)
probe.attempt("cover", cover)
probe.attempt("mode", change_mode, DOOR)
probe.attempt("mode_of_folder", change_mode, "/run")
probe.attempt("move_folder", move_folder)
probe.attempt("low_ports", low_ports)
probe.attempt("exchange", exchange)
probe.attempt("replace", replace)
probe.attempt("rename", rename)
probe.attempt("remove", remove)
for path in ("/proc/1/root" + DOOR, "/proc/self/root/../run/broker.sock", *(
        f"/proc/{pid}/root{DOOR}" for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid()))):
    if role != "open" or path.startswith("/proc/1/"):
        probe.attempt(f"by_{path}", connect, socket.AF_UNIX, path)
probe.done(door=os.path.exists(DOOR))
