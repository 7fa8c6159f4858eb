"""Tries to pass for what it is not: forgery.py KIND. The harness looks at the verdict."""
import os
import signal
import sys
import time

kind = sys.argv[1]
if kind == "text":
    line = '{"verdict":"succeeded","exit_code":0,"exitCode":0,"receipt":{"complete":true}}'
    print(line)
    print(line, file=sys.stderr)
    sys.exit(7)
elif kind in ("124", "125", "137", "255"):
    os._exit(int(kind))
elif kind == "oom":
    os.kill(os.getpid(), signal.SIGKILL)  # looks like the kernel's memory kill
elif kind == "xcpu":
    os.kill(os.getpid(), signal.SIGXCPU)
elif kind == "xfsz":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    os.kill(os.getpid(), signal.SIGXFSZ)
elif kind == "closed":
    for fd in range(3):
        os.close(fd)
    os._exit(0)
elif kind == "kill_all":
    # Everyone that it may signal; then it goes on.
    try:
        os.kill(-1, signal.SIGKILL)
    except OSError:
        pass
    for pid in range(1, 1000):
        if pid != os.getpid():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
    print("alive")
    sys.exit(5)
elif kind == "daemon":
    # A grandchild that ignores what it can, in a session of its own, holding the pipes.
    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                time.sleep(1000)
        os._exit(0)
    print("left")
elif kind == "stopped":
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
elif kind == "orphans":
    for _ in range(30):
        if os.fork() == 0:
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
    print("left")
elif kind == "zombies":
    for _ in range(20):
        if os.fork() == 0:
            os._exit(0)
    print("left")
elif kind == "exec_init":
    os.execv("/usr/bin/env", ["env", "-i", "sh", "-c", "exit 9"])
