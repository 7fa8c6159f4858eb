"""Large kernel interfaces: BPF, perf, io_uring, userfaultfd, asynchronous I/O, foreign filters."""
import ctypes
import os
import socket
import struct

from escapekit import Probe, libc, syscall

probe = Probe("kernel_surface")
space = ctypes.create_string_buffer(256)
probe.touches("bpf", 0, space, 8)
probe.touches("bpf", 5, space, 8, label="bpf_prog_load")
probe.touches("perf_event_open", space, 0, -1, -1, 0)
probe.touches("io_uring_setup", 4, space)
probe.touches("io_uring_enter", -1, 0, 0, 0, 0, 0)
probe.touches("io_uring_register", -1, 0, 0, 0)
probe.touches("userfaultfd", 1)
probe.touches("io_setup", 1, ctypes.byref(ctypes.c_long()))
for path in ("/dev/userfaultfd", "/dev/fuse", "/dev/vhost-net", "/dev/net/tun", "/dev/kvm", "/dev/vsock"):
    probe.attempt(path, os.open, path, os.O_RDWR)


def attach(option):
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, option, struct.pack("HxxxxxxQ", 1, ctypes.addressof(program)))
        return "attached"


def tls():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server, \
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        s.connect(server.getsockname())
        try:
            s.setsockopt(socket.IPPROTO_TCP, 31, b"tls")
        except FileNotFoundError:
            return "looked for the module"
        return "attached"


probe.attempt("socket_filter", attach, 26)
probe.attempt("reuseport_filter", attach, 51)
probe.attempt("kernel_tls", tls)


def seccomp(flags):
    """A filter of its own, or one whose answers come from a supervisor."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    prog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(program)))
    pid = os.fork()
    if pid == 0:
        libc.prctl(38, 1, 0, 0, 0)
        try:
            syscall("seccomp", 1, flags, prog)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and "loaded"


probe.attempt("seccomp_filter", seccomp, 0)
probe.attempt("seccomp_listener", seccomp, 8)
probe.done()
