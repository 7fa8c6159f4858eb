"""Calls that steer the whole machine, with arguments that can do no harm where they are let in."""
import ctypes

from escapekit import Probe, syscall

probe = Probe("machine")
nothing = ctypes.create_string_buffer(256)
for name, args in {
    "reboot": (0, 0, 0, 0),  # not the magic numbers
    "kexec_load": (0, 99, 0, 0),
    "kexec_file_load": (-1, -1, 0, b"", 0x80),
    "init_module": (nothing, 0, b""),
    "finit_module": (-1, b"", 0),
    "delete_module": (b"no_such_module", 0x800),
    "swapon": (b"/nonexistent", 0),
    "swapoff": (b"/nonexistent",),
    "acct": (b"/nonexistent",),
    "quotactl": (0x80000700, b"/nonexistent", 0, nothing),
    "quotactl_fd": (-1, 0x80000700, 0, nothing),
    "syslog": (10, 0, 0),  # the size of the kernel's log
    "iopl": (0,),
    "ioperm": (0, 1, 0),
    "lookup_dcookie": (0, nothing, 256),
    "modify_ldt": (99, nothing, 0),
    "sethostname": (b"x", -1),
    "setdomainname": (b"x", -1),
    "vhangup": (),
    "fanotify_init": (0, 0),
    "move_pages": (0, 0, 0, 0, 0, 0),
    "migrate_pages": (0, 0, 0, 0),
    "memfd_secret": (99,),
    "ustat": (0, nothing),
}.items():
    if name == "vhangup":
        continue  # would do harm outside, where it is let in
    probe.touches(name, *args)
probe.done()
