"""Large input: uploaded once by its hash, used by many tasks, held by the daemon for a while."""

import asyncio
import hashlib
import os

import pytest

import mayfly
from harness import MIB, connect, eventually
from mayfly._wire import schema

HASH = ("import hashlib, os, sys\nfor n in sorted(os.listdir('.')):\n"
        "  if os.path.isfile(n): print(n, hashlib.sha256(open(n,'rb').read()).hexdigest())")


def said(files):
    return "".join(f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in sorted(files.items()))


async def test_a_blob_is_uploaded_once_and_used_often(client):
    data = os.urandom(3 * MIB + 7)
    blob = await client.upload(data)
    assert (blob.sha256, blob.size_bytes) == (hashlib.sha256(data).digest(), len(data))
    again = await client.upload(data)
    assert again == blob
    [listed] = [each for each in await client.blobs() if each.sha256 == blob.sha256]
    assert listed.size_bytes == len(data) and 0 < listed.expires_ms <= client.server.bounds.blob_ttl_ms
    results = await asyncio.gather(*(client.run("python", HASH, files={"in": blob}) for _ in range(4)))
    assert {result.stdout for result in results} == {said({"in": data})}
    await client.remove_blob(blob)
    assert blob.sha256 not in [each.sha256 for each in await client.blobs()]
    for gone in (client.remove_blob(blob), client.run("python", HASH, files={"in": blob})):
        with pytest.raises(mayfly.NotFound):
            await gone


async def test_blobs_from_paths_with_a_mode(client, tmp_path):
    (tmp_path / "large").write_bytes(data := os.urandom(2 * MIB))
    blob = await client.upload(tmp_path / "large")
    code = "import os; print(oct(os.stat('x').st_mode & 0o777), len(open('x', 'rb').read()))"
    result = await client.run("python", code, files={"x": mayfly.File(blob, mode=0o755)})
    assert result.stdout == f"0o755 {len(data)}\n", result.stderr
    await client.remove_blob(blob.sha256)


async def test_an_empty_blob(client):
    blob = await client.upload(b"")
    result = await client.run("python", HASH, files={"x": blob})
    assert result.stdout == said({"x": b""})
    await client.remove_blob(blob)


async def test_large_files_become_blobs_by_themselves(client, tmp_path):
    files = {"a": os.urandom(9 * MIB), "b": os.urandom(5 * MIB), "c": b"small", "d": b""}
    (tmp_path / "b").write_bytes(files["b"])
    before = {blob.sha256 for blob in await client.blobs()}
    given = {"a": files["a"], "b": tmp_path / "b", "c": files["c"], "d": files["d"], "e": files["a"]}
    result = await client.run("python", HASH, files=given)
    assert result.stdout == said({**files, "e": files["a"]}), result.stderr
    new = {blob.sha256 for blob in await client.blobs()} - before
    assert new == {hashlib.sha256(files[name]).digest() for name in "ab"}  # "a" once
    for sha256 in new:
        await client.remove_blob(sha256)


async def test_a_file_that_changes_meanwhile_is_told(client, tmp_path, monkeypatch):
    from mayfly import _spec
    path = tmp_path / "x"
    path.write_bytes(os.urandom(3 * MIB))
    whole = _spec.Source.hash

    def hash_and_change(source):
        whole(source)
        path.write_bytes(bytes(3 * MIB))

    monkeypatch.setattr(_spec.Source, "hash", hash_and_change)
    with pytest.raises(mayfly.InvalidArgument):
        await client.run("python", HASH, files=[path])
    path.write_bytes(os.urandom(3 * MIB))

    def hash_and_cut(source):
        whole(source)
        path.write_bytes(b"x")

    monkeypatch.setattr(_spec.Source, "hash", hash_and_cut)
    with pytest.raises(mayfly.MayflyError):
        await client.run("python", HASH, files=[path])


async def test_bounds_of_the_store(daemons, kind):
    daemon = daemons('blob_user_max = "4MiB"\nblob_store_max = "4MiB"\n')
    async with connect(kind, daemon.socket) as client:
        assert client.server.bounds.blob_bytes_max == 4 * MIB
        with pytest.raises(mayfly.InvalidArgument):
            await client.upload(bytes(5 * MIB))
        first = await client.upload(b"1" * (3 * MIB))
        held = await client.submit("python", "input()", files={"x": first}, stdin=mayfly.PIPE)
        # Once it has started, the file in its box is a copy, and nobody needs the blob.
        await eventually(lambda: is_running(held), "it runs")
        second = await client.upload(b"2" * (3 * MIB))
        assert [blob.sha256 for blob in await client.blobs()] == [second.sha256]
        await held.close()


async def is_running(task):
    return (await task.info()).state == "running"


async def hello(context):
    context.results.init("info").protocol = mayfly.PROTOCOL
    context.results.info.bounds.blobBytesMax = 8 * MIB


def store(blobs, lost):
    """A fake daemon's blobs. `lost`: how many submits find that theirs gave way to other uploads."""
    submits = []

    class Upload(schema.Upload.Server):
        def __init__(self, sha256):
            self.sha256 = sha256

        async def write_context(self, context):
            pass

        async def finish_context(self, context):
            blobs.append(self.sha256)

        async def close_context(self, context):
            pass

    async def upload(context):
        context.results.upload = Upload(context.params.sha256)

    async def listed(context):
        for entry, sha256 in zip(context.results.init("blobs", len(blobs)), blobs):
            entry.sha256 = sha256

    async def submit(context):
        submits.append([file.blob for file in context.params.spec.files])
        if len(submits) <= lost:
            blobs.clear()
        context.results.init("error").code = "unavailable" if blobs else "notFound"

    async def templates(context):
        [one] = context.results.init("templates", 1)
        one.name = "python"
        for limits in (one.defaults, one.maximum):
            limits.inputBytes, limits.diskBytes, limits.memoryBytes = 7 * MIB, 8 * MIB, 12 * MIB

    return submits, dict(hello=hello, upload=upload, blobs=listed, submit=submit, templates=templates)


async def test_uploads_that_gave_way_before_the_submit_are_sent_again(fakes, kind):
    data = bytes(3 * MIB)
    for lost, error in ((2, mayfly.Unavailable), (3, mayfly.NotFound)):
        blobs = []
        submits, answers = store(blobs, lost)
        async with connect(kind, fakes(**answers)) as client:
            with pytest.raises(error):
                await client.submit("python", "1", files={"x": data})
            assert submits == [[hashlib.sha256(data).digest()]] * 3
            given = mayfly.Blob(sha256=b"x" * 32, size_bytes=1)  # nobody can send these bytes again
            blobs.clear()
            with pytest.raises(mayfly.NotFound):
                await client.submit("python", "1", files={"x": given})
            assert len(submits) == 4


@pytest.mark.parametrize("files,caps,words", [
    ([4, 4], {}, ["8 MiB", "`input` is 7 MiB", "maximum of 7 MiB"]),
    ([3, 3], {"memory": "8MiB"}, ["`memory` is 8 MiB", "half"]),
    ([3, 3], {"disk": "5MiB"}, ["`disk` is 5 MiB"]),
    ([5, 4], {"input": "20MiB"}, ["9 MiB", "at most 8 MiB for a user"]),
])
async def test_caps_are_checked_before_an_upload(fakes, kind, files, caps, words):
    blobs = []
    submits, answers = store(blobs, 0)
    given = {f"f{n}": bytes([n]) * (size * MIB) for n, size in enumerate(files)}
    async with connect(kind, fakes(**answers)) as client:
        with pytest.raises(mayfly.InvalidArgument) as caught:
            await client.submit("python", "1", files=given, **caps)
        for word in [*words, "Nothing was uploaded"]:
            assert word in str(caught.value)
        assert (blobs, submits) == ([], [])


async def test_an_upload_that_fails_leaves_nothing(daemons, kind):
    """Its Upload is closed, so the next one has all the room at once."""
    daemon = daemons('blob_user_max = "4MiB"\nblob_store_max = "4MiB"\n')
    async with connect(kind, daemon.socket) as client:
        for _ in range(3):
            with pytest.raises(mayfly.InvalidArgument):
                await client.upload(Lying(3 * MIB))
        assert await client.blobs() == []
        await client.upload(bytes(4 * MIB))


class Lying(bytes):
    """The file changes between the reading for the hash and the reading for the upload."""

    def __new__(cls, size):
        self = super().__new__(cls, size)
        self.looks = 0
        return self

    def __getitem__(self, index):
        return b"y" * len(super().__getitem__(index))


async def test_too_many_large_files_are_told_what_to_do(client):
    files = {f"f{n}": os.urandom(100_000) for n in range(100)}
    with pytest.raises(mayfly.InvalidArgument):
        await client.run("python", HASH, files=files)


async def test_what_no_blob_is(client):
    with pytest.raises(TypeError):
        await client.upload("text or path?")
    with pytest.raises(mayfly.InvalidArgument):
        await client.remove_blob(b"short")
