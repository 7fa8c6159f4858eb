"""A `python` that preloads nothing and so starts with half the work, and the installed `shell`.

For daemons of tests about processes and boxes, which need no loaded modules. The image is made once,
in a moment, and kept beside the others.
"""

import fcntl
import functools
import json
import os
import pathlib
import re
import subprocess

from support import CLI

TOP = pathlib.Path(__file__).resolve().parents[2]
BINARIES = pathlib.Path(CLI).parent
STATE_DIR = pathlib.Path(os.environ.get("MAYFLY_STATE_DIR", "/var/lib/mayfly"))
FOLDER = STATE_DIR.with_name(STATE_DIR.name + "-light")


def put(path, content):
    """Writes a file, if it differs, by a rename: a daemon of another pytest run may be reading it."""
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        new.write_bytes(content)
        new.replace(path)


@functools.cache
def light():
    """Arguments of a Daemon that serves both."""
    state, templates = FOLDER / "state", FOLDER / "templates"
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs of pytest one makes it
        for file in [*(TOP / "templates/python").iterdir(), *(TOP / "templates/shell").iterdir()]:
            content = file.read_bytes()
            if file.parent.name == "python" and file.name == "manifest.toml":
                content, count = re.subn(rb"(?ms)^preload = \[.*?^\]", b"preload = []", content)
                assert count == 1, content
            put(templates / file.parent.name / file.name, content)
        subprocess.run([CLI, "image", "build", "python", "--templates", str(templates), "--state-dir", str(state),
                        "--runtime-dir", str(BINARIES)], check=True, capture_output=True, timeout=900)
        shell = (STATE_DIR / "index/shell.json").read_bytes()
        image = state / "images" / (json.loads(shell)["digest"] + ".erofs")
        if not image.exists():
            image.hardlink_to(STATE_DIR / "images" / image.name)
        put(state / "index/shell.json", shell)
    return {"state_dir": str(state), "template_dirs": (templates,)}
