// A zygote that was taken over: it claims to serve, and answers the first request for a clone with
// the attack that argv[1] names. Static; runs in the image of box_live_test.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "wire/zygote.h"
#include "zygote/raw.h"

using namespace mayfly::zygote;
using namespace mayfly::wire;

namespace {

int pidfdOf(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

void say(const CloneMade& word, int fd = -1) {
  sendRaw(kChannelFd, &word, sizeof word, &fd, fd >= 0 ? 1 : 0);
}

void answer(const char* deed, const MakeClone& make, const int* fds) {
  CloneMade made;
  made.box = make.box;
  auto is = [&](const char* name) { return strcmp(deed, name) == 0; };
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) exit(9);
  if (is("file")) say(made, open("/etc", O_RDONLY | O_DIRECTORY));
  if (is("device")) say(made, open("/dev/null", O_RDWR));
  if (is("pipe")) {
    (void)!write(ends[1], "x", 1);  // polls for ever
    say(made, ends[0]);
  }
  if (is("socket")) say(made, fds[1]);
  if (is("init")) say(made, fds[0]);  // the spawner's child, and known
  if (is("pid1")) say(made, pidfdOf(1));
  if (is("itself")) say(made, pidfdOf(getpid()));
  if (is("own child")) {
    pid_t child = fork();
    if (child == 0)
      for (;;) pause();
    say(made, pidfdOf(child));
  }
  if (is("ended child")) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    say(made, pidfdOf(child));
  }
  if (is("second hello")) say(CloneMade{});
  if (is("refusal")) {
    CloneMade refused;
    refused.error = kRefused;
    say(refused);
  }
  if (is("another box")) {
    made.box += 1;
    made.error = 1;
    say(made);
  }
  if (is("twice")) {
    made.error = 1;
    say(made);
    say(made);
  }
  if (is("nothing passed")) say(made);
  if (is("noise")) sendRaw(kChannelFd, deed, strlen(deed), nullptr, 0);
  if (is("many")) {
    int all[kFdsMax];
    for (int& fd : all) fd = ends[0];
    sendRaw(kChannelFd, &made, sizeof made, all, kFdsMax);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  say(CloneMade{});
  for (;;) {
    MakeClone make;
    int fds[kFdsMax], count = 0;
    if (receiveRaw(kChannelFd, &make, sizeof make, fds, &count) <= 0) return 0;
    answer(argv[1], make, fds);
  }
}
