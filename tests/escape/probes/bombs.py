"""Bombs: bombs.py KIND [UNITS]. Each takes one kind of resource without end.

With UNITS it stops after so many: the control run, which proves that the bomb
goes off, must be small. It ends by being refused, by UNITS, or by the kill of
the cap; what it prints last is the count of units that it got.
"""
import ctypes
import fcntl
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time

from escapekit import Probe, libc, syscall

kind = sys.argv[1]
units_max = int(sys.argv[2]) if len(sys.argv) > 2 else 1 << 62
held = []
small = units_max < 1 << 62
TMP = os.getcwd() if small else "/tmp"
MIB = 1 << 20
libc.mmap.restype = ctypes.c_void_p


def anonymous(size, flags=0, protection=3):
    at = libc.mmap(None, ctypes.c_size_t(size), protection, 0x22 | flags, -1, ctypes.c_long(0))
    if at in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    return at


# Each takes one more unit; an OSError ends the bomb.

def fork(_):
    if os.fork() == 0:
        while not small:
            time.sleep(1000)
        os._exit(0)


def fork_tree(_):
    if os.fork() == 0 and small:
        os._exit(0)


def thread(_):
    t = threading.Thread(target=time.sleep, args=(1000,), daemon=True)
    try:
        t.start()
    except RuntimeError as error:
        raise OSError(11, str(error))


def memory(_):
    held.append(b"x" * MIB)


def memory_of_children(_):
    """Every process stays small; together they do not."""
    if os.fork() == 0:
        block = b"x" * (8 * MIB)
        while not small:
            time.sleep(1000)
        os._exit(len(block) & 0)


def locked_memory(_):
    at = anonymous(MIB)
    if libc.mlock(ctypes.c_void_p(at), ctypes.c_size_t(MIB)) != 0:
        raise OSError(ctypes.get_errno(), "mlock")


def memory_file(_):
    fd = os.memfd_create("bomb")
    held.append(fd)
    os.write(fd, b"x" * MIB)


def disk(_):
    with open(f"{TMP}/bomb", "ab", 0) as f:
        if f.write(b"x" * MIB) < MIB:
            raise OSError(28, "short write")


def disk_shm(_):
    with open(f"{TMP if small else '/dev/shm'}/bomb", "ab", 0) as f:
        if f.write(b"x" * MIB) < MIB:
            raise OSError(28, "short write")


def inodes(n):
    os.mknod(f"{TMP}/bomb-{os.getpid()}-{n}")


def symlinks(n):
    os.symlink("x" * 120, f"{TMP}/bomb-{os.getpid()}-{n}")


def attributes(n):
    if n == 0:
        open(f"{TMP}/bomb", "w").close()
    os.setxattr(f"{TMP}/bomb", f"user.{n}", b"x" * (16 if small else 4096))


def deep_folders(n):
    os.mkdir("d")
    os.chdir("d")


def names(n):
    """Names that do not exist leave an entry in the kernel's cache each."""
    os.path.exists(f"{TMP}/{n}-" + "x" * 200)
    if n > 400_000:
        raise OSError(0, "enough")


def open_files(_):
    held.append(os.open("/dev/null", os.O_RDONLY))


def pipes(_):
    read, write = os.pipe2(os.O_NONBLOCK)
    held.append((read, write))
    try:
        fcntl.fcntl(write, 1031, MIB)
    except OSError:
        pass
    try:
        while True:
            os.write(write, b"x" * 65536)
    except BlockingIOError:
        pass


def pipes_of_children(n):
    """More descriptors than one process may have: every child fills its own table."""
    if os.fork() == 0:
        try:
            for _ in range(1 if small else 1 << 30):
                pipes(0)
        except OSError:
            pass
        while not small:
            time.sleep(1000)
        os._exit(0)


def full(s):
    s.setblocking(False)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 26)
    try:
        while True:
            s.send(b"x" * 8192)
    except (BlockingIOError, OSError):
        pass


def unix_sockets(_):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
    held.append((a, b))
    full(a)


def unix_datagrams(_):
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    held.append((a, b))
    full(a)


def tcp_sockets(_):
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        a = socket.create_connection(server.getsockname())
        b, _ = server.accept()
    held.append((a, b))
    full(a)


def udp_sockets(_):
    b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    b.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 26)
    b.bind(("127.0.0.1", 0))
    a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    a.connect(b.getsockname())
    held.append((a, b))
    for _ in range(b.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 8192):  # a full receiver drops silently
        a.send(b"x" * 8192)


def tcp_and_memory(n):
    """Socket buffers first, which a host may count apart, then memory on top of them."""
    try:
        for _ in range(2 if small else 1000):
            tcp_sockets(0)
    except OSError:
        pass
    memory(0)


def sockets_of_children(n):
    if os.fork() == 0:
        try:
            for _ in range(1 if small else 1 << 30):
                tcp_sockets(0)
        except OSError:
            pass
        while not small:
            time.sleep(1000)
        os._exit(0)


def descriptors_in_flight(_):
    """Descriptors in sockets in sockets, which nobody closes: which cgroup is charged?"""
    a, b = socket.socketpair()
    for s in held[-1:]:
        a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("2i", *s))])
        for fd in s:
            os.close(fd)
        held.pop()
    held.append((a.detach(), b.detach()))


def epolls(_):
    e = os.eventfd(0) if hasattr(os, "eventfd") else os.pipe()[0]
    import select
    p = select.epoll()
    p.register(e)
    for other in held[-200:]:
        p.register(other)
    held.append(p)


def event_descriptors(_):
    held.append(libc.eventfd(0, 0) if libc.timerfd_create(1, 0) >= 0 else None)
    if held[-1] in (None, -1):
        raise OSError(24, "eventfd")


def timers(_):
    event = ctypes.create_string_buffer(64)
    struct.pack_into("QII", event, 0, 0, 34, 0)
    syscall("timer_create", 1, event, ctypes.byref(ctypes.c_int()))


def queued_signals(n):
    if n == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, {40})
    if libc.sigqueue(os.getpid(), 40, None) != 0:
        raise OSError(ctypes.get_errno(), "sigqueue")


def terminals(_):
    """Terminals with full buffers both ways: the kernel's memory for a terminal counts for no cap."""
    pair = os.openpty()
    held.append(pair)
    for fd in pair:
        os.set_blocking(fd, False)
        try:
            while True:
                os.write(fd, b"x" * 4096)
        except BlockingIOError:
            pass


def terminals_anew(n):
    """Memory that the kernel frees late piles up."""
    terminals(0)
    for fd in held.pop():
        os.close(fd)
    if n >= 1_999:
        raise OSError(0, "enough")


def watches(_):
    held.append(syscall("inotify_init1", 0))


def posix_queues(n):
    held.append(syscall("mq_open", f"bomb{n}".encode(), os.O_CREAT | os.O_RDWR, 0o600, 0))


def shm_segments(_):
    identity = syscall("shmget", 0, MIB, 0o1600)
    libc.shmat.restype = ctypes.c_void_p
    at = libc.shmat(identity, None, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "shmat")
    ctypes.memset(at, 1, MIB)
    libc.shmdt(ctypes.c_void_p(at))  # nobody holds it now


def messages(n):
    identity = syscall("msgget", 0, 0o1600)
    text = ctypes.create_string_buffer(8192 + 8)
    struct.pack_into("q", text, 0, 1)
    try:
        while True:
            syscall("msgsnd", identity, text, 4096, 0o4000)
    except BlockingIOError:
        pass


def semaphores(_):
    syscall("semget", 0, 8000, 0o1600)


def page_tables(n):
    """One byte in every 2 MiB: a page of tables for each page of data, and more above."""
    at = anonymous(1 << 30, 0x4000)
    libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(1 << 30), 15)  # no huge pages
    for offset in range(0, 1 << 30, 2 * MIB):
        ctypes.memset(at + offset, 1, 1)


def page_tables_shared(n):
    """Reads only: the zero page costs nothing, its tables do."""
    at = anonymous(1 << 30, 0x4000)
    libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(1 << 30), 15)
    for offset in range(0, 1 << 30, 2 * MIB):
        ctypes.c_char.from_address(at + offset).value


def mappings(n):
    anonymous(4096, protection=1 if n & 1 else 3)


def record_locks(n):
    if n == 0:
        held.append(open(f"{TMP}/bomb", "w"))
    fcntl.lockf(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 2 * n)


def filters(n):
    """Seccomp programs are compiled into memory outside every cap."""
    body = struct.pack("HBBI", 0, 0, 0, 0) * 4000 + struct.pack("HBBI", 6, 0, 0, 0x7FFF0000)
    body = body.replace(struct.pack("HBBI", 0, 0, 0, 0), struct.pack("HBBI", 0x20, 0, 0, 0))
    if n == 0:
        libc.prctl(38, 1, 0, 0, 0)
    code = ctypes.create_string_buffer(body)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4001, ctypes.addressof(code)))
    if os.fork() == 0:  # each with its own pile
        try:
            for _ in range(1 if small else 1 << 30):
                syscall("seccomp", 1, 0, program)
        except OSError:
            pass
        while not small:
            time.sleep(1000)
        os._exit(0)


def landlocks(n):
    attr = (ctypes.c_uint64 * 1)(1 << 2)
    fd = libc.syscall(444, ctypes.byref(attr), 8, 0)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    held.append(fd)


def arguments(n):
    """Large argument blocks of many processes at once."""
    if os.fork() == 0:
        os.execv("/bin/sh", ["sh", "-c", "read x; :" if small else "sleep 1000"] + ["x" * 100_000] * 15)


def output(_):
    os.write(1, b"x" * 65536)


def errors(_):
    os.write(2, b"x" * 65536)


def lines(_):
    os.write(1, b"\n" * 4096)


def cpu(_):
    for _ in range(1000):
        pass


def sleep(_):
    time.sleep(0.001 if small else 1000)


def children_spin(n):
    """Short-lived processes that use the processor: the sum counts."""
    pid = os.fork()
    if pid == 0:
        end = time.process_time() + (0.001 if small else 0.05)
        while time.process_time() < end:
            pass
        os._exit(0)
    os.waitpid(pid, 0)


# --- kernel memory that is charged to nobody, unless it is refused or counted ---

def in_children(fill):
    """Every child has descriptors of its own, and fills them all; 20 stay below the cap on processes."""
    if len(held) == 20 and not small:
        time.sleep(1000)
    held.append(None)
    if os.fork() == 0:
        held.clear()
        try:
            for n in range(1 if small else 1 << 30):
                fill(n)
        except OSError:
            pass
        while not small:
            time.sleep(1000)
        os._exit(0)


def packet_options(_):
    """IPV6_2292PKTOPTIONS: 64 KiB of options kept for each socket."""
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    held.append(s)
    word = struct.pack("QIIi4x", 20, socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0)
    s.setsockopt(socket.IPPROTO_IPV6, 6, word * (65536 // len(word) - 1))


def memberships(n):
    """Multicast groups: the kernel keeps an object for each, which counts for no cap."""
    if n % 400 == 0:
        held.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    held[-1].setsockopt(socket.IPPROTO_IPV6, 20, bytes([0xFF, 0x02]) + bytes(10) + struct.pack(">I", n) + struct.pack("I", 1))


def flow_labels(n):
    if n == 0:
        held.append(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    held[0].setsockopt(socket.IPPROTO_IPV6, 32, bytes(15) + b"\1" + struct.pack("IBBHHHI", 0, 0, 255, 1, 60, 0, 0))


def signature_keys(n):
    """TCP_MD5SIG: a key for each peer."""
    if n % 500 == 0:
        held.append(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    peer = struct.pack("=HH4s", socket.AF_INET, 0, struct.pack(">I", 0x7F000001 + n)).ljust(128, b"\0")
    held[-1].setsockopt(socket.IPPROTO_TCP, 14, peer + struct.pack("=BBHii", 0, 0, 4, 0, 0) + b"key!".ljust(80, b"\0"))


def corked(_):
    """Datagrams that are begun and never ended."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    held.append(s)
    s.connect(("127.0.0.1", 9))
    s.send(b"x" * 65000, socket.MSG_MORE)


def error_queues(_):
    """Answers to datagrams for closed ports, kept for a socket that asks for them."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    held.append(s)
    s.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
    s.connect(("127.0.0.1", 9))
    for _ in range(400):
        try:
            s.send(b"x" * 500)
        except ConnectionRefusedError:
            pass


def access_lists(n):
    """A long access control list for each file: the owner of a file may set it."""
    path = f"{TMP}/list-{os.getpid()}-{n}"
    open(path, "w").close()
    user = struct.pack("<HHI", 2, 7, os.getuid())
    entry = lambda tag: struct.pack("<HHI", tag, 7, 0xFFFFFFFF)
    os.setxattr(path, "system.posix_acl_access",
                struct.pack("<I", 2) + entry(1) + user * (10 if small else 8000) + entry(4) + entry(0x10) + entry(0x20))


def unaccepted(n, data=b"", close=False):
    """Connections that wait in a listener's queue for ever."""
    if n % 4000 == 0:
        server = socket.socket()
        server.bind((f"127.0.{(os.getpid() + n // 4000) % 250}.{1 + n // 4000 % 250}", 0))
        server.listen(4096)
        held.append(server)
        unaccepted.to = server.getsockname()
    s = socket.socket()
    if not close:
        held.append(s)
    s.settimeout(0.5)
    try:
        s.connect(unaccepted.to)
    except TimeoutError:
        return
    if data:
        s.setblocking(False)
        try:
            while True:
                s.send(data)
        except OSError:
            pass
    if close:
        s.close()


def unaccepted_of_children(_):
    in_children(unaccepted)


def unaccepted_with_data(n):
    unaccepted(n, b"x" * 16384)


def unaccepted_with_data_of_children(_):
    in_children(unaccepted_with_data)


def unaccepted_closed(n):
    """The same with the client's end closed at once: the rest of the connection is charged to nobody."""
    unaccepted(n, b"", close=True)


def unaccepted_closed_with_data(n):
    unaccepted(n, b"x" * 16384, close=True)


def shared_ports(_):
    """SO_REUSEPORT: a group for each port."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("127.0.0.1", 0))
    held.append(s)


def shared_ports_of_children(_):
    in_children(shared_ports)


def timer_descriptors_of_children(_):
    def one(_):
        fd = libc.timerfd_create(1, 0)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd")
    in_children(one)


def policies(n):
    """Single pages of a sparse file, each with a memory policy of its own."""
    pages = 1 << 14  # of a file: every second one, 128 MiB in all
    if n % pages == 0:
        held.append(os.memfd_create("bomb"))
        os.ftruncate(held[-1], pages * 8192)
        policies.at = libc.mmap(None, ctypes.c_size_t(pages * 8192), 3, 1, held[-1], ctypes.c_long(0))
    mask = ctypes.c_ulong(1)
    if libc.syscall(237, ctypes.c_void_p(policies.at + n % pages * 8192), ctypes.c_long(4096), 1, ctypes.byref(mask),
                    ctypes.c_long(64), 0) != 0:
        raise OSError(ctypes.get_errno(), "mbind")


def record_locks_of_many_files(n, per_file=2000):
    if n % per_file == 0:
        held.append(open(f"{TMP}/bomb-{os.getpid()}-{n}", "w"))
    fcntl.lockf(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 2 * (n % per_file))


def record_locks_of_children(_):
    in_children(record_locks_of_many_files)


def grown_output(_):
    """After a box's end the daemon still holds the data in its pipes."""
    fcntl.fcntl(1, 1031, MIB)  # F_SETPIPE_SZ


def sparse(n):
    with open(f"{TMP}/sparse", "wb") as f:
        f.truncate(1 << (20 + n))
        f.seek((1 << (20 + n)) - 1)
        f.write(b"x")


count = 0
why = "all its units"
try:
    while count < units_max:
        globals()[kind](count)
        count += 1
except (OSError, MemoryError) as error:
    why = f"{type(error).__name__}: {error}"
probe = Probe(f"bombs/{kind}")
if small and count == units_max:
    probe.reached.append(kind)
probe.done(count=count, why=why)
if small:
    os._exit(0)
if "--hold" in sys.argv:
    time.sleep(3)
