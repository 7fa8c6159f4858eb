"""Sets clocks. What it asks for is impossible: to be told so means to have been let in."""
import ctypes

from escapekit import Probe, syscall

bad = (ctypes.c_long * 2)(0, -1)  # no such nanosecond
timex = ctypes.create_string_buffer(208)
probe = Probe("clocks")
probe.touches("settimeofday", ctypes.byref((ctypes.c_long * 2)(0, -1)), 0)
probe.touches("clock_settime", 0, ctypes.byref(bad))
probe.touches("adjtimex", timex)
probe.touches("clock_adjtime", 0, timex)
for path in ("/dev/rtc", "/dev/rtc0", "/dev/ptp0", "/dev/hpet"):
    probe.attempt(path, lambda: __import__("os").open(path, 0))
probe.attempt("alarm", lambda: ctypes.CDLL(None, use_errno=True).timerfd_create(8, 0) >= 0)  # CLOCK_REALTIME_ALARM
probe.done()
