"""A task of the python template behaves as `python script.py` would.

Each script runs twice: as a task, and under a fresh interpreter of the same
image (started by another task). Exit code, stdout and stderr must be equal.
"""

import base64
import json
import os
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
main_done = threading.Event()
def work():
    main_done.wait()
    time.sleep(0.05)
    print('thread done')
threading.Thread(target=work).start()
print('main done')
main_done.set()
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
    "stdout_replaced_with_text_left": """
import io, sys
print('left behind', end='')
sys.stdout = io.StringIO()
""",
    "stdout_dropped_with_text_left": """
import sys
sys.stdout.write('left behind')
sys.stdout = sys.__stdout__ = None
sys.stderr.write('dropped before this')
""",
    "stdout_detached": """
import io, sys
sys.stdout = io.TextIOWrapper(sys.stdout.detach(), 'utf-8', newline='', write_through=False)
sys.stdout.write('in a wrapper of our own')
""",
    "weak_references": """
import gc, weakref
class Node:
    pass
a = Node()
a.self = a
plain = Node()
seen = []
refs = [weakref.ref(a, lambda r: seen.append('a')), weakref.ref(plain, lambda r: seen.append('plain'))]
cache = weakref.WeakValueDictionary(plain=plain)
weakref.finalize(plain, seen.append, 'finalized')
del plain
print([r() is None for r in refs], seen, len(cache))
del a
print(gc.collect() > 0, [r() is None for r in refs], seen)
class Late:
    def __del__(self): print('late', self.name)
late = Late()
late.name = 'one'
weakref.finalize(late, print, 'at exit')
""",
    "classes_die": """
import collections.abc, gc, weakref
def make():
    class Local(collections.abc.Sized):
        def __len__(self): return 0
    collections.abc.Sequence.register(Local)
    return weakref.ref(Local), isinstance(Local(), collections.abc.Sized)
ref, sized = make()
gc.collect()
print(sized, ref() is None, [c.__name__ for c in collections.abc.Sized.__subclasses__() if c.__name__ == 'Local'])
""",
    "files_close": """
import os, gc
def descriptors():
    return len(os.listdir('/proc/self/fd'))
before = descriptors()
f = open('a.txt', 'w')
f.write('text')
del f
print(descriptors() == before, open('a.txt').read())
class Holder:
    pass
h = Holder()
h.me, h.file = h, open('b.txt', 'w')
h.file.write('cycle')
del h
gc.collect()
print(descriptors() == before, open('b.txt').read())
""",
    "generators_close": """
def rows():
    try:
        yield 1
    finally:
        print('closed')
g = rows()
next(g)
del g
kept = rows()
next(kept)
print('end')
""",
    "preloaded_module_reloaded": """
import importlib, json, sys
old = json.loads
importlib.reload(json)
print(json.loads is old, json.loads('[1]'), old('[2]'))
for name in [n for n in sys.modules if n.split('.')[0] in ('json', 'csv', 'decimal')]:
    del sys.modules[name]
import csv, decimal
import json as again
print(again is json, again.dumps({'a': decimal.Decimal('1') == 1}), csv.reader(['a,b']).__next__())
""",
    "preloaded_module_changed": """
import json, random, textwrap, threading
class Mine(threading.Thread):
    def run(self): print('ran', self.name)
t = Mine(name='mine'); t.start(); t.join()
textwrap.wrap = lambda text: [text]
textwrap.__dict__.pop('dedent')
print(textwrap.wrap('a b'), hasattr(textwrap, 'dedent'))
json.encoder.ESCAPE_DCT['x'] = 'y'
del json.encoder.ESCAPE_DCT
for name in list(vars(random)):
    if not name.startswith('__'):
        delattr(random, name)
print(sorted(n for n in vars(random) if not n.startswith('__')))
""",
    "interned_strings": """
import sys
text = ''.join(['co', 'llections'])
print(sys.intern(text) is sys.intern('collections'), sys.intern(''.join(['new ', 'text'])) is sys.intern('new text'))
s = 'json'
s += '!'
t = s
t += '?'
print(s, t)
""",
    "counted_references": """
import gc, sys
class Mine:
    pass
m = Mine()
print(sys.getrefcount(m), sys.getrefcount([]), [sys.getrefcount(x) for x in ([],)])
print(gc.collect() >= 0, gc.garbage, gc.callbacks)
gc.freeze(); gc.unfreeze(); print(gc.collect() >= 0)
""",
    "unfrozen": """
import gc, json, logging, threading
gc.unfreeze()
gc.collect()
gc.collect()
print(json.loads('{"a": [1, 2]}'), logging.getLogger('x').name, threading.current_thread().name)
def fresh(): return 1
print(fresh.__globals__ is globals(), fresh())
""",
    "threads_and_locals": """
import threading, queue, concurrent.futures
local = threading.local()
class Loud:
    def __del__(self): print('gone with its thread')
def work():
    local.x = Loud()
t = threading.Thread(target=work); t.start(); t.join()
with concurrent.futures.ThreadPoolExecutor(3) as pool:
    print(sum(pool.map(lambda n: n * n, range(100))))
threading._register_atexit(print, 'threading end')
""",
    "logging": """
import logging, io
stream = io.StringIO()
log = logging.getLogger('mine')
handler = logging.StreamHandler(stream)
log.addHandler(handler)
log.warning('one')
log.removeHandler(handler)
del handler
logging.warning('two')
print(stream.getvalue(), len(logging._handlerList))
""",
    "process_pool": """
import concurrent.futures
def square(x): return x * x
if __name__ == '__main__':
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        print(list(pool.map(square, range(6))))
""",
    "forked_child_ends_by_itself": """
import atexit, os, sys
atexit.register(lambda: print('end of', 'child' if child == 0 else 'parent', flush=True))
child = os.fork()
if child:
    os.waitpid(child, 0)
else:
    sys.exit(0)
""",
}

# How the libraries of python-data handle objects that were loaded before the task.
DATA_SCRIPTS = {
    "numpy_resize_checks_references": """
import numpy as np
a = np.arange(4)
b = a
try:
    a.resize(8)
except ValueError as e:
    print('refused', str(e).split('.')[0])
del b
a.resize(8)
print(a.tolist(), np.random.seed(1) or np.random.random())
view = memoryview(a)
del a
print(view[0], np.dtype('int64') is np.dtype('int64'), np.float64(1.5) + 1)
""",
    "pandas_chained_assignment": """
import warnings, pandas as pd
warnings.simplefilter('always')
frame = pd.DataFrame({'a': [1, 2, 3], 'b': [4.0, 5.0, None]})
frame['a'][0] = 10
pd.options.mode.copy_on_write = True
frame['a'][1] = 20
copy = frame.copy()
copy.loc[0, 'b'] = 0
print(frame.groupby('a')['b'].agg(['mean', 'count']), copy.describe(), frame.isna().sum())
""",
    "matplotlib_chart": """
import gc, io, os, weakref, zlib
import matplotlib.pyplot as plt
def descriptors():
    return len(os.listdir('/proc/self/fd'))
plt.close('all')
figure, axes = plt.subplots(figsize=(4, 3))
axes.plot([1, 3, 2], label='line'); axes.set_title('Title $x^2$'); axes.legend()
out = io.BytesIO()
figure.savefig(out, format='raw')
print(len(out.getvalue()), zlib.crc32(out.getvalue()), plt.get_fignums())
gone = weakref.ref(figure)
plt.close(figure)
del figure, axes
gc.collect()
print(gone() is None, plt.get_fignums(), plt.rcParams['figure.figsize'])
figure = plt.figure(); figure.savefig('chart.pdf'); figure.savefig('chart.svg')
print(open('chart.pdf', 'rb').read(5), os.path.getsize('chart.svg') > 500)
""",
    "sqlite_and_excel": """
import pandas as pd, sqlite3, gc
con = sqlite3.connect(':memory:')
pd.DataFrame({'a': [1, 2]}).to_sql('t', con, index=False)
print(pd.read_sql('select sum(a) as s from t', con).s[0])
del con
gc.collect()
pd.DataFrame({'a': [1, 2]}).to_excel('x.xlsx', index=False)
print(pd.read_excel('x.xlsx')['a'].tolist())
""",
}
CASES = [("python", name) for name in SCRIPTS] + [("python-data", name) for name in DATA_SCRIPTS] + [
    ("python-data", name) for name in (
        "finalizers", "weak_references", "classes_die", "files_close", "stdout_dropped_with_text_left", "logging",
        "preloaded_module_reloaded", "preloaded_module_changed", "unfrozen", "fork_pool", "subprocess",
        "threads_and_locals", "forked_child_ends_by_itself")]

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


@pytest.mark.parametrize("template,name", CASES)
def test_a_script_behaves_as_under_the_interpreter(mayfly, tmp_path, template, name):
    script = tmp_path / "script.py"
    script.write_text({**SCRIPTS, **DATA_SCRIPTS}[name])
    task = mayfly.run("-t", template, str(script), "one", "two words")
    reference = mayfly.run("-t", template, "--file", str(script), "-c", REFERENCE)
    assert reference["verdict"] == "succeeded", reference
    expected = json.loads(reference["stdout"])
    got = as_task(task)
    # The reference's stdin is /dev/null and its stdout is not line-buffered: names only.
    if name == "stdio":
        expected[1] = expected[1].replace("False False True False True", "False False True False True")
        got[1], expected[1] = got[1].splitlines()[1:], expected[1].splitlines()[1:]
    assert without_addresses(got) == without_addresses(expected)


IMMORTAL = """
import collections, json, sys, threading
class Mine:
    pass
forever = sys.getrefcount(None)
print([sys.getrefcount(x) == forever for x in (json.loads, json, collections.OrderedDict, json.loads.__code__)],
      [sys.getrefcount(x) < 100 for x in (Mine, Mine(), sys.stdout, sys.stdout.buffer, sys.stdin, threading.main_thread())])
"""


@pytest.mark.parametrize("template", ["python", "python-data"])
def test_what_is_preloaded_is_not_counted_and_what_ends_is(mayfly, template):
    result = mayfly.run("-t", template, "-c", IMMORTAL)
    assert result["stdout"] == f"{[True] * 4} {[True] * 6}\n", result


@pytest.mark.parametrize("template", ["python", "python-data"])
def test_the_zygote_tells_what_it_does_not_count(mayfly, template):
    if "MAYFLY_DAEMON_LOG" not in os.environ:
        pytest.skip("the daemon's log is not known: run this by `./dev with-daemon pytest ...`")
    with open(os.environ["MAYFLY_DAEMON_LOG"]) as log:
        said = re.findall(f"zygote of '{template}' says: ([0-9]+) objects are immortal, ([0-9]+) are not", log.read())
    assert said and all(int(immortal) > 10_000 and 0 < int(mortal) < 1_000 for immortal, mortal in said), said


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


@pytest.mark.parametrize("options,fresh", [
    ((), False),
    (("--env", "PYTHONPATH=/task/lib"), False),
    (("--env", "PYTHON_CPU_COUNT=3"), False),
    (("--env", "COLOUR=blue", "--env", "TZ=Asia/Tokyo"), False),
    (("--env", "PYTHONHASHSEED=0"), False),  # as the template sets it
    (("--env", "PYTHONUNBUFFERED=1", "--env", "PYTHONDONTWRITEBYTECODE=1"), False),
    (("--env", "PYTHONUNBUFFERED=yes"), True),
    (("--env", "PYTHONHASHSEED=1"), True),
    (("--env", "PYTHONOPTIMIZE=1"), True),
    (("--env", "LC_ALL=C"), True),
    (("--env", "LD_LIBRARY_PATH=/task"), True),
])
def test_usage_tells_of_a_new_interpreter(mayfly, options, fresh):
    result = mayfly.run("-t", "python", *options, "-c", "import sys; print('argparse' in sys.modules)")
    assert (result["stdout"], result["usage"]["freshRuntime"]) == (f"{not fresh}\n", fresh), result


def test_a_file_of_a_preloaded_modules_name_gets_a_new_interpreter(mayfly, tmp_path):
    (tmp_path / "queue.py").write_text("mine = True\n")
    result = mayfly.run("-t", "python", "--file", str(tmp_path / "queue.py"), "-c", "import queue; print(queue.mine)")
    assert (result["stdout"], result["usage"]["freshRuntime"]) == ("True\n", True), result


def test_a_long_program_from_standard_input_gets_to_a_new_interpreter(mayfly):
    code = "print(len('" + "x" * 131_072 + "'))"
    result = mayfly.run("-t", "python", "--env", "PYTHONOPTIMIZE=1", "-", input=code.encode())
    assert (result["stdout"], result["usage"]["freshRuntime"]) == ("131072\n", True), result


def test_program_from_standard_input(mayfly):
    result = mayfly.run("-t", "python", "-", "a", input=b"import sys\nprint(sys.argv, __name__)\n")
    assert result["stdout"] == "['-', 'a'] __main__\n", result


def test_modules_beside_the_script_can_be_imported(mayfly, tmp_path):
    (tmp_path / "helper.py").write_text("value = 42\n")
    (tmp_path / "script.py").write_text("import helper\nprint(helper.value)\n")
    result = mayfly.run("-t", "python", "--file", str(tmp_path / "helper.py"),
                    str(tmp_path / "script.py"))
    assert result["stdout"] == "42\n", result
