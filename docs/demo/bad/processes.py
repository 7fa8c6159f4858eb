# Looks at other processes: lists them, reads their secrets, signals them.
import os
import signal

mine = {os.getpid()}
others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in mine]
read, signalled = 0, 0
for pid in others:
    for file in ("environ", "maps", "mem"):
        try:
            with open(f"/proc/{pid}/{file}", "rb") as f:
                read += bool(f.read(1))
        except OSError:
            pass
for pid in [1, os.getppid(), *others]:
    try:
        if pid > 0:
            os.kill(pid, 0)  # signal 0 asks for the right to send
            signalled += 1
    except OSError:
        pass
print(f"reached {read + signalled} ({read} files of theirs, {signalled} may be signalled), saw {len(others)}")
