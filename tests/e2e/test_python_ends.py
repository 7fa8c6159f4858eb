"""A Python task ends as the interpreter ends it.

A table of programs runs as tasks and plain (`plain.py`): standard output and error, exit
code or signal, and the files in /task/out are equal, addresses aside. The table is made of
the ways to end (`programs/exits.py`), who holds data (`programs/holders.py`) and how it was
written (`programs/streams.py`), and of whole programs (`programs/ends.py`).

Two things differ and are no faults. Lines on a task's standard output are seen live, where
plain keeps a block: a program that ends without the interpreter's end loses less as a task,
so such programs here leave no whole line. And what is preloaded has its own end (threading's,
logging's), also where the program did not import it: programs that break it import it.
"""

import dataclasses
import textwrap

import pytest

import plain
import programs

EXITS, HOLDERS, STREAMS, WHOLE = (programs.read(f"{name}.py") for name in ("exits", "holders", "streams", "ends"))
BESIDE = (("beside.py", b"import sys\ndef who_calls():\n    return sys._getframe(1).f_code.co_name, __name__\n"),)

# A full product has a million programs. Each part is combined with those that matter for it.
HOLDERS_OF_EXITS = ("global", "local")
EXITS_OF_HOLDERS = ("end", "raise")
ENDS_OF_STREAMS = (("end", "global"), ("raise", "local"), ("os_exit", "list_in_a_cycle"))


def product(exit, holder, stream):
    """A program: `stream` is written, held by `holder`, and then `exit` happens."""
    lines = ["def data():", textwrap.indent(STREAMS[stream][0], "    "), ""]
    for line in HOLDERS[holder][0].splitlines():
        body = line.lstrip()
        lines.append(textwrap.indent(EXITS[exit][0].rstrip("\n"), line[: len(line) - len(body)]) if body == "END" else line)
    return plain.Case(f"{exit}-{holder}-{stream}", "\n".join(lines + [""]).encode(), files=BESIDE)


def whole(name, text, options):
    return plain.Case(name, text.encode(), options.get("kind", "file"), files=BESIDE if "beside" in options else (),
                      env=(options["env"],) if "env" in options else ())


def table():
    triples = [(exit, holder, "text") for exit in EXITS for holder in HOLDERS_OF_EXITS]
    triples += [(exit, holder, "text") for holder in HOLDERS for exit in EXITS_OF_HOLDERS]
    triples += [(exit, holder, stream) for stream in STREAMS for exit, holder in ENDS_OF_STREAMS]
    return [product(*each) for each in dict.fromkeys(triples)] + [whole(name, *part) for name, part in WHOLE.items()]


TABLE = table()


@pytest.fixture(scope="module")
def results(mayfly, request, tmp_path_factory):
    return plain.run_both(mayfly, plain.selected(request, "case"), tmp_path_factory.mktemp("ends"))


# Cases in which the interpreter never finalizes a buffer's holder: threads that never run again, leaked references.
# Plain Python loses the buffer; a task may keep it, and everything else is equal.
LOST_BY_PLAIN = {"daemon_thread", "timer_thread", "reference_never_given_back", "sqlite_function", "daemon_thread_is_busy",
                 "daemon_thread_holds_stdout", "excepthook_exits", "finalized_by_hand"}


def runs_always(case):
    """A quarter of the product is enough for every change; `./dev check` runs all."""
    exit, _, rest = case.name.partition("-")
    return not rest or rest == "local-text" or exit == "raise"


@pytest.mark.parametrize("case", [pytest.param(case, id=str(case), marks=() if runs_always(case) else pytest.mark.slow)
                                  for case in TABLE])
def test_a_program_ends_as_under_the_interpreter(results, case):
    task, expected = results[case.name]
    if LOST_BY_PLAIN.intersection(case.name.split("-")):
        assert task.files.keys() == expected.files.keys()
        assert all(task.files[name].startswith(content) for name, content in expected.files.items()), case.source.decode()
        task = dataclasses.replace(task, files=expected.files)
    assert str(task) == str(expected), case.source.decode()
