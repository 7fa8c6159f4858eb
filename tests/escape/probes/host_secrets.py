"""Looks for credentials: files where hosts keep them, sockets of daemons, environment, memory."""
import os
import re
import stat

from escapekit import Probe, params, read_some

probe = Probe("host_secrets")
HOMES = ("/root", "/home/user", os.environ.get("HOME", "/nonexistent"))
FILES = [f"{home}/{name}" for home in sorted(set(HOMES)) for name in (
    ".ssh/id_rsa", ".ssh/id_ed25519", ".ssh/authorized_keys", ".aws/credentials", ".config/gcloud/credentials.db",
    ".docker/config.json", ".kube/config", ".netrc", ".pgpass", ".git-credentials", ".bash_history",
    ".npmrc", ".pypirc", ".config/gh/hosts.yml")] + [
    "/var/run/secrets/kubernetes.io/serviceaccount/token", "/run/secrets", "/etc/kubernetes/admin.conf",
    "/etc/ssh/ssh_host_ed25519_key", "/etc/krb5.keytab", "/var/lib/cloud/instance/user-data.txt"]
SOCKETS = ["/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/systemd/private",
           "/run/dbus/system_bus_socket", "/run/mayfly/default.sock", "/var/run/nscd/socket"]

for path in FILES + params().get("secret_paths", []):
    probe.attempt(path, lambda: os.stat(path) and "exists")
for path in SOCKETS + params().get("socket_paths", []):
    probe.attempt(path, lambda: stat.S_ISSOCK(os.stat(path).st_mode) or None)


def shadow():
    """A password hash that somebody could crack."""
    return re.search(rb":\$[0-9a-z]+\$[^:]{8,}:", read_some("/etc/shadow", 65536) or b"")


TOKEN = re.compile(rb"MFSECRET-[0-9a-f]{32}")  # the harness puts one into the daemon's and the client's environment


def environment():
    return TOKEN.search(b"\0".join(k + b"=" + v for k, v in os.environb.items()))


def own_memory():
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.read().splitlines():
            span, mode, *_ = line.split()
            if mode[0] != "r" or "[v" in line:
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            if end - start > 1 << 28:
                continue
            try:
                memory.seek(start)
                found = TOKEN.search(memory.read(end - start))
            except (OSError, ValueError, OverflowError):
                continue
            if found:
                return f"{line}: {found.group()}"


probe.attempt("shadow", shadow)
probe.attempt("environment", environment)
probe.attempt("memory", own_memory)
unknown = sorted(set(os.environ) - set(params().get("environment_allowed", os.environ)))
probe.attempt("more_environment", lambda: ", ".join(unknown) or None)
probe.done(environment=sorted(os.environ))
