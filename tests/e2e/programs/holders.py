# Who holds the data when the program ends: END stands for the way it ends, data() for
# what holds a buffer. See test_python_ends.py.

### global
f = data()
END

### local
def main():
    f = data()
    END
main()

### outer_local
def inner():
    END
def main():
    f = data()
    inner()
main()

### with_statement
import contextlib
def main():
    with contextlib.nullcontext(data()) as f:
        END
main()

### comprehension_local
def inner(f):
    END
def main():
    [inner(data()) for _ in range(1)]
main()

### called_by_c
def inner(f):
    END
def main():
    list(map(inner, [data()]))
main()

### class
class Keeper:
    f = data()
END

### class_in_a_function
def make():
    class Keeper:
        f = data()
make()
END

### class_of_a_preloaded_one
import json
class Keeper(json.JSONEncoder):
    f = data()
END

### registered_with_an_abstract_class
import collections.abc
def make():
    class Keeper:
        f = data()
    collections.abc.Sequence.register(Keeper)
make()
END

### instance_in_a_cycle
class Node:
    pass
node = Node()
node.me = node
node.f = data()
del node
END

### list_in_a_cycle
kept = [data()]
kept.append(kept)
END

### dictionary_in_a_cycle
kept = {'f': data()}
kept['me'] = kept
del kept
END

### cycle_with_del
class Node:
    def __del__(self):
        self.f.write(' and its end')
node = Node()
node.me = node
node.f = data()
END

### del
class Node:
    def __init__(self):
        self.f = data()
    def __del__(self):
        self.f.write(' and its end')
node = Node()
END

### del_that_needs_modules
import os, json
class Node:
    def __init__(self):
        self.f = data()
    def __del__(self):
        os.write(2, json.dumps([__name__, os.path.basename('/a/b')]).encode())
        self.f.write('!')
node = Node()
END

### del_that_brings_it_back
kept = []
class Node:
    def __del__(self):
        kept.append(self)
node = Node()
node.f = data()
END

### closure
def make(f):
    return lambda: f
closure = make(data())
END

### default_argument
def function(f=data()):
    pass
END

### function_attribute
def function():
    pass
function.f = data()
END

### partial
import functools
partial = functools.partial(print, data())
END

### lru_cache
import functools
@functools.lru_cache
def cached(n):
    return data()
cached(1)
END

### cached_property
import functools
class Node:
    @functools.cached_property
    def f(self):
        return data()
node = Node()
node.f
END

### made_module
import sys, types
sys.modules['made'] = types.ModuleType('made')
sys.modules['made'].f = data()
END

### made_module_only_in_sys_modules
import sys, types
def make():
    made = types.ModuleType('made')
    made.f = data()
    made.me = made
    sys.modules['made'] = made
make()
END

### object_in_sys_modules
import sys
class Node:
    pass
sys.modules['made'] = Node()
sys.modules['made'].f = data()
END

### module_beside
import beside
beside.f = data()
END

### module_beside_that_is_dropped
import sys
import beside
beside.f = data()
del sys.modules['beside'], beside
END

### preloaded_module
import json
json.f = data()
END

### preloaded_module_underscore
import textwrap
textwrap._f = data()
END

### preloaded_module_deep
import xml.etree.ElementTree
xml.etree.ElementTree.f = data()
END

### list_of_a_preloaded_module
import mimetypes, string
mimetypes.knownfiles.append(data())
string.Formatter.f = data()
END

### dictionary_of_a_preloaded_module
import json.encoder
json.encoder.ESCAPE_DCT['f'] = data()
END

### frozen_module
import os
os.f = data()
END

### builtin_module
import time
time.f = data()
END

### builtins
import builtins
builtins.f = data()
END

### sys
import sys
sys.f = data()
END

### sys_last_exc
import sys
sys.last_exc = ValueError('old')
sys.last_exc.f = data()
END

### sys_path
import sys
sys.path.append(data())
END

### environment_object
import os
os.environ.f = data()
END

### atexit
import atexit
atexit.register(lambda f: None, data())
END

### atexit_that_writes
import atexit
atexit.register(data().write, ' and its end')
END

### signal_handler
import signal
signal.signal(signal.SIGUSR1, lambda *args, f=data(): None)
END

### trace_function
import sys
sys.settrace(lambda *args, f=data(): None)
END

### profile_function
import sys
sys.setprofile(lambda *args, f=data(): None)
END

### monitoring_callback
import sys
sys.monitoring.use_tool_id(3, 'tool')
sys.monitoring.register_callback(3, sys.monitoring.events.PY_START, lambda *args, f=data(): None)
sys.monitoring.set_events(3, sys.monitoring.events.PY_START)
END

### excepthook
import sys
sys.excepthook = lambda *args, f=data(): sys.__excepthook__(*args)
END

### displayhook
import sys
sys.displayhook = lambda value, f=data(): None
END

### unraisablehook
import sys
sys.unraisablehook = lambda value, f=data(): None
END

### threading_excepthook
import threading
threading.excepthook = lambda value, f=data(): None
END

### showwarning
import warnings
warnings.showwarning = lambda *args, f=data(): None
END

### gc_callback
import gc
gc.callbacks.append(lambda *args, f=data(): None)
END

### finalize
import weakref
class Node:
    pass
node = Node()
weakref.finalize(node, lambda f: None, data())
END

### finalize_of_a_preloaded_object
import json, weakref
weakref.finalize(json.JSONEncoder, lambda f: f.write(' and its end'), data())
END

### weak_reference_callback
import weakref
class Node:
    pass
node = Node()
kept = weakref.ref(node, lambda _, f=data(): f.write(' and its end'))
END

### weak_key_dictionary
import json, weakref
kept = weakref.WeakKeyDictionary()
kept[json.JSONDecoder] = data()
END

### codec_search
import codecs
codecs.register(lambda name, f=data(): None)
END

### codec_error_handler
import codecs
codecs.register_error('mine', lambda error, f=data(): ('', error.end))
END

### copyreg
import copyreg
class Node:
    pass
copyreg.pickle(Node, lambda node, f=data(): (Node, ()))
END

### audit_hook
import sys
sys.addaudithook(lambda *args, f=data(): None)
END

### at_fork
import os
os.register_at_fork(before=lambda f=data(): None)
END

### meta_path
import sys
class Finder:
    f = data()
    @classmethod
    def find_spec(cls, *args):
        return None
sys.meta_path.insert(0, Finder)
END

### threading_local
import threading
local = threading.local()
local.f = data()
END

### context_variable
import contextvars
variable = contextvars.ContextVar('variable')
variable.set(data())
END

### thread_that_ended
import threading
thread = threading.Thread(target=lambda f: None, args=(data(),))
thread.start()
thread.join()
END

### daemon_thread
import threading
ready, never = threading.Event(), threading.Event()
def work():
    f = data()
    ready.set()
    never.wait()
threading.Thread(target=work, daemon=True).start()
ready.wait()
END

### thread
import threading
ready = threading.Event()
def work():
    f = data()
    ready.set()
    threading.main_thread().join()
threading.Thread(target=work).start()
ready.wait()
END

### idle_pool
import concurrent.futures
pool = concurrent.futures.ThreadPoolExecutor(1)
future = pool.submit(data)
future.result()
END

### timer_thread
import threading
timer = threading.Timer(600, print, [data()])
timer.daemon = True
timer.start()
END

### generator
def rows():
    f = data()
    yield 1
generator = rows()
next(generator)
END

### generator_with_finally
def rows():
    f = data()
    try:
        yield 1
    finally:
        f.write(' and its end')
generator = rows()
next(generator)
END

### coroutine_never_awaited
async def work(f):
    pass
coroutine = work(data())
END

### coroutine_suspended
class Wait:
    def __await__(self):
        yield 1
async def work():
    f = data()
    await Wait()
coroutine = work()
coroutine.send(None)
END

### async_generator
async def rows():
    f = data()
    yield 1
generator = rows()
try:
    generator.__anext__().send(None)
except StopIteration:
    pass
END

### event_loop
import asyncio
loop = asyncio.new_event_loop()
loop.call_soon(print, data())
END

### event_loop_that_is_set
import asyncio
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop.f = data()
del loop
END

### exception_kept
def main():
    f = data()
    raise KeyError('kept')
try:
    main()
except KeyError as error:
    kept = error
END

### exception_context
def main():
    f = data()
    raise KeyError('context')
try:
    main()
except KeyError:
    END

### exception_attribute
error = ValueError('first')
error.f = data()
try:
    raise error
except ValueError:
    END

### exception_notes
error = ValueError('first')
error.__notes__ = [data()]
try:
    raise error
finally:
    END

### traceback_kept
import sys
def main():
    f = data()
    raise KeyError('kept')
try:
    main()
except KeyError:
    kept = sys.exc_info()[2]
END

### frame_kept
import sys
def main():
    f = data()
    return sys._getframe()
kept = main()
END

### exit_stack
import contextlib
stack = contextlib.ExitStack()
stack.callback(print, 'callback')
stack.enter_context(contextlib.nullcontext(data()))
END

### context_manager_entered
import contextlib
@contextlib.contextmanager
def manager():
    f = data()
    try:
        yield f
    finally:
        print('left')
entered = manager()
entered.__enter__()
END

### c_callback
import ctypes
callback = ctypes.CFUNCTYPE(None)(lambda f=data(): None)
END

### c_structure
import ctypes
class Structure(ctypes.Structure):
    _fields_ = [('f', ctypes.py_object)]
structure = Structure(data())
END

### reference_never_given_back
import ctypes
def main():
    f = data()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(f))
main()
END

### sqlite_function
import sqlite3
connection = sqlite3.connect(':memory:')
connection.create_function('mine', 0, lambda f=data(): 1)
END

### xml_handler
import xml.parsers.expat
parser = xml.parsers.expat.ParserCreate()
parser.StartElementHandler = lambda *args, f=data(): None
END

### element_tree
import xml.etree.ElementTree
element = xml.etree.ElementTree.Element('a')
element.text = data()
END

### named_tuple
import collections
kept = collections.namedtuple('Kept', 'f')(data())
END

### dataclass
import dataclasses
@dataclasses.dataclass
class Kept:
    f: object
    me: object = None
kept = Kept(data())
kept.me = kept
END

### enumeration
import enum
class Kept(enum.Enum):
    F = data()
END

### slots
class Kept:
    __slots__ = ('f', 'me')
kept = Kept()
kept.f, kept.me = data(), kept
del kept
END

### metaclass
class Meta(type):
    pass
class Kept(metaclass=Meta):
    pass
Meta.f = data()
END

### property
class Kept:
    @property
    def value(self, f=data()):
        return f
END

### array_of_objects
import collections, itertools
kept = collections.deque([itertools.cycle([data()])])
END

### queue
import queue
kept = queue.SimpleQueue()
kept.put(data())
END

### weakref_proxy
import types, weakref
kept = types.SimpleNamespace(f=data())
kept.proxy = weakref.proxy(kept)
kept.me = kept
END

### type_alias
type Alias[T] = list[T]
class Generic[T]:
    f = data()
kept = Generic[int]
END

### singledispatch
import functools
@functools.singledispatch
def dispatch(value):
    pass
dispatch.register(int, lambda value, f=data(): None)
END

### match_cache_of_re
import re
re.f = data()
re.compile('(a|b)+x').match('abx')
END

### annotations
value: data() = 1
END

### logging_handler
import logging
logging.getLogger('mine').addHandler(logging.StreamHandler(data()))
END

### multiprocessing_finalizer
import multiprocessing.util
multiprocessing.util.Finalize(None, lambda f: f.write(' and its end'), args=(data(),), exitpriority=1)
END

### frozen_by_gc
import gc
kept = [data()]
kept.append(kept)
del kept
gc.freeze()
END

### gc_disabled
import gc
gc.disable()
kept = [data()]
kept.append(kept)
del kept
END

### sys_modules_gone
import sys
f = data()
def end():
    END
sys.modules.clear()
end()
