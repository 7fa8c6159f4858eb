"""Leaves in /task/out what should trick who collects it: out_files.py KIND. The harness looks at what came out."""
import os
import socket
import sys

from escapekit import Probe, params

kind = sys.argv[1]
out = sys.argv[2] if len(sys.argv) > 2 else "/task/out"
os.makedirs(out, exist_ok=True)
os.chdir(out)
probe = Probe(f"out_files/{kind}")
marker = params().get("marker", "/etc/passwd")
with open("good", "w") as f:
    f.write("good")

if kind == "symlinks":
    os.symlink(marker, "absolute")
    os.symlink("../" * 20 + marker.lstrip("/"), "relative")
    os.symlink("/", "root")
    os.symlink("..", "up")
    os.symlink("loop", "loop")
    os.symlink("/proc/self/root" + marker, "magic")
    os.symlink("/proc/1/root" + marker, "magic1")
    os.makedirs("folder")
    os.symlink(os.path.dirname(marker), "folder/link")
elif kind == "hardlinks":
    for number, path in enumerate((marker, "/etc/passwd", "/etc/shadow", "/proc/self/environ", "/usr/bin/python3", "/dev/null")):
        probe.attempt(path, lambda: (os.link(path, f"hard{number}"), "linked")[1])
elif kind == "special":
    os.mkfifo("fifo")
    s = socket.socket(socket.AF_UNIX)
    s.bind("socket")
    for name, mode in (("char", 0o020666), ("block", 0o060666)):
        probe.attempt(name, lambda: (os.mknod(name, mode, os.makedev(1, 3)), "made")[1])
    os.chmod("good", 0o6777)
elif kind == "names":
    for name in (b"new\nline", b"esc\x1b[2J", b"latin\xe9", b"-rf", b"..x", b"a\\b", b" ", b"~", b"$(reboot)", b"\xe2\x80\xaetxt.exe",
                 b"n" * 255, "NUL", "C:x"):
        open(name, "w").close()
elif kind == "deep":
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    open("bottom", "w").close()
elif kind == "many":
    for number in range(5000):
        open(f"f{number}", "w").close()
elif kind == "sparse":
    with open("sparse", "wb") as f:
        f.truncate(1 << 30)
elif kind == "growing":
    # Still being written when the main process leaves.
    if os.fork() == 0:
        os.setsid()
        with open("growing", "ab", 0) as f:
            while True:
                f.write(b"x" * 4096)
                os.rename("growing", "growing2")
                os.rename("growing2", "growing")
elif kind == "swapped":
    # Folders that change into links while somebody walks them.
    os.makedirs("a/b")
    open("a/b/passwd", "w").close()
    if os.fork() == 0:
        os.setsid()
        while True:
            os.rename("a", "c")
            os.symlink(os.path.dirname(marker), "a")
            os.unlink("a")
            os.rename("c", "a")
elif kind == "replaced":
    os.chdir("/task")
    os.rename("out", "was")
    os.symlink(os.path.dirname(marker), "out")
elif kind == "locked":
    os.makedirs("shut")
    open("shut/f", "w").close()
    os.chmod("shut", 0)
    os.chmod("good", 0)
elif kind == "attributes":
    probe.attempt("security", lambda: (os.setxattr("good", "security.capability", b"\1\0\0\2\1" + b"\0" * 15), "set")[1])
    probe.attempt("trusted", lambda: (os.setxattr("good", "trusted.x", b"1"), "set")[1])
    try:
        os.setxattr("good", "user.x", b"1")
    except OSError:
        pass
probe.done()
