"""The words of a call, refused or taken, and a result as a person sees it. No daemon is needed."""

import datetime
import inspect
import os

import pytest

import mayfly
from harness import connect
from mayfly import _spec
from mayfly._common import default_seconds

LIMITS = mayfly.Limits(**dict.fromkeys(mayfly.Limits.__dataclass_fields__, 0))
USAGE = mayfly.Usage(**dict.fromkeys(mayfly.Usage.__dataclass_fields__, 0))
PHASES = mayfly.Phases(**dict.fromkeys(mayfly.Phases.__dataclass_fields__, 0))
RECEIPT = mayfly.Receipt(box=1, complete=True, reaped_ns=0, unpopulated_ns=0, fds_closed_ns=0,
                         cgroups_gone_ns=0, uid_free_ns=0, missing="")


def result(verdict=mayfly.Verdict.SUCCEEDED, stdout=b"", stderr=b"", reason="", **more):
    fields = dict(id=7, template="python", verdict=verdict, exit_code=None, signal=None, reason=reason, cap_value=None,
                  stdout_bytes=stdout, stderr_bytes=stderr, stdout_truncated=False, stderr_truncated=False,
                  limits=LIMITS, usage=USAGE, phases=PHASES, receipt=RECEIPT)
    return mayfly.TaskResult(**(fields | more))


@pytest.mark.parametrize("given,wanted", [
    (result(stdout=b"42\n"), "42"),
    (result(stdout=b"a\n\n"), "a\n"),
    (result(), ""),
    (result(stdout=b"out\n", stderr=b"err\n"), "out\nerr"),
    (result(mayfly.Verdict.FAILED, b"half", b"Traceback\nKeyError: 1\n", "exited with code 1"),
     "failed: exited with code 1\nhalf\nTraceback\nKeyError: 1"),
    (result(mayfly.Verdict.WALL_TIME, reason="killed at its wall time cap of 1 s"),
     "wallTime: killed at its wall time cap of 1 s"),
    (result(mayfly.Verdict.CANCELLED), "cancelled"),
    (result(stdout=b"x" * 9, stdout_truncated=True), "xxxxxxxxx\n[stdout goes on: only its beginning was captured]"),
    (result(stdout="\x1b]0;owned\x07\u202e\t\u00e9\r\n".encode()), "\\x1b]0;owned\\x07\\u202e\t\u00e9\\r"),
    (result(mayfly.Verdict.INTERNAL, reason="odd \x1b[2J"), "internal: odd \\x1b[2J"),
])
def test_print_shows_what_a_person_wants(given, wanted, capsys):
    print(given)
    assert capsys.readouterr().out == wanted + "\n" and f"{given}" == wanted
    assert repr(given).startswith("TaskResult(id=7, template='python'")


@pytest.mark.parametrize("given,words", [
    (dict(timeout=3), ["unknown keyword `timeout`", "`wall_time`", "`deadline`"]),
    (dict(memroy=1), ["unknown keyword `memroy`", "did you mean `memory`?", "cpu_time"]),
    (dict(walltime="3s"), ["did you mean `wall_time`?"]),
    (dict(memroy=None), ["did you mean `memory`?"]),
    (dict(limits={"memory": 1}), ["`limits`: each cap is a keyword of its own"]),
    (dict(check=True), ["submit has no keyword `check`"]),
    (dict(xyzzy=1), ["unknown keyword `xyzzy`; there are cpu, "]),
    (dict(env=["A=1"]), ["env: a dict", "not list"]),
    (dict(files={"a": {"data": "x"}}), ["files['a']", "not dict"]),
    (dict(key="k"), ["key= goes with detach="]),
])
def test_an_unknown_keyword_is_named_with_the_nearest(given, words):
    with pytest.raises(TypeError) as caught:
        _spec.build("python", "1", given)
    for word in words:
        assert word in str(caught.value)


def test_a_script_of_more_than_its_text_is_refused():
    with pytest.raises(TypeError, match="a pair"):
        _spec.build("python", None, {"script": ("a.py", "print(1)", 0o755)})


def test_a_folder_comes_whole_or_not_at_all(tmp_path, monkeypatch):
    app = tmp_path / "app"
    (app / "deep").mkdir(parents=True)
    for name in ("__main__.py", "deep/a.py", ".env"):
        (app / name).write_text("1")
    spec = _spec.build("python", None, {"script": app})
    assert (spec.kind, spec.script_name) == ("path", "app")
    assert sorted(source.path for source in spec.files) == ["app/__main__.py", "app/deep/a.py"]
    monkeypatch.setattr(_spec, "FOLDER_FILES_MAX", 1)
    with pytest.raises(mayfly.InvalidArgument, match="more than 1 files.*zipapp"):
        _spec.build("python", None, {"script": app})
    monkeypatch.undo()
    os.mkfifo(app / "deep/pipe")  # reading one could wait for ever
    with pytest.raises(mayfly.InvalidArgument, match="neither a file nor a folder"):
        _spec.build("python", None, {"script": app})


async def hello(context):
    context.results.init("info").protocol = mayfly.PROTOCOL


async def test_no_call_takes_a_timeout(fakes, kind):
    async with connect(kind, fakes(hello=hello)) as client:
        for name in ("run", "submit"):
            with pytest.raises(TypeError, match="`deadline`"):
                await getattr(client, name)("python", "1", timeout=3)
        with pytest.raises(TypeError, match="goes with submit"):
            await client.run("python", "1", stream=True)
        for each in (client.templates, client.tasks, client.blobs):
            with pytest.raises(TypeError, match="timeout"):
                await each(timeout=3)
            with pytest.raises(mayfly.InvalidArgument, match="deadline: 'soon' is not a time"):
                await each(deadline="soon")


@pytest.mark.parametrize("kind_of", [mayfly.Client, mayfly.AsyncClient, mayfly.Task, mayfly.AsyncTask, mayfly.Stdin,
                                     mayfly.AsyncStdin, mayfly.connect, mayfly.connect_async])
def test_one_word_for_the_limit_of_a_call(kind_of):
    calls = [kind_of] if inspect.isfunction(kind_of) else [
        value for name, value in vars(kind_of).items() if inspect.isfunction(value) and name != "__exit__"]
    named = set()
    for each in calls:
        named |= {name for name in inspect.signature(each).parameters if "time" in name or "deadline" in name}
    assert named and named <= {"deadline", "call_deadline"}, named


@pytest.mark.parametrize("given", ["soon", "30", -1, float("nan")])
def test_a_deadline_is_a_duration(given):
    for to in (mayfly.connect, mayfly.connect_async):
        with pytest.raises(mayfly.InvalidArgument, match="call_deadline: .* is not a time"):
            to("/nowhere", call_deadline=given)


@pytest.mark.parametrize("given", ["250ms", 0.25, datetime.timedelta(milliseconds=250)])
def test_a_cap_and_a_deadline_have_one_notation(given):
    assert _spec.build("python", "1", {"wall_time": given}).limits == {"wallTimeMs": 250}
    assert default_seconds(given) == 0.25
