/* libmayfly-python: the part that a Python zygote's program needs beside libmayfly-zygote.
 *
 * The program loads what its tasks will need, calls mayfly_python_init(), makes
 * mayfly_python_main the interpreter's sys.excepthook and ends by an exception.
 * In a clone the interpreter's own main function then runs the one task. Call it by
 * ctypes, with the interpreter's lock held throughout (PyDLL).
 */
#ifndef MAYFLY_PYTHON_H
#define MAYFLY_PYTHON_H

#include <wchar.h>

#include "mayfly/zygote.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mayfly_python {
  void* settle;  /* callable: the zygote's last step, when no frame of its program is left */
  void* prepare; /* callable, in a clone: takes `task`, sets the fields below `last` */
  int (*serve)(const mayfly_zygote_hooks*, mayfly_task*);
  int (*started)(void);
  const mayfly_zygote_hooks* hooks;
  mayfly_task* task;
  void* last; /* set by `settle`: an object, with one reference, that the interpreter drops when it
                 starts to clear its modules; may be NULL */
  /* Set by `prepare`. */
  const char* command; /* MAYFLY_TASK_STRING: the program, as the command line has it, and a
                          newline; MAYFLY_TASK_MODULE: the module's name */
  const char* file;    /* MAYFLY_TASK_FILE: the absolute path of the script, archive or folder */
  int cpu_count;       /* the answer of os.cpu_count(); 0: the kernel's */
} mayfly_python;

/* Looks up the parts of the interpreter that it needs; `program` in `folder` is the zygote's
 * program file. 0; 1 if a clone's end will be slow, because the interpreter is not a known one;
 * or a negative errno if the interpreter cannot be used. `python` stays the caller's. */
__attribute__((visibility("default"))) int mayfly_python_init(mayfly_python* python,
                                                              const wchar_t* program,
                                                              const wchar_t* folder);

/* The interpreter calls it as sys.excepthook. Does not return. */

__attribute__((visibility("default"))) void* mayfly_python_main(void* type, void* value,
                                                                void* trace);

#ifdef __cplusplus
}
#endif
#endif
