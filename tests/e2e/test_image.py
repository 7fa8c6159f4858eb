"""The images: neutral, identical for identical inputs, and safe while in use."""

import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from pool_view import mounted
from template_place import CACHE

TOP = pathlib.Path(__file__).resolve().parents[2]
MAYFLY = os.environ.get("MAYFLY_CLI", str(TOP / "build/bin/mayfly"))
TEMPLATES = ["node", "perl", "python", "python-data", "shell"]
SECONDS_MAX = 300
IMAGE_TIME = 1_704_067_200  # 2024-01-01 00:00:00 UTC


def run(*argv, check=True):
    return subprocess.run(argv, capture_output=True, text=True, check=check, timeout=SECONDS_MAX)


def images():
    listed = json.loads(run(MAYFLY, "image", "list", "--json").stdout)["images"]
    return {image["template"]: image for image in listed if image["template"]}


@pytest.fixture(scope="module", params=TEMPLATES)
def root(request, tmp_path_factory):
    """The files of one template's image, as the kernel shows them to a box."""
    with mounted(images()[request.param]["path"], tmp_path_factory.mktemp("image") / "root") as place:
        yield place


def files(root):
    for folder, names, others in os.walk(root):
        for name in names + others:
            yield pathlib.Path(folder) / name


def test_no_file_of_the_machine_that_built_it(root):
    for path in ("etc/resolv.conf", "etc/apt", "etc/shadow", "etc/fstab", "etc/subuid", "var/lib/apt",
                 "var/cache/apt", "var/cache/debconf", "var/lib/dbus"):
        assert not os.path.lexists(root / path), path
    for path in ("var/log", "run", "tmp", "var/tmp", "root", "home", "mnt", "proc", "sys", "task", "srv", "boot"):
        assert os.listdir(root / path) == [], path
    assert os.listdir(root / "dev") == ["shm"]
    assert (root / "etc/machine-id").read_text() == ""
    assert (root / "etc/hostname").read_text() == "mayfly\n"
    assert "localhost" in (root / "etc/hosts").read_text()


def test_no_name_of_the_archive_it_came_from(root):
    targets = run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages").stdout
    sites = {line.strip().encode() for line in targets.splitlines() if "://" in line}
    assert sites
    for top in ("etc", "var", "usr/lib/mayfly"):
        for path in files(root / top):
            if path.is_file() and not path.is_symlink():
                text = path.read_bytes()
                assert not any(site in text for site in sites), path


def test_nothing_raises_privileges_and_no_device_is_in_it(root):
    for path in files(root):
        mode = path.lstat().st_mode
        assert mode & 0o6000 == 0, path
        assert mode & 0o170000 in (0o100000, 0o040000, 0o120000), path
        if mode & 0o170000 == 0o100000:
            assert os.listxattr(path, follow_symlinks=False) == [], path


def test_the_task_has_a_user_and_mayfly_its_programs(root):
    users = [line.split(":") for line in (root / "etc/passwd").read_text().splitlines()]
    assert ["1000", "1000"] in [user[2:4] for user in users if user[0] == "task"]
    assert {user[0] for user in users if user[2] == "0"} == {"root"}
    for name in ("mayfly-maker", "mayfly-exec-zygote", "libmayfly-zygote.so", "template.json"):
        assert (root / "usr/lib/mayfly" / name).is_file()
    assert "preload" in json.loads((root / "usr/lib/mayfly/template.json").read_text())


def test_every_file_has_the_time_of_the_image(root):
    assert {os.lstat(path).st_mtime for path in [root, *files(root)]} == {IMAGE_TIME}


ARCHIVES = r"""
import shutil, tarfile, zipfile, os
for format, suffix in (("zip", ".zip"), ("tar", ".tar"), ("gztar", ".tar.gz"), ("xztar", ".tar.xz")):
    for name, folder in (("etc", "/etc/alternatives"), ("json", "/usr/lib/python3.13/json")):
        shutil.unpack_archive(shutil.make_archive(name, format, folder), f"back-{format}-{name}")
with zipfile.ZipFile("one.zip", "w") as file:
    file.write("/etc/passwd")
    print(file.getinfo("etc/passwd").date_time)
print(int(tarfile.open("etc.tar").getmember("./awk").mtime))
print(open("back-zip-json/decoder.py").read() == open("/usr/lib/python3.13/json/decoder.py").read())
print(os.stat("back-xztar-json/decoder.py").st_mtime)
"""


@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT+12"])
def test_python_puts_files_of_its_image_into_archives(mayfly, zone):
    # zip has no time before 1980, and stores the local time of day.
    result = mayfly.run("-t", "python", "--env", f"TZ={zone}", "-c", ARCHIVES)
    date = {"UTC": (2024, 1, 1, 0, 0, 0), "Etc/GMT+12": (2023, 12, 31, 12, 0, 0)}[zone]
    assert result["stdout"].split("\n") == [str(date), str(IMAGE_TIME), "True", f"{IMAGE_TIME}.0", ""], result


def test_commands_put_files_of_their_image_into_archives(mayfly):
    result = mayfly.run("-t", "shell", "--", "bash", "-euc", """
zip -q a.zip /etc/passwd && unzip -Z1 a.zip && unzip -l a.zip | grep -o '2024-01-01 00:00'
tar czf b.tgz -C /etc passwd && tar tvf b.tgz | grep -o '2024-01-01 00:00'
cp -p /etc/passwd old; touch new
find / -xdev \\( -newermt 2024-01-01T00:00:01 -o ! -newermt 2023-12-31T23:59:59 \\) ! -type d 2>/dev/null | head -n 3
find old -newer /etc/passwd; find new -newer /etc/passwd
""")
    assert (result["stdout"], result["stderr"]) == ("etc/passwd\n2024-01-01 00:00\n2024-01-01 00:00\nnew\n", ""), result


def test_every_name_of_a_time_zone_is_there(root):
    # tzdata.zi names all zones: Debian's tzdata has those of places, tzdata-legacy the others.
    zones = root / "usr/share/zoneinfo"
    words = [line.split() for line in (zones / "tzdata.zi").read_text().splitlines()]
    names = {w[1] for w in words if w[0] == "Z"} | {w[2] for w in words if w[0] == "L"}
    assert len(names) > 500 and {"US/Eastern", "Japan", "EST", "Asia/Calcutta", "GB"} <= names
    assert [name for name in sorted(names) if not (zones / name).is_file()] == []


@pytest.mark.parametrize("template,code", [
    ("python", "import datetime, zoneinfo; print(datetime.datetime.fromtimestamp(0, zoneinfo.ZoneInfo('US/Eastern')).strftime('%T'))"),
    ("python", "import os, time; os.environ['TZ'] = 'US/Eastern'; time.tzset(); print(time.strftime('%T', time.localtime(0)))"),
    ("perl", "use POSIX; $ENV{TZ} = 'US/Eastern'; tzset(); print strftime('%T', localtime 0), qq{\n}"),
])
def test_a_task_finds_a_time_zone_by_its_old_name(mayfly, template, code):
    assert mayfly.run("-t", template, "-c", code)["stdout"] == "19:00:00\n"


@pytest.mark.parametrize("template,code", [
    ("python", "import time; print(time.strftime('%T', time.localtime(0)))"),
    ("perl", "use POSIX; print strftime('%T', localtime 0), qq{\n}"),
])
def test_the_caller_names_a_time_zone_by_its_old_name(mayfly, template, code):
    assert mayfly.run("-t", template, "--env", "TZ=Japan", "-c", code)["stdout"] == "09:00:00\n"


def test_pyc_files_hold_no_time(root):
    # Python would compile a pyc that it takes for stale again in every zygote.
    compiled = [p for p in (root / "usr/lib").glob("python3*/**/*.pyc")] if (root / "usr/lib").is_dir() else []
    for path in compiled:
        with open(path, "rb") as file:
            assert file.read(8)[4] == 1, path  # flags: an unchecked hash
    assert compiled or not (root / "usr/bin/python3").exists()


@pytest.mark.parametrize("template", ["python", "shell"])
def test_the_same_inputs_give_the_same_image(template, tmp_path):
    run(MAYFLY, "image", "build", template, "--state-dir", str(tmp_path))
    listed = json.loads(run(MAYFLY, "image", "list", "--json", "--state-dir", str(tmp_path)).stdout)["images"]
    assert [image["digest"] for image in listed] == [images()[template]["digest"]]
    # An overlay has its changes on no overlay: there, a copy takes its place.
    copied = "\n$ cp -a " in (tmp_path / f"logs/build-{template}.log").read_text()
    assert copied == (run("stat", "-f", "-c", "%T", str(CACHE)).stdout.strip() == "overlayfs")


OVERLAY = 'mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/cache" && shift 2 && exec "$@"'


@pytest.mark.slow
def test_where_no_overlay_can_be_mounted_the_image_is_the_same(tmp_path):
    for name in ("upper", "work", "cache"):
        (tmp_path / name).mkdir()
    run("unshare", "--mount", "--propagation", "private", "sh", "-ec", OVERLAY, "sh", str(CACHE), str(tmp_path),
        MAYFLY, "image", "build", "shell", "--state-dir", str(tmp_path / "state"), "--cache-dir", str(tmp_path / "cache"))
    assert "\n$ cp -a " in (tmp_path / "state/logs/build-shell.log").read_text()
    listed = json.loads(run(MAYFLY, "image", "list", "--json", "--state-dir", str(tmp_path / "state")).stdout)["images"]
    assert [image["digest"] for image in listed] == [images()["shell"]["digest"]]


def test_a_changed_file_of_the_template_gives_another_image(tmp_path):
    folder = tmp_path / "templates/python"
    run("cp", "-rL", str(TOP / "templates/python"), str(tmp_path / "python"))
    folder.parent.mkdir()
    (tmp_path / "python").rename(folder)
    with open(folder / "zygote.py", "a") as file:
        file.write("# one more line\n")
    built = run(MAYFLY, "image", "build", "python", "--state-dir", str(tmp_path / "state"), "--templates",
                str(folder.parent))
    assert "built" in built.stdout
    assert not built.stdout.startswith(images()["python"]["digest"][:12])
    again = run(MAYFLY, "image", "build", "python", "--state-dir", str(tmp_path / "state"), "--templates",
                str(folder.parent))
    assert "unchanged" in again.stdout


def test_prune_keeps_what_templates_and_daemons_use(tmp_path):
    state, folder = tmp_path / "state", tmp_path / "templates"
    subprocess.run(["cp", "-rL", TOP / "templates/shell", tmp_path / "own"], check=True)
    folder.mkdir()
    (tmp_path / "own").rename(folder / "own")
    manifest = folder / "own/manifest.toml"
    manifest.write_text(manifest.read_text().replace('name = "shell"', 'name = "own"'))
    (folder / "own/gitconfig").write_text("[user]\n")  # another image than shell's
    where = ("--state-dir", str(state))
    run(MAYFLY, "image", "build", "shell", *where)
    run(MAYFLY, "image", "build", "own", *where, "--templates", str(folder), "--templates", str(TOP / "templates"))
    kept = json.loads(run(MAYFLY, "image", "prune", "--json", "--templates", str(folder), *where).stdout)
    assert kept == {"dryRun": False, "bytes": 0, "images": []}
    dry = json.loads(run(MAYFLY, "image", "prune", "--dry-run", "--json", *where).stdout)
    assert [image["template"] for image in dry["images"]] == ["own"] and dry["bytes"] > 1 << 20
    before = sorted(path.name for path in (state / "images").iterdir())
    assert len(before) == 2
    done = run(MAYFLY, "image", "prune", *where).stdout
    assert "own" in done and "freed" in done
    assert len(list((state / "images").iterdir())) == 1 and not (state / "index/own.json").exists()


def link_cache(cache, moment):
    """A cache of its own that has the machine's downloads, and for a later moment its finished trees: so a build soon
    comes to the moment."""
    (cache / "trees").mkdir(parents=True)
    for name in ("apt", "artifacts", "resolved"):
        (cache / name).symlink_to(CACHE / name)
    for tree in CACHE.glob("trees/*") if moment == "packing" else ():
        if re.fullmatch(r"[0-9a-f]{64}(\.lock)?", tree.name):
            (cache / "trees" / tree.name).symlink_to(tree)


# While it installs packages, and while it packs.
@pytest.mark.parametrize("sign, moment", [(signal.SIGINT, "installing"), (signal.SIGTERM, "packing")])
def test_an_interrupted_build_leaves_nothing(tmp_path, sign, moment):
    state, cache = tmp_path / "state", tmp_path / "cache"
    link_cache(cache, moment)
    build = subprocess.Popen([MAYFLY, "image", "build", "perl", "--state-dir", str(state), "--cache-dir", str(cache)],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in build.stderr:
        if moment in line:
            break
    else:
        pytest.fail("it was never so far")
    started = time.monotonic()
    build.send_signal(sign)
    assert build.wait(60) == -sign and time.monotonic() - started < 30
    build.stdout.close(), build.stderr.close()
    processes = [path for path in pathlib.Path("/proc").glob("[0-9]*/cmdline")
                 if str(tmp_path).encode() in read_or_nothing(path)]
    assert not processes, [read_or_nothing(path) for path in processes]
    assert str(tmp_path) not in pathlib.Path("/proc/self/mountinfo").read_text()
    left = [str(path.relative_to(tmp_path)) for path in [*(cache / "scratch").glob("*"), *(cache / "trees").glob("*.new"),
                                                          *(state / "images").glob("*"), *(state / "index").glob("*")]]
    assert left == []


def read_or_nothing(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_an_image_in_use_cannot_be_removed():
    image = images()["python"]
    assert image["in_use"]
    removed = run(MAYFLY, "image", "remove", "python", check=False)
    assert removed.returncode == 1
    assert "in use" in removed.stderr
    assert pathlib.Path(image["path"]).exists()
