"""A server that shows the built-in page with messages of the test's choice: states that a real daemon seldom has.

The page's files are the sources', the policy is the one that the real server sends.
"""

import contextlib
import http.server
import json
import pathlib
import queue
import re
import threading

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGE = TOP / "src/dashboard/page"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8"}
SECONDS_MAX = 60


def made_up():
    return json.loads((TOP / "tests/unit/dashboard_message.json").read_text())


def policy():
    """The Content-Security-Policy of src/web."""
    for source in sorted((TOP / "src/web").glob("*.cc")):
        for literals in re.findall(r'((?:"[^"\n]*"\s*)+);', source.read_text()):
            if "default-src" in literals:
                return "".join(re.findall(r'"([^"\n]*)"', literals))
    raise AssertionError("src/web has no Content-Security-Policy")


class MadeUpDaemon:
    def __init__(self, token=None):
        self.token, self.message, self.listeners, self.lock = token, made_up(), [], threading.Lock()
        self.asked = queue.Queue()  # one entry for each stream that begins
        daemon = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle(self):
                with contextlib.suppress(OSError):  # a client that went away
                    super().handle()

            def answer(self, status, kind, body):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Security-Policy", policy())
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                path = self.path.partition("?")[0]
                if path.startswith("/api/"):
                    if daemon.token and self.headers["Authorization"] != f"Bearer {daemon.token}":
                        self.answer(401, "text/plain", b"a token is needed\n")
                    elif path == "/api/v1/now":
                        self.answer(200, "application/json", json.dumps(daemon.message).encode())
                    else:
                        self.stream()
                    return
                name = "index.html" if path == "/" else path[1:]
                file = next((f for f in (PAGE / name, PAGE / "uplot" / name) if f.is_file()), None)
                self.answer(200, TYPES[file.suffix], file.read_bytes()) if file else self.answer(404, "text/plain", b"")

            def stream(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                mine = queue.Queue()
                with daemon.lock:
                    daemon.listeners.append(mine)
                    block = daemon.block("state")
                daemon.asked.put(self.headers)
                while block is not None:
                    try:
                        self.wfile.write(block)
                        self.wfile.flush()
                    except OSError:
                        break
                    block = mine.get()
                with daemon.lock:
                    daemon.listeners.remove(mine)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.place = f"127.0.0.1:{self.server.server_address[1]}"
        self.address = f"http://{self.place}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.drop()
        self.server.shutdown()
        self.thread.join(SECONDS_MAX)
        self.server.server_close()

    def block(self, kind):
        return f"event: {kind}\ndata: {json.dumps(self.message)}\n\n".encode()

    def tell(self, change=lambda message: None, kind="update"):
        """Changes the message and sends it to all listeners."""
        with self.lock:
            self.message["serial"] += 1
            change(self.message)
            for each in self.listeners:
                each.put(self.block(kind))
        return self.message["serial"]

    def drop(self):
        with self.lock:
            for each in self.listeners:
                each.put(None)
