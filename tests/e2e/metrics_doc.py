#!/usr/bin/env python3
"""Makes docs/metrics.md from the daemon's own list of metrics.

    python3 tests/e2e/metrics_doc.py > docs/metrics.md

`mayflyd --list-metrics` gives the table; test_docs.py compares.
"""

import pathlib
import subprocess

TOP = pathlib.Path(__file__).resolve().parents[2]
BIN = TOP / "build/bin"
SECONDS_MAX = 60

HEAD = """# Metrics

Every metric of `/metrics`. `python3 tests/e2e/metrics_doc.py > docs/metrics.md` makes this file, and
`tests/e2e/test_docs.py` fails if it differs from the daemon. [operations.md](operations.md) says what to look at first;
[monitoring](monitoring) has a configuration for Prometheus, rules, and dashboards for Grafana;
[0021](decisions/0021-metrics.md) says why it is built so.

The setting `http.listen` switches the server on ([settings.md](settings.md)):

```toml
[http]
listen = "127.0.0.1:9464"
```

| path | answers |
|---|---|
| `/metrics` | Prometheus' text format; figures that are at most 250 ms old, or the latest if the core thread makes none for 2 s |
| `/healthz` | 200 if the core thread has made figures within the last second or makes them now; 503 otherwise |
| `/readyz` | 200 once every template is ready or given up and tasks are taken, else 503; the text names what is not |

On loopback no token is wanted, unless `http.token_file` names one; elsewhere it is needed, as
`Authorization: Bearer TOKEN` or as the password of any user. `/healthz` and `/readyz` never want it.

- Counters start at 0 with the daemon; refusals with a rare `code` when the first one comes. Histograms are classic;
  their buckets double from 50 us to 210 s.
- `template` is one of the daemon's own templates, or `other`. `code`, `verdict`, `kind`, `method` and the like come from
  closed lists, with `other` for anything else.
- `user` and `tenant` are those of the busiest tenants (`http.tenants_max`, 20); all others count as `other`, `other`. A
  name has some 63 series. At most one place a minute changes hands, and at most 100 a day: more than the series of
  that many names no client makes, however many it invents.
- `phase`: `queue` (accepted until its turn), `claim` (until its first instruction), `start` (both), `first_byte` (from
  its first instruction to the first byte of output), `run` (to its end, or the decision to kill it), `kill` (killed
  tasks: from there to the last process reaped), `reap` (other tasks: the same), `receipt` (until nothing is left),
  `whole` (all of it). A task whose box is not proven gone counts in neither of the last two.
- `launch`: `parked` (the task found a parked clone), `stocked` (a clone was forked into a box that stood), `made` (box
  and clone were made), `none` (it never had one).
- `outcome`: `succeeded`, `failed`, `capped`, `stopped` (cancelled, client gone, daemon stopping), `unserved` (its time
  in the queue was over), `internal`.
- `reason` of a refusal: `host` (all users' bound), `user`, `tenant`, `connection` (its own bound), `quarantine`,
  `notServing` (its template), `stopping`, `request`, `unknownTemplate`, `other`.
- `reason` of a pool's size: `unused`, `minimum` (`pool.min`), `forecast`, `bursts`, `maximum` (`pool.max`), `budget`
  (`parked_max` or `parked_memory`).

"""


def document():
    listed = subprocess.run([BIN / "mayflyd", "--list-metrics"], capture_output=True, text=True, check=True,
                            timeout=SECONDS_MAX).stdout
    return HEAD + listed


if __name__ == "__main__":
    print(document(), end="")
