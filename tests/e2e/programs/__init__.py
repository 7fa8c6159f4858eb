"""Programs whose runs as tasks are compared with plain runs: each file holds many, each under a line `### name -- options`."""

import pathlib
import re

HERE = pathlib.Path(__file__).parent
HEADER = re.compile(r"^### (\w+)(?: -- (.*))?\n", re.MULTILINE)


def read(name):
    """The parts of a file: name -> (text, options)."""
    pieces = HEADER.split((HERE / name).read_text())
    parts = {}
    for at in range(1, len(pieces), 3):
        part, options, text = pieces[at : at + 3]
        assert part not in parts, f"{name}: {part} is there twice"
        # One blank line stands between two parts.
        parts[part] = text.removesuffix("\n"), dict(each.split("=", 1) for each in (options or "").split())
    return parts
