// mayfly-exec-zygote: the zygote of templates whose mechanism is `exec`. Its
// clones run any command of the image in a fresh box.
//
// Layer: zygote. Single-threaded.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mayfly/zygote.h"

int main() {
  mayfly_zygote_hooks hooks{};
  hooks.abi = MAYFLY_ZYGOTE_ABI;
  mayfly_task task{};
  if (int r = mayfly_zygote_serve(&hooks, &task); r != 0) {
    fprintf(stderr, "mayfly-exec-zygote: cannot serve: %s\n", strerror(-r));
    return 2;
  }
  // execvpe looks the command up in the PATH of the task, not of the zygote.
  for (char** entry = task.envp; *entry != nullptr; ++entry)
    if (strncmp(*entry, "PATH=", 5) == 0) putenv(*entry);
  mayfly_zygote_exec(&task);
}
