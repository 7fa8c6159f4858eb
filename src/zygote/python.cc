// libmayfly-python: the part of a Python zygote that must not be Python.
//
// The interpreter's own main function runs and ends a task, so that its bottom frame is its own
// module and it ends as under `python3`. The zygote's program raises its last exception, and the
// interpreter, which has left all frames by then, calls mayfly_python_main() as sys.excepthook.
// That serves, and in a clone writes the task's command line into the interpreter's configuration
// and calls Py_RunMain().
//
// The end is a whole Py_FinalizeEx(), with short cuts that spare a clone the pages of preloaded
// objects, and change nothing that a program can see:
//   - preloaded modules that the task did not change are not emptied;
//   - so objects of the task that only preloaded ones hold are finalized by hand;
//   - the interned strings are not freed, and the allocator's arenas not scanned.
// Each is used if the interpreter is a known one, and left out otherwise.
//
// Layer: zygote, in the interpreter's process, which resolves its symbols. One thread, which
// holds the interpreter's lock. Decision: docs/decisions/0012-python-main.md.
#include "mayfly/python.h"

#include <stdio.h>
#include <stdlib.h>
#include <initializer_list>
#include <sys/uio.h>
#include <wchar.h>

#include "zygote/raw.h"

// The used part of CPython's C API: it is stable, and the headers of the image's version are not
// available at build time.
extern "C" {
struct PyObject;
struct PyInterpreterState;
struct PyStatus {
  int type;  // 0: success
  const char* function;
  const char* message;
  int exit_code;
};
using PyCapsule_Destructor = void (*)(PyObject*);
using PyDict_WatchCallback = int (*)(int event, PyObject* dict, PyObject* key, PyObject* value);

const void* _Py_GetConfig();
PyStatus PyConfig_SetBytesString(void* config, wchar_t** field, const char* text);
PyStatus PyConfig_SetBytesArgv(void* config, ssize_t argc, char* const* argv);
PyInterpreterState* PyInterpreterState_Get();
void _PyInterpreterState_SetNotRunningMain(PyInterpreterState*);
int Py_RunMain();
void Py_LeaveRecursiveCall();

void Py_IncRef(PyObject*);
void Py_DecRef(PyObject*);
void PyErr_Clear();
void PyErr_Print();
PyObject* PyErr_Occurred();
int PySys_SetObject(const char* name, PyObject* value);
PyObject* PyEval_GetBuiltins();
PyObject* PyImport_GetModuleDict();
PyObject* PyImport_ImportModule(const char* name);
PyObject* PyObject_GetAttrString(PyObject*, const char* name);
int PyObject_SetAttrString(PyObject*, const char* name, PyObject* value);
PyObject* PyObject_CallObject(PyObject* callable, PyObject* arguments);
void PyObject_CallFinalizer(PyObject*);
PyObject* PyModule_New(const char* name);
PyObject* PyModule_GetDict(PyObject*);
PyObject* PyCapsule_New(void* pointer, const char* name, PyCapsule_Destructor);
PyObject* PyList_New(ssize_t size);
int PyList_Append(PyObject* list, PyObject* item);
ssize_t PyList_Size(PyObject* list);
PyObject* PyList_GetItem(PyObject* list, ssize_t index);
PyObject* PyDict_New();
PyObject* PyDict_Copy(PyObject*);
void PyDict_Clear(PyObject*);
int PyDict_Next(PyObject* dict, ssize_t* position, PyObject** key, PyObject** value);
int PyDict_SetItem(PyObject* dict, PyObject* key, PyObject* value);
int PyDict_SetItemString(PyObject* dict, const char* key, PyObject* value);
PyObject* PyDict_GetItem(PyObject* dict, PyObject* key);
[[gnu::weak]] int PyDict_AddWatcher(PyDict_WatchCallback);      // since 3.12
[[gnu::weak]] int PyDict_Watch(int watcher, PyObject* dict);    // since 3.12
[[gnu::weak]] int PyDict_Unwatch(int watcher, PyObject* dict);  // since 3.12
PyObject* PyUnicode_InternFromString(const char* text);
int Py_IsFinalizing();
[[gnu::weak]] void PyUnstable_GC_VisitObjects(int (*visit)(PyObject*, void*), void*);  // since 3.12
void* PyType_GetSlot(PyObject* type, int slot);
extern char _PyRuntime;
extern PyObject _Py_NoneStruct;
extern PyObject PyModule_Type, PyDict_Type;
}

namespace mayfly::zygote {
namespace {

// Fields of the interpreter's configuration. findConfig() looks up their addresses.
struct Config {
  void* at = nullptr;
  wchar_t **run_command, **run_module, **run_filename;
  int* cpu_count = nullptr;
};
Config config;
constexpr size_t kConfigBytes = 1'024;  // searched: a PyConfig and the bytes after it

struct PyObjectHead {
  ssize_t references;
  PyObject* type;
};
bool isExactly(PyObject* object, const PyObject& type) {
  return reinterpret_cast<PyObjectHead*>(object)->type == &type;
}

// Reads memory that a word may point to; false if it is not mapped.
bool peek(const void* at, void* to, size_t bytes) {
  iovec local{to, bytes}, remote{const_cast<void*>(at), bytes};
  return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == static_cast<ssize_t>(bytes);
}

// Calls visit(address, words) for each address of a word from `begin` on whose `kWords` words are
// readable.
template <size_t kWords, class Visit>
void eachWord(uintptr_t begin, size_t bytes, Visit visit) {
  constexpr size_t kPageBytes = 4'096;
  uintptr_t words[kPageBytes / sizeof(uintptr_t) + kWords];
  for (uintptr_t page = begin; page < begin + bytes; page += kPageBytes) {
    if (!peek(reinterpret_cast<void*>(page), words, sizeof words)) continue;
    for (size_t i = 0; i < kPageBytes / sizeof(uintptr_t); ++i)
      visit(page + i * sizeof(uintptr_t), words + i);
  }
}

bool isText(const wchar_t* at, const wchar_t* text) {
  wchar_t found[256];
  const size_t length = wcslen(text) + 1;
  return length <= sizeof found / sizeof *found && peek(at, found, length * sizeof *found) &&
         wmemcmp(found, text, length) == 0;
}

// Finds the fields by their values in a zygote: no command and no module to run, the file
// `program`, its folder; one processor behind the default bound on an integer's digits.
bool findConfig(const wchar_t* program, const wchar_t* folder) {
  constexpr int kDigitsMax = 4'300;
  config.at = const_cast<void*>(_Py_GetConfig());
  unsigned files = 0, counts = 0;
  for (size_t i = 0; i + 4 * sizeof(void*) <= kConfigBytes; i += sizeof(void*)) {
    auto field = reinterpret_cast<wchar_t**>(static_cast<char*>(config.at) + i);
    if (field[0] != nullptr || field[1] != nullptr || !isText(field[2], program) ||
        !isText(field[3], folder))
      continue;
    ++files;
    config.run_command = field;
    config.run_module = field + 1;
    config.run_filename = field + 2;
  }
  for (size_t i = 0; i + 2 * sizeof(int) <= kConfigBytes; i += sizeof(int)) {
    auto number = reinterpret_cast<int*>(static_cast<char*>(config.at) + i);
    if (number[0] != kDigitsMax || number[1] != 1) continue;
    ++counts;
    config.cpu_count = number + 1;
  }
  return files == 1 && counts == 1;
}

// --- short cuts of the end ----------------------------------------------------------------

PyObject** interned = nullptr;     // the interpreter's pointer to its table of interned strings
unsigned* arenas_count = nullptr;  // of the allocator's table of arenas
PyObject* freeze = nullptr;        // gc.freeze
PyObject* sys_dict = nullptr;
PyObject* first_frozen = nullptr;  // the first object that the collector ignores
int watcher = -1;

struct Module {
  PyObject* module;
  PyObject* dict;
  bool changed;
};
constexpr size_t kModulesMax = 8'192;
Module modules[kModulesMax];  // preloaded, by the address of their dictionary
size_t modules_count = 0;

Module* findByDict(PyObject* dict) {
  size_t low = 0, high = modules_count;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (modules[middle].dict < dict)
      low = middle + 1;
    else
      high = middle;
  }
  return low < modules_count && modules[low].dict == dict ? &modules[low] : nullptr;
}

int noteChange(int, PyObject* dict, PyObject*, PyObject*) {
  if (Module* found = findByDict(dict); found != nullptr && !found->changed) {
    found->changed = true;
    PyDict_Unwatch(watcher, dict);
  }
  return 0;
}

int compareDicts(const void* a, const void* b) {
  const PyObject *x = static_cast<const Module*>(a)->dict, *y = static_cast<const Module*>(b)->dict;
  return x < y ? -1 : x > y ? 1 : 0;
}

void watchModules() {
  if (PyDict_AddWatcher == nullptr) return;
  watcher = PyDict_AddWatcher(noteChange);
  if (watcher < 0) return PyErr_Clear();
  PyObject *all = PyImport_GetModuleDict(), *name, *module;
  PyObject* builtins = PyEval_GetBuiltins();
  for (ssize_t at = 0; modules_count < kModulesMax && PyDict_Next(all, &at, &name, &module);) {
    if (!isExactly(module, PyModule_Type)) continue;
    PyObject* dict = PyModule_GetDict(module);
    if (dict == builtins) continue;
    modules[modules_count++] = {module, dict, false};
  }
  qsort(modules, modules_count, sizeof *modules, compareDicts);
  for (size_t i = 0; i < modules_count; ++i)
    if (PyDict_Watch(watcher, modules[i].dict) != 0) {
      PyErr_Clear();
      modules[i].changed = true;
    }
}

// The only dictionary of the interpreter itself that has an interned string as its own value.
void findInterned() {
  PyObject* probe = PyUnicode_InternFromString("mayfly's interned probe");
  constexpr size_t kInterpreterBytes = 512u << 10;  // searched
  constexpr ssize_t kInternedMin = 1'000;
  unsigned found = 0;
  eachWord<1>(reinterpret_cast<uintptr_t>(PyInterpreterState_Get()), kInterpreterBytes,
              [&](uintptr_t at, const uintptr_t* word) {
                struct {
                  PyObjectHead head;
                  ssize_t entries;
                } dict;
                auto* object = reinterpret_cast<PyObject*>(*word);
                // Unused entries of a free list have no references, and a table that is not theirs.
                if (object == nullptr || *word % alignof(PyObjectHead) != 0 ||
                    !peek(object, &dict, sizeof dict) || dict.head.type != &PyDict_Type ||
                    dict.head.references <= 0 || dict.entries < kInternedMin ||
                    PyDict_GetItem(object, probe) != probe)
                  return;
                ++found;
                interned = reinterpret_cast<PyObject**>(at);
              });
  if (found != 1) interned = nullptr;
}

// Like all preloaded objects (memory.py): a clone that only looks one up does not write to its
// count.
void keepInterned() {
  uint32_t forever;  // a count's low half that is neither raised nor lowered
  memcpy(&forever, &_Py_NoneStruct, sizeof forever);
  PyObject *text, *same;
  for (ssize_t at = 0; PyDict_Next(*interned, &at, &text, &same);)
    memcpy(text, &forever, sizeof forever);
}

// The allocator's table: the only one, with a power of two of rows, that has a row for the arena of
// `object`.
void findArenas(const PyObject* object) {
  struct Row {  // arena_object
    uintptr_t address, pools;
    unsigned free_pools, all_pools;
    const void *free, *next, *previous;
  };
  constexpr uintptr_t kReach = 1u << 20, kArenaBytes = 1u << 20;
  constexpr unsigned kRowsMin = 16, kRowsMax = 1u << 14, kRowsAtOnce = 64;
  const auto at = reinterpret_cast<uintptr_t>(object),
             middle = reinterpret_cast<uintptr_t>(&_PyRuntime);
  unsigned found = 0;
  eachWord<2>(middle - kReach, 2 * kReach, [&](uintptr_t word, const uintptr_t* table) {
    const auto* rows = reinterpret_cast<const Row*>(table[0]);
    const auto count = static_cast<unsigned>(table[1]);  // followed by padding
    if (count < kRowsMin || count > kRowsMax || (count & (count - 1)) != 0 || rows == nullptr)
      return;
    bool holds = false;
    Row some[kRowsAtOnce];
    // The first one alone: most words that could be a table's lead nowhere.
    for (unsigned i = 0, n = 1; i < count && !holds;
         i += n, n = count - i < kRowsAtOnce ? count - i : kRowsAtOnce) {
      while (n > 0 && !peek(rows + i, some, n * sizeof *some)) n /= 2;  // where memory ends
      if (n == 0) break;
      for (unsigned k = 0; k < n && !holds; ++k) {
        const Row& row = some[k];
        holds = row.address <= at && at < row.address + kArenaBytes && row.pools > row.address &&
                row.pools <= row.address + kArenaBytes && row.free_pools <= row.all_pools;
      }
    }
    if (!holds) return;
    ++found;
    arenas_count = reinterpret_cast<unsigned*>(word + sizeof(void*));
  });
  if (found != 1) arenas_count = nullptr;
}

// Called after everything that a program could still see. From here on, the interpreter only frees
// memory: the interned strings are not freed (strings that still end are not found in the new
// table, and left), and the allocator's arenas are not counted.
void leaveMemory(PyObject*) {
  if (PyObject* empty = PyDict_New(); interned != nullptr && empty != nullptr) *interned = empty;
  if (arenas_count != nullptr) *arenas_count = 0;
}

// An object that the collector knows and that was made after the zygote's freeze.
struct Young {
  PyObject* object;  // owned
  size_t order;      // the collector's order, which puts a holder before its referents
  ssize_t outside;   // references that no young object holds
  bool held, later;  // reached from outside; reached from objects that the interpreter drops later
};

struct Survivors {
  Young* at = nullptr;
  size_t count = 0, room = 0;
  bool whole = true;
  bool Young::*mark = nullptr;  // the mark being propagated
  size_t* todo = nullptr;       // reached objects whose referents are not yet visited
  size_t todo_count = 0;

  Young* find(PyObject* object) const {
    return static_cast<Young*>(
        bsearch(&object, at, count, sizeof *at, [](const void* key, const void* one) {
          return compare(*static_cast<PyObject* const*>(key),
                         static_cast<const Young*>(one)->object);
        }));
  }
  static int compare(const void* a, const void* b) { return a < b ? -1 : a > b ? 1 : 0; }
};

using Visit = int (*)(PyObject*, void*);
void visitReferents(PyObject* object, Visit visit, Survivors* all) {
  constexpr int kTraverseSlot = 71;  // Py_tp_traverse
  auto traverse = reinterpret_cast<int (*)(PyObject*, Visit, void*)>(
      PyType_GetSlot(reinterpret_cast<PyObjectHead*>(object)->type, kTraverseSlot));
  if (traverse != nullptr) traverse(object, visit, all);
}

int addYoung(PyObject* object, void* to) {
  auto* all = static_cast<Survivors*>(to);
  if (object == first_frozen) return 0;
  if (all->count == all->room) {
    all->room = all->room == 0 ? 1'024 : 2 * all->room;
    auto* grown = static_cast<Young*>(realloc(all->at, all->room * sizeof *all->at));
    if (grown == nullptr) return all->whole = false;
    all->at = grown;
  }
  all->at[all->count] = {object, all->count,
                         reinterpret_cast<PyObjectHead*>(object)->references - 1, false, false};
  ++all->count;  // the visit's own reference does not count
  Py_IncRef(object);
  return 1;
}

int keepFirst(PyObject* object, void*) {
  first_frozen = object;
  return 0;
}

int countInside(PyObject* object, void* to) {
  if (Young* one = static_cast<Survivors*>(to)->find(object); one != nullptr) --one->outside;
  return 0;
}

int reach(PyObject* object, void* to) {
  auto* all = static_cast<Survivors*>(to);
  Young* one = all->find(object);
  if (one == nullptr || one->*all->mark) return 0;
  one->*all->mark = true;
  all->todo[all->todo_count++] = static_cast<size_t>(one - all->at);
  return 0;
}

void reachOn(Survivors* all) {
  while (all->todo_count > 0)
    visitReferents(all->at[all->todo[--all->todo_count]].object, reach, all);
}

// Preloaded objects hold some objects that are alive here and would otherwise have ended with them.
// Objects that only sys and builtins hold are left to the interpreter, whose next step ends them;
// so is garbage.
void finalizeSurvivors(PyObject*) {
  Survivors all;
  PyUnstable_GC_VisitObjects(addYoung, &all);
  all.todo = static_cast<size_t*>(malloc((all.count + 1) * sizeof(size_t)));
  auto sort = [&](int (*by)(const void*, const void*)) {
    qsort(all.at, all.count, sizeof *all.at, by);
  };
  if (all.whole && all.todo != nullptr && all.count > 0) {
    sort([](const void* a, const void* b) {
      return Survivors::compare(static_cast<const Young*>(a)->object,
                                static_cast<const Young*>(b)->object);
    });
    for (size_t i = 0; i < all.count; ++i) visitReferents(all.at[i].object, countInside, &all);
    all.mark = &Young::later;
    for (PyObject* root : {sys_dict, PyEval_GetBuiltins()}) visitReferents(root, reach, &all);
    reachOn(&all);
    all.mark = &Young::held;
    for (size_t i = 0; i < all.count; ++i)
      if (all.at[i].outside > 0) reach(all.at[i].object, &all);
    reachOn(&all);
    sort([](const void* a, const void* b) {
      const size_t x = static_cast<const Young*>(a)->order, y = static_cast<const Young*>(b)->order;
      return x < y ? -1 : x > y ? 1 : 0;
    });
    for (size_t i = 0; i < all.count; ++i)
      if (all.at[i].held && !all.at[i].later) PyObject_CallFinalizer(all.at[i].object);
  }
  for (size_t i = 0; i < all.count; ++i) Py_DecRef(all.at[i].object);
  free(all.at);
  free(all.todo);
  PyErr_Clear();
  // No program can name an entry whose key is not a string, and the interpreter clears it last.
  PyObject* capsule = PyCapsule_New(&modules, nullptr, leaveMemory);
  if (capsule == nullptr || PyDict_SetItem(PyEval_GetBuiltins(), capsule, &_Py_NoneStruct) != 0)
    PyErr_Clear();
  Py_DecRef(capsule);
}

// The interpreter is about to take each module out of sys.modules and to clear those that live on:
// it has just dropped sys.__interactivehook__, see mayfly_python_main().
void leavePreloaded(PyObject*) {
  if (!Py_IsFinalizing()) return;
  PyObject *all = PyImport_GetModuleDict(), *name, *module;
  if (all == nullptr || !isExactly(all, PyDict_Type)) return;
  PyObject* copy = PyDict_Copy(all);
  if (copy == nullptr) return PyErr_Clear();
  PyDict_Clear(all);
  // The first module is cleared last.
  PyObject *first = PyModule_New("mayfly"),
           *capsule = PyCapsule_New(&modules, nullptr, finalizeSurvivors);
  if (first != nullptr && capsule != nullptr) {
    PyDict_SetItemString(PyModule_GetDict(first), "end", capsule);
    PyDict_SetItemString(all, "mayfly", first);  // never freed: its reference stays
  }
  Py_DecRef(capsule);
  for (ssize_t at = 0; PyDict_Next(copy, &at, &name, &module);) {
    bool left = false;
    if (isExactly(module, PyModule_Type)) {
      const Module* known = findByDict(PyModule_GetDict(module));
      left = known != nullptr && known->module == module && !known->changed;
    }
    if (left) Py_IncRef(module);  // it outlives its entry
    PyDict_SetItem(all, name, left ? &_Py_NoneStruct : module);
  }
  PyErr_Clear();
  Py_DecRef(copy);
}

// --- a clone's task -----------------------------------------------------------------------

bool set(wchar_t** field, const char* text) {
  return PyConfig_SetBytesString(config.at, field, text).type == 0;
}

// Puts the task's command line in the place of the zygote's.
bool configure(const mayfly_task& task, const mayfly_python& python) {
  *config.cpu_count = python.cpu_count > 0 ? python.cpu_count : -1;
  bool ok = PyConfig_SetBytesArgv(config.at, task.argc, task.argv).type == 0;
  switch (task.kind) {
    case MAYFLY_TASK_FILE:
      return ok && set(config.run_filename, python.file);
    case MAYFLY_TASK_MODULE:
      return ok && set(config.run_filename, nullptr) && set(config.run_module, python.command);
    case MAYFLY_TASK_STRING:
      return ok && set(config.run_filename, nullptr) && set(config.run_command, python.command);
    default: {
      // The program is in memory, not behind one of the task's descriptors.
      FILE* program = task.code_bytes > 0
                          ? fmemopen(const_cast<char*>(task.code), task.code_bytes, "r")
                          : fopen("/dev/null", "re");
      if (program != nullptr) stdin = program;
      return ok && program != nullptr && set(config.run_filename, nullptr);
    }
  }
}

[[noreturn]] void runTask(const mayfly_python& python, const mayfly_task& task) {
  PyObject* prepared = PyObject_CallObject(static_cast<PyObject*>(python.prepare), nullptr);
  if (prepared == nullptr || !configure(task, python)) {
    PyErr_Print();
    _exit(121);
  }
  Py_DecRef(prepared);
  PyInterpreterState* interpreter = PyInterpreterState_Get();
  _PyInterpreterState_SetNotRunningMain(interpreter);
  Py_LeaveRecursiveCall();  // the call of this function
  if (python.started() != 0) _exit(121);
  exit(Py_RunMain());
}

}  // namespace
}  // namespace mayfly::zygote

using namespace mayfly::zygote;

static mayfly_python* python = nullptr;

extern "C" int mayfly_python_init(mayfly_python* one, const wchar_t* program,
                                  const wchar_t* folder) {
  python = one;
  if (!findConfig(program, folder)) return -ENXIO;
  findInterned();
  if (interned != nullptr) keepInterned();
  PyObject *gc = PyImport_ImportModule("gc"), *sys = PyImport_ImportModule("sys");
  if (gc == nullptr || sys == nullptr) return -ENXIO;
  freeze = PyObject_GetAttrString(gc, "freeze");
  sys_dict = PyModule_GetDict(sys);
  if (freeze == nullptr) return -ENXIO;
  watchModules();
  if (PyObject* probe = PyList_New(0); probe != nullptr) {
    findArenas(probe);
    Py_DecRef(probe);
  }
  return interned != nullptr && arenas_count != nullptr && watcher >= 0 ? 0 : 1;
}

extern "C" void* mayfly_python_main(void*, void*, void*) {
  constexpr const char* kLast[] = {"last_exc", "last_type", "last_value", "last_traceback"};
  for (const char* name : kLast) PySys_SetObject(name, nullptr);
  PyErr_Clear();
  // Drops the exception that led here, its traceback and its frame, so that no clone has them.
  PyObject* result = PyObject_CallObject(static_cast<PyObject*>(python->settle), nullptr);
  if (result == nullptr) {
    PyErr_Print();
    _exit(2);
  }
  Py_DecRef(result);
  // No object is young then: the first visited object is the first frozen one.
  Py_DecRef(PyObject_CallObject(freeze, nullptr));
  if (PyUnstable_GC_VisitObjects != nullptr) PyUnstable_GC_VisitObjects(keepFirst, nullptr);
  if (watcher >= 0 && first_frozen != nullptr && python->last != nullptr) {
    PyObject* capsule = PyCapsule_New(&modules, nullptr, leavePreloaded);
    if (capsule == nullptr ||
        PyObject_SetAttrString(static_cast<PyObject*>(python->last), "mayfly", capsule) != 0)
      PyErr_Clear();
    Py_DecRef(capsule);
    Py_DecRef(static_cast<PyObject*>(python->last));  // now only the interpreter holds it
  }
  int error = python->serve(python->hooks, python->task);
  if (error == 0) runTask(*python, *python->task);
  fprintf(stderr, "zygote: cannot serve: %s\n", strerror(-error));
  _exit(2);
}
