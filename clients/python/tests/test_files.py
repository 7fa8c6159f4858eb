"""Files in and out: paths, bytes, dicts; collected, read by pieces, saved where it is safe."""

import dataclasses
import os
import pathlib
import stat

import pytest

import mayfly
from harness import MIB

SHOW = """
import os
for top, _, names in sorted(os.walk('.')):
    for name in sorted(names):
        path = os.path.join(top, name)
        print(path, oct(os.stat(path).st_mode & 0o777), open(path).read())
"""


async def test_files_from_a_list_of_paths(client, tmp_path):
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "run.sh").write_text("B")
    (tmp_path / "run.sh").chmod(0o755)
    files = [tmp_path / "a.txt", str(tmp_path / "run.sh")]
    result = await client.run("python", SHOW, files=files)
    assert result.stdout.splitlines() == ["./a.txt 0o644 A", "./run.sh 0o755 B"], result.stderr


async def test_files_from_a_dict(client, tmp_path):
    (tmp_path / "local").write_text("D")
    files = {"a": b"A", "deep/er/b": bytearray(b"B"), "c": memoryview(b"C"), "d": tmp_path / "local",
             "e": mayfly.File(b"E", mode=0o600), "f": mayfly.File(tmp_path / "local", mode=0o711)}
    result = await client.run("python", SHOW, files=files)
    assert result.stdout.splitlines() == [
        "./a 0o644 A", "./c 0o644 C", "./d 0o644 D", "./e 0o600 E", "./f 0o711 D",
        "./deep/er/b 0o644 B"], result.stderr


async def test_a_file_from_a_pipe_is_read_whole(client):
    read, write = os.pipe()
    os.write(write, b"piped")
    os.close(write)
    result = await client.run("python", SHOW, files={"p": pathlib.Path(f"/dev/fd/{read}")})
    os.close(read)
    assert result.stdout == "./p 0o644 piped\n"


async def test_local_files_that_are_not_there(client, tmp_path):
    with pytest.raises(FileNotFoundError):
        await client.run("python", SHOW, files=[tmp_path / "none"])
    with pytest.raises(mayfly.InvalidArgument, match="folder"):
        await client.run("python", SHOW, files=[tmp_path])


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//b", "", "a\0b", ".", "x" * 2000])
async def test_bad_names_are_refused(client, name):
    with pytest.raises(mayfly.InvalidArgument):
        await client.run("python", SHOW, files={name: b""})


async def test_output_files_in_the_result(client):
    code = ("import os; os.makedirs('out/sub', exist_ok=True); open('out/sub/a','wb').write(bytes(3 << 20));"
            "open('out/b', 'w').write('text'); os.symlink('b', 'out/link')")
    result = await client.run("python", code, collect=True)
    assert result.ok, result.stderr
    a, b, link = result.file("sub/a"), result.file("b"), result.file("link")
    assert a.data == bytes(3 * MIB) and a.size_bytes == 3 * MIB and b.data == b"text"
    assert link.data is None and "link" in link.skipped
    assert b.path == b"b" and b.mode == 0o644
    with pytest.raises(KeyError):
        result.file("none")


async def test_output_files_by_pieces(client):
    code = "open('out/a','wb').write(bytes(range(256)) * 10000)"
    async with await client.submit("python", code, collect=True) as task:
        with pytest.raises(mayfly.FailedPrecondition):
            await task.read_file(0)
        result = await task.wait()
        [file] = result.out_files
        assert await task.read_file("a", 256, 4) == bytes(range(4))
        assert await task.read_file(file, 2_559_999) == b"\xff" and await task.read_file(0, 2_560_000) == b""
        pieces = [piece async for piece in task.read_chunks(file)]
        assert len(pieces) > 1 and b"".join(pieces) == bytes(range(256)) * 10000
        with pytest.raises(mayfly.NotFound):
            await task.read_file("b")
        with pytest.raises(mayfly.NotFound):
            await task.read_file(7)
        with pytest.raises(mayfly.InvalidArgument):
            await task.read_file(0, -1)


async def test_not_collected_files_are_not_there(client):
    result = await client.run("python", "open('out/a','w').write('x')")
    assert result.out_files == ()


async def test_saved_files(client, tmp_path):
    out = tmp_path / "results"
    code = ("import os; os.makedirs('out/sub'); open('out/sub/a','w').write('A'); os.chmod('out/sub/a', 0o755);"
            "open('out/empty', 'w')")
    result = await client.run("python", code, out=out)
    assert result.ok, result.stderr
    assert (out / "sub/a").read_text() == "A" and (out / "empty").read_text() == ""
    assert stat.S_IMODE((out / "sub/a").stat().st_mode) & 0o700 == 0o700
    assert {f.saved for f in result.out_files} == {out / "sub/a", out / "empty"}
    assert sorted(p.name for p in out.rglob("*")) == ["a", "empty", "sub"]  # no half files


HOSTILE = r"""
import os
os.chdir('out')
for name in (b'\xff\xfe', b'new\nline', b'\x1b[2J', b'ok', b'..x', b'dir/inner', b'link/inner', b'taken'):
    if b'/' in name: os.makedirs(os.path.dirname(name), exist_ok=True)
    open(name, 'w').write('theirs')
"""


async def test_saving_never_leaves_the_folder_nor_follows_a_link(client, tmp_path):
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (outside / "file").write_text("mine")
    (out / "link").symlink_to(outside)              # the task has a folder of this name
    (out / "taken").symlink_to(outside / "file")    # the task has a file of this name
    result = await client.run("python", HOSTILE, out=out, collect=True)
    assert result.ok, result.stderr
    why = {each.path: each.not_saved for each in result.out_files}
    assert "UTF-8" in why[b"\xff\xfe"] and "control" in why[b"new\nline"] and "control" in why[b"\x1b[2J"]
    assert why[b"ok"] == why[b"..x"] == why[b"dir/inner"] == why[b"taken"] == "" != why[b"link/inner"]
    assert (outside / "file").read_text() == "mine" and list(outside.iterdir()) == [outside / "file"]
    assert (out / "taken").read_text() == "theirs" and not (out / "taken").is_symlink()
    assert sorted(p.name for p in out.iterdir()) == ["..x", "dir", "link", "ok", "taken"]
    names = {each.path: each.name for each in result.out_files}
    assert names[b"\xff\xfe"] == "\\xff\\xfe" and names[b"new\nline"] == "new\\nline"
    assert all(name.isprintable() for name in names.values())
    assert result.file("ok").data == b"theirs"


@pytest.mark.parametrize("path", [b"../x", b"a/../../x", b"/abs", b"", b"a//b", b"./x", b"a/.", b"a\0b",
                                  b"x" * 5000, b"/".join([b"d"] * 40)])
def test_names_that_a_daemon_should_never_send_are_not_saved(path):
    from mayfly._save import why_odd
    assert why_odd(path)


async def test_a_full_disk_is_told_and_leaves_nothing_half(client, tmp_path, monkeypatch):
    from mayfly import _save
    real = os.write

    def full(fd, data):
        if len(data) > 1000:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(_save.os, "write", full)
    result = await client.run("python", "open('out/a','wb').write(bytes(5000)); open('out/b','w').write('b')",
                              out=tmp_path)
    monkeypatch.undo()
    by_name = {each.name: each for each in result.out_files}
    assert "No space" in by_name["a"].not_saved and by_name["b"].saved == tmp_path / "b"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


async def test_results_are_plain_data(client):
    result = await client.run("python", "open('out/a','w').write('x')", collect=True)
    import pickle
    assert pickle.loads(pickle.dumps(result)) == result
    assert dataclasses.asdict(result)["usage"]["stdout_bytes"] == 0


async def test_files_that_were_lost_are_a_retryable_error_of_those_who_asked_for_them(client):
    result = await client.run("python", "open('out/a', 'w').write('A')", collect=True)
    assert not result.out_files_lost and result.check_files() is result
    lost = dataclasses.replace(result, out_files_lost=True, out_files_note="collecting failed")
    assert lost.file("a").data == b"A", "what came is there"
    for ask in lost.check_files, lambda: lost.file("b"):
        with pytest.raises(mayfly.Unavailable, match="collecting failed") as caught:
            ask()
        assert caught.value.retryable
    with pytest.raises(KeyError):
        result.file("b")
