"""A real headless Chromium, driven by its own protocol over two pipes: no driver program, no port.

    with Browser(folder) as browser:
        page = browser.open("http://127.0.0.1:1234/", dark=True)
        page.wait("document.title !== ''")
        assert page.faults == []

Every wait ends with an event of the page, or fails after SECONDS_MAX.
"""

import base64
import fcntl
import json
import os
import pathlib
import select
import shutil
import subprocess
import time

SECONDS_MAX = 60
PROGRAMS = ("chromium-headless-shell", "chromium")
# In the page, before any script of its own: each violation of its policy is kept.
WATCH_POLICY = """
window.policyFaults = [];
addEventListener("securitypolicyviolation", (e) => policyFaults.push(`${e.violatedDirective}: ${e.blockedURI}`));
"""


def program():
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


def pipe():
    """A pipe whose ends have numbers that the browser's shell can spare."""
    low = os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return ends


class Browser:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.number, self.answers, self.pages, self.rest = 0, {}, {}, b""

    def __enter__(self):
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        theirs_in, self.to = pipe()
        self.out, theirs_out = pipe()
        flags = ["--remote-debugging-pipe", "--headless", f"--user-data-dir={self.folder}", "--disable-gpu", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
                 "--no-proxy-server", "--force-color-profile=srgb"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # root has no other choice; it loads pages of ours alone
        script = f'exec 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-; exec "$0" "$@"'
        with open(self.folder / "browser.log", "wb") as log:
            self.process = subprocess.Popen(["bash", "-c", script, program(), *flags, "about:blank"], pass_fds=(theirs_in, theirs_out),
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, "TMPDIR": str(self.folder)})
        os.close(theirs_in)
        os.close(theirs_out)
        return self

    def __exit__(self, *_):
        try:
            if self.process.poll() is None:
                self.send("Browser.close", {})
                self.process.wait(SECONDS_MAX)
        except (OSError, AssertionError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.to)
        os.close(self.out)

    def said(self):
        return (self.folder / "browser.log").read_text(errors="replace")[-2000:]

    def send(self, method, params, session=None):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        left = memoryview(json.dumps(message).encode() + b"\0")
        while left:
            left = left[os.write(self.to, left):]
        return self.number

    def call(self, method, params=None, session=None, seconds_max=SECONDS_MAX):
        number, deadline = self.send(method, params or {}, session), time.monotonic() + seconds_max
        while number not in self.answers:
            self.take(deadline, method)
        answer = self.answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def take(self, deadline, what):
        """Takes what has come; each message ends with a zero byte."""
        assert select.select([self.out], [], [], max(0, deadline - time.monotonic()))[0], f"{what}: no answer in time\n{self.said()}"
        more = os.read(self.out, 1 << 20)
        assert more, f"{what}: the browser has ended\n{self.said()}"
        *whole, self.rest = (self.rest + more).split(b"\0")
        for each in whole:
            message = json.loads(each)
            if "id" in message:
                self.answers[message["id"]] = message
            elif page := self.pages.get(message.get("sessionId")):
                page.event(message["method"], message["params"])

    def open(self, address, **how):
        return Page(self, address, **how)


class Page:
    def __init__(self, browser, address, width=1280, height=900, dark=False, phone=False):
        self.browser, self.faults, self.requests = browser, [], []
        target = browser.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.target = target
        self.session = browser.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        browser.pages[self.session] = self
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH_POLICY})
        self.call("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1,
                                                         "mobile": phone})
        self.look(dark)
        self.call("Page.navigate", {"url": address})

    def call(self, method, params=None):
        return self.browser.call(method, params, self.session)

    def look(self, dark):
        self.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                                                         {"name": "prefers-reduced-motion", "value": "reduce"}]})

    def event(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(params["exceptionDetails"])[:600])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.faults.append(json.dumps(params["args"])[:600])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.faults.append(f"{params['entry']['source']}: {params['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def value(self, expression):
        """The value of an expression in the page; of a promise, its outcome."""
        done = self.call("Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True})
        assert "exceptionDetails" not in done, (expression, done["exceptionDetails"])
        return done["result"].get("value")

    def wait(self, expression):
        """Until it is true; the page looks after each of its own turns, and the reason of a failure is what it shows."""
        look = f"""new Promise((done) => {{
          const until = Date.now() + {(SECONDS_MAX - 5) * 1000};
          const look = () => {{ let is = false; try {{ is = Boolean({expression}); }} catch {{}}
            if (is || Date.now() > until) done(is); else setTimeout(look, 15); }};
          look(); }})"""
        assert self.value(look), f"never true: {expression}\n{self.text()[:2000]}\n{self.faults}"
        return self

    def text(self, selector="body"):
        return self.value(f"document.querySelector({json.dumps(selector)}).innerText")

    def policy_faults(self):
        return self.value("window.policyFaults")

    def key(self, key, code=None, text=None, shift=False):
        shared = {"key": key, "code": code or key, "modifiers": 8 if shift else 0,
                  "windowsVirtualKeyCode": {"Tab": 9, "Enter": 13, " ": 32}.get(key, 0)}
        self.call("Input.dispatchKeyEvent", {"type": "keyDown", **shared, **({"text": text} if text else {})})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **shared})

    def type(self, text):
        self.call("Input.insertText", {"text": text})

    def picture(self, path, whole=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})["data"]
        path.write_bytes(base64.b64decode(data))

    def tree(self):
        """[(role, name)] of the accessibility tree, what is ignored left out."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]

    def close(self):
        self.browser.call("Target.closeTarget", {"targetId": self.target})
        del self.browser.pages[self.session]
