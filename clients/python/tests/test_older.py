"""With a daemon older than the client: a clear error, or a fallback if there is one."""

import pytest

import mayfly
from harness import MIB, connect


async def hello(context):
    context.results.init("info").protocol = mayfly.PROTOCOL


async def test_what_it_does_not_know(fakes, kind):
    async with connect(kind, fakes(old=True, hello=hello)) as client:
        with pytest.raises(mayfly.Unsupported, match="older") as caught:
            await client.find(key="k")
        assert caught.value.code is mayfly.ErrorCode.FAILED_PRECONDITION
        with pytest.raises(mayfly.Unsupported, match="older"):
            await client.upload(b"x")
        with pytest.raises(mayfly.Unsupported, match="detach"):
            await client.submit("python", "1", detach="1m")


async def test_large_files_go_inside_the_request_where_they_fit(fakes, kind, tmp_path):
    seen = []

    async def submit(context):
        seen.append({f.path: (len(f.data), len(f.blob)) for f in context.params.spec.files})
        context.results.init("error").code = "notFound"

    async def templates(context):
        pass

    (tmp_path / "b").write_bytes(bytes(2 * MIB))
    async with connect(kind, fakes(old=True, hello=hello, submit=submit, templates=templates)) as client:
        files = {"a": bytes(3 * MIB), "b": tmp_path / "b", "c": b"small"}
        with pytest.raises(mayfly.NotFound):
            await client.submit("python", "1", files=files)
        assert seen == [{"a": (3 * MIB, 0), "b": (2 * MIB, 0), "c": (5, 0)}]
        for size in (9 * MIB, 7 * MIB):
            with pytest.raises(mayfly.MayflyError) as caught:
                await client.submit("python", "1", files={"a": bytes(size), "c": bytes(MIB)})
            assert isinstance(caught.value, (mayfly.Unsupported, mayfly.InvalidArgument))
            assert "8 MiB" in str(caught.value) and caught.value.advice
        assert len(seen) == 1
