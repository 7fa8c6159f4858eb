"""Prepares a clone for its task: environment, arguments, state.

The interpreter's main function then runs the task as it would run `python3 script.py` (or
-c, or -). A task that needs a new interpreter gets one: see why_fresh().
The module is gone from sys.modules before the zygote serves. One thread.
"""

import builtins
import ctypes
import fnmatch
import importlib.machinery
import io
import os
import random
import sys
import time
import types
import zipimport

COMMAND, FILE, STRING, STDIN, MODULE = range(5)
PROGRAM = "/usr/bin/python3"
FOLDER = "/task"
ARCHIVE_BYTES_MAX = 4 << 20  # a larger one is not looked into before the task's caps are in force
ARGUMENT_BYTES_MAX = 131_071  # of one argument: the kernel's limit, without its NUL
BLAS_THREADS_MAX = 128  # that Debian builds OpenBLAS for
NOT_RUN = 126  # as in a shell: found, but cannot be executed
# Variables that an interpreter, the C library or a loader reads at start.
AT_START_ONLY = ("PYTHON*", "HOME", "LANG", "LANGUAGE", "LC_*", "LD_*", "GLIBC_TUNABLES", "MALLOC_*", "OPENSSL_*")
# Of these, some can be applied to a clone.
APPLIED = {"PYTHONPATH"}
# Some are switches, if their values mean only on or off.
SWITCHES = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE")
SWITCHED_ON, SWITCHED_OFF = b"1", (b"", b"0")
# The folders in which site looks for the user's packages when an interpreter starts.
FILES_AT_START = (".local/lib",)


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


class Clones:
    """The zygote's knowledge of its clones, which each clone inherits."""

    def __init__(self, lib, template, at_start):
        self.lib = lib
        self.task = Task()
        self.template = template
        self.at_start = at_start  # names of modules that each interpreter loads before its program
        # The environment of a task that names no variables.
        self.expected = {os.fsencode(name): os.fsencode(value) for name, value in template["task_env"].items()}
        self.counts = frozenset(template["cpus_env"])
        self.fresh = (*AT_START_ONLY, *template["fresh_env"])
        self.fresh_files = (*FILES_AT_START, *template["fresh_files"])
        self.environment = {}  # the zygote's, as a clone inherits it
        self.shadowable = frozenset()  # top-level names that a file beside the script may override
        self.threads = None

    def settle(self):
        """Called once, after all loading."""
        self.environment.update(os.environb)
        tops = {name.partition(".")[0] for name in sys.modules}
        own = set(sys.builtin_module_names) | self.at_start
        self.shadowable = frozenset(top for top in tops - own if not frozen(top))
        self.threads = Threads()

    def set_environment(self, wanted):
        """Sets the task's variables and no others. Touches only those that differ."""
        if wanted == self.environment:
            return
        for name in self.environment.keys() - wanted.keys():
            del os.environb[name]
        for name, value in wanted.items():
            if self.environment.get(name) != value:
                os.environb[name] = value
        if wanted.get(b"TZ") != self.environment.get(b"TZ"):
            time.tzset()

    def why_fresh(self, kind, script, wanted, module=None):
        """Why this task cannot run in the preloaded interpreter, or None."""
        for name, value in wanted.items():
            if self.expected.get(name) == value:
                continue
            name = os.fsdecode(name)
            if name in self.counts:
                if not value.isdigit() or int(value) < 1:
                    return name
            elif name in SWITCHES and can_switch(name, value):
                continue
            elif name not in APPLIED and any(fnmatch.fnmatchcase(name, each) for each in self.fresh):
                return name
        folders = paths_of(wanted)
        for folder in folders:
            for name in ("sitecustomize", "usercustomize"):
                if os.path.lexists(f"{folder}/{name}.py") or os.path.lexists(f"{folder}/{name}"):
                    return f"{folder}/{name}"
        if kind == FILE:
            program = os.path.abspath(os.fsdecode(script))
            # A script's folder comes first in sys.path; a folder or an archive is there itself.
            inside = os.path.isdir(program) or self.in_archive(program) is not None
            folders.insert(0, program if inside else os.path.dirname(os.path.realpath(program)))
        elif kind == MODULE:
            if "." in module and module in sys.modules and not hasattr(sys.modules[module], "__path__"):
                return module  # a new interpreter has not loaded it yet, and runpy warns if it is
            folders.insert(0, FOLDER)
        if os.listdir(FOLDER) != ["out"]:
            for name in self.fresh_files:
                if os.path.lexists(os.path.join(FOLDER, name)):
                    return name
            # The program's own folder, which it may add to sys.path.
            folders += (folder for folder, _, names in os.walk(FOLDER) if "__init__.py" not in names)
        for folder in dict.fromkeys(folders):
            for shadow in self.shadows(folder):
                return os.path.join(folder, shadow)
        return None

    def shadows(self, folder):
        """The names in the folder that would be imported instead of a preloaded module."""
        try:
            names = os.listdir(folder)
        except OSError:
            yield from self.in_archive(folder) or ()
            return
        for name in names:
            top, dot, _ = name.partition(".")
            if top not in self.shadowable:
                continue
            path = os.path.join(folder, name)
            if dot and name[len(top):] in importlib.machinery.all_suffixes() and os.path.isfile(path):
                yield name
            elif not dot and any(os.path.isfile(f"{path}/__init__{end}") for end in importlib.machinery.all_suffixes()):
                yield name

    def in_archive(self, path):
        """The same of a zip file; None if it is none. A large file counts as one, with its own name."""
        try:
            if os.path.getsize(path) > ARCHIVE_BYTES_MAX:
                return [os.path.basename(path)]
            names = zipimport._read_directory(path)
        except (OSError, zipimport.ZipImportError):
            return None
        tops = (name.partition(os.sep)[0] for name in names)
        return [top for top in dict.fromkeys(tops) if top.partition(".")[0] in self.shadowable]

    def execute(self, kind, argv, code, why):
        """Runs the task in a new interpreter, in this box and process."""
        if kind == STRING:
            if len(code) > ARGUMENT_BYTES_MAX:
                self.refuse(f"the program has {len(code)} bytes, and '{why}' needs a new interpreter, which takes "
                            f"{ARGUMENT_BYTES_MAX} at most: put the program into a file")
            argv = [b"-c", code, *argv[1:]]
        elif kind == MODULE:
            argv = [b"-m", code, *argv[1:]]
        elif kind == STDIN:
            fd = os.memfd_create("program")
            with open(fd, "wb", closefd=False) as file:
                file.write(code)
            os.lseek(fd, 0, os.SEEK_SET)
            os.dup2(fd, 0)
        arguments = [b"python3", *argv]
        task = self.task
        task.argv = (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)
        self.lib.mayfly_zygote_execute(os.fsencode(PROGRAM), ctypes.byref(task))

    def refuse(self, words):
        """Ends the task with a message: no other interpreter could run it either."""
        self.lib.mayfly_zygote_started()
        os.write(2, f"mayfly: {words}\n".encode())
        os._exit(NOT_RUN)

    def take(self):
        """In a clone: gives the task's command line to libmayfly-python."""
        task = self.task
        strings = ctypes.string_at(task.strings, task.strings_bytes).split(b"\0")
        argv = strings[: task.argc]
        wanted = dict(entry.split(b"=", 1) for entry in strings[task.argc : -1])
        code = ctypes.string_at(task.code, task.code_bytes) if task.code_bytes else b""
        why = self.why_fresh(task.kind, argv[0], wanted, os.fsdecode(code) if task.kind == MODULE else None)
        if why is not None:
            self.execute(task.kind, argv, code, why)
        self.set_environment(wanted)
        begin(argv, code if task.kind in (STRING, MODULE) else None)
        switch_on(wanted)
        if paths := paths_of(wanted):
            sys.path[:] = dict.fromkeys(paths + sys.path)  # the script's own folder comes before them
        refresh()
        if task.has_seed:
            seed_generators(task.seed)
        self.threads.set(wanted)
        program = code if task.kind == MODULE else code + b"\n"
        return (program, os.path.abspath(argv[0]), int(wanted.get(b"PYTHON_CPU_COUNT", b"0")))


class Threads:
    """Raises the number of threads of libraries that were loaded with one: they start threads when needed."""

    def __init__(self):
        self.blas = loaded_library("libblas.so.3")
        self.openmp = loaded_library("libgomp.so.1")
        self.words = []
        if self.blas and hasattr(self.blas, "blas_thread_shutdown_"):
            try:
                self.words = [ctypes.c_int.in_dll(self.blas, name) for name in ("blas_num_threads", "blas_cpu_number")]
            except ValueError:
                pass  # a library of another make

    def set(self, wanted):
        openmp = wanted.get(b"OMP_NUM_THREADS", b"1")
        if openmp != b"1" and self.openmp:
            self.openmp.omp_set_num_threads(int(openmp))
        if not self.words:  # a library that the task loads reads the variables itself
            return
        blas = wanted.get(b"OPENBLAS_NUM_THREADS", openmp)
        count = min(int(blas), len(os.sched_getaffinity(0)), BLAS_THREADS_MAX)
        if count > 1:
            self.blas.blas_thread_shutdown_()  # the next call that is worth threads starts them again
            for word in self.words:
                word.value = count


def loaded_library(name):
    try:
        return ctypes.PyDLL(name, os.RTLD_NOLOAD)
    except OSError:
        return None


def frozen(name):
    return importlib.machinery.FrozenImporter.find_spec(name) is not None


def paths_of(wanted):
    """PYTHONPATH's folders in the form of sys.path."""
    value = wanted.get(b"PYTHONPATH")
    return [os.path.abspath(os.fsdecode(part)) for part in value.split(b":")] if value else []


def begin(argv, command):
    """Sets arguments and a __main__ as in a starting interpreter."""
    sys.argv = [os.fsdecode(text) for text in argv]
    sys.orig_argv = ["python3", *sys.argv]
    if command is not None:
        sys.orig_argv.insert(2, os.fsdecode(command))
    main = types.ModuleType("__main__")
    space = main.__dict__
    space["__annotations__"] = {}
    space["__builtins__"] = builtins
    space["__loader__"] = importlib.machinery.BuiltinImporter
    sys.modules["__main__"] = main
    if "__mp_main__" in sys.modules:  # as multiprocessing has it at its import
        sys.modules["__mp_main__"] = main
    return space


def is_on(switch):
    return sys.stdout.write_through if switch == "PYTHONUNBUFFERED" else sys.dont_write_bytecode


def can_switch(switch, value):
    return value == SWITCHED_ON or value in SWITCHED_OFF and not is_on(switch)


def switch_on(wanted):
    """Does what the interpreter's switches do at its start."""
    on = [switch for switch in SWITCHES if wanted.get(os.fsencode(switch)) == SWITCHED_ON and not is_on(switch)]
    if "PYTHONDONTWRITEBYTECODE" in on:
        sys.dont_write_bytecode = True
        sys.flags = flags_with("dont_write_bytecode")
    if "PYTHONUNBUFFERED" in on:
        unbuffer("stdout", 1)
        unbuffer("stderr", 2)
        libc = ctypes.CDLL(None)
        for stream in ("stdin", "stdout", "stderr"):
            libc.setvbuf(ctypes.c_void_p.in_dll(libc, stream), None, 2, 0)  # _IONBF


def unbuffer(name, fd):
    before = getattr(sys, name)
    raw = io.FileIO(fd, "wb", closefd=False)
    raw.name = f"<{name}>"
    stream = io.TextIOWrapper(raw, before.encoding, before.errors, newline="\n", write_through=True)
    stream.mode = "w"
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def flags_with(flag):
    """sys.flags with this flag set; no program can create this type, so it is copied."""
    kind, api = type(sys.flags), ctypes.pythonapi
    api.PyStructSequence_New.restype = ctypes.py_object
    made = api.PyStructSequence_New(ctypes.py_object(kind))
    for at, (name, value) in enumerate(zip(kind.__match_args__, sys.flags, strict=True)):
        value = ctypes.py_object(1 if name == flag else value)
        api.Py_IncRef(value)  # SetItem takes one reference
        api.PyStructSequence_SetItem(ctypes.py_object(made), ctypes.c_ssize_t(at), value)
    return made


def refresh():
    """Recomputes values that modules computed at their load and that differ between processes."""
    modules = sys.modules
    if logging := modules.get("logging"):
        logging._startTime = time.time_ns()
    if process := modules.get("multiprocessing.process"):
        process._current_process._config["authkey"] = process.AuthenticationString(os.urandom(32))


def seed_generators(seed):
    random.seed(seed)
    if "numpy.random" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
