"""A task's files in /task/out: regular files are fetched, all others named; --out stays in its folder."""

import base64
import os
import pathlib
import stat

import pytest

MIB = 1 << 20


def leave(mayfly, code, out, *flags):
    """The result of a task that ran `code` in /task/out, and its files by name."""
    code = "import os\nos.chdir('/task/out')\n" + code
    result = mayfly.run("-t", "python", "--out", out, *flags, "-c", code)
    assert result["verdict"] == "succeeded", result["stderr"]
    assert result["receipt"]["complete"]
    return result, {name_of(file): file for file in result["files"]}


def name_of(file):
    return base64.b64decode(file["path"]) if file["pathBase64"] else file["path"].encode()


def tree(folder):
    """Every name below it, and whether it is a plain file, a folder or something else."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in folders + files:
            whole = os.path.join(path, name)
            mode = os.lstat(whole).st_mode
            kind = "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "odd"
            found[os.path.relpath(whole, folder)] = kind
    return found


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_files_and_folders_come_back(mayfly, out):
    code = ("os.makedirs('a/b')\nopen('a/b/deep.txt', 'w').write('deep')\nopen('top.bin', 'wb').write(bytes(range(256)) * 9000)\n"
            "open('empty', 'w')\nopen('a name with spaces, \\u00fc', 'w').write('x')\nopen('-rf', 'w').write('dash')\n"
            "open('run.sh', 'w').write('echo'); os.chmod('run.sh', 0o755)\nos.mkdir('nothing in it')\n")
    result, files = leave(mayfly, code, out)
    assert tree(out) == {"a": "folder", "a/b": "folder", "a/b/deep.txt": "file", "top.bin": "file", "empty": "file",
                         "a name with spaces, ü": "file", "-rf": "file", "run.sh": "file"}
    assert (out / "top.bin").read_bytes() == bytes(range(256)) * 9000
    assert (out / "a/b/deep.txt").read_text() == "deep"
    assert stat.S_IMODE((out / "run.sh").stat().st_mode) == 0o755
    assert all(f["written"] and f["skipped"] == "" for f in files.values())
    assert files[b"top.bin"]["sizeBytes"] == 256 * 9000 and files[b"empty"]["sizeBytes"] == 0
    assert result["filesNote"] == ""


def test_nothing_is_collected_unasked(mayfly):
    assert mayfly.run("-c", "open('/task/out/x', 'w').write('x')")["files"] == []


def test_files_of_a_task_that_was_killed_come_too(mayfly, out):
    code = "open('/task/out/part', 'w').write('so far')\nimport time; time.sleep(600)"
    result = mayfly.run("--timeout", "500ms", "--out", out, "-c", code)
    assert result["verdict"] == "wallTime"
    assert (out / "part").read_text() == "so far"


ODD = {
    "symbolic link": ["os.symlink('/etc/passwd', 'it')", "os.symlink('x', 'it')", "os.symlink('/task/out', 'it')",
                      "os.symlink('/proc/1/root', 'it')", "os.symlink('it', 'it')"],
    "fifo": ["os.mkfifo('it')"],
    "socket": ["import socket; s = socket.socket(socket.AF_UNIX); s.bind('it')"],
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_regular_file_is_named_and_not_followed(mayfly, out, kind):
    for code in ODD[kind]:
        result, files = leave(mayfly, code + "\nopen('good', 'w').write('good')", out)
        assert files[b"it"]["skipped"] == kind and not files[b"it"]["written"]
        assert files[b"good"]["written"]
        assert tree(out) == {"good": "file"}


def test_devices_cannot_be_made(mayfly, out):
    code = ("import stat\nfor kind in (stat.S_IFCHR, stat.S_IFBLK):\n"
            "  try: os.mknod('dev', kind | 0o666, os.makedev(1, 5)); print('made')\n  except PermissionError: print('refused')\n")
    result, files = leave(mayfly, code, out)
    assert result["stdout"] == "refused\nrefused\n" and files == {}


def test_out_itself_as_a_link_is_not_followed(mayfly, out):
    for code in ("os.rmdir('/task/out'); os.symlink('/etc', '/task/out')",
                 "os.rmdir('/task/out'); os.symlink('../../etc', '/task/out')",
                 "os.rmdir('/task/out'); os.mkfifo('/task/out')",
                 "os.rmdir('/task/out'); open('/task/out', 'w')"):
        result = mayfly.run("--out", out, "-c", "import os\n" + code)
        assert "/task/out can't be opened" in result["filesNote"], (code, result["filesNote"])
        assert result["verdict"] == "succeeded", result["stderr"]
        assert [f for f in result["files"] if not f["skipped"]] == [] and tree(out) == {}


def test_the_folder_gone_is_no_failure(mayfly, out):
    result = mayfly.run("--out", out, "-c", "import os; os.rmdir('/task/out')")
    assert result["verdict"] == "succeeded" and result["files"] == [] and tree(out) == {}


NAMES = [b"with\nnewline", b"esc\x1b[31mred", b"bell\x07", b"\xff\xfe not utf-8", b"back\\slash", b"\xc2\x9bcsi", b"tab\tbed",
         b"del\x7f"]


def test_odd_names_are_reported_and_not_written(mayfly, out):
    code = f"for n in {NAMES!r}: open(n, 'w').write('x')\nopen('good', 'w').write('good')"
    result, files = leave(mayfly, code, out)
    for name in NAMES:
        assert "odd name" in files[name]["skipped"], (name, files[name])
    assert tree(out) == {"good": "file"}


def test_odd_names_are_never_printed_raw(mayfly, out):
    code = f"import os\nos.chdir('/task/out')\nfor n in {NAMES!r}: open(n, 'w').write('x')"
    done = mayfly("run", "--out", out, "-c", code)
    assert done.returncode == 0
    said = done.stderr.replace(b"\n", b"")
    assert not [c for c in said if c < 0x20 or c == 0x7f], done.stderr
    assert done.stderr.decode().count("was not saved") == len(NAMES)
    assert b"\xc2\x9b" not in done.stderr


def test_dots_cannot_be_names(mayfly, out):
    code = ("for n in ('..', '.', '../escaped', '/task/escaped'):\n"
            "  try: open(n, 'w').write('x')\n  except OSError: pass\nos.mkdir('...')\nopen('.../file', 'w').write('x')\n"
            "open('..hidden', 'w').write('x')\n")
    result, files = leave(mayfly, code, out)
    assert tree(out) == {"...": "folder", ".../file": "file", "..hidden": "file"}
    assert tree(out.parent) == {"out": "folder", **{"out/" + name: kind for name, kind in tree(out).items()}}


def test_sparse_files_count_by_apparent_size(mayfly, out):
    code = ("open('sparse', 'w').truncate(100 << 20)\nopen('small', 'w').write('small')\n"
            "open('terabytes', 'w').truncate(200 << 20)\n")
    result, files = leave(mayfly, code, out, "--out-size", "1MiB")
    assert "bytes are more than what is left" in files[b"sparse"]["skipped"] and "104857600" in files[b"sparse"]["skipped"]
    assert files[b"terabytes"]["skipped"] and tree(out) == {"small": "file"}
    result, files = leave(mayfly, "open('sparse', 'w').truncate(3 << 20)", out, "--out-size", "4MiB")
    assert files[b"sparse"]["sizeBytes"] == 3 * MIB and files[b"sparse"]["written"]
    assert (out / "sparse").read_bytes() == bytes(3 * MIB)


def test_bytes_and_number_of_files_are_capped(mayfly, out):
    result, files = leave(mayfly, "for i in range(20): open(f'f{i:02}', 'w').write(str(i))", out, "--out-files", "5")
    assert sorted(tree(out)) == [f"f{i:02}" for i in range(5)]
    assert "more than 5 files" in files[b"f05"]["skipped"] and len(files) == 20
    result, files = leave(mayfly, "for i in range(4): open(f'g{i}', 'w').write('x' * 400)", out, "--out-size", "1000B")
    assert [files[f"g{i}".encode()]["written"] for i in range(4)] == [True, True, False, False]


def test_setuid_and_extended_attributes_are_dropped(mayfly, out):
    code = ("for mode in (0o4755, 0o2755, 0o1644, 0o6777):\n"
            "  n = oct(mode); open(n, 'w').write('x'); os.chmod(n, mode)\n"
            "try: os.setxattr('0o4755', 'user.mark', b'x')\nexcept OSError as e: print(e.errno)\n")
    result, files = leave(mayfly, code, out)
    for name, file in files.items():
        assert file["written"] and int(file["mode"], 8) & 0o7000 == 0
        made = os.lstat(out / name.decode())
        assert made.st_mode & 0o7000 == 0 and made.st_uid == os.geteuid()
        assert os.listxattr(out / name.decode()) == []
    assert len(files) == 4


def test_files_without_rights_come_all_the_same(mayfly, out):
    code = ("open('closed', 'w').write('x'); os.chmod('closed', 0)\n"
            "os.mkdir('d'); open('d/f', 'w').write('y'); os.chmod('d', 0)\n")
    result, files = leave(mayfly, code, out)
    assert (out / "closed").read_text() == "x" and (out / "d/f").read_text() == "y", files


def test_hard_links_come_as_files(mayfly, out):
    code = ("open('one', 'w').write('same'); os.link('one', 'two')\n"
            "try: os.link('/etc/passwd', 'passwd')\nexcept OSError: print('refused')\n")
    result, files = leave(mayfly, code, out)
    assert result["stdout"] == "refused\n"
    assert (out / "one").read_text() == (out / "two").read_text() == "same"
    assert (out / "one").stat().st_ino != (out / "two").stat().st_ino


def test_deep_trees_are_cut_and_named(mayfly, out):
    code = ("p = ''\nfor i in range(300):\n  try: os.mkdir('d'); os.chdir('d')\n  except OSError: break\n"
            "  open('f', 'w').write('x')\n")
    result, files = leave(mayfly, code, out)
    cut = [f for f in files.values() if "deeper than" in f["skipped"]]
    assert len(cut) == 1
    depths = [path.count("/") for path, kind in tree(out).items() if kind == "file"]
    assert depths and max(depths) <= 16


def test_many_names_are_bounded(mayfly, out):
    code = "for i in range(6000): os.mkdir(f'{i:05}')\n"
    result, files = leave(mayfly, code, out)
    assert "the rest was not looked at" in result["filesNote"], result["filesNote"]
    code = "for i in range(150): open(f'{i:05}', 'w').write(str(i))"
    result, files = leave(mayfly, code, out)
    assert len(tree(out)) == 150 and (out / "00149").read_text() == "149"


def test_a_long_name_comes(mayfly, out):
    name = "n" * 255
    result, files = leave(mayfly, f"open({name!r}, 'w').write('x')", out)
    assert tree(out) == {name: "file"}


# --- the caller's folder -----------------------------------------------------------------


def test_links_in_the_callers_folder_are_not_written_through(mayfly, out, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (outside / "hard").write_text("kept")
    out.mkdir()
    (out / "file").symlink_to(outside / "kept")
    (out / "dangling").symlink_to(outside / "new")
    (out / "folder").symlink_to(outside)
    (out / "dots").symlink_to("..")
    os.link(outside / "hard", out / "hard")
    code = ("open('file', 'w').write('task')\nopen('dangling', 'w').write('task')\nopen('hard', 'w').write('task')\n"
            "os.mkdir('folder'); open('folder/kept', 'w').write('task'); open('folder/new', 'w').write('task')\n"
            "os.mkdir('dots'); open('dots/new', 'w').write('task')\n")
    result, files = leave(mayfly, code, out)
    assert tree(outside) == {"kept": "file", "hard": "file"}
    assert (outside / "kept").read_text() == (outside / "hard").read_text() == "kept"
    assert sorted(os.listdir(tmp_path)) == ["out", "outside"]
    # The files took the links' places; the folders that are links were refused.
    for name in ("file", "dangling", "hard"):
        assert (out / name).read_text() == "task" and not (out / name).is_symlink()
    for name in (b"folder/kept", b"folder/new", b"dots/new"):
        assert not files[name]["written"] and "is not a folder" in files[name]["whyNotWritten"]


def test_a_file_where_a_folder_stands_replaces_nothing(mayfly, out):
    (out / "name").mkdir(parents=True)
    (out / "name/kept").write_text("kept")
    (out / "plain").write_text("kept")
    code = "open('name', 'w').write('task')\nos.mkdir('plain'); open('plain/f', 'w').write('task')"
    result, files = leave(mayfly, code, out)
    assert not files[b"name"]["written"] and not files[b"plain/f"]["written"]
    assert (out / "name/kept").read_text() == (out / "plain").read_text() == "kept"
    assert sorted(os.listdir(out)) == ["name", "plain"]


def test_out_that_is_no_folder_is_an_error_before_any_task(mayfly, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("kept")
    for out in (plain, tmp_path / "no/such/parent", pathlib.Path("/proc/version")):
        done = mayfly("run", "--out", out, "-c", "print('ran')")
        assert done.returncode == 125 and done.stdout == b"" and b"--out" in done.stderr
    assert plain.read_text() == "kept"
