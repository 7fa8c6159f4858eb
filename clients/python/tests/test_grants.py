"""Grants and tools, against a fake daemon: what is sent, what is refused, and what a hostile task may see."""

import asyncio
import json
import typing

import pytest

import mayfly
from harness import connect
from mayfly import _spec
from mayfly._wire import schema


class FakeTask(schema.Task.Server):
    async def wait_context(self, context):
        context.results.init("result").verdict = "succeeded"

    async def close_context(self, context):
        pass


class FakeGrant(schema.Grant.Server):
    def __init__(self, revoked, name):
        self.revoked, self.name = revoked, name

    async def revoke_context(self, context):
        if self.name == "slow":
            error = context.results.init("error")
            error.code, error.message = "unavailable", "not in time"
        else:
            self.revoked.append(self.name)


async def hello(context):
    context.results.init("info").protocol = mayfly.PROTOCOL


def ask(box, name, text):
    request = box.call_request()
    request.name, request.json = name, text
    return request.send()


class Box:
    """A submit that calls the client's tools as a task would."""

    def __init__(self, calls=()):
        self.calls, self.answers, self.revoked = calls, [], []
        self.grants, self.tools = [], {}

    async def submit(self, context):
        spec = context.params.spec
        self.grants = [(g.name, g.narrowing) for g in spec.grants]
        self.tools = {t.name: (t.description, json.loads(t.schemaJson)) for t in spec.tools}
        for name, text in self.calls:
            answer = await ask(context.params.toolBox, name, text)
            code = str(answer.error.code)
            self.answers.append((None if code == "ok" else code, answer.json or answer.error.message))
        results = context.results
        results.id, results.task = 7, FakeTask()
        given = results.init("grants", len(self.grants))
        for index, (name, _) in enumerate(self.grants):
            given[index] = FakeGrant(self.revoked, name)


async def call(fakes, kind, tools, *calls, how="run"):
    box = Box(calls)
    async with connect(kind, fakes(hello=hello, submit=box.submit)) as client:
        await client.run("python", "1", tools=tools)
    return box


def lookup(word: str, limit: int = 10, tags: list[str] | None = None, mode: typing.Literal["a", "b"] = "a") -> dict:
    """Finds a word.

    In every book.
    """
    return {"word": word, "limit": limit, "tags": tags, "mode": mode}


async def test_a_function_becomes_a_tool_with_its_schema(fakes, kind):
    box = await call(fakes, kind, {"lookup": lookup}, ("lookup", '{"word": "x", "tags": ["é"]}'))
    description, parameters = box.tools["lookup"]
    assert description == "Finds a word.\n\nIn every book."
    assert parameters == {
        "type": "object", "required": ["word"], "additionalProperties": False,
        "properties": {
            "word": {"type": "string"}, "limit": {"type": "integer"},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
            "mode": {"enum": ["a", "b"]}}}
    (code, text), = box.answers
    assert code is None
    assert json.loads(text) == {"word": "x", "limit": 10, "tags": ["é"], "mode": "a"}


async def test_async_functions_and_any_callable_are_tools(fakes, kind):
    async def wait(a, b=2):
        await asyncio.sleep(0)
        return a + b

    class Adder:
        def __call__(self, a: float, **more: int) -> float:
            return a + sum(more.values())

    box = await call(fakes, kind, {"wait": wait, "adder": Adder(), "text": lambda: "é"},
                     ("wait", '{"a": 1}'), ("adder", '{"a": 0.5, "z": 2}'), ("text", ""))
    assert box.answers == [(None, "3"), (None, "2.5"), (None, '"é"')]
    assert box.tools["adder"][1]["additionalProperties"] is True


@pytest.mark.parametrize("text", [
    "", "[]", "null", "{", '"word"', '{"word": 1}', '{"word": null}', '{"word": "x", "limit": "1"}',
    '{"word": "x", "limit": true}', '{"word": "x", "limit": 1.5}', '{"word": "x", "tags": [1]}',
    '{"word": "x", "tags": {}}', '{"word": "x", "mode": "c"}', '{"word": "x", "more": 1}', "[" * 100_000,
])
async def test_a_task_cannot_call_with_other_arguments(fakes, text):
    called = []

    def tool(word: str, limit: int = 1, tags: list[str] | None = None, mode: typing.Literal["a", "b"] = "a"):
        called.append(word)

    box = await call(fakes, "async", {"lookup": tool}, ("lookup", text))
    assert box.answers[0][0] == "invalidArgument" and not called


async def test_a_task_sees_of_an_exception_its_kind_only(fakes, kind):
    def leak():
        raise ValueError("password=hunter2")

    def tell():
        raise mayfly.ToolError("no such customer")

    async def missing():
        raise mayfly.NotFound("gone")

    box = await call(fakes, kind, {"leak": leak, "tell": tell, "missing": missing, "odd": lambda: object(),
                                   "nan": lambda: float("nan"), "large": lambda: "x" * (1 << 20)},
                     *((name, "{}") for name in ("leak", "tell", "missing", "odd", "nan", "large", "none")))
    codes = dict(zip(("leak", "tell", "missing", "odd", "nan", "large", "none"), box.answers))
    assert codes["leak"] == ("internal", "the tool failed: ValueError")
    assert codes["tell"] == ("failedPrecondition", "no such customer")
    assert codes["missing"] == ("notFound", "gone")
    assert codes["odd"] == codes["nan"] == ("failedPrecondition", "the tool's answer is not JSON")
    assert "at most 1048576" in codes["large"][1]
    assert codes["none"] == ("notFound", "there is no such tool")
    assert "hunter2" not in str(box.answers)


async def test_a_slow_function_does_not_hold_up_the_client(fakes, kind):
    import threading
    gate = threading.Event()

    def slow():
        assert gate.wait(20)
        return 1

    async def submit(context):
        box = context.params.toolBox
        answers = await asyncio.gather(ask(box, "slow", "{}"), ask(box, "open", "{}"))
        assert [a.json for a in answers] == ["1", "null"]
        context.results.task = FakeTask()

    async with connect(kind, fakes(hello=hello, submit=submit)) as client:
        assert (await client.run("python", "1", tools={"slow": slow, "open": gate.set})).ok


async def test_grants_are_named_narrowed_and_revoked(fakes, kind):
    box = Box()
    async with connect(kind, fakes(hello=hello, submit=box.submit)) as client:
        async with await client.submit("python", "1", grants=["openai:calls=10,paths=/a:b", "slow"]) as task:
            assert box.grants == [("openai", "calls=10,paths=/a:b"), ("slow", "")]
            await task.revoke("openai")
            assert box.revoked == ["openai"]
            with pytest.raises(mayfly.Unavailable, match="not in time"):
                await task.revoke("slow")
            with pytest.raises(mayfly.NotFound, match="no grant 'other'"):
                await task.revoke("other")
            await task.close()
            with pytest.raises(mayfly.FailedPrecondition):
                await task.revoke("openai")


async def test_a_daemon_that_knows_no_grants_gets_no_task(fakes, kind):
    async def old(context):
        context.results.init("info").protocol = 3

    async def submit(context):
        raise AssertionError("submitted")

    async with connect(kind, fakes(hello=old, submit=submit)) as client:
        for given in (dict(grants=["a"]), dict(tools={"a": lookup})):
            with pytest.raises(mayfly.Unsupported, match="grants"):
                await client.run("python", "1", **given)


@pytest.mark.parametrize("given,error", [
    (dict(grants="openai"), TypeError), (dict(grants=[1]), TypeError), (dict(grants={"a": "b"}), TypeError),
    (dict(grants=[":calls=1"]), ValueError), (dict(grants=[""]), ValueError),
    (dict(tools=[lookup]), TypeError), (dict(tools={"a": 1}), TypeError), (dict(tools={1: lookup}), TypeError),
    (dict(tools={"a": lambda x, /: x}), TypeError), (dict(tools={"a": lambda *x: x}), TypeError),
    (dict(tools={"a": lookup}, detach="1m"), ValueError),
])
def test_what_cannot_be_sent_is_refused(given, error):
    with pytest.raises(error):
        _spec.build("python", "1", given)
