"""One box serves, another reaches for it: two_boxes.py serve|reach KIND TOKEN.

`serve` makes the thing, prints READY and holds it until its stdin ends; `reach`
runs in another box meanwhile. TOKEN is the name that both use.
"""
import ctypes
import fcntl
import glob
import mmap
import os
import re
import signal
import socket
import struct
import sys

from escapekit import Probe, libc, syscall

role, kind, token = sys.argv[1:4]
NUMBER = int(token, 16) & 0x3FFFFFFF
PORT = 20000 + NUMBER % 20000
BLOB_FILE = "blob.bin"  # both boxes have it from one blob of the daemon's
BLOB_BYTE = b"b"
IMAGE_FILE = next(p for p in ("/etc/passwd", "/etc/hosts") if os.path.exists(p))
held = []


def hold(thing):
    held.append(thing)
    return thing


# --- each kind: serve_*, reach_* ----------------------------------------------------

def serve_abstract_socket():
    s = hold(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    s.bind("\0" + token)
    s.listen(1)


def reach_abstract_socket():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect("\0" + token)
        return "connected"


def serve_unix_path():
    for folder in ("/tmp", "/dev/shm"):
        s = hold(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        s.bind(f"{folder}/{token}")
        s.listen(1)


def reach_unix_path():
    for path in glob.glob(f"/tmp/{token}") + glob.glob(f"/dev/shm/{token}") + glob.glob(f"/proc/*/root/tmp/{token}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.connect(path)
            return path


def serve_tcp_port():
    s = hold(socket.socket())
    s.bind(("127.0.0.1", PORT))
    s.listen(1)


def reach_tcp_port():
    with socket.create_connection(("127.0.0.1", PORT), 3):
        return "connected"


def serve_udp_port():
    s = hold(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    s.bind(("127.0.0.1", PORT))


def reach_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", PORT))
        s.settimeout(1)
        s.send(b"x")
        try:
            s.recv(1)  # an unused port answers ECONNREFUSED at once; a used one keeps silent
        except socket.timeout:
            return "somebody listens"


def serve_shm_segment():
    syscall("shmget", NUMBER, 4096, 0o1666)


def reach_shm_segment():
    return f"segment {syscall('shmget', NUMBER, 4096, 0)}"


def serve_semaphore():
    syscall("semget", NUMBER, 1, 0o1666)


def reach_semaphore():
    return f"semaphore {syscall('semget', NUMBER, 1, 0)}"


def serve_message_queue():
    syscall("msgget", NUMBER, 0o1666)


def reach_message_queue():
    return f"queue {syscall('msgget', NUMBER, 0)}"


def serve_posix_shm():
    with open(f"/dev/shm/{token}", "w") as f:
        f.write("x")


def reach_posix_shm():
    return os.stat(f"/dev/shm/{token}").st_size and "seen"


def serve_posix_queue():
    try:
        hold(syscall("mq_open", token.encode(), os.O_CREAT | os.O_RDWR, 0o666, 0))
    except OSError as error:
        if error.errno != 38:
            raise


def reach_posix_queue():
    return f"descriptor {syscall('mq_open', token.encode(), os.O_RDWR, 0, 0)}"


def serve_files():
    for folder in ("/tmp", "/task", "/run", "/dev/shm", "/var/tmp", "."):
        try:
            with open(f"{folder}/{token}", "w") as f:
                f.write("x")
        except OSError:
            pass


def reach_files():
    return [f for f in ("/tmp", "/task", "/run", "/dev/shm", "/var/tmp", ".") if os.path.exists(f"{f}/{token}")] or None


def serve_process():
    libc.prctl(15, token[:15].encode(), 0, 0, 0)  # its name


def reach_process():
    for path in glob.glob("/proc/[0-9]*/comm"):
        try:
            if open(path).read().strip() == token[:15] and path != f"/proc/{os.getpid()}/comm":
                pid = int(path.split("/")[2])
                os.kill(pid, 0)
                return f"process {pid}"
        except OSError:
            continue


def serve_keyring():
    try:
        syscall("add_key", b"user", token.encode(), b"x", 1, -4)
    except OSError:
        pass


def reach_keyring():
    return f"key {syscall('request_key', b'user', token.encode(), 0, 0)}"


def serve_directory_events():
    """Watches the image: what the neighbour opens would show."""
    def note(*_):
        os.write(1, b"EVENT\n")
    signal.signal(signal.SIGIO, note)
    fd = hold(os.open("/etc", os.O_RDONLY))
    try:
        fcntl.fcntl(fd, fcntl.F_NOTIFY, fcntl.DN_ACCESS | fcntl.DN_MULTISHOT)
    except OSError:
        pass
    try:
        watch = syscall("inotify_init1", 0)
        if libc.inotify_add_watch(watch, b"/etc", 0xFFF) < 0:
            return
        fcntl.fcntl(watch, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(watch, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        held.append(watch)
    except OSError:
        pass


def reach_directory_events():
    """Makes the events; the server's output tells whether it saw them."""
    os.listdir("/etc")
    with open(IMAGE_FILE) as f:
        f.read()


def serve_timers():
    """Takes every POSIX timer and queued signal that it can get."""
    event = ctypes.create_string_buffer(64)
    struct.pack_into("QII", event, 0, 0, 34, 0)
    count = 0
    try:
        while count < 200_000:
            syscall("timer_create", 1, event, ctypes.byref(ctypes.c_int()))
            count += 1
    except OSError:
        pass
    print("timers", count, flush=True)


def reach_timers():
    event = ctypes.create_string_buffer(64)
    struct.pack_into("QII", event, 0, 0, 34, 0)
    try:
        for _ in range(100):
            syscall("timer_create", 1, event, ctypes.byref(ctypes.c_int()))
    except OSError as error:
        return f"starved: {error}"


def serve_watches():
    """Takes every inotify instance that it can get."""
    try:
        for _ in range(100_000):
            hold(syscall("inotify_init1", 0))
    except OSError:
        pass


def reach_watches():
    try:
        syscall("inotify_init1", 0)
    except OSError as error:
        return error.errno == 24 and f"starved: {error}"


def serve_terminals():
    for _ in range(3):
        outer, inner = hold(os.openpty())
        os.fchmod(inner, 0o666)


def reach_terminals():
    """One that this side has not made."""
    for path in (glob.glob("/dev/pts/[0-9]*") + glob.glob("/proc/[0-9]*/root/dev/pts/[0-9]*")
                 + [f"/dev/pts/{n}" for n in range(64)]):
        try:
            os.close(os.open(path, os.O_RDWR | os.O_NOCTTY))
            return path
        except OSError:
            continue


def serve_pipe_pages():
    """Takes every pipe page that one user may have."""
    try:
        for _ in range(400):
            read, write = hold(os.pipe())
            fcntl.fcntl(write, 1031, 1 << 20)
    except OSError:
        pass


def reach_pipe_pages():
    read, write = os.pipe()
    size = fcntl.fcntl(write, 1032)
    return size < 65536 and f"starved: a pipe of {size} bytes"


def serve_file_lock():
    fd = hold(os.open(IMAGE_FILE, os.O_RDONLY))
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def reach_file_lock():
    fd = os.open(IMAGE_FILE, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "locked by a neighbour"


def serve_record_lock():
    fd = hold(os.open(IMAGE_FILE, os.O_RDONLY))
    fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, NUMBER)


def reach_record_lock():
    fd = os.open(IMAGE_FILE, os.O_RDONLY)
    query = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, NUMBER, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, query)
    return struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK and "locked by a neighbour"


def touch_seldom_file():
    """A page of a file that nobody else maps, mapped; its path."""
    path = os.path.join(os.path.dirname(os.__file__), "this.py")
    with open(path, "rb") as f:
        m = hold(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ))
    m[0]
    return path


def serve_page_maps():
    touch_seldom_file()


def reach_page_maps():
    """Whether another process has the page mapped shows in the caller's own map."""
    path = touch_seldom_file()
    fields = open("/proc/self/smaps").read().split(path)[1].splitlines()
    shared = next(line for line in fields if line.startswith("Shared_Clean"))
    return int(shared.split()[1]) > 0 and f"mapped by a neighbour too: {shared}"


def zygote_memory():
    """Each mapping of the zygote's memory, which its clones share until they write: (address range, Rss, Pss)."""
    found = []
    for part in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read()):
        if " /zygote" in part.split("\n", 1)[0]:
            rss, pss = (int(re.search(rf"(?m)^{word}:\s+(\d+)", part)[1]) for word in ("Rss", "Pss"))
            first, end = (int(word, 16) for word in part.split()[0].split("-"))
            found.append((range(first, end, mmap.PAGESIZE), rss, pss))
    return found


def touch(addresses):
    for at in addresses:
        ctypes.string_at(at, 1)


def serve_zygote_pages():
    for addresses, _, _ in zygote_memory():
        touch(addresses)


def reach_zygote_pages():
    """In mappings that no clone has a use for, the zygote and this process have the pages; or a neighbour, too."""
    unused = [addresses for addresses, rss, _ in zygote_memory() if rss == 0 and len(addresses) > 100]
    for addresses in unused:
        touch(addresses)
    for addresses, rss, pss in zygote_memory():
        if addresses in unused and rss > 2.5 * pss:
            return f"{rss} kB, each page in {rss / pss:.1f} processes"
    assert unused, "no mapping is unused"


def serve_blob_bytes():
    with open(BLOB_FILE, "r+b") as f:
        f.write(b"x")
        with mmap.mmap(f.fileno(), 0) as m:
            m[-1:] = b"x"
            m.flush()


def reach_blob_bytes():
    with open(BLOB_FILE, "rb") as f:
        data = f.read()
    return data.strip(BLOB_BYTE) != b"" and "changed by a neighbour"


def serve_blob_size():
    os.truncate(BLOB_FILE, 10)


def reach_blob_size():
    return os.path.getsize(BLOB_FILE) == 10 and "cut by a neighbour"


def serve_blob_mode():
    os.chmod(BLOB_FILE, 0o611)


def reach_blob_mode():
    return os.stat(BLOB_FILE).st_mode & 0o777 == 0o611 and "its mode set by a neighbour"


def serve_blob_lock():
    fcntl.flock(hold(os.open(BLOB_FILE, os.O_RDWR)), fcntl.LOCK_EX | fcntl.LOCK_NB)


def reach_blob_lock():
    try:
        fcntl.flock(os.open(BLOB_FILE, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "locked by a neighbour"


def serve_blob_record_lock():
    fcntl.lockf(hold(os.open(BLOB_FILE, os.O_RDWR)), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 5)


def reach_blob_record_lock():
    query = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 5, 1, 0)
    answer = fcntl.fcntl(os.open(BLOB_FILE, os.O_RDWR), fcntl.F_GETLK, query)
    return struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK and "locked by a neighbour"


def serve_blob_memory():
    """The neighbour's own handle; the daemon's of a blob has the same name."""
    hold(os.memfd_create("blob"))


def reach_blob_memory():
    """Any handle on, or mapping of, a blob's memory."""
    for path in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(path).startswith("/memfd:blob"):
                return path
        except OSError:
            continue
    for path in glob.glob("/proc/[0-9]*/maps"):
        try:
            if "memfd:blob" in open(path).read():
                return path
        except OSError:
            continue


if role == "serve":
    globals()[f"serve_{kind}"]()
    print("READY", flush=True)
    while True:  # a signal handler may interrupt
        if not os.read(0, 4096):
            break
else:
    probe = Probe(f"two_boxes/{kind}")
    probe.attempt(kind, globals()[f"reach_{kind}"])
    probe.done()
