"""CPython's own suite, each test file in a box and in a plain interpreter of the same image, compared test by test.

Each test that ends otherwise in a box is listed in differences.toml with a wall that docs/SPECIFICATION.md names.
Each that fails on both sides is listed with its reason: it proves nothing of a box. What is listed must be so. A
file that does not agree with the list runs anew, three times in all: a test that ends now in one way and now in
another is counted as unsteady. The report is build/fidelity.json.
"""

import collections
import concurrent.futures
import json
import os
import time

import pytest

import compare
import sides

SECONDS_MAX = 600     # of a file; regrtest then prints every thread's stack and exits
AT_ONCE = 2           # files times sides
TRIES_MAX = 3         # of a file
FILES_MIN, TESTS_MIN = 470, 44000
PROGRAM = sides.HERE / "suite_file.py"
SPECIFICATION = sides.TOP / "docs/SPECIFICATION.md"
REPORT = sides.TOP / "build/fidelity.json"
LISTED = compare.Listed((sides.HERE / "differences.toml").read_text())
# A subset of the files, by name, for work on one of them.
ONLY = os.environ.get("MAYFLY_FIDELITY_FILES", "").split()

pytestmark = pytest.mark.timeout(3 * 3600)


class Runs:
    """Both sides' runs of each file, and their comparison."""

    def __init__(self, both_sides):
        self.both_sides = both_sides
        self.tries = collections.defaultdict(list)   # file: the comparison of each try
        self.seconds = collections.defaultdict(dict)

    def run(self, files):
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            ends = {file: [pool.submit(self.timed, side, file) for side in self.both_sides] for file in files}
            for file in files:
                compared = compare.Compared(file, *(end.result() for end in ends.pop(file)))
                self.tries[file].append(compared)
                print(f"{file}: {len(compared.tests)} tests, {len(compared.findings)} findings", flush=True)

    def timed(self, side, file):
        began = time.monotonic()
        end = side.run(PROGRAM, file, str(SECONDS_MAX))
        self.seconds[file][side.name] = round(time.monotonic() - began, 1)
        return end

    def lasting(self):
        """The findings of each try of a file."""
        always = [set.intersection(*({f.test for f in each.findings} for each in tries)) for tries in self.tries.values()]
        always = set().union(*always)
        return [f for tries in self.tries.values() for f in tries[-1].findings if f.test in always]

    def ever(self):
        return [f for tries in self.tries.values() for each in tries for f in each.findings]

    def not_listed(self):
        return LISTED.not_covered(self.lasting())

    def stale(self):
        """Listed differences of the files that ran which no try found."""
        return [test for test in LISTED.stale(self.ever()) if compare.file_of(test) in self.tries]

    def to_run_again(self):
        return sorted({f.file for f in self.not_listed()} | {compare.file_of(test) for test in self.stale()})

    def report(self):
        lasting, not_listed = self.lasting(), self.not_listed()
        differing, left = ([f for f in some if not f.shared] for some in (lasting, not_listed))
        tests = sum(len(tries[-1].tests) for tries in self.tries.values())
        return {"files": len(self.tries), "tests": tests, "same": tests - len(differing),
                "explained": len(differing) - len(left), "unexplained": len(left),
                "failing on both sides": len(lasting) - len(differing),
                "unsteady": sorted({f.test for f in self.ever()} - {f.test for f in lasting}),
                "not listed": [f._asdict() for f in not_listed], "stale": self.stale(),
                "left out": LISTED.left_out, "seconds": self.seconds}


@pytest.fixture(scope="module")
def runs(both_sides):
    lists = [side.run(PROGRAM, "--list").stdout.split() for side in both_sides]
    assert lists[0] == lists[1], "the box has another suite than the plain side"
    runs = Runs(both_sides)
    files = [file for file in lists[0] if file not in LISTED.left_out and (not ONLY or file in ONLY)]
    for _ in range(TRIES_MAX):
        runs.run(files)
        files = runs.to_run_again()
    report = runs.report()
    REPORT.write_text(json.dumps(report, indent=1) + "\n")
    print(*(f"{report[key]} {key}" for key in list(report)[:6]), sep=", ")
    return runs


def test_each_test_ends_as_in_a_plain_interpreter_or_is_listed(runs):
    found = runs.not_listed()
    assert not found, f"{len(found)} are not listed:\n" + "\n".join(map(str, found[:50]))


def test_what_is_listed_is_so(runs):
    assert not runs.stale(), "listed, and not so any more:\n" + "\n".join(runs.stale())


@pytest.mark.skipif(bool(ONLY), reason="MAYFLY_FIDELITY_FILES: only a part of the files runs")
def test_the_whole_suite_ran(runs):
    report = runs.report()
    assert report["files"] >= FILES_MIN and report["tests"] >= TESTS_MIN, report
    silent = [file for file, tries in runs.tries.items() if not tries[-1].tests and not tries[-1].skipped]
    assert not silent, f"not one test of these told how it ended: {silent}"


def test_every_wall_is_named_in_the_specification():
    unknown = {entry.wall for entry in LISTED.entries if entry.wall} - compare.walls_of(SPECIFICATION.read_text())
    assert not unknown, unknown


# A test file that the box cannot end as the plain side does: each kind of end, differing and not.
PLANTED = """
import os, sys, unittest

BOXED = not open('/proc/1/comm').read().startswith('bwrap')

class Planted(unittest.TestCase):
    def test_same(self):
        self.assertEqual(os.getuid(), 1000)
    def test_same_failure(self):
        os.mkdir('/proc/new')
    def test_failure(self):
        self.assertFalse(BOXED)
    def test_error(self):
        raise (OSError if BOXED else ValueError)
    def test_skip(self):
        self.skipTest('in a box' if BOXED else 'not in a box')
    def test_part(self):
        for i in range(3):
            with self.subTest(i=i):
                self.assertFalse(BOXED and i == 1)
    @unittest.skipIf(BOXED, 'only here')
    def test_skipped(self):
        pass

if BOXED:
    def test_absent(self): pass
    Planted.test_absent = test_absent
"""


def test_a_planted_difference_is_found(both_sides, tmp_path):
    program = tmp_path / "planted.py"
    program.write_text(f"open('/tmp/test_planted.py', 'w').write({PLANTED!r})\n" + PROGRAM.read_text())
    box, plain = (side.run(program, "test_planted", "60", "/tmp") for side in both_sides)
    found = {f.test: f for f in compare.Compared("test_planted", box, plain).findings}
    assert set(found) == {f"test_planted::Planted.test_{name}" for name in
                          ("failure", "error", "skip", "part (i=1)", "part", "skipped", "absent", "same_failure")}, found
    assert [test for test, f in found.items() if f.shared] == ["test_planted::Planted.test_same_failure"]
    assert compare.shown(found["test_planted::Planted.test_absent"].plain) == "absent"
    assert compare.shown(found["test_planted::Planted.test_error"].box) == "error: OSError"

    listed = compare.Listed("""
[[difference]]
wall = "some wall"
why = "for the test"
box = "error: OSError"
tests = ["test_planted::Planted.test_error", "test_planted::Planted.test_same", "test_planted::Planted.test_failure"]

[[shared]]
why = "another trace"
box = "*"
says = "*read-only*"
tests = ["test_planted::Planted.test_same_failure"]
""")
    assert {f.test for f in listed.not_covered(found.values())} == set(found) - {"test_planted::Planted.test_error"}
    assert listed.stale(found.values()) == [
        "test_planted::Planted.test_same", "test_planted::Planted.test_failure",
        "test_planted::Planted.test_same_failure"], "no difference, another end, another trace"
