#!/usr/bin/env python3
"""Makes docs/settings.md from the programs' own lists and help.

    python3 tests/e2e/settings_doc.py > docs/settings.md

`mayflyd --list-settings` gives the tables of keys, the programs' help the flags. This file lists the variables;
test_docs.py compares them with the sources.
"""

import os
import pathlib
import re
import subprocess

TOP = pathlib.Path(__file__).resolve().parents[2]
BIN = TOP / "build/bin"
SECONDS_MAX = 60

VARIABLES = {
    "MAYFLY_SOCKET": ("`mayfly`, the clients, the benchmarks", "the daemon's socket, if none is named"),
    "MAYFLY_HTTP": ("`mayfly top`", "the daemon's HTTP address, if none is named"),
    "NO_COLOR": ("`mayfly top`", "if it is set: no colours"),
    "TERM": ("`mayfly top`", "the terminal; `dumb` or none: no colours"),
    "MAYFLY_STATE_DIR": ("`mayfly image`, `mayfly template`, `mayfly snapshot`, `mayfly bench ladder`", "the folder of the images, if `--state-dir` is not given"),
    "NOTIFY_SOCKET": ("`mayflyd`", "the service manager's socket (sd_notify), which is told when the daemon serves"),
    "CREDENTIALS_DIRECTORY": ("`mayflyd`", "systemd's folder of the service's credentials, for the broker's secrets"),
    "TMPDIR": ("`mayfly run --file`", "the folder in which a piped file waits for its upload; else `/tmp`"),
    "http_proxy": ("`mayfly image`, `mayfly template`", "proxies of apt, pip and npm; so are `https_proxy`, "
                   "`all_proxy`, `no_proxy` and the same in capitals"),
    "HOME": ("`mayfly template build`", "the folder of pip's and npm's own settings"),
    "PIP_CONFIG_FILE": ("`mayfly template build`", "a further file of pip's settings"),
    "PIP_*": ("`mayfly template build`", "pip's `index-url`, `extra-index-url`, `find-links`, `no-index`, "
              "`trusted-host`, `cert`, `client-cert`, `proxy`, `timeout`, `retries`"),
    "PIP_DEFAULT_TIMEOUT": ("`mayfly template build`", "pip's `timeout`, by its older name"),
    "NPM_CONFIG_USERCONFIG": ("`mayfly template build`", "npm's settings instead of `~/.npmrc`"),
    "npm_config_*": ("`mayfly template build`", "npm's `registry`, `proxy`, `https_proxy`, `noproxy`, `strict_ssl`; "
                     "in capitals too"),
    "NODE_EXTRA_CA_CERTS": ("`mayfly template build`", "npm's certificates, if no `cafile` is set"),
}

# Each program, with the words before `--help`.
PROGRAMS = [
    ("mayflyd", []), ("mayfly", []),
    *(("mayfly", verb.split()) for verb in (
        "run", "task list", "task info", "task wait", "task cancel", "task close", "blob list", "blob remove", "ps",
        "kill", "templates", "top", "doctor", "image",
        "template init", "template build", "template check", "pool replay", "bench run", "bench sweep",
        "bench ladder", "bench isolation", "bench diff", "plan", "plan calibrate", "trace record", "broker check",
        "broker try", "version", "snapshot build", "snapshot refresh", "snapshot trial", "snapshot list", "snapshot check", "snapshot remove")),
]

HEAD = """# Settings

Every key, variable and flag. `python3 tests/e2e/settings_doc.py > docs/settings.md` makes this file, and
`tests/e2e/test_docs.py` fails if it differs from the programs. [SPECIFICATION.md](SPECIFICATION.md) says what each
cap does; [host.md](host.md), how to set up a host.

Sizes are written `"512MiB"`, `"64m"`, `"10MB"` or a number of bytes (K, M, G, T and KiB, MiB... count by 1024; kB, MB,
GB, TB by 1000); times `"250ms"`, `"30s"`, `"1.5m"`, `"2h"`; cores `0.5` or `2`. Capitals do not matter, except where a
unit would be ambiguous (`64Mb`, `5M` as a time), which is refused. An unknown key, a wrong type or a value out of
bounds is an error that names file, line and key.
"""


def help_of(program, words):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAYFLY_")}
    done = subprocess.run([BIN / program, *words, "--help"], capture_output=True, text=True, timeout=SECONDS_MAX,
                          check=True, env=environment)  # without a variable's value as a flag's default
    return done.stdout


def flags(text):
    """[(flag with its value, meaning)] of a help text, `--help` left out."""
    found, open_ = [], False
    for line in text.splitlines():
        line = re.sub(r" Excludes: \S+", lambda match: " " * len(match[0]), line)
        at = re.match(r"  ((?:-\w,)?--[a-z].*?)(?:  +(.*))?$", line)
        if at and not at[2] and line[27:28] == " ":  # a flag that fills its column
            found.append([line[2:27], line[28:]])
            open_ = True
        elif at:
            found.append([at[1], at[2] or ""])  # or the meaning has a line of its own
            open_ = True
        elif open_ and re.match(r" {8,}\S", line):
            found[-1][1] = (found[-1][1] + " " + line.strip()).strip()
        else:
            open_ = False
    return [(words, about) for words, about in found if not words.startswith(("-h,--help", "--help"))]


def document():
    daemon, manifest = subprocess.run([BIN / "mayflyd", "--list-settings"], capture_output=True, text=True,
                                      timeout=SECONDS_MAX, check=True).stdout.strip().split("\n\n")
    out = [HEAD, "## The daemon's file\n", "TOML, named by `mayflyd --config`. The file is optional.\n", daemon, "",
           "## A template's manifest\n",
           "`manifest.toml`; [templates.md](templates.md) explains each key. If the template has a base, a missing key "
           "takes the\nbase's value.\n", manifest, "", "## Variables\n", "| name | read by | meaning |",
           "|---|---|---|"]
    out += [f"| `{name}` | {who} | {meaning} |" for name, (who, meaning) in VARIABLES.items()]
    out += ["", "## Flags\n"]
    for program, words in PROGRAMS:
        table = flags(help_of(program, words))
        if table:
            out += [f"### {' '.join([program, *words])}\n", "| flag | meaning |", "|---|---|"]
            out += [f"| `{flag}` | {about} |" for flag, about in table]
            out.append("")
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    print(document(), end="")
