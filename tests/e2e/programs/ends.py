# Whole programs that test_python_ends.py runs as tasks and plain.

### os_exit_gone
import os; os._exit = None; print(1)

### os_kill_gone
import os, signal; os.kill = None; raise KeyboardInterrupt

### modules_cleared
import sys
print(1)
sys.modules.clear()

### modules_cleared_and_raise
import sys
sys.modules.clear()
raise ValueError('gone wrong')

### modules_none
import sys
sys.modules = None
print(1)

### modules_values_none
import sys, threading
for name in list(sys.modules):
    if name != '__main__':
        sys.modules[name] = None
print(1)

### sys_not_in_modules
import sys
del sys.modules['sys']
print(1)

### threading_not_in_modules
import sys, threading
thread = threading.Thread(target=lambda: (threading.main_thread().join(), print('late')))
thread.start()
del sys.modules['threading']

### module_that_raises
import sys, types
class L(types.ModuleType):
    def __getattr__(self, name):
        raise ImportError(name)
sys.modules['m'] = L('m')
print(1)

### module_that_exits
import sys, types
class L(types.ModuleType):
    def __getattr__(self, name):
        raise SystemExit(5)
    def __getattribute__(self, name):
        raise SystemExit(6)
sys.modules['m'] = L('m')
print(1)

### module_without_a_dictionary
import sys
class L:
    __slots__ = ()
sys.modules['m'] = L()
sys.modules['n'] = 5
print(1)

### module_with_odd_names
import sys, types
m = types.ModuleType('m')
m.__dict__[5] = 6
m.__dict__[(1, 2)] = open('/task/out/x', 'w')
m.__dict__[(1, 2)].write('row')
sys.modules[5] = m
sys.modules['m'] = m

### main_with_odd_names
globals()[5] = open('/task/out/x', 'w')
globals()[5].write('row')
globals()[None] = 1

### import_gone
import builtins
builtins.__import__ = None
print(1)

### print_gone
import builtins
out = print
builtins.print = None
out(1)

### builtins_cleared
import builtins, logging, threading
f = open('/task/out/x', 'w')
f.write('row')
print(1)
builtins.__dict__.clear()

### builtins_cleared_and_raise
import builtins, logging, threading
print(1)
error = ValueError('gone wrong')
builtins.__dict__.clear()
raise error

### builtins_replaced
__builtins__ = {}
f = 1

### builtins_replaced_and_raise
__builtins__ = {}
1 / 0

### builtins_names_gone
import builtins, logging, threading
for name in ('isinstance', 'str', 'list', 'getattr', 'reversed', 'type', 'BaseException', 'open', 'len'):
    delattr(builtins, name)
print(1)

### exceptions_gone
import builtins
builtins.SystemExit = builtins.BaseException = builtins.KeyboardInterrupt = None
import sys
sys.exit(3)

### exceptions_gone_and_raise
import builtins
builtins.SystemExit = builtins.BaseException = builtins.Exception = builtins.OSError = None
1 / 0

### threading_shutdown_raises
import threading
threading._shutdown = lambda: 1 / 0
print(1)

### threading_shutdown_exits
import sys, threading
threading._shutdown = lambda: sys.exit(5)
print(1)

### threading_shutdown_gone
import threading
del threading._shutdown
print(1)

### threading_shutdown_of_its_own
import threading
threading._shutdown = lambda: print('mine')
print(1)

### threading_cleared
import threading
threading.__dict__.clear()
print(1)

### threading_main_thread_replaced
import threading
threading._main_thread = None
print(1)

### atexit_functions_gone
import atexit
atexit.register(print, 'at exit')
atexit._run_exitfuncs = None
print(1)

### atexit_cleared_module
import atexit
atexit.register(print, 'at exit')
atexit.__dict__.clear()
print(1)

### atexit_forgotten
import atexit
atexit.register(print, 'at exit')
atexit._clear()
print(1)

### atexit_run_early
import atexit
atexit.register(print, 'at exit')
atexit._run_exitfuncs()
print(1)

### gc_collect_gone
import gc
kept = [open('/task/out/x', 'w')]
kept[0].write('row')
kept.append(kept)
del kept
gc.collect = None
print(1)

### gc_cleared
import gc
gc.__dict__.clear()
print(1)

### gc_debug
import gc
gc.set_debug(gc.DEBUG_SAVEALL)
kept = [open('/task/out/x', 'w')]
kept[0].write('row')
kept.append(kept)
del kept

### gc_threshold
import gc
gc.set_threshold(1)
kept = [[[n]] for n in range(1000)]
print(len(kept))

### gc_garbage
import gc
gc.garbage.append(open('/task/out/x', 'w'))
gc.garbage[0].write('row')

### stdout_number
import sys
sys.stdout = 5

### stdout_deleted
import sys
sys.stdout.write('row')
del sys.stdout

### stderr_deleted
import sys
del sys.stderr

### stderr_deleted_and_raise
import sys
del sys.stderr
raise ValueError('gone wrong')

### stderr_deleted_and_exit
import sys
del sys.stderr
sys.exit('bye')

### stdout_deleted_and_exit
import sys
del sys.stdout
sys.exit('bye')

### stdout_deleted_and_print
import sys
del sys.stdout
print('lost')

### dunder_streams_deleted
import sys
del sys.__stdout__, sys.__stderr__, sys.__stdin__
print('row')

### stdin_closed
import sys
sys.stdin.close()
print(1)

### excepthook_none
import sys
sys.excepthook = None
raise ValueError('gone wrong')

### excepthook_deleted
import sys
del sys.excepthook
raise ValueError('gone wrong')

### excepthooks_deleted
import sys
del sys.excepthook, sys.__excepthook__
raise ValueError('gone wrong')

### excepthook_original_replaced
import sys
sys.__excepthook__ = None
raise ValueError('gone wrong')

### excepthook_and_original_raise
import sys
def hook(*args):
    raise TypeError('in the hook')
sys.excepthook = sys.__excepthook__ = hook
raise ValueError('gone wrong')

### excepthook_sees_last
import sys
sys.excepthook = lambda *args: print(sys.last_type, sys.last_value, sys.last_exc, sys.last_traceback.tb_lineno)
raise ValueError('gone wrong')

### unraisablehook_none
import sys
sys.unraisablehook = None
class Node:
    def __del__(self):
        raise ValueError('in del')
node = Node()

### unraisablehook_deleted
import sys
del sys.unraisablehook, sys.__unraisablehook__
class Node:
    def __del__(self):
        raise ValueError('in del')
node = Node()

### audit_hook_raises
import sys
def hook(event, args):
    if event.startswith(('cpython.', 'os.', 'signal.', 'compile', 'exec', 'open')):
        raise RuntimeError(event)
sys.addaudithook(hook)
print(1)

### audit_hook_prints
import sys
print(1)
sys.addaudithook(lambda event, args: write(2, event.encode() + b'\n'))
from posix import write

### signal_gone
import signal
signal.signal = None
raise KeyboardInterrupt

### signal_default_gone
import signal
signal.SIG_DFL = signal.SIGINT = None
raise KeyboardInterrupt

### signals_blocked
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
raise KeyboardInterrupt

### sigint_ignored
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
raise KeyboardInterrupt

### sigint_handler_and_interrupt
import signal
signal.signal(signal.SIGINT, lambda *args: print('handler'))
raise KeyboardInterrupt

### signal_wakeup
import os, signal
read, write = os.pipe()
os.set_blocking(write, False)
signal.set_wakeup_fd(write)
signal.raise_signal(signal.SIGINT)

### traceback_changed
import traceback
traceback.print_exception = traceback.print_exc = traceback.TracebackException = None
raise ValueError('gone wrong')

### traceback_print_changed
import traceback
traceback._print_exception_bltin = lambda error: print('mine', error)
raise ValueError('gone wrong')

### traceback_cleared
import traceback
traceback.__dict__.clear()
def f():
    raise ValueError('gone wrong')
f()

### traceback_not_importable
import sys
sys.modules['traceback'] = None
def f():
    raise ValueError('gone wrong')
f()

### linecache_cleared
import linecache
linecache.clearcache()
linecache.cache.clear()
def f():
    raise ValueError('gone wrong')
f()

### linecache_changed
import linecache
linecache.getline = linecache.getlines = lambda *args: None
raise ValueError('gone wrong')

### script_changed
open(__file__, 'w').write('# one\n# two\n# three\n# four\n')
raise ValueError('gone wrong')

### script_removed
import os
os.remove(__file__)
raise ValueError('gone wrong')

### folder_changed
import os
os.mkdir('/tmp/other')
os.chdir('/tmp/other')
raise ValueError('gone wrong')

### folder_removed
import os
os.mkdir('/tmp/other')
os.chdir('/tmp/other')
os.rmdir('/tmp/other')
raise ValueError('gone wrong')

### importlib_broken
import importlib, importlib._bootstrap, importlib._bootstrap_external, sys
importlib._bootstrap.__dict__.clear()
importlib._bootstrap_external.__dict__.clear()
importlib.__dict__.clear()
sys.meta_path.clear()
print(1)

### meta_path_none
import sys
sys.meta_path = sys.path_hooks = sys.path_importer_cache = None
raise ValueError('gone wrong')

### environment_cleared
import os
os.environ.clear()
print(1)

### environment_broken
import os
os.environ = os.environb = None
print(1)

### path_none
import sys
sys.path = None
print(1)

### path_none_and_raise
import sys
sys.path = None
raise ValueError('gone wrong')

### argv_gone
import sys
del sys.argv, sys.orig_argv, sys.path, sys.flags
raise ValueError('gone wrong')

### sys_cleared
import sys
print(1)
sys.__dict__.clear()

### sys_cleared_and_raise
import sys
error = ValueError('gone wrong')
sys.__dict__.clear()
raise error

### io_cleared
import io, _io
print('row', end='')
io.__dict__.clear()
_io.__dict__.clear()

### os_cleared
import os
os.__dict__.clear()
print(1)

### posix_cleared
import os, posix
posix.__dict__.clear()
os.__dict__.clear()
print(1)

### ctypes_cleared
import ctypes
ctypes.__dict__.clear()
print(1)

### types_cleared
import types, weakref, contextlib
types.__dict__.clear()
weakref.__dict__.clear()
contextlib.__dict__.clear()
print(1)

### time_random_json_cleared
import time, random, json
for module in (time, random, json):
    module.__dict__.clear()
print(1)

### every_module_cleared
import sys
write = sys.stdout.write
for module in list(sys.modules.values()):
    if module is not sys.modules['builtins'] and module is not sys and module.__name__ != '__main__':
        module.__dict__.clear()
write('row')

### tracing_left_on
import sys
def trace(frame, event, arg):
    if not frame.f_code.co_filename.startswith(('/usr/lib/python3', '<frozen', '<string>')):  # what is preloaded has its own exit functions
        sys.stderr.write(f'{event} {frame.f_code.co_name} {frame.f_code.co_filename}\n')
    return trace
def f():
    return 1
sys.settrace(trace)
f()

### tracing_left_on_and_raise
import sys
def trace(frame, event, arg):
    if not frame.f_code.co_filename.startswith(('/usr/lib/python3', '<frozen', '<string>')):
        sys.stderr.write(f'{event} {frame.f_code.co_name} {frame.f_code.co_filename}\n')
    return trace
def f():
    raise ValueError('gone wrong')
sys.settrace(trace)
f()

### tracing_raises
import sys
def trace(frame, event, arg):
    raise ValueError('in the trace function')
def f():
    return 1
sys.settrace(trace)
f()

### tracing_of_the_bottom_frame
import sys
def trace(frame, event, arg):
    sys.stderr.write(f'{event} {frame.f_code.co_name}\n')
frame = sys._getframe()
while frame.f_back:
    frame = frame.f_back
frame.f_trace = trace
sys.settrace(lambda *args: None)
a = 1
b = 2

### profiling_left_on
import sys
def profile(frame, event, arg):
    if not frame.f_code.co_filename.startswith(('/usr/lib/python3', '<frozen', '<string>')):
        sys.stderr.write(f'{event} {frame.f_code.co_name} {getattr(arg, "__name__", "")}\n')
def f():
    return 1
sys.setprofile(profile)
f()

### monitoring_left_on
import sys
monitoring = sys.monitoring
monitoring.use_tool_id(1, 'tool')
events = monitoring.events
def tell(event, code):
    if not code.co_filename.startswith(('/usr/lib/python3', '<frozen', '<string>')):
        print(event, code.co_name)
for event in (events.PY_START, events.PY_RETURN, events.RAISE, events.PY_UNWIND):
    monitoring.register_callback(1, event, lambda code, *args, event=event: tell(event, code))
monitoring.set_events(1, events.PY_START | events.PY_RETURN | events.RAISE | events.PY_UNWIND)
def f():
    return 1
f()
1 / 0

### monitoring_free
import sys
print([sys.monitoring.get_tool(n) for n in range(6)])

### threading_trace
import sys, threading
threading.settrace(lambda frame, event, arg: sys.stderr.write(f'{event} {frame.f_code.co_name}\n'))
thread = threading.Thread(target=lambda: 1)
thread.start()
thread.join()

### recursion_limit
import sys
sys.setrecursionlimit(60)
print(1)

### recursion_limit_and_raise
import sys
sys.setrecursionlimit(60)
def f(n):
    return f(n - 1) if n else 1 / 0
f(40)

### recursion_limit_and_endless
import sys
sys.setrecursionlimit(60)
def f():
    f()
f()

### recursion_limit_five
import sys
sys.setrecursionlimit(5)
raise ValueError('gone wrong')

### main_not_in_modules
import sys
f = open('/task/out/x', 'w')
f.write('row')
del sys.modules['__main__']

### main_replaced
import sys, types
f = open('/task/out/x', 'w')
f.write('row')
sys.modules['__main__'] = types.ModuleType('__main__')
sys.modules['__main__'].g = open('/task/out/y', 'w')
sys.modules['__main__'].g.write('row')

### main_replaced_by_none
import sys
f = open('/task/out/x', 'w')
f.write('row')
sys.modules['__main__'] = None

### globals_cleared
f = open('/task/out/x', 'w')
f.write('row')
globals().clear()

### globals_cleared_and_raise
globals().clear()
1 / 0

### name_changed
__name__ = 'other'
__file__ = 5
__spec__ = 6
__loader__ = 7
raise ValueError('gone wrong')

### class_end_order
class Loud:
    def __init__(self, name):
        self.name = name
    def __del__(self):
        print('end of', self.name)
a = Loud('a')
_b = Loud('_b')
c = Loud('c')
__d = Loud('__d')
kept = [Loud('in a cycle')]
kept.append(kept)
import builtins, json, sys
builtins.e = Loud('builtins')
json.f = Loud('json')
sys.g = Loud('sys')

### class_end_sees
import json, os, sys
class Loud:
    def __del__(self):
        print(sys is None, os is None, json is None, sys.is_finalizing(), len(sys.modules) > 0, __name__)
        print(sys.modules.get('__main__') is not None, 'json' in sys.modules)
a = Loud()

### class_end_after_raise_sees
import sys
class Loud:
    def __del__(self):
        print(sys.is_finalizing(), sys.exc_info()[0], hasattr(sys, 'last_exc'))
def main():
    loud = Loud()
    raise ValueError('gone wrong')
main()

### end_of_builtins_sees
import builtins, sys
class Loud:
    def __init__(self):
        self.print = print
        self.modules = sys.modules
    def __del__(self):
        self.print('end', len(self.modules))
builtins.loud = Loud()

### end_imports
class Loud:
    def __del__(self):
        try:
            import colorsys
            print(colorsys.rgb_to_hsv(0, 0, 0))
        except BaseException as error:
            print(type(error), error)
a = Loud()

### end_of_cycle_imports
class Loud:
    def __del__(self):
        try:
            import wave
            print(wave.__name__)
        except BaseException as error:
            print(type(error), error)
a = Loud()
a.me = a

### end_starts_a_thread
import threading
class Loud:
    def __del__(self):
        try:
            threading.Thread(target=print, args=('late',)).start()
        except BaseException as error:
            print(type(error), error)
a = Loud()

### end_forks
import os
class Loud:
    def __del__(self):
        try:
            child = os.fork()
            if child == 0:
                os._exit(3)
            print(os.waitpid(child, 0)[1])
        except BaseException as error:
            print(type(error), error)
a = Loud()

### end_runs_a_process
import subprocess
class Loud:
    def __del__(self):
        try:
            print(subprocess.run(['/bin/echo', 'out'], capture_output=True).stdout)
        except BaseException as error:
            print(type(error), error)
a = Loud()

### end_opens_a_file
class Loud:
    def __del__(self):
        self.f = open('/task/out/x', 'w')
        self.f.write('row')
        Loud.kept = self.f
a = Loud()

### end_registers_at_exit
import atexit
class Loud:
    def __del__(self):
        atexit.register(print, 'never')
        print('end')
a = Loud()

### end_of_the_end
class Loud:
    def __init__(self, n):
        self.n = n
    def __del__(self):
        if self.n:
            print(self.n)
            global a
            a = Loud(self.n - 1)
a = Loud(5)

### end_exits_at_once
import os
class Loud:
    def __del__(self, end=os._exit):
        end(23)
a = Loud()

### end_hangs_in_no_lock
import threading
lock = threading.Lock()
class Loud:
    def __del__(self):
        with lock:
            print('locked')
a = Loud()

### class_end_of_a_module_beside -- beside=yes
import beside
class Loud:
    def __del__(self):
        print('end', beside is None)
beside.loud = Loud()
beside.me = beside

### weak_references_at_the_end
import weakref
class Node:
    pass
a = Node()
b = weakref.WeakValueDictionary(a=a)
c = weakref.WeakSet([a])
d = weakref.finalize(a, print, 'finalized')
e = weakref.ref(a, lambda _: print('callback'))
f = weakref.finalize(a, print, 'not at exit')
f.atexit = False

### context_at_the_end
import contextlib
@contextlib.contextmanager
def manager():
    try:
        yield
    finally:
        print('left')
def main():
    with manager():
        raise ValueError('gone wrong')
main()

### standard_error_of_warnings
import warnings
warnings.simplefilter('always')
f = open('/task/out/x', 'w')
f.write('row')

### resource_warning_at_the_end -- env=PYTHONWARNINGS=default
def main():
    f = open('/task/out/x', 'w')
    f.write('row')
    raise ValueError('gone wrong')
main()

### resource_warnings_on
import warnings, sys
warnings.simplefilter('always')
class Node:
    pass
n = Node()
n.me = n
n.f = open('/task/out/x', 'w')
n.f.write('row')
del n

### developer_end
import sys
print(sys.flags.dev_mode, sys.is_finalizing())

### print_stack
import traceback
def f():
    traceback.print_stack()
f()
traceback.print_stack()

### warn_stack_level
import warnings
warnings.warn('one')
warnings.warn('two', stacklevel=2)
warnings.warn('three', stacklevel=3)
def f():
    warnings.warn('two in f', stacklevel=2)
    warnings.warn('three in f', stacklevel=3)
    warnings.warn('nine in f', stacklevel=9)
f()
warnings.warn('old', DeprecationWarning, stacklevel=1)
warnings.warn('old of the caller', DeprecationWarning, stacklevel=2)
print(__warningregistry__)

### inspect_stack
import inspect
def f():
    return [(each.function, each.lineno, each.filename, each.code_context) for each in inspect.stack()]
print(f())
print(len(inspect.stack()), inspect.stack()[-1].function)
print(inspect.currentframe().f_back)

### frames
import sys
print(sys._getframe(0).f_code.co_name)
def f():
    return sys._getframe(1).f_code.co_name, sys._getframe(1).f_back
print(f())
try:
    sys._getframe(1)
except ValueError as error:
    print(error)
try:
    f.__code__.co_filename = 1
except AttributeError as error:
    print(error)
print(sys._getframemodulename(0), sys._getframemodulename(1), sys._getframemodulename(2))

### frame_attributes
import sys
frame = sys._getframe()
print(frame.f_globals is globals(), frame.f_locals is globals(), frame.f_builtins is __builtins__.__dict__)
print(frame.f_code.co_name, frame.f_code.co_qualname, frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_code.co_flags)
print(frame.f_back, frame.f_trace, frame.f_lineno)

### current_frames
import sys, threading
frames = sys._current_frames()
print(len(frames), list(frames) == [threading.get_ident()], frames[threading.get_ident()].f_back)
print(sys._current_exceptions())

### named_tuple_module
import collections, enum, typing
print(collections.namedtuple('P', 'a').__module__, enum.Enum('E', 'A').__module__, typing.NewType('N', int).__module__)
print(typing.TypedDict('T', {'a': int}).__module__, typing.TypeVar('V').__module__)

### named_tuple_module_in_exec
exec("import collections\nprint(collections.namedtuple('P', 'a').__module__)", {})
exec("import sys\nprint(sys._getframe(1).f_code.co_name)", {'__name__': 'x'})

### faulthandler_dump
import faulthandler, sys
def f():
    faulthandler.dump_traceback(all_threads=False)
f()

### faulthandler_dump_all
import faulthandler
faulthandler.dump_traceback()

### faulthandler_state
import faulthandler
print(faulthandler.is_enabled())

### recursion_depth
import sys
def depth(n):
    try:
        return depth(n + 1)
    except RecursionError:
        return n
print(depth(0), sys.getrecursionlimit())

### recursion_depth_in_a_method
class Node:
    def depth(self, n):
        try:
            return self.depth(n + 1)
        except RecursionError:
            return n
print(Node().depth(0))

### recursion_depth_at_the_end
import atexit
def depth(n):
    try:
        return depth(n + 1)
    except RecursionError:
        return n
class Loud:
    def __del__(self):
        print('del', depth(0))
kept = Loud()
atexit.register(lambda: print('at exit', depth(0)))
print(depth(0))

### recursion_depth_in_a_thread
import threading
def depth(n):
    try:
        return depth(n + 1)
    except RecursionError:
        return n
thread = threading.Thread(target=lambda: print(depth(0)))
thread.start()
thread.join()

### recursion_in_c
def nest(n):
    kept = []
    for _ in range(n):
        kept = [kept]
    return kept
try:
    repr(nest(100000))
except RecursionError as error:
    print(error)
try:
    eval('(' * 300 + ')' * 300)
except BaseException as error:
    print(type(error), error)
import json
for n in (900, 2000, 100000):
    try:
        print(len(json.dumps(nest(n))))
    except RecursionError as error:
        print(n, error)

### main_module
import sys
print(sorted(globals()))
print(__name__, __file__, __doc__, __spec__, __package__, __loader__, __cached__)
print(__builtins__, __annotations__)
print(type(__loader__), __loader__.name, __loader__.path)
print(list(globals()))
print(sys.modules['__main__'], vars(sys.modules['__main__']) is globals())

### main_doc
"""Its words."""
print(__doc__)

### main_loader
print(__loader__.get_source('__main__'))
print(__loader__.get_filename('__main__'), __loader__.is_package('__main__'))

### annotations_of_main
x: int = 1
def f(a: int) -> str:
    pass
print(__annotations__, f.__annotations__)

### arguments
import sys
print(sys.argv, sys.orig_argv, sys.path, sys.executable, sys.flags, sys.warnoptions, sys._xoptions)

### last_of_sys
import sys
print([name for name in dir(sys) if name.startswith(('last', 'ps', 'exc'))], sys.exc_info(), sys.exception())

### hooks_of_sys
import sys
print(sys.gettrace(), sys.getprofile(), sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__,
      sys.breakpointhook is sys.__breakpointhook__, sys.unraisablehook is sys.__unraisablehook__)
print(sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth(), sys.getswitchinterval())
print(sys.get_int_max_str_digits(), sys.dont_write_bytecode, sys.pycache_prefix, sys.platlibdir, sys.tracebacklimit if hasattr(sys, 'tracebacklimit') else '')
print(sys.path_hooks, sys.meta_path)
print(sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__, sys.stdin is sys.__stdin__)

### streams
import sys
for f in (sys.stdin, sys.stdout, sys.stderr):
    print(f.name, f.mode, f.encoding, f.errors, f.fileno(), f.isatty(), f.readable(), f.writable(), f.seekable(), f.newlines)
    print(type(f), type(f.buffer), type(f.buffer.raw), f.buffer.raw.name, f.buffer.raw.mode, f.buffer.raw.closefd)
    print(f.write_through, f._CHUNK_SIZE, f.buffer.raw, f)

### displayhook
import sys
sys.displayhook(5)
print(_)

### traceback_limit
import sys
sys.tracebacklimit = 1
def f():
    raise ValueError('gone wrong')
f()

### traceback_of_its_own
import sys, traceback
def f():
    raise ValueError('gone wrong')
try:
    f()
except ValueError as error:
    print(traceback.format_exc())
    print([(each.name, each.lineno, each.line) for each in traceback.extract_stack()])
    print(error.__traceback__.tb_frame.f_back, error.__traceback__.tb_next.tb_frame.f_back.f_code.co_name)

### traceback_in_exec
exec(compile('def f():\n    1 / 0\nf()\n', '<mine>', 'exec'))

### logging_finds_its_caller
import logging
logging.basicConfig(format='%(filename)s %(lineno)d %(funcName)s %(message)s %(processName)s %(threadName)s %(stack_info)s')
logging.warning('top')
logging.warning('stack', stack_info=True)
logging.warning('level', stacklevel=9)

### unittest_main
import unittest
class T(unittest.TestCase):
    def test_good(self):
        pass
    def test_bad(self):
        self.assertEqual(1, 2)
import io, sys
sys.argv = ['script.py']
unittest.main(testRunner=unittest.TextTestRunner(stream=io.StringIO()))

### doctest_main
"""
>>> 1 + 1
3
"""
import doctest
print(doctest.testmod())

### runpy
import os, runpy, sys
open('/task/other.py', 'w').write('import sys\nprint(__name__, __file__, sys.argv, sys._getframe(0).f_back is None)\nraise SystemExit(24)\n')
print(sorted(runpy.run_path('/task/other.py', run_name='mine')))

### module_beside_sees_main -- beside=yes
import beside
print(beside.who_calls())

### import_main
import __main__, sys
print(__main__ is sys.modules['__main__'], __main__.__dict__ is globals())

### pickle_main
import pickle
class Point:
    pass
def f():
    pass
print(type(pickle.loads(pickle.dumps(Point()))) is Point, pickle.loads(pickle.dumps(f)) is f, Point.__module__, repr(Point))

### inspect_source
import inspect
def f():
    return 1
class C:
    x = 1
print(inspect.getsource(f), inspect.getsource(C), inspect.getfile(f), inspect.getsourcefile(C), inspect.getmodule(f))

### spawn
import multiprocessing, os, sys
def work(n):
    print(n, __name__, sys.modules['__main__'].__name__, sys.argv, flush=True)
    return n * 2
if __name__ == '__main__':
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        print(pool.map(work, [1, 2]))

### spawn_without_a_guard
import multiprocessing
multiprocessing.get_context('spawn').Process(target=print).start()

### forkserver
import multiprocessing
def work(n):
    return n * 2
if __name__ == '__main__':
    with multiprocessing.get_context('forkserver').Pool(1) as pool:
        print(pool.map(work, [1, 2]))

### process_names
import multiprocessing, threading
print(multiprocessing.current_process().name, multiprocessing.parent_process(), multiprocessing.active_children())
print(multiprocessing.get_start_method(), multiprocessing.get_context()._default_context.__class__.__name__ if hasattr(multiprocessing.get_context(), '_default_context') else '')
print(threading.Thread().name, threading.Thread().name, multiprocessing.Process().name, threading.main_thread())

### counters
import asyncio, concurrent.futures, itertools, tempfile, threading, uuid
async def work():
    return asyncio.current_task().get_name()
print(asyncio.run(work()), threading.Thread().name, concurrent.futures.ThreadPoolExecutor()._thread_name_prefix)

### c_line_and_print
import ctypes
print('python', flush=True)
ctypes.CDLL(None).puts(b'c')
print('python again')

### c_stdout_in_a_forked_child
import ctypes, os
libc = ctypes.CDLL(None)
child = os.fork()
if child == 0:
    libc.printf(b'child')
else:
    os.waitpid(child, 0)
    libc.printf(b'parent')

### c_stdout_before_a_fork
import ctypes, os
libc = ctypes.CDLL(None)
libc.printf(b'before ')
child = os.fork()
if child == 0:
    libc.printf(b'child ')
else:
    os.waitpid(child, 0)
    libc.printf(b'parent ')

### c_stdout_and_os_exit
import ctypes, os
ctypes.CDLL(None).puts(b'lost')
os._exit(3)

### c_stdout_and_raise
import ctypes
ctypes.CDLL(None).puts(b'row')
raise ValueError('gone wrong')

### c_stdout_and_interrupt
import ctypes
ctypes.CDLL(None).puts(b'row')
raise KeyboardInterrupt

### c_stdout_full
import ctypes, os
ctypes.CDLL(None).puts(b'row')
os.dup2(os.open('/dev/full', os.O_WRONLY), 1)

### c_stdin
import ctypes
libc = ctypes.CDLL(None)
print(libc.getchar())

### c_atexit_perror
import ctypes
libc = ctypes.CDLL(None)
libc.__cxa_atexit.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
text = b'at the end of C'
ctypes.pythonapi.Py_IncRef(ctypes.py_object(text))
print(libc.__cxa_atexit(ctypes.cast(libc.perror, ctypes.c_void_p), text, None))

### c_atexit_puts
import ctypes
libc = ctypes.CDLL(None)
libc.__cxa_atexit.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
text = b'at the end of C'
ctypes.pythonapi.Py_IncRef(ctypes.py_object(text))
print(libc.__cxa_atexit(ctypes.cast(libc.puts, ctypes.c_void_p), text, None))

### c_atexit_and_os_exit
import ctypes, os
libc = ctypes.CDLL(None)
libc.__cxa_atexit.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
libc.__cxa_atexit(ctypes.cast(libc.perror, ctypes.c_void_p), b'not seen', None)
os._exit(3)

### c_py_at_exit
import ctypes
ctypes.pythonapi.Py_AtExit.argtypes = [ctypes.c_void_p]
print(ctypes.pythonapi.Py_AtExit(ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p)))

### c_temporary_file
import ctypes, os
libc = ctypes.CDLL(None)
libc.tmpfile.restype = ctypes.c_void_p
print(bool(libc.tmpfile()))

### c_locale
import ctypes, locale
libc = ctypes.CDLL(None)
libc.setlocale.restype = ctypes.c_char_p
print([libc.setlocale(n, None) for n in range(6)], locale.getlocale(), locale.getpreferredencoding())

### c_errno
import ctypes
print(ctypes.get_errno(), ctypes.CDLL(None, use_errno=True)._handle is not None)

### c_environment
import ctypes, os
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
os.environ['MINE'] = 'x'
print(libc.getenv(b'MINE'), libc.getenv(b'HOME'), libc.getenv(b'PATH'))

### logging_shutdown
import logging, logging.handlers
handler = logging.handlers.MemoryHandler(100, target=logging.FileHandler('/task/out/x'))
logging.getLogger().addHandler(handler)
logging.getLogger().warning('row')
raise ValueError('gone wrong')

### logging_handler_of_its_own
import logging
class Handler(logging.Handler):
    def emit(self, record):
        pass
    def flush(self):
        print('flush')
    def close(self):
        print('close')
logging.getLogger().addHandler(Handler())

### logging_handler_that_raises
import logging
class Handler(logging.Handler):
    def flush(self):
        raise ValueError('in flush')
handler = Handler()

### logging_shutdown_gone
import logging
logging.shutdown = None
logging._handlers.clear()
print(1)

### rotating_log
import logging.handlers
log = logging.getLogger()
log.addHandler(logging.handlers.RotatingFileHandler('/task/out/x', maxBytes=10, backupCount=2))
for n in range(5):
    log.warning('row %d', n)

### queue_listener
import logging, logging.handlers, queue
rows = queue.SimpleQueue()
listener = logging.handlers.QueueListener(rows, logging.FileHandler('/task/out/x'))
listener.start()
logging.getLogger().addHandler(logging.handlers.QueueHandler(rows))
logging.getLogger().warning('row')
listener.stop()

### process_pool_left
import concurrent.futures
if __name__ == '__main__':
    import multiprocessing
    pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork'))
    print(pool.submit(abs, -1).result())

### pool_left
import multiprocessing
pool = multiprocessing.get_context('fork').Pool(1)
print(pool.map(abs, [-1]))

### multiprocessing_queue_left
import multiprocessing
rows = multiprocessing.get_context('fork').Queue()
rows.put('row')
process = multiprocessing.get_context('fork').Process(target=lambda: print(rows.get(), flush=True))
process.start()

### daemon_process
import multiprocessing, time
process = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,), daemon=True)
process.start()
print(process.daemon)

### shared_memory
import multiprocessing.shared_memory
memory = multiprocessing.shared_memory.SharedMemory(create=True, size=10)
memory.buf[0] = 5
print(memory.buf[0])
memory.close()
memory.unlink()

### subprocess_left_running
import subprocess
child = subprocess.Popen(['/bin/sleep', '600'])
print('end')

### subprocess_zombie
import subprocess
child = subprocess.Popen(['/bin/true'], stdout=subprocess.PIPE)
child.stdout.read()

### asyncio_debug
import asyncio
async def work():
    await asyncio.sleep(0)
asyncio.run(work(), debug=True)

### asyncio_future_unseen
import asyncio
loop = asyncio.new_event_loop()
future = loop.create_future()
future.set_exception(ValueError('never asked for'))

### asyncio_async_generator
import asyncio
async def rows():
    try:
        yield 1
    finally:
        print('closed')
async def work():
    async for row in rows():
        print(row)
        break
    global kept
    kept = rows()
    await kept.__anext__()
asyncio.run(work())

### asyncio_subprocess
import asyncio
async def work():
    process = await asyncio.create_subprocess_exec('/bin/echo', 'out', stdout=-1)
    print(await process.communicate())
asyncio.run(work())

### asyncio_thread_left
import asyncio, threading
async def work():
    loop = asyncio.get_running_loop()
    ends = threading.Event()
    loop.run_in_executor(None, lambda: (ends.wait(), print('late')))
    threading._register_atexit(ends.set)
loop = asyncio.new_event_loop()
loop.run_until_complete(work())

### exec_of_itself
import os, sys
if len(sys.argv) < 9:
    os.execv(sys.executable, [sys.executable, *sys.argv, 'again'])
print(sys.argv)

### exec_with_text_left
import os
print('lost', end='')
os.execv('/bin/echo', ['echo', 'replaced'])

### syntax_error
x = 1
def f(:
    pass

### syntax_error_at_the_end
print('never')
x = (1,

### syntax_error_in_text
print('never')
x = 'abc

### syntax_error_future
from __future__ import no_such_thing

### syntax_error_late
def f():
    yield 1
    return 2
    await 3

### syntax_error_with_carets
print('never')
total = 1 + + * 2

### indentation_error
if True:
print(1)

### indentation_mixed
if True:
	x = 1
        y = 2

### syntax_warning
x = 1
print(x is 1, '\d')
assert (x, 'always')

### future_annotations
from __future__ import annotations
def f(a: no_such_name): pass
print(f.__annotations__)

### future_barry
from __future__ import barry_as_FLUFL
print(1 <> 2)

### empty

### comment_only
# nothing

### walrus_and_match
match [1, 2]:
    case [a, b] if (c := a + b):
        print(c)

### string_kind -- kind=string
import sys
print(sys.argv, sys.orig_argv, sys.path, __name__, sorted(globals()), __loader__, __spec__, __builtins__)
print(sys._getframe().f_code.co_filename)
print(repr(globals().get('__file__')), repr(globals().get('__cached__')))

### string_kind_raises -- kind=string
def f():
    raise ValueError('gone wrong')

f()

### string_kind_syntax_error -- kind=string
x = 1
def f(:
    pass

### string_kind_indentation_error -- kind=string
if True:
print(1)

### string_kind_source -- kind=string
import inspect, linecache
def f():
    return 1
print(linecache.getlines('<string>'), sorted(linecache.cache))
print(f.__code__.co_filename)
print(inspect.getsource(f))

### string_kind_warns -- kind=string
import warnings
warnings.warn('careful')
warnings.warn('caller', stacklevel=2)
x = 1 is 1

### string_kind_stack -- kind=string
import inspect, sys, traceback
traceback.print_stack()
print(len(inspect.stack()))
sys._getframe(1)

### string_kind_pickle -- kind=string
import pickle
class Point:
    pass
print(type(pickle.loads(pickle.dumps(Point()))) is Point)

### string_kind_spawn -- kind=string
import multiprocessing, operator
if __name__ == '__main__':
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        print(pool.map(operator.neg, [1, 2]))

### string_kind_holds -- kind=string
def main():
    f = open('/task/out/x', 'w')
    f.write('row')
    raise ValueError('gone wrong')
main()

### string_kind_indented -- kind=string
  print(1)

### string_kind_interrupt -- kind=string
raise KeyboardInterrupt

### string_kind_exit -- kind=string
raise SystemExit('bye')

### string_kind_name_error -- kind=string
prnt(1)

### stdin_kind -- kind=stdin
import sys
print(sys.argv, sys.orig_argv, sys.path, __name__, sorted(globals()), __loader__, __spec__)
print(sys._getframe().f_code.co_filename)
print(repr(globals().get('__file__')), repr(globals().get('__cached__')))

### stdin_kind_raises -- kind=stdin
def f():
    raise ValueError('gone wrong')

f()

### stdin_kind_syntax_error -- kind=stdin
x = 1
def f(:
    pass

### stdin_kind_indentation_error -- kind=stdin
if True:
print(1)

### stdin_kind_reads -- kind=stdin
import sys
print(repr(sys.stdin.read()))
print(repr(input()))

### stdin_kind_source -- kind=stdin
import inspect, linecache
def f():
    return 1
print(linecache.getlines('<stdin>'), sorted(linecache.cache))
print(inspect.getsource(f))

### stdin_kind_warns -- kind=stdin
import warnings
warnings.warn('careful')
warnings.warn('caller', stacklevel=2)

### stdin_kind_stack -- kind=stdin
import inspect, sys, traceback
traceback.print_stack()
print(len(inspect.stack()))
sys._getframe(1)

### stdin_kind_spawn -- kind=stdin
import multiprocessing, operator
if __name__ == '__main__':
    with multiprocessing.get_context('fork').Pool(1) as pool:
        print(pool.map(operator.neg, [1, 2]))

### stdin_kind_holds -- kind=stdin
def main():
    f = open('/task/out/x', 'w')
    f.write('row')
    raise ValueError('gone wrong')
main()

### stdin_kind_interrupt -- kind=stdin
raise KeyboardInterrupt

### stdin_kind_multiline -- kind=stdin
for n in range(2):
    print(n)
print('no blank line before')
