"""Compares two runs of one test file, test by test, with the listed differences and their reasons.

Pure: runs come in, findings come out.
"""

import collections
import json
import re
import tomllib

ABSENT = ("absent",)
AS_ITS_TESTS = ("as its tests",)


class Finding(collections.namedtuple("Finding", "test box plain text")):
    """A test that ended otherwise in the box, or failed on both sides.

    `test` is FILE::TEST, or FILE:: for the file's own end; `text` is the box's trace, or else the plain side's.
    """

    @property
    def shared(self):
        return self.box == self.plain

    @property
    def file(self):
        return file_of(self.test)

    def __str__(self):
        last = self.text.strip().splitlines()[-1:] or [""]
        return f"{self.test}\n    box:   {shown(self.box)}\n    plain: {shown(self.plain)}\n    {last[0]:.200}"


def shown(ends):
    return "; ".join(ends)


def file_of(test):
    return test.split("::")[0]


def full_name(file, test):
    return f"{file}::{'' if test == file else test.removeprefix('test.').removeprefix(file.removeprefix('test.') + '.')}"


def steady(text):
    """Removes text that differs between runs: addresses, process ids in names, temporary names."""
    text = re.sub(r"\b0x[0-9a-f]{6,}\b", "0x...", text)
    text = re.sub(r"test_python_\w+", "test_python_...", text)
    text = re.sub(r"@test_\d+_tmp", "@test_..._tmp", text)
    return re.sub(r"/tmp/tmp\w{8}", "/tmp/tmp...", text)


def end_of(outcome):
    """How a test ended, for comparison: a skip with its reason, a failure with its exception."""
    kind = outcome.get("kind")
    return f"{outcome['end']}: {steady(kind)}" if kind else outcome["end"]


def failed(ends):
    return any(each.startswith(("fail:", "error:", "unexpected")) for each in ends)


def file_end(file, told, end):
    """A file's own end; where it is what its tests make it, there is nothing of its own to tell."""
    own = (*told.get(file, ABSENT), end.how, f"exit {end.code}")
    bad = any(failed(ends) for test, ends in told.items() if test != file)
    return AS_ITS_TESTS if own == (("FAILED", "failed", "exit 2") if bad else ("PASSED", "succeeded", "exit 0")) else own


def ends_of(file, end):
    """A run's outcomes: each test's ends, the file's own end under the file's name; and the traces."""
    ends, texts = collections.defaultdict(list), collections.defaultdict(str)
    for line in end.files.get("outcomes", b"").decode().splitlines():
        outcome = json.loads(line)
        name = steady(outcome["test"])
        ends[name].append(end_of(outcome))
        texts[name] += outcome.get("text", "")
    # Only the output of a skipped file says why.
    ends[file] += [steady(why) for why in re.findall(rf"^{re.escape(file)} skipped -- (.*)$", end.stdout, re.M)]
    told = {name: tuple(sorted(set(each))) for name, each in ends.items() if each}
    return {**told, file: file_end(file, told, end)}, texts


class Compared:
    """Two runs of one file."""

    def __init__(self, file, box, plain):
        (ends, texts), (plain_ends, plain_texts) = ends_of(file, box), ends_of(file, plain)
        self.tests = {*ends, *plain_ends} - {file}
        # No test ran: the file is not for this machine, or needs a missing resource.
        self.skipped = bool({"SKIPPED", "RESOURCE_DENIED"}.intersection(ends[file]))
        self.findings = []
        for name in sorted({*ends, *plain_ends}):
            here, there = ends.get(name, ABSENT), plain_ends.get(name, ABSENT)
            if here != there or failed(here) or "UNCAUGHT_EXC" in here or "ENV_CHANGED" in here:
                text = texts[name] or plain_texts[name]
                self.findings.append(Finding(full_name(file, name), here, there, text))


def matches(text, pattern):
    """`*` stands for anything; nothing else is special: names of parts have brackets."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.S) is not None


class Entry:
    """Tests that end otherwise in a box because of one wall, or, without a wall, fail on both sides.

    `tests` are patterns of names; `box` is one of how they end there and `says` one of their traces, so that another
    end is still found.
    """

    def __init__(self, why, box, tests, wall=None, says="*"):
        self.wall, self.why, self.box, self.tests, self.says = wall, why, box, tests, says

    def covers(self, finding, pattern):
        return (finding.shared == (self.wall is None) and matches(finding.test, pattern)
                and matches(shown(finding.box), self.box) and matches(finding.text, self.says))


class Listed:
    """differences.toml: the known differences, and the reasons."""

    def __init__(self, text):
        read = tomllib.loads(text)
        assert set(read) <= {"difference", "shared", "left_out"}, set(read)
        assert all("wall" in each for each in read.get("difference", []))
        self.entries = [Entry(**each) for each in read.get("difference", []) + read.get("shared", [])]
        self.left_out = {each["file"]: each["why"] for each in read.get("left_out", [])}
        self.patterns = [(entry, pattern) for entry in self.entries for pattern in entry.tests]

    def not_covered(self, findings):
        return [f for f in findings if not any(entry.covers(f, pattern) for entry, pattern in self.patterns)]

    def stale(self, findings):
        """The patterns that match none of these."""
        return [pattern for entry, pattern in self.patterns if not any(entry.covers(f, pattern) for f in findings)]


def walls_of(specification):
    """The second column of the specification's table of walls: the first one numbers them."""
    section = specification.split("\n## What a program meets in a box (P13)\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {row[1].strip() for row in rows[2:]}
