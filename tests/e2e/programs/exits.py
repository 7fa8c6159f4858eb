# The ways a program ends: each part stands where a holder's END is, at the top or in a
# function. See test_python_ends.py.

### end
pass

### raise
raise ValueError('gone wrong')

### raise_class
raise LookupError

### chained
try:
    {}['key']
except KeyError as error:
    raise ValueError('second') from error

### context
try:
    {}['key']
except KeyError:
    1 / 0

### from_none
try:
    {}['key']
except KeyError:
    raise ValueError('alone') from None

### exception_group
raise ExceptionGroup('several', [ValueError(1), ExceptionGroup('inner', [TypeError(2), KeyError(3)])])

### in_finally
try:
    1 / 0
finally:
    raise RuntimeError('in finally')

### finally_that_runs
try:
    raise ValueError('gone wrong')
finally:
    print('finally')

### in_generator
def rows():
    yield 1
    raise ValueError('in a generator')
list(rows())

### in_comprehension
[1 / n for n in (1, 0)]

### in_class_body
class Broken:
    value = 1 / 0

### in_c_callback
sorted([2, 1], key=lambda n: n / 0)

### in_deep_call
def deep(n):
    return deep(n - 1) if n else int('x')
deep(20)

### with_notes
error = ValueError('gone wrong')
error.add_note('a note')
error.__notes__.append(5)
raise error

### without_a_text
class Silent(Exception):
    def __str__(self):
        raise ValueError('no text')
raise Silent

### class_of_its_own
class Mine(Exception):
    pass
raise Mine('a', 'b')

### base_exception
raise BaseException('base')

### generator_exit
raise GeneratorExit('early')

### stop_iteration
raise StopIteration(5)

### import_error
import no_such_module

### attribute_suggestion
import json
json.lods

### name_suggestion
valeu = 1
value

### unicode_text
raise ValueError('\u7d50\u679c \udcff \U0001f600')

### syntax_error_raised
raise SyntaxError('mine', ('nowhere.py', 3, 4, 'a b c\n', 3, 5))

### syntax_error_in_eval
eval('1 +')

### os_error
open('/no/such/file')

### assertion
assert 1 == 2, 'wrong'

### exit
import sys
sys.exit()

### exit_0
import sys
sys.exit(0)

### exit_3
import sys
sys.exit(3)

### exit_256
import sys
sys.exit(256)

### exit_300
import sys
sys.exit(300)

### exit_negative
import sys
sys.exit(-1)

### exit_huge
import sys
sys.exit(1 << 70)

### exit_text
import sys
sys.exit('bye')

### exit_text_unicode
import sys
sys.exit('\u7d50\u679c \udcff')

### exit_tuple
import sys
sys.exit((1, 2))

### exit_several
raise SystemExit(1, 2)

### exit_false
import sys
sys.exit(False)

### exit_float
import sys
sys.exit(2.5)

### exit_object
class Code:
    def __str__(self):
        raise ValueError('no text')
raise SystemExit(Code())

### exit_builtin
exit(4)

### exit_subclass
class Stop(SystemExit):
    pass
raise Stop(5)

### exit_in_a_function
def leave():
    held = open('/task/out/held', 'w')
    held.write('held')
    raise SystemExit(6)
leave()

### exit_while_handling
import sys
try:
    1 / 0
except ZeroDivisionError:
    sys.exit(7)

### exit_in_a_thread
import sys, threading
thread = threading.Thread(target=sys.exit, args=(8,))
thread.start()
thread.join()

### exit_at_exit
import atexit, sys
atexit.register(sys.exit, 9)

### exit_text_at_exit
import atexit, sys
atexit.register(sys.exit, 'late')

### keyboard_interrupt
raise KeyboardInterrupt

### keyboard_interrupt_text
raise KeyboardInterrupt('with text')

### keyboard_interrupt_subclass
class Mine(KeyboardInterrupt):
    pass
raise Mine

### sigint
import signal
signal.raise_signal(signal.SIGINT)

### sigint_while_asleep
import os, signal, threading, time
threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
time.sleep(60)

### sigint_by_default
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.raise_signal(signal.SIGINT)

### sigint_handled
import signal, sys
signal.signal(signal.SIGINT, lambda *args: sys.exit(12))
signal.raise_signal(signal.SIGINT)

### sigint_at_exit
import atexit, signal
atexit.register(signal.raise_signal, signal.SIGINT)

### keyboard_interrupt_while_joining
import signal, threading
def work():
    threading.main_thread().join()
    signal.raise_signal(signal.SIGINT)
threading.Thread(target=work).start()

### os_exit
import os
os._exit(11)

### sigterm
import os, signal
os.kill(os.getpid(), signal.SIGTERM)

### sigterm_handled
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *args: sys.exit(13))
os.kill(os.getpid(), signal.SIGTERM)

### sigkill
import os, signal
os.kill(os.getpid(), signal.SIGKILL)

### sigalrm
import signal
signal.setitimer(signal.ITIMER_REAL, 0.001)
signal.pause()

### sigpipe_by_default
import os, signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
read, write = os.pipe()
os.close(read)
os.write(write, b'x')

### broken_pipe
import os
read, write = os.pipe()
os.close(read)
os.write(write, b'x')

### segmentation_fault
import ctypes
ctypes.string_at(0)

### segmentation_fault_with_faulthandler
import ctypes, faulthandler
faulthandler.enable()
ctypes.string_at(0)

### abort
import os
os.abort()

### c_exit
import ctypes
ctypes.CDLL(None).exit(14)

### fatal_error
import ctypes
ctypes.pythonapi.Py_FatalError(b'mine')

### finalized_by_hand
import ctypes
ctypes.pythonapi.Py_Exit(15)

### at_exit
import atexit
atexit.register(print, 'first')
atexit.register(print, 'second')

### at_exit_raises
import atexit
atexit.register(print, 'after')
atexit.register(lambda: 1 / 0)
atexit.register(print, 'before')

### at_exit_registers
import atexit
atexit.register(lambda: atexit.register(print, 'again'))

### at_exit_unregistered
import atexit
atexit.register(print, 'gone')
atexit.unregister(print)

### at_exit_ends_it
import atexit, os
atexit.register(os._exit, 16)

### at_exit_starts_a_thread
import atexit, threading
def late():
    thread = threading.Thread(target=print, args=('late',))
    thread.start()
    thread.join()
atexit.register(late)

### at_exit_forks
import atexit, os
def fork():
    child = os.fork()
    if child == 0:
        os._exit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
atexit.register(fork)

### at_exit_writes_a_file
import atexit
def write():
    file = open('/task/out/late', 'w')
    file.write('late')
    write.file = file
atexit.register(write)

### thread_exit
import threading
threading._register_atexit(print, 'the threads end')

### del_raises
class Node:
    def __del__(self):
        raise ValueError('in del')
kept = [Node()]
kept.append(kept)

### del_exits
import sys
class Node:
    def __del__(self):
        sys.exit(5)
kept = [Node()]
kept.append(kept)

### del_interrupts
class Node:
    def __del__(self):
        raise KeyboardInterrupt
kept = [Node()]
kept.append(kept)

### del_of_a_global_raises
class Node:
    def __del__(self):
        raise ValueError('in del')
global node
node = Node()

### weak_callback_raises
import weakref
class Node:
    pass
def callback(ref):
    raise ValueError('in a callback')
global node, kept
node = Node()
kept = weakref.ref(node, callback)

### finalize_raises
import weakref
class Node:
    pass
def callback():
    raise ValueError('in finalize')
global node
node = Node()
weakref.finalize(node, callback)

### unraisablehook
import sys
class Node:
    def __del__(self):
        raise ValueError('in del')
sys.unraisablehook = lambda args: print('hook', args.exc_value)
global node
node = Node()

### unraisablehook_raises
import sys
class Node:
    def __del__(self):
        raise ValueError('in del')
def hook(args):
    raise TypeError('in the hook')
sys.unraisablehook = hook
kept = [Node()]
kept.append(kept)

### thread_raises
import threading
thread = threading.Thread(target=lambda: 1 / 0, name='worker')
thread.start()
thread.join()

### thread_raises_after_main
import threading
def work():
    threading.main_thread().join()
    raise ValueError('late')
threading.Thread(target=work, name='worker').start()

### threading_excepthook
import threading
threading.excepthook = lambda args: print('hook', args.exc_value)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()

### threading_excepthook_raises
import threading
def hook(args):
    raise TypeError('in the hook')
threading.excepthook = hook
thread = threading.Thread(target=lambda: 1 / 0, name='worker')
thread.start()
thread.join()

### excepthook
import sys
def hook(kind, value, trace):
    names = []
    while trace:
        names.append((trace.tb_frame.f_code.co_name, trace.tb_lineno))
        trace = trace.tb_next
    print('hook', kind, value, names)
sys.excepthook = hook
raise ValueError('gone wrong')

### excepthook_raises
import sys
def hook(*args):
    raise TypeError('in the hook')
sys.excepthook = hook
raise ValueError('gone wrong')

### excepthook_raises_chained
import sys
def hook(kind, value, trace):
    raise TypeError('in the hook') from value
sys.excepthook = hook
raise ValueError('gone wrong')

### excepthook_exits
import sys
sys.excepthook = lambda *args: sys.exit(17)
raise ValueError('gone wrong')

### excepthook_interrupts
import sys
def hook(*args):
    raise KeyboardInterrupt
sys.excepthook = hook
raise ValueError('gone wrong')

### excepthook_prints_only
import sys
sys.excepthook = lambda kind, value, trace: sys.stdout.write(kind.__name__)
raise KeyboardInterrupt

### recursion
def endless(n):
    return endless(n + 1) + 1
endless(0)

### recursion_of_two
def one(n):
    return two(n + 1)
def two(n):
    return one(n + 1)
one(0)

### memory_error
b'x' * (1 << 62)

### exec_of_another_program
import os
os.execv('/bin/echo', ['echo', 'replaced'])

### exec_fails
import os
os.execv('/no/such/program', ['program'])

### fork_and_go_on
import os
child = os.fork()
if child:
    print('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

### fork_and_exit
import os, sys
child = os.fork()
if child:
    print('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    sys.exit(18)

### fork_and_end_at_once
import os
child = os.fork()
if child:
    print('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    os._exit(19)

### fork_and_raise
import os
child = os.fork()
if child:
    print('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    raise ValueError('in the child')

### fork_and_be_interrupted
import os
child = os.fork()
if child:
    print('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    raise KeyboardInterrupt

### fork_in_a_thread
import os, threading
def work():
    child = os.fork()
    if child:
        print('child', os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread = threading.Thread(target=work)
thread.start()
thread.join()

### fork_process
import multiprocessing
process = multiprocessing.get_context('fork').Process(target=int, args=('x',))
process.start()
process.join()
print(process.exitcode)

### fork_process_exits
import multiprocessing, sys
process = multiprocessing.get_context('fork').Process(target=sys.exit, args=(20,))
process.start()
process.join()
print(process.exitcode)

### fork_process_left_running
import multiprocessing
process = multiprocessing.get_context('fork').Process(target=print, args=('joined at the end',))
process.start()

### daemon_thread_asleep
import threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()

### daemon_thread_waits_for_a_queue
import queue, threading
threading.Thread(target=queue.Queue().get, daemon=True).start()

### daemon_thread_waits_for_a_lock
import threading
lock = threading.Lock()
lock.acquire()
threading.Thread(target=lock.acquire, daemon=True).start()

### daemon_thread_reads
import os, threading
threading.Thread(target=os.read, args=(os.pipe()[0], 1), daemon=True).start()

### daemon_thread_is_busy
import threading
ready = threading.Event()
def work():
    ready.set()
    while True:
        pass
threading.Thread(target=work, daemon=True).start()
ready.wait()

### daemon_thread_holds_stdout
import sys, threading
ready = threading.Event()
class Raw:
    pass
def work():
    with open('/task/out/held', 'w') as held:
        held.write('held')
        ready.set()
        threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
ready.wait()

### thread_outlives_main
import threading
def work():
    threading.main_thread().join()
    print('late')
    with open('/task/out/late', 'w') as late:
        late.write('late')
threading.Thread(target=work).start()

### thread_starts_a_thread_after_main
import threading
def work():
    threading.main_thread().join()
    try:
        threading.Thread(target=print, args=('later',)).start()
    except RuntimeError as error:
        print(error)
threading.Thread(target=work).start()

### futures_left_running
import concurrent.futures, threading
pool = concurrent.futures.ThreadPoolExecutor(2)
ends = threading.Event()
def work(n):
    ends.wait()
    print('late')
pool.submit(work, 1)
threading._register_atexit(ends.set)  # comes before the pool's own

### futures_raise
import concurrent.futures
pool = concurrent.futures.ThreadPoolExecutor(2)
pool.submit(int, 'x').result()

### asyncio_raises
import asyncio
async def work():
    raise ValueError('in a coroutine')
asyncio.run(work())

### asyncio_task_raises
import asyncio
async def fail():
    raise ValueError('never asked for')
async def work():
    global task
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
asyncio.run(work())

### asyncio_pending
import asyncio
async def wait():
    try:
        await asyncio.Event().wait()
    finally:
        print('cancelled')
async def work():
    global task
    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
asyncio.run(work())

### asyncio_interrupted
import asyncio, signal
async def work():
    signal.raise_signal(signal.SIGINT)
    await asyncio.Event().wait()
asyncio.run(work())

### asyncio_exits
import asyncio, gc, sys
gc.collect()  # plain's import of asyncio may collect, and what was collected once ends in another order
async def work():
    sys.exit(21)
asyncio.run(work())

### asyncio_loop_left
import asyncio
async def wait():
    await asyncio.Event().wait()
loop = asyncio.new_event_loop()
task = loop.create_task(wait())
loop.run_until_complete(asyncio.sleep(0, loop))

### generator_suspended
def rows():
    try:
        yield 1
    finally:
        print('closed')
global generator
generator = rows()
next(generator)

### generator_that_ignores_its_end
def rows():
    while True:
        try:
            yield 1
        except GeneratorExit:
            pass
generator = rows()
next(generator)
kept = [generator]
kept.append(kept)

### coroutine_never_awaited
async def work():
    pass
work()

### stdout_full
import sys
sys.stdout = open('/dev/full', 'w')
print('lost')

### stdout_full_below
import os, sys
os.dup2(os.open('/dev/full', os.O_WRONLY), 1)
sys.stdout.write('lost')

### stdout_closed
import sys
sys.stdout.close()

### stdout_closed_below
import os, sys
sys.stdout.write('lost')
os.close(1)

### stderr_closed_below
import os
os.close(2)
raise ValueError('not seen')

### stderr_closed
import sys
sys.stderr.close()
raise ValueError('not seen')

### stdout_none
import sys
sys.stdout = None

### stderr_none
import sys
sys.stderr = None
raise ValueError('not seen')

### stdout_text_only
import io, sys
sys.stdout.write('seen')
sys.stdout = io.StringIO()
print('not seen')

### stdout_flush_raises
import sys
class Stream:
    def write(self, text):
        pass
    def flush(self):
        raise ValueError('in flush')
sys.stdout = Stream()

### stdout_flush_raises_os_error
import sys
class Stream:
    def write(self, text):
        pass
    def flush(self):
        raise OSError(5, 'in flush')
sys.stdout = Stream()

### stderr_flush_raises
import sys
class Stream:
    def write(self, text):
        pass
    def flush(self):
        raise ValueError('in flush')
sys.stderr = Stream()

### stderr_write_raises
import sys
class Stream:
    def write(self, text):
        raise ValueError('in write')
sys.stderr = Stream()
raise ValueError('gone wrong')

### stdout_closed_attribute_raises
import sys
class Stream:
    @property
    def closed(self):
        raise ValueError('in closed')
    def flush(self):
        print('flushed', file=sys.stderr)
sys.stdout = Stream()

### stdout_says_it_is_closed
import sys
class Stream:
    closed = True
    def flush(self):
        print('flushed', file=sys.stderr)
sys.stdout = Stream()

### stdout_writes_at_its_end
import sys
class Stream:
    def __init__(self, under):
        self.under = under
    def write(self, text):
        self.under.write('<' + text + '>')
    def flush(self):
        self.under.write('[flush]')
        self.under.flush()
sys.stdout = Stream(sys.stdout)
print('text')

### stdout_only_in_dunder
import sys
sys.stdout.write('row')
sys.__stdout__ = None

### stdout_detached
import sys
sys.stdout.write('row')
sys.stdout.detach()

### closes_all_descriptors
import os
os.closerange(0, 100)
