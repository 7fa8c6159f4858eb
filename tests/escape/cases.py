"""The escape tests as tables: which probe, how its control is run, what must come of it.

Every probe must reach nothing in a box. Its control run outside must reach at
least `control`: that proves that the probe would see a breach.
"""

import dataclasses
import os
import re


@dataclasses.dataclass(frozen=True)
class Wall:
    probe: str                # probes/<probe>.py
    control: tuple            # labels that the control run must reach
    apart: bool = False       # the control runs in namespaces of its own: it changes something there
    params: dict = dataclasses.field(default_factory=dict)          # for both runs
    control_params: dict = dataclasses.field(default_factory=dict)  # for the control
    zygote: bool = False      # also run as a zygote, root of its template's user namespace
    init: bool = False        # also run in the init's place, root of the box's user namespace
    # What those two may reach: their own namespaces' things, never the host's.
    zygote_may: tuple = ()
    init_may: tuple = ()


WALLS = (
    Wall("host_files", ("path", "dots", "dots_by_fd", "proc_root", "proc_cwd"), zygote=True, init=True),
    Wall("host_secrets", ("environment", "memory"), zygote=True, init=True, zygote_may=("shadow",), init_may=("shadow",)),
    Wall("proc_one", ("environ", "maps", "mem", "root", "cwd", "exe", "ns/mnt", "fd/"), apart=True),
    Wall("proc_others", ("listed", "by_number", "parents"), init=True, init_may=("listed", "by_number")),
    Wall("proc_global", ("kallsyms", "meminfo", "cpuinfo", "version", "cmdline", "stat", "net",
                         "sys"), init=True),
    Wall("sysctl", ("kernel/core_pattern", "kernel/hostname", "vm/drop_caches"), init=True),
    Wall("sysfs", ("/sys", "/sys/kernel", "/sys/fs/cgroup", "mounted"), init=True),
    Wall("ptrace", ("attach_child", "seize_child", "traceme")),
    Wall("process_memory", ("read_child", "write_child", "kcmp_child", "descriptor_of_child", "memory_of_init"), apart=True),
    Wall("signals_out", ("by_number", "init", "init_by_descriptor", "parent"), init=True, init_may=("by_number", "by_group", "group_0", "init", "init_by_descriptor", "parent")),
    Wall("socket_families", ("16/3/0", "17/3/0", "raw", "icmp"), apart=True),
    Wall("network_out", ("host_127.0.0.1", "daemon_http"), control_params={"local_only": True}, zygote=True, init=True),
    Wall("host_abstract_socket", ("stream", "datagram", "listed"), zygote=True, init=True),
    Wall("descriptors", ("more", "kind_0")),
    Wall("descriptor_smuggling", ("name_to_handle", "open_by_handle", "reopen_for_writing", "descriptors_of_others")),
    Wall("mount", ("tmpfs", "proc", "bind", "detach", "fsopen", "fspick", "open_tree", "chroot", "fsconfig", "fsmount",
                   "move_mount"), apart=True),
    Wall("mountinfo", ("host_words", "devices"), zygote=True, init=True),
    Wall("writable_places", ("file", "folder", "chmod", "rename", "utime"), control_params={"walk": "walk"}, zygote=True,
         init=True, zygote_may=(), init_may=()),
    Wall("device_nodes", ("mknod_mem_.", "mknod_kmsg_.", "mknod_vda_/tmp", "write_dev", "add_entropy"), apart=True,
         zygote=True, init=True),
    Wall("setuid", ("setuid", "setresuid", "setgroups", "made", "chown", "programs")),
    Wall("capabilities", ("CapPrm", "CapEff", "CapBnd", "new_privileges", "no_filter", "securebits", "capset")),
    Wall("keyrings", ("add_thread", "add_user", "join", "keys")),
    Wall("namespaces", ("unshare_user", "unshare_mnt", "clone_user_net", "clone_pid", "clone3_plain", "enter_uts",
                        "enter_by_pidfd"), apart=True),
    Wall("clone_parent", ("clone",)),
    # Zygote and init see the names of their own cgroups.
    Wall("cgroup_files", ("files", "mounted", "limits"), zygote=True, init=True, zygote_may=("names", "of_init"),
         init_may=("names", "of_init")),
    Wall("clocks", ("settimeofday", "clock_settime", "adjtimex", "clock_adjtime")),
    Wall("machine", ("reboot", "swapon", "swapoff", "acct", "quotactl", "syslog", "fanotify_init",
                     "sethostname"), apart=True),
    Wall("kernel_surface", ("bpf", "perf_event_open", "io_uring_setup", "userfaultfd", "io_setup", "socket_filter",
                            "seccomp_listener"), apart=True),
    Wall("page_cache", ("mincore", "cachestat", "nowait", "merge")),
    Wall("terminal", ("type", "TIOCSTI", "TIOCLINUX", "TIOCCONS", "TIOCSETD", "TIOCSSERIAL", "TIOCVHANGUP",
                      "TIOCSLCKTRMIOS", "others", "by_number", "elsewhere_/dev/ptmx", "many", "grown"),
         control_params={"seen": "/"}),
    Wall("foreign_calls", ("x32_getpid",), apart=True),
    Wall("priority", ("nice", "setpriority", "fifo", "rr", "deadline", "oom_order", "limit_of_init"), apart=True),
    Wall("shared_memory_inherited", ("shared",), control_params={"make_one": True}),
    Wall("huge_pages", ("mapping",)),
    # A zygote has a whole /proc of its namespace, the boot id in it.
    Wall("host_name", ("hostname", "uname"), init=True, zygote=True, zygote_may=("id_/proc/sys/kernel/random/boot_id",)),
    Wall("core_dump", ("limit", "dump")),
    Wall("namespace_root", ("proc_write", "sysfs_write", "cgroup2_write", "tracefs", "kernel_log", "clock_adjtime",
                            "priority", "memory_order"), apart=True, zygote=True, init=True,
         # A binfmt_misc of its own user namespace; its place in the out-of-memory order within what its parent had.
         zygote_may=("binfmt_misc", "memory_order"), init_may=("binfmt_misc", "memory_order")),
)

# Two boxes at once: one serves, the other reaches. The control is two processes outside.
TWO_BOXES = ("abstract_socket", "unix_path", "tcp_port", "udp_port", "shm_segment", "semaphore", "message_queue",
             "posix_shm", "posix_queue", "files", "process", "keyring", "timers", "watches", "pipe_pages", "terminals")
# The boxes have one blob of the daemon's as an input file, each a copy of its own.
SHARED_BLOB = ("blob_bytes", "blob_size", "blob_mode", "blob_lock", "blob_record_lock", "blob_memory")
# The boxes of a template share the image's files. The server tells whether it saw anything.
SHARED_IMAGE = ("directory_events",)
# What two boxes of one template can tell each other on purpose: docs/threat_model.md, known limits.
KNOWN_CHANNELS = ("file_lock", "record_lock", "page_maps")
# The same for clones of one zygote. Outside there is none, so the probe's control is a clone without such a neighbour.
ZYGOTE_CHANNELS = ("zygote_pages",)
# What a task learns of the host, or of all boxes together: docs/threat_model.md, known limits.
HOST_FACTS = ("memory", "load", "processes", "packets", "inodes", "uptime")

MIB = 1 << 20
BOMB_MEMORY = 96 * MIB
# How much longer a bomb may take: on a machine whose cpu is emulated it needs more time to meet its cap.
SLOWNESS = int(os.environ.get("MAYFLY_TEST_SLOWNESS", "1"))
BOMB_FLAGS = {"--memory": "96MiB", "--timeout": "20s", "--cpu-time": "15s", "--disk": "32MiB", "--pids": "32"}


@dataclasses.dataclass(frozen=True)
class Bomb:
    kind: str
    verdicts: tuple           # any of them may come
    flags: dict = dataclasses.field(default_factory=dict, hash=False)  # over BOMB_FLAGS
    units: int = 3            # of the control run
    count_max: int = 1 << 62  # where it is refused: so many units at most

    def all_flags(self):
        flags = {**BOMB_FLAGS, **self.flags}
        for time in ("--timeout", "--cpu-time"):
            number, unit = re.fullmatch(r"(\d+)(\w+)", flags[time]).groups()
            flags[time] = f"{int(number) * SLOWNESS}{unit}"
        return [word for pair in flags.items() for word in pair]


REFUSED = ("succeeded",)
BOMBS = (
    Bomb("fork", ("processes",)),
    Bomb("fork_tree", ("processes",), units=2),
    Bomb("thread", ("processes",)),
    Bomb("memory", ("memory",)),
    Bomb("memory_of_children", ("memory", "processes")),
    Bomb("locked_memory", ("memory",) + REFUSED),
    Bomb("memory_file", ("memory",)),
    Bomb("disk", ("disk",)),
    Bomb("disk_shm", ("disk",)),
    Bomb("inodes", ("disk",), units=20),
    Bomb("symlinks", ("disk",), units=20),
    Bomb("attributes", ("disk", "memory") + REFUSED),
    Bomb("deep_folders", ("disk", "cpuTime", "wallTime"), {"--timeout": "4s"}, units=20),
    Bomb("names", REFUSED + ("memory", "cpuTime"), units=20),
    Bomb("open_files", REFUSED, {"--files": "256"}, units=20, count_max=256),
    Bomb("pipes", REFUSED + ("memory",)),
    Bomb("pipes_of_children", ("memory", "processes")),
    Bomb("unix_sockets", REFUSED + ("memory",)),
    Bomb("unix_datagrams", REFUSED + ("memory",)),
    Bomb("tcp_sockets", REFUSED + ("memory",)),
    Bomb("udp_sockets", REFUSED + ("memory",)),
    Bomb("tcp_and_memory", ("memory",)),
    Bomb("sockets_of_children", ("memory", "processes", "wallTime", "cpuTime")),
    Bomb("descriptors_in_flight", REFUSED + ("memory",)),
    Bomb("epolls", REFUSED + ("memory",)),
    Bomb("event_descriptors", REFUSED, count_max=1024),
    Bomb("timers", REFUSED + ("memory",), count_max=1100),
    Bomb("queued_signals", REFUSED + ("memory",), count_max=1100),
    Bomb("watches", REFUSED, count_max=0),
    Bomb("terminals", REFUSED, count_max=8),
    Bomb("terminals_anew", REFUSED + ("cpuTime", "wallTime"), units=20, count_max=2_000),
    Bomb("posix_queues", REFUSED, count_max=0),
    Bomb("shm_segments", ("memory",)),
    Bomb("messages", ("memory",)),
    Bomb("semaphores", ("memory",) + REFUSED),
    Bomb("page_tables", ("memory",), units=1),
    Bomb("page_tables_shared", ("memory",), units=1),
    Bomb("mappings", REFUSED + ("memory",), units=20),
    Bomb("record_locks", ("memory", "cpuTime", "wallTime"), {"--timeout": "4s"}, units=20),
    Bomb("filters", ("processes",), units=2),
    Bomb("landlocks", REFUSED + ("memory",)),
    Bomb("arguments", ("memory", "processes"), units=2),
    # What the kernel keeps in no cap: refused, or counted by the spawner.
    Bomb("packet_options", REFUSED, count_max=0),
    Bomb("memberships", REFUSED, count_max=0),
    Bomb("flow_labels", REFUSED, count_max=0),
    Bomb("signature_keys", REFUSED, count_max=0),
    Bomb("corked", REFUSED, count_max=0),
    Bomb("error_queues", REFUSED, count_max=0),
    Bomb("access_lists", REFUSED, count_max=0),
    Bomb("policies", REFUSED, count_max=0),
    Bomb("grown_output", REFUSED, count_max=0),
    Bomb("unaccepted_of_children", ("memory",)),
    Bomb("unaccepted_with_data_of_children", ("memory",)),
    Bomb("unaccepted_closed", ("memory",)),
    Bomb("unaccepted_closed_with_data", ("memory",)),
    Bomb("record_locks_of_many_files", ("memory",)),
    Bomb("record_locks_of_children", ("memory",)),
    Bomb("shared_ports_of_children", REFUSED + ("memory", "wallTime"), {"--timeout": "4s"}),
    Bomb("timer_descriptors_of_children", REFUSED + ("memory", "wallTime"), {"--timeout": "4s"}),
    Bomb("output", ("output",), {"--output": "1MiB"}),
    Bomb("errors", ("output",), {"--output": "1MiB"}),
    Bomb("lines", ("output",), {"--output": "1MiB"}),
    Bomb("cpu", ("cpuTime",), {"--cpu-time": "500ms"}),
    Bomb("children_spin", ("cpuTime",), {"--cpu-time": "500ms"}),
    Bomb("sleep", ("wallTime",), {"--timeout": "500ms"}),
    Bomb("sparse", ("signaled", "disk") + REFUSED),
)

# What a task does to pass for another end: (kind, verdict, exit code or signal).
FORGERIES = (
    ("text", "failed", 7),
    ("124", "failed", 124), ("125", "failed", 125), ("137", "failed", 137), ("255", "failed", 255),
    ("oom", "signaled", 9), ("xcpu", "signaled", 24), ("xfsz", "signaled", 25),
    ("closed", "succeeded", 0),
    ("kill_all", "failed", 5),
    ("daemon", "succeeded", 0), ("orphans", "succeeded", 0), ("zombies", "succeeded", 0),
    ("stopped", "wallTime", None),
    ("exec_init", "failed", 9),
)

OUT_FILES = ("symlinks", "hardlinks", "special", "names", "deep", "many", "sparse", "growing", "swapped", "replaced",
             "locked", "attributes")
