"""What the Python zygote does to its memory before it forks, so that clones copy few pages of it.

Figures and what was dropped: docs/decisions/0009-python-memory.md. Each function may be left out; none
changes what a program means. All of it knows CPython 3.12 and 3.13 on 64 bits and does nothing elsewhere.
One thread. The module is gone from sys.modules before the zygote serves.
"""

import bisect
import ctypes
import gc
import sys
import types
import weakref

word = ctypes.c_uint32
MORTAL_KINDS = (types.FrameType, types.TracebackType, memoryview)
CODE_PARTS = ("co_consts", "co_names", "co_filename", "co_name", "co_qualname", "co_linetable", "co_exceptiontable")
BLOCK_BYTES_MAX = 512  # of the interpreter's own allocator
CHUNK_BYTES_MAX = 120_000  # of the C library's heap; larger ones are mapped on their own


def immortal_count():
    """What marks an object as immortal (PEP 683), or None where it is not as in CPython 3.12 and 3.13.

    There, and in the builds for which this is written, a count's low half that has this one value is neither
    raised nor lowered.
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


def referents(each):
    """What an object holds, also where the collector does not ask: in code, and in types that are not allocated."""
    if type(each) is types.CodeType:
        return [getattr(each, part) for part in CODE_PARTS]
    found = gc.get_referents(each)
    if isinstance(each, type):
        found += [type.__dict__["__mro__"].__get__(each), type.__dict__["__bases__"].__get__(each)]
        found += gc.get_referents(type.__dict__["__dict__"].__get__(each))
    return found


def make_immortal():
    """Takes what is loaded out of reference counting; returns what there is to say of it.

    A clone that merely looks at an object writes to its count, and gets its page copied for it. What is loaded
    lives until its clone ends, counted or not, as long as no task deletes it. What does something at its end
    stays mortal: objects with a finalizer, those for whose end a weak reference's callback waits, views of
    buffers. Frames are in use.
    """
    count = immortal_count()
    if count is None:
        return f"reference counts are written: {sys.implementation.name} {sys.version.split()[0]} is not known"
    ends = {}  # type -> whether its objects do something at their end
    mortal = 0
    todo = gc.get_objects()
    seen = set(map(id, todo))
    own = (todo, seen, ends)
    while todo:
        each = todo.pop()
        kind = type(each)
        if kind not in ends:
            ends[kind] = issubclass(kind, MORTAL_KINDS) or hasattr(kind, "__del__")
        if any(each is one for one in own):
            continue
        if ends[kind] or any(ref.__callback__ is not None for ref in weakref.getweakrefs(each)):
            mortal += 1
            continue
        word.from_address(id(each)).value = count
        for other in referents(each):
            if id(other) not in seen:
                seen.add(id(other))
                todo.append(other)
    return f"{len(seen) - mortal} objects are immortal, {mortal} are not"


class MallocInfo(ctypes.Structure):
    """mallinfo2 of malloc.h."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]


def plug_holes():
    """Takes what is free between what is loaded, and keeps it.

    A clone then allocates from pages side by side that hold nothing else, instead of copying a page of the
    zygote's for each hole that it fills.
    """
    libc = ctypes.PyDLL(None)
    if immortal_count() is None or not hasattr(libc, "mallinfo2"):
        return
    libc.PyObject_Malloc.argtypes, libc.PyObject_Malloc.restype = [ctypes.c_size_t], ctypes.c_size_t
    libc.malloc.argtypes, libc.malloc.restype, libc.free.argtypes = [ctypes.c_size_t], ctypes.c_size_t, [ctypes.c_size_t]
    libc.sbrk.argtypes, libc.sbrk.restype, libc.mallinfo2.restype = [ctypes.c_ssize_t], ctypes.c_size_t, MallocInfo
    with open("/proc/self/maps") as maps:
        spans = [tuple(int(part, 16) for part in line.split()[0].split("-")) for line in maps]
    begins = [begin for begin, _ in spans]
    # The largest first: it takes the free pools of all sizes. What is not mapped yet begins a new arena.
    for size in range(BLOCK_BYTES_MAX, 0, -16):
        at = begins[0]
        while begins[0] <= at < spans[bisect.bisect_right(begins, at) - 1][1]:
            at = libc.PyObject_Malloc(size)
    libc.malloc_trim(0)
    top = libc.sbrk(0) - libc.mallinfo2().keepcost
    sizes = [24 + 16 * index for index in range(64)]
    while sizes[-1] < CHUNK_BYTES_MAX:
        sizes.append(sizes[-1] * 5 // 4)
    for size in reversed(sizes):
        at = libc.malloc(size)
        while 0 < at < top:
            at = libc.malloc(size)
        libc.free(at)
    libc.malloc_trim(0)


def trim():
    """Gives back what is free at the heap's end."""
    if hasattr(ctypes.pythonapi, "malloc_trim"):
        ctypes.pythonapi.malloc_trim(0)
