"""Calls the kernel as a 32-bit and as an x32 program would: other tables, other numbers."""
import ctypes
import mmap
import os
import signal

from escapekit import Probe, child

probe = Probe("foreign_calls")


def survives(code):
    """Runs machine code in a child: reached if the call comes back, whatever it says."""

    def call():
        area = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        area.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        ctypes.CFUNCTYPE(ctypes.c_long)(address)()

    status = child(call)
    if os.WIFEXITED(status):
        return os.WEXITSTATUS(status) == 0 and "came back"
    # The one refusal that counts: a crash of the probe itself would prove nothing.
    return os.WTERMSIG(status) != signal.SIGSYS and f"died of signal {os.WTERMSIG(status)}"


def x32(number):
    return b"\x48\x31\xff\xb8" + (0x40000000 | number).to_bytes(4, "little") + b"\x0f\x05\xc3"


def i386(number):
    return b"\x53\x31\xdb\xb8" + number.to_bytes(4, "little") + b"\xcd\x80\x5b\xc3"


probe.attempt("x32_getpid", survives, x32(39))
probe.attempt("x32_own_table", survives, x32(520))
probe.attempt("i386_getpid", survives, i386(20))
probe.attempt("i386_mount", survives, i386(21))
probe.done()
