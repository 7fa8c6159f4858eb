# Looks for the host's files: a known file, the host's name, its users' homes.
import os
import sys

marker, hostname = sys.argv[1], sys.argv[2]
found = []
if os.uname().nodename == hostname:
    found.append("hostname")
for path in (marker, "/boot/vmlinuz", "/proc/1/root" + marker, f"/proc/{os.getppid()}/root" + marker,
             f"/proc/{os.getppid()}/cwd/" + marker, "/../../.." + marker, "/etc/apt/sources.list.d",
             "/var/lib/dpkg/lock", "/var/log/dpkg.log", "/etc/resolv.conf"):
    if os.path.exists(path):
        found.append(path)
for top in ("/root", "/home", "/srv", "/mnt", "/media", "/opt", "/var/lib/mayfly", "/sys", "/var/tmp"):
    try:
        found += [top + "/" + name for name in os.listdir(top)]
    except OSError:
        pass
print(f"reached {len(found)} of the host's files")
