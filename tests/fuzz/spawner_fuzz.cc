// libFuzzer on the spawner's handling of all its peers: see spawner_script.h.
#include <stdio.h>
#include <stdlib.h>

#include "spawner_script.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto outcome = mayfly::fuzz::runScript(data, size);
  if (outcome.fault.empty()) return 0;
  fprintf(stderr, "spawner_fuzz: %s\n", outcome.fault.c_str());
  abort();
}
