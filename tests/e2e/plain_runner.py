"""Runs the programs of row.json one after another, each as a fresh interpreter; a line of JSON for each."""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

SECONDS_MAX = 60
with open("/task/row.json") as file:
    ROW = json.load(file)


def empty(folder):
    for entry in os.scandir(folder):
        shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.remove(entry.path)


def kill_what_is_left():
    """Kills every process that the program started, like the end of a box."""
    with contextlib.suppress(OSError):
        os.kill(-1, signal.SIGKILL)  # all but this process


def prepare(case):
    for folder in ("/task", "/tmp"):
        empty(folder)
    os.mkdir("/task/out")
    script = {"file": [(case["script"], case["source"])],
              "folder": [(case["script"] + "/__main__.py", case["source"])]}.get(case["kind"], [])
    for name, content in script + case["files"]:
        os.makedirs(os.path.dirname(f"/task/{name}"), exist_ok=True)
        with open(f"/task/{name}", "wb") as file:
            file.write(base64.b64decode(content))


def read_out():
    files = {}
    for folder, _, names in os.walk("/task/out"):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as file:
                    files[os.path.relpath(path, "/task/out")] = base64.b64encode(file.read()).decode()
    return files


def run(case):
    prepare(case)
    source = base64.b64decode(case["source"])
    what = {"file": [case["script"]], "folder": [case["script"]], "module": ["-m", case["script"]], "string": ["-c", source],
            "stdin": ["-"]}[case["kind"]]
    environment = dict(os.environ) | dict(entry.split("=", 1) for entry in case["env"])
    # "python3" is the name that a task has in sys.orig_argv.
    child = subprocess.Popen(["python3", *what, *case["args"]], executable=sys.executable, cwd="/task", env=environment,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    read = {}
    threads = [threading.Thread(target=lambda name=name: read.update({name: getattr(child, name).read()}))
               for name in ("stdout", "stderr")]
    for thread in threads:
        thread.start()
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(source if case["kind"] == "stdin" else b"")
        child.stdin.close()
    try:
        code = child.wait(SECONDS_MAX)
    except subprocess.TimeoutExpired:
        code = "it did not end"
    kill_what_is_left()
    child.wait()
    for thread in threads:
        thread.join()
    return {"code": code, **{name: base64.b64encode(content).decode() for name, content in read.items()},
            "files": read_out()}


for case in ROW:
    print(json.dumps(run(case)))
