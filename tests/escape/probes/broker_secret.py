"""Looks for a secret that the broker holds, and for what the broker could be led to: broker_secret.py box|control.

The secret begins with a known mark and goes on with 32 hexadecimal digits, which the probe does not know. The control runs
beside a door that gives everything away, with the secret in its environment.
"""
import base64
import http.client
import os
import re
import socket
import sys
import threading
import urllib.parse

from escapekit import Probe, params

TOLD = params()
MARK = "".join(TOLD["mark"])  # in two parts, so that this file's own text is no find
FORM = re.compile(re.escape(MARK.encode()) + rb"[0-9a-f]{32}")
METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "[fd00:ec2::254]", "metadata.google.internal")
role = sys.argv[1] if len(sys.argv) > 1 else "box"


def readings(data):
    """The bytes, and what they become if they are decoded."""
    yield data
    yield urllib.parse.unquote_to_bytes(data)
    yield data.replace(b"\\", b"")
    for word in re.findall(rb"[A-Za-z0-9+/_=-]{16,}", data):
        for start in range(4):
            cut = word[start:].rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
            cut = cut[:len(cut) - (len(cut) % 4 == 1)]
            yield base64.b64decode(cut + b"=" * (-len(cut) % 4))
        if re.fullmatch(rb"[0-9a-fA-F]+", word):
            yield bytes.fromhex(word[:len(word) // 2 * 2].decode())


def found_in(data):
    return next((match[0][:len(MARK)] for each in readings(data) if (match := FORM.search(each))), None)


def environments():
    for pid in ["self", *filter(str.isdigit, os.listdir("/proc"))]:
        for name in ("environ", "cmdline"):
            try:
                with open(f"/proc/{pid}/{name}", "rb") as f:
                    if found := found_in(f.read()):
                        return f"{name} of {pid}: {found}"
            except OSError:
                continue
    return None


def memory():
    """All that this process can read of itself: whatever reached it."""
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as mem:
        for line in maps.read().splitlines():
            place, mode = line.split()[:2]
            if "r" not in mode or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(x, 16) for x in place.split("-"))
            try:
                mem.seek(start)
                if match := FORM.search(mem.read(end - start)):
                    return match[0][:len(MARK)]
            except (OSError, OverflowError, ValueError):
                continue
    return None


class Answer:
    def __init__(self, raw):
        head, _, self.body = raw.partition(b"\r\n\r\n")
        self.status = int(head.split(b" ")[1]) if head.startswith(b"HTTP/") else 0
        self.raw = raw


def ask(request, local=False):
    """One request as its bytes; the answer's bytes."""
    s = socket.socket(socket.AF_UNIX if local else socket.AF_INET)
    s.settimeout(20)
    s.connect("/run/broker.sock" if local else ("127.0.0.1", 80))
    s.sendall(request)
    raw = b""
    try:
        while len(raw) < 1 << 20 and (more := s.recv(65536)):
            raw += more
            if request.startswith(b"CONNECT") and b"\r\n\r\n" in raw:
                break
    except OSError:
        pass
    s.close()
    return Answer(raw)


def line(method, target, fields="", body=""):
    return (f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{fields}"
            f"\r\n{body}").encode()


def told(request):
    """What the broker says, whatever it is."""
    for local in (False, True) if role == "box" else (False,):
        answer = ask(request, local)
        if not answer.raw:
            raise OSError("no answer")
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        if found := found_in(answer.raw):
            return f"{answer.status}: {found}"
    return None


def allowed(request):
    answer = ask(request)
    return f"{answer.status}" if answer.status in range(200, 400) else None


def direct(address):
    host = address.strip("[]")
    with socket.create_connection((host, 80), timeout=3):
        return f"connected to {host}"


def read(path):
    with open(path, "rb") as f:
        return f.read(64) or b"empty"


def listed(path):
    return os.listdir(path)


def serve():
    """The control's door: it answers everything with the secret, and lets everything through."""
    import ctypes
    import fcntl
    import struct
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh22x", b"lo", 1 | 64))
    libc = ctypes.CDLL(None)
    for address in ("169.254.169.254", "127.0.0.1"):
        libc.system(f"ip address add {address}/32 dev lo 2>/dev/null".encode())
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", 80))
    listener.listen(16)
    secret = os.environ["LEAKED"].encode()
    forms = [secret, base64.b64encode(b"user:" + secret), secret.hex().encode(),
             urllib.parse.quote(secret).replace("-", "%2D").encode()]

    def answer(count):
        while True:
            s, _ = listener.accept()
            s.recv(65536)
            body = forms[count % len(forms)]
            count += 1
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            s.close()
    threading.Thread(target=answer, args=(0,), daemon=True).start()


probe = Probe(f"broker_secret/{role}")
statuses = {}
if role == "control":
    serve()
REQUESTS = {
    "what_it_has": line("GET", "/"),
    "tools": line("GET", "/tools"),
    "echoed": line("GET", "/cap/echo/any?a=b", "X-Own: 1\r\n"),
    "echoed_ranges": line("GET", "/cap/echo/any", "Range: bytes=0-40\r\n"),
    "echoed_compressed": line("GET", "/cap/echo/gzip", "Accept-Encoding: gzip\r\n"),
    "redirected": line("GET", "/cap/echo/redirect"),
    "headed": line("HEAD", "/cap/echo/any"),
    "failed": line("GET", "/cap/echo/close"),
    "refused_method": line("DELETE", "/cap/echo/any"),
    "refused_path": line("GET", "/cap/echo/%2e%2e/x"),
    "no_such_action": line("GET", "/cap/nothing/x"),
    "no_such_statement": line("POST", "/sql/nothing", "", "{}"),
    "down": line("GET", "/cap/down/x"),
    "not_http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "large": line("GET", "/" + "x" * 9000),
    "trace": line("TRACE", "/cap/echo/any"),
    "minted": line("POST", "/mint/ticket"),
}
for label, request in REQUESTS.items():
    probe.attempt(label, told, request)
for address in METADATA:
    authority = address if ":" not in address else address
    probe.attempt(f"connect_{address}", allowed, f"CONNECT {authority}:443 HTTP/1.1\r\nHost: {authority}:443\r\n\r\n".encode())
    probe.attempt(f"proxied_{address}", allowed,
                  f"GET http://{authority}/latest/meta-data/ HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode())
    probe.attempt(f"direct_{address}", direct, address)
for action in TOLD.get("metadata_actions", ()):
    probe.attempt(f"action_{action}", allowed, line("GET", f"/cap/{action}/latest/meta-data/"))
for target in ("http://user:pw@169.254.169.254/", "http://169.254.169.254:80/", "http://0xa9fea9fe/", "http://2852039166/",
               "http://[::ffff:169.254.169.254]/", "http://169.254.169.254.nip.io/", "http://localhost:22/", "file:///etc/passwd",
               "gopher://169.254.169.254/", "/cap/echo/..%2f..%2fmeta/x", "/cap/echo//169.254.169.254/", "/cap/%65cho/any"):
    if role == "box":
        probe.attempt(f"target_{target}", allowed, line("GET", target).replace(b"Host: 127.0.0.1", b"Host: 169.254.169.254"))
for path in TOLD["paths"]:
    probe.attempt(f"file_{path}", listed if os.path.isdir(path) else read, path)
probe.attempt("environments", environments)
probe.attempt("memory", memory)
probe.done(statuses={str(k): v for k, v in statuses.items()})
