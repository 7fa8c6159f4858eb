"""Parts that need no broker and no RPC: tests/e2e uses them, too."""
import ctypes
import glob
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import time

PASSWORD = "CANARY-pg'pass\\word 1"


def await_true(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def memory_holds(pid, needles):
    found = set()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            place, mode = line.split()[:2]
            if "r" not in mode or line.rstrip().endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(x, 16) for x in place.split("-"))
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue
            found |= {n for n in needles if n in data}
    return found


# pidfd_open and pidfd_getfd: Python 3.11 knows the first alone.
_syscall = ctypes.CDLL(None, use_errno=True).syscall
PIDFD_GETFD = 438


def links_of(pid):
    """Copies of the process's ends of unix socket pairs, by their types. To shut one down breaks the process's own."""
    found = {socket.SOCK_STREAM: [], socket.SOCK_SEQPACKET: []}
    process = os.pidfd_open(pid)
    for number in sorted(int(name) for name in os.listdir(f"/proc/{pid}/fd") if int(name) > 2):
        copy = _syscall(PIDFD_GETFD, process, number, 0)
        if copy < 0:
            continue  # closed meanwhile
        try:
            end = socket.socket(fileno=copy)
            if end.family == socket.AF_UNIX and not end.getsockname() and not end.getpeername() and end.type in found:
                found[end.type].append(end)
        except OSError:  # no socket, or one that listens
            pass
    os.close(process)
    return found


class Postgres:
    """A server of this test's own, with TLS, run by an unprivileged user."""

    def __init__(self, folder, certificates):
        self.folder = folder
        self.programs = pathlib.Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        user = pwd.getpwnam("postgres")
        data = folder / "data"
        key = folder / "key.pem"
        shutil.copy(certificates.key, key)
        key.chmod(0o600)
        shutil.copy(certificates.chain, folder / "chain.pem")
        (folder / "password").write_text(PASSWORD)
        for each in (folder, *folder.iterdir()):
            shutil.chown(each, user.pw_uid, user.pw_gid)
        self.run(self.programs / "initdb", "-D", data, "-A", "scram-sha-256", "-U", "boss", "--pwfile", folder / "password",
                 "-E", "UTF8", "--no-sync", "--locale=C.UTF-8")
        (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\nlocal all boss trust\n")
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "ssl": "on", "ssl_cert_file": folder / "chain.pem",
                   "ssl_key_file": key, "unix_socket_directories": folder, "fsync": "off", "max_connections": 30}
        self.process = subprocess.Popen(
            ["runuser", "-u", "postgres", "--", self.programs / "postgres", "-D", data]
            + [f"-c{name}={value}" for name, value in options.items()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(folder / "log", "wb"))
        await_true(lambda: self.sql("select 1", check=False) == "1", 60)
        self.sql(f"""
            create role reader login password '{PASSWORD.replace("'", "''")}';
            create table orders(id int8, tenant text, total numeric(10,2), tags text[], data jsonb, at timestamptz, raw bytea);
            insert into orders select i, case when i % 2 = 0 then 'red' else 'blue' end, i + 0.10, array['a', null, 'b"c'],
              '{{"k": [1, null]}}', '2026-01-02 03:04:05+00', '\\x0001' from generate_series(1, 100) i;
            create table log(text text unique);
            grant select on orders to reader; grant select, insert on log to reader;""")

    def run(self, *words):
        subprocess.run(["runuser", "-u", "postgres", "--", *map(str, words)], check=True, capture_output=True,
                       stdin=subprocess.DEVNULL)

    def sql(self, text, check=True):
        done = subprocess.run(["psql", "-X", "-q", "-A", "-t", "-h", self.folder, "-p", str(self.port), "-U", "boss", "-d", "postgres",
                               "-v", "ON_ERROR_STOP=1", "-c", text], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def stop(self):
        subprocess.run(["runuser", "-u", "postgres", "--", self.programs / "pg_ctl", "-D", self.folder / "data", "-m", "immediate",
                        "stop"], capture_output=True)
        self.process.wait(30)
