"""Types into a terminal that somebody else reads (TIOCSTI), and uses what terminals there are."""
import fcntl
import os
import pty
import termios

from escapekit import Probe, child

TIOCLINUX, TIOCSETD = 0x541C, 0x5423
probe = Probe("terminal")


def on_terminal(request, data):
    """On a terminal of its own, as its controlling one, in a child."""
    outer, inner = pty.openpty()

    def act():
        os.setsid()
        fcntl.ioctl(inner, termios.TIOCSCTTY, 0)
        fcntl.ioctl(inner, request, data)
        return 0

    code = os.waitstatus_to_exitcode(child(lambda: quietly(act)))
    return code == 0 and "typed"


def quietly(act):
    try:
        return act()
    except OSError:
        return 1


def let_in(request):
    """On a pipe the kernel itself says ENOTTY; the filter says EPERM."""
    read, _ = os.pipe()
    try:
        fcntl.ioctl(read, request, b"\0\0\0\0")
    except OSError as error:
        if error.errno == 25:
            return "the kernel was asked"
        raise
    return "done"


probe.attempt("type", on_terminal, termios.TIOCSTI, b"x")
for name, request in (("TIOCSTI", termios.TIOCSTI), ("TIOCLINUX", TIOCLINUX), ("TIOCSETD", TIOCSETD)):
    probe.attempt(name, let_in, request)
for path in ("/dev/tty", "/dev/console", "/dev/tty0", "/dev/tty1", "/dev/ptmx", "/dev/ttyS0", "/dev/pts/0"):
    probe.attempt(path, os.open, path, os.O_RDWR | os.O_NOCTTY)
probe.done()
