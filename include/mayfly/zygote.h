/* libmayfly-zygote: the calls by which a zygote program becomes a fork server.
 *
 * A zygote is a template's pre-initialised process. It loads what its tasks
 * will need, then calls mayfly_zygote_serve(). In the zygote the call does not
 * return while the daemon lives. It returns in each *clone*: a new process,
 * alone in its own box with all walls up, that has received its one task. The
 * clone runs the task and exits; it never serves again.
 *
 * Any single-threaded runtime can use it, by linking or by FFI. At the call the
 * process must have one thread, no child processes and no open sockets. If the template's
 * mechanism is `restore`, the process is dumped instead of forked: it may have threads, and
 * may have no file of /proc open. The library
 * holds no lock, starts no thread and allocates only in the clone.
 *
 * ABI version: MAYFLY_ZYGOTE_ABI. Errors are negative errno values.
 */
#ifndef MAYFLY_ZYGOTE_H
#define MAYFLY_ZYGOTE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MAYFLY_ZYGOTE_ABI 2u

/* What kind of code a task brings. */
enum mayfly_task_kind {
  MAYFLY_TASK_COMMAND = 0, /* argv is a command line to execute                */
  MAYFLY_TASK_FILE = 1,    /* argv[0] is the path of a script in the working folder; for templates
                              with `task.modules` in their manifest also of an archive or folder */
  MAYFLY_TASK_STRING = 2,  /* `code` is the program, as after the runtime's -c  */
  MAYFLY_TASK_STDIN = 3,   /* `code` is the program, as if read from "-"        */
  MAYFLY_TASK_MODULE = 4,  /* argv[0] is "-m"; `code` is the module's name. Only for templates with
                              `task.modules` in their manifest */
};

/* One task, as the clone gets it. All of it lies in memory that the clone owns
 * until it exits; strings end in NUL; argv and envp end in NULL. The process
 * already has the task's stdin, stdout and stderr, limits, working folder
 * (/task), umask and input files. */
typedef struct mayfly_task {
  uint32_t kind;     /* enum mayfly_task_kind */
  uint32_t has_seed; /* 1: seed the runtime's reproducible generators with `seed` */
  uint64_t seed;
  int argc;
  char** argv;
  char** envp;      /* "NAME=value" */
  const char* code; /* MAYFLY_TASK_STRING, _STDIN, _MODULE; else "" */
  size_t code_bytes;
  const char* strings; /* the strings of argv and envp, back to back in that order */
  size_t strings_bytes;
} mayfly_task;

/* The functions that the runtime needs called around a fork. Each may be NULL. */
typedef struct mayfly_zygote_hooks {
  uint32_t abi; /* MAYFLY_ZYGOTE_ABI; 1 has no `rehearse` */
  uint32_t reserved;
  /* Not called if the mechanism is `restore`. */
  void (*before_fork)(void);       /* zygote */
  void (*after_fork_parent)(void); /* zygote */
  void (*after_fork_child)(void);  /* clone, before it enters its box */
  /* Clone, after after_fork_child, before its stdio is the task's: reseed every
   * generator that after_fork_child did not; in a restored clone, where no hook is called
   * before it, every generator. It starts no process. Non-zero: the clone is discarded. */
  int (*reseed)(void);
  /* Clone, all walls up, standard streams on /dev/null: run an empty task like a real one, so
   * that the clone has its own copies of the pages that a task writes to, and leave no
   * trace of it, nor a process. Non-zero: the clone is discarded. */
  int (*rehearse)(void);
} mayfly_zygote_hooks;

/* Finds the preload that makes the process unfit. Call it with NULL before the first preload
 * and with each preload's name after it. Non-zero, a negative errno: that preload started a
 * thread, or left a child, a socket, an open descriptor or writable shared memory, or its
 * namespaces, and no clone can be made. The daemon already has the preload's name; exit. */
__attribute__((visibility("default"))) int mayfly_zygote_preloaded(const char* name);

/* Tells the daemon in a few words why this zygote cannot serve; then exit. */
__attribute__((visibility("default"))) void mayfly_zygote_refuse(const char* why);

/* Makes a fork of this process, and a clone's end, cost only the pages that the clone touches;
 * if the process is dumped, a restore, too. Call it last before mayfly_zygote_serve(): if clones
 * are forked, in a single-threaded runtime; before a dump, other threads may exist, and nothing
 * is shared if they never sleep. It covers the memory that mayfly_zygote_mark_memory() marked,
 * libc's heap and the arenas below: no allocator may return such memory with MADV_DONTNEED and
 * then expect zeros. 0, or a negative errno: then the process must not go on. */
__attribute__((visibility("default"))) int mayfly_zygote_share_memory(void);

/* Lets each clone start with fresh bytes from the kernel at `at`, before after_fork_child: for
 * generators whose state is random bytes and nothing else. At most 8 calls. 0, or a negative
 * errno. */
__attribute__((visibility("default"))) int mayfly_zygote_random_memory(void* at, size_t bytes);

/* Marks all current anonymous memory for mayfly_zygote_share_memory(): call it while nothing
 * but the runtime itself is loaded. 0, or a negative errno. */
__attribute__((visibility("default"))) int mayfly_zygote_mark_memory(void);

/* Marks chunks of anonymous memory in the same way: each begins at a multiple of `alignment` bytes
 * and has its size in its first word, as those of V8's heap. For what a runtime's own collector got
 * later, beside other memory of whoever. 0, or a negative errno. */
__attribute__((visibility("default"))) int mayfly_zygote_mark_chunks(size_t alignment);

/* Memory for the runtime's own allocator, whole pages of zeros, which
 * mayfly_zygote_share_memory() may share; NULL if there is none. `context` is ignored. */
__attribute__((visibility("default"))) void* mayfly_zygote_arena_alloc(void* context, size_t size);
__attribute__((visibility("default"))) void mayfly_zygote_arena_free(void* context, void* arena,
                                                                     size_t size);

/* Serves until the daemon goes, then exits the zygote. In a clone it returns 0 and fills
 * *task. A negative errno means that Mayfly did not start this process as a zygote (no
 * channel on descriptor 3), or that it has a thing that mayfly_zygote_preloaded() refuses. */
__attribute__((visibility("default"))) int mayfly_zygote_serve(const mayfly_zygote_hooks* hooks,
                                                               mayfly_task* task);

/* Waits until the task's caps are in force, sends the clone's last message to the daemon
 * and closes its channel. Call it when the runtime is ready to run the task's first
 * instruction. From here on the daemon trusts no message of the process.
 * mayfly_zygote_exec() calls it. */
__attribute__((visibility("default"))) int mayfly_zygote_started(void);

/* For a task that this zygote's runtime cannot run as a new one would: reports started and a fresh
 * runtime, then execve of `program` with task->argv and task->envp in the clone's place. Does not
 * return: if the execve fails, it says so on stderr and exits with 126. */
__attribute__((visibility("default"))) void mayfly_zygote_execute(const char* program,
                                                                  const mayfly_task* task);

/* The ABI of this library. */
__attribute__((visibility("default"))) unsigned mayfly_zygote_abi(void);

/* For templates whose mechanism is `exec`: calls started, then execvpe of task->argv with
 * task->envp. Does not return: if the command cannot be run, it says so on stderr and exits
 * with 127 (not found) or 126. */
__attribute__((visibility("default"))) void mayfly_zygote_exec(const mayfly_task* task);

#ifdef __cplusplus
}
#endif
#endif
