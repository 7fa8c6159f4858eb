"""Looks for processes that are not of this box: by listing, by number, by thread, by parent."""
import os

from escapekit import Probe, params

probe = Probe("proc_others")
own = {1, os.getpid(), os.getppid()}


def listed():
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    return sorted(pids - own - {0})[:20] or None


def by_number():
    """/proc answers for numbers that it does not list."""
    found = [pid for pid in range(1, 40000) if pid not in own and os.path.exists(f"/proc/{pid}/status")]
    return found[:20] or None


def parents():
    with open("/proc/self/status") as status:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    # In the box's own namespace the chain has one number and no parent outside.
    if len(fields.get("NSpid", "1").split()) > 1 or int(fields["PPid"]) > 1:
        return f"NSpid {fields.get('NSpid')}, PPid {fields['PPid']}"


def session():
    return os.getsid(0) not in (os.getpid(), 0) and f"session {os.getsid(0)}"


probe.attempt("listed", listed)
probe.attempt("by_number", by_number)
probe.attempt("parents", parents)
probe.attempt("session", session)
for pid in params().get("host_pids", []):
    probe.attempt(f"host_pid_{pid}", os.stat, f"/proc/{pid}/stat") if pid not in own else None
probe.done()
