/* libmayfly-snapshot: preloaded into a zygote that is dumped.
 *
 * criu cannot dump an io_uring, and libuv makes one for each of its loops, whether it uses it or
 * not. It asks for it by syscall(), so that function says what every box's seccomp program says
 * later: there is no such system call. A filter could not be dumped from inside a box. */
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>

__attribute__((visibility("default"))) long syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  const long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
  register long d __asm__("r10") = va_arg(list, long);
  register long e __asm__("r8") = va_arg(list, long);
  register long f __asm__("r9") = va_arg(list, long);
  va_end(list);
  if (number == SYS_io_uring_setup) {
    errno = ENOSYS;
    return -1;
  }
  long result = number;
  __asm__ volatile("syscall"
                   : "+a"(result)
                   : "D"(a), "S"(b), "d"(c), "r"(d), "r"(e), "r"(f)
                   : "rcx", "r11", "memory");
  if (result < 0 && result >= -4095) {
    errno = (int)-result;
    return -1;
  }
  return result;
}
