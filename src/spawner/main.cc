// mayfly-spawner: started by mayflyd, as root, with its channel on fd 3.
//
// Layer: spawner. Wiring only.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "spawner/spawner.h"

int main(int argc, char** argv) {
  using namespace mayfly;
  spawner::Options options;
  CLI::App app{
      "mayfly-spawner: makes and ends boxes for mayflyd, which starts it; useless by hand"};
  app.add_option("--instance", options.instance, "the daemon's instance")->required();
  app.add_option("--images", options.images_dir, "folder of the images")->required();
  app.add_option("--uid-slot", options.uid_slot, "our range of uids")
      ->required()
      ->check(CLI::Range(0, 63));
  CLI11_PARSE(app, argc, argv);
  struct stat st;
  if (::fstat(3, &st) != 0 || !S_ISSOCK(st.st_mode)) {
    fprintf(
        stderr,
        "mayfly-spawner: descriptor 3 is not a socket: mayflyd starts this program, not people\n");
    return 2;
  }
  ::umask(022);
  auto started = spawner::Spawner::start(base::Fd(3), options);
  if (!started) {
    fprintf(stderr, "mayfly-spawner: cannot start: %s%s%s\n", started.error().message.c_str(),
            started.error().advice.empty() ? "" : "; ", started.error().advice.c_str());
    return 1;
  }
  return (*started)->run();
}
