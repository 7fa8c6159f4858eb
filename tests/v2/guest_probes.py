# The hostile probes of tests/escape and the leak test, unchanged, on this host.
import re
import subprocess

from guest_daemon import MAYFLY, environment

TESTS = "/share/repo/tests"
SECONDS_MAX = 1200
WALLS_SHORT = ["cgroup_files", "core_dump", "mountinfo", "priority"]
BOMBS_SHORT = ["fork", "memory", "memory_of_children", "disk", "output"]
LEAK_TASKS = 60  # three of each kind: v2 adds the exact count of dying cgroups


def test_environment(**more):
    return {**environment(), "MAYFLY_CLI": MAYFLY, "MAYFLY_TEST_SLOWNESS": "4", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(TESTS), **more}


def pytest(walls, bombs):
    """Runs these probes, in one pytest: its start alone takes seconds here. Every one of them must have passed."""
    names = [f"test_walls.py::test_nothing_is_reached[{wall}]" for wall in walls] + \
        [f"test_bombs.py::test_bomb_costs_one_task[{bomb}]" for bomb in bombs]
    done = subprocess.run(
        ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", "--tb=short",
         *[f"{TESTS}/escape/{name}" for name in names]],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS_MAX,
        cwd="/run", env=test_environment())
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed and int(passed.group(1)) == len(names), done.stdout[-6000:]
    return f"{passed.group(1)} probes"


def cases():
    """Names of all walls and bombs, from the table of the escape tests."""
    said = subprocess.run(
        ["python3", "-c", f"import sys; sys.path.insert(0, '{TESTS}/escape'); import cases\n"
         "print(*[w.probe for w in cases.WALLS])\nprint(*[b.kind for b in cases.BOMBS])"],
        capture_output=True, text=True, check=True, env=test_environment()).stdout
    walls, bombs = said.splitlines()
    return walls.split(), bombs.split()


def probes_of_cgroups_and_dumps_reach_nothing_and_bombs_end_by_their_caps():
    return pytest(WALLS_SHORT, BOMBS_SHORT)


def every_probe_reaches_nothing_and_every_bomb_ends_by_its_cap():
    return pytest(*cases())


def mixed_tasks_leave_nothing():
    done = subprocess.run(["python3", f"{TESTS}/e2e/test_leaks.py"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=SECONDS_MAX, cwd="/run",
                          env=test_environment(MAYFLY_LEAK_TASKS=str(LEAK_TASKS)))
    assert done.returncode == 0 and "\nOK\n" in done.stdout, done.stdout[-6000:]
    return re.search(r"\d+ mixed tasks in [\d.]+ s", done.stdout).group(0)
