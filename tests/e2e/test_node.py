"""The node template: restored clones run programs as node runs them.

Programs (`programs/node_ends.txt`) run as tasks and plain (`plain.py`): standard output and
error, exit code or signal, and the files in /task/out are equal. Then what every clone
promises: generators that differ, walls on all threads, verdicts, receipts.

What differs and is no fault: the frames of Node's own code below a program of `-c` or `-`
(Node's own function for it cannot be called from outside), process and task ids, times.
"""

import json
import re

import pytest

import plain
import programs

FRAMES = ((re.compile(r"\n    at [^\n]*(node:|\[eval\]-wrapper|\[stdin\]-wrapper|<anonymous>\)?$)[^\n]*"), ""), (re.compile(r"node:(internal/[\w/]+|vm):\d+"), "node:internal"))
MASKS = ((re.compile(r"\(node:\d+\)"), "(node:N)"), (re.compile(r"duration_ms:? [\d.]+"), "duration_ms N"))
FILES = {
    "data.json": (("data.json", b'{"a": 1}'),),
    "beside.js": (("beside.js", b"exports.value = 5;\n"),),
    "beside.mjs": (("beside.mjs", b"export const value = 7; export const url = import.meta.url;\n"), ("beside.js", b"exports.value = 5;\n")),
    "cycle.js": (("cycle.js", b"exports.seen = { ...require('./script.js') };\n"),),
    "throws.js": (("throws.js", b"\nthrow new Error('while loading');\n"),),
    "node_modules": (("node_modules/own-package/package.json", b'{"name": "own-package", "main": "lib/main.js"}'),
                     ("node_modules/own-package/lib/main.js", b"module.exports = 'own';\n"), ("node_modules/own-package/extra.js", b"module.exports = 'extra';\n"),
                     ("node_modules/fs/index.js", b"module.exports = 'shadow';\n")),
    "package.json": (("package.json", b'{"type": "module"}\n'),),
    "child.js": (("child.js", b"process.on('message', (m) => process.send({ got: m, argv: process.argv.slice(2) }));\n"),),
    "worker.js": (("worker.js", b"const { parentPort } = require('worker_threads'); parentPort.once('message', (m) => { parentPort.postMessage({ got: m, "
                                b"file: __filename }); throw new Error('at the end'); });\n"),),
}
SHOW = "console.log(process.env.NODE_OPTIONS, process.execArgv, process.argv.slice(2), new Date(0).toString(), Error.stackTraceLimit)"
VARIABLES = [("NODE_OPTIONS", "--stack-trace-limit=3"), ("NODE_OPTIONS", "--no-such-flag"), ("NODE_PATH", "/task/lib"), ("NODE_NO_WARNINGS", "1"),
             ("NODE_DEBUG", "timer"), ("NODE_DISABLE_COLORS", "1"), ("NO_COLOR", "1"), ("FORCE_COLOR", "1"), ("UV_THREADPOOL_SIZE", "2"), ("TZ", "Asia/Tokyo"),
             ("LANG", "xx_YY"), ("LC_ALL", "C"), ("HOME", "/tmp"), ("PATH", "/nosuch"), ("NODE_EXTRA_CA_CERTS", "/nosuch"), ("MINE", "x y")]


def table():
    for name, (text, options) in programs.read("node_ends.txt").items():
        kind = options.get("kind", "file")
        yield plain.Case(name, text.encode(), kind, template="node", script=options.get("script", ""), files=FILES.get(options.get("files"), ()),
                         masks=MASKS if kind == "file" else (*MASKS, *FRAMES))
    for number, (name, value) in enumerate(VARIABLES):
        yield plain.Case(f"{name}-{number}", SHOW.encode(), env=(f"{name}={value}",), template="node", masks=MASKS)


TABLE = list(table())


@pytest.fixture(scope="module")
def results(mayfly, request, tmp_path_factory):
    return plain.run_both(mayfly, plain.selected(request, "case"), tmp_path_factory.mktemp("node"))


# A third of the table is enough for every change; `./dev check` runs all.
@pytest.mark.parametrize("case", [pytest.param(case, id=str(case), marks=pytest.mark.slow if number % 3 else ())
                                  for number, case in enumerate(TABLE)])
def test_a_program_starts_and_ends_as_under_node(results, case):
    task, expected = results[case.name]
    assert str(task) == str(expected), case.source.decode()


# --- what every clone promises -----------------------------------------------------------

DRAWN = """
const crypto = require('crypto'), fs = require('fs'), vm = require('vm'), { Worker } = require('worker_threads');
const drawn = {
  random: Math.random(), later: Array.from({ length: 200 }, Math.random)[199], bytes: crypto.randomBytes(16).toString('hex'), uuid: crypto.randomUUID(),
  int: crypto.randomInt(2 ** 47), values: Buffer.from(crypto.webcrypto.getRandomValues(new Uint8Array(16))).toString('hex'),
  key: crypto.generateKeySync('aes', { length: 128 }).export().toString('hex'), context: vm.runInNewContext('Math.random()'),
  ec: crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'sec1', format: 'der' }).toString('hex'),
  temporary: fs.mkdtempSync('/tmp/'),
};
drawn.child = require('child_process').execFileSync('/bin/sh', ['-c', 'od -An -N16 -tx1 /dev/urandom']).toString();
crypto.randomBytes(16, (error, bytes) => {
  drawn.pool = bytes.toString('hex');
  new Worker('require("worker_threads").parentPort.postMessage([Math.random(), require("crypto").randomUUID()])', { eval: true })
    .on('message', (values) => { drawn.worker = values.join(); console.log(JSON.stringify(drawn)); });
});
"""


def drawn_by(mayfly, count):
    return [json.loads(mayfly.run("-t", "node", "-c", DRAWN)["stdout"]) for _ in range(count)]


def differ(all_drawn):
    for name in all_drawn[0]:
        values = [str(drawn[name]) for drawn in all_drawn]
        assert len(set(values)) == len(values), f"two clones drew the same {name}"


def test_no_two_clones_draw_the_same(mayfly):
    differ(drawn_by(mayfly, 12))


@pytest.mark.slow
def test_no_two_of_200_clones_draw_the_same(mayfly):
    differ(drawn_by(mayfly, 200))


# c-ares draws the ids of its queries itself.
QUERIES = """
const dns = require('dns'), server = require('dgram').createSocket('udp4');
const ids = [];
server.on('message', (query) => {
  if (ids.push(query.readUInt16BE(0)) === 8) { console.log(JSON.stringify({ ids })); process.exit(0); }
});
server.bind(0, '127.0.0.1', () => {
  dns.setServers([`127.0.0.1:${server.address().port}`]);
  for (let n = 0; n < 8; ++n) dns.resolve4(`name${n}.example`, () => {});
});
"""


def test_no_two_clones_ask_for_names_with_the_same_ids(mayfly):
    differ([json.loads(mayfly.run("-t", "node", "-c", QUERIES)["stdout"]) for _ in range(6)])


STATUS = """
const fs = require('fs');
for (const thread of fs.readdirSync('/proc/self/task'))
  console.log(...fs.readFileSync(`/proc/self/task/${thread}/status`, 'utf8').match(/^(Uid|Gid|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):.*$/mg).map((line) => line.split(/\\s+/)[1]));
"""


def test_every_thread_of_a_clone_has_all_walls(mayfly):
    lines = mayfly.run("-t", "node", "-c", STATUS)["stdout"].splitlines()
    assert len(lines) >= 5, lines
    assert set(lines) == {"1000 1000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 1 2"}, lines


def test_the_limits_of_a_clone_are_as_under_fork(mayfly):
    """criu goes on if it cannot set a limit, so the clone sets them itself."""
    caps = ("--open-files", "200", "--file-size", "1MiB", "--cpu-time", "5s")
    node = mayfly.run("-t", "node", *caps, "-c", "process.stdout.write(require('fs').readFileSync('/proc/self/limits'))")["stdout"]
    assert node == mayfly.run("-t", "python", *caps, "-c", "print(open('/proc/self/limits').read(), end='')")["stdout"]
    assert "Max open files            200                  200" in node, node


ATTEMPTS = """
const fs = require('fs');
const tried = (what) => { try { what(); return 'done'; } catch (error) { return error.code ?? error.message; } };
console.log(JSON.stringify({
  usr: tried(() => fs.writeFileSync('/usr/x', '')), proc: tried(() => fs.writeFileSync('/proc/self/comm', 'x')), task: tried(() => fs.writeFileSync('/task/x', '')),
  processes: fs.readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name)).length, sys: fs.existsSync('/proc/sys'), run: fs.readdirSync('/run').filter((name) => name !== 'broker.sock'),
  mounts: fs.readFileSync('/proc/self/mountinfo', 'utf8').split('\\n').filter((line) => / - proc /.test(line)).map((line) => line.split(' - ')[1]),
  open: fs.readdirSync('/proc/self/fd').map((fd) => { try { return fs.readlinkSync(`/proc/self/fd/${fd}`).replace(/[0-9]+/g, 'N'); } catch { return ''; } }).filter((name) => /socket|snapshot|\\.img|^\\/run/.test(name)),
}));
"""


def test_nothing_of_the_restore_is_left_in_the_box(mayfly):
    found = json.loads(mayfly.run("-t", "node", "-c", ATTEMPTS)["stdout"])
    # The whole /proc that lies below a box's own is the template's, and nothing reaches it.
    assert found == {"usr": "EROFS", "proc": "EACCES", "task": "done", "processes": 2, "sys": False, "run": [],
                     "mounts": ["proc proc rw", "proc proc rw,subset=pid"], "open": []}, found
    mounts = mayfly.run("-t", "python", "-c", "print(*(line.split(' - ')[1] for line in open('/proc/self/mountinfo').read().splitlines() if ' - proc ' in line), sep='|')")
    assert mounts["stdout"].strip().split("|") == found["mounts"], mounts


@pytest.mark.parametrize(("code", "options", "verdict"), [
    ("console.log(1)", (), "succeeded"),
    ("process.exitCode = 3", (), "failed"),
    ("process.kill(process.pid, 'SIGKILL'); setTimeout(() => {}, 10000)", (), "signaled"),
    ("for (;;);", ("--timeout", "1s"), "wallTime"),
    ("for (;;);", ("--cpu-time", "1s", "--timeout", "30s"), "cpuTime"),
    ("const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1))", ("--memory", "128MiB"), "memory"),
    ("for (;;) require('fs').writeSync(1, 'x'.repeat(65536))", ("--output", "1MiB"), "output"),
    ("const fs = require('fs'); for (let i = 0;; ++i) fs.writeFileSync(`/task/${i}`, Buffer.alloc(1 << 20))", ("--disk", "8MiB"), "disk"),
    ("for (;;) require('child_process').spawn('sleep', ['60'])", ("--pids", "24"), "processes"),
])
def test_verdicts_and_receipts_are_as_under_fork(mayfly, code, options, verdict):
    result = mayfly.run("-t", "node", *options, "-c", code)
    # A program may meet the disk's own ENOSPC before the sample that finds it full.
    assert result["verdict"] == verdict or (verdict == "disk" and result["verdict"] == "failed" and "ENOSPC" in result["stderr"]), result
    assert result["receipt"]["complete"], result["receipt"]


def test_a_cap_below_a_clones_own_memory_is_refused_at_once(mayfly):
    refused = mayfly("run", "-t", "node", "--memory", "24MiB", "-c", "1")
    assert refused.returncode == 125 and b"is below what a clone of the template takes" in refused.stderr, refused.stderr
    assert mayfly.run("-t", "node", "--memory", "64MiB", "-c", "console.log(6*7)")["stdout"] == "42\n"


TYPED = {
    "types": ("interface A { a: number }\nconst f = (x: A): string => `${x.a satisfies number}`;\nconsole.log(f({ a: 5 } as A), __filename);\n", "5 /task/script.ts\n", 0),
    "enum_and_generics": ("enum E { one = 1, two }\nclass C<T> { constructor(private x: T, readonly y?: T) {} get(): T { return this.x; } }\n"
                          "console.log(E.two, new C<string>('g').get(), process.argv.slice(1).join());\n", "2 g /task/script.ts,one\n", 0),
    "imports": ("import fs from 'fs';\nimport { twice, type N } from './beside';\nimport type { Stats } from 'fs';\nconst n: N = twice(21);\n"
                "export default n;\nconsole.log(n, typeof fs.readFileSync);\n", "42 function\n", 0),
    "throws": ("type A = { a: 1 };\n\n\nfunction main(x: A): never {\n  throw new Error('typed');\n}\nmain({ a: 1 });\n", "", 1),
    "syntax": ("const x: = 5;\n", "", 1),
}


@pytest.mark.parametrize("name", TYPED)
def test_typescript_runs_without_its_types(mayfly, tmp_path, name):
    text, out, code = TYPED[name]
    (tmp_path / "script.ts").write_text(text)
    (tmp_path / "beside.ts").write_text("export type N = number;\nexport const twice = (n: N): N => 2 * n;\n")
    result = mayfly.run("-t", "node", "--file", tmp_path / "beside.ts", tmp_path / "script.ts", "one")
    assert (result["stdout"], result["exitCode"]) == (out, code), result["stderr"]
    if name == "throws":
        assert "/task/script.ts:5\n" in result["stderr"] and "at main (/task/script.ts:5:" in result["stderr"], result["stderr"]
    assert "mayfly" not in result["stderr"]


def test_timers_set_before_the_dump_do_not_fire_in_a_burst(mayfly):
    code = "const t = Date.now(); let n = 0; setInterval(() => { if (++n === 5) { console.log(Date.now() - t >= 45); process.exit(); } }, 10)"
    assert mayfly.run("-t", "node", "-c", code)["stdout"] == "true\n"


def test_stdin_and_output_are_live(mayfly):
    process = mayfly.start("run", "-q", "--stdin", "-t", "node", "-c", "process.stdin.on('data', (data) => process.stdout.write(String(data).toUpperCase()))")
    process.stdin.write(b"one\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"ONE\n"
    out, _ = process.communicate(b"two\n", timeout=60)
    assert out == b"TWO\n"
    assert process.returncode == 0
