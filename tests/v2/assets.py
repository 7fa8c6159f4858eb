# The guest's boot files: Debian's cloud kernel with a small initramfs, and a
# small Debian root as an erofs disk. Both are made once and kept in a cache,
# each under the hash of its recipe, so that a later run starts at once.
#
# Packages come from this machine's apt sources; apt checks them with Debian's own
# keys. Nothing is installed on this machine.
import contextlib
import fcntl
import hashlib
import lzma
import os
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
KEPT_ASSETS_MAX = 12  # directories kept in the cache, newest first

# Modules that the guest needs; their dependencies are added. virtio_ring comes before
# virtio: in the other order, the disks never appear.
MODULES = ["virtio_ring", "virtio", "virtio_pci", "virtio_blk", "erofs", "ext4", "overlay", "loop"]
# What criu asks the kernel for, and what a host's kernel loads by itself then: lists of sockets, a pair of network
# devices and the firewall's socket, by which it finds out what the kernel can do.
MODULES += ["unix_diag", "inet_diag", "tcp_diag", "udp_diag", "raw_diag", "af_packet_diag", "netlink_diag", "veth",
            "nfnetlink"]
ROOT_PACKAGES = ["busybox-static", "erofs-utils", "libc6", "mount", "python3", "python3-pytest"]


def run(*argv, **kw):
    """Runs a command quietly; its output is shown when it fails."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if done.returncode:
        raise SystemExit(f"v2: {' '.join(map(str, argv[:4]))}... failed with {done.returncode}:\n"
                         f"{done.stdout[-3000:]}")
    return done.stdout


def host_suite():
    """The Debian release of this machine: its binaries run in a root of the same release."""
    release = dict(line.split("=", 1) for line in
                   pathlib.Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    if suite not in ("bookworm", "trixie"):
        raise SystemExit(f"v2: this machine's release is '{suite}'; Debian 12 or 13 is needed")
    return suite


def apt_source(suite):
    """A sources line for `suite` at the place this machine's apt uses for Debian's main."""
    listing = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)",
                  "Created-By: Packages", "Origin: Debian", "Component: main")
    rows = [line.split() for line in listing.splitlines() if len(line.split()) == 2]
    rows.sort(key=lambda row: "-" in row[1])  # the release itself before -security, -updates
    if not rows:
        raise SystemExit("v2: apt knows no source of Debian's main packages; run apt-get update")
    return f"deb [signed-by={KEYRING}] {rows[0][0]} {suite} main"


class Cache:
    """Directories named by the hash of their recipe, made under a lock, published by rename."""

    def __init__(self, top):
        self.top = pathlib.Path(top)
        self.top.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def lock(self):
        with open(self.top / "lock", "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def get(self, kind, recipe, make, progress):
        name = f"{kind}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}"
        place = self.top / name
        with self.lock():
            if not place.is_dir():
                progress(f"making {kind} (kept in {place})")
                with tempfile.TemporaryDirectory(dir=self.top, prefix="new-") as new:
                    os.chmod(new, 0o755)
                    out = pathlib.Path(new) / "out"
                    out.mkdir()
                    make(out, pathlib.Path(new))
                    out.rename(place)
                self.forget_old(place)
            os.utime(place)
        return place

    def forget_old(self, keep):
        kept = sorted((p for p in self.top.iterdir() if p.is_dir() and not p.name.startswith("new-")),
                      key=lambda p: p.stat().st_mtime, reverse=True)
        for old in kept[KEPT_ASSETS_MAX:]:
            if old != keep:
                shutil.rmtree(old)


# --- the kernel and its initramfs --------------------------------------------

def kernel(cache, suite, progress):
    """Returns (kernel, initramfs, release) of Debian `suite`'s cloud kernel."""
    init = (HERE / "initramfs_init").read_text()
    place = cache.get(f"kernel-{suite}", ("kernel", 4, suite, MODULES, init),
                      lambda out, tmp: make_kernel(out, tmp, suite, init), progress)
    return place / "kernel", place / "initramfs", (place / "release").read_text().strip()


def unpacked(vmlinuz):
    """The kernel within a bzImage, which qemu starts as well: under emulation, a kernel unpacks itself in seconds.
    One that is not packed by zstd, which is Debian 12's, stays as it is."""
    offset, size = struct.unpack_from("<II", vmlinuz, 0x248)  # Documentation/arch/x86/boot.rst: payload_offset
    begin = (vmlinuz[0x1f1] + 1) * 512 + offset
    packed = vmlinuz[begin:begin + size - 4]  # then its size unpacked
    if not packed.startswith(b"\x28\xb5\x2f\xfd"):
        return vmlinuz
    kernel = subprocess.run(["zstd", "-dc"], input=packed, capture_output=True, check=True).stdout
    assert kernel.startswith(b"\x7fELF"), kernel[:16]
    return kernel


def make_kernel(out, tmp, suite, init):
    state = tmp / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    (state / "sources.list").write_text(apt_source(suite) + "\n")
    options = []
    for key, value in {"Dir::Etc::sourcelist": state / "sources.list", "Dir::Etc::sourceparts": "-",
                       "Dir::State": state, "Dir::State::status": state / "status",
                       "Dir::Cache": state / "cache", "APT::Sandbox::User": "root",
                       "Acquire::Languages": "none", "Acquire::Retries": "3"}.items():
        options += ["-o", f"{key}={value}"]
    run("apt-get", *options, "update")
    depends = run("apt-cache", *options, "depends", "linux-image-cloud-amd64")
    package = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", depends).group(1)
    run("apt-get", *options, "download", package, "busybox-static", cwd=state)
    for deb in state.glob("*.deb"):
        run("dpkg-deb", "-x", str(deb), str(state / "x"))
    [vmlinuz] = (state / "x/boot").glob("vmlinuz-*")
    release = vmlinuz.name[len("vmlinuz-"):]
    (out / "kernel").write_bytes(unpacked(vmlinuz.read_bytes()))
    (out / "release").write_text(release + "\n")
    [modules] = [p for p in (state / "x/lib/modules" / release, state / "x/usr/lib/modules" / release)
                 if p.is_dir()]
    [busybox] = [p for p in (state / "x/bin/busybox", state / "x/usr/bin/busybox") if p.is_file()]
    files = {"init": (0o755, init.encode()), "bin/busybox": (0o755, busybox.read_bytes())}
    order = []
    for name, content in load_order(modules):
        files[f"modules/{name}.ko"] = (0o644, content)
        order.append(name)
    files["modules/order"] = (0o644, ("\n".join(order) + "\n").encode())
    (out / "initramfs").write_bytes(cpio(["bin", "modules", "proc", "sys", "dev", "ro", "rw", "root"],
                                         files))


def load_order(modules):
    """(name, uncompressed content) of MODULES and all they depend on, dependencies first."""
    path_of = {re.sub(r"\.ko(\.xz)?$", "", p.name).replace("-", "_"): p
               for p in modules.glob("kernel/**/*.ko*")}
    builtin = {pathlib.Path(line).stem.replace("-", "_")
               for line in (modules / "modules.builtin").read_text().splitlines()}
    ordered = {}

    def add(name, needed):
        name = name.replace("-", "_")
        if name in ordered or name in builtin:
            return
        if name not in path_of:
            if needed:
                raise SystemExit(f"v2: {modules} has no module '{name}'")
            return
        content = path_of[name].read_bytes()
        if path_of[name].suffix == ".xz":
            content = lzma.decompress(content)
        for field, must in ((rb"\0depends=([^\0]*)", True), (rb"\0softdep=pre: ([^\0]*)", False)):
            for match in re.finditer(field, content):
                for dependency in re.split(r"[ ,]+", match.group(1).decode()):
                    if dependency and not dependency.startswith("post:"):
                        add(dependency, must)
        ordered[name] = content

    for name in MODULES:
        add(name, True)
    return list(ordered.items())


def cpio(folders, files):
    """A `newc` archive, which the kernel unpacks as its first root."""
    out = bytearray()
    inode = 0

    def entry(name, mode, content=b"", device=(0, 0)):
        nonlocal inode
        inode += 1
        raw = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw), 0)
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + raw)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(content)
        out.extend(b"\0" * (-len(out) % 4))

    for folder in folders:
        entry(folder, 0o040755)
    entry("dev/console", 0o020600, device=(5, 1))
    for name, (mode, content) in files.items():
        entry(name, 0o100000 | mode, content)
    entry("TRAILER!!!", 0)
    return bytes(out)


# --- the root ----------------------------------------------------------------

def libraries(binaries):
    """The Debian packages that hold the shared libraries of `binaries`."""
    paths = set()
    for binary in binaries:
        listing = subprocess.run(["ldd", str(binary)], capture_output=True, text=True).stdout
        missing = re.findall(r"(\S+) => not found", listing)
        if missing:
            raise SystemExit(f"v2: {binary} needs {missing}, which this machine does not have")
        paths |= {os.path.realpath(p) for p in re.findall(r"(/\S+) \(0x", listing)}
    packages = set()
    for path in paths - {os.path.realpath(binary) for binary in binaries}:  # they need each other
        for name in (path, path.removeprefix("/usr")):
            found = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True).stdout
            if found:
                packages.add(found.split(":")[0].split(",")[0])
                break
        else:
            raise SystemExit(f"v2: no Debian package holds {path}")
    return packages


def root(cache, packages, progress):
    """Returns the root disk: this machine's own Debian release with `packages`."""
    suite = host_suite()
    wanted = sorted({*packages, *ROOT_PACKAGES})
    place = cache.get("root", ("root", 2, suite, wanted),
                      lambda out, tmp: make_root(out, tmp, suite, wanted), progress)
    return place / "root.erofs"


def make_root(out, tmp, suite, packages):
    tree = tmp / "tree"
    run("mmdebstrap", "--variant=essential", "--include=" + ",".join(packages),
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*", "--aptopt=Acquire::Retries 3",
        suite, str(tree), apt_source(suite), env={**os.environ, "TMPDIR": str(tmp)})
    for folder in ("share", "var/lib/mayfly"):
        (tree / folder).mkdir()
    run("mkfs.erofs", str(out / "root.erofs"), str(tree))


# --- disks made for a run ----------------------------------------------------

def erofs_of(tree, path):
    run("mkfs.erofs", str(path), str(tree))


def ext4_of(tree, path, spare_bytes):
    size = sum(p.lstat().st_size for p in tree.rglob("*")) + spare_bytes
    with open(path, "wb") as disk:
        disk.truncate(-(-size // (1 << 20)) << 20)
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(tree), str(path))
