"""The probes in real boxes: not one reaches anything. Their controls are in test_controls.py."""

import os
import secrets
import stat

import pytest

import cases
import stage


def run_probe(mayfly, tmp_path, host, probe, args=(), params=None, flags=()):
    """Runs the probe as a task; returns its result, with `report` if it lived to give one."""
    folder = stage.copy_probe(tmp_path, probe, {**host.params, **(params or {})})
    result = mayfly.run("-t", "python", "--env", "PYTHONDONTWRITEBYTECODE=1", "--file", folder / "escapekit.py", "--file",
                        folder / "params.json", *flags, folder / f"{probe}.py", *args,
                        env={**mayfly.environment, "MFTOKEN": host.token}, cwd=tmp_path)
    result["report"] = stage.report_of(stage.output_of(result))
    return result


def assert_gone(result):
    assert result["receipt"]["complete"], result["receipt"]


@pytest.mark.parametrize("wall", cases.WALLS, ids=lambda w: w.probe)
def test_nothing_is_reached(mayfly, tmp_path, host, wall):
    result = run_probe(mayfly, tmp_path, host, wall.probe, params=wall.params)
    assert result["report"], (result["verdict"], result["reason"], result["stderr"][-2000:])
    assert result["report"]["reached"] == [], result["report"]["evidence"]
    assert result["verdict"] == "succeeded", result["reason"]
    assert_gone(result)


def test_a_shell_reaches_nothing(mayfly, host):
    result = mayfly.run("-t", "shell", "--file", stage.PROBES / "shell_tour.sh", "--", *stage.tour(host))
    report = stage.report_of(stage.output_of(result))
    assert report and report["reached"] == [], (report, result["stderr"])
    assert_gone(result)


@pytest.mark.parametrize("kind", cases.TWO_BOXES)
def test_two_boxes_do_not_meet(mayfly, tmp_path, host, kind):
    meet(mayfly, tmp_path, host, kind)


@pytest.mark.parametrize("kind", cases.SHARED_BLOB)
def test_two_boxes_with_one_blob_do_not_meet(mayfly, tmp_path, host, kind):
    meet(mayfly, tmp_path, host, kind, ("--file", stage.blob_file(tmp_path)))


def meet(mayfly, tmp_path, host, kind, flags=()):
    token = secrets.token_hex(4)
    with stage.serve(mayfly, tmp_path, kind, token, flags) as server:
        result = run_probe(mayfly, tmp_path, host, "two_boxes", ("reach", kind, token), flags=flags)
        assert server.poll() is None, "the server's box ended before the other tried"
    assert result["report"], (result["verdict"], result["reason"], result["stdout"][-500:], result["stderr"][-2000:])
    assert result["report"]["reached"] == [], result["report"]["evidence"]
    assert_gone(result)


@pytest.mark.xfail(strict=True, reason="locks and pages of the shared image's files: docs/threat_model.md, known limits")
@pytest.mark.parametrize("kind", cases.KNOWN_CHANNELS)
def test_known_channel_between_two_boxes(mayfly, tmp_path, host, kind):
    meet(mayfly, tmp_path, host, kind)


@pytest.mark.xfail(strict=True, reason="pages that a zygote's clones share: docs/threat_model.md, known limits")
@pytest.mark.parametrize("kind", cases.ZYGOTE_CHANNELS)
def test_known_channel_between_two_clones(mayfly, tmp_path, host, kind):
    meet(mayfly, tmp_path, host, kind)


@pytest.mark.parametrize("kind", cases.ZYGOTE_CHANNELS)
def test_a_clone_alone_sees_no_neighbour(mayfly, tmp_path, host, kind):
    for _ in range(3):
        result = run_probe(mayfly, tmp_path, host, "two_boxes", ("reach", kind, "1"))
        if "no mapping is unused" not in result["stderr"]:  # in this clone: then it has nothing to look at
            break
    assert result["report"], (result["verdict"], result["reason"], result["stdout"][-500:], result["stderr"][-2000:])
    assert result["report"]["reached"] == [], result["report"]["evidence"]


@pytest.mark.xfail(strict=True, reason="the kernel has no namespace for it: docs/threat_model.md, known limits")
@pytest.mark.parametrize("fact", cases.HOST_FACTS)
def test_known_fact_of_the_host(mayfly, tmp_path, host, fact):
    result = run_probe(mayfly, tmp_path, host, "host_facts", params=stage.host_facts())
    assert result["report"], (result["verdict"], result["reason"], result["stdout"][-500:], result["stderr"][-2000:])
    assert fact not in result["report"]["reached"], result["report"]["evidence"]


@pytest.mark.parametrize("kind", cases.SHARED_IMAGE)
def test_the_shared_image_tells_nothing(mayfly, tmp_path, host, kind):
    """The server would print EVENT; its output ends with its box."""
    with stage.serve(mayfly, tmp_path, kind, "1") as server:
        result = run_probe(mayfly, tmp_path, host, "two_boxes", ("reach", kind, "1"))
        assert result["verdict"] == "succeeded", result
        server.stdin.close()
        assert server.stdout.read() == b""


@pytest.mark.parametrize("kind,verdict,number", cases.FORGERIES, ids=[f[0] for f in cases.FORGERIES])
def test_verdict_cannot_be_forged(mayfly, tmp_path, host, kind, verdict, number):
    result = run_probe(mayfly, tmp_path, host, "forgery", (kind,), flags=("--timeout", "3s"))
    assert result["verdict"] == verdict, result["reason"]
    if verdict in ("failed", "succeeded"):
        assert result["exitCode"] == number
    if verdict == "signaled":
        assert result["signal"] == number
    assert_gone(result)
    # A descendant that holds the pipes delays nothing but the kill.
    if verdict != "wallTime":
        assert result["phases"]["receiptNs"] - result["phases"]["exitedNs"] < 2_000_000_000, result["phases"]


def collected(folder):
    """Every path below it, as bytes, with its kind."""
    top = os.fsencode(folder)
    return {os.path.relpath(os.path.join(base, name), top): os.lstat(os.path.join(base, name))
            for base, folders, names in os.walk(top) for name in folders + names}


@pytest.mark.parametrize("kind", cases.OUT_FILES)
def test_out_files_are_files_of_the_task(mayfly, tmp_path, host, kind):
    out = tmp_path / "out"
    result = run_probe(mayfly, tmp_path, host, "out_files", (kind,), flags=("--out", out, "--timeout", "30s", "--file-size", "2GiB"))
    assert_gone(result)
    if result["report"]:
        assert result["report"]["reached"] == [], result["report"]["evidence"]
    marker = open(host.params["marker"], "rb").read()
    files = collected(out)
    regular = {path: info for path, info in files.items() if stat.S_ISREG(info.st_mode)}
    for path, info in files.items():
        full = os.path.join(os.fsencode(out), path)
        assert path in regular or stat.S_ISDIR(info.st_mode), path
        assert not info.st_mode & 0o7000, path
        if path in regular:
            assert info.st_nlink == 1, path
            content = open(full, "rb").read(1 << 20)
            assert marker not in content and b"root:x:0:0" not in content, path
            assert os.listxattr(full) == [], path
        assert b"\n" not in path and b"\x1b" not in path, path
    assert sum(info.st_size for info in regular.values()) <= result["limits"]["outFilesBytes"]
    assert len(regular) <= result["limits"]["outFiles"]
    skipped = {f["path"]: f["skipped"] for f in result["files"] if f["skipped"]}
    if kind == "symlinks":
        assert {"absolute", "relative", "root", "up", "loop", "magic"} <= set(skipped), result["files"]
    if kind == "special":
        assert {"fifo", "socket"} <= set(skipped)
    if kind in ("many", "deep", "sparse"):
        assert skipped or result["filesNote"], "what is not collected is reported"
    if kind not in ("replaced", "locked", "growing", "swapped", "many"):
        assert (out / "good").read_bytes() == b"good"
