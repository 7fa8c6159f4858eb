"""A Python task starts as the interpreter starts it.

Programs that show how they were started run as tasks and plain (`plain.py`), and say the
same: each variable that the interpreter reads, modules beside the script that are named as
preloaded ones, sources in odd encodings. Then what is computed when a module is imported,
and would be the zygote's: times, process ids, random keys, values of the environment.
"""

import dataclasses
import io
import json
import math
import pathlib
import re
import time
import tomllib
import zipfile
import zlib

import pytest

import plain

TOP = pathlib.Path(__file__).resolve().parents[2]

# --- variables ----------------------------------------------------------------------

FLAGS = "import sys\nprint(sys.flags, sys.warnoptions, sys._xoptions, sys.path)\n"
UNBUFFERED = """
import ctypes, os, subprocess
print(type(sys.stdout.buffer), sys.stdout.buffer.name, sys.stdout.buffer.mode, sys.stdout is sys.__stdout__, sys.flags)
subprocess.run([sys.executable, '-c', 'import sys; print(sys.flags)'])
sys.stderr.write('no line')
sys.stdout.write('not lost')
ctypes.CDLL(None).printf(b'nor this')
os._exit(3)
"""
STREAMS = """
import sys
for f in (sys.stdin, sys.stdout, sys.stderr):
    print(f.encoding, f.errors, f.write_through, f.name)
try:
    print('h\\xe9 \\u2603 \\udcff')
except UnicodeError as error:
    print(error)
"""
LOCALE = STREAMS + """
import locale, os, time
print(locale.getlocale(), locale.getpreferredencoding(), sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
print(sys.flags.utf8_mode, os.environ.get('LC_CTYPE'), locale.setlocale(locale.LC_ALL), time.strftime('%A', time.gmtime(0)))
print(ascii(open('/task/data.bin', errors='replace').read()))
"""
WARN = """
import sys, warnings
print(sys.warnoptions, warnings.filters, sys.modules['warnings'].defaultaction)
warnings.warn('careful')
warnings.warn('old', DeprecationWarning)
warnings.warn('soon', PendingDeprecationWarning)
import beside
beside.warn()
f = open('/task/out/x', 'w')
del f
"""
TRACE = "def f():\n    return 1 + 1 / 0\n\nf()\n"
OPTIMIZE = '''
"""Words of the program."""
import json, sys
def f():
    """Words of f."""
print(__debug__, __doc__, f.__doc__, json.loads.__doc__ is None, sys.flags.optimize)
assert False, 'asserted'
'''
IMPORTS = """
import sys
print(sys.path, sys.flags.safe_path, sys.flags.isolated)
try:
    import beside
    print(beside.__file__, beside.__cached__, sys.dont_write_bytecode, sys.pycache_prefix)
except ImportError as error:
    print(error)
import os
print(sorted(os.listdir('/task')), os.path.isdir('/tmp/cache'))
"""
USER = """
import os, site, sys
print(site.ENABLE_USER_SITE, site.USER_BASE, site.USER_SITE, sys.flags.no_user_site, sys.path)
print(os.path.expanduser('~'), site.getuserbase(), site.getusersitepackages())
try:
    import mine
    print(mine.__file__)
except ImportError as error:
    print(error)
"""
CPUS = "import os\nprint(os.cpu_count(), os.process_cpu_count())\n"
TIME = """
import datetime, time
print(time.tzname, time.timezone, time.localtime(0)[:], time.strftime('%Z %z'))
print(datetime.datetime.fromtimestamp(0), datetime.datetime.fromtimestamp(0).astimezone())
"""
MAPS = "print(sorted({line.split('/')[-1].strip() for line in open('/proc/self/maps') if '.so' in line and 'libutil' in line}))\n"
TEMPORARY = "import tempfile\nprint(tempfile.gettempdir(), tempfile.tempdir, tempfile.gettempprefix())\n"
THREADS = """
import os, numpy
a = numpy.ones((300, 300))
print((a @ a)[0, 0], len(os.listdir('/proc/self/task')))
"""
CHARTS = """
import os
import matplotlib
import matplotlib.pyplot as plt
print(matplotlib.get_backend(), matplotlib.get_configdir(), matplotlib.get_cachedir(), matplotlib.matplotlib_fname())
print(matplotlib.rcParams['font.size'], matplotlib.rcParamsOrig['backend'], plt.rcParams['savefig.format'])
plt.plot([1, 2])
plt.savefig('/tmp/chart')
print([name for name in sorted(os.listdir('/tmp')) if name.startswith('chart')])
"""
FEATURES = """
import numpy
features = numpy._core._multiarray_umath.__cpu_features__
print(features['AVX2'], features['AVX512F'])
"""
NOT_READ = "print(1)\n"

# NAME -> its (value, program)s: the variables of `python3 --help-env`, and those that modules read at import.
VARIABLES = {
    "PYTHONSTARTUP": [("/task/startup.py", FLAGS)],
    "PYTHONPATH": [("lib", IMPORTS), ("/task/lib:/nosuch:lib", IMPORTS), ("", FLAGS), (":", FLAGS), ("/task/site", FLAGS),
                   ("/task/lib", "import calendar\nprint(calendar.__file__)\n")],
    "PYTHONHOME": [("/usr", FLAGS), ("/nosuch", NOT_READ)],
    "PYTHONPLATLIBDIR": [("lib64", FLAGS + "print(sys.platlibdir)\n")],
    "PYTHONCASEOK": [("1", NOT_READ)],
    "PYTHONIOENCODING": [(value, STREAMS) for value in ("latin-1", "utf-16", "ascii:replace", ":backslashreplace", "utf-8:strict")]
                        + [("nosuch", NOT_READ)],
    "PYTHONHASHSEED": [(value, "import sys\nprint(sys.flags, hash('mayfly'), {'a', 'b', 'c', 'd'})\n") for value in ("0", "1", "4294967295")]
                      + [("random", FLAGS), ("4294967296", NOT_READ), ("x", NOT_READ)],
    "PYTHONMALLOC": [(value, "import sys\nsys._debugmallocstats()\n") for value in ("malloc", "debug", "pymalloc")] + [("nosuch", NOT_READ)],
    "PYTHONMALLOCSTATS": [("1", NOT_READ)],
    "PYTHONCOERCECLOCALE": [("0", LOCALE), ("warn", LOCALE)],
    "PYTHONBREAKPOINT": [(value, "print('before')\nbreakpoint()\nprint('after')\n") for value in ("0", "builtins.print", "no.such")],
    "PYTHON_COLORS": [("1", TRACE), ("0", TRACE)],
    "PYTHON_HISTORY": [("/tmp/history", NOT_READ)],
    "PYTHON_CPU_COUNT": [("3", CPUS), ("default", CPUS), ("0", NOT_READ), ("x", NOT_READ)],
    "PYTHONDEBUG": [("1", FLAGS)],
    "PYTHONDEVMODE": [("1", FLAGS + "import faulthandler\nprint(faulthandler.is_enabled())\n" + WARN)],
    "PYTHONDONTWRITEBYTECODE": [(value, FLAGS + IMPORTS) for value in ("1", "0", "", "yes")],
    "PYTHONFAULTHANDLER": [("1", "import faulthandler\nprint(faulthandler.is_enabled(), flush=True)\nimport ctypes\nctypes.string_at(0)\n")],
    "PYTHON_FROZEN_MODULES": [("off", "import os, sys\nprint(os.__spec__.origin, type(os.__loader__), sys._stdlib_dir)\n"), ("on", FLAGS)],
    "PYTHONINSPECT": [("1", FLAGS + "x = 5\n"), ("1", TRACE)],
    "PYTHONINTMAXSTRDIGITS": [(value, "import sys\nprint(sys.get_int_max_str_digits())\nint('1' * 5000)\n") for value in ("640", "0")] + [("5", NOT_READ)],
    "PYTHONNODEBUGRANGES": [("1", TRACE)],
    "PYTHONNOUSERSITE": [("1", USER)],
    "PYTHONUSERBASE": [("/task/base", USER)],
    "PYTHONOPTIMIZE": [("1", OPTIMIZE), ("2", OPTIMIZE), ("x", OPTIMIZE)],
    "PYTHONPERFSUPPORT": [("1", "import sys\nprint(sys.is_stack_trampoline_active())\n")],
    "PYTHON_PERF_JIT_SUPPORT": [("1", "import sys\nprint(sys.is_stack_trampoline_active())\n")],
    "PYTHONPROFILEIMPORTTIME": [("1", "import calendar\n")],
    "PYTHONPYCACHEPREFIX": [("/tmp/cache", IMPORTS)],
    "PYTHONSAFEPATH": [("1", IMPORTS)],
    "PYTHONTRACEMALLOC": [("1", "import tracemalloc\nprint(tracemalloc.is_tracing(), tracemalloc.get_traceback_limit())\n"), ("5", WARN), ("x", NOT_READ)],
    "PYTHONUNBUFFERED": [(value, FLAGS + STREAMS + UNBUFFERED) for value in ("1", "0", "", "yes")],
    "PYTHONUTF8": [("1", LOCALE), ("0", LOCALE), ("x", NOT_READ)],
    "PYTHONVERBOSE": [("1", FLAGS)],
    "PYTHONWARNDEFAULTENCODING": [("1", "open('/task/data.bin')\nimport sys\nprint(sys.flags.warn_default_encoding)\n")],
    "PYTHONWARNINGS": [(value, WARN) for value in ("error", "ignore", "default", "always::ResourceWarning", "error::DeprecationWarning:__main__",
                                                    "ignore:careful,error", "once", "nonsense", "")],
    # Variables that `--help-env` leaves out.
    "PYTHONASYNCIODEBUG": [("1", "import asyncio\nprint(asyncio.new_event_loop().get_debug())\n")],
    "PYTHON_GIL": [("1", FLAGS), ("0", NOT_READ)],
    "PYTHON_BASIC_REPL": [("1", NOT_READ)],
    "PYTHONDUMPREFS": [("1", NOT_READ)],
    "PYTHONTZPATH": [("/task/zones", "import zoneinfo\nprint(zoneinfo.TZPATH)\nzoneinfo.ZoneInfo('Asia/Tokyo')\n")],
    "DEB_PYTHON_INSTALL_LAYOUT": [("deb", "import sysconfig\nprint(sysconfig.get_default_scheme(), sysconfig.get_paths()['purelib'])\n")],
    "_PYTHON_PROJECT_BASE": [("/tmp", "import sysconfig\nprint(sysconfig._PROJECT_BASE)\n")],
    "_PYTHON_SUBPROCESS_USE_POSIX_SPAWN": [("0", "import subprocess\nprint(subprocess._USE_POSIX_SPAWN)\n")],
    "_PYTHON_SYSCONFIGDATA_NAME": [("nosuch", "import sysconfig\nprint(sysconfig.get_config_var('prefix'))\n")],
    "_PYTHON_SYSCONFIGDATA_PATH": [("/nosuch", "import sysconfig\nprint(sysconfig.get_config_var('prefix'))\n")],
    "NO_COLOR": [("1", TRACE)],
    "FORCE_COLOR": [("1", TRACE)],
    "LC_ALL": [("C", LOCALE), ("POSIX", LOCALE), ("xx_YY.UTF-8", LOCALE), ("C.UTF-8", LOCALE)],
    "LANG": [("C", LOCALE), ("xx_YY.UTF-8", LOCALE)],
    "LC_CTYPE": [("C", LOCALE)],
    "TZ": [("Asia/Tokyo", TIME), ("EST5EDT", TIME), ("nonsense", TIME), (":/usr/share/zoneinfo/Europe/Berlin", TIME), ("", TIME)],
    "HOME": [("/tmp", USER)],
    "TMPDIR": [("/run", TEMPORARY), ("/nosuch", TEMPORARY)],
    "LD_PRELOAD": [("/usr/lib/x86_64-linux-gnu/libutil.so.1", MAPS), ("/nosuch.so", MAPS)],
    "LD_LIBRARY_PATH": [("/task/lib", NOT_READ)],
    "PATH": [("/nosuch", "import shutil\nprint(shutil.which('ls'))\n")],
}
DATA_VARIABLES = {
    "MPLBACKEND": [("svg", CHARTS), ("pdf", CHARTS), ("nosuch", CHARTS), ("", CHARTS)],
    "MPLCONFIGDIR": [("/task/charts", CHARTS)],
    "MATPLOTLIBRC": [("/task/charts/matplotlibrc", CHARTS)],
    "OPENBLAS_NUM_THREADS": [("2", THREADS), ("1", THREADS)],
    "OMP_NUM_THREADS": [("2", THREADS)],
    "OPENBLAS_MAIN_FREE": [("0", THREADS)],
    "GOTOBLAS_MAIN_FREE": [("0", THREADS)],
    "NPY_PROMOTION_STATE": [("legacy", "import numpy\nprint(numpy._get_promotion_state() if hasattr(numpy, '_get_promotion_state') else None)\n")],
    "NUMPY_MADVISE_HUGEPAGE": [("0", "import numpy\nprint(numpy._core.multiarray._get_madvise_hugepage())\n")],
    "OPENPYXL_LXML": [("False", "import openpyxl\nprint(openpyxl.LXML)\n")],
    "PANDAS_COPY_ON_WRITE": [("1", "import pandas\nprint(pandas.options.mode.copy_on_write)\n")],
    "PANDAS_DATA_MANAGER": [("array", "import pandas\nprint(pandas.options.mode.data_manager)\n")],
    **{name: [(value, "import PIL.Image\nprint(PIL.Image.core.get_alignment(), PIL.Image.core.get_block_size(), PIL.Image.core.get_blocks_max())\n")]
       for name, value in (("PILLOW_ALIGNMENT", "64"), ("PILLOW_BLOCK_SIZE", "32k"), ("PILLOW_BLOCKS_MAX", "9"))},
    "PYPARSINGENABLEALLWARNINGS": [("1", "import pyparsing\nprint(pyparsing.core.__diag__.warn_on_match_first_with_lshift_operator)\n")],
    "PY_SAX_PARSER": [("nosuch", "import xml.sax\nprint(xml.sax.default_parser_list)\n")],
    "XDG_DATA_HOME": [("/task/data", "import matplotlib.font_manager as fonts\nprint(fonts.X11FontDirectories[-1], fonts.fontManager is not None)\n")],
    "NPY_DISABLE_CPU_FEATURES": [("AVX2 AVX512F", FEATURES)],
    "PYTHONWARNINGS": [("error", WARN + "import numpy, pandas\nprint(pandas.Series([1]).sum())\n")],
    "PYTHONHASHSEED": [("7", "import pandas\nprint({'a', 'b', 'c', 'd'})\n")],
}


def only(words):
    """A mask for text that differs in every run: only its presence is compared."""
    return re.compile(rf"(?s)\A(?:(?!{words}).)*({words})?.*"), r"\1"


MASKS = {
    "MPLCONFIGDIR": ((re.compile(r"Matplotlib is building the font cache; this may take a moment.\n"), ""),),  # if it takes 5 s
    "PYTHONMALLOC": (only("Small block threshold|unknown allocator"),),
    "PYTHONMALLOCSTATS": (only("Small block threshold"),),
    "PYTHONPROFILEIMPORTTIME": (only("import time: self"),),
    "PYTHONVERBOSE": (only("import _frozen_importlib|import 'site'"),),
}
ENVIRONMENT_FILES = (
    ("beside.py", b"import warnings\ndef warn():\n    warnings.warn('beside', stacklevel=2)\n    warnings.warn('beside, old', DeprecationWarning)\n"),
    ("lib/beside.py", b"def warn():\n    pass\n"),
    ("lib/calendar.py", b""),
    ("site/sitecustomize.py", b"print('sitecustomize')\n"),
    ("startup.py", b"print('startup')\n"),
    ("data.bin", b"h\xc3\xa9 \xff"),
    ("charts/matplotlibrc", b"font.size: 7\nsavefig.format: pdf\n"),
)
USER_FILES = (("base/lib/python3.13/site-packages/mine.py", b""), (".local/lib/python3.13/site-packages/mine.py", b""))


def variables(template, table):
    for name, uses in table.items():
        for number, (value, program) in enumerate(uses):
            yield plain.Case(f"{name}={value}-{number}" + ("-data" if template == "python-data" else ""), program.encode(),
                             env=(f"{name}={value}",), files=ENVIRONMENT_FILES + (USER_FILES if program == USER else ()), template=template, masks=MASKS.get(name, ()))


def together():
    """Variables that influence each other, and kinds of programs other than a script."""
    for name, env, kind, program in (
        ("locale-c-not-coerced", ("LC_ALL=C", "PYTHONCOERCECLOCALE=0", "PYTHONUTF8=0"), "file", LOCALE),
        ("locale-lang-c-warned", ("LC_ALL=", "LANG=C", "PYTHONCOERCECLOCALE=warn"), "file", LOCALE),
        ("locale-empty", ("LC_ALL=", "LANG="), "file", LOCALE),
        ("warnings-and-dev", ("PYTHONWARNINGS=ignore", "PYTHONDEVMODE=1"), "file", WARN),
        ("string-warnings", ("PYTHONWARNINGS=error",), "string", "import warnings\nwarnings.warn('x')\n"),
        ("stdin-warnings", ("PYTHONWARNINGS=error",), "stdin", "import warnings\nwarnings.warn('x')\n"),
        ("string-safe-path", ("PYTHONSAFEPATH=1",), "string", IMPORTS),
        ("string-path", ("PYTHONPATH=lib",), "string", IMPORTS),
        ("stdin-path", ("PYTHONPATH=lib",), "stdin", IMPORTS),
        ("stdin-encoding", ("PYTHONIOENCODING=latin-1",), "stdin", "print(ascii('h\xe9'), 'h\xe9')\n"),
        ("string-optimize", ("PYTHONOPTIMIZE=2",), "string", OPTIMIZE),
        ("stdin-inspect", ("PYTHONINSPECT=1",), "stdin", "print(1)\n"),
        ("string-inspect", ("PYTHONINSPECT=1",), "string", "print(1)\n"),
        ("none", (), "file", FLAGS + LOCALE + USER + TIME + TEMPORARY),
        ("of-others", ("EDITOR=vi", "LS_COLORS=x", "PYTHONNONSENSE=1", "python=2", "A=", "B=x=y", "C=\u7d50\u679c"), "file",
         "import os\nfor name in sorted(os.environ):\n    print(name, ascii(os.environ[name]))\n"),
        ("inspect-set-by-the-program", (), "file", "import os\nos.environ['PYTHONINSPECT'] = '1'\nprint(1)\n"),
    ):
        yield plain.Case(f"together-{name}", program.encode(), kind, env=env, files=ENVIRONMENT_FILES)


# --- modules beside the program ------------------------------------------------------

SHADOWS = (
    "calendar", "statistics", "queue", "csv", "random", "string", "types", "decimal", "datetime", "typing", "re", "enum", "functools",
    "collections", "threading", "tempfile", "traceback", "linecache", "warnings", "logging", "json", "asyncio", "email", "xml", "unittest",
    "concurrent", "importlib", "encodings", "ctypes", "sqlite3", "multiprocessing", "os", "sys", "time", "io", "abc", "site", "codecs", "math",
    "zlib", "select", "_json", "_struct", "struct", "token", "code", "memory", "zygote", "stat", "keyword", "contextlib", "weakref", "signal",
    "heapq", "_collections_abc", "genericpath", "sitecustomize", "usercustomize", "builtins", "colorsys", "__main__", "__future__", "this",
)
DATA_SHADOWS = ("numpy", "pandas", "matplotlib", "openpyxl", "dateutil", "six", "csv", "pyparsing")
TELL = """
import {name}
print({name}.__name__, getattr({name}, '__file__', None), getattr({name}, 'mine', None), getattr({name}, '__path__', None))
print({name}.__spec__.origin if {name}.__spec__ else None)
"""
MINE = b"mine = 'of the task'\nprint('imported', __name__)\n"


def shadows():
    def case(name, program, files, **more):
        return plain.Case(f"shadow-{name}", program.encode(), files=tuple(files), **more)

    for name in SHADOWS:
        yield case(name, TELL.format(name=name), [(f"{name}.py", MINE)])
    for name in ("json", "logging", "email", "xml", "calendar", "concurrent", "asyncio", "os"):
        yield case(f"package-{name}", TELL.format(name=name), [(f"{name}/__init__.py", MINE)])
        yield case(f"folder-{name}", TELL.format(name=name), [(f"{name}/notes.txt", b"no module")])
        yield case(f"folder-with-modules-{name}", TELL.format(name=name), [(f"{name}/other.py", MINE)])
    for name in DATA_SHADOWS:
        yield case(f"data-{name}", TELL.format(name=name), [(f"{name}.py", MINE)], template="python-data")
    yield case("data-package-numpy", TELL.format(name="numpy"), [("numpy/__init__.py", MINE)], template="python-data")
    yield case("data-folder-pandas", TELL.format(name="pandas"), [("pandas/data.csv", b"a\n1\n")], template="python-data")
    yield case("data-chart-settings", CHARTS, [("matplotlibrc", b"font.size: 6\n")], template="python-data")
    calendar = [("calendar.py", MINE)]
    tell = TELL.format(name="calendar")
    for kind in ("string", "stdin"):
        yield case(f"{kind}-calendar", tell, calendar, kind=kind)
        yield case(f"{kind}-json-package", TELL.format(name="json"), [("json/__init__.py", MINE)], kind=kind)
        yield case(f"{kind}-nothing", "import sys, calendar\nprint(sys.path, calendar.__file__)\n", [], kind=kind)
    yield case("path", tell, [("lib/calendar.py", MINE)], env=("PYTHONPATH=/task/lib",))
    yield case("path-string", tell, [("lib/calendar.py", MINE)], env=("PYTHONPATH=lib",), kind="string")
    yield case("path-appended", "import sys\nsys.path.insert(0, '/task/lib')\n" + tell, [("lib/calendar.py", MINE)])
    yield case("script-of-that-name", "print('run', __name__)\n" + tell, [], script="calendar.py")
    yield case("script-of-that-name-and-spawn", "import random\nprint(__name__, random.__file__, hasattr(random, 'random'))\n", [], script="random.py")
    yield case("compiled-without-source", tell, [("calendar.pyc", b"no code")])
    for ending in (".so", ".abi3.so", ".cpython-313-x86_64-linux-gnu.so"):
        yield case(f"library{ending}", tell, [("calendar" + ending, b"no library")])
    yield case("unused", "print(1)\n", calendar)
    yield case("uncaught", "raise ValueError('gone wrong')\n", [("traceback.py", MINE), ("linecache.py", MINE)])
    yield case("inside-a-preloaded-one", "import tempfile\nprint(tempfile.gettempdir())\n", [("random.py", MINE)])
    yield case("inside-logging", "import logging\nlogging.warning('x')\n", [("string.py", MINE)])
    yield case("attribute-error", "import random\nrandom.randint(1, 2)\n", [("random.py", b"")])
    yield case("raises", "import calendar\n", [("calendar.py", b"1 / 0\n")])
    yield case("syntax-error", "import calendar\n", [("calendar.py", b"def f(:\n")])
    yield case("user-site", "import sys, mine\nprint(mine.__file__, sys.path)\n", [(".local/lib/python3.13/site-packages/mine.py", MINE)])
    yield case("user-site-calendar", tell, [(".local/lib/python3.13/site-packages/calendar.py", MINE)])
    yield case("user-site-pth", "print(1)\n", [(".local/lib/python3.13/site-packages/mine.pth", b"import sys; print('pth')\n")])
    yield case("user-customize", "print(1)\n", [(".local/lib/python3.13/site-packages/usercustomize.py", MINE)])
    yield case("virtual-environment", "import sys\nprint(sys.prefix)\n", [("pyvenv.cfg", b"home = /usr/bin\n")])
    yield case("zip-as-script", "print(__name__)\n", [("__main__.py", MINE)])


# --- sources -------------------------------------------------------------------------

TEXT = "print(ascii('\u7d50\u679c \xe9'), '\u7d50\u679c')\n"
SOURCES = {
    "cookie-gbk": b"# coding: gbk\n" + TEXT.encode(),
    "cookie-gbk-encoded": ("# -*- coding: gbk -*-\nprint(ascii('\u7ed3\u679c'), '\u7ed3\u679c')\n").encode("gbk"),
    "cookie-gbk-raises": ("# coding: gbk\nraise ValueError('\u7ed3\u679c')  # \u7ed3\n").encode("gbk"),
    "cookie-latin-1": "# coding: latin-1\nprint(ascii('\xe9'))\n".encode("latin-1"),
    "cookie-utf-16": b"# coding: utf-16\n" + TEXT.encode(),
    "cookie-nosuch": b"# coding: nosuch\n" + TEXT.encode(),
    "cookie-rot13": b"# coding: rot13\ncevag(1)\n",
    "cookie-in-line-2": b"#!/usr/bin/python3\n# vim: set fileencoding=latin-1 :\nprint(ascii('\xe9'))\n",
    "cookie-in-line-3": b"#\n#\n# coding: latin-1\nprint(ascii('\xc3\xa9'))\n",
    "cookie-after-code": b"x = 1\n# coding: latin-1\nprint(ascii('\xc3\xa9'))\n",
    "cookie-and-syntax-error": b"# coding: latin-1\nx = '\xe9' +\n",
    "bom": b"\xef\xbb\xbf" + TEXT.encode(),
    "bom-and-cookie": b"\xef\xbb\xbf# coding: gbk\n" + TEXT.encode(),
    "bom-and-cookie-utf-8": b"\xef\xbb\xbf# coding: utf-8\n" + TEXT.encode(),
    "bom-alone": b"\xef\xbb\xbf",
    "bom-of-utf-16": TEXT.encode("utf-16"),
    "invalid-utf-8": b"print('before')\nprint('\xff\xfe')\n",
    "invalid-utf-8-in-a-comment": b"print('before')\n# \xff\nprint('after')\n",
    "surrogate": b"print(ascii('\xed\xb3\xbf'))\n",
    "nul": b"print('before')\nx = '\0'\nprint('after')\n",
    "nul-in-a-comment": b"print('before')\n# \0\nprint('after')\n",
    "nul-at-the-end": b"print('before')\n\0",
    "crlf": b"def f():\r\n    return 'a'\r\nprint(f(), ascii('''x\r\ny'''))\r\n1 / 0\r\n",
    "cr": b"print(1)\rprint(2)\rprint(ascii('''x\ry'''))\r",
    "no-newline": b"def f():\n    return 1\nprint(f())",
    "no-newline-in-a-block": b"if True:\n    print(1)",
    "no-newline-after-a-comment": b"print(1)\n# end",
    "form-feeds": b"\x0cprint(1)\n\x0cif True:\n    \x0cprint(2)\n",
    "vertical-tab": b"print(1)\x0bprint(2)\n",
    "control-z": b"print(1)\n\x1aprint(2)\n",
    "empty": b"",
    "newline": b"\n",
    "spaces": b"   \n\t\n  ",
    "comment": b"# nothing",
    "backslash-at-the-end": b"print(1)\nx = 1 + \\",
    "triple-quotes-open": b"print(1)\nx = '''abc\n\n",
    "indented": b"  print(1)\n",
    "long-line": b"x = [" + b"1, " * 5000 + b"]\nprint(len(x))\n",
    "many-lines": b"x = 1\n" * 5000 + b"print(x)\n1 / 0\n",
    "deep": b"x = " + b"(" * 150 + b"1" + b")" * 150 + b"\nprint(x)\n",
    "too-deep": b"x = " + b"(" * 250 + b"1" + b")" * 250 + b"\nprint(x)\n",
    "unicode-names": "\u7d50\u679c = 1\nprint(\u7d50\u679c)\n\u7d50 + 1\n".encode(),
    "not-a-letter": "x = 1\u20ac\n".encode(),
    "no-break-space": "x =\u00a01\n".encode(),
    "unicode-error-line": "print('\u7d50\u679c')\nx = '\u7d50\u679c' 1\n".encode(),
    "raises-after-wide-text": "x = ('\u7d50\u679c', 1 / 0)\n".encode(),
    "interactive": b"5\n'x'\n[1]\n",
    "multi-line-block": b"for n in range(2):\n    print(n)\nprint(3)\n",
    "several-on-a-line": b"print(1); print(2); 1 / 0\n",
    "dunder-main": b"if __name__ == '__main__':\n    print(__name__)\n",
    "python-2": b"print 'x'\n",
    "no-python": b"PK\x03\x04\x00\x00",
    "elf": b"\x7fELF\x02\x01\x01" + bytes(9),
    "shell": b"#!/bin/sh\necho x\n",
}


def sources():
    for kind in ("file", "string", "stdin"):
        for name, source in SOURCES.items():
            if kind != "string" or b"\0" not in source:  # no argument holds a NUL
                yield plain.Case(f"source-{kind}-{name}", source, kind)


# --- modules, folders and archives ---------------------------------------------------

SHOW = """
import sys
main = sys.modules['__main__']
print(__name__, main is sys.modules.get(__name__), __package__, repr(__doc__), globals().get('__cached__'))
print(__file__, type(__loader__).__name__, sorted(name for name in dir(main) if name.startswith('__')))
print(__spec__ and (__spec__.name, __spec__.origin, __spec__.parent, __spec__.cached, __spec__.has_location))
print(sys.argv, sys.orig_argv, sys.path, sys.flags)
"""
PICKLE = """
import pickle, dataclasses
@dataclasses.dataclass
class Point:
    x: int
class Enclosing:
    class Inner:
        pass
data = pickle.dumps([Point(1), Enclosing.Inner])
print(b'__main__' in data, pickle.loads(data), Point.__module__, Point)
"""
SPAWN = """
import multiprocessing
def work(n):
    print(n, __name__)
if __name__ == '__main__':
    process = multiprocessing.get_context('{how}').Process(target=work, args=(1,))
    process.start()
    process.join()
    print(process.exitcode)
"""
RELATIVE = """
from . import beside
from .beside import said
from .sub import deep
import {top}.beside
print(said, beside is {top}.beside, deep.up, beside.__file__, beside.__spec__.origin)
"""
ABSOLUTE = """
import beside, importlib.resources
print(beside.said, beside.__file__, type(beside.__loader__).__name__)
from sub import deep
print(deep.__name__, deep.__file__)
"""
RESOURCE = "import pkgutil\nprint(pkgutil.get_data('sub', 'data.txt'))\n"
SOURCE = "import inspect, sys\ndef f():\n    return 1\nprint(inspect.getsource(f), inspect.getfile(f))\n"
DEEP = b"try:\n    from ..beside import said as up\nexcept ImportError as error:\n    up = str(error)\n"
ENDS = {
    "raises": "def f():\n    1 / 0\nf()\n",
    "raises-in-import": "import beside_broken\n",
    "exits": "import sys\nsys.exit(7)\n",
    "exits-with-words": "raise SystemExit('words')\n",
    "syntax-error": "def f(:\n",
    "warns": "import warnings\nwarnings.warn('careful')\n",
    "signal": "import os\nos.kill(os.getpid(), 15)\n",
    "at-exit": "import atexit\natexit.register(print, 'at exit')\nclass Last:\n    def __del__(self):\n        print('deleted')\nlast = Last()\n",
    "thread": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()\n",
}
PROGRAMS = {"show": SHOW, "pickle": PICKLE, "spawn": SPAWN.format(how="spawn"), "fork": SPAWN.format(how="fork"), "source": SOURCE, **ENDS}
BESIDE = (("beside.py", b"said = 'beside'\n"), ("beside_broken.py", b"raise RuntimeError('broken')\n"), ("sub/__init__.py", b""),
          ("sub/deep.py", DEEP), ("sub/data.txt", b"data\n"))
# Modules of the library: some are preloaded, some run as programs, some are none.
LIBRARY = (
    ("json.tool", ("--help",)), ("json.tool", ("/nosuch",)), ("json", ()), ("timeit", ("-n", "1", "-r", "1", "-u", "nosuch")),
    ("calendar", ("2024", "2")), ("this", ()), ("base64", ("-t",)), ("unittest", ("--help",)), ("xml.etree.ElementTree", ()),
    ("concurrent.futures.thread", ()), ("collections.abc", ()), ("email.message", ()), ("os.path", ()), ("os", ()), ("sys", ()),
    ("builtins", ()), ("_json", ()), ("nosuch", ()), ("nosuch.mod", ()), ("json.nosuch", ()), ("json.tool.deeper", ()), ("zipfile", ("-h",)),
    ("ast", ("/nosuch",)), ("dis", ("/nosuch",)), ("runpy", ()), ("py_compile", ("/nosuch",)), ("compileall", ("-q", "/nosuch")),
    ("site", ("--help",)), ("platform", ()), ("__main__", ()), ("__hello__", ()), ("encodings.utf_8", ()), ("textwrap", ()),
    ("uuid", ("--help",)), (".mod", ()), ("pkg..mod", ()), ("pkg/mod", ()), ("mod.py", ()), ("random", ("--seed", "1", "--integer", "9")),
    ("zoneinfo", ()), ("quopri", ("-h",)),
)


def archive(files):
    """A zip file of these, as zipapp makes it."""
    held = io.BytesIO()
    held.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(held, "a") as made:
        for name, content in files:
            made.writestr(zipfile.ZipInfo(name), content)
    return held.getvalue()


def modules():
    def below(folder, files):
        return tuple((f"{folder}/{name}", content) for name, content in files)

    def case(name, module, files=(), **more):
        return plain.Case(f"module-{name}", b"", "module", script=module, files=tuple(files), **more)

    def both(name, program):
        """As a folder and as an archive."""
        yield plain.Case(f"folder-{name}", program.encode(), "folder", script="app", files=below("app", BESIDE))
        yield plain.Case(f"archive-{name}", archive([("__main__.py", program), *BESIDE]), script="app.pyz")

    package = (("pkg/__init__.py", b"'''Words of the package.'''\n"), *below("pkg", BESIDE))
    for name, program in PROGRAMS.items():
        yield case(name, "mod", [("mod.py", program.encode()), *BESIDE])
        yield case(f"in-package-{name}", "pkg.mod", [("pkg/mod.py", program.encode()), *package])
        yield case(f"package-{name}", "pkg", [("pkg/__main__.py", program.encode()), *package])
        yield from both(name, program)
    for name, module in (("mod", "pkg.mod"), ("package", "pkg")):
        place = "pkg/mod.py" if name == "mod" else "pkg/__main__.py"
        yield case(f"relative-{name}", module, [(place, RELATIVE.format(top="pkg").encode()), *package])
    yield case("relative-without-package", "mod", [("mod.py", b"from . import beside\n"), *BESIDE])
    yield case("deep", "pkg.sub.deep", package)
    yield case("namespace", "space.mod", [("space/mod.py", SHOW.encode())])
    yield case("namespace-as-package", "space", [("space/mod.py", b"")])
    yield case("package-without-main", "pkg", package)
    yield case("package-broken", "pkg.mod", [("pkg/__init__.py", b"raise ValueError('broken')\n"), ("pkg/mod.py", b"")])
    yield case("package-imports-its-module", "pkg.mod", [("pkg/__init__.py", b"from . import mod\n"), ("pkg/mod.py", SHOW.encode())])
    yield case("of-path", "inlib", [("lib/inlib.py", SHOW.encode())], env=("PYTHONPATH=lib",))
    yield case("of-zip-on-path", "inzip", [("lib.zip", archive([("inzip.py", SHOW)]))], env=("PYTHONPATH=lib.zip",))
    yield case("safe-path", "mod", [("mod.py", SHOW.encode())], env=("PYTHONSAFEPATH=1",))
    yield case("unbuffered", "mod", [("mod.py", SHOW.encode())], env=("PYTHONUNBUFFERED=1",))
    yield case("shadow", "calendar", [("calendar.py", MINE + SHOW.encode())])
    yield case("shadow-package", "json", [("json/__init__.py", MINE), ("json/__main__.py", SHOW.encode())])
    yield case("imports-a-shadow", "mod", [("mod.py", TELL.format(name="calendar").encode()), ("calendar.py", MINE)])
    yield case("shadow-in-package", "pkg.mod", [("pkg/__init__.py", b""), ("pkg/calendar.py", MINE), ("pkg/mod.py", TELL.format(name="calendar").encode())])
    yield case("shadows-runpy", "mod", [("mod.py", SHOW.encode()), ("runpy.py", b"1 / 0\n")])
    yield case("compiled-only", "mod", [("mod.pyc", b"no code")])
    yield case("unicode", "\u7d50\u679c", [("\u7d50\u679c.py", SHOW.encode())])
    for number, (module, args) in enumerate(LIBRARY):
        yield case(f"library-{number}-{module.replace('/', '_')}", module, args=args)
    for name, program in (("absolute", ABSOLUTE), ("resource", RESOURCE), ("relative", "from . import beside\n")):
        yield from both(name, program)
    tell = TELL.format(name="calendar")
    yield plain.Case("folder-shadow", tell.encode(), "folder", script="app", files=(("app/calendar.py", MINE),))
    yield plain.Case("folder-shadow-beside-it", tell.encode(), "folder", script="app", files=(("calendar.py", MINE),))
    yield plain.Case("folder-that-is-a-package", SHOW.encode(), "folder", script="app", files=(("app/__init__.py", MINE),))
    yield plain.Case("folder-that-is-a-package-shadow", tell.encode(), "folder", script="app", files=(("app/__init__.py", b""), ("app/calendar.py", MINE)))
    yield plain.Case("folder-named-as-a-module", SHOW.encode(), "folder", script="json", files=())
    for name, files, script in (
        ("shadow", [("__main__.py", tell), ("calendar.py", MINE)], "app.pyz"),
        ("shadow-package", [("__main__.py", TELL.format(name="json")), ("json/__init__.py", MINE)], "app.pyz"),
        ("without-main", [("mod.py", SHOW)], "app.pyz"),
        ("named-py", [("__main__.py", SHOW)], "app.py"),
        ("empty", [], "app.pyz"),
    ):
        yield plain.Case(f"archive-{name}", archive(files), script=script)
    yield plain.Case("archive-broken", archive([("__main__.py", SHOW)])[:-30], script="app.pyz")
    yield plain.Case("archive-shadow-on-path", tell.encode(), files=(("lib.zip", archive([("calendar.py", MINE)])),), env=("PYTHONPATH=lib.zip",))


TABLE = [*modules(), *variables("python", VARIABLES), *variables("python-data", DATA_VARIABLES), *together(), *shadows(), *sources()]


@pytest.fixture(scope="module")
def results(mayfly, request, tmp_path_factory):
    return plain.run_both(mayfly, plain.selected(request, "case"), tmp_path_factory.mktemp("starts"))


@pytest.mark.parametrize("case", [pytest.param(case, id=str(case), marks=pytest.mark.slow if case.template == "python-data" else ())
                                  for case in TABLE])
def test_a_program_starts_as_under_the_interpreter(results, case):
    task, expected = results[case.name]
    assert str(task) == str(expected), case.source.decode("utf-8", "backslashreplace")


def test_the_table_knows_every_variable_of_the_interpreter(mayfly):
    told = mayfly.run("-t", "python", "-c", "import subprocess, sys; subprocess.run([sys.executable, '--help-env'])")
    names = set(re.findall(r"^(PYTHON\w*)\s*:", told["stdout"], re.MULTILINE))
    assert len(names) > 20 and names <= VARIABLES.keys(), names - VARIABLES.keys()


# --- values in modules ---------------------------------------------------------------

SCAN = (pathlib.Path(__file__).parent / "programs/scan.py").read_bytes()
# Values that may differ in a clone from those after a fresh import.
SAME_MEANING = {
    r"__mp_main__\.(?!__(file|spec|name)__)": "this program's own",
    r"sys\.path_importer_cache\[": "filled by what was imported from where",
    r"matplotlib\.dates\._epoch$": "found out at its first use",
    r"matplotlib\.pyplot\._REPL_DISPLAYHOOK\.": "found out at its first use",
    r"matplotlib\.transforms\.": "functions that are alike are told at the first place where they are found",
    r"PIL\.Image\._initialized$": "found out at its first use",
    r"pyparsing\.": "a grammar names its parts when it is first used",
    r"pandas\.core\.computation\.\w+\..*unsupported_nodes\[": "a set's order, by addresses",
    r"soupsieve\.css_parser\..*\._hash$": "made of addresses",
    r"mpl_toolkits\.__(loader__\._path|path__)\.": "a namespace's memory of sys.path, renewed at its next use",
}
UNITS = (1, 10**3, 10**6, 10**9)
ADDRESSES = range(1 << 43, 1 << 48)
# A clock's value that is rounded, and the test's own reading of it, may be this much apart.
CLOCK_SLACK_S = 0.1


@dataclasses.dataclass(frozen=True)
class Scan:
    values: dict
    attributes: list
    began: dict
    ended: dict
    pid: int
    thread: int

    def kind(self, path):
        """The kind of a value that two plain runs do not share: (clock, unit), pid, thread, address or random."""
        name, told = self.values[path]
        if name not in ("int", "float") or not re.fullmatch(r"-?[\d.]+", told):
            return "random"
        value = float(told)
        if name == "int" and int(told) in (self.pid, self.thread):
            return "pid" if int(told) == self.pid else "thread"
        for clock in self.began:
            for unit in UNITS:
                # The interpreter itself started a little earlier.
                if (self.began[clock] - 60) * unit <= value <= (self.ended[clock] + CLOCK_SLACK_S) * unit and value > 1000 * unit:
                    return clock, unit
        return "address" if name == "int" and int(told) in ADDRESSES else "random"


@pytest.fixture(scope="module", params=["python", pytest.param("python-data", marks=pytest.mark.slow)])
def scans(mayfly, request, tmp_path_factory):
    """Three plain runs, then two clones, and the clocks in between."""
    template = request.param
    manifest = tomllib.loads((TOP / f"templates/{template}/manifest.toml").read_text())
    case = plain.Case("scan", SCAN, args=tuple(manifest["zygote"]["preload"]), template=template)
    folder = tmp_path_factory.mktemp("scan")
    runs = plain.run_plain(mayfly, [case] * 3, folder / "plain")
    now = {"wall": time.time(), "monotonic": time.monotonic()}
    runs += [plain.run_as_task(mayfly, case, folder / f"task-{number}") for number in range(2)]
    assert all(run.code == 0 for run in runs), [run.stderr for run in runs]
    found = [Scan(**json.loads(zlib.decompress(bytes.fromhex(run.stdout)))) for run in runs]
    return found[:3], found[3:], now


def excused(path):
    return any(re.match(pattern, path) for pattern in SAME_MEANING)


def volatile(runs):
    """Paths of values in which the plain runs differ."""
    common = set.intersection(*(set(run.values) for run in runs))
    return {path for path in common if any(run.values[path] != runs[0].values[path] for run in runs)}


def test_what_an_import_computes_is_the_task_s(scans):
    """Times are not older than the task, processes and threads are its own, random values are in no other clone."""
    runs, clones, now = scans
    stale = []
    seen = set()
    for path in sorted(volatile(runs)):
        kinds = {run.kind(path) for run in runs}
        if excused(path) or kinds == {"address"} or any(path not in clone.values for clone in clones):
            continue
        assert len(kinds) == 1, f"{path} is of several kinds: {kinds}"
        kind = kinds.pop()
        seen.add(kind if isinstance(kind, str) else "time")
        told = [clone.values[path][1] for clone in clones]
        if kind == "random":
            fresh = told[0] != told[1]
        elif kind in ("pid", "thread"):
            fresh = all(int(value) == getattr(clone, kind) for value, clone in zip(told, clones))
        else:
            clock, unit = kind
            fresh = all(float(value) >= (now[clock] - CLOCK_SLACK_S) * unit for value in told)
        if not fresh:
            stale.append(f"{path} ({kind}): {told}, plain {[run.values[path][1] for run in runs]}")
    # logging's start, the main thread, random's state: the scan must find these known values.
    assert seen == {"time", "pid", "thread", "random"}, seen
    assert not stale, "\n".join(stale)


def test_what_modules_hold_is_as_after_a_fresh_import(scans):
    runs, clones, _ = scans
    same = set.intersection(*(set(run.values) for run in runs)) - volatile(runs)
    assert len(same) > 30_000
    other = [f"{path}: {clone.values[path]}, plain {runs[0].values[path]}" for clone in clones for path in sorted(same)
             if path in clone.values and clone.values[path] != runs[0].values[path] and not excused(path)]
    gone = [name for clone in clones for name in sorted(set(runs[0].attributes) - set(clone.attributes)) if not excused(name)]
    assert not other and not gone, "\n".join([*other, "not there: " + ", ".join(gone)])


# Variables that the interpreter and the modules read at import, and that a task may set to any value without an
# effect, each with the reason.
READ_IN_VAIN = {
    "__PYVENV_LAUNCHER__": "macOS",
}
READS = """
import os, sys
names = set()
class Recorder(os._Environ):
    def __getitem__(self, name):
        names.add(name if isinstance(name, str) else os.fsdecode(name))
        return super().__getitem__(name)
os.environ.__class__ = Recorder
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
print('\\n'.join(sorted(names)))
"""


@pytest.mark.parametrize("template", ["python", "python-data"])
def test_the_table_knows_every_variable_that_an_import_reads(mayfly, tmp_path, template):
    manifest = tomllib.loads((TOP / f"templates/{template}/manifest.toml").read_text())
    case = plain.Case("reads", READS.encode(), args=tuple(manifest["zygote"]["preload"]), template=template)
    [found] = plain.run_plain(mayfly, [case], tmp_path / "plain")
    assert found.code == 0, found
    names = set(found.stdout.split())
    known = VARIABLES.keys() | (DATA_VARIABLES.keys() if template == "python-data" else set())
    assert "PYTHONTZPATH" in names and names <= known, names - known


# --- cores ---------------------------------------------------------------------------

CORES = """
import concurrent.futures, json, multiprocessing, os, subprocess, sys
child = 'import os; print(os.cpu_count(), os.process_cpu_count())'
told = {
    'os.cpu_count': os.cpu_count(), 'os.process_cpu_count': os.process_cpu_count(), 'multiprocessing.cpu_count': multiprocessing.cpu_count(),
    'threads': concurrent.futures.ThreadPoolExecutor()._max_workers - 4,
    'processes': concurrent.futures.ProcessPoolExecutor()._max_workers,
    'child': subprocess.run([sys.executable, '-c', child], capture_output=True, text=True).stdout.split(),
}
if __name__ == '__main__':
    with multiprocessing.Pool() as pool:
        told['pool'] = pool._processes
        told['work'] = pool.map(abs, range(-3, 0))
    print(json.dumps(told))
"""


@pytest.mark.parametrize("cpus", [None, 0.5, 1, 1.5, 3])
@pytest.mark.parametrize("template", ["python", "python-data"])
def test_cores_are_counted_by_the_share_that_the_task_has(mayfly, template, cpus):
    result = mayfly.run("-t", template, *(("--cpus", cpus) if cpus else ()), "-c", CORES)
    assert result["verdict"] == "succeeded", result
    cores = math.ceil(cpus or 1)
    assert json.loads(result["stdout"]) == {
        **dict.fromkeys(("os.cpu_count", "os.process_cpu_count", "multiprocessing.cpu_count", "threads", "processes", "pool"), cores),
        "child": [str(cores)] * 2, "work": [3, 2, 1]}


def test_a_task_may_say_how_many_cores_there_are(mayfly):
    result = mayfly.run("--cpus", 1, "--env", "PYTHON_CPU_COUNT=5", "-c", "import os; print(os.cpu_count())")
    assert result["stdout"] == "5\n", result
