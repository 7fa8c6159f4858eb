"""Real TLS upstreams with a CA of their own."""
import http.server
import socket
import ssl
import subprocess
import threading

NAMES = ["api.test", "other.test", "two.test", "db.test"]


class Certificates:
    def __init__(self, folder):
        self.ca, self.key, self.chain = folder / "ca.pem", folder / "key.pem", folder / "chain.pem"
        ca_key, request, names = folder / "ca.key", folder / "request", folder / "names"
        names.write_text("subjectAltName=" + ",".join(f"DNS:{n}" for n in NAMES))

        def openssl(*words):
            subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        openssl("req", "-x509", *curve, "-keyout", ca_key, "-out", self.ca, "-subj", "/CN=Test CA", "-days", "2",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        openssl("req", *curve, "-keyout", self.key, "-out", request, "-subj", "/CN=api.test")
        openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-CAcreateserial",
                "-extfile", names, "-out", self.chain, "-days", "2")

    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


class Upstream:
    """`answer(request)` writes the answer: a BaseHTTPRequestHandler with `body`. Requests are kept."""

    def __init__(self, certificates, answer, address="127.0.0.1", port=0, tls=True):
        self.requests, self.connections = [], 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self):
                self.body = b""
                if "chunked" in self.headers.get("transfer-encoding", ""):
                    while size := int(self.rfile.readline(), 16):
                        self.body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                elif length := int(self.headers.get("content-length", 0)):
                    self.body = self.rfile.read(length)
                outer.requests.append(self)
                answer(self)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_one

            def reply(self, status=200, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self):
                sock, peer = super().get_request()
                outer.connections += 1
                if tls:
                    sock = certificates.context().wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                return sock, peer

            def handle_error(self, *_):
                pass

        self.server = Server((address, port), Handler)
        self.server.address_family = socket.AF_INET
        self.port = self.server.server_address[1]

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
