"""The test suites of lodash, commander, zod and express, in restored clones and under plain node.

Each suite runs in a clone of a template that `mayfly template init --base node` began and whose
zygote has the four packages loaded, and under plain node in the same image, in bubblewrap. Every
single test of a suite ends the same way on both sides.

zod's package on npm has its tests. The other three publish none (in no version): theirs come from
the project's own archive of the same version, which Debian's archive keeps as the source of its
package. Both are pinned: npm's by the template's lock, Debian's by a checksum.
"""

import collections
import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile

import pytest

from template_place import CACHE, Place, registries  # noqa: F401 (a fixture)
from test_lifecycle import TOP, daemons  # noqa: F401 (a fixture)

NAME = "npm-suites"
PACKAGES = ["lodash@4.17.21", "commander@9.4.1", "zod@4.1.12", "express@4.18.2"]
PRELOAD = ["lodash", "commander", "zod", "express"]
# What the suites themselves need: their runners, and what they load.
NEEDED = ["qunitjs@2.4.1", "qunit-extras@3.0.0", "mocha@10.0.0", "supertest@6.3.0", "jest@28.1.3", "vitest@3.2.4", "after@0.8.2",
          "cookie-parser@1.4.6", "cookie-session@2.0.0", "ejs@3.1.8", "express-session@1.17.2", "hbs@4.2.0", "marked@0.7.0", "method-override@3.0.0",
          "morgan@1.10.0", "multiparty@4.2.3", "pbkdf2-password@1.2.1", "vhost@3.0.2", "recheck@4.4.5", "@web-std/file@3.0.3",
          "@seriousme/openapi-schema-validator@2.2.5"]
WITHOUT_SCRIPTS = ["esbuild"]
# Debian's source archives: (file below pool/main/n, sha256, what of it, where it goes below /task)
SOURCES = [
    ("node-lodash/node-lodash_4.17.21+dfsg+~cs8.31.198.20210220.orig.tar.xz", "3a1cfd932d2170c852b27a9b723d4cf0c2dbe72ccf400f10812de8542d046fde",
     ("test",), "lodash"),
    ("node-express/node-express_4.18.2+~4.17.14.orig.tar.gz", "a9ace1a92a2b0a7e3fcd7a7612553d6208a464561c15ad38f349fc3ab0d7cda0",
     ("test", "examples"), "express"),
    ("node-commander/node-commander_9.4.1.orig.tar.gz", "591ba7850546f51a710a776f9271f1401a08b0e2b831cbbc8354415273a9da12",
     ("tests", "examples"), "commander"),
]
BUSY_MS = 60_000  # of a test that waits for a server or a child, on a busy machine
RUN_SECONDS_MAX = 300

# The suites of lodash and express test the very modules that the zygote has loaded: links lead to them. The runners of the
# other two load a package themselves, and leave out whatever lies below a node_modules. Each program leaves results.json.
PROGRAMS = {
    "lodash": """
unpack();
link('lodash', 'lodash.js', 'fp');
copy('lodash', '/task/lodash/node_modules/');  // its suite checks by a second one
const QUnit = require('/node_modules/qunit-extras'), results = [];
QUnit.testDone((test) => results.push({ name: `${test.module}: ${test.name} (${test.total})`, ended: test.failed ? 'failed' : 'passed' }));
process.on('exit', () => fs.writeFileSync('/task/out/results.json', JSON.stringify(results)));
process.chdir('/task/lodash');
process.argv[1] = '/task/lodash/test/test.js';
require('/task/lodash/test/test.js');
""",
    "commander": f"""
copy('commander', '/task/');
unpack();
const config = {{ rootDir: '/task/commander', testEnvironment: 'node', transform: {{}}, testTimeout: {BUSY_MS}, testPathIgnorePatterns: ['\\\\.ts$'],
  cacheDirectory: '/tmp/jest' }};
process.argv.push('--runInBand', '--json', '--watchman=false', '--outputFile=/task/out/results.json', '--config=' + JSON.stringify(config));
require('/node_modules/jest/bin/jest.js');
""",
    # The left out test searches for an expensive pattern until its time is over.
    "zod": f"""
copy('zod', '/task/');
import('/node_modules/vitest/dist/node.js').then(async ({{ startVitest }}) => {{
  const runner = await startVitest('test', [], {{ root: '/task/zod', watch: false, pool: 'threads', poolOptions: {{ threads: {{ singleThread: true }} }},
    reporters: ['json'], outputFile: '/task/out/results.json', include: ['src/**/*.test.ts'], testTimeout: {BUSY_MS},
    testNamePattern: '^(?!redos checker)' }},
    {{ configFile: false, cacheDir: '/tmp/vite', resolve: {{ conditions: ['@zod/source'] }} }});
  await runner.close();
}});
""",
    "express": f"""
unpack();
link('express', 'index.js', 'lib', 'package.json');
process.chdir('/task/express');
process.argv.push('--require', 'test/support/env', '--timeout', '{BUSY_MS}', '--check-leaks', '--reporter', 'json', '--reporter-option',
  'output=/task/out/results.json', 'test/', 'test/acceptance/');
require('/node_modules/mocha/lib/cli/cli.js').main();
""",
}
BEGIN = """
const fs = require('fs'), run = (...words) => require('child_process').execFileSync(words[0], words.slice(1));
const unpack = () => run('tar', '-C', '/task', '-xf', '/task/suites.tar');
const copy = (name, to) => { fs.mkdirSync(to, { recursive: true }); run('cp', '-r', `/node_modules/${name}`, to); };
const link = (name, ...files) => files.forEach((file) => fs.symlinkSync(`/node_modules/${name}/${file}`, `/task/${name}/${file}`));
"""
# The fewest tests that a whole suite has; and the most of them that fail under plain node, which is newer than they are.
LEAST = {"lodash": 3_095, "commander": 1_042, "zod": 1_553, "express": 1_264}
FAILING_MOST = {"lodash": 0, "commander": 0, "zod": 0, "express": 6}


def debians_archive():
    """The URL of Debian's archive in this machine's own apt sources."""
    listing = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages", "Origin: Debian",
                              "Component: main"], capture_output=True, text=True, check=True).stdout
    found = sorted((line.split() for line in listing.splitlines() if len(line.split()) == 2), key=lambda words: "-" in words[1])
    assert found, "apt knows no source of Debian's packages; run apt-get update"
    return found[0][0].rstrip("/")


def source(file, checksum):
    """The archive's path; it is downloaded once, as apt downloads."""
    kept = CACHE / "sources" / checksum
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        new = kept.with_name(checksum + ".new")
        subprocess.run(["/usr/lib/apt/apt-helper", "download-file", f"{debians_archive()}/pool/main/n/{file}", str(new), f"SHA256:{checksum}"],
                       check=True, capture_output=True, timeout=300)
        new.replace(kept)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == checksum, kept
    return kept


def pack_suites(path):
    """One archive of the suites, at their places below /task."""
    with tarfile.open(path, "w") as out:
        for file, checksum, wanted, place in SOURCES:
            with tarfile.open(source(file, checksum)) as archive:
                for member in archive:
                    _, _, inner = member.name.partition("/")
                    if inner.split("/")[0] in wanted and (member.isfile() or member.issym()):
                        content = archive.extractfile(member).read() if member.isfile() else b""
                        member.name = f"{place}/{inner}"
                        out.addfile(member, io.BytesIO(content))


def uncomment(manifest, line, text):
    """Puts `text` in the place of the commented line of a manifest that `template init` wrote."""
    manifest, count = re.subn(rf"(?m)^# {line}.*$", lambda _: text, manifest)
    assert count == 1, (line, manifest)
    return manifest


def write_template(place):
    place("init", NAME, "--base", "node", check=0)
    path = place.dir / NAME / "manifest.toml"
    words = json.dumps
    text = uncomment(path.read_text(), "npm = ", f"npm = {words(PACKAGES + NEEDED)}\nnpm_without_scripts = {words(WITHOUT_SCRIPTS)}")
    text = uncomment(text, "preload = ", f"preload = {words(PRELOAD)}")
    path.write_text(text)


@pytest.fixture(scope="module")
def sides(registries, tmp_path_factory):  # noqa: F811
    """(the template's place, its image's root, the suites)"""
    folder = tmp_path_factory.mktemp("suites")
    place = Place(folder / "place")
    write_template(place)
    place("build", NAME, check=0)
    pack_suites(folder / "suites.tar")
    with place.root(NAME, folder / "root") as root:
        yield place, root, folder / "suites.tar"


def results_of(path):
    """Every test's name, with how it ended, as often as it ran."""
    said = json.loads(path.read_text())
    if isinstance(said, list):
        ends = [(test["name"], test["ended"]) for test in said]
    elif "stats" in said:
        failed = {id(test) for test in said["tests"] if test["err"]}
        ends = [(test["fullTitle"], "failed" if id(test) in failed else "passed") for test in said["tests"]]
    else:
        ends = [(f"{file['name'].rpartition('/')[2]}: {test['fullName']}", test["status"]) for file in said["testResults"] for test in file["assertionResults"]]
        ends += [(file["name"], file["status"]) for file in said["testResults"] if not file["assertionResults"]]
    return collections.Counter(ends)


def run_boxed(daemon, program, suites, folder):
    folder.mkdir()
    (folder / "suite.js").write_text(BEGIN + program)
    result = daemon.cli.run("-t", NAME, "--memory", "2GiB", "--disk", "512MiB", "--pids", "256", "--timeout", f"{RUN_SECONDS_MAX}s", "--cpu-time",
                            f"{RUN_SECONDS_MAX}s", "--cpus", "2", "--file", suites, "--out", folder, folder / "suite.js", timeout=RUN_SECONDS_MAX + 60)
    assert (folder / "results.json").exists(), result
    assert result["verdict"] in ("succeeded", "failed") and result["receipt"]["complete"], result
    assert not result["usage"]["freshRuntime"], "the suite ran in a new node, and not in the restored one"
    return results_of(folder / "results.json")


def run_plain(root, program, suites, folder):
    """The same program by the image's own node: the same user, files, variables, and a network of its own."""
    (folder / "out").mkdir(parents=True)
    (folder / "suite.js").write_text(BEGIN + program)
    shutil.copy(suites, folder)
    for path in (folder, folder / "out"):
        path.chmod(0o777)
    env = json.loads((root / "usr/lib/mayfly/template.json").read_text())["task_env"]
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--uid", "1000", "--gid", "1000", "--clearenv", "--ro-bind", str(root), "/", "--proc", "/proc",
             "--dev", "/dev", "--tmpfs", "/tmp", "--bind", str(folder), "/task", "--chdir", "/task", "--setenv", "PATH", "/usr/local/bin:/usr/bin:/bin"]
    for name, value in env.items():
        words += ["--setenv", name, value]
    done = subprocess.run([*words, "node", "/task/suite.js"], capture_output=True, timeout=RUN_SECONDS_MAX + 60)
    assert (folder / "out/results.json").exists(), (done.stdout[-2_000:], done.stderr[-2_000:])
    return results_of(folder / "out/results.json")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_packages_own_suite_ends_as_under_plain_node(sides, daemons, tmp_path, name):  # noqa: F811
    place, root, suites = sides
    daemon = daemons(state_dir=str(place.state), template_dirs=(place.dir, TOP / "templates"), templates=(NAME,))
    boxed = run_boxed(daemon, PROGRAMS[name], suites, tmp_path / "boxed")
    plain = run_plain(root, PROGRAMS[name], suites, tmp_path / "plain")
    print(f"{name}: {sum(boxed.values())} tests, {sum(n for (_, end), n in boxed.items() if end == 'passed')} passed in a box")
    assert boxed == plain, f"boxed only: {list((boxed - plain).items())[:10]}; plain only: {list((plain - boxed).items())[:10]}"
    assert sum(plain.values()) >= LEAST[name], sum(plain.values())
    assert sum(n for (_, end), n in plain.items() if end == "failed") <= FAILING_MOST[name], [each for each in plain if each[1] == "failed"]
