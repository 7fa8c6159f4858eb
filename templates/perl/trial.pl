# Run in two clones of a new zygote before the template is served. Prints the values that must
# differ between clones, those that must be equal in all, and faults. docs/templates.md explains the
# format.
use strict;
use warnings;
no warnings 'portable';    # addresses have 64 bits
my @loaded = sort keys %INC;    # before the code below loads more
my @set    = grep defined $SIG{$_}, sort keys %SIG;
require Digest::MD5;
require File::Temp;
require List::Util;

sub digest { Digest::MD5::md5_hex(join "\0", @_) }
sub read_all { open my $file, '<:raw', $_[0] or return ''; local $/; readline($file) // '' }
sub listed { opendir my $dir, $_[0] or return; sort grep !/^\.\.?$/, readdir $dir }

open my $kernel, '<:raw', '/dev/urandom' or die;
read $kernel, my $bytes, 16;
close $kernel;
my @numbers = 1 .. 1000;
my %differ  = (
  'rand'     => rand,
  'shuffle'  => join('-', (List::Util::shuffle(@numbers))[0 .. 9]),
  'urandom'  => unpack('H*', $bytes),
  'tempfile' => (File::Temp::tempfile('XXXXXXXXXX', OPEN => 0, DIR => '/tmp'))[1],
);
my @descriptors = grep { -e "/proc/self/fd/$_" } listed('/proc/self/fd');
my %equal       = (
  'hash'        => join('', keys %{ { map { $_ => 1 } 'a' .. 'z' } }),
  'modules'     => digest(@loaded),
  '@INC'        => "@INC",
  '@ARGV'       => "$0 @ARGV",
  'environment' => join(' ', map "$_=$ENV{$_}", sort keys %ENV),
  'descriptors' => "@descriptors",
  'files'       => join(' ', map listed($_), qw(/tmp /task /run)),
  'signals'     => "@set",
  'variables'   => join(' ', map defined ? $_ : 'undef', $|, $;, $,, $\, $^W, $]),
  'main'        => digest(sort grep !/^_</, keys %main::),
);

my @faults;
my @threads = listed('/proc/self/task');
push @faults, 'it has more than one thread' if @threads != 1;
for my $fd (@descriptors) {
  push @faults, "descriptor $fd is open: " . (readlink("/proc/self/fd/$fd") // '')
    if -e "/proc/self/fd/$fd" && !-p "/proc/self/fd/$fd";
}
push @faults, 'it has a child process' if waitpid(-1, 1) != -1;
push @faults, 'a POSIX timer exists' if length read_all('/proc/self/timers');

# Every Mayfly process that must be out of reach carries such a word. The pattern does not match
# itself.
my $canary = qr/MAYFLY[-]CANARY[-][0-9a-f]{16}/;
my @spans  = grep !/\[v(var|syscall)/, split /\n/, read_all('/proc/self/maps');
open my $memory, '<:raw', '/proc/self/mem' or die;
for my $span (@spans) {
  my ($begin, $end) = $span =~ /^([0-9a-f]+)-([0-9a-f]+) r/ or next;
  sysseek $memory, hex $begin, 0 or next;
  sysread($memory, my $text, hex($end) - hex $begin) or next;
  push @faults, "the daemon's canary is in its memory: $span" if $text =~ $canary;
}
push @faults, "the daemon's canary is in its environment" if "@{[%ENV]}" =~ $canary;

print "fault $_\n" for @faults;
print "differ $_ $differ{$_}\n" for sort keys %differ;
print "equal $_ $equal{$_}\n" for sort keys %equal;
