"""The perl template: a second runtime that forks, made of a folder alone.

A task behaves as `perl script.pl` would: each script runs as a task and under a
fresh interpreter of the same image. Then what every clone promises: the same
start, generators that differ, verdicts, receipts.
"""

import json
import re

import pytest

SCRIPTS = {
    "main": 'print "$0 [@ARGV] ", __FILE__, " ", __LINE__, " ", __PACKAGE__, "\\n"; print defined caller() ? 1 : 0, "\\n";',
    "hash_bang": "#!/usr/bin/perl -w\nmy @a = (1); print $a[0] + undef, \"\\n\";",
    "phase": "BEGIN { print ${^GLOBAL_PHASE} } INIT { print ${^GLOBAL_PHASE} } END { print ${^GLOBAL_PHASE} } print ${^GLOBAL_PHASE};",
    "data": "print while <DATA>;\n__END__\nline 1\nline 2\n",
    "data_of_a_package": "package Other; print while <DATA>; print <main::DATA>;\n__DATA__\nline 1\n",
    "exit_0": "exit",
    "exit_code": "exit 300",
    "exit_negative": "exit -1",
    "die": 'die "so\\n"',
    "die_with_line": "\n\ndie 'here'",
    "die_with_errno": '$! = 5; die "x"',
    "die_with_status": '$! = 0; $? = 3 << 8; die "x"',
    "die_object": 'package E; use overload q{""} => sub { "text of it\\n" }; die bless {}',
    "die_handler": '$SIG{__DIE__} = sub { print "handler: $_[0]" }; die "x"',
    "no_handler": 'print defined $SIG{__DIE__} ? "set" : "unset", " ", scalar(grep defined, values %SIG), "\\n"',
    "warn": 'warn "careful"; warn "more\\n"',
    "warn_handler": '$SIG{__WARN__} = sub { print "handler: $_[0]" }; warn "x"',
    "end_changes_status": "END { $? = 9 } exit 2",
    "end_after_die": "END { print qq{end $?\\n} } die qq{gone\\n}",
    "syntax_error": "my $x = 1;\nmy $y = ;\nprint 1;\n",
    "many_errors": "use strict;\n" + "$a1 = $b2 = $c3;\n" * 12,
    "no_such_module": "use No::Such::Module;",
    "begin_dies": "BEGIN { die qq{early\\n} }",
    "strict_refused": "use strict; $undeclared = 1;",
    "destructors": 'package L; sub new { bless [$_[1]] } sub DESTROY { print "gone $_[0][0]\\n" } package main; my $a = L->new(1); our $b = L->new(2); print "body\\n";',
    "environment": 'print join("\\n", map "$_=$ENV{$_}", grep !/^PERL|^_$|^PWD|^OLDPWD|^SHLVL/, sort keys %ENV), "\\n"; print `echo \\$HOME`',
    "environment_set": '$ENV{MINE} = "x y"; system q{echo "$MINE"};',
    "system": 'print system("exit 3") >> 8, "\\n"; print `echo out`; print $?, "\\n"',
    "fork": 'my $p = fork; if (!$p) { exit 7 } waitpid $p, 0; print $? >> 8, "\\n"',
    "exec": 'exec "echo", "replaced"',
    "eval_string": 'my $r = eval "1 +"; print $@; print eval { die { code => 5 } } // $@->{code}, "\\n"',
    "require_twice": 'use JSON::PP; require JSON::PP; print JSON::PP->new->canonical->encode({b => 1, a => [1, 2]}), "\\n"',
    "modules": 'use POSIX qw(floor); use List::Util qw(sum shuffle); use Time::HiRes qw(time); use Data::Dumper; $Data::Dumper::Sortkeys = 1; print floor(2.5), sum(1..4), Dumper({a => 1})',
    "hash_order": 'my %h = map { $_ => 1 } "a" .. "z"; print keys %h, "\\n"',
    "stdin_at_its_end": 'print defined(<STDIN>) ? "data" : "end", "\\n"',
    "autoflush": 'print $|, "\\n"; $| = 1; print "x"; print STDERR "y"',
    "layers": 'print join(",", PerlIO::get_layers($_)), "\\n" for *STDIN, *STDOUT, *STDERR',
    "utf8": 'use utf8; binmode STDOUT, ":utf8"; print "\\x{2603} h\\x{e9}\\n"',
    "closed_stdout": "close STDOUT; exit 4",
    "formats": "our $v = 42;\nformat STDOUT =\n@>>>>\n$v\n.\nwrite;\n",
    "signal_handlers": 'print join(",", map { defined $SIG{$_} ? $SIG{$_} : "-" } qw(INT TERM PIPE XFSZ CHLD)), "\\n"',
    "bigint": 'use bigint; print 2 ** 100, "\\n"',
    "say": 'use v5.36; say "modern"; sub f ($x) { $x * 2 } say f(21)',
    "local_lib": 'print "@INC\\n"',
    "program_name": 'print -s $0 > 10 ? "there\\n" : "gone\\n"; open my $f, "<", __FILE__ or die; print scalar(() = <$f>), "\\n"',
    "descriptors": 'opendir my $d, "/proc/self/fd"; print join(" ", sort { $a <=> $b } grep { /\\d/ && -e "/proc/self/fd/$_" } readdir $d), "\\n"',
}

REFERENCE = """
use strict; use JSON::PP; use IPC::Open3; use Symbol 'gensym';
open my $null, '<', '/dev/null' or die;
my @files = map { "/tmp/$_" } qw(out err);
my $pid = fork // die;
if (!$pid) {
  open STDIN, '<&', $null; open STDOUT, '>', $files[0]; open STDERR, '>', $files[1];
  exec $^X, 'script.pl', 'one', 'two words';
}
waitpid $pid, 0;
my $code = $? & 127 ? -($? & 127) : $? >> 8;
print encode_json([$code, map { open my $f, '<', $_; local $/; scalar readline $f } @files]);
"""


def outcome(result):
    code = -result["signal"] if result["verdict"] == "signaled" else result["exitCode"]
    return [code, result["stdout"], result["stderr"]]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_behaves_as_under_the_interpreter(mayfly, tmp_path, name):
    script = tmp_path / "script.pl"
    script.write_text(SCRIPTS[name])
    reference = mayfly.run("-t", "perl", "--file", script, "-c", REFERENCE)
    assert reference["verdict"] == "succeeded", reference
    expected = json.loads(reference["stdout"])
    # perl prints bytes; the result has them decoded.
    expected[1:] = [(text or "").encode("latin-1").decode("utf-8", "replace") for text in expected[1:]]
    got = outcome(mayfly.run("-t", "perl", script, "one", "two words"))
    # perl counts the evals of strings, and the zygote's preloads did some.
    without_numbers = [[re.sub(r"\(eval \d+\)", "(eval N)", x) if isinstance(x, str) else x for x in o] for o in (got, expected)]
    assert without_numbers[0] == without_numbers[1]


def test_a_signal_ends_it_as_one(mayfly):
    result = mayfly.run("-t", "perl", "-c", "kill 'TERM', $$; sleep 60")
    assert (result["verdict"], result["signal"]) == ("signaled", 15), result


def test_program_from_the_command_line_and_from_standard_input(mayfly):
    result = mayfly.run("-t", "perl", "-c", 'print "$0 @ARGV ", __FILE__; die "x"', "a", "b")
    assert (result["stdout"], result["stderr"], result["exitCode"]) == ("-e a b -e", "x at -e line 1.\n", 255)
    result = mayfly.run("-t", "perl", "-", "a", input=b'print "$0 @ARGV\\n"; print while <DATA>;\n__END__\nmore\n')
    assert (result["verdict"], result["stdout"]) == ("succeeded", "- a\nmore\n"), result


def test_standard_input_is_the_task_s(mayfly):
    result = mayfly.run("-t", "perl", "--stdin", "-c", "print scalar reverse <STDIN>", input=b"abc")
    assert result["stdout"] == "cba", result


def test_output_is_seen_line_by_line(mayfly):
    task = mayfly.start("run", "-t", "perl", "--stdin", "-c", 'print "ready\\n"; <STDIN>; print "done\\n"')
    assert task.stdout.readline() == b"ready\n"
    task.stdin.write(b"go\n")
    task.stdin.close()
    assert task.stdout.read() == b"done\n"
    assert task.wait(60) == 0


def test_modules_beside_the_script_and_of_perl5lib(mayfly, tmp_path):
    (tmp_path / "Helper.pm").write_text("package Helper; sub value { 42 } 1;\n")
    (tmp_path / "script.pl").write_text("use Helper; print Helper::value();")
    result = mayfly.run("-t", "perl", "--env", "PERL5LIB=/task", "--file", tmp_path / "Helper.pm", tmp_path / "script.pl")
    assert result["stdout"] == "42", result


def test_output_files_come_back(mayfly, tmp_path):
    mayfly.run("-t", "perl", "--out", tmp_path / "out", "-c", "open F, '>', 'out/x'; print F 'kept'")
    assert (tmp_path / "out/x").read_text() == "kept"


DRAW = """
use JSON::PP; use File::Temp (); use List::Util 'shuffle';
my @numbers = 1 .. 1000;
open my $kernel, '<:raw', '/dev/urandom'; read $kernel, my $bytes, 8;
my %drawn = (rand => rand, shuffle => join(',', (shuffle @numbers)[0 .. 9]), kernel => unpack('H*', $bytes));
(my $file = File::Temp->new) =~ s{.*/}{};
$drawn{temporary} = $file;
print encode_json(\\%drawn);
"""


def test_every_generator_differs_between_clones(mayfly):
    drawn = [json.loads(mayfly.run("-t", "perl", "-c", DRAW)["stdout"]) for _ in range(6)]
    for name in drawn[0]:
        assert len({d[name] for d in drawn}) == len(drawn), (name, drawn)


def test_children_of_a_clone_draw_as_a_script_s_would(mayfly):
    """perl seeds at the first use: children that draw numbers first differ from each other."""
    result = mayfly.run("-t", "perl", "-c", """
        $| = 1; for (1 .. 4) { my $p = fork; if (!$p) { print rand, "\\n"; exit } waitpid $p, 0 }""")
    assert len(set(result["stdout"].split())) == 4, result


def test_a_seed_makes_rand_repeat_and_nothing_else(mayfly):
    one, two, other = (json.loads(mayfly.run("-t", "perl", "--seed", seed, "-c", DRAW)["stdout"]) for seed in (7, 7, 8))
    assert one["rand"] == two["rand"] != other["rand"]
    assert one["kernel"] != two["kernel"]


LISTING = r"""
use JSON::PP;
sub file { open my $f, '<', $_[0] or return "$!"; local $/; readline $f }
sub tree { my ($top) = @_; my @all; my @todo = ($top);
  while (defined(my $dir = shift @todo)) { opendir my $d, $dir or next;
    for (sort grep !/^\.\.?$/, readdir $d) { my @s = lstat "$dir/$_"; push @all, ["$dir/$_", @s[2, 4, 5], -d _ ? 0 : $s[7]]; push @todo, "$dir/$_" if -d _ } }
  \@all }
my %see = (env => {%ENV}, argv => [$0, @ARGV], ids => [$$, getppid, $<, $>, $(, $)], umask => umask, inc => \@INC,
  loaded => [sort keys %INC], symbols => [sort grep !/^_</, keys %main::], signals => {map { $_ => "$SIG{$_}" } grep defined $SIG{$_}, keys %SIG},
  order => join('', keys %{{map { $_ => 1 } 'a' .. 'z'}}), vars => ["$|", "$;", "$,", "$/", "$\\", "$^W", "$^H", "$]", "$^X"],
  tree => [map @{tree($_)}, qw(/tmp /task /run /dev /var/tmp /etc)]);
$see{$_} = file("/proc/self/$_") for qw(cgroup limits uid_map gid_map comm cmdline oom_score_adj);
opendir my $d, '/proc/self/fd'; $see{fds} = [sort grep /\d/, readdir $d];
$see{status} = [grep !/^(Vm|Rss|voluntary|nonvoluntary)/, split /\n/, file('/proc/self/status')];
print JSON::PP->new->canonical->encode(\%see);
"""

LITTER = """
mkdir '/tmp/litter'; open F, '>', '/task/litter'; open G, '>', '/dev/shm/litter'; srand 1; $ENV{LITTER} = 1;
$INC{'Litter.pm'} = 1; $main::litter = 1; $SIG{USR1} = 'IGNORE';
if (!fork) { require POSIX; POSIX::setsid(); exit if fork; sleep 600 }
"""


def test_the_first_box_and_a_later_one_see_the_same(mayfly):
    first = mayfly.run("-t", "perl", "-c", LISTING)
    assert first["verdict"] == "succeeded", first
    for _ in range(5):
        assert mayfly.run("-t", "perl", "-c", LITTER)["verdict"] == "succeeded"
    later = mayfly.run("-t", "perl", "-c", LISTING)
    assert json.loads(first["stdout"]) == json.loads(later["stdout"])


VERDICTS = {
    "wallTime": (["--timeout", "500ms"], "sleep 60"),
    "cpuTime": (["--cpu-time", "300ms"], "1 while 1"),
    "memory": (["--memory", "64MiB"], "my @a; push @a, 'x' x 1e6 while 1"),
    "processes": (["--pids", "16"], "while (1) { my $p = fork; if (defined $p && !$p) { sleep 60 } }"),
    "output": (["--output", "64KiB"], "print 'x' x 4096 while 1"),
    "disk": (["--disk", "8MiB"], "open F, '>', 'f'; for (1 .. 64) { print F 'x' x 1e6 or last } close F; sleep 60"),
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_each_cap_has_its_verdict_and_leaves_nothing(mayfly, verdict):
    flags, code = VERDICTS[verdict]
    result = mayfly.run("-t", "perl", *flags, "-c", code)
    assert result["verdict"] == verdict, result
    assert result["receipt"]["complete"], result["receipt"]
