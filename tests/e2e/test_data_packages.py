"""python-data's packages: complete, computing correctly, and with every letter of a chart.

What a task does is told by the task itself, as JSON or by its exit code.
"""

import json
import os
import pathlib
import subprocess

import pytest

from pool_view import make_templates
from test_lifecycle import Daemon, await_that, read

START_SECONDS_MAX = 400  # a zygote that is refused, on a busy machine
BIG = ("--memory", "2GiB", "--timeout", "10m", "--cpu-time", "10m")

# Imports each public module below the folders of packages, with a child for each package. So no
# package hides that another one lacks a module, and a module that kills the interpreter is
# reported.
IMPORT_ALL = r"""
import importlib, importlib.machinery, json, os, pathlib, warnings

FOLDERS = ("/usr/lib/python3/dist-packages", "/usr/local/lib/python3.13/dist-packages")
LEFT_OUT = {"tests", "conftest", "setup", "__main__"}
ENDS = tuple(importlib.machinery.all_suffixes())

def modules(folder, before=""):
    for path in sorted(folder.iterdir()):
        name = path.name.split(".")[0]
        if name.startswith("_") or name in LEFT_OUT or not name.isidentifier():
            continue
        if path.is_dir() and "." not in path.name:
            found = sorted(modules(path, before + name + "."))
            if found or (path / "__init__.py").exists():
                yield before + name
                yield from found
        elif path.name.endswith(ENDS):
            yield before + name

packages = {}
for folder in FOLDERS:
    for name in modules(pathlib.Path(folder)):
        packages.setdefault(name.split(".")[0], []).append(name)
warnings.simplefilter("ignore")
told, failed = open(os.dup(1), "w"), {}
os.dup2(os.open("/dev/null", os.O_WRONLY), 1)  # some modules print
for package, names in packages.items():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        wrong = {}
        for name in names:
            try:
                importlib.import_module(name)
            except BaseException as error:
                wrong[name] = f"{type(error).__name__}: {error}"
            if len(os.listdir("/proc/self/task")) != 1:
                wrong.setdefault(name, "started a thread")
        with open(write, "w") as file:
            json.dump(wrong, file)
        os._exit(0)
    os.close(write)
    with open(read) as file:
        wrong = file.read()
    status = os.waitpid(child, 0)[1]
    failed.update(json.loads(wrong) if status == 0 else {package: f"ended the interpreter: {status}"})
print(json.dumps({"names": sum(packages.values(), []), "failed": failed}), file=told)
"""

# Modules that need something outside the image; their error names it.
OPTIONAL = {
    "OpenSSL", "aiohttp", "bokeh", "cairo", "cattrs", "dask", "docutils", "freetype", "fuse", "genshi", "h2",
    "ipykernel", "libarchive", "msgpack", "olefile", "panel", "paramiko", "pathops", "pyarrow", "pygit2", "pyglet",
    "pytest", "railroad", "reportlab", "six", "smbclient", "socks", "wx",
    "Quartz", "js", "msvcrt", "winreg",  # modules of other systems
}
# module: (a part of its error, why the error is right)
REFUSED = {
    "lxml.html.clean": ("a separate project", "Debian has it as a package of its own"),
    "lxml.html.usedoctest": ("Could not find doctest", "works below doctest only"),
    "lxml.usedoctest": ("Could not find doctest", "works below doctest only"),
    "matplotlib.backends.backend_macosx": ("_macosx", "of another system"),
    "matplotlib.backends.backend_webagg": ("Tornado", "a window in a browser"),
    "scipy.special.libsf_error_state": ("PyInit_libsf_error_state", "a library that scipy's modules share"),
    "sympy.galgebra": ("maintained separately", "sympy gave it away"),
    "sympy.plotting.pygletplot.plot": ("pyglet is required", "a window"),
    "urllib3.contrib.emscripten": ("'js'", "a browser's"),
}
TOOLKITS = ("cairo backend requires", "backends require PyGObject", "Qt binding modules")  # windows


def is_right(module, error):
    if module in REFUSED:
        return REFUSED[module][0] in error
    if module.startswith("matplotlib.backends.") and any(words in error for words in TOOLKITS):
        return True
    return error.startswith("ModuleNotFoundError: No module named '") and error.split("'")[1] in OPTIONAL


@pytest.mark.slow
def test_every_public_module_of_every_package_can_be_imported(mayfly):
    result = mayfly.run("-t", "python-data", *BIG, "-c", IMPORT_ALL)
    assert result["verdict"] == "succeeded", result
    told = json.loads(result["stdout"])
    assert len(told["names"]) > 2500
    assert {"numpy.testing", "scipy.stats", "sympy.utilities.lambdify", "sklearn.linear_model", "fastparquet.writer",
            "requests.sessions", "lxml.etree", "PIL.Image", "seaborn.axisgrid", "xlrd.book"} <= set(told["names"])
    wrong = {module: error for module, error in told["failed"].items() if not is_right(module, error)}
    assert not wrong, json.dumps(wrong, indent=1)
    assert len(told["failed"]) < 120


USES = {
    "numpy_all": "from numpy import *\nassert testing.assert_allclose([1.0], [1.0]) is None and f2py and ma.array([1]).sum() == 1",
    "numpy_testing": "import numpy as np\nnp.testing.assert_array_equal([1, 2], np.arange(1, 3))",
    "scipy_stats": "import scipy.stats\nassert abs(scipy.stats.norm.cdf(1.96) - 0.975) < 1e-4",
    "scipy_rest": """
import numpy as np
from scipy import fft, integrate, interpolate, linalg, ndimage, optimize, signal, sparse, spatial
assert abs(optimize.brentq(np.cos, 0, 3) - np.pi / 2) < 1e-9 and abs(integrate.quad(np.sin, 0, np.pi)[0] - 2) < 1e-9
assert np.allclose(linalg.expm(np.zeros((3, 3))), np.eye(3)) and spatial.KDTree([[0, 0], [1, 1]]).query([0.9, 1])[1] == 1
""",
    "lambdify": """
import sympy
x = sympy.symbols('x')
assert sympy.lambdify(x, sympy.sin(x) ** 2 + sympy.cos(x) ** 2, 'numpy')(1.0) == 1.0
assert sympy.integrate(1 / x, x) == sympy.log(x) and sympy.latex(x ** 2) == 'x^{2}'
""",
    "pandas_cubic": """
import pandas as pd
assert abs(pd.Series([0, 1, None, 27, 64]).interpolate('cubic')[2] - 8) < 1e-6
""",
    "sklearn": """
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
x = np.arange(40.0).reshape(-1, 1)
assert abs(make_pipeline(StandardScaler(), LinearRegression()).fit(x, 3 * x[:, 0] + 1).predict([[100]])[0] - 301) < 1e-6
a, b, c, d = train_test_split(x, x[:, 0] > 20, random_state=0)
assert RandomForestClassifier(10, random_state=0).fit(a, c).score(b, d) > 0.8
""",
    "parquet": """
import pandas as pd
old = pd.DataFrame({'n': [1, 2], 's': ['a', None], 't': pd.to_datetime(['2020-01-01', '2021-01-01'])})
old.to_parquet('/tmp/x.parquet')
new = pd.read_parquet('/tmp/x.parquet')
assert new.n.tolist() == [1, 2] and new.s[0] == 'a' and new.t.equals(old.t), new
""",
    "excel": """
import pandas as pd
for engine in ('openpyxl', 'xlsxwriter'):
    pd.DataFrame({'a': [1, 2]}).to_excel('/tmp/x.xlsx', engine=engine, index=False)
    assert pd.read_excel('/tmp/x.xlsx').a.sum() == 3
""",
    "xlrd": "import xlrd\ntry:\n    xlrd.open_workbook(file_contents=b'PK')\nexcept xlrd.XLRDError:\n    pass\nelse:\n    raise SystemExit(1)",
    "html": """
import io, bs4, lxml.html, pandas as pd
page = '<table><tr><th>a</th></tr><tr><td>1</td></tr></table>'
for parser in ('html.parser', 'lxml', 'html5lib'):
    assert bs4.BeautifulSoup(page, parser).td.text == '1'
assert lxml.html.fromstring(page).cssselect('td')[0].text == '1'
assert pd.read_html(io.StringIO(page))[0].a[0] == 1 and pd.read_html(io.StringIO(page), flavor='bs4')[0].a[0] == 1
""",
    "text": """
import jinja2, tabulate, yaml, pandas as pd
assert jinja2.Template('{{ x + 1 }}').render(x=1) == '2' and yaml.safe_load('a: [1]') == {'a': [1]}
assert tabulate.tabulate([[1, 2]], headers=['a', 'b']) and '|' in pd.DataFrame({'a': [1]}).to_markdown()
assert '#' in pd.DataFrame({'a': [1]}).style.highlight_max(color='#ff0000').to_html()
""",
    "pillow": """
from PIL import Image, ImageDraw, ImageFont
image = Image.new('RGB', (200, 40), 'white')
ImageDraw.Draw(image).text((2, 2), 'text', 'black', ImageFont.truetype('DejaVuSans.ttf', 20))
for kind in ('png', 'jpeg', 'webp', 'tiff', 'gif'):
    image.save('/tmp/x.' + kind)
    assert Image.open('/tmp/x.' + kind).size == (200, 40)
""",
    "seaborn": """
import pandas as pd, seaborn as sns
sns.set_theme()
sns.lmplot(pd.DataFrame({'x': [1, 2, 3, 4], 'y': [1.0, 2.1, 2.9, 4.2]}), x='x', y='y').savefig('/tmp/x.png')
""",
    "requests_without_network": """
import requests
try:
    requests.get('https://127.0.0.1:9/', timeout=5)
except requests.ConnectionError:
    pass
else:
    raise SystemExit(1)
""",
    "old_time_zones": "import zoneinfo\nfor name in ('US/Eastern', 'Japan', 'EST'):\n    zoneinfo.ZoneInfo(name)",
}


@pytest.mark.parametrize("name", USES)
def test_what_scripts_use_works(mayfly, name):
    result = mayfly.run("-t", "python-data", "-c", USES[name])
    assert result["verdict"] == "succeeded", result["stderr"]


# --- linear algebra

BLAS = """
import ctypes, json, os
import numpy as np
lib = ctypes.PyDLL("libblas.so.3")
lib.openblas_get_config.restype = ctypes.c_char_p
a = np.random.default_rng(1).integers(-9, 9, (700, 700))
right = bool(np.array_equal(a.astype(float) @ a.astype(float), a @ a))  # for integers numpy uses its own loops
print(json.dumps([lib.openblas_get_config().decode().split()[0], right, lib.openblas_get_num_threads(),
                  len(os.listdir("/proc/self/task"))]))
"""


def test_numpy_computes_by_openblas_in_one_thread(mayfly):
    result = mayfly.run("-t", "python-data", "-c", BLAS)
    assert json.loads(result["stdout"]) == ["OpenBLAS", True, 1, 1], result


@pytest.mark.parametrize("how", ["clone", "child"])
def test_with_two_processors_the_results_are_the_same(mayfly, how):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("OpenBLAS starts no more threads than there are processors, and here is one")
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BLAS!r}], check=True)"
    result = mayfly.run("-t", "python-data", "--cpus", "2", "-c", BLAS if how == "clone" else child)
    assert not result["usage"]["freshRuntime"]
    assert json.loads(result["stdout"]) == ["OpenBLAS", True, 2, 2], result


def test_threads_are_those_that_the_environment_names(mayfly):
    say = "import ctypes; print(ctypes.PyDLL('libblas.so.3').openblas_get_num_threads())"
    for options, threads in (((), 1), (("--cpus", "0.5"), 1), (("--cpus", "2", "--env", "OPENBLAS_NUM_THREADS=1"), 1)):
        result = mayfly.run("-t", "python-data", *options, "-c", say)
        assert result["stdout"] == f"{threads}\n", result


# Functions of BLAS and LAPACK that numpy calls. The test must notice each of them when it returns
# at once.
CALLED = {
    "libblas.so.3": ["cblas_dgemm", "cblas_sgemm", "cblas_zgemm", "cblas_cgemm", "cblas_dsyrk", "cblas_ssyrk", "cblas_dgemv",
                     "cblas_sgemv", "cblas_zgemv", "cblas_cgemv", "cblas_ddot", "cblas_sdot", "cblas_zdotu_sub",
                     "cblas_cdotu_sub"],
    "liblapack.so.3": ["dgesv_", "zgesv_", "dpotrf_", "zpotrf_", "dgeqrf_", "zgeqrf_", "dorgqr_", "dgesdd_", "zgesdd_", "dsyevd_",
                       "zheevd_", "dgeev_", "zgeev_"],
}
PLANT = """
import ctypes, json, os, sys
with open("/usr/lib/mayfly/check_blas.py") as file:
    exec(compile(file.read(), file.name, "exec"))
found = {"none": find_fault()}
for library, names in json.loads(sys.argv[1]).items():
    for name in names:
        at = ctypes.cast(getattr(ctypes.PyDLL(library), name), ctypes.c_void_p).value
        child = os.fork()
        if child == 0:
            assert ctypes.PyDLL(None).mprotect(ctypes.c_void_p(at & ~4095), 8192, 7) == 0
            ctypes.c_ubyte.from_address(at).value = 0xC3  # ret
            try:
                refuse_wrong_results()
                os._exit(1)
            except ArithmeticError as fault:
                os._exit(0 if "set OPENBLAS_CORETYPE (" in str(fault) else 2)
        found[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(found))
"""


def test_the_check_finds_each_function_that_computes_nothing(mayfly):
    if os.uname().machine != "x86_64":
        pytest.skip("the planted instruction is x86-64's")
    result = mayfly.run("-t", "python-data", *BIG, "-c", PLANT, json.dumps(CALLED))
    assert result["verdict"] == "succeeded", result
    assert json.loads(result["stdout"]) == {"none": None, **{name: 0 for names in CALLED.values() for name in names}}


def test_a_template_whose_kernels_this_processor_cannot_run_is_refused(tmp_path):
    """Bulldozer's kernels have FMA4 instructions, which no other processor has."""
    with open("/proc/cpuinfo") as file:
        if " fma4 " in file.read():
            pytest.skip("this processor has FMA4")
    state = pathlib.Path(os.environ.get("MAYFLY_STATE_DIR", "/var/lib/mayfly"))
    argv = ["/usr/bin/env", "OPENBLAS_CORETYPE=Bulldozer", "/usr/bin/python3", "/usr/lib/mayfly/zygote.py"]
    options = make_templates(tmp_path, {"wrong": f"[zygote]\nargv = {json.dumps(argv)}\n"}, base="python-data",
                             image=state / "index/python-data.json")
    folder = pathlib.Path("/run") / f"mayfly-test-data-{os.getpid()}"
    folder.mkdir(mode=0o755)
    daemon = Daemon(folder, **options)
    with open(os.devnull, "wb") as null:
        daemon.process = daemon.spawn(null.fileno())
    try:
        await_that(lambda: "template 'wrong' is starting: " in read(daemon.log), "its start has failed", START_SECONDS_MAX)
        said = read(daemon.log)
        assert "OpenBLAS/Bulldozer is wrong on" in said and "set OPENBLAS_CORETYPE" in said, said
        assert "template 'wrong' is ready" not in said, said
    finally:
        daemon.end()
        subprocess.run(["rm", "-rf", str(folder)], check=True)


GENERATORS = """
import json, random, sys
import numpy as np
kinds = (random.Random, np.random.RandomState, np.random.Generator)
found = {}
for name, module in list(sys.modules.items()):
    for key, value in list(getattr(module, "__dict__", {}).items()):
        owner = getattr(value, "__self__", value)
        if isinstance(owner, kinds) and type(owner) is not random.SystemRandom:
            found.setdefault(id(owner), (f"{name}.{key}", owner))
print(json.dumps({name: [owner.random() for _ in range(3)] for name, owner in found.values()}))
"""


def test_no_generator_of_a_preloaded_package_is_the_same_in_two_clones(mayfly):
    one, other = (json.loads(mayfly.run("-t", "python-data", "-c", GENERATORS)["stdout"]) for _ in range(2))
    assert one.keys() == other.keys() and len(one) >= 2, one
    assert not [name for name in one if one[name] == other[name]]
    assert len({tuple(drawn) for drawn in one.values()}) == len(one)


# --- letters

LETTERS = {"Chinese": "结果 繁體", "Japanese": "日本語 グラフ", "Korean": "한국어 결과", "Hindi": "हिन्दी परिणाम",
           "Arabic": "عربي النتائج", "Hebrew": "עברית", "Persian": "فارسی"}
# The usual lines of scripts before they draw.
STYLES = {
    "plain": "",
    "serif": "plt.rcParams['font.family'] = 'serif'",
    "missing": "plt.rcParams['font.sans-serif'] = ['SimHei', 'Arial Unicode MS']; plt.rcParams['font.family'] = 'SimHei'",
    "seaborn": "import seaborn; seaborn.set_theme()",
    "style": "plt.style.use('seaborn-v0_8'); plt.rcParams['font.weight'] = 'bold'",
}
CHART = """
import hashlib, io, json, sys, warnings
import matplotlib.font_manager as fonts
import matplotlib.pyplot as plt
warnings.filterwarnings("error", message="Glyph")
style, letters = sys.argv[1], json.loads(sys.argv[2])
exec(style)
def drawn(text, suffix="png"):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.set_title(text)
    axes.plot([1, 2, 3], label=text)
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format=suffix)
    plt.close(figure)
    return hashlib.sha256(file.getvalue()).hexdigest()
told = {"pictures": {name: drawn(text) for name, text in letters.items()}, "English": drawn("Result: fifty - 5%")}
for suffix in ("pdf", "svg"):
    for text in letters.values():
        drawn(text, suffix)
fonts._fonts_of_other_scripts = list  # restored: a letter that the text's own fonts lack is a box
warnings.filterwarnings("ignore", message="Glyph")
told["boxes"] = {name: drawn(text) for name, text in letters.items()}
told["English as it was"] = drawn("Result: fifty - 5%")
print(json.dumps(told))
"""


@pytest.mark.parametrize("style", STYLES)
def test_a_chart_has_the_letters_of_each_script(mayfly, style):
    result = mayfly.run("-t", "python-data", "-c", CHART, STYLES[style], json.dumps(LETTERS))
    assert result["verdict"] == "succeeded", result["stderr"]
    told = json.loads(result["stdout"])
    own = {"Arabic", "Hebrew", "Persian"} if style != "serif" else set()  # DejaVu Sans has them itself
    same = {name for name in LETTERS if told["pictures"][name] == told["boxes"][name]}
    assert same == own, told
    assert told["English"] == told["English as it was"]
