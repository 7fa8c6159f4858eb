"""The Python zygote: a thin program over libmayfly-zygote and libmayfly-python.

It loads the modules of template.json and ends. Then libmayfly-python serves, and in each clone
lets the interpreter's own main function run the one task (docs/decisions/0012).
Before that, prepare() gives the clone its task's environment, arguments and state.
One thread; PyDLL keeps the interpreter's lock throughout.
"""

import sys

AT_START = frozenset(sys.modules)  # the modules that each interpreter loads before its program

import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import traceback
import types

HERE = "/usr/lib/mayfly"

import memory
import task

sys.path.remove(HERE)
sys.path_importer_cache.pop(HERE, None)
del sys.modules["memory"], sys.modules["task"]
ABI = 2

# The empty task of a rehearsal, then the template's own: work that its tasks are likely to do.
REHEARSAL = b"""\
import sys
def add(a, b):
    return a + b
print(add(6, 7), [n for n in range(3)], {"a": "b"}, f"{1.5:.2f}")
"""
# A class counts its first thirty instances, code its branches: after thirty rehearsals these are no
# longer written.
REHEARSALS = 30
rehearsals = []


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


class Python(ctypes.Structure):
    """mayfly_python of mayfly/python.h."""

    _fields_ = [
        ("settle", ctypes.py_object),
        ("prepare", ctypes.py_object),
        ("serve", ctypes.c_void_p),
        ("started", ctypes.c_void_p),
        ("hooks", ctypes.POINTER(Hooks)),
        ("task", ctypes.POINTER(task.Task)),
        ("last", ctypes.c_void_p),
        ("command", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
        ("cpu_count", ctypes.c_int),
    ]


class ArenaAllocator(ctypes.Structure):
    """PyObjectArenaAllocator of CPython."""

    _fields_ = [("context", ctypes.c_void_p), ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p)]


def address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def warm_up(path):
    """Runs a template's own few lines, for work that imports alone do not do."""
    with open(path, "rb") as file:
        exec(compile(file.read(), path, "exec"), {"__name__": "warm"})
    gc.collect()  # freed objects close their files


def tell_trace():
    """Prints the trace to the zygote's log, if the interpreter still can."""
    with contextlib.suppress(BaseException):
        traceback.print_exc()
        sys.stderr.flush()


def in_short(error):
    """The exception's type, first line and last line: the last one often names the cause."""
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    ends = [line[:130] for line in (lines if len(lines) < 2 else (lines[0], lines[-1]))]
    return f"{type(error).__name__}: {' ... '.join(ends)}"


def step(lib, name, do, what):
    """Runs a step; if it fails, the template is at fault, and the step is named."""
    try:
        do(what)
    except BaseException as error:
        tell_trace()
        lib.mayfly_zygote_refuse(f"{name} failed: {in_short(error)}".encode("utf-8", "replace"))
        sys.exit(2)


def started_thread():
    """Says which of Python's own threads runs; None without one. The library sees others, but no module."""
    threading = sys.modules.get("threading")
    for thread in threading.enumerate() if threading else ():
        if thread is not threading.main_thread():
            code = getattr(thread, "_target", None) or getattr(thread, "function", None) or type(thread)
            module = getattr(code, "__module__", None) or "?"
            way = 'take it out of zygote.preload: the task loads it; or set mechanism = "restore"'
            return f"started a thread '{thread.name:.40}', in module {module:.60}; {way}"
    return None


def keep_openssl():
    """Keeps OpenSSL from freeing its memory, page by page, at the process's end."""
    with contextlib.suppress(OSError):
        no_exit_function = 0x80000
        ctypes.PyDLL("libcrypto.so.3").OPENSSL_init_crypto(ctypes.c_uint64(no_exit_function), None)


def share_arenas(lib):
    """The clones share those preload allocations that are in the interpreter's own arenas."""
    arenas = ArenaAllocator(None, address(lib.mayfly_zygote_arena_alloc), address(lib.mayfly_zygote_arena_free))
    ctypes.pythonapi.PyObject_SetArenaAllocator(ctypes.byref(arenas))
    if lib.mayfly_zygote_mark_memory() != 0:
        sys.exit("zygote: cannot mark its memory")


def preload(lib, template):
    """Imports each module on its own, so that the one that breaks the zygote is named."""
    restores = is_dumped(template)
    rehearsal = os.path.join(HERE, "rehearsal.py")
    if os.path.exists(rehearsal):
        with open(rehearsal, "rb") as file:
            rehearsals.append(compile(file.read(), rehearsal, "exec", dont_inherit=True))
    share_arenas(lib)
    keep_openssl()
    lib.mayfly_zygote_preloaded(None)
    steps = [(name, importlib.import_module, name) for name in template.get("preload", [])]
    if os.path.exists(f"{HERE}/warm.py"):
        steps.append(("warm.py", warm_up, f"{HERE}/warm.py"))
    for name, do, what in steps:
        step(lib, f"preload '{name:.60}'", do, what)
        if not restores and (told := started_thread()):
            lib.mayfly_zygote_refuse(f"preload '{name:.60}' {told}".encode("utf-8", "replace"))
            sys.exit(2)
        if lib.mayfly_zygote_preloaded(name.encode()) != 0:
            sys.exit(2)


def make_stdio():
    """Makes stdio objects for the clones, over descriptors 0..2.

    Made once, in the zygote, while the three are pipes as in a clone: the objects
    check their kind (seekable? a terminal?) only when they are made.
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
    """mt19937_state of numpy: a position at the end means that all words are used."""

    _fields_ = [("words", ctypes.c_uint32 * 624), ("position", ctypes.c_int)]


def numpy_state():
    """The address of the state of numpy's common generator, or None if its form is unknown."""
    generator = sys.modules["numpy.random"].mtrand._rand._bit_generator
    if type(generator).__name__ != "MT19937":
        return None
    told = generator.state["state"]
    state = MersenneTwister.from_address(generator.ctypes.state_address)
    return state if list(state.words) == told["key"].tolist() and state.position == told["pos"] else None


def is_dumped(template):
    """Whether clones are restored from a snapshot of this process, instead of being forked from it."""
    return template["mechanism"] == "restore"


class OpenSSL:
    """An OpenSSL of this process. Its generators notice a fork by the new pid, and a restore not at all."""

    def __init__(self, file):
        self.library = ctypes.PyDLL(file)

    def seed(self, fresh):
        self.library.RAND_add(fresh, len(fresh), ctypes.c_double(len(fresh)))
        if self.library.RAND_poll() != 1:
            raise OSError("OpenSSL cannot be seeded")


class InnerOpenSSL:
    """The one inside `cryptography`, whose symbols nobody else sees."""

    def __init__(self, module):
        self.library = module._openssl.lib
        self.library.RAND_add, self.library.RAND_status  # an older or newer one may not have them

    def seed(self, fresh):
        self.library.RAND_add(fresh, len(fresh), float(len(fresh)))  # its primary generator takes the kernel's bytes, too
        if self.library.RAND_status() != 1:
            raise OSError("cryptography's OpenSSL cannot be seeded")


openssls = []  # that clones seed
INNER_OPENSSL = "cryptography.hazmat.bindings._rust"


def is_openssl(file):
    """By its name: "libcrypto.so.3", as wheels rename it "libcrypto-0a1b2c3d.so.3"; not Crypto++'s "libcryptopp.so.8"."""
    folder, _, rest = file.rpartition("/libcrypto")
    return bool(folder) and "/" not in rest and ".so" in rest and rest[0] in ".-_0123456789"


def find_openssls(_):
    """The image's, those that wheels bring, and cryptography's: all that the preloads have loaded."""
    with open("/proc/self/maps") as maps:
        files = {line.split(maxsplit=5)[5].rstrip("\n") for line in maps if "/libcrypto" in line}
    openssls.extend(OpenSSL(file) for file in sorted(filter(is_openssl, files)))
    if INNER_OPENSSL in sys.modules:
        openssls.append(InnerOpenSSL(sys.modules[INNER_OPENSSL]))


def reseed_restored():
    """In a restored clone, which no fork and no new pid tell that it is another process."""
    try:
        modules = sys.modules
        if "random" in modules:
            modules["random"].seed()
        for each in openssls:
            each.seed(os.urandom(64))
        return reseed() if "numpy.random" in modules else 0
    except Exception:
        tell_trace()
        return 1


def reseed_numpy(lib):
    """Lets each clone seed numpy's common generator; returns the callback for it, or None if none is needed.

    The standard library's generators need nothing: `random` has its own at-fork hook, OpenSSL notices the new
    pid, the others ask the kernel each time.
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
    """In a new clone, if numpy's generator has an unknown form."""
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


def settle(clones):
    """Does work once that every clone would otherwise have to do."""
    modules = sys.modules
    if "ssl" in modules:
        modules["ssl"].RAND_bytes(1)  # OpenSSL loads its providers
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None  # each clone makes its own
    if "uuid" in modules:
        modules["uuid"]._node = modules["uuid"]._last_timestamp = None
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__ = make_stdio()
    clones.settle()
    # Everything loaded so far lives as long as the clone: no collection scans it again.
    gc.collect()
    rehearsal = streams_on_null()(rehearse)
    step(clones.lib, "the rehearsal", rehearsal, clones)
    say(memory.gather_code(lambda: rehearsal(clones)))
    gc.freeze()
    for _ in range(REHEARSALS):
        step(clones.lib, "the rehearsal", rehearsal, clones)
    if rehearsals:
        memory.empty_caches()
    memory.plug_holes()
    say(memory.make_immortal())
    memory.plug_holes()
    memory.plug_holes()  # the holes that the first one left


def clear_module(space):
    for pick in (lambda n: n[0:1] == "_" and n[1:2] != "_", lambda n: n != "__builtins__"):
        for name in [n for n in space if isinstance(n, str) and pick(n)]:
            space[name] = None


def rehearse(clones):
    """Runs an empty task, so that this clone has its own copies of the pages that it writes to.

    Undoes everything that a task could see: modules, paths, arguments, warnings.
    """
    argv, orig_argv, path, main = sys.argv, sys.orig_argv, sys.path[:], sys.modules["__main__"]
    mp_main = sys.modules.get("__mp_main__")
    loaded = len(sys.modules)
    clones.lib.mayfly_zygote_abi()
    strings = [b"-c", *(b"=".join(entry) for entry in clones.environment.items()), b""]
    text = ctypes.create_string_buffer(b"\0".join(strings))
    words = ctypes.string_at(ctypes.addressof(text), len(text) - 1).split(b"\0")
    wanted = dict(entry.split(b"=", 1) for entry in words[1:-1])
    clones.why_fresh(task.STRING, words[0], wanted)
    clones.set_environment(wanted)
    space = task.begin(words[:1], REHEARSAL)
    exec(compile(REHEARSAL, "<string>", "exec", dont_inherit=True), space)
    for code in rehearsals:
        exec(code, dict(space))
    if rehearsals:  # the cycles of a chart, and their part of the heap
        gc.collect(1)
        memory.trim()
    sys.stdout.flush()
    clear_module(space)
    sys.argv, sys.orig_argv, sys.path[:], sys.modules["__main__"] = argv, orig_argv, path, main
    if mp_main:
        sys.modules["__mp_main__"] = mp_main
    if len(sys.modules) != loaded:
        raise RuntimeError("it loaded " + ", ".join(list(sys.modules)[loaded:]))


def rehearse_in_clone(clones):
    try:
        rehearse(clones)
        return 0
    except BaseException:
        tell_trace()
        return 1


class Served(BaseException):
    """Ends this program: the interpreter hands over to libmayfly-python."""


def hand_over(clones):
    """Lets libmayfly-python serve, once no frame of this program is left."""
    lib, api = clones.lib, ctypes.pythonapi
    if is_dumped(clones.template):
        step(lib, "a look for generators to seed", find_openssls, None)
    helper = ctypes.PyDLL(f"{HERE}/libmayfly-python.so")
    reseeds = ctypes.PYFUNCTYPE(ctypes.c_int)(reseed_restored) if is_dumped(clones.template) else reseed_numpy(lib)
    rehearses = ctypes.PYFUNCTYPE(ctypes.c_int)(lambda: rehearse_in_clone(clones))
    hooks = Hooks(
        ABI,
        0,
        address(api.PyOS_BeforeFork),
        address(api.PyOS_AfterFork_Parent),
        address(api.PyOS_AfterFork_Child),
        address(reseeds) if reseeds else None,
        address(rehearses),
    )

    def last_step():
        sys.excepthook = sys.__excepthook__
        sys.stdout.flush()
        sys.stderr.flush()
        old = sys.__interactivehook__  # no task needs it; the new object is reference-counted
        new = types.FunctionType(old.__code__, old.__globals__, old.__name__, old.__defaults__, old.__closure__)
        new.__qualname__ = old.__qualname__
        sys.__interactivehook__, python.last = new, id(new)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(new))  # the reference that libmayfly-python drops
        gc.collect()
        result = lib.mayfly_zygote_share_memory()
        if result != 0:
            say(f"zygote: cannot share its memory: {os.strerror(-result)}")
            os._exit(2)

    def prepare():
        python.command, file, python.cpu_count = clones.take()
        python.file = file

    python = Python(
        last_step,
        prepare,
        address(lib.mayfly_zygote_serve),
        address(lib.mayfly_zygote_started),
        ctypes.pointer(hooks),
        ctypes.pointer(clones.task),
    )
    result = helper.mayfly_python_init(ctypes.byref(python), ctypes.c_wchar_p(__file__), ctypes.c_wchar_p(HERE))
    if result < 0:
        sys.exit(f"zygote: cannot use this interpreter: {os.strerror(-result)}")
    if result > 0:
        say("a task's end takes long: the interpreter is not as known")
    hook = helper.mayfly_python_main
    hook.argtypes, hook.restype = [ctypes.py_object] * 3, ctypes.c_void_p
    kept.extend((python, hooks, reseeds, rehearses, helper))
    sys.excepthook = hook


kept = []  # until the clone's end
ROLE = ("MAYFLY_ZYGOTE_ROLE", "LD_PRELOAD")  # of a zygote that is dumped


def main():
    with open(f"{HERE}/template.json", encoding="utf-8") as file:
        template = json.load(file)
    wanted = {**os.environ, **template["env"]}
    if wanted != dict(os.environ):  # the interpreter reads some variables only at its start
        os.execve(sys.executable, sys.orig_argv, wanted)
    os.chdir(task.FOLDER)
    lib = ctypes.PyDLL(f"{HERE}/libmayfly-zygote.so")
    for name in ROLE:  # the library has taken them out of the process's environment
        os.environ.pop(name, None)
    clones = task.Clones(lib, template, AT_START)
    preload(lib, template)
    settle(clones)
    hand_over(clones)


main()
raise Served
