#!/usr/bin/env python3
"""Makes docs/figures/dashboard.png: the page of a real daemon under a load of several tenants.

    ./dev with-daemon python3 tests/e2e/dashboard_figure.py
"""

import os
import pathlib
import subprocess
import sys
import tempfile

from browser import Browser

TOP = pathlib.Path(__file__).resolve().parents[2]
FIGURE = TOP / "docs/figures/dashboard.png"
WIDTH, HEIGHT = 1024, 1082
SECONDS = 75  # of load; the charts then have more than a minute
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


def main():
    with tempfile.TemporaryDirectory() as folder, Browser(folder) as browser:
        mix = pathlib.Path(folder) / "mix.toml"
        mix.write_text(MIX)
        load = subprocess.Popen(["mayfly", "bench", "run", "--mix", mix, "--rate", "8", "--time", f"{SECONDS}s", "--rounds", "1",
                                 "--warm-up", "2s", "--seed", "1", "--out", f"{folder}/report"], stdout=subprocess.DEVNULL)
        try:
            page = browser.open(os.environ["MAYFLY_HTTP"], width=WIDTH, height=HEIGHT)
            page.wait("Number(document.documentElement.dataset.serial) > 0")
            load.wait(3 * SECONDS)
            page.wait("document.querySelectorAll('.plot canvas').length === 5")
            page.picture(FIGURE, whole=False)
            assert page.faults == [] and page.policy_faults() == [], (page.faults, page.policy_faults())
        finally:
            if load.poll() is None:
                load.kill()
            load.wait()


if __name__ == "__main__":
    sys.exit(main())
