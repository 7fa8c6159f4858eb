# Whole programs that test_perl_ends.py runs as tasks and plain.

### end
open our $f, '>', '/task/out/x'; print $f 'row';

### end_lexical
open my $f, '>', '/task/out/x'; print $f 'row';

### bareword
open F, '>', '/task/out/x'; print F 'row';

### die
sub main { open my $f, '>', '/task/out/x'; print $f 'row'; die "gone wrong" } main();

### die_holds
our @kept; sub main { open my $f, '>', '/task/out/x'; print $f 'row'; push @kept, $f; die { code => 5 } } main();

### die_in_eval
eval { open my $f, '>', '/task/out/x'; print $f 'row'; die "inside\n" }; print "after: $@";

### die_text
die "so\n";

### die_number
$! = 0; $? = 0; die "x\n";

### die_errno
open my $f, '<', '/no/such' or die "cannot: $!";

### die_object_without_text
package E; package main; die bless { a => 1 }, 'E';

### die_in_sort
my @a = sort { die "in sort" } 2, 1;

### die_in_destroy
package L; sub DESTROY { die "in DESTROY\n" } package main; { my $l = bless [], 'L'; } print "after\n";

### die_in_destroy_at_the_end
package L; sub DESTROY { die "in DESTROY\n" } package main; our $l = bless [], 'L'; print "body\n";

### die_in_end
END { print "other\n" } END { die "in END\n" } print "body\n";

### die_handler_dies
$SIG{__DIE__} = sub { die "worse: $_[0]" }; die "first\n";

### exit
exit;

### exit_code
exit 7;

### exit_beyond
exit 256 + 3;

### exit_text
exit "12abc";

### exit_in_end
END { exit 4 } exit 2;

### exit_in_eval
eval { exit 5 }; print "never\n";

### exit_in_destroy
package L; sub DESTROY { exit 6 } package main; our $l = bless [], 'L';

### end_blocks
BEGIN { print "begin\n" } UNITCHECK { print "unitcheck\n" } CHECK { print "check\n" } INIT { print "init\n" } END { print "end 1\n" } END { print "end 2\n" } print "body\n";

### end_sees
our $x = bless [5]; END { print "end $x->[0] ${^GLOBAL_PHASE} $?\n" } sub DESTROY { print "destroy ${^GLOBAL_PHASE}\n" } exit 3;

### destroy_order
package L; sub new { bless { name => $_[1], to => $_[2] } } sub DESTROY { print "end of $_[0]{name} ${^GLOBAL_PHASE}\n" } package main;
my $a = L->new('lexical'); our $b = L->new('package'); my $c = L->new('outer', L->new('inner'));

### destroy_of_a_cycle
package L; sub DESTROY { print "end of $_[0]{name}\n"; print { $_[0]{f} } ' and its end' } package main;
my $l = bless { name => 'cycle' }, 'L'; $l->{me} = $l; open $l->{f}, '>', '/task/out/x'; print { $l->{f} } 'row';

### held_by_a_closure
our $code; { open my $f, '>', '/task/out/x'; print $f 'row'; $code = sub { $f } }

### held_by_a_cycle
{ open my $f, '>', '/task/out/x'; print $f 'row'; my $c = { f => $f }; $c->{me} = $c; }

### held_by_a_preloaded_package
require POSIX; open $POSIX::mine, '>', '/task/out/x'; print $POSIX::mine 'row'; $List::Util::mine = bless [], 'L'; sub L::DESTROY { print "end\n" }

### held_by_a_signal_handler
{ open my $f, '>', '/task/out/x'; print $f 'row'; $SIG{USR1} = sub { print $f 'x' } }

### held_by_a_tied_hash
package T; sub TIEHASH { open my $f, '>', '/task/out/x'; print $f 'row'; bless { f => $f } } sub DESTROY { print { $_[0]{f} } ' end' } package main; tie our %h, 'T';

### held_by_state
use v5.36; sub f { state $f; open $f, '>', '/task/out/x'; print $f 'row' } f();

### held_by_local
our $f; sub main { local $f; open $f, '>', '/task/out/x'; print $f 'row'; die "x\n" } main();

### two_handles
open my $f, '>', '/task/out/x'; open my $g, '>&', $f; print $f 'one '; print $g 'two ';

### to_a_program
open my $f, '|-', 'cat > /task/out/x'; print $f 'row'; close $f; print $?;

### to_a_program_left_open
open my $f, '|-', 'cat > /task/out/x'; print $f 'row';

### full_device
open my $f, '>', '/dev/full'; print $f 'row';

### full_stdout
open STDOUT, '>', '/dev/full'; print 'row';

### full_stdout_exit
open STDOUT, '>', '/dev/full'; print 'row'; exit 3;

### closed_stdout
print 'row'; close STDOUT;

### closed_stdout_and_print
close STDOUT; print 'row' or print STDERR "lost: $!\n";

### closed_descriptor
use POSIX (); print 'row'; POSIX::close(1);

### closed_stderr
close STDERR; die "not seen\n";

### stdout_text
print 'no newline';

### stdout_and_exit_at_once
use POSIX (); print 'lost'; POSIX::_exit(3);

### stdout_duplicate
open my $f, '>&', STDOUT; print $f 'dup '; print 'own ';

### stdout_layers
binmode STDOUT, ':encoding(UTF-16LE)'; print "h\x{e9}";

### wide_character
print "\x{263a}\n"; warn "\x{263a}\n";

### autoflush_local
{ local $| = 1; print 'flushed '; } print 'left'; use POSIX (); kill 'KILL', $$;

### select_other
open my $f, '>', '/task/out/x'; select $f; print 'row'; die "x\n";

### syswrite
syswrite STDOUT, "sys\n"; print "buffered\n";

### in_memory
open my $f, '>', \our $text; print $f 'row'; print length($text // ''), "\n";

### write_format
our $v = 5;
format STDOUT =
@>>> left
$v
.
write;

### signal_term
kill 'TERM', $$; sleep 60;

### signal_int
kill 'INT', $$; sleep 60;

### signal_handled
$SIG{TERM} = sub { print "handled\n"; exit 9 }; kill 'TERM', $$; sleep 60;

### signal_handler_dies
$SIG{ALRM} = sub { die "alarm\n" }; eval { kill 'ALRM', $$; sleep 60 }; print "got $@"; kill 'ALRM', $$; sleep 60;

### signal_pipe
pipe my $r, my $w; close $r; syswrite $w, 'x'; print "never\n";

### signal_ignored
$SIG{INT} = 'IGNORE'; kill 'INT', $$; print "alive\n";

### segmentation_fault
kill 'SEGV', $$; sleep 60;

### dump
require POSIX; POSIX::abort();

### fork_ends
print 'before '; my $pid = fork; if ($pid) { waitpid $pid, 0; print "child $?" } else { print 'child ' }

### fork_exits
my $pid = fork; if ($pid) { waitpid $pid, 0; print $? >> 8 } else { exit 18 } END { print STDERR "end\n" }

### fork_dies
open my $f, '>', '/task/out/x'; print $f 'row'; my $pid = fork; if ($pid) { waitpid $pid, 0; print $? >> 8 } else { die "in the child\n" }

### fork_destroys
package L; sub DESTROY { print STDERR "end of a ", ($$ == $_[0][0] ? 'parent' : 'child'), "\n" } package main;
our $l = bless [$$], 'L'; my $pid = fork; if ($pid) { waitpid $pid, 0 }

### exec
print 'lost'; exec 'echo', 'replaced';

### exec_fails
exec '/no/such/program' or print "no: $!\n";

### system_fails
print system('/no/such/program'), " $?\n"; print system('kill -9 $$'), "\n";

### warn
warn 'careful'; warn "more\n"; warn; $@ = 'kept'; warn;

### warn_in_sub
use Carp; sub f { carp 'carped'; cluck 'clucked' } f(1, 'two'); croak 'croaked';

### confess
use Carp; sub f { confess 'confessed' } sub g { f(@_) } g(1);

### caller
print defined caller(0) ? 'frame' : 'none', "\n"; sub f { my @c = caller(0); print "@c[0..3]\n"; print defined caller(1) ? 'frame' : 'none', "\n" } f();

### names
print __FILE__, ' ', __LINE__, ' ', __PACKAGE__, " $0 @ARGV\n"; print "$^X $^V $^O ", $^T > 1e9, " ${^TAINT} $^W $;", "\n";

### data
print scalar <DATA>; print eof(DATA), "\n"; print <DATA>;
__DATA__
one
two

### data_of_end
print while <main::DATA>;
__END__
one

### data_seek
seek DATA, 0, 0; print scalar <DATA>;
__END__
one

### syntax_error
my $x = 1;
my $y = ;

### syntax_error_strict
use strict; use warnings;
$undeclared = 1;
print $other;

### syntax_error_brace
if (1) { print 1;

### syntax_error_quote
print "abc;

### syntax_warning
use warnings; my $x; my $x; print $x + 1, "\n"; my @a = (1) x -1;

### begin_exits
BEGIN { exit 5 } print "never\n";

### begin_dies
BEGIN { die "early\n" } END { print "end\n" }

### use_missing
use No::Such::Module;

### use_version
use v7;

### deep_recursion
use warnings; sub f { my $n = shift; f($n - 1) if $n } f(200); print "done\n";

### shebang_switches
#!/usr/bin/perl -lw
print 'a'; print 'b'; my @a = (1); print "$a[1]";

### line_directive
#line 100 "other.pl"
die 'here';

### sub_line_directive
# line 7 "named.pl"
warn 'x';

### hash_order
my %h = map { $_ => 1 } 'a' .. 'z'; print join(',', keys %h), "\n";

### loaded
print exists $INC{'strict.pm'} ? '' : '', scalar(@INC), " @INC\n"; require Data::Dumper; local $Data::Dumper::Sortkeys = 1; print Data::Dumper::Dumper({ a => [1] });

### changed_packages
undef &POSIX::_exit; undef &Carp::croak; %INC = (); @INC = (); print "1\n";

### changed_symbols
no strict 'refs'; %{"Mayfly::Zygote::"} = (); %{"POSIX::"} = (); print "1\n"; exit 4;

### changed_core
BEGIN { *CORE::GLOBAL::exit = sub { print "mine @_\n"; CORE::exit(8) } } exit 3;

### changed_die
BEGIN { *CORE::GLOBAL::die = sub { print "mine @_\n"; CORE::die(@_) } } die "x\n";

### environment_cleared
%ENV = (); print scalar(keys %ENV), "\n"; exit 2;

### separator
$\ = "!\n"; $, = '-'; print 1, 2; $/ = undef; print 3;

### child_status
$? = 5; END { $? = $? + 1 } exit 3;

### errno_at_the_end
$! = 13; exit;

### string_kind -- kind=string
print __FILE__, ' ', __LINE__, " $0 @ARGV\n"; warn 'x'; die 'y';

### string_kind_syntax -- kind=string
my $y = ;

### string_kind_data -- kind=string
print defined fileno(DATA) ? 1 : 0, "\n"; eval 'die "z"'; print $@;

### stdin_kind -- kind=stdin
print __FILE__, ' ', __LINE__, " $0 @ARGV\n"; print defined(<STDIN>) ? 'more' : 'end', "\n"; die 'y';

### stdin_kind_data -- kind=stdin
print <DATA>;
__END__
one

### stdin_kind_syntax -- kind=stdin
my $y = ;

### empty

### pod

=pod

Words.

=cut

print __LINE__, "\n";
