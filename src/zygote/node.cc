// libmayfly-node: mayfly/zygote.h for Node.js, as an addon that zygote.js loads.
//
//   preloaded(name | null)  0, or a negative errno (mayfly_zygote_preloaded)
//   refuse(why)
//   serve(seed, reseed, rehearse)  returns in a clone, with its task. The callbacks are called in
//                           the clone before it is ready; one that throws discards the clone
//   started()
//   pipe()                  [its end to read, its end to write]
//   collect()               gives back all heap that nothing is in; 0: this V8 has no such call
//   execute(program, argv, env)    a new process image in this place; does not return
//
// Before the reseed callback, the addon gives fresh bytes to OpenSSL's generators and to V8's.
//
// Layer: zygote. The main thread of Node only.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mayfly/zygote.h"
#include "zygote/node_api.h"
#include "zygote/raw.h"
#include "zygote/v8_random.h"

// Of OpenSSL, which Node has loaded.
extern "C" __attribute__((weak)) void RAND_add(const void* bytes, int count, double entropy);
extern "C" __attribute__((weak)) int RAND_poll();
extern "C" __attribute__((weak)) int RAND_status();

// Of V8: Isolate::GetCurrent and Isolate::LowMemoryNotification.
extern "C" __attribute__((weak)) void* _ZN2v87Isolate10GetCurrentEv();
extern "C" __attribute__((weak)) void _ZN2v87Isolate21LowMemoryNotificationEv(void* isolate);

namespace {

constexpr size_t kArgumentsMax = 4'096;

// During serve(), for the callbacks.
napi_env environment = nullptr;
napi_value reseed_callback = nullptr, rehearse_callback = nullptr;
bool uses_v8_generators = false;

napi_value undefined(napi_env env) {
  napi_value value = nullptr;
  napi_get_undefined(env, &value);
  return value;
}

napi_value number(napi_env env, int32_t n) {
  napi_value value = nullptr;
  napi_create_int32(env, n, &value);
  return value;
}

napi_value text(napi_env env, const char* bytes) {
  napi_value value = nullptr;
  napi_create_string_utf8(env, bytes, strlen(bytes), &value);
  return value;
}

// The caller frees it; nullptr: it is no string.
char* copyString(napi_env env, napi_value value) {
  size_t bytes = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &bytes) != napi_ok) return nullptr;
  char* to = static_cast<char*>(malloc(bytes + 1));
  if (to != nullptr && napi_get_value_string_utf8(env, value, to, bytes + 1, &bytes) != napi_ok) {
    free(to);
    return nullptr;
  }
  return to;
}

template <size_t N>
bool arguments(napi_env env, napi_callback_info info, napi_value (&to)[N]) {
  size_t count = N;
  return napi_get_cb_info(env, info, &count, to, nullptr, nullptr) == napi_ok && count >= N;
}

napi_value preloaded(napi_env env, napi_callback_info info) {
  napi_value given[1];
  napi_valuetype type = napi_undefined;
  if (!arguments(env, info, given) || napi_typeof(env, given[0], &type) != napi_ok)
    return number(env, -EINVAL);
  if (type == napi_null || type == napi_undefined) {
    const int r = mayfly_zygote_mark_memory();
    return number(env, r != 0 ? r : mayfly_zygote_preloaded(nullptr));
  }
  char* name = copyString(env, given[0]);
  const int r = name != nullptr ? mayfly_zygote_preloaded(name) : -EINVAL;
  free(name);
  return number(env, r);
}

// Before any package was loaded, all memory was V8's and libc's. Of what came later, only V8's heap
// is known not to expect zeros where it gave pages back: a buffer of a fixed address that was made
// smaller does.
int shareMemory() {
  constexpr size_t kHeapPage = 256 << 10;  // of V8
  const int r = mayfly_zygote_mark_chunks(kHeapPage);
  return r != 0 ? r : mayfly_zygote_share_memory();
}

napi_value refuse(napi_env env, napi_callback_info info) {
  napi_value given[1];
  char* why = arguments(env, info, given) ? copyString(env, given[0]) : nullptr;
  mayfly_zygote_refuse(why != nullptr ? why : "no reason was given");
  free(why);
  return undefined(env);
}

int callBack(napi_value function) {
  napi_value result = nullptr;
  return napi_call_function(environment, undefined(environment), function, 0, nullptr, &result) ==
                 napi_ok
             ? 0
             : -EIO;
}

// The primary generator takes the bytes, and the others take theirs from it when they see that it
// was seeded since.
int seedOpenSsl() {
  if (RAND_add == nullptr || RAND_poll == nullptr || RAND_status == nullptr) return -ENOSYS;
  unsigned char bytes[64];
  if (int r = mayfly::zygote::fillRandom(bytes, sizeof bytes); r != 0) return r;
  RAND_add(bytes, sizeof bytes, sizeof bytes);
  explicit_bzero(bytes, sizeof bytes);
  return RAND_poll() == 1 && RAND_status() == 1 ? 0 : -EIO;
}

int reseed() {
  if (int r = seedOpenSsl(); r != 0) return r;
  if (uses_v8_generators)
    if (int r = mayfly::zygote::seedV8Generators(); r != 0) return r;
  return callBack(reseed_callback);
}

int rehearse() { return callBack(rehearse_callback); }

napi_value listOf(napi_env env, char** strings) {
  size_t count = 0;
  while (strings[count] != nullptr) ++count;
  napi_value list = nullptr;
  napi_create_array_with_length(env, count, &list);
  for (size_t i = 0; i < count; ++i)
    napi_set_element(env, list, static_cast<uint32_t>(i), text(env, strings[i]));
  return list;
}

napi_value taskOf(napi_env env, const mayfly_task& task) {
  napi_value object = nullptr, code = nullptr, seed = nullptr;
  napi_create_object(env, &object);
  napi_create_buffer_copy(env, task.code_bytes, task.code, nullptr, &code);
  napi_create_bigint_uint64(env, task.seed, &seed);
  napi_set_named_property(env, object, "kind", number(env, static_cast<int32_t>(task.kind)));
  napi_set_named_property(env, object, "seed", task.has_seed != 0 ? seed : undefined(env));
  napi_set_named_property(env, object, "argv", listOf(env, task.argv));
  napi_set_named_property(env, object, "env", listOf(env, task.envp));
  napi_set_named_property(env, object, "code", code);
  return object;
}

napi_value serve(napi_env env, napi_callback_info info) {
  napi_value given[3];
  int64_t seed = 0;
  if (!arguments(env, info, given) || napi_get_value_int64(env, given[0], &seed) != napi_ok) {
    napi_throw_error(env, nullptr, "serve(seed, reseed, rehearse)");
    return nullptr;
  }
  environment = env;
  reseed_callback = given[1];
  rehearse_callback = given[2];
  uses_v8_generators = true;
  if (mayfly::zygote::findV8Generators(seed) != 0) {
    mayfly_zygote_refuse("V8's generators of random numbers were not found: this Node is unknown");
    _exit(2);
  }
  if (const int r = shareMemory(); r != 0) {
    char why[96];
    snprintf(why, sizeof why, "the zygote's memory cannot be shared with clones: %s", strerror(-r));
    mayfly_zygote_refuse(why);
    _exit(2);
  }
  static mayfly_task task;
  static mayfly_zygote_hooks hooks;
  hooks.abi = MAYFLY_ZYGOTE_ABI;
  hooks.reseed = reseed;
  hooks.rehearse = rehearse;
  const int r = mayfly_zygote_serve(&hooks, &task);
  if (r == 0) return taskOf(env, task);
  napi_throw_error(env, nullptr, strerror(-r));
  return nullptr;
}

napi_value makePipe(napi_env env, napi_callback_info) {
  int ends[2];
  napi_value list = nullptr;
  if (pipe2(ends, O_CLOEXEC) != 0) {
    napi_throw_error(env, nullptr, strerror(errno));
    return nullptr;
  }
  napi_create_array_with_length(env, 2, &list);
  for (uint32_t i = 0; i < 2; ++i) napi_set_element(env, list, i, number(env, ends[i]));
  return list;
}

napi_value collect(napi_env env, napi_callback_info) {
  const bool known =
      _ZN2v87Isolate10GetCurrentEv != nullptr && _ZN2v87Isolate21LowMemoryNotificationEv != nullptr;
  if (known) _ZN2v87Isolate21LowMemoryNotificationEv(_ZN2v87Isolate10GetCurrentEv());
  return number(env, known ? 1 : 0);
}

napi_value started(napi_env env, napi_callback_info) {
  if (mayfly_zygote_started() != 0) _exit(121);
  return undefined(env);
}

// A list of strings that ends in NULL; never freed: the process is replaced.
char** copyList(napi_env env, napi_value list) {
  uint32_t count = 0;
  if (napi_get_array_length(env, list, &count) != napi_ok || count > kArgumentsMax) return nullptr;
  char** copy = static_cast<char**>(calloc(count + 1, sizeof(char*)));
  for (uint32_t i = 0; copy != nullptr && i < count; ++i) {
    napi_value one = nullptr;
    if (napi_get_element(env, list, i, &one) != napi_ok) return nullptr;
    if ((copy[i] = copyString(env, one)) == nullptr) return nullptr;
  }
  return copy;
}

napi_value execute(napi_env env, napi_callback_info info) {
  napi_value given[3];
  if (!arguments(env, info, given)) _exit(121);
  mayfly_task task{};
  const char* program = copyString(env, given[0]);
  task.argv = copyList(env, given[1]);
  task.envp = copyList(env, given[2]);
  if (program == nullptr || task.argv == nullptr || task.envp == nullptr) _exit(121);
  mayfly_zygote_execute(program, &task);
  _exit(121);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) napi_value napi_register_module_v1(
    napi_env env, napi_value exports) {
  const struct {
    const char* name;
    napi_callback call;
  } all[] = {{"preloaded", preloaded}, {"refuse", refuse}, {"serve", serve},
             {"started", started},     {"pipe", makePipe}, {"collect", collect},
             {"execute", execute}};
  for (const auto& one : all) {
    napi_value function = nullptr;
    napi_create_function(env, one.name, strlen(one.name), one.call, nullptr, &function);
    napi_set_named_property(env, exports, one.name, function);
  }
  return exports;
}
