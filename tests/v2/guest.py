# Runs inside the guest: every test in turn, one line each, then the count.
#
# A test is a function that returns (it may return a note), raises Skip with the
# reason, or raises anything else to fail. Lines go to the second serial port,
# which the host reads.
import pathlib
import re
import sys
import time
import traceback

sys.path.insert(0, "/share/v2")
sys.dont_write_bytecode = True
from guest_base import Skip  # noqa: E402
import guest_host  # noqa: E402
import guest_rooms  # noqa: E402
import guest_tasks  # noqa: E402

DETAIL_LINES_MAX = 40
DETAIL_COLUMNS_MAX = 300


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def detail(text):
    for line in text.splitlines()[-DETAIL_LINES_MAX:]:
        say("    | " + "".join(c if 32 <= ord(c) < 127 else "?" for c in line)[:DETAIL_COLUMNS_MAX])


def main():
    mode = pathlib.Path("/share/mode").read_text().strip()
    count = {"ok": 0, "skip": 0, "FAIL": 0}
    only = re.compile(pathlib.Path("/share/only").read_text())
    for name, test in [*guest_host.tests(mode), *guest_rooms.tests(mode),
                       *guest_tasks.tests(mode)]:
        if not only.search(name):
            continue
        say(f"run {name}")
        began = time.monotonic()
        try:
            note = test()
            word, text, more = "ok", f"({note})" if note else "", ""
        except Skip as skip:
            word, text, more = "skip", f": {skip}", ""
        except AssertionError:
            word, text, more = "FAIL", "", traceback.format_exc(limit=-2)
        except BaseException:
            word, text, more = "FAIL", "", traceback.format_exc(limit=-4)
        count[word] += 1
        say(f"{word} {name} {text} {time.monotonic() - began:.1f} s")
        detail(more)
    guest_tasks.close()
    say("end " + " ".join(f"{k}={v}" for k, v in count.items()))


main()
