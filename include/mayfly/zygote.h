/* libmayfly-zygote: what a zygote program calls to become a fork server.
 *
 * A zygote is a template's pre-initialised process. It loads what its tasks
 * will need, then calls mayfly_zygote_serve(). In the zygote the call does not
 * return while the daemon lives. It returns in each *clone*: a new process,
 * alone in its own box with all walls up, that has received its one task. The
 * clone runs the task and exits; it never serves again.
 *
 * Any single-threaded runtime can use it, by linking or by FFI. One thread at
 * the time of the call, no child processes, no open sockets. The library holds
 * no lock, starts no thread and allocates only in the clone.
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
  MAYFLY_TASK_FILE = 1,    /* argv[0] names a script file in the working folder  */
  MAYFLY_TASK_STRING = 2,  /* `code` is the program, as after the runtime's -c  */
  MAYFLY_TASK_STDIN = 3,   /* `code` is the program, as if read from "-"        */
};

/* One task, as the clone gets it. Everything lies in memory that the clone owns
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
  const char* code; /* MAYFLY_TASK_STRING, _STDIN; else NULL */
  size_t code_bytes;
  const char* strings; /* what argv and envp point to, back to back in that order */
  size_t strings_bytes;
} mayfly_task;

/* What the runtime must have called around a fork. Each may be NULL. */
typedef struct mayfly_zygote_hooks {
  uint32_t abi; /* MAYFLY_ZYGOTE_ABI; 1 has no `rehearse` */
  uint32_t reserved;
  void (*before_fork)(void);       /* zygote */
  void (*after_fork_parent)(void); /* zygote */
  void (*after_fork_child)(void);  /* clone, before it enters its box */
  /* Clone, after after_fork_child, its stdio not yet the task's: reseed every
   * generator that after_fork_child did not. Non-zero: the clone is thrown away. */
  int (*reseed)(void);
  /* Clone, all walls up, standard streams on /dev/null: runs an empty task as a real one
   * would run, so that the memory which that writes to is the clone's own when its task
   * comes, and leaves no trace of it. Non-zero: the clone is thrown away. */
  int (*rehearse)(void);
} mayfly_zygote_hooks;

/* Names what a preload breaks. To be called with NULL before the first preload and
 * with each one's name after it. Non-zero, a negative errno: the preload started a
 * thread, or left a child, a socket, an open descriptor or writable shared memory,
 * and no clone can be made. The daemon has been told so by its name; exit. */
__attribute__((visibility("default"))) int mayfly_zygote_preloaded(const char* name);

/* Tells the daemon in a few words why this zygote cannot serve; then exit. */
__attribute__((visibility("default"))) void mayfly_zygote_refuse(const char* why);

/* Makes forks of this process, and the ends of its clones, as cheap as if it held only
 * what they touch. To be called last before mayfly_zygote_serve(), by a single-threaded
 * runtime. Takes the memory that mayfly_zygote_mark_memory() marked, libc's heap and the
 * arenas below: none may be given back with MADV_DONTNEED by one who counts on zeros
 * there. 0, or a negative errno: then the process is not fit to go on. */
__attribute__((visibility("default"))) int mayfly_zygote_share_memory(void);

/* Each clone begins with fresh bytes from the kernel there, before after_fork_child: for
 * generators whose state is random bytes and nothing else, at most 8 of them. 0, or a
 * negative errno. */
__attribute__((visibility("default"))) int mayfly_zygote_random_memory(void* at, size_t bytes);

/* Marks all anonymous memory that there is for mayfly_zygote_share_memory(): to be called
 * while nothing is loaded but the runtime itself. 0, or a negative errno. */
__attribute__((visibility("default"))) int mayfly_zygote_mark_memory(void);

/* Memory for the runtime's own allocator, whole pages of zeros, which may be shared so;
 * NULL where there is none. The first argument is not looked at. */
__attribute__((visibility("default"))) void* mayfly_zygote_arena_alloc(void* context, size_t size);
__attribute__((visibility("default"))) void mayfly_zygote_arena_free(void* context, void* arena,
                                                                     size_t size);

/* Serves until the daemon goes, then exits the zygote. Returns in a clone: 0 and
 * *task filled. A negative errno means that the process is no zygote of Mayfly's
 * (no channel on descriptor 3) or has what mayfly_zygote_preloaded() refuses. */
__attribute__((visibility("default"))) int mayfly_zygote_serve(const mayfly_zygote_hooks* hooks,
                                                               mayfly_task* task);

/* Waits until the task's caps are in force, gives the clone's last word to the daemon
 * and closes its channel; to be called when the runtime is ready to run the task's first
 * instruction. From here on nothing that the process says is believed. mayfly_zygote_exec() calls
 * it. */
__attribute__((visibility("default"))) int mayfly_zygote_started(void);

/* For a task that this zygote's runtime cannot run as a new one would: started, and told so,
 * then execve of `program` with task->argv and task->envp in the clone's place. Does not
 * return: where that fails it says so on stderr and exits with 126. */
__attribute__((visibility("default"))) void mayfly_zygote_execute(const char* program,
                                                                  const mayfly_task* task);

/* The ABI of this library. */
__attribute__((visibility("default"))) unsigned mayfly_zygote_abi(void);

/* For templates whose mechanism is `exec`: started, then execvpe of task->argv by
 * task->envp. Does not return: where the command cannot be run it says so on
 * stderr and exits with 127 (not found) or 126. */
__attribute__((visibility("default"))) void mayfly_zygote_exec(const mayfly_task* task);

#ifdef __cplusplus
}
#endif
#endif
