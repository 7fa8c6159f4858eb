"""Types into a terminal that somebody else reads (TIOCSTI), and uses what terminals there are of others."""
import fcntl
import glob
import os
import pty
import stat
import termios

from escapekit import Probe, child, params

TIOCGPTPEER, TIOCSPTLCK = 0x5441, 0x40045431
REFUSED = {"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C, "TIOCCONS": 0x541D, "TIOCGSERIAL": 0x541E, "TIOCSSERIAL": 0x541F,
           "TIOCSETD": 0x5423, "TIOCSRS485": 0x542F, "TIOCVHANGUP": 0x5437, "TIOCSERCONFIG": 0x5453,
           "TIOCSLCKTRMIOS": 0x5457, "TIOCMIWAIT": 0x545C}
PTYS_MAX = 64  # that a manifest can grant
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


def others():
    """Terminals that this probe has not made."""
    for path in glob.glob("/dev/pts/[0-9]*") + glob.glob("/proc/[0-9]*/root/dev/pts/[0-9]*"):
        os.close(os.open(path, os.O_RDWR | os.O_NOCTTY))
        return path


def by_number():
    """Names that a listing might hide."""
    for number in range(4096):
        try:
            os.close(os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY))
            return f"/dev/pts/{number}"
        except FileNotFoundError:
            pass


def elsewhere(path):
    """What this name makes is a terminal of another file system than the one seen."""
    outer = os.open(path, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(outer, TIOCSPTLCK, b"\0\0\0\0")
    inner = fcntl.ioctl(outer, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    made, seen = os.fstat(inner), os.stat(params().get("seen", "/dev/pts"))
    os.close(inner)
    os.close(outer)
    return made.st_dev != seen.st_dev and f"made on {made.st_dev}, seen is {seen.st_dev}"


def many():
    """More than any template may grant, of a number that all boxes and the host share."""
    held = []
    try:
        while len(held) <= 2 * PTYS_MAX:
            held += pty.openpty()
    except OSError:
        return None
    finally:
        for fd in held:
            os.close(fd)
    return f"{len(held) // 2} terminals"


def grown():
    """Changes the file system itself: a node more, a name less; the same mode again, to harm nothing."""
    for act in (lambda: os.mknod("/dev/pts/x"), lambda: os.mkdir("/dev/pts/x"), lambda: os.unlink("/dev/pts/ptmx"),
                *(lambda p=p: os.chmod(p, stat.S_IMODE(os.stat(p).st_mode)) for p in ("/dev/pts/ptmx", "/dev/pts"))):
        try:
            act()
            return "changed"
        except OSError:
            pass


# Before this probe has made one.
probe.attempt("others", others)
probe.attempt("by_number", by_number)
probe.attempt("type", on_terminal, termios.TIOCSTI, b"x")
for name, request in REFUSED.items():
    probe.attempt(name, let_in, request)
for path in ("/dev/tty", "/dev/console", "/dev/tty0", "/dev/tty1", "/dev/ttyS0", "/dev/hvc0", "/dev/vcs", "/dev/ptyp0"):
    probe.attempt(path, os.open, path, os.O_RDWR | os.O_NOCTTY)
for path in ("/dev/ptmx", "/dev/pts/ptmx"):
    probe.attempt(f"elsewhere_{path}", elsewhere, path)
probe.attempt("many", many)
probe.attempt("grown", grown)
probe.done()
