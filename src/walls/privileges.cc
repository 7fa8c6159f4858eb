#include "walls/privileges.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::walls {
namespace {

tl::unexpected<base::Error> failed(const char* call) {
  return base::failSys(errno, call, "the own privileges");
}

base::Status boundTo(uint64_t capabilities) {
  for (int cap = 0; cap <= CAP_LAST_CAP || ::prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; ++cap)
    if ((cap > 63 || (capabilities >> cap & 1) == 0) &&
        ::prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno != EINVAL)
      return failed("prctl(PR_CAPBSET_DROP)");
  return base::Unit{};
}

}  // namespace

base::Status dropRoot(uint32_t uid) {
  // No program that we might execute can regain a privilege: no root, no file capabilities.
  constexpr unsigned long kBits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED |
                                  SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                                  SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
  if (::prctl(PR_SET_SECUREBITS, kBits, 0, 0, 0) != 0) return failed("prctl(PR_SET_SECUREBITS)");
  MAYFLY_CHECK(boundTo(0));
  if (::setgroups(0, nullptr) != 0) return failed("setgroups");
  if (::setresgid(uid, uid, uid) != 0) return failed("setresgid");
  if (::setresuid(uid, uid, uid) != 0) return failed("setresuid");
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) != 0) return failed("capset");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return failed("prctl(PR_SET_NO_NEW_PRIVS)");
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return failed("prctl(PR_SET_DUMPABLE)");

  uid_t r, e, s;
  gid_t gr, ge, gs;
  __user_cap_data_struct left[2] = {};
  if (::getresuid(&r, &e, &s) != 0 || ::getresgid(&gr, &ge, &gs) != 0 ||
      ::syscall(SYS_capget, &header, left) != 0)
    return failed("capget");
  bool bounded = false;
  for (int cap = 0; cap <= 63; ++cap)
    bounded = bounded || ::prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1;
  bool clean = r == uid && e == uid && s == uid && gr == uid && ge == uid && gs == uid &&
               ::getgroups(0, nullptr) == 0 && !bounded;
  for (const auto& l : left) clean = clean && (l.effective | l.permitted | l.inheritable) == 0;
  if (!clean)
    return base::fail(base::Code::internal,
                      "this process still has privileges after dropping them");
  return base::Unit{};
}

base::Status keepOnly(uint64_t capabilities) {
  MAYFLY_CHECK(boundTo(capabilities));
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  for (int i = 0; i < 2; ++i)
    data[i].effective = data[i].permitted = static_cast<uint32_t>(capabilities >> (32 * i));
  if (::syscall(SYS_capset, &header, data) != 0) return failed("capset");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return failed("prctl(PR_SET_NO_NEW_PRIVS)");
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return failed("prctl(PR_SET_DUMPABLE)");
  return base::Unit{};
}

base::Result<uint64_t> raiseOpenFiles() {
  rlimit files;
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return base::failSys(errno, "getrlimit", "NOFILE");
  files.rlim_cur = files.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &files) != 0) return base::failSys(errno, "setrlimit", "NOFILE");
  return static_cast<uint64_t>(files.rlim_cur);
}

}  // namespace mayfly::walls
