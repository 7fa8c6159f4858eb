"""Prepares the Python zygote's memory before it forks, so that clones copy few pages of it.

Figures and dropped ideas: docs/decisions/0009-python-memory.md. Each function may be left out; none
changes a program's meaning. All of them know CPython 3.12 and 3.13 on 64 bits and do nothing elsewhere.
One thread. The module is gone from sys.modules before the zygote serves.
"""

import array
import bisect
import ctypes
import gc
import os
import sys
import types
import weakref

word, wide = ctypes.c_uint32, ctypes.c_uint64
HEAP_TYPE, TRACKED = 1 << 9, 1 << 14  # bits of a type's flags
SHARED_KEYS = type.__basicsize__ - 48  # ht_cached_keys of a class
DICT_KEYS = 32  # ma_keys of a dictionary
MORTAL_KINDS = (types.FrameType, types.TracebackType, memoryview)
CODE_PARTS = ("co_consts", "co_names", "co_filename", "co_name", "co_qualname", "co_linetable", "co_exceptiontable")
BLOCK_BYTES_MAX = 512  # of the interpreter's own allocator
CHUNK_BYTES_MAX = 120_000  # of the C library's heap; larger chunks are mapped separately


def immortal_count():
    """The count that marks an object as immortal (PEP 683), or None if it is not that of CPython 3.12 and 3.13.

    In those versions, a count whose low half has this value is neither raised nor lowered.
    """
    known = sys.implementation.name == "cpython" and sys.version_info[:2] in ((3, 12), (3, 13))
    if not known or sys.abiflags or sys.maxsize < 2**32 or sys.byteorder != "little":
        return None
    probe, count = object(), word.from_address(id(None)).value
    if word.from_address(id(probe)).value != sys.getrefcount(probe) - 1:
        return None
    word.from_address(id(probe)).value = count
    many = [probe] * 1000
    raised = word.from_address(id(probe)).value != count
    many.clear()
    return None if raised or word.from_address(id(probe)).value != count else count


def shared_keys(each):
    """The address of the count of the key table that a class's instances share, or 0."""
    if not isinstance(each, type) or not each.__flags__ & HEAP_TYPE:
        return 0
    return wide.from_address(id(each) + SHARED_KEYS).value


def shared_keys_are_known(count):
    """Whether key tables are where CPython 3.13 has them, and their counts behave like an object's."""
    if sys.version_info[:2] != (3, 13):
        return False
    probe_class = type("Probe", (), {})
    probe, other = probe_class(), probe_class()
    probe.one = other.one = 1
    table = wide.from_address(id(probe.__dict__) + DICT_KEYS).value
    if shared_keys(probe_class) != table or wide.from_address(table).value != 2:  # the references of the class and the instance
        return False
    word.from_address(table).value = count
    return other.__dict__ == {"one": 1} and wide.from_address(table).value == count


def referents(each):
    """The objects that an object holds, even those that the collector skips: of code, and of static types."""
    if type(each) is types.CodeType:
        return [getattr(each, part) for part in CODE_PARTS]
    found = gc.get_referents(each)
    if isinstance(each, type):
        found += [type.__dict__["__mro__"].__get__(each), type.__dict__["__bases__"].__get__(each)]
        found += gc.get_referents(type.__dict__["__dict__"].__get__(each))
    return found


def make_immortal():
    """Takes loaded objects out of reference counting; returns a line for the log.

    A clone that merely looks at an object writes to its count, so the kernel copies the page. Loaded objects live
    until the clone ends, counted or not, unless a task deletes them. Objects whose end has an effect stay mortal:
    those with a finalizer or with a weak reference's callback, and views of buffers. Frames are in use and stay
    mortal, too. A class is made immortal whatever watches it: its own `__mro__` keeps it alive.
    """
    count = immortal_count()
    if count is None:
        return f"reference counts are written: {sys.implementation.name} {sys.version.split()[0]} is not known"
    with_keys = shared_keys_are_known(count)
    kinds = {}  # type -> whether its objects' end has an effect, they may be watched, and how to look into them
    mortal = 0
    gc.unfreeze()
    todo = gc.get_objects()
    gc.freeze()  # no collection meanwhile
    seen = set(map(id, todo))
    own = {id(todo), id(seen), id(kinds)}
    while todo:
        each = todo.pop()
        kind = type(each)
        if kind not in kinds:
            is_class = issubclass(kind, type)
            inside = gc.get_referents if kind.__flags__ & TRACKED else None
            kinds[kind] = (
                issubclass(kind, MORTAL_KINDS) or hasattr(kind, "__del__"),
                kind.__weakrefoffset__ != 0 and not is_class,
                referents if is_class or kind is types.CodeType else inside,
            )
        ends, may_be_watched, inside = kinds[kind]
        if id(each) in own:
            continue
        if ends or may_be_watched and any(ref.__callback__ is not None for ref in weakref.getweakrefs(each)):
            mortal += 1
            continue
        word.from_address(id(each)).value = count
        if inside is None:
            continue
        if with_keys and inside is referents and shared_keys(each):
            word.from_address(shared_keys(each)).value = count
        for other in inside(each):
            if id(other) not in seen:
                seen.add(id(other))
                todo.append(other)
    keys = "" if with_keys else "; counts of classes' key tables are written"
    return f"{len(seen) - mortal} objects are immortal, {mortal} are not{keys}"


def executed(run):
    """The code objects that a run executes; found out in a child, with which the monitoring ends."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            seen = set()
            monitoring, events = sys.monitoring, sys.monitoring.events
            monitoring.use_tool_id(monitoring.PROFILER_ID, "mayfly")
            for event in (events.PY_START, events.PY_RESUME):
                monitoring.register_callback(monitoring.PROFILER_ID, event, lambda code, offset: seen.add(id(code)))
            monitoring.set_events(monitoring.PROFILER_ID, events.PY_START | events.PY_RESUME)
            run()
            monitoring.set_events(monitoring.PROFILER_ID, 0)
            with open(write, "wb") as file:
                file.write(array.array("Q", seen).tobytes())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with open(read, "rb") as file:
        found = array.array("Q", file.read())
    return set(found) if os.waitpid(child, 0)[1] == 0 else set()


def gather_code(run):
    """Places all code that a run executes side by side; returns a line for the log.

    The interpreter writes counters and caches into the code that it executes. If this code is spread among all
    loaded objects, a clone copies a page for nearly every function. So copies of it are allocated one after the
    other, and the functions take them by `__code__`, as in any program. Code that holds a copied one is rebuilt.
    """
    if immortal_count() is None:
        return "code stays where it is"
    functions = [each for each in gc.get_objects() if type(each) is types.FunctionType]
    known = {}  # id -> code, inner ones before outer ones

    def add(code):
        if id(code) not in known:
            for const in code.co_consts:
                if type(const) is types.CodeType:
                    add(const)
            known[id(code)] = code

    for each in functions:
        add(each.__code__)
    hot = executed(run) & known.keys()
    for at in hot:  # the objects that replace() would make and keep between the copies
        code = known[at]
        code.co_code, code.co_varnames, code.co_cellvars, code.co_freevars
    plug_holes()
    copies = {}
    for pick in (hot, known):
        for at, code in known.items():
            holds_copy = any(id(const) in copies for const in code.co_consts)
            if at in pick and at not in copies and (at in hot or holds_copy):
                consts = code.co_consts
                if holds_copy:
                    consts = tuple(copies.get(id(const), const) for const in consts)
                copies[at] = code.replace(co_consts=consts)
    for each in functions:
        if id(each.__code__) in copies:
            each.__code__ = copies[id(each.__code__)]
    return f"{len(hot)} of {len(known)} codes lie together"


class MallocInfo(ctypes.Structure):
    """mallinfo2 of malloc.h."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


class Heap:
    """The allocators' functions, looked up once, because each look-up by ctypes leaves names behind."""

    def __init__(self):
        libc = ctypes.PyDLL(None)
        self.known = immortal_count() is not None and hasattr(libc, "mallinfo2")
        if self.known:
            size = ctypes.c_size_t
            libc.PyObject_Malloc.argtypes, libc.PyObject_Malloc.restype = [size], size
            libc.malloc.argtypes, libc.malloc.restype, libc.free.argtypes = [size], size, [size]
            libc.sbrk.argtypes, libc.sbrk.restype, libc.mallinfo2.restype = [ctypes.c_ssize_t], size, MallocInfo
            self.malloc, self.free, self.sbrk, self.info = libc.malloc, libc.free, libc.sbrk, libc.mallinfo2
            self.block, self.trim = libc.PyObject_Malloc, libc.malloc_trim


heap = Heap()
kept = []  # until the clone's end


def plug_holes():
    """Allocates the free memory between loaded objects, and keeps it.

    A clone then allocates from adjacent pages that hold nothing else, instead of copying a page of the zygote
    for each hole that it fills.
    """
    if not heap.known:
        return
    begins, ends = array.array("Q"), array.array("Q")
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = line.split()[0].split("-")
            begins.append(int(begin, 16))
            ends.append(int(end, 16))
    gc.collect()  # empties the free lists
    # The largest first: it takes the free pools of all sizes. Further allocations start a new
    # arena.
    for size in range(BLOCK_BYTES_MAX, 0, -16):
        at = begins[0]
        while begins[0] <= at < ends[bisect.bisect_right(begins, at) - 1]:
            at = heap.block(size)
    heap.trim(0)
    top = heap.sbrk(0) - heap.info().keepcost
    sizes = [24 + 16 * index for index in range(64)]
    while sizes[-1] < CHUNK_BYTES_MAX:
        sizes.append(sizes[-1] * 5 // 4)
    for size in reversed(sizes):
        at = heap.malloc(size)
        while 0 < at < top:
            at = heap.malloc(size)
        heap.free(at)
    heap.trim(0)


def empty_caches():
    """Empties caches that hold scattered allocations: the interpreter's cache of attributes holds names, and
    numpy's holds up to seven blocks of each size that small arrays leave behind."""
    if immortal_count() is None:
        return
    sys._clear_type_cache()
    if numpy := sys.modules.get("numpy"):
        for _ in range(7):
            kept.extend(numpy.empty(size, numpy.uint8) for size in (*range(64), *range(64, 1024, 8)))
            kept.extend(numpy.empty((0,) * dimensions) for dimensions in range(2, 8))


def trim():
    """Returns the free memory at the heap's end."""
    if heap.known:
        heap.trim(0)
