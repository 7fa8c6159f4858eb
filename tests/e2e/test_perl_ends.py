"""A Perl task starts and ends as perl starts and ends it.

Programs (`programs/perl_ends.pl`) run as tasks and plain (`plain.py`): standard output and
error, exit code or signal, and the files in /task/out are equal. Then the variables that
perl reads when it starts.

What differs and is no fault: lines on standard output are seen live, where plain keeps a
block, so programs that end without perl's end leave no whole line; perl numbers the evals
of strings, and the preloads did some.
"""

import re

import pytest

import plain
import programs

MASKS = ((re.compile(r"\(eval \d+\)"), "(eval N)"),)
SHOW = """
use strict; use warnings;
print "@INC\\n", join(',', map { "$_=" . ($ENV{$_} // '') } grep /^PERL/, sort keys %ENV), "\\n";
print "$^W ${^UNICODE} ${^UTF8LOCALE} ${^OPEN}\\n" =~ s/\\0/;/gr if defined ${^OPEN};
print "$^W ${^UNICODE} ", ${^UTF8LOCALE} // 'undef', " @{[PerlIO::get_layers(STDOUT)]} @{[PerlIO::get_layers(STDIN)]}\\n";
print "h\\x{e9}\\n"; print length($ARGV[2] // ''), "\\n";
my @a = (1); print eval { require Extra; Extra::value() } // "none: $@", "\\n";
"""
HASHES = 'my %h = map { $_ => 1 } "a" .. "z"; print join(",", keys %h), "\\n"; print scalar(%h), "\\n"'
VARIABLES = {
    "PERL5OPT": [("-w", "my @a = (1); print $a[5] + 1, qq{ $^W\\n}"), ("-Mstrict", "$undeclared = 1; print 1"), ("-MList::Util=sum", "print sum(1, 2), qq{\\n}"),
                 ("-CSD", SHOW), ("-T", "print ${^TAINT}, qq{\\n}"), ("-Z", "print 1")],
    "PERL5LIB": [("/task/lib", SHOW), ("lib:/nosuch", SHOW), ("", SHOW), ("/task/own", "use strict; use List::Util; print $INC{'List/Util.pm'}, qq{\\n}")],
    "PERLLIB": [("/task/lib", SHOW)],
    "PERL_UNICODE": [("SAD", SHOW), ("", SHOW), ("0", SHOW)],
    "PERLIO": [(":stdio", SHOW), (":unix", SHOW), (":perlio", SHOW), (":crlf", SHOW), ("nonsense", SHOW)],
    "PERL5DB": [("BEGIN { }", SHOW)],
    "PERL_HASH_SEED": [("0", HASHES), ("1", HASHES), ("0xabc", HASHES)],
    "PERL_PERTURB_KEYS": [("0", HASHES), ("2", "print 1")],
    "PERL_HASH_SEED_DEBUG": [("1", "print 1")],
    "PERL_DESTRUCT_LEVEL": [("2", "our $l = bless []; sub DESTROY { print qq{end\\n} }")],
    "PERL_SIGNALS": [("unsafe", "$SIG{USR1} = sub { print qq{got\\n} }; kill 'USR1', $$; print qq{end\\n}")],
    "PERL_RAND_SEED": [("5", "print rand, qq{\\n}; srand; print rand, qq{\\n}")],
    "PERL_USE_UNSAFE_INC": [("1", SHOW)],
    "PERL_BADLANG": [("0", "print 1")],
    "LC_ALL": [("C", SHOW), ("xx_YY", "print 1"), ("C.UTF-8", SHOW)],
    "LANG": [("xx_YY", "print 1")],
    "TZ": [("Asia/Tokyo", "print scalar localtime 0"), ("", "print scalar localtime 0")],
    "HOME": [("/tmp", "print((getpwuid $<)[7], ' ', glob '~')")],
    "PATH": [("/nosuch", "print system('ls') == 0 ? 1 : 0, qq{\\n}")],
}
FILES = (("lib/Extra.pm", b"package Extra; sub value { 'extra' } 1;\n"), ("own/List/Util.pm", b"package List::Util; 1;\n"))


def table():
    for name, (text, options) in programs.read("perl_ends.pl").items():
        yield plain.Case(name, text.encode(), options.get("kind", "file"), template="perl", masks=MASKS)
    for name, uses in VARIABLES.items():
        for number, (value, program) in enumerate(uses):
            yield plain.Case(f"{name}={value}-{number}", program.encode(), args=("one", "two words", "h\xe9"), env=(f"{name}={value}",), files=FILES,
                             template="perl", masks=MASKS)
    yield plain.Case("beside", b"use lib '/task'; use Extra; print Extra::value()", files=(("Extra.pm", FILES[0][1]),), template="perl")
    yield plain.Case("shadow", b"use lib '/task/own'; use List::Util; print $INC{'List/Util.pm'}", files=FILES, template="perl")


TABLE = list(table())


@pytest.fixture(scope="module")
def results(mayfly, request, tmp_path_factory):
    return plain.run_both(mayfly, plain.selected(request, "case"), tmp_path_factory.mktemp("perl"))


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_a_program_starts_and_ends_as_under_perl(results, case):
    task, expected = results[case.name]
    assert str(task) == str(expected), case.source.decode()
