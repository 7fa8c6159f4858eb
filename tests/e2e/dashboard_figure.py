#!/usr/bin/env python3
"""Makes docs/figures/dashboard.png: the page of a real daemon under a load of several tenants.

    ./dev with-daemon python3 tests/e2e/dashboard_figure.py
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

from browser import Browser

TOP = pathlib.Path(__file__).resolve().parents[2]
FIGURE = TOP / "docs/figures/dashboard.png"
WIDTH, HEIGHT = 1280, 1340
RATE, SECONDS = 8, 70  # of load: the charts then have a minute
MIX = """
[[task]]
name = "small"
tenant = "web"
weight = 12
code = "print(6*7)"

[[task]]
name = "agent"
tenant = "agents"
weight = 4
code = "import json, time; time.sleep(0.02); print(json.dumps(dict(done=True)))"

[[task]]
name = "shell"
tenant = "ci"
template = "shell"
weight = 3
command = ["sh", "-c", "seq 2000 | sort -r | tail -n 1"]

[[task]]
name = "wrong"
tenant = "agents"
weight = 1
code = "raise SystemExit(1)"

[[task]]
name = "greedy"
tenant = "agents"
weight = 1
code = "x = 'x' * 10**9"
limits = { memory = "48MiB" }
"""


def ended():
    with urllib.request.urlopen(os.environ["MAYFLY_HTTP"] + "api/v1/now?rows=0") as answer:
        return json.load(answer)["tasks"]["ended"]


def main():
    with tempfile.TemporaryDirectory() as folder, Browser(folder) as browser:
        mix = pathlib.Path(folder) / "mix.toml"
        mix.write_text(MIX)
        load = subprocess.Popen(["mayfly", "bench", "run", "--mix", mix, "--rate", str(RATE), "--time", f"{SECONDS}s", "--rounds", "1",
                                 "--warm-up", "2s", "--seed", "1", "--out", f"{folder}/report"], stdout=subprocess.DEVNULL)
        try:
            page = browser.open(os.environ["MAYFLY_HTTP"], width=WIDTH, height=HEIGHT)
            page.wait("document.querySelectorAll('.plot canvas').length === 5")
            while ended() < RATE * (SECONDS - 8):
                assert load.poll() is None, "the load is over"
                serial = page.value("document.documentElement.dataset.serial")
                page.wait(f"document.documentElement.dataset.serial !== '{serial}'")
            page.wait("/Running\\s+[1-9]/.test(document.getElementById('tiles').innerText)")
            page.picture(FIGURE, whole=False)
            assert page.faults == [] and page.policy_faults() == [], (page.faults, page.policy_faults())
        finally:
            if load.poll() is None:
                load.kill()
            load.wait()


if __name__ == "__main__":
    sys.exit(main())
