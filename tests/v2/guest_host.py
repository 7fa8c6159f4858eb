# The host's features, without Mayfly: if one of these tests fails, the guest is not
# the kind of host that the other tests need.
import ctypes
import errno
import os
import pathlib
import resource
import signal
import subprocess

from guest_base import (CLONE_INTO_CGROUP, SYS_CLONE3, SYS_LANDLOCK_CREATE_RULESET, kernel, libc,
                        read, syscall, wait_until, write)

CGROUP = pathlib.Path("/sys/fs/cgroup")
CLONE_NEWUSER = 0x10000000
MS_RDONLY = 1
CORES = pathlib.Path("/run/cores")


def only_cgroup_v2_is_mounted():
    kinds = {line.split()[2] for line in read("/proc/mounts").splitlines() if "cgroup" in line.split()[2]}
    assert kinds == {"cgroup2"}, kinds
    v1 = [line for line in read("/proc/self/cgroup").splitlines() if not line.startswith("0::")]
    assert not v1, v1


def controllers_are_handed_down():
    have = set(read(CGROUP / "cgroup.subtree_control").split())
    assert {"cpu", "memory", "pids"} <= have, have
    return " ".join(sorted(have))


def make_cgroup(name):
    place = CGROUP / name
    place.mkdir()
    return place


def cgroup_kill_ends_a_whole_tree():
    place = make_cgroup("t-kill")
    try:
        shell = subprocess.Popen(
            ["sh", "-c", f"echo 0 >{place}/cgroup.procs; setsid sleep 999 & sleep 999"])
        wait_until("three processes in the cgroup",
                   lambda: len(read(place / "cgroup.procs").split()) == 3)
        write(place / "cgroup.kill", "1")
        assert shell.wait() == -signal.SIGKILL
        wait_until("populated 0", lambda: "populated 0" in read(place / "cgroup.events"))
    finally:
        place.rmdir()


class CloneArgs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in
                ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size",
                 "tls", "set_tid", "set_tid_size", "cgroup")]


def a_clone_is_born_in_its_cgroup():
    place = make_cgroup("t-born")
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        args = CloneArgs(flags=CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=fd)
        pid = syscall(SYS_CLONE3, ctypes.byref(args), ctypes.c_size_t(ctypes.sizeof(args)))
        if pid == 0:
            os._exit(42 if "t-born" in read("/proc/self/cgroup") else 43)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    finally:
        os.close(fd)
        place.rmdir()


def memory_cap_kills_the_group():
    place = make_cgroup("t-oom")
    try:
        write(place / "memory.max", str(32 << 20))
        write(place / "memory.oom.group", "1")
        eater = "b=[]\nwhile True: b.append(b'x' * (1 << 20))"
        shell = subprocess.Popen(
            ["sh", "-c", f'echo 0 >{place}/cgroup.procs; sleep 999 & exec python3 -c "$0"', eater])
        assert shell.wait() == -signal.SIGKILL
        wait_until("all dead", lambda: "populated 0" in read(place / "cgroup.events"))
        assert "oom_group_kill 1" in read(place / "memory.events"), read(place / "memory.events")
    finally:
        place.rmdir()


def user_namespaces_can_be_made():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.unshare(CLONE_NEWUSER) == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def landlock_is_there():
    version = syscall(SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    assert version >= (6 if kernel() >= (6, 12) else 2), version
    return f"version {version}"


def erofs_mounts_from_a_file():
    there = pathlib.Path("/run/sample")
    there.mkdir(exist_ok=True)
    image = "/var/lib/mayfly/sample.erofs"  # on ext4: the kernel takes no image on tmpfs or erofs
    direct = libc.mount(image.encode(), bytes(there), b"erofs", MS_RDONLY, None) == 0
    if not direct:
        assert kernel() < (6, 12), os.strerror(ctypes.get_errno())
        assert ctypes.get_errno() == errno.ENOTBLK, os.strerror(ctypes.get_errno())
        subprocess.run(["mount", "-o", "ro,loop", image, str(there)], check=True)
    try:
        assert read(there / "hello") == "from a file\n"
    finally:
        subprocess.run(["umount", str(there)], check=True)
    return "directly" if direct else "by a loop device"


def dump(core_limit):
    """Aborts a process with this RLIMIT_CORE; returns its pid."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (core_limit, core_limit))
        os.abort()
    os.waitpid(pid, 0)
    return pid


def cores():
    return [line.split() for line in CORES.read_text().splitlines()]


def a_crash_reaches_the_piped_collector():
    pid = dump(resource.RLIM_INFINITY)
    wait_until("the collector's line", lambda: str(pid) in [row[0] for row in cores()])


def core_limit_1_keeps_the_collector_out_and_0_does_not():
    spared = dump(1)
    reached = dump(0)
    wait_until("the collector's line", lambda: str(reached) in [row[0] for row in cores()])
    assert str(spared) not in [row[0] for row in cores()], cores()


def tests(_mode):
    return [(f"host.{test.__name__}", test) for test in (
        only_cgroup_v2_is_mounted, controllers_are_handed_down, cgroup_kill_ends_a_whole_tree,
        a_clone_is_born_in_its_cgroup, memory_cap_kills_the_group, user_namespaces_can_be_made,
        landlock_is_there, erofs_mounts_from_a_file, a_crash_reaches_the_piped_collector,
        core_limit_1_keeps_the_collector_out_and_0_does_not)]
