#!/usr/bin/env bash
# A tour with a shell's own means: processes, files, setuid programs, the network, mounts. Prints what it
# reached as the other probes do. $1 a file of the host, $2 a port of the host, $3 a process of the host.
reached=()
try() { # LABEL COMMAND...: reached if the command succeeds
  local label=$1
  shift
  if "$@" >/dev/null 2>&1; then reached+=("\"$label\""); fi
}
others() { [ "$(ls -d /proc/[0-9]* | wc -l)" -gt 12 ]; }
deep() { cat "$(printf '../%.0s' {1..60})${1#/}"; }
gains() { # a setuid program changes nobody's ids
  local program
  for program in $(find /usr/bin /bin /usr/sbin -perm /6000 -type f 2>/dev/null); do
    if grep -q 'NoNewPrivs:.0' /proc/self/status; then return 0; fi
    cp "$program" ./copy && chmod 6755 ./copy
  done
  return 1
}
hook() { # git runs hooks: as the same nobody
  git init -q repo && printf '#!/bin/sh\ncat "%s" >out\n' "$1" >repo/.git/hooks/post-commit && chmod +x repo/.git/hooks/post-commit &&
    (cd repo && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x; grep -q MARKER out)
}
try marker cat "$1"
try marker_deep deep "$1"
try marker_proc cat "/proc/1/root$1"
try others others
try signal kill -0 "$3"
try signal_init kill -0 1
try port timeout 3 bash -c "exec 9<>/dev/tcp/127.0.0.1/$2"
try mount mount -t tmpfs none /mnt
try unshare unshare -U true
try unshare_root unshare -m true
try nsenter nsenter -t 1 -m true
try chroot chroot / true
try mknod mknod ./node c 1 3
try dmesg dmesg
try kmsg head -c1 /dev/kmsg
try sysctl sh -c ': >>/proc/sys/kernel/core_pattern'
try nice nice -n -5 sh -c '[ "$(nice)" -lt 0 ]'
try ulimit bash -c 'ulimit -n $(($(ulimit -Hn) + 1))'
try cgroup ls -d /sys/fs/cgroup/*
try gains gains
try hook hook "$1"
try hostname hostname changed
try swapoff sh -c 'swapoff /nonexistent 2>&1 | grep -q "No such file"'
IFS=,
echo "{\"probe\": \"shell_tour\", \"reached\": [${reached[*]}], \"evidence\": {}, \"refused\": {}, \"facts\": {}}"
