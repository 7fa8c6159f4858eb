// The caps of a task: one table, which generates every list of caps in C++.
//
// A new cap needs a line here, a field at the end of `Limits` and `LimitWishes` in mayfly.capnp (a
// test compares them), the clients in other languages, and the code that enforces it.
// docs/ARCHITECTURE.md, "How to add", names those places.
//
// Public: client.h uses it, too.
#pragma once

// CAP(member, type, default, unit, lowest, highest, key, Wire, flag, about)
//   member    of base::Limits and LimitWishes; its name ends with its unit
//   default   if a template names none
//   unit      config::LimitUnit: how people write its value
//   lowest    with `highest`: the values that a template may allow, both included
//   key       in manifests, in messages and in the Python client
//   Wire      its field in mayfly.capnp; with a small first letter, its key in JSON
//   flag      of `mayfly run`
//   about     the flag's line in the help
#define MAYFLY_CAPS(CAP)                                                                           \
  /* Thousandths of one core: 1500 are 1.5 cores. */                                               \
  CAP(cpu_milli, uint32_t, 1'000, cores, 10, 1'024'000, "cpu", CpuMilli, "--cpus",                 \
      "Share of the cores, like 0.5 or 2")                                                         \
  /* User and system time of the whole box. */                                                     \
  CAP(cpu_time_ms, uint64_t, 30'000, milliseconds, 10, 86'400'000, "cpu_time", CpuTimeMs,          \
      "--cpu-time", "User and system time of all its processes")                                   \
  /* From `started`. */                                                                            \
  CAP(wall_time_ms, uint64_t, 60'000, milliseconds, 10, 86'400'000, "wall_time", WallTimeMs,       \
      "--wall-time,--timeout", "From its first instruction")                                       \
  /* All pages of the box, its tmpfs's and the kernel's included. With less than the lowest value  \
     no clone could start. */                                                                      \
  CAP(memory_bytes, uint64_t, 512ull << 20, bytes, 16ull << 20, 1ull << 40, "memory", MemoryBytes, \
      "--memory", "All memory, /tmp and /task included")                                           \
  /* Processes and threads in the task's cgroup. */                                                \
  CAP(processes, uint32_t, 64, count, 1, 32'768, "processes", Processes, "--pids",                 \
      "Processes and threads")                                                                     \
  /* RLIMIT_NOFILE, per process. */                                                                \
  CAP(open_files, uint32_t, 1'024, count, 16, 1'048'576, "open_files", OpenFiles,                  \
      "--files,--open-files", "Open files, per process")                                           \
  /* RLIMIT_FSIZE. */                                                                              \
  CAP(file_size_bytes, uint64_t, 256ull << 20, bytes, 1, 1ull << 40, "file_size", FileSizeBytes,   \
      "--file-size", "The largest file")                                                           \
  /* /tmp, /task, /run, /dev/shm together. */                                                      \
  CAP(disk_bytes, uint64_t, 256ull << 20, bytes, 1ull << 20, 1ull << 40, "disk", DiskBytes,        \
      "--disk", "/tmp, /task, /run and /dev/shm together")                                         \
  /* Of the same file systems. */                                                                  \
  CAP(disk_inodes, uint64_t, 16'384, count, 64, 10'000'000, "disk_inodes", DiskInodes, "--inodes", \
      "Files and folders there")                                                                   \
  /* stdout and stderr, each. */                                                                   \
  CAP(output_bytes, uint64_t, 8ull << 20, bytes, 1, 1ull << 40, "output", OutputBytes, "--output", \
      "stdout and stderr, each")                                                                   \
  /* stdin and input files together. */                                                            \
  CAP(input_bytes, uint64_t, 64ull << 20, bytes, 1, 1ull << 40, "input", InputBytes, "--input",    \
      "Standard input and input files together")                                                   \
  /* Collected files of /task/out. */                                                              \
  CAP(out_files_bytes, uint64_t, 64ull << 20, bytes, 1, 1ull << 40, "out_files_size",              \
      OutFilesBytes, "--out-size", "Collected output files together")                              \
  /* Their number. */                                                                              \
  CAP(out_files, uint32_t, 256, count, 1, 100'000, "out_files", OutFiles, "--out-files",           \
      "Number of collected output files")                                                          \
  /* In the queue, before its box. */                                                              \
  CAP(queue_time_ms, uint64_t, 600'000, milliseconds, 10, 86'400'000, "queue_time", QueueTimeMs,   \
      "--queue-time", "How long it waits for a box")                                               \
  /* From SIGTERM to the kill, at wall time and at a cancel. 0: the kill alone. */                 \
  CAP(grace_ms, uint64_t, 0, milliseconds, 0, 600'000, "grace", GraceMs, "--grace",                \
      "From SIGTERM to the kill, at --wall-time and Ctrl-C")
