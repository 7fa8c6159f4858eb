"""Runs one file of CPython's suite in this very process, as `python3 -m test` does, and tells how each test ended.

    suite_file.py --list                     the suite's files, one a line
    suite_file.py FILE SECONDS [FOLDER]      one file, of the suite or of FOLDER; past SECONDS regrtest prints every
                                             thread's stack and exits

Runs in a box and in a plain interpreter alike. Each outcome is a line of JSON in /task/out/outcomes, written the
moment it is known: what a test that crashes or hangs takes along is only itself and what would have followed.
"""

import json
import posix
import sys
import traceback

OUTCOMES = "/task/out/outcomes"
TEXT_CHARS_MAX = 6000


# Saved before the tests, which replace them.
def record(outcome, open=posix.open, write=posix.write, close=posix.close, dumps=json.dumps, getpid=posix.getpid,
           own=posix.getpid()):
    if getpid() != own:
        return  # a child that returned into the runner
    file = open(OUTCOMES, posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT, 0o644)
    write(file, dumps(outcome).encode() + b"\n")
    close(file)


def name_of(test):
    return test.id() if callable(getattr(test, "id", None)) else str(test)


def described(error):
    kind, value, trace = error
    text = "".join(traceback.format_exception(kind, value, trace))
    return {"kind": getattr(kind, "__name__", str(kind)), "text": text[-TEXT_CHARS_MAX:]}


def observe(result_class):
    """Makes the suite's own result class report each outcome as well."""

    def telling(method, end, tell):
        original = getattr(result_class, method)

        def observed(self, test, *rest):
            original(self, test, *rest)
            what = tell(*rest)
            if what is not None:
                record({"test": name_of(rest[0] if method == "addSubTest" else test), "end": end, **what})

        setattr(result_class, method, observed)

    telling("addSuccess", "ok", lambda: {})
    telling("addSkip", "skip", lambda reason: {"kind": str(reason)})
    telling("addFailure", "fail", described)
    telling("addError", "error", described)
    telling("addExpectedFailure", "ok", lambda error: {})
    telling("addUnexpectedSuccess", "unexpected success", lambda: {})
    # A successful or skipped part is not reported: its whole test is.
    telling("addSubTest", "fail", lambda subtest, error: error and described(error))


def main():
    from test.libregrtest import findtests
    from test.libregrtest import main as regrtest
    from test.libregrtest.testresult import RegressionTestResult

    if sys.argv[1] == "--list":
        print("\n".join(findtests.findtests()))
        return
    name, seconds, *folder = sys.argv[1:]
    observe(RegressionTestResult)
    run = regrtest.run_single_test

    def run_and_tell(name, runtests):
        result = run(name, runtests)
        errors = "\n".join(str(each) for each in (result.errors or []) + (result.failures or []))
        record({"test": name, "end": str(result.state), "text": errors[-TEXT_CHARS_MAX:], "seconds": result.duration})
        return result

    regrtest.run_single_test = run_and_tell
    sys.argv[1:] = ["--randseed", "1", "--timeout", seconds, *(f"--testdir={each}" for each in folder), name]
    regrtest.main()


if __name__ == "__main__":
    main()
