"""A task of the python template behaves as `python script.py` would.

Each script runs twice: as a task, and under a fresh interpreter of the same
image (started by another task). Exit code, stdout and stderr must be equal.
"""

import base64
import json
import re

import pytest

SCRIPTS = {
    "main_module": """
import sys
print(sorted(n for n in globals() if n != '__annotations__'))
print(__name__, __file__, __doc__, __spec__, __package__, type(__loader__).__name__)
print(sys.argv, sys.path[0], sys.orig_argv[-2:])
print(sys.modules['__main__'].__dict__ is globals())
""",
    "executable": "import sys, os; print(sys.executable, sys.prefix, os.getcwd(), sys.version)",
    "flags": "import sys; print(sys.flags, sys.warnoptions, sys.dont_write_bytecode)",
    "stdio": """
import sys
for f in (sys.stdin, sys.stdout, sys.stderr):
    print(f.name, f.mode, f.encoding, f.errors, f.fileno(), f.isatty(), f.readable(), f.writable(), f.seekable())
""",
    "exit_none": "import sys; sys.exit()",
    "exit_code": "import sys; sys.exit(300)",
    "exit_negative": "import sys; sys.exit(-1)",
    "exit_text": "import sys; sys.exit('bye')",
    "exit_tuple": "import sys; sys.exit((1, 2))",
    "os_exit": "import os; print('lost', end=''); os._exit(4)",
    "syntax_error": "x = 1\ndef f(:\n    pass\n",
    "indentation_error": "if True:\nprint(1)\n",
    "traceback": """
def inner(n):
    return n / 0

def outer():
    inner(1)

outer()
""",
    "chained": """
try:
    {}['a']
except KeyError as e:
    raise ValueError('second') from e
""",
    "group": "raise ExceptionGroup('g', [ValueError(1), TypeError(2)])",
    "note": "e = ValueError('x'); e.add_note('a note'); raise e",
    "excepthook": """
import sys
sys.excepthook = lambda t, v, tb: print('hook', t.__name__, v, tb.tb_lineno, tb.tb_frame.f_code.co_name)
1 / 0
""",
    "bad_excepthook": """
import sys
def hook(*a): raise RuntimeError('worse')
sys.excepthook = hook
1 / 0
""",
    "atexit": """
import atexit
atexit.register(print, 'first')
atexit.register(print, 'second')
print('body')
""",
    "atexit_raises": "import atexit\natexit.register(lambda: 1 / 0)\nprint('body')",
    "threads_are_joined": """
import threading, time
def work():
    time.sleep(0.05)
    print('thread done')
threading.Thread(target=work).start()
print('main done')
""",
    "daemon_thread_is_not": """
import threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print('main done')
""",
    "thread_raises": """
import threading
t = threading.Thread(target=lambda: 1 / 0, name='w')
t.start(); t.join()
print('alive')
""",
    "finalizers": """
class Loud:
    def __init__(self, name): self.name = name
    def __del__(self): print('del', self.name)
a = Loud('a')
b = [Loud('b')]
b.append(b)
print('body')
""",
    "no_newline": "print('no newline', end='')",
    "unicode": "print('h\\u00e9llo \\u2603 \\U0001f600')",
    "surrogate": "import os; print(os.fsdecode(b'\\xff'))",
    "warning": "import warnings; warnings.warn('careful')",
    "deprecation": "import warnings; warnings.warn('old', DeprecationWarning)",
    "pickle_main": """
import pickle
class Point:
    pass
print(type(pickle.loads(pickle.dumps(Point()))) is Point, Point.__module__)
""",
    "dataclass": """
from __future__ import annotations
import dataclasses
@dataclasses.dataclass
class P:
    x: int = 1
print(P())
""",
    "fork_pool": """
import multiprocessing as mp
def square(x): return x * x
if __name__ == '__main__':
    with mp.get_context('fork').Pool(2) as pool:
        print(pool.map(square, range(5)))
""",
    "spawn_pool": """
import multiprocessing as mp
def square(x): return x * x
if __name__ == '__main__':
    with mp.get_context('spawn').Pool(2) as pool:
        print(pool.map(square, range(5)))
""",
    "subprocess": """
import subprocess, sys
print(subprocess.run([sys.executable, '-c', 'print(6*7)'], capture_output=True, text=True).stdout)
""",
    "asyncio": """
import asyncio
async def main():
    await asyncio.sleep(0)
    return await asyncio.to_thread(lambda: 42)
print(asyncio.run(main()))
""",
    "recursion": "def f(n): return f(n + 1)\ntry: f(0)\nexcept RecursionError as e: print('deep', e)",
    "signals": "import signal, sys; print([signal.getsignal(s) for s in (signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)])",
    "hash": "print(hash('mayfly'), list({'a', 'b', 'c', 'd'}))",
    "inspect": "import inspect\ndef f():\n    return 1\nprint(inspect.getsource(f))",
    "closed_stdout": "import sys; sys.stdout.close()",
    "replaced_stdout": "import sys, io; sys.stdout = io.StringIO(); print('nowhere')",
    "garbage": "import gc; print(gc.isenabled(), gc.get_threshold())",
}

REFERENCE = """
import json, os, subprocess, sys
done = subprocess.run([sys.executable, 'script.py', 'one', 'two words'], stdin=subprocess.DEVNULL, capture_output=True)
print(json.dumps([done.returncode, done.stdout.decode('utf-8', 'replace'), done.stderr.decode('utf-8', 'replace')]))
"""


def text(result, stream):
    value = result[stream]
    return base64.b64decode(value).decode("utf-8", "replace") if result[stream + "Base64"] else value


def as_task(result):
    code = -result["signal"] if result["verdict"] == "signaled" else result["exitCode"]
    return [code, text(result, "stdout"), text(result, "stderr")]


def without_addresses(outcome):
    return [re.sub(r"0x[0-9a-f]{8,}", "0x", x) if isinstance(x, str) else x for x in outcome]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_behaves_as_under_the_interpreter(mayfly, tmp_path, name):
    script = tmp_path / "script.py"
    script.write_text(SCRIPTS[name])
    task = mayfly.run("-t", "python", str(script), "one", "two words")
    reference = mayfly.run("-t", "python", "--file", str(script), "-c", REFERENCE)
    assert reference["verdict"] == "succeeded", reference
    expected = json.loads(reference["stdout"])
    got = as_task(task)
    # The reference's stdin is /dev/null and its stdout is not line-buffered: names only.
    if name == "stdio":
        expected[1] = expected[1].replace("False False True False True", "False False True False True")
        got[1], expected[1] = got[1].splitlines()[1:], expected[1].splitlines()[1:]
    assert without_addresses(got) == without_addresses(expected)


@pytest.mark.parametrize("source", [b"print(1)\n\0\n", b"# -*- coding: nosuch -*-\n", b"x = '\xff'\n"])
def test_a_source_that_is_no_python_is_a_syntax_error(mayfly, tmp_path, source):
    script = tmp_path / "script.py"
    script.write_bytes(source)
    result = mayfly.run("-t", "python", str(script))
    assert (result["verdict"], result["exitCode"]) == ("failed", 1), result
    assert "SyntaxError: " in result["stderr"]


def test_the_end_of_a_task_flushes_files_it_left_open(mayfly, tmp_path):
    result = mayfly.run("-t", "python", "--out", str(tmp_path / "out"), "-c",
                    "f = open('/task/out/x.txt', 'w'); f.write('kept')")
    assert result["verdict"] == "succeeded", result
    assert (tmp_path / "out" / "x.txt").read_text() == "kept"


def test_output_is_seen_line_by_line(mayfly):
    """The first line arrives while the task still waits for its input."""
    task = mayfly.start("run", "-t", "python", "--stdin", "-c", "print('ready'); input(); print('done')")
    assert task.stdout.readline() == b"ready\n"
    task.stdin.write(b"go\n")
    task.stdin.close()
    assert task.stdout.read() == b"done\n"
    assert task.wait(60) == 0


def test_keyboard_interrupt_ends_by_its_signal(mayfly):
    result = mayfly.run("-t", "python", "-c",
                    "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)")
    assert (result["verdict"], result["signal"]) == ("signaled", 2), result
    assert result["stderr"].strip().endswith("KeyboardInterrupt")


def test_program_from_standard_input(mayfly):
    result = mayfly.run("-t", "python", "-", "a", input=b"import sys\nprint(sys.argv, __name__)\n")
    assert result["stdout"] == "['-', 'a'] __main__\n", result


def test_modules_beside_the_script_can_be_imported(mayfly, tmp_path):
    (tmp_path / "helper.py").write_text("value = 42\n")
    (tmp_path / "script.py").write_text("import helper\nprint(helper.value)\n")
    result = mayfly.run("-t", "python", "--file", str(tmp_path / "helper.py"),
                    str(tmp_path / "script.py"))
    assert result["stdout"] == "42\n", result
