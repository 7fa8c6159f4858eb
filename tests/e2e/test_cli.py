"""The command line: its output, exit codes and refusals."""

import base64
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from light import light
from test_lifecycle import Daemon

SECONDS_MAX = 60
WAITING = "import sys\nprint('up', flush=True)\nprint('got', sys.stdin.readline())"
FOR_EVER = "import time\nprint('up', flush=True)\ntime.sleep(600)"


def tasks(mayfly):
    return json.loads(mayfly("ps", "--json").stdout)["tasks"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The command line with a daemon that no other test uses, so that all its tasks are this test's."""
    daemon = Daemon(tmp_path_factory.mktemp("alone"), templates=("python",), **light())
    try:
        yield daemon.start().cli
    finally:
        daemon.end()


@pytest.fixture
def mark(mayfly):
    """The id of the last task before this test."""
    return mayfly.run("-c", "")["id"]


def last_line(done):
    return done.stderr.decode().strip().splitlines()[-1]


# --- what is printed where -----------------------------------------------------------------


@pytest.mark.parametrize("code", ["print('x')", "1/0", "import os; os.abort()", "import sys; sys.exit(3)"])
def test_json_is_exactly_one_object_and_stderr_is_silent(mayfly, code):
    done = mayfly("run", "--json", "-c", code)
    value, end = json.JSONDecoder().raw_decode(done.stdout.decode())
    assert done.stdout.decode()[end:].strip() == "" and isinstance(value, dict)
    assert done.stderr == b""
    for key in ("id", "template", "verdict", "exitCode", "signal", "reason", "capValue", "stdout", "stderr", "limits",
                "usage", "phases", "receipt", "files", "filesNote", "filesLost", "stdoutTruncated", "stderrTruncated"):
        assert key in value, key


@pytest.mark.parametrize("args", [["-t", "none", "-c", "1"], ["--memory", "100TiB", "-c", "1"], ["/no/such/script.py"],
                                  ["--file", "/no/such/file", "-c", "1"], ["--out", "/proc/version", "-c", "1"],
                                  ["--socket", "/no/such/socket", "-c", "1"]])
def test_json_of_an_error_is_one_object_too(mayfly, args):
    done = mayfly("run", "--json", *args)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 125 and done.stderr == b""
    assert error["code"] and error["message"]


def test_output_is_live_and_streams_stay_apart(mayfly):
    client = mayfly.start("run", "--stdin", "-c", "import sys\nprint('one', flush=True)\n"
                          "sys.stdin.readline()\nprint('two', file=sys.stderr, flush=True)\nsys.stdin.readline()\nprint('end')")
    # Each step waits for the step before, so delayed output would hang here.
    assert client.stdout.readline() == b"one\n"
    client.stdin.write(b"go\n")
    client.stdin.flush()
    assert client.stderr.readline() == b"two\n"
    out, err = client.communicate(b"go\n", timeout=SECONDS_MAX)
    assert out == b"end\n" and err.startswith(b"mayfly: succeeded") and client.returncode == 0


def test_output_without_a_newline_is_live(mayfly):
    client = mayfly.start("run", "--stdin", "-c", "import sys\nsys.stdout.write('prompt> '); sys.stdout.flush()\nsys.stdin.readline()")
    assert client.stdout.read(8) == b"prompt> "
    client.communicate(b"\n", timeout=SECONDS_MAX)
    assert client.returncode == 0


def test_bytes_pass_unchanged(mayfly):
    blob = bytes(range(256)) * 512
    done = mayfly("run", "-q", "--stdin", "-t", "shell", "--", "cat", input=blob)
    assert done.stdout == blob and done.stderr == b"" and done.returncode == 0


def test_bytes_that_are_no_utf8_are_base64_in_json(mayfly):
    result = mayfly.run("-c", "import os; os.write(1, b'\\xff\\x00\\xfe'); os.write(2, '\\u00fc\\0'.encode())")
    assert result["stdoutBase64"] is True and base64.b64decode(result["stdout"]) == b"\xff\x00\xfe"
    assert result["stderrBase64"] is False and result["stderr"] == "ü\0"


def test_megabytes_come_whole(mayfly):
    done = mayfly("run", "-q", "-c", "import sys; sys.stdout.buffer.write(bytes(6 << 20))")
    assert len(done.stdout) == 6 << 20 and done.returncode == 0


def test_the_verdict_is_one_line_on_stderr(mayfly):
    done = mayfly("run", "-c", "print(1)")
    assert re.fullmatch(r"mayfly: succeeded \| [^|]+, cpu [^|]+, peak [^|]+ \| box \d+ is gone\n", done.stderr.decode())
    assert mayfly("run", "-q", "-c", "print(1)").stderr == b""
    done = mayfly("run", "-q", "--timeout", "100ms", "-c", "import time; time.sleep(600)")
    assert done.stderr.decode().startswith("mayfly: wallTime: killed at its wall time cap of 100 ms |")


# --- exit codes ------------------------------------------------------------------------------

CODES = [
    (["-c", "pass"], 0, "succeeded"),
    (["-c", "import sys; sys.exit(42)"], 42, "failed: exit code 42"),
    (["-c", "import os; os._exit(124)"], 124, "failed: exit code 124"),
    (["--timeout", "100ms", "-c", "import time; time.sleep(600)"], 124, "wallTime"),
    (["--cpu-time", "100ms", "-c", "while True: pass"], 124, "cpuTime"),
    (["--memory", "32MiB", "-c", "b = b'x' * (100 << 20)"], 137, "memory"),
    (["--pids", "5", "-c", "import os\nwhile True: os.fork()"], 137, "processes"),
    (["--output", "1KiB", "-c", "print('x' * 5000)"], 137, "output"),
    (["--disk", "2MiB", "-c", "open('f', 'wb').write(bytes(4 << 20))"], 137, "disk"),
    (["-c", "import os; os.kill(os.getpid(), 15)"], 128 + 15, "signaled: SIGTERM"),
    (["-c", "import os; os.kill(os.getpid(), 9)"], 128 + 9, "signaled: SIGKILL"),
]


@pytest.mark.parametrize("args, code, line", CODES)
def test_exit_code(mayfly, args, code, line):
    done = mayfly("run", *args)
    assert done.returncode == code, done.stderr
    assert last_line(done).startswith("mayfly: " + line), done.stderr


@pytest.mark.parametrize("args", [
    ["-t", "none", "-c", "1"], ["--nonsense", "-c", "1"], [], ["-c"], ["--memory", "lots", "-c", "1"],
    ["--env", "novalue", "-c", "1"], ["--env", "=x", "-c", "1"], ["--env", "9A=x", "-c", "1"],
    ["--env", "A=1", "--env", "A=2", "-c", "1"], ["--seed", "x", "-c", "1"], ["--seed", "-1", "-c", "1"],
    ["-t", "shell", "--"], ["-c", "1", "--", "true"], ["--stdin", "-"], ["/no/such/script.py"], ["/tmp"],
    ["--file", "/no/such/file", "-c", "1"], ["--file", "/tmp", "-c", "1"], ["--file", "/dev/null:../x", "-c", "1"],
    ["--file", "/dev/null:/x", "-c", "1"], ["--file", "/dev/null:out", "-c", "1"], ["--file", "/dev/null:a//b", "-c", "1"],
    ["--file", "/dev/null:a", "--file", "/dev/null:a", "-c", "1"], ["--file", "/dev/null:con", "-c", "1"],
])
def test_errors_are_125_with_one_clear_message(mayfly, args):
    done = mayfly("run", *args, stdin=subprocess.DEVNULL)
    assert done.returncode == 125 and done.stdout == b""
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("mayfly: ") and len(lines[0]) > 15 and len(lines) <= 4, done.stderr
    assert "box" not in lines[-1]


def test_a_command_in_a_fork_template_is_a_clear_error_and_code_in_an_exec_one(mayfly):
    done = mayfly("run", "-t", "python", "--", "ls")
    assert done.returncode == 125 and b"'python' runs code, no commands" in done.stderr
    done = mayfly("run", "-t", "shell", "-c", "ls")
    assert done.returncode == 125 and b"'shell' runs commands, no code" in done.stderr


def test_an_unknown_template_is_named(mayfly):
    done = mayfly("run", "-t", "pyhton", "-c", "1")
    assert done.returncode == 125 and b"pyhton" in done.stderr


def test_no_daemon_is_said_with_what_to_do(mayfly, tmp_path):
    for verb in (["run", "-c", "1"], ["ps"], ["templates"], ["kill", "1"]):
        done = mayfly("--socket", tmp_path / "none.sock", *verb)
        said = done.stderr.decode()
        assert done.returncode == 125 and "none.sock" in said and done.stdout == b""
        assert len(said.splitlines()) == 2  # the fault, and the remedy
    # A socket that is not a daemon's: refused, without a hang.
    (tmp_path / "plain").write_text("x")
    assert mayfly("--socket", tmp_path / "plain", "ps").returncode == 125


def test_commands_that_do_not_exist_exit_as_in_a_shell(mayfly):
    done = mayfly("run", "-t", "shell", "--", "no-such-command")
    assert done.returncode == 127 and b"no-such-command" in done.stderr
    assert mayfly("run", "-t", "shell", "--", "/etc/passwd").returncode == 126


# --- what goes in ----------------------------------------------------------------------------


def test_script_with_arguments_that_look_like_options(mayfly, tmp_path):
    script = tmp_path / "a script.py"
    script.write_text("import sys; print(sys.argv)")
    done = mayfly("run", "-q", script, "--json", "-t", "x", "--", "-c", "", "ü", "--memory=0")
    assert done.stdout.decode() == "['/task/a script.py', '--json', '-t', 'x', '--', '-c', '', 'ü', '--memory=0']\n" or \
        done.stdout.decode() == "['a script.py', '--json', '-t', 'x', '--', '-c', '', 'ü', '--memory=0']\n", done.stdout
    assert done.returncode == 0


def test_code_with_arguments(mayfly):
    # After -c, the first word that is not an option of mayfly belongs to the program, and so does
    # the rest.
    done = mayfly("run", "-c", "import sys; print(sys.argv)", "-q", "first", "-t", "none", "--help")
    assert done.stdout == b"['-c', 'first', '-t', 'none', '--help']\n", done


def test_program_from_standard_input(mayfly):
    done = mayfly("run", "-q", "-", "a", "-b", input=b"import sys; print(sys.argv)")
    assert done.stdout == b"['-', 'a', '-b']\n" and done.returncode == 0


def test_command_words_arrive_as_they_are(mayfly):
    done = mayfly("run", "-q", "-t", "shell", "--", "printf", "%s|", "a b", "", "--", "$HOME", "*", "ü")
    assert done.stdout.decode() == "a b||--|$HOME|*|ü|"


def test_environment_has_what_is_given_and_nothing_of_ours(mayfly):
    environment = {**mayfly.environment, "SECRET_OF_THE_CALLER": "canary"}
    done = mayfly("run", "-q", "-t", "shell", "--env", "ONE=1", "--env", "EMPTY=", "--env", "SPACES=a = b\nc", "--",
                  "env", "-0", env=environment)
    seen = dict(pair.split("=", 1) for pair in done.stdout.decode().strip("\0").split("\0"))
    assert (seen["ONE"], seen["EMPTY"], seen["SPACES"]) == ("1", "", "a = b\nc")
    assert set(seen) - {"ONE", "EMPTY", "SPACES"} <= {"HOME", "PATH", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "SHELL",
                                                     "TMPDIR", "PWD", "HOSTNAME", "TERM"}, seen
    assert b"canary" not in done.stdout
    # A variable that the task sets replaces the default.
    assert mayfly("run", "-q", "-t", "shell", "--env", "HOME=/tmp", "--", "sh", "-c", "echo $HOME").stdout == b"/tmp\n"


def test_standard_input_is_empty_unless_asked_for(mayfly):
    done = mayfly("run", "-q", "-c", "import sys; print(repr(sys.stdin.read()))", input=b"not for it")
    assert done.stdout == b"''\n"


def test_standard_input_of_megabytes_goes_in_pieces(mayfly):
    blob = os.urandom(1 << 20) * 20
    done = mayfly("run", "-q", "--stdin", "-t", "shell", "--", "sha256sum", input=blob)
    import hashlib
    assert done.stdout.split()[0].decode() == hashlib.sha256(blob).hexdigest()


def test_standard_input_beyond_its_cap_is_refused(mayfly):
    done = mayfly("run", "-q", "--stdin", "--input", "64KiB", "-t", "shell", "--", "wc", "-c", input=bytes(1 << 20))
    assert b"mayfly: " in done.stderr and int(done.stdout or 0) <= 65536


def test_stdin_is_forwarded_as_it_comes_and_the_output_is_live(mayfly):
    task = mayfly.start("run", "--stdin", "-c", "for line in open(0): print(line.upper(), end='', flush=True)")
    for word in (b"one\n", b"two\n"):
        task.stdin.write(word)
        task.stdin.flush()
        assert task.stdout.readline() == word.upper()
    out, err = task.communicate()
    assert (task.returncode, out) == (0, b""), err


def test_much_stdin_and_much_output_pass_whole(mayfly):
    data = os.urandom(5_000_000)
    done = mayfly("run", "-q", "--stdin", "--output", "16M", "-c",
                  "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)", input=data)
    assert done.returncode == 0 and done.stdout == data, (done.returncode, len(done.stdout), done.stderr)


def test_standard_input_that_nobody_reads_hangs_nothing(mayfly):
    done = mayfly("run", "-q", "--stdin", "-c", "print('done')", input=bytes(10 << 20))
    assert done.stdout == b"done\n" and done.returncode == 0


def test_input_files(mayfly, tmp_path):
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "run.sh").write_text("#!/bin/sh\necho ran")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "b:c").write_text("colon")
    (tmp_path / "blob").write_bytes(bytes(range(256)))
    done = mayfly("run", "-q", "-t", "shell", "--file", tmp_path / "a.txt", "--file", f"{tmp_path}/a.txt:sub/dir/renamed",
                  "--file", tmp_path / "run.sh", "--file", tmp_path / "b:c", "--file", tmp_path / "blob", "--",
                  "bash", "-c", "cat a.txt sub/dir/renamed b:c; ./run.sh; stat -c %s blob; pwd")
    assert done.stdout == b"AAcolonran\n256\n/task\n", done


def test_seed_makes_equal_and_none_makes_different(mayfly):
    code = "import random, os; print(random.random(), end=' ')"
    one, two, other = (mayfly("run", "-q", *flags, "-c", code).stdout for flags in (["--seed", "7"], ["--seed", "7"], []))
    assert one == two != other


# --- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_and_the_receipt_is_awaited(mayfly, number):
    client = mayfly.start("run", "-c", FOR_EVER)
    assert client.stdout.readline() == b"up\n"
    client.send_signal(number)
    out, err = client.communicate(timeout=SECONDS_MAX)
    assert client.returncode == 130
    assert re.search(rb"^mayfly: cancelled.*box \d+ is gone$", err, re.M), err


def test_a_signal_with_json_gives_the_result(alone):
    client = alone.start("run", "--json", "-c", FOR_EVER)
    while not [t for t in tasks(alone) if t["state"] == "running"]:
        assert client.poll() is None
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=SECONDS_MAX)
    result = json.loads(out)
    assert result["verdict"] == "cancelled" and result["receipt"]["complete"] and client.returncode == 130


def test_a_closed_pipe_ends_the_task(mayfly):
    client = mayfly.start("run", "-c", "print('up', flush=True)\nwhile True: print('x' * 1000)")
    assert client.stdout.readline() == b"up\n"
    client.stdout.close()
    assert client.wait(SECONDS_MAX) == 141
    client.stderr.close()
    client.stdin.close()


def test_a_reader_that_stops_slows_the_task_down(alone):
    """A task can't run ahead of its reader by more than the buffers in between."""
    task = alone.start("run", "-q", "--output", "32M", "--timeout", "60s", "-c", """
import sys, os
for i in range(3000): os.write(1, b'x' * 10000)
""")
    got = task.stdout.read(1000)
    other = alone("run", "-c", "print(2)")  # another task is not delayed
    assert other.stdout == b"2\n"
    assert [t['state'] for t in tasks(alone)] == ['running']  # its output is unread, so it can't have ended
    got += task.stdout.read()
    assert task.wait() == 0 and len(got) == 30_000_000


def test_many_at_once(mayfly):
    """Twenty command lines at once: each gets its own output."""
    results = {}

    def one(i):
        results[i] = mayfly("run", "-q", "-c", f"print({i} * 7)")

    threads = [threading.Thread(target=one, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: r.stdout for i, r in results.items()} == {i: b"%d\n" % (i * 7) for i in range(20)}, results


# --- ps, kill, templates, doctor, help -----------------------------------------------------------


def test_ps_and_kill(alone):
    client = alone.start("run", "-c", FOR_EVER)
    assert client.stdout.readline() == b"up\n"
    [task] = [t for t in tasks(alone) if t["state"] == "running"]
    assert task["template"] == "python"
    assert pathlib.Path(f"/proc/{task['pidHost']}/ns/pid").exists()
    table = alone("ps").stdout.decode().splitlines()
    assert table[0].split() == ["ID", "TEMPLATE", "STATE", "AGE", "RUNS", "PID"]
    assert [row for row in table if row.split()[0] == str(task["id"]) and row.split()[-1] == str(task["pidHost"])]
    done = alone("kill", task["id"])
    assert done.returncode == 0 and done.stdout == done.stderr == b""
    out, err = client.communicate(timeout=SECONDS_MAX)
    assert client.returncode == 130 and b"cancelled" in err
    assert tasks(alone) == []


def test_kill_of_what_is_not_there(mayfly, mark):
    for number in (mark, mark + 1_000_000):
        done = mayfly("kill", number)
        assert done.returncode == 1 and str(number).encode() in done.stderr
    assert mayfly("kill", "all").returncode == 2 and mayfly("kill").returncode == 2


def test_templates(mayfly):
    listed = {t["name"]: t for t in json.loads(mayfly("templates", "--json").stdout)["templates"]}
    assert {"python", "python-data", "shell"} <= set(listed)
    assert (listed["python"]["mechanism"], listed["shell"]["mechanism"]) == ("fork", "exec")
    for each in listed.values():
        assert each["state"] == "ready" and re.fullmatch(r"(sha256:)?[0-9a-f]{64}", each["imageDigest"])
        for cap, value in each["defaults"].items():
            assert (0 if cap == "graceMs" else 1) <= value <= each["maximum"][cap], (each["name"], cap)
    table = mayfly("templates").stdout.decode().splitlines()
    assert table[0].startswith("NAME") and {row.split()[0] for row in table[1:]} >= {"python", "shell"}


def test_the_templates_maximum_is_allowed_and_one_more_is_not(mayfly):
    [python] = [t for t in json.loads(mayfly("templates", "--json").stdout)["templates"] if t["name"] == "python"]
    most = python["maximum"]["processes"]
    assert mayfly.run("--pids", most, "-c", "pass")["limits"]["processes"] == most
    assert mayfly("run", "--pids", most + 1, "-c", "pass").returncode == 125


def test_doctor(mayfly):
    done = mayfly("doctor", "--quick", "--json")
    report = json.loads(done.stdout)
    assert report["lines"] and report["budget"]["boxes"] > 0
    assert done.returncode == (1 if report["lostPromises"] else 0)
    done = mayfly("doctor", "--quick")
    assert done.returncode in (0, 1) and len(done.stdout.splitlines()) >= len(report["lines"])
    assert max(map(len, done.stdout.decode().splitlines())) <= 200


def test_doctor_and_log_agree_on_the_boxes_that_fit(tmp_path):
    daemon = Daemon(tmp_path, templates=("python",), config="boxes_max = 9\nparked_max = 2\nstocked_max = 1\n", **light())
    try:
        log = re.search(r"(\d+) tasks fit at the default caps, (.+?) binds;", daemon.start().log.read_text())
        told = json.loads(daemon.cli("doctor", "--quick", "--json", "--config", daemon.config).stdout)["budget"]
        assert (str(told["boxes"]), told["binds"]) == log.groups()
        assert f"({log[1]} tasks fit; {log[2]} binds)" in daemon.cli("doctor", "--quick", "--config", daemon.config).stdout.decode()
        assert told["boxes"] == min(part["tasks"] for part in told["parts"])
    finally:
        daemon.end()


def test_the_version_needs_no_daemon(mayfly, tmp_path):
    done = mayfly("--socket", tmp_path / "none", "--version")
    assert done.returncode == 0 and re.fullmatch(rb"mayfly \d+\.\d+\.\d+\n", done.stdout) and done.stderr == b""


@pytest.mark.parametrize("args, says", [
    (["rnu", "x.py"], "the nearest is 'run'"), (["task", "lst"], "the nearest is 'list'"), (["image", "prnue"], "the nearest is 'prune'"),
    (["image", "list", "--jsn"], "the nearest is '--json'"), (["template", "chek", "x"], "the nearest is 'check'"),
    (["pool", "replya"], "there is `replay`"), (["run", "--memroy", "1G", "x.py"], "the nearest is '--memory'"),
    (["run", "--memory", "64Mb", "-c", "1"], "ambiguous"), (["run", "-t", "shell", "no-such-word", "hi"], "mayfly run -t shell -- no-such-word hi"),
    (["run", "--file", "a", "b", "s.py"], "--file a --file b s.py"),
    (["run", "-t", "shell", "-m", "json.tool"], "template 'shell' runs no modules"),
    (["run", "-t", "perl", "-m", "json.tool"], "template 'perl' runs no modules"),
])
def test_a_wrong_word_is_told_with_the_right_one(mayfly, args, says):
    done = mayfly(*args)
    assert done.returncode in (2, 125) and done.stdout == b"", done
    assert says in done.stderr.decode(), done.stderr


def test_sizes_are_written_as_users_do(mayfly):
    assert mayfly.run("--memory", "64m", "-c", "")["limits"]["memoryBytes"] == 64 << 20
    assert mayfly.run("--memory", "64MB", "-c", "")["limits"]["memoryBytes"] == 64_000_000


def test_a_module_of_the_current_folder_comes_along(mayfly, tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/mod.py").write_text("import sys\nfrom . import beside\nprint(__name__, __package__, beside.said, sys.argv[1:])")
    (tmp_path / "pkg/beside.py").write_text("said = 'beside'")
    (tmp_path / "pkg/.env").write_text("SECRET=1")
    done = mayfly("run", "-m", "pkg.mod", "--memory", "x", cwd=tmp_path)
    assert done.stdout.decode() == "__main__ pkg beside ['--memory', 'x']\n", done
    hidden = mayfly("run", "-m", "pkg.listing", cwd=tmp_path)
    assert hidden.returncode == 1 and b"No module named pkg.listing" in hidden.stderr
    (tmp_path / "pkg/listing.py").write_text("import os\nprint(os.path.exists('/task/pkg/.env'))")
    assert mayfly("run", "-m", "pkg.listing", cwd=tmp_path).stdout == b"False\n"


def test_an_archive_larger_than_code_may_be_runs(mayfly, tmp_path):
    app = tmp_path / "app"
    app.mkdir()
    (app / "__main__.py").write_text("import pkgutil\nprint(len(pkgutil.get_data('__main__', 'data')))")
    (app / "data").write_bytes(os.urandom(6 << 20))
    subprocess.run([sys.executable, "-m", "zipapp", app], check=True)
    assert mayfly("run", tmp_path / "app.pyz").stdout == b"6291456\n"


def test_version_of_both_sides(mayfly):
    both = json.loads(mayfly("version", "--json").stdout)
    assert re.fullmatch(r"\d+\.\d+\.\d+", both["client"]) and both["daemon"] == both["client"]


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["ps", "--help"], ["kill", "-h"], ["templates", "--help"],
                                  ["doctor", "--help"], ["image", "--help"], ["task", "--help"], ["blob", "--help"]])
def test_help_fits_a_terminal_and_goes_to_stdout(mayfly, args):
    done = mayfly(*args)
    assert done.returncode == 0 and done.stderr == b"" and len(done.stdout) > 100
    wide = [line for line in done.stdout.decode().splitlines() if len(line) > 100]
    assert not wide, wide


def test_help_of_run_names_every_cap(mayfly):
    text = mayfly("run", "--help").stdout.decode()
    for flag in ("--memory", "--cpus", "--wall-time", "--timeout", "--cpu-time", "--pids", "--files", "--disk", "--output", "--inodes",
                 "--file-size", "--input", "--env", "--stdin", "--seed", "--json", "--out", "--file", "--template"):
        assert flag in text, flag


def test_wrong_verbs_are_refused(mayfly):
    for args in ([], ["rnu"], ["ps", "--nonsense"]):
        done = mayfly(*args)
        assert done.returncode == 2 and done.stdout == b"" and done.stderr.startswith(b"mayfly: ")


# --- the terminal ------------------------------------------------------------------------------------

RAW = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")


@pytest.mark.parametrize("args", [
    ["-t", "te\x1b[31mred", "-c", "1"], ["-t", "bell\x07\r", "-c", "1"], ["--env", "A\x1b]0;t\x07=1", "-c", "1"],
    ["/no/such/\x1b[2Jscript"], ["--file", "/no/such/\x1b[2Jfile", "-c", "1"], ["--memory", "1\x1b[0m", "-c", "1"],
    ["--file", "/dev/null:na\x1bme", "-c", "1"], ["--\x1b[31mflag", "-c", "1"], ["-t", "c1\u009b31m", "-c", "1"],
    ["--socket", "/no/\x1b[31msocket", "-c", "1"],
])
def test_control_characters_of_names_are_never_printed_raw(mayfly, args):
    done = mayfly("run", *args)
    assert done.returncode == 125 and done.stdout == b""
    assert not RAW.search(done.stderr), done.stderr
    done = mayfly("run", "--json", *args)
    assert not RAW.search(done.stdout + done.stderr), (done.stdout, done.stderr)


def test_json_escapes_the_control_characters_of_a_task(mayfly):
    done = mayfly("run", "--json", "-c", "print('\\x1b[31m\\x07\\x9b')")
    assert not RAW.search(done.stdout), done.stdout
    assert json.loads(done.stdout)["stdout"] == "\x1b[31m\x07\x9b\n"


def test_a_command_that_is_not_there_is_not_named_raw(mayfly):
    done = mayfly("run", "-t", "shell", "--", "no\x1b[31mred")
    assert done.returncode == 127 and not RAW.search(done.stderr), done.stderr


def test_the_kernels_thread_name_of_a_task_stays_in_its_box(mayfly):
    """A task that renames itself can't write to the terminal of a user who lists tasks."""
    client = mayfly.start("run", "-c", "import ctypes\nctypes.CDLL(None).prctl(15, b'\\x1b[31mred', 0, 0, 0)\n" + FOR_EVER)
    assert client.stdout.readline() == b"up\n"
    for args in (["ps"], ["ps", "--json"]):
        assert not RAW.search(mayfly(*args).stdout)
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=SECONDS_MAX)


def test_a_detached_task_is_left_found_waited_for_and_closed(mayfly, tmp_path):
    key = f"key-{os.getpid()}-{time.monotonic_ns()}"
    program = "import sys; print('said'); print('err', file=sys.stderr); open('out/f', 'w').write('kept'); sys.exit(3)"
    submit = ("run", "--detach", "--key", key, "--collect", "-c", program)
    first = mayfly(*submit)
    assert first.returncode == 0 and first.stdout.strip().isdigit(), first
    task = first.stdout.decode().strip()
    again = json.loads(mayfly("run", "--json", *submit[1:]).stdout)
    assert again == {"id": int(task), "existing": True}
    info = json.loads(mayfly("task", "info", task, "--json").stdout)
    assert info["id"] == int(task) and info["yours"] and info["state"] in ("queued", "making", "running", "ending", "done")
    for name in (task,), ("--key", key):  # its result is there for every client that asks
        waited = mayfly("task", "wait", *name, "--out", tmp_path)
        assert waited.returncode == 3
        assert waited.stdout == b"said\n" and waited.stderr.startswith(b"err\nmayfly: failed: exit code 3")
        assert (tmp_path / "f").read_text() == "kept"
    assert b"done" in mayfly("task", "info", task).stdout
    result = json.loads(mayfly("task", "wait", "--key", key, "--json").stdout)
    assert (result["verdict"], result["stdout"], result["exitCode"]) == ("failed", "said\n", 3)
    assert mayfly("task", "close", task).returncode == 0
    gone = mayfly("task", "wait", "--json", "--key", key)
    assert gone.returncode == 125 and json.loads(gone.stdout)["error"]["code"] == "notFound"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_captured_stream_that_is_cut_is_said(mayfly, stream):
    program = f"import sys\nsys.{stream}.write('x' * 3_000_000)"
    task = mayfly("run", "--detach", "-c", program).stdout.decode().strip()
    waited = mayfly("task", "wait", task)
    assert len(waited.stdout if stream == "stdout" else waited.stderr) >= 1 << 20
    said = waited.stderr.decode()[-2000:]
    assert f"mayfly: {stream} is cut" in said and "--collect" in said and "2.9 MiB" in said, said
    result = json.loads(mayfly("task", "wait", task, "--json").stdout)
    assert len(result[stream]) == 1 << 20
    assert [result["stdoutTruncated"], result["stderrTruncated"]] == [stream == "stdout", stream == "stderr"]
    live = mayfly.run("-c", program)
    assert len(live[stream]) == 3_000_000 and not live["stdoutTruncated"] and not live["stderrTruncated"]


def test_detached_tasks_are_listed_until_they_are_closed(mayfly):
    key = f"listed-{os.getpid()}-{time.monotonic_ns()}"
    runs = int(mayfly("run", "--detach", "--key", key, "-c", FOR_EVER).stdout)
    ended = int(mayfly("run", "--detach", "--lease", "10m", "-c", "").stdout)
    mayfly("task", "wait", ended)
    listed = {task["id"]: task for task in json.loads(mayfly("task", "list", "--json").stdout)["tasks"]}
    assert listed[runs]["key"] == key and listed[runs]["state"] != "done" and listed[runs]["leaseLeftMs"] == 3_600_000
    assert listed[ended]["key"] == "" and listed[ended]["state"] == "done"
    assert 500_000 < listed[ended]["leaseLeftMs"] <= 600_000
    assert key in mayfly("task", "list").stdout.decode()
    for task in (runs, ended):
        assert mayfly("task", "close", task).returncode == 0
    left = {task["id"] for task in json.loads(mayfly("task", "list", "--json").stdout)["tasks"]}
    assert not left & {runs, ended}


def test_a_detached_task_is_cancelled(mayfly):
    task = mayfly("run", "--detach", "-c", "import time; time.sleep(600)").stdout.decode().strip()
    assert mayfly("task", "cancel", task).returncode == 0
    waited = mayfly("task", "wait", task)
    assert waited.returncode == 130 and b"cancelled" in waited.stderr
    assert mayfly("task", "close", task).returncode == 0
