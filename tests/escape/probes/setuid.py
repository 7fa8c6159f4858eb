"""Becomes somebody else: by set*uid, by groups, by setuid programs found and made, by a user namespace's maps."""
import os
import shutil
import stat
import subprocess

from escapekit import Probe, child

probe = Probe("setuid")
before = (os.getresuid(), os.getresgid())


def become(function, *args):
    """In a child, since it may succeed."""

    def run():
        try:
            function(*args)
        except OSError:
            return 1
        return 0 if (os.getresuid(), os.getresgid()) != before else 2

    return os.waitstatus_to_exitcode(child(run)) == 0 and "became another"


other = 0 if os.getuid() else 12345
for name in ("setuid", "setgid", "seteuid", "setegid"):
    probe.attempt(name, become, getattr(os, name), other)
for name in ("setreuid", "setregid"):
    probe.attempt(name, become, getattr(os, name), other, other)
for name in ("setresuid", "setresgid"):
    probe.attempt(name, become, getattr(os, name), other, other, other)
probe.attempt("setgroups", lambda: (os.setgroups([other, 4, 6]), "set")[1])
probe.attempt("groups", lambda: [g for g in os.getgroups() if g != os.getgid()] or None)


def programs():
    """Every setuid or setgid program of the image, tried."""
    gained = []
    for top in ("/usr", "/bin", "/sbin", "/opt"):
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    info = os.lstat(path)
                    if stat.S_ISREG(info.st_mode) and info.st_mode & 0o6000 and \
                            not os.statvfs(path).f_flag & os.ST_NOSUID and "NoNewPrivs:\t1" not in open("/proc/self/status").read():
                        gained.append(path)
                except OSError:
                    continue
    return gained[:10] or None


def made():
    """A shell of its own, made setuid, prints whose it is."""
    shutil.copy("/bin/sh", "own-sh")
    try:
        os.chown("own-sh", other, other)
    except OSError:
        pass
    os.chmod("own-sh", 0o6755)
    out = subprocess.run(["./own-sh", "-pc", "id -u"], capture_output=True, text=True).stdout.strip()
    return out.isdigit() and int(out) != os.getuid() and out


probe.attempt("programs", programs)
probe.attempt("made", made)
probe.attempt("chown", lambda: (open("own", "w").close(), os.chown("own", other, other), "given away")[2])
probe.attempt("uid_map", lambda: os.open("/proc/self/uid_map", os.O_WRONLY))
probe.done(ids=before)
