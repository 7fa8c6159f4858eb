"""Large input: uploaded once by its hash, used by many tasks, held by the daemon for a while."""

import asyncio
import hashlib
import os

import pytest

import mayfly
from harness import MIB, connect

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
        with pytest.raises(mayfly.ResourceExhausted) as caught:
            await client.upload(b"2" * (3 * MIB))
        assert caught.value.retryable
        await client.remove_blob(first)
        second = await client.upload(b"2" * (3 * MIB))
        assert [blob.sha256 for blob in await client.blobs()] == [second.sha256]


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
