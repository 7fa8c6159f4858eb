# The tests of the rooms that make kernel objects, on this host's kernel: the
# spawner driven by hand, and the seccomp program loaded for real.
import os
import re
import subprocess

SECONDS_MAX = 300
# What a box's cgroups do; `full` runs all.
OF_CGROUPS = ":".join(f"Box.{name}" for name in (
    "RunsACommandAndTheKernelTellsItsExitCode", "CgroupPathsAreTheirOwnRoots", "MemoryCapIsTold", "ProcessCapIsTold",
    "CpuTimeIsCountedForTheWholeBox", "AnOrphanThatHoldsThePipesDoesNotOutliveTheTask", "EndInTheMiddleOfMaking*",
    "TasksGoFirst*", "AThrottledBoxDiesAtOnce", "AKilledSpawnerTakesEverythingAlong*"))


def gtest(binary, filter_="*"):
    # On ext4: the kernel takes no image from a tmpfs.
    done = subprocess.run([f"/share/bin/{binary}", "--gtest_brief=1", f"--gtest_filter={filter_}"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=SECONDS_MAX, cwd="/var/lib/mayfly",
                          env={**os.environ, "TMPDIR": "/var/lib/mayfly", "MAYFLY_TEST_SLOWNESS": "8"})
    passed = re.search(r"\[  PASSED  \] (\d+) test", done.stdout)
    assert done.returncode == 0 and passed and int(passed.group(1)) > 0, done.stdout[-5000:]
    return f"{passed.group(1)} tests"


def spawner_makes_and_ends_boxes():
    return gtest("box_live_test")


def cgroups_of_boxes_are_kept():
    return gtest("box_live_test", OF_CGROUPS)


def seccomp_program_does_what_it_says():
    return gtest("box_test", "Seccomp.*")


def tests(mode):
    listed = [cgroups_of_boxes_are_kept]
    if mode == "full":
        listed = [spawner_makes_and_ends_boxes, seccomp_program_does_what_it_says]
    return [(f"room.{test.__name__}", test) for test in listed]
