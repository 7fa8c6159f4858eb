"""The Python zygote: a thin program over libmayfly-zygote.

It loads what template.json lists, then serves. In the zygote serve() does not
return; it returns in each clone, which runs its one task as `python script.py`
would and exits. One thread; PyDLL keeps the interpreter's lock throughout.
"""

import atexit
import builtins
import contextlib
import ctypes
import gc
import importlib
import importlib.machinery
import io
import json
import linecache
import os
import random
import signal
import sys
import threading
import time
import traceback
import types

import memory

del sys.modules["memory"]
HERE = "/usr/lib/mayfly"
ABI = 2
COMMAND, FILE, STRING, STDIN = range(4)


# The empty task of a rehearsal, and the template's own ones: what its tasks are likely to do.
REHEARSAL = b"""\
import sys
def add(a, b):
    return a + b
print(add(6, 7), [n for n in range(3)], {"a": "b"}, f"{1.5:.2f}")
"""
# A class counts its first thirty instances, code its branches: by then it is no longer written.
REHEARSALS = 30
rehearsals = []
environment = {}  # the zygote's, as a clone inherits it
last_preloaded = ""  # name of the youngest module that the zygote loaded


class Task(ctypes.Structure):
    """mayfly_task of mayfly/zygote.h."""

    _fields_ = [
        ("kind", ctypes.c_uint32),
        ("has_seed", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("argc", ctypes.c_int),
        ("argv", ctypes.POINTER(ctypes.c_char_p)),
        ("envp", ctypes.POINTER(ctypes.c_char_p)),
        ("code", ctypes.c_void_p),
        ("code_bytes", ctypes.c_size_t),
        ("strings", ctypes.c_void_p),
        ("strings_bytes", ctypes.c_size_t),
    ]


class Hooks(ctypes.Structure):
    """mayfly_zygote_hooks of mayfly/zygote.h."""

    _fields_ = [
        ("abi", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("before_fork", ctypes.c_void_p),
        ("after_fork_parent", ctypes.c_void_p),
        ("after_fork_child", ctypes.c_void_p),
        ("reseed", ctypes.c_void_p),
        ("rehearse", ctypes.c_void_p),
    ]


class ArenaAllocator(ctypes.Structure):
    """PyObjectArenaAllocator of CPython."""

    _fields_ = [("context", ctypes.c_void_p), ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p)]


def address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def warm_up(path):
    """What imports alone do not warm: a template's own few lines."""
    with open(path, "rb") as file:
        exec(compile(file.read(), path, "exec"), {"__name__": "warm"})
    gc.collect()  # what it let go closes its files


def tell_trace():
    """For the zygote's log, if the template left as much whole as that takes."""
    with contextlib.suppress(BaseException):
        traceback.print_exc()
        sys.stderr.flush()


def step(lib, name, do, what):
    """One that fails is the template's fault, and named."""
    try:
        do(what)
    except BaseException as error:
        why = f"{name} failed: {type(error).__name__}: {error}"
        lib.mayfly_zygote_refuse(why.encode("utf-8", "replace"))
        tell_trace()
        sys.exit(2)


def preload(lib, template):
    """Each on its own, so that the one that breaks the zygote is named."""
    rehearsal = os.path.join(HERE, "rehearsal.py")
    if os.path.exists(rehearsal):
        with open(rehearsal, "rb") as file:
            rehearsals.append(compile(file.read(), rehearsal, "exec", dont_inherit=True))
    # Of what preloads allocate, the interpreter's own arenas are shared with the clones.
    arenas = ArenaAllocator(None, address(lib.mayfly_zygote_arena_alloc), address(lib.mayfly_zygote_arena_free))
    ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(arenas))
    if lib.mayfly_zygote_mark_memory() != 0:
        sys.exit("zygote: cannot mark its memory")
    lib.mayfly_zygote_preloaded(None)
    steps = [(name, importlib.import_module, name) for name in template.get("preload", [])]
    if os.path.exists(f"{HERE}/warm.py"):
        steps.append(("warm.py", warm_up, f"{HERE}/warm.py"))
    for name, do, what in steps:
        step(lib, f"preload '{name}'", do, what)
        if lib.mayfly_zygote_preloaded(name.encode()) != 0:
            sys.exit(2)


def make_stdio():
    """stdio objects for the clones, over descriptors 0..2.

    Made once, in the zygote, while the three are pipes as they are in a clone:
    the objects ask for their kind (seekable? a terminal?) only here.
    """

    def text(fd, mode, name, old, newline, line_buffering):
        raw = io.FileIO(fd, mode, closefd=False)
        raw.name = name
        buffered = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
        file = io.TextIOWrapper(buffered, old.encoding, old.errors, newline, line_buffering)
        file.mode = mode
        return file

    own = [os.dup(fd) for fd in range(3)]
    pipe = os.pipe()
    for fd in range(3):
        os.dup2(pipe[0 if fd == 0 else 1], fd)
    # Lines are seen live: a pipe would be block-buffered.
    files = (
        text(0, "r", "<stdin>", sys.stdin, None, False),
        text(1, "w", "<stdout>", sys.stdout, "\n", True),
        text(2, "w", "<stderr>", sys.stderr, "\n", True),
    )
    for fd in range(3):
        os.dup2(own[fd], fd)
    for fd in (*own, *pipe):
        os.close(fd)
    return files


class MersenneTwister(ctypes.Structure):
    """mt19937_state of numpy: a position at its end means that all words were used."""

    _fields_ = [("words", ctypes.c_uint32 * 624), ("position", ctypes.c_int)]


def numpy_state():
    """Where the state of numpy's common generator lies, or None where it is not as known."""
    generator = sys.modules["numpy.random"].mtrand._rand._bit_generator
    if type(generator).__name__ != "MT19937":
        return None
    told = generator.state["state"]
    state = MersenneTwister.from_address(generator.ctypes.state_address)
    return state if list(state.words) == told["key"].tolist() and state.position == told["pos"] else None


def reseed_numpy(lib):
    """Has each clone seed numpy's common generator; a callback for that where it takes one, or None.

    Those of the standard library need nothing: `random` has its own at-fork hook, OpenSSL notices the new pid,
    the others ask the kernel each time.
    """
    if "numpy.random" not in sys.modules:
        return None
    sys.modules["numpy.random"].seed()
    state = numpy_state()
    if state is None:  # a call from C costs a clone some hundred pages
        return ctypes.PYFUNCTYPE(ctypes.c_int)(reseed)
    state.position = len(state.words)
    if lib.mayfly_zygote_random_memory(state.words, ctypes.sizeof(state.words)) != 0:
        sys.exit("zygote: cannot have numpy's generator seeded")
    return None


def reseed():
    """In a new clone, where its generator is not one that is known."""
    try:
        sys.modules["numpy"].random.seed()
        return 0
    except Exception:
        tell_trace()
        return 1


@contextlib.contextmanager
def streams_on_null():
    held = [os.dup(fd) for fd in range(3)]
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
    try:
        yield
    finally:
        for fd in range(3):
            os.dup2(held[fd], fd)
            os.close(held[fd])


def say(words):
    os.write(2, words.encode() + b"\n")


def settle(lib):
    """What every clone would have to do is done once, here."""
    modules = sys.modules
    if "ssl" in modules:
        modules["ssl"].RAND_bytes(1)  # OpenSSL loads its providers
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None  # each clone makes its own
    if "uuid" in modules:
        modules["uuid"]._node = modules["uuid"]._last_timestamp = None
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = make_stdio()
    global last_preloaded
    last_preloaded = next(reversed(modules))
    # What is loaded now lives as long as the clone: no collection looks at it again.
    gc.collect()
    rehearsal = streams_on_null()(rehearse)
    step(lib, "the rehearsal", rehearsal, lib)
    say(memory.gather_code(lambda: rehearsal(lib)))
    gc.freeze()
    for _ in range(REHEARSALS):
        step(lib, "the rehearsal", rehearsal, lib)
    if rehearsals:
        memory.empty_caches()
    memory.plug_holes()
    say(memory.make_immortal())
    memory.plug_holes()
    memory.plug_holes()  # what the first one left


def serve(lib):
    api = ctypes.pythonapi
    callback = reseed_numpy(lib)
    rehearsal = ctypes.PYFUNCTYPE(ctypes.c_int)(lambda: rehearse_in_clone(lib))
    hooks = Hooks(
        ABI,
        0,
        address(api.PyOS_BeforeFork),
        address(api.PyOS_AfterFork_Parent),
        address(api.PyOS_AfterFork_Child),
        address(callback) if callback else None,
        address(rehearsal),
    )
    task = Task()
    sys.stdout.flush()
    sys.stderr.flush()
    result = lib.mayfly_zygote_share_memory()
    if result != 0:
        sys.exit(f"zygote: cannot share its memory: {os.strerror(-result)}")
    result = lib.mayfly_zygote_serve(ctypes.byref(hooks), ctypes.byref(task))
    if result != 0:
        sys.exit(f"zygote: cannot serve: {os.strerror(-result)}")
    return task


def set_environment(entries):
    """The task's variables and no others. Only what differs is touched."""
    wanted = dict(entry.split(b"=", 1) for entry in entries)
    if wanted == environment:
        return
    for name in environment.keys() - wanted.keys():
        del os.environb[name]
    for name, value in wanted.items():
        if environment.get(name) != value:
            os.environb[name] = value
    if wanted.get(b"TZ") != environment.get(b"TZ"):
        time.tzset()


def seed_generators(seed):
    random.seed(seed)
    if "numpy.random" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def prepare_main(kind, script, source):
    """A fresh __main__ as the interpreter would make it, and its code's name."""
    main = types.ModuleType("__main__")
    space = main.__dict__
    space["__builtins__"] = builtins
    space["__annotations__"] = {}
    if kind == FILE:
        name = os.path.abspath(script)
        sys.path.insert(0, os.path.dirname(os.path.realpath(name)))
        space["__file__"] = name
        space["__cached__"] = None
        space["__loader__"] = importlib.machinery.SourceFileLoader("__main__", name)
    else:
        name = "<string>" if kind == STRING else "<stdin>"
        sys.path.insert(0, "")
        space["__loader__"] = importlib.machinery.BuiltinImporter
        text = source.decode("utf-8", "replace")
        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    if os.environ.get("PYTHONPATH"):
        sys.path[1:1] = os.environ["PYTHONPATH"].split(":")
    sys.modules["__main__"] = main
    return space, name


def exit_code(stop):
    """The process's exit code for a SystemExit, as the interpreter has it."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def report(error):
    """The traceback, without the zygote's own frame."""
    trace = error.__traceback__.tb_next if error.__traceback__ else None
    error.__traceback__ = trace
    sys.last_exc, sys.last_type, sys.last_value, sys.last_traceback = error, type(error), error, trace
    try:
        sys.excepthook(type(error), error, trace)
    except SystemExit as stop:
        return exit_code(stop)
    except BaseException as second:
        print("Error in sys.excepthook:", file=sys.stderr)
        second.__context__ = None
        second.__traceback__ = second.__traceback__.tb_next
        sys.__excepthook__(type(second), second, second.__traceback__)
        print("\nOriginal exception was:", file=sys.stderr)
        sys.__excepthook__(type(error), error, trace)
    return 1


def clear_module(space):
    for pick in (lambda n: n[0:1] == "_" and n[1:2] != "_", lambda n: n != "__builtins__"):
        for name in [n for n in space if isinstance(n, str) and pick(n)]:
            space[name] = None


def finish(code, space):
    """What the interpreter does at its end, without tearing down what was preloaded."""
    try:
        threading._shutdown()
    except BaseException as error:
        sys.__excepthook__(type(error), error, error.__traceback__)
    atexit._run_exitfuncs()
    # Open files and other objects of the task's own modules end with them.
    clear_module(space)
    for name in reversed(sys.modules):
        if name == last_preloaded:
            break  # a look at what came before would copy its pages
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith("/task/"):
            clear_module(sys.modules[name].__dict__)
    gc.collect()
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except (AttributeError, ValueError):
            pass  # closed or replaced by the task
        except OSError:
            code = 120
    for file in (sys.__stdout__, sys.__stderr__):
        try:
            file.flush()  # where the task replaced it, it would end with the interpreter
        except (AttributeError, ValueError, OSError):
            pass
    os._exit(code)


def rehearse(lib):
    """Runs an empty task's way, so that what it writes to is this clone's own memory.

    What a task could see of it is taken back: modules, paths, arguments, warnings.
    """
    argv, path, main = sys.argv, sys.path[:], sys.modules["__main__"]
    orig_argv, loaded = sys.orig_argv, len(sys.modules)
    lib.mayfly_zygote_abi()
    strings = ctypes.create_string_buffer(b"\0".join([b"-c", *(b"=".join(e) for e in environment.items()), b""]))
    words = ctypes.string_at(ctypes.addressof(strings), len(strings) - 1).split(b"\0")
    sys.argv = [os.fsdecode(text) for text in words[:1]]
    sys.orig_argv = ["python3", *sys.argv]
    set_environment(words[1:-1])
    space, name = prepare_main(STRING, "-c", REHEARSAL)
    exec(compile(REHEARSAL, name, "exec", dont_inherit=True), space)
    for code in rehearsals:
        exec(code, dict(space))
    if rehearsals:  # a chart's cycles, and what they took of the heap
        gc.collect(1)
        memory.trim()
    sys.stdout.flush()
    clear_module(space)
    sys.argv, sys.orig_argv, sys.path[:], sys.modules["__main__"] = argv, orig_argv, path, main
    del linecache.cache[name]
    if len(sys.modules) != loaded:
        raise RuntimeError("it loaded " + ", ".join(list(sys.modules)[loaded:]))


def rehearse_in_clone(lib):
    try:
        rehearse(lib)
        return 0
    except BaseException:
        tell_trace()
        return 1


def run(lib, task):
    strings = ctypes.string_at(task.strings, task.strings_bytes).split(b"\0")
    argv = [os.fsdecode(text) for text in strings[: task.argc]]
    set_environment(strings[task.argc : -1])
    if task.has_seed:
        seed_generators(task.seed)
    source = ctypes.string_at(task.code, task.code_bytes) if task.code_bytes else b""
    sys.argv = argv
    sys.orig_argv = ["python3", *argv]
    space, name = prepare_main(task.kind, argv[0], source)
    if task.kind == FILE:
        with open(name, "rb") as file:
            source = file.read()
    if lib.mayfly_zygote_started() != 0:
        os._exit(121)
    code = 0
    try:
        exec(compile(source, name, "exec", dont_inherit=True), space)
    except SystemExit as stop:
        code = exit_code(stop)
    except KeyboardInterrupt as error:
        report(error)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:
        code = report(error)
    finish(code, space)


def main():
    with open(os.path.join(HERE, "template.json"), encoding="utf-8") as file:
        template = json.load(file)
    os.environ.update(template.get("env", {}))
    sys.path.pop(0)  # this program's folder
    lib = ctypes.PyDLL(os.path.join(HERE, "libmayfly-zygote.so"))
    preload(lib, template)
    environment.update(os.environb)
    settle(lib)
    run(lib, serve(lib))


main()
