// Small deeds of a task, each by name, for the tests of the box itself.
// Static: the test's image holds nothing but it and Mayfly's own helpers.
#include <dirent.h>
#include <fcntl.h>
#include <initializer_list>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int showFile(const char* path) {
  char text[4096];
  int fd = open(path, O_RDONLY);
  if (fd < 0) return perror(path), 1;
  for (ssize_t n; (n = read(fd, text, sizeof text)) > 0;) (void)!write(1, text, n);
  return 0;
}

// A socket of the box's doors: the unix or the TCP one.
static int doorSocket(bool local, sockaddr_storage* address, socklen_t* bytes) {
  memset(address, 0, sizeof *address);
  if (local) {
    auto* to = reinterpret_cast<sockaddr_un*>(address);
    to->sun_family = AF_UNIX;
    strcpy(to->sun_path, "/run/broker.sock");
    *bytes = sizeof *to;
  } else {
    auto* to = reinterpret_cast<sockaddr_in*>(address);
    to->sin_family = AF_INET;
    to->sin_port = htons(80);
    to->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *bytes = sizeof *to;
  }
  return socket(address->ss_family, SOCK_STREAM, 0);
}

static const char* outcome(int result) { return result == 0 ? "done" : strerror(errno); }

int main(int argc, char** argv) {
  const char* deed = argc > 1 ? argv[1] : "";
  if (!strcmp(deed, "say")) return printf("%s\n", argv[2]), 0;
  if (!strcmp(deed, "exit")) return atoi(argv[2]);
  if (!strcmp(deed, "signal")) return raise(atoi(argv[2]));
  if (!strcmp(deed, "spin"))
    for (;;) {
    }
  if (!strcmp(deed, "sleep"))
    for (;;) pause();
  if (!strcmp(deed, "save")) {  // on SIGTERM it writes a file and exits with 6
    signal(SIGTERM, [](int) {
      const int fd = open("out/state", O_WRONLY | O_CREAT, 0600);
      (void)!write(fd, "saved", 5);
      _exit(6);
    });
    dprintf(1, "ready\n");
    for (;;) pause();
  }
  if (!strcmp(deed, "show")) return showFile(argv[2]);
  if (!strcmp(deed, "fds")) {
    DIR* d = opendir("/proc/self/fd");
    if (!d) return 1;
    while (dirent* e = readdir(d))
      if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d)) {
        char path[64], to[256] = {};
        snprintf(path, sizeof path, "/proc/self/fd/%s", e->d_name);
        (void)!readlink(path, to, sizeof to - 1);
        printf("%s %.4s\n", e->d_name, to);
      }
    return 0;
  }
  if (!strcmp(deed, "doors")) {  // connects to both, says what comes, and tries to replace them
    for (bool local : {true, false}) {
      sockaddr_storage to;
      socklen_t bytes;
      char text[64] = {};
      int s = doorSocket(local, &to, &bytes);
      if (connect(s, reinterpret_cast<sockaddr*>(&to), bytes) != 0)
        snprintf(text, sizeof text, "%s", strerror(errno));
      else
        (void)!read(s, text, sizeof text - 1);
      printf("%s: %s\n", local ? "local" : "tcp", text);
      int again = doorSocket(local, &to, &bytes), yes = 1;
      setsockopt(again, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
      setsockopt(again, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes);
      printf("bind: %s\n", outcome(bind(again, reinterpret_cast<sockaddr*>(&to), bytes)));
    }
    close(open("/run/mine", O_WRONLY | O_CREAT, 0600));
    printf("replace: %s\n", outcome(rename("/run/mine", "/run/broker.sock")));
    printf("rename: %s\n", outcome(rename("/run/broker.sock", "/run/other")));
    printf("remove: %s\n", outcome(unlink("/run/broker.sock")));
    printf("folder: %s\n", outcome(chmod("/run", 0777)));
    printf("mine: %s\n", outcome(unlink("/run/mine")));
    return 0;
  }
  if (!strcmp(deed, "files")) {  // so many empty ones, then it waits
    char name[32];
    for (int i = 0; i < atoi(argv[2]); ++i) {
      snprintf(name, sizeof name, "/tmp/%d", i);
      close(open(name, O_WRONLY | O_CREAT, 0600));
    }
    for (;;) pause();
  }
  if (!strcmp(deed, "flock")) {  // takes it or says why not, then waits
    int fd = open(argv[2], O_RDONLY);
    dprintf(1, "%s\n", fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0 ? "taken" : strerror(errno));
    for (;;) pause();
  }
  if (!strcmp(deed, "queue")) {  // as many signals as there may be, then it waits
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, nullptr);
    int count = 0;
    while (sigqueue(getpid(), SIGRTMIN, sigval{}) == 0) ++count;
    dprintf(1, "%d\n", count);
    for (;;) pause();
  }
  if (!strcmp(deed, "crowd")) {  // so many processes that spin
    for (int i = 1; i < atoi(argv[2]); ++i)
      if (fork() == 0) break;
    for (;;) {
    }
  }
  if (!strcmp(deed, "ids")) {
    printf("pid %d ppid %d uid %d gid %d sid %d\n", getpid(), getppid(), getuid(), getgid(),
           getsid(0));
    return 0;
  }
  if (!strcmp(deed, "eat")) {
    for (;;) {
      char* p = static_cast<char*>(
          mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      if (p == MAP_FAILED) return 3;
      memset(p, 1, 1 << 20);
    }
  }
  if (!strcmp(deed, "bomb")) {
    for (;;)
      if (fork() < 0) pause();
  }
  if (!strcmp(deed, "orphan")) {
    if (fork() == 0) {
      setsid();
      if (fork() == 0) {
        signal(SIGTERM, SIG_IGN);
        for (;;) pause();  // holds stdout and stderr open
      }
      _exit(0);
    }
    wait(nullptr);
    return 0;
  }
  if (!strcmp(deed, "leave")) {
    mkdir("out/sub", 0000);
    chmod("out/sub", 0700);
    int fd = open("out/sub/a.txt", O_WRONLY | O_CREAT, 0000);
    (void)!write(fd, "hello", 5);
    fchmod(fd, 04000);
    close(fd);
    (void)!symlink("/etc/passwd", "out/link");
    mkfifo("out/fifo", 0600);
    close(open("out/bad\nname", O_WRONLY | O_CREAT, 0600));
    (void)!truncate("out/sparse", 0);
    fd = open("out/sparse", O_WRONLY | O_CREAT, 0600);
    (void)!ftruncate(fd, 1ll << 30);
    return 0;
  }
  fprintf(stderr, "box-probe: unknown deed '%s'\n", deed);
  return 64;
}
