# Leaves a daemonised child: its own session, two forks away, deaf to signals,
# holding the output pipes open.
import ctypes
import os
import signal
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(1, 32):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(15, b"mayfly-orphan", 0, 0, 0)  # PR_SET_NAME
        while True:
            time.sleep(3600)
    os._exit(0)
os.wait()
print("left a child that never ends")
