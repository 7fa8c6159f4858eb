"""Every key of docs/settings.md does what it says: a table names the test that sets it and sees the effect."""

import json
import os
import pathlib
import re
import subprocess
import uuid

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BINARIES = TOP / "build/bin"

REACHES = "unit/app_test.cc::Settings.EachReachesWhatItIsPromisedFor"
MANIFEST = "unit/app_test.cc::Settings.EachKeyOfAManifestThatTheDaemonReadsReachesItsTemplate"
PLACES = "e2e/test_settings.py::test_the_file_names_where_everything_is"
RECIPE = "unit/image_test.cc::Keys.DependOnEveryPartOfTheRecipe"
ZYGOTE_READS = "unit/image_test.cc::TemplateJson.HoldsWhatAZygoteProgramNeeds"
TRIAL = "unit/config_test.cc::Manifest.ForkedClonesAreTriedUnlessTheManifestGivesThatUp"
SHOP = "e2e/test_templates.py::shop"  # a fixture, whose templates the tests of that file run
LISTS = "unit/config_test.cc::Bases.ListsAreAddedAndSettingsReplaced"

# key: (test, a word of the test's own text; none: the key's last part)
DAEMON = {
    **{key: (PLACES, key) for key in ("instance", "socket", "state_dir", "run_dir", "template_dirs", "templates",
                                      "log_level")},
    **{key: (REACHES, key) for key in (
        "boxes_max", "ptys_max", "queue_max", "parked_max", "stocked_max", "parked_memory", "connections_max",
        "tasks_max", "detached_per_user_max", "detach_lease_max", "result_lease", "connection_idle", "message_time",
        "in_flight_max", "output_held_max", "out_files_held_max", "receipt_time", "collect_time", "blob_user_max",
        "blob_store_max", "blob_ttl", "upload_idle")},
    "uids_allowed": ("e2e/test_users.py::test_a_user_of_the_list_runs_tasks_and_no_other", ""),
    "gids_allowed": ("e2e/test_users.py::test_a_group_lets_its_members_in_by_whichever_of_their_groups_it_is", ""),
    "audit_time": ("e2e/test_lifecycle.py::test_the_audit_finds_a_planted_cgroup_process_and_mount", ""),
    "broker_policy": ("escape/test_doors.py::brokered", ""),
    "make_snapshots": ("e2e/test_snapshots.py::test_a_daemon_makes_what_is_missing_at_its_start", ""),
    "slow_task": ("e2e/test_metrics.py::test_a_slow_task_has_a_line_with_its_phases_and_trace", ""),
    **{f"http.{key}": (f"e2e/test_metrics.py::{test}", key) for key, test in (
        ("listen", "test_beyond_loopback_the_token_is_wanted"), ("token_file", "test_beyond_loopback_the_token_is_wanted"),
        ("tenants_max", "test_invented_tenants_make_no_more_series_than_there_are_places"),
        ("connections_max", "test_a_thousand_clients_that_do_not_read_delay_no_task"))},
    "accept_lost_promises": ("unit/host_test.cc::HostReport.OnlyANamedPromiseIsGivenUp", "refusals"),
}
MANIFESTS = {
    "name": ("unit/config_test.cc::Manifest.SmallestOneTakesTheDefaults", ""),
    "description": (PLACES, ""),
    "base": ("unit/config_test.cc::Manifest.TerminalsAreEightOrTheBasesUnlessTheManifestSaysOtherwise", ""),
    "mechanism": ("unit/app_test.cc::Templates.TasksEnvironmentIsFixedUnlessTheManifestSaysOtherwise", ""),
    **{key: (RECIPE, "") for key in ("image.suite", "image.packages", "image.run")},
    **{key: (SHOP, "") for key in ("image.pip", "image.npm", "image.files")},
    **{key: ("e2e/test_template_builds.py::test_a_package_of_another_index_is_found_beside_the_machines", "")
       for key in ("image.pip_index", "image.pip_extra_index")},
    "image.npm_without_scripts": ("unit/image_packages_test.cc::Npm.APackageWithAScriptOrWithoutAHashIsRefused", ""),
    **{key: (ZYGOTE_READS, "") for key in ("zygote.preload", "zygote.fresh_env", "zygote.fresh_files")},
    "zygote.env": ("unit/image_test.cc::TemplateJson.HoldsWhatAZygoteProgramNeeds", "env"),
    "zygote.argv": ("e2e/test_data_packages.py::test_a_template_whose_kernels_this_processor_cannot_run_is_refused", ""),
    "zygote.trial": (TRIAL, ""),
    "zygote.without_trial": (TRIAL, ""),
    **{key: (MANIFEST, "") for key in ("zygote.memory", "zygote.start_time", "zygote.renew_clones",
                                       "zygote.renew_after", "zygote.tenants_max", "task.env", "task.cpus_env", "task.modules",
                                       "pool.min", "pool.max", "network.loopback", "terminal.ptys")},
    "seccomp.allow": (LISTS, ""),
    "check.wait": ("unit/config_test.cc::Bases.WhatATemplateDoesNotSayItsBaseSays", ""),
}


def documented(heading):
    section = (TOP / "docs/settings.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `([\w.]+)` \|", section, re.M)


def text_of(test):
    """The test's own lines."""
    file, name = test.split("::")
    text = (TOP / "tests" / file).read_text()
    if file.endswith(".py"):
        found = re.search(rf"^def {name}\(.*?(?=^(?:def |class |@)|\Z)", text, re.M | re.S)
    else:
        suite, case = name.split(".")
        found = re.search(rf"^TEST(?:_[FP])?\({suite}, {case}\) \{{.*?^\}}", text, re.M | re.S)
    assert found, f"there is no test {test}"
    return found[0]


def names(test, word):
    return re.search(rf"(?:\\n|\b){word}\b", text_of(test))  # a string's new line may come before it


def test_every_key_of_the_daemon_is_set_by_a_test_that_sees_its_effect():
    assert list(DAEMON) and set(DAEMON) == set(documented("The daemon's file"))
    for key, (test, word) in DAEMON.items():
        assert names(test, word or key), f"{test} does not set {key}"


def test_every_key_of_a_manifest_is_set_by_a_test_that_sees_its_effect():
    keys = documented("A template's manifest")
    caps = {key for key in keys if key.startswith("limits.")}
    assert set(MANIFESTS) == set(keys) - caps
    for key, (test, word) in MANIFESTS.items():
        assert names(test, word or key.split(".")[-1]), f"{test} does not set {key}"
    # One table makes both lists of caps and all their uses; each cap has a row among the promises, by its flag.
    table = (TOP / "include/mayfly/caps.h").read_text()
    caps_of_table = dict(re.findall(r'"(\w+)",[\s\\]*\w+,[\s\\]*"(--[\w,-]+)"', table))
    assert caps == {f"limits.{kind}.{key}" for kind in ("default", "maximum") for key in caps_of_table}
    promises = (TOP / "docs/SPECIFICATION.md").read_text()
    for key, flags in caps_of_table.items():
        assert any(f"`{flag}`" in promises for flag in flags.split(",")), key


def test_every_setting_is_used_beyond_its_parser():
    """A key that is read and does nothing is a promise that nobody keeps."""
    header = (TOP / "src/config/daemon.h").read_text()
    body = re.search(r"^struct Daemon \{(.*?)^\};", header, re.M | re.S)[1]
    members = re.findall(r"^  [\w:<>]+ (\w+)(?: =|;|\s*$)", body, re.M)
    assert len(members) > 30 and "uids_allowed" in members and "socket_path" in members
    users = "".join(file.read_text() for file in (TOP / "src").rglob("*.cc") if file.parent.name in ("app", "budget", "image"))
    for member in members:
        assert re.search(rf"\b(?:s|settings)\.{member}\b", users), f"nobody uses {member}"


@pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")
def test_the_file_names_where_everything_is(tmp_path_factory):
    from light import light
    places = light()
    folder = pathlib.Path("/run") / f"mayfly-test-{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o755)
    instance = "t-" + uuid.uuid4().hex[:12]
    (folder / "mayflyd.toml").write_text(
        f'instance = "{instance}"\nsocket = "{folder}/here.sock"\nstate_dir = "{places["state_dir"]}"\n'
        f'run_dir = "{folder}/run"\ntemplate_dirs = ["{places["template_dirs"][0]}"]\ntemplates = ["shell"]\n'
        'log_level = "warn"\n')
    ready, theirs = os.pipe()
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([BINARIES / "mayflyd", "--config", folder / "mayflyd.toml", "--ready-fd",
                                    str(theirs)], pass_fds=[theirs], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    os.close(theirs)
    try:
        with open(ready, "rb") as pipe:
            assert pipe.read() == b"ready\n", (folder / "log").read_text()
        said = subprocess.check_output([BINARIES / "mayfly", "--socket", folder / "here.sock", "templates", "--json"])
        [shell] = json.loads(said)["templates"]
        description = re.search('^description = "(.+)"$', (TOP / "templates/shell/manifest.toml").read_text(), re.M)
        assert (shell["name"], shell["description"]) == ("shell", description[1])
        assert (folder / "run" / f"{instance}.lock").exists()
        assert (pathlib.Path(places["state_dir"]) / "instances" / instance / "ids").exists()
        assert " info " not in (folder / "log").read_text()
    finally:
        process.terminate()
        process.wait(60)
        subprocess.run(["rm", "-rf", folder, pathlib.Path(places["state_dir"]) / "instances" / instance], check=True)
    assert process.returncode == 0
