"""The command line against a real daemon: what comes out of it, and how it ends."""

import json
import os
import signal
import threading

import pytest


def last_line(err):
    return err.decode().splitlines()[-1]


def ids(mayfly):
    return [t["id"] for t in json.loads(mayfly("ps", "--json").stdout)["tasks"] if t["state"] == "running"]


def test_output_goes_through_unchanged_and_stderr_ends_with_the_verdict(mayfly):
    done = mayfly("run", "-c", r"import sys; sys.stdout.buffer.write(b'\x00\xff\x1b[31m'); print('e', file=sys.stderr)")
    assert (done.returncode, done.stdout) == (0, b"\x00\xff\x1b[31m"), done
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "e" and lines[1].startswith("mayfly: succeeded | ") and len(lines) == 2, lines
    assert lines[1].endswith("is gone"), lines


def test_quiet_says_nothing_of_a_success_but_of_a_failure(mayfly):
    assert mayfly("run", "-q", "-c", "1").stderr == b""
    done = mayfly("run", "-q", "-c", "raise SystemExit(7)")
    assert done.returncode == 7 and last_line(done.stderr).startswith("mayfly: failed: exit code 7"), done


@pytest.mark.parametrize("code,flags,returncode,verdict", [
    ("raise SystemExit(3)", [], 3, "failed"),
    ("import os; os.abort()", [], 134, "signaled: SIGABRT"),
    ("while True: pass", ["--cpu-time", "200ms"], 124, "cpuTime"),
    ("import time; time.sleep(99)", ["--timeout", "200ms"], 124, "wallTime"),
    ("b = []\nwhile True: b.append(b'x' * (1 << 20))", ["--memory", "48M"], 137, "memory"),
    ("while True: print('x' * 9999)", ["--output", "64K"], 137, "output"),
    ("f = open('/tmp/f', 'wb')\nwhile True: f.write(b'x' * 65536)", ["--disk", "2M"], 137, "disk"),
])
def test_the_exit_code_tells_the_kind_of_end(mayfly, code, flags, returncode, verdict):
    done = mayfly("run", *flags, "-c", code)
    assert done.returncode == returncode, done.stderr[-500:]
    assert last_line(done.stderr).startswith("mayfly: " + verdict), done.stderr[-500:]


def test_a_script_gets_what_follows_it(mayfly, tmp_path):
    script = tmp_path / "args.py"
    script.write_text("import sys; print(__file__, sys.argv)")
    done = mayfly("run", "--memory", "200M", script, "--memory", "x", "-c", "--")
    assert done.stdout == b"/task/args.py ['args.py', '--memory', 'x', '-c', '--']\n", done


def test_a_program_from_standard_input(mayfly):
    done = mayfly("run", "-", "a", input=b"import sys; print(sys.argv)")
    assert done.stdout == b"['-', 'a']\n", done


def test_a_command_in_an_exec_template_and_not_in_a_fork_template(mayfly):
    done = mayfly("run", "-t", "shell", "--", "sh", "-c", "echo $((6*7)); exit 5")
    assert (done.returncode, done.stdout) == (5, b"42\n"), done
    done = mayfly("run", "-t", "python", "--", "echo")
    assert done.returncode == 125 and b"runs code, no commands" in done.stderr, done
    done = mayfly("run", "-t", "shell", "-c", "echo")
    assert done.returncode == 125 and b"runs commands, no code" in done.stderr, done


def test_environment_seed_and_input_files(mayfly, tmp_path):
    (tmp_path / "in.csv").write_text("1,2\n")
    done = mayfly("run", "--env", "A=b=c", "--seed", "5", "--file", tmp_path / "in.csv",
                  "--file", f"{tmp_path / 'in.csv'}:deep/er/x.csv", "-c",
                  "import os, random; print(os.environ['A'], open('in.csv').read().strip(),"
                  " os.path.exists('/task/deep/er/x.csv'), random.random() == random.Random(5).random())")
    assert done.stdout == b"b=c 1,2 True True\n", done


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


def test_a_task_that_does_not_read_its_stdin_ends_all_the_same(mayfly):
    done = mayfly("run", "--stdin", "-c", "print(1)", input=b"x" * 5_000_000)
    assert (done.returncode, done.stdout) == (0, b"1\n"), done.stderr


def test_without_stdin_the_task_reads_nothing(mayfly):
    done = mayfly("run", "-c", "import sys; print(repr(sys.stdin.read()))", input=b"secret")
    assert done.stdout == b"''\n", done


def test_json_is_one_object_and_nothing_else(mayfly):
    done = mayfly("run", "--json", "-c", r"import sys; sys.stdout.buffer.write(b'\xff'); print('e', file=sys.stderr); sys.exit(3)")
    assert done.returncode == 3 and done.stderr == b"", done
    result = json.loads(done.stdout)
    assert (result["verdict"], result["exitCode"], result["signal"]) == ("failed", 3, None)
    assert (result["stdout"], result["stdoutBase64"]) == ("/w==", True)
    assert (result["stderr"], result["stderrBase64"]) == ("e\n", False)
    assert result["receipt"]["complete"] and all(result["phases"].values()), result
    done = mayfly("run", "--json", "-t", "no-such", "-c", "1")
    assert done.returncode == 125 and json.loads(done.stdout)["error"]["code"] == "notFound", done


def test_output_files_are_brought_and_odd_ones_are_named(mayfly, tmp_path):
    out = tmp_path / "out"
    done = mayfly("run", "--out", out, "-c", """
import os
os.makedirs('out/a', exist_ok=True); os.chdir('out')
open('a/b.txt', 'w').write('hello'); open('big', 'wb').write(b'b' * 3_000_000)
os.chmod('a/b.txt', 0o4755)
os.symlink('/etc/passwd', 'link'); os.mkfifo('fifo')
open('x\\x1b[2J\\n', 'w').write('odd')
""")
    assert done.returncode == 0, done
    assert (out / "a/b.txt").read_text() == "hello" and (out / "a/b.txt").stat().st_mode & 0o7777 == 0o755
    assert (out / "big").read_bytes() == b"b" * 3_000_000
    assert sorted(os.listdir(out)) == ["a", "big"], os.listdir(out)
    said = done.stderr.decode()
    assert "'link'" in said and "'fifo'" in said and r"\x1b" in said and "\x1b" not in said, said


def test_interrupt_cancels(mayfly):
    task = mayfly.start("run", "-c", "import time; print(1, flush=True); time.sleep(99)")
    assert task.stdout.readline() == b"1\n"
    task.send_signal(signal.SIGINT)
    _, err = task.communicate()
    assert task.returncode == 130 and last_line(err).startswith("mayfly: cancelled"), err


def test_nobody_reading_ends_the_task(mayfly):
    task = mayfly.start("run", "-c", "while True: print('y')")
    task.stdout.read(1)
    task.stdout.close()
    _, err = task.communicate()
    assert task.returncode == 141 and b"cancelled" in err, err


def test_a_reader_that_stops_slows_the_task_down(mayfly):
    """The task cannot run ahead of its reader by more than the buffers between them."""
    task = mayfly.start("run", "-q", "--output", "32M", "--timeout", "60s", "-c", """
import sys, os
for i in range(3000): os.write(1, b'x' * 10000)
""")
    got = task.stdout.read(1000)
    other = mayfly("run", "-c", "print(2)")  # another task is not held up
    assert other.stdout == b"2\n"
    assert len(ids(mayfly)) == 1  # unread, it cannot have ended
    got += task.stdout.read()
    assert task.wait() == 0 and len(got) == 30_000_000


def test_kill_and_ps(mayfly):
    task = mayfly.start("run", "-c", "import time; print(1, flush=True); time.sleep(99)")
    assert task.stdout.readline() == b"1\n"
    [victim] = ids(mayfly)
    table = mayfly("ps").stdout.decode()
    assert table.splitlines()[0].split() == ["ID", "TEMPLATE", "STATE", "AGE", "RUNS", "PID"]
    assert mayfly("kill", victim).returncode == 0
    _, err = task.communicate()
    assert task.returncode == 130 and b"cancelled" in err, err
    done = mayfly("kill", victim)
    assert done.returncode == 1 and b"mayfly: " in done.stderr, done


def test_templates_and_version(mayfly):
    listed = json.loads(mayfly("templates", "--json").stdout)["templates"]
    python = next(t for t in listed if t["name"] == "python")
    assert python["state"] == "ready" and python["maximum"]["memoryBytes"] >= python["defaults"]["memoryBytes"]
    assert json.loads(mayfly("version", "--json").stdout)["daemon"]


def test_a_cap_of_0_or_above_the_maximum_is_a_clear_error(mayfly):
    for flags in (["--memory", "0"], ["--memory", "900G"], ["--timeout", "0s"], ["--pids", "0"]):
        done = mayfly("run", *flags, "-c", "1")
        assert done.returncode == 125 and done.stderr.startswith(b"mayfly: "), (flags, done)


def test_no_daemon_is_a_clear_error(mayfly):
    done = mayfly("--socket", "/tmp/mayfly-none.sock", "run", "-c", "1")
    assert done.returncode == 125 and b"Start mayflyd" in done.stderr, done


def test_many_at_once(mayfly):
    """Twenty command lines together; each gets its own output."""
    results = {}

    def one(i):
        results[i] = mayfly("run", "-q", "-c", f"print({i} * 7)")

    threads = [threading.Thread(target=one, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: r.stdout for i, r in results.items()} == {i: b"%d\n" % (i * 7) for i in range(20)}, results
