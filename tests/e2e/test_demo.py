"""The demo works: its table is right, its bad day reaches nothing, its key stays outside, its text fits a terminal."""

import collections
import os
import pathlib
import re
import struct
import subprocess
import xml.etree.ElementTree as xml
import zipfile
import zlib

import pytest
from support import CLI, COMMAND_SECONDS_MAX

TOP = pathlib.Path(__file__).resolve().parents[2]
DEMO = TOP / "docs/demo"


def cells():
    """The spreadsheet's rows, read without pandas."""
    space = {"m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}
    with zipfile.ZipFile(DEMO / "co2.xlsx") as book:
        shared = []
        if "xl/sharedStrings.xml" in book.namelist():
            for item in xml.fromstring(book.read("xl/sharedStrings.xml")).findall("m:si", space):
                shared.append("".join(t.text or "" for t in item.iter("{%s}t" % space["m"])))
        sheet = xml.fromstring(book.read("xl/worksheets/sheet1.xml"))
    for row in sheet.iter("{%s}row" % space["m"]):
        values = {}
        for cell in row.findall("m:c", space):
            value = cell.find("m:v", space)
            if value is not None:
                text = shared[int(value.text)] if cell.get("t") == "s" else value.text
                values[re.match("[A-Z]+", cell.get("r"))[0]] = text
        yield values.get("A", ""), values.get("B", "")


def test_the_main_job_makes_the_right_table_and_a_chart(mayfly, tmp_path):
    done = mayfly("run", "-t", "python-data", "--file", DEMO / "co2.xlsx", "--out", tmp_path, DEMO / "clean.py", "co2.xlsx")
    assert done.returncode == 0, done.stderr
    rows = [(date, value) for date, value in cells() if re.fullmatch(r"\d{8}", date)]
    said = re.match(r"([\d,]+) rows read, (\d+) are no weeks, (\d+) weeks had no value", done.stdout.decode())
    read, odd, empty = (int(number.replace(",", "")) for number in said.groups())
    values = [(int(date[:4]), float(value)) for date, value in rows if re.fullmatch(r"[0-9.]+", value)]
    assert read - odd == len(rows) >= 1000 and empty == len(rows) - len(values) > 0
    weeks = collections.defaultdict(list)
    for year, value in values:
        weeks[year].append(value)
    table = [line.split(",") for line in (tmp_path / "co2_by_year.csv").read_text().splitlines()]
    assert table[0] == ["year", "mean", "min", "max", "growth"]
    assert [int(line[0]) for line in table[1:]] == list(range(1959, 2002))
    for year, mean, least, most, _ in table[1:]:
        own = weeks[int(year)]
        # Gaps are filled there and not here.
        assert abs(float(mean) - sum(own) / len(own)) < 0.6, year
        assert abs(float(least) - min(own)) < 0.6 and abs(float(most) - max(own)) < 0.6, year
    chart = (tmp_path / "co2.png").read_bytes()
    assert chart.startswith(b"\x89PNG\r\n\x1a\n") and struct.unpack(">II", chart[16:24]) == (880, 495)
    assert len(pixels(chart)) > 880 * 495 and len(set(pixels(chart))) > 16


def pixels(png):
    at, data = 8, b""
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at:at + 8])
        if kind == b"IDAT":
            data += png[at + 8:at + 8 + size]
        at += size + 12
    return zlib.decompress(data)


@pytest.mark.skipif(os.geteuid() != 0, reason="starting a daemon needs root")
def test_the_whole_demo_finds_no_fault_in_80_columns():
    done = subprocess.run([str(DEMO / "with-shop"), str(DEMO / "run")], capture_output=True, timeout=COMMAND_SECONDS_MAX * 4,
                          cwd=TOP, env={**os.environ, "MAYFLY_CLI": CLI, "MAYFLY_BUILD": pathlib.Path(CLI).parents[1].name,
                                        "MAYFLYD_FLAGS": "--template python --template python-data"})
    said = done.stdout.decode()
    assert done.returncode == 0, said + done.stderr.decode()
    assert "FAULT" not in said and said.count("all gone") == 9
    assert re.findall(r"^   (outside|in a box)  ?(.*?)(?:   \(|$)", said.split("A secret: ")[1], re.M) == [
        ("outside", " HTTPError: HTTP Error 401: Unauthorized"),
        ("in a box", "{'orders': 6, 'total': 421.5} is report 1"),
        ("in a box", "reached 0 credentials (0 files, 0 variables)"),
        ("outside", " {'orders': 6, 'total': 421.5} is report 2"),
        ("outside", " HTTPError: HTTP Error 401: Unauthorized")]
    decades = re.findall(r"^  (\d{4})s  10 years +([\d.]+) ppm  \+([\d.]+) ppm a year  started after", said, re.M)
    assert [decade for decade, _, _ in decades] == ["1960", "1970", "1980", "1990"]
    assert all(310 < float(mean) < 370 and 0.5 < float(slope) < 2.5 for _, mean, slope in decades)
    assert [line for line in said.splitlines() if len(line) > 80] == []
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", said)
