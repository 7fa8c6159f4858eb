"""Other runtimes by restore, each a folder alone: Ruby, Python, Python with polars' threads, Node with npm's packages."""

import json
import pathlib
import shutil

import pytest

from template_place import Place, registries  # noqa: F401 (a fixture)
from test_lifecycle import TOP, daemons  # noqa: F401 (a fixture)

# template: (manifest after its header, base; none: the folder of tests/templates), a program, its output
RUNTIMES = {
    "ruby": (None, None, "puts 6 * 7, Process.pid, ARGV.inspect; warn 'x'; exit 3", "42\n1000\n[\"one\"]\n", 3),
    "restored-python": ('mechanism = "restore"\n', "python", "import os, sys; print(6 * 7, os.getpid(), sys.argv); sys.exit(3)", "42 1000 ['-c', 'one']\n", 3),
    "restored-polars": ('mechanism = "restore"\n[image]\npip = ["polars"]\n[zygote]\nmemory = "1GiB"\npreload = ["polars"]\n', "python",
                        "import os, sys; assert 'polars' in sys.modules; import polars; print(polars.Series([1, 2, 3]).sum(), len(os.listdir('/proc/self/task')) > 1)",
                        "6 True\n", 0),
    "packed-node": ('[image]\nnpm = ["lodash@^4.17"]\n[zygote]\npreload = ["lodash"]\n', "node",
                    "console.log(Object.keys(require.cache).length, require('lodash').chunk([1, 2, 3], 2))", "1 [ [ 1, 2 ], [ 3 ] ]\n", 0),
}
DRAWS = {"ruby": "puts rand, SecureRandom.hex, Random.urandom(8).unpack1('H*')", "packed-node": "console.log(Math.random(), crypto.randomUUID())"}
PYTHON_DRAWS = "import os, random, secrets, uuid; print(random.random(), os.urandom(8).hex(), secrets.token_hex(), uuid.uuid4())"


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_needs_a_folder_and_nothing_else(registries, tmp_path, daemons, name):  # noqa: F811
    manifest, base, program, out, code = RUNTIMES[name]
    place = Place(tmp_path / "place")
    if base is None:
        shutil.copytree(TOP / "tests/templates" / name, place.dir / name)
    else:
        place.put(name, manifest, base)
    place("build", name, check=0)
    daemon = daemons(state_dir=str(place.state), template_dirs=(place.dir, TOP / "templates"), templates=(name,))
    result = daemon.cli.run("-t", name, "-c", program, "one")
    assert (result["stdout"], result["exitCode"]) == (out, code), result
    assert result["receipt"]["complete"]
    draws = [daemon.cli.run("-t", name, "-c", DRAWS.get(name, PYTHON_DRAWS))["stdout"] for _ in range(4)]
    assert len({word for draw in draws for word in draw.split()}) == sum(len(draw.split()) for draw in draws), draws
    [template] = json.loads(daemon.cli("templates", "--json").stdout)["templates"]
    assert template["mechanism"] == "restore" and template["state"] == "ready", template
    assert pathlib.Path(place.state, "snapshots").is_dir()
