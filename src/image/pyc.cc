// Layer: image. See pyc.h.
#include "image/pyc.h"

#include <fmt/format.h>

#include "image/sandbox.h"

namespace mayfly::image {
namespace {

constexpr uint32_t kCompileSecondsMax = 1'500;
constexpr const char* kProgramInTree = "/run/build/compile.py";
constexpr std::string_view kNotCompiled = "not compiled: ";

// Prints names as Python literals: a file name may hold a newline, or bytes that are not UTF-8.
constexpr std::string_view kProgram = R"py(
import errno, importlib.util, os, py_compile, sys

# A file with such a name, or with such a thing in its pyc's place, can have no pyc.
NO_PLACE = {errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR}

def modules():
    for top in sys.path:
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if name != '__pycache__']
            for name in names:
                path = os.path.join(folder, name)
                if name.endswith('.py') and os.path.isfile(path):
                    yield path

def fits(pyc, source):
    try:
        with open(pyc, 'rb') as file:
            header = file.read(16)
    except FileNotFoundError:
        return False
    unchecked_hash = (1).to_bytes(4, 'little')
    return header == importlib.util.MAGIC_NUMBER + unchecked_hash + importlib.util.source_hash(source)

def why(error):
    if isinstance(error, SyntaxError):
        return f'{type(error).__name__}: {error.msg} (line {error.lineno})'
    return f'{type(error).__name__}: {error}'

def compile_one(path):
    pyc = importlib.util.cache_from_source(path)
    try:
        with open(path, 'rb') as file:
            if fits(pyc, file.read()):
                return None
        py_compile.compile(path, cfile=pyc, doraise=True,
                           invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        return None
    except py_compile.PyCompileError as error:
        # Nobody checks the pyc of an older source: it would be loaded.
        if os.path.lexists(pyc):
            os.unlink(pyc)
        return f'{ascii(path)}: {ascii(why(error.exc_value))[1:-1]}'
    except OSError as error:
        if error.errno not in NO_PLACE and not isinstance(error, FileExistsError):
            raise
        return f'{ascii(path)}: {ascii(why(error))[1:-1]}'

def compile_all(paths):
    try:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
    except ImportError:  # python3-minimal
        yield from map(compile_one, paths)
        return
    with ProcessPoolExecutor(mp_context=get_context('fork')) as pool:
        yield from pool.map(compile_one, paths, chunksize=16)

for note in compile_all(sorted(set(modules()))):
    if note:
        print('not compiled:', note)
)py";

}  // namespace

std::string_view pycProgram() { return kProgram; }

base::Status compilePython(Workshop& shop, const std::string& tree) {
  MAYFLY_TRY(std::string folder, shop.scratch());
  const std::string program = folder + "/compile.py";
  MAYFLY_CHECK(writeText(program, kProgram));
  size_t not_compiled = 0;
  Command command;
  // -W: odd escapes in a package's strings do not matter here.
  command.argv = {"/bin/sh", "-c",
                  "[ ! -x /usr/bin/python3 ] || exec /usr/bin/python3 -I -W ignore \"$1\"", "sh",
                  kProgramInTree};
  command.seconds_max = kCompileSecondsMax;
  command.environment = sandboxEnvironment({"HOME=/nonexistent"});
  command.enter = enterSandbox({tree, Inside::install, {{program, kProgramInTree, false}}});
  command.on_line = [&](std::string_view line) {
    if (line.substr(0, kNotCompiled.size()) == kNotCompiled) ++not_compiled;
  };
  auto status = shop.run(std::move(command));
  if (!status) return base::fail(std::move(status).error().in("compile the image's Python"));
  if (not_compiled > 0)
    shop.say(fmt::format("{} Python files are not compiled: the log names each", not_compiled));
  return base::Unit{};
}

}  // namespace mayfly::image
