"""Walks the whole tree for a place that takes a write, beyond the box's own four."""
import os
import stat

from escapekit import Probe, params

probe = Probe("writable_places")
OWN = ("/tmp", "/task", "/run", "/dev/shm", "/proc", "/sys")
FOUND_MAX = 20
found = {"file": [], "folder": []}


def skip(path):
    return any(path == own or path.startswith(own + "/") for own in OWN) and not params().get("walk")


count = 0
for folder, names, files in os.walk(params().get("walk", "/"), followlinks=False):
    if skip(folder):
        names[:] = []
        continue
    count += 1
    if len(found["folder"]) < FOUND_MAX:
        trial = os.path.join(folder, ".probe")
        try:
            os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            os.unlink(trial)
            found["folder"].append(folder)
        except OSError:
            pass
    for name in files:
        path = os.path.join(folder, name)
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            os.close(os.open(path, os.O_WRONLY | os.O_NOFOLLOW))
        except OSError:
            continue
        if len(found["file"]) < FOUND_MAX:
            found["file"].append(path)
for kind in found:
    probe.attempt(kind, lambda: found[kind] or None)
top = params().get("walk", "/usr")
for label, act in (("chmod", lambda: os.chmod(top, 0o755)), ("rename", lambda: (os.rename(top, top + "x"), os.rename(top + "x", top))),
                   ("xattr", lambda: os.setxattr(top, "user.x", b"1")), ("utime", lambda: os.utime(top))):
    probe.attempt(label, lambda: (act(), "done")[1])
probe.done(folders=count)
