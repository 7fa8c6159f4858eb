"""Uses the kernel's keyrings, which live beyond processes and namespaces."""
import os

from escapekit import Probe, syscall

JOIN, SEARCH, DESCRIBE, READ, UNLINK = 1, 10, 6, 11, 9
SESSION, USER, USER_SESSION, THREAD = -3, -4, -5, -1
probe = Probe("keyrings")
probe.attempt("add_thread", lambda: f"key {syscall('add_key', b'user', b'probe', b'x', 1, THREAD)}")


def add_user():
    key = syscall("add_key", b"user", b"probe", b"x", 1, USER)
    syscall("keyctl", UNLINK, key, USER)
    return f"key {key}"


probe.attempt("add_user", add_user)
probe.attempt("request", lambda: f"key {syscall('request_key', b'user', b'probe', 0, THREAD)}")
probe.attempt("join", lambda: f"session {syscall('keyctl', JOIN, b'probe')}")
for name, ring in (("session", SESSION), ("user", USER), ("user_session", USER_SESSION)):
    probe.attempt(f"describe_{name}", lambda: f"{syscall('keyctl', DESCRIBE, ring, 0, 0)} bytes")
probe.attempt("keys", lambda: open("/proc/keys").read() or None)
probe.done()
