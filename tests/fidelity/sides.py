"""The two compared sides: a program in a box, and the same program in a plain interpreter.

The plain one is a fresh `python3` under bubblewrap on the very image of the box: user, folders, variables and
streams are as in a box, but nothing is walled, capped or preloaded, and the image lies on a file system that can
be written to, though not by this user. Its variables are asked of a box, but for the one that tells the cap.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests/e2e"), str(TOP / "tests")]

from support import CLI  # noqa: E402
from test_lifecycle import BINARIES, Daemon  # noqa: E402

TEMPLATE = "python-testsuite"
HERE = pathlib.Path(__file__).resolve().parent
BUILD_SECONDS_MAX = 900
TASK = 1000       # user and group of a task
WALL_SECONDS_MAX = 660
BEYOND_SECONDS = 60   # a side's overhead around its program
CAPS = ("--timeout", f"{WALL_SECONDS_MAX}s", "--cpu-time", "10m", "--memory", "2GiB", "--pids", "512", "--cpus", "2",
        "--disk", "1GiB", "--file-size", "8GiB", "--inodes", "65536", "--output", "16MiB")


class End:
    """How a program ended: its exit code (-N for a signal), its description, its streams and its files."""

    def __init__(self, code, how, stdout, stderr, files):
        self.code, self.how, self.stdout, self.stderr, self.files = code, how, stdout, stderr, files


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Box:
    """`run(PATH, ARGUMENTS...)` runs a script, `run("-c", CODE, ARGUMENTS...)` code, with nothing on standard input."""

    name = "box"

    def __init__(self, cli):
        self.cli = cli

    def run(self, program, *args):
        with tempfile.TemporaryDirectory(prefix="mayfly-fidelity-") as folder:
            said = self.cli.run("-t", TEMPLATE, *CAPS, "--out", folder, program, *args,
                                timeout=WALL_SECONDS_MAX + BEYOND_SECONDS)
            code = -said["signal"] if said.get("signal") else said.get("exitCode")
            return End(code, said["verdict"], said["stdout"], said["stderr"], files_of(pathlib.Path(folder)))


class Plain:
    """Runs what Box.run takes."""

    name = "plain"

    def __init__(self, root, environment):
        self.root, self.environment = root, environment

    def run(self, program, *args):
        with tempfile.TemporaryDirectory(prefix="mayfly-fidelity-") as folder:
            task = pathlib.Path(folder) / "task"
            (task / "out").mkdir(parents=True)
            if isinstance(program, pathlib.Path):
                shutil.copy(program, task)
                program = program.name
            for path in (pathlib.Path(folder), task, *task.iterdir()):
                os.chown(path, TASK, TASK)
            # The caller may ignore interrupts, like a shell's background job; a box does not.
            command = ["env", "--default-signal", "bwrap", "--unshare-all", "--die-with-parent", "--new-session",
                       "--hostname", "mayfly", "--bind", self.root, "/", "--proc", "/proc", "--dev", "/dev",
                       "--tmpfs", "/dev/shm", "--tmpfs", "/tmp", "--tmpfs", "/run", "--bind", task, "/task",
                       "--chdir", "/task", "--clearenv"]
            for name, value in self.environment.items():
                command += ["--setenv", name, value]
            command += ["/usr/bin/python3", program, *args]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, user=TASK, group=TASK, extra_groups=[], umask=0o022,
                                       cwd="/")
            how = None
            try:
                stdout, stderr = process.communicate(timeout=WALL_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()  # the first process of its pid namespace goes with it
                stdout, stderr = process.communicate()
                how = "wallTime"
            code = process.returncode
            how = how or ("succeeded" if code == 0 else "failed")
            return End(code, how, stdout.decode(errors="replace"), stderr.decode(errors="replace"),
                       files_of(task / "out"))


@contextlib.contextmanager
def mounted(image):
    """The image's files in a writable root, as on an ordinary machine; returns its folder."""
    with tempfile.TemporaryDirectory(prefix="mayfly-fidelity-") as top, contextlib.ExitStack() as mounts:
        os.chmod(top, 0o755)

        def mount(kind, what, options, folder):
            (pathlib.Path(top) / folder).mkdir()
            subprocess.run(["mount", "-t", kind, "-o", options, what, f"{top}/{folder}"], check=True)
            mounts.callback(subprocess.run, ["umount", f"{top}/{folder}"], check=True)

        mount("erofs", image, "ro,nosuid,nodev", "image")
        mount("tmpfs", "tmpfs", "nosuid,nodev", "new")
        for folder in ("upper", "work"):
            (pathlib.Path(top) / "new" / folder).mkdir()
        (pathlib.Path(top) / "new/used").write_text("no disk is empty")  # `df` of the root is this file system's
        mount("overlay", "overlay", f"lowerdir={top}/image,upperdir={top}/new/upper,workdir={top}/new/work", "root")
        yield f"{top}/root"


def build(folder):
    """The template, with an image of its own; the image's file."""
    shutil.copytree(HERE / "template", folder / "templates")
    words = ["--templates", folder / "templates", "--state-dir", folder / "state"]
    subprocess.run([CLI, "template", "build", TEMPLATE, *words, "--runtime-dir", BINARIES], check=True,
                   timeout=BUILD_SECONDS_MAX)
    listed = subprocess.run([CLI, "image", "list", "--json", *words[2:]], check=True, capture_output=True)
    return next(i["path"] for i in json.loads(listed.stdout)["images"] if i["template"] == TEMPLATE)


@contextlib.contextmanager
def both(folder):
    """A box side and a plain side of one image, as long as the block runs."""
    image = build(folder)
    run_dir = pathlib.Path("/run") / f"mayfly-fidelity-{os.getpid()}"
    run_dir.mkdir(mode=0o755)
    daemon = Daemon(run_dir, templates=(TEMPLATE,), state_dir=str(folder / "state"),
                    template_dirs=[folder / "templates", TOP / "templates"])
    try:
        cli = daemon.start().cli
        asked = cli.run("-t", TEMPLATE, *CAPS, "-c", "import os, json; print(json.dumps(dict(os.environ)))")
        environment = json.loads(asked["stdout"])
        environment.pop("PYTHON_CPU_COUNT", None)
        with mounted(image) as root:
            yield Box(cli), Plain(root, environment)
    finally:
        daemon.end()
        shutil.rmtree(run_dir)
