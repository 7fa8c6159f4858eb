"""Opens sysctls for writing, by /proc/sys and by a proc of its own. Writes nothing."""
import os

from escapekit import Probe, syscall

probe = Probe("sysctl")
NAMES = """kernel/core_pattern kernel/hostname kernel/domainname kernel/modprobe kernel/pid_max kernel/randomize_va_space
kernel/unprivileged_bpf_disabled kernel/yama/ptrace_scope kernel/panic kernel/sysrq kernel/ns_last_pid kernel/shmmax
vm/overcommit_memory vm/drop_caches vm/nr_hugepages fs/suid_dumpable fs/mqueue/queues_max fs/binfmt_misc/register
net/ipv4/ip_forward net/core/somaxconn user/max_user_namespaces""".split()
for name in NAMES:
    probe.attempt(name, lambda: os.open(f"/proc/sys/{name}", os.O_WRONLY))
for path in ("/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run", "/sys/power/state", "/sys/kernel/uevent_helper",
             "/sys/fs/cgroup/release_agent"):
    probe.attempt(path, lambda: os.open(path, os.O_WRONLY))
probe.done()
