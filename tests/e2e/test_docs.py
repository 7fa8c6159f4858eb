"""The documents against the programs, the sources and each other. No daemon is needed."""

import json
import pathlib
import re
import subprocess

import metrics_doc
import pytest
import settings_doc

TOP = pathlib.Path(__file__).resolve().parents[2]
DOCS = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]


def test_settings_are_what_the_programs_say():
    assert (TOP / "docs/settings.md").read_text() == settings_doc.document(), (
        "make it anew: python3 tests/e2e/settings_doc.py > docs/settings.md")


def test_metrics_are_what_the_daemon_says():
    assert (TOP / "docs/metrics.md").read_text() == metrics_doc.document(), (
        "make it anew: python3 tests/e2e/metrics_doc.py > docs/metrics.md")


def test_every_metric_that_the_documents_name_exists():
    names = set(re.findall(r"^\| `(mayfly_\w+)` \|", metrics_doc.document(), re.M))
    suffix = re.compile("_(bucket|sum|count)$")
    for file in (TOP / "docs/operations.md", *(TOP / "docs/monitoring").iterdir()):
        for named in re.findall(r"(?<![:\w])(mayfly_[a-z_0-9]+[a-z0-9])(?![:\w.])", file.read_text()):
            if named in ("mayfly_recording", "mayfly_alerts"):
                continue
            assert named in names or suffix.sub("", named) in names, f"{file.name}: {named}"


def test_every_alert_is_explained():
    alerts = re.findall(r"alert: (\w+)", (TOP / "docs/monitoring/mayfly.rules.yml").read_text())
    explained = re.findall(r"^\| `(Mayfly\w+)` \|", (TOP / "docs/operations.md").read_text(), re.M)
    assert sorted(alerts) == sorted(explained)


def test_every_flag_of_a_help_text_is_listed():
    for program, words in settings_doc.PROGRAMS:
        text = settings_doc.help_of(program, words)
        said = set(re.findall(r"^ +(?:-\w,)?(--[a-z][a-z-]+)", text, re.M)) - {"--help"}
        listed = set(re.findall(r"--[a-z][a-z-]+", " ".join(flag for flag, _ in settings_doc.flags(text))))
        # pool replay's text begins lines with flags of the options that it lists.
        assert said <= listed | {flag for flag in said if text.count(flag) > 1}, said - listed
        assert all(about for _, about in settings_doc.flags(text)), (program, words)


def test_every_variable_that_a_source_reads_is_listed():
    read = set()
    for folder, pattern in (("src", r'(?:getenv|environmentValue)\("(\w+)"\)'), ("bench", r'getenv\("(\w+)"\)'),
                            ("clients/python/src", r'environ(?:\.get\(|\[)"(\w+)"'),
                            ("clients/typescript/src", r'process\.env\["(\w+)"\]')):
        for file in (TOP / folder).rglob("*"):
            if file.suffix in (".cc", ".h", ".py", ".ts"):
                read |= set(re.findall(pattern, file.read_text()))
    assert "MAYFLY_SOCKET" in read and "PIP_CONFIG_FILE" in read
    assert read <= set(settings_doc.VARIABLES), read - set(settings_doc.VARIABLES)
    sources = "".join(file.read_text() for file in (TOP / "src").rglob("*.cc"))
    for name in settings_doc.VARIABLES:
        assert f'"{name.rstrip("*")}"' in sources, f"nobody reads {name}"


def test_every_key_of_a_manifest_is_explained():
    explained = (TOP / "docs/templates.md").read_text()
    keys = re.findall(r"^\| `([\w.]+)` \|", settings_doc.document().split("## A template's manifest")[1].split("## ")[0],
                      re.M)
    assert len(keys) > 30
    for key in keys:
        own = re.sub(r"^limits\.(default|maximum)\.", "", key)
        assert f"| `{own}` |" in explained, key


def anchors(text):
    heads = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(TOP)))
def test_every_link_leads_somewhere(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_every_promise_has_one_number():
    text = (TOP / "docs/SPECIFICATION.md").read_text()
    numbers = re.findall(r"^(?:\| |- |\*\*)?\**(P\d+(?:\.\d+)?)\**(?: \||\.? )", text, re.M)
    assert len(numbers) > 80
    assert len(numbers) == len(set(numbers)), sorted(n for n in numbers if numbers.count(n) > 1)
    for file in [*(TOP / "tests").rglob("*.py"), *(TOP / "tests").rglob("*.cc"), *DOCS, *(TOP / "src").rglob("*.h"),
                 *(TOP / "src").rglob("*.cc")]:
        for named in re.findall(r"\bP\d+(?:\.\d+)?\b(?=[ :.,)])", file.read_text()):
            if re.fullmatch(r"P[1-9](\.\d+)?", named):
                assert any(n == named or n.startswith(named + ".") for n in numbers), f"{file}: {named}"


def test_every_proof_that_the_specification_names_is_there():
    text = (TOP / "docs/SPECIFICATION.md").read_text()
    tests = {}
    for file in [*(TOP / "tests").rglob("test_*.py"), *(TOP / "clients").rglob("test_*.py")]:
        tests[file.name] = re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.M)
    suites = {}
    for file in (TOP / "tests").rglob("*.cc"):
        for suite, case in re.findall(r"^TEST(?:_[FP])?\((\w+),\s*(\w+)\)", file.read_text(), re.M):
            suites.setdefault(suite, []).append(case)
    checked, last = 0, ""
    for named in re.findall(r"`([^`\s]+)`", text.split("\n## ", 1)[1]):
        file, found, name = named.rpartition("::")
        if found:
            last = file.rpartition("/")[2] or last
            pattern = name.replace("...", "*").replace("*", ".*")
            assert any(re.fullmatch(pattern, test) for test in tests[last]), named
        elif named.rpartition("/")[2].endswith(".py") and "/" in named:
            assert (TOP / named).exists() or named.rpartition("/")[2] in tests, named
        elif match := re.fullmatch(r"([A-Z]\w+)\.([\w*.]+)", named):
            if match[1] in suites:
                pattern = match[2].replace("...", "*").replace("*", ".*")
                assert any(re.fullmatch(pattern, case) for case in suites[match[1]]), named
            else:
                assert "*" not in match[2] and not match[2].endswith("..."), f"there is no suite of {named}"
        else:
            continue
        checked += 1
    assert checked > 100


def test_every_row_of_the_doctor_is_in_the_set_up_of_a_host():
    done = subprocess.run([settings_doc.BIN / "mayfly", "doctor", "--quick", "--json"], capture_output=True, text=True, timeout=60)
    rows = {line["what"] for line in json.loads(done.stdout)["lines"]}
    assert len(rows) > 20
    text = (TOP / "docs/host.md").read_text()
    for row in rows | {"criu", "descriptors", "namespaces", "memory", "processes", "terminals", "boxes_max"}:
        assert f"`{row}`" in text, row


def test_every_log_line_that_is_explained_is_written():
    sources = "".join(file.read_text() for file in (TOP / "src").rglob("*.cc"))
    sources = re.sub(r'"\s*\n\s*"', "", sources)  # a text in two lines
    text = (TOP / "docs/debugging.md").read_text().split("## Log lines")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `([^`]+)` \|", text, re.M)
    assert len(lines) > 7
    for line in lines:
        pattern = r"\{[^}]*\}".join(re.escape(part) for part in line.split("…"))
        assert re.search(pattern, sources), line
