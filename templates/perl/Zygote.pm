# What the Perl zygote does: load, serve, become a task. See zygote.pl.
package Mayfly::Zygote;
use strict;
use warnings;

use FFI::Platypus ();
use JSON::PP ();
use POSIX ();

use constant HERE => '/usr/lib/mayfly';
use constant { ABI => 1, TASK_FILE => 1, TASK_STRING => 2, O_CLOEXEC => 02000000, MFD_CLOEXEC => 1 };
use constant HOOKS_BYTES => 6 * 8;
# mayfly_task of mayfly/zygote.h.
use constant TASK => 'L L Q l x4 Q Q Q Q Q Q';
use constant TASK_BYTES => length pack TASK, (0) x 10;

my ($ffi, %call, %environment, $seeded, $program_fd, $program_name);
my $abort_hook = \&on_abort;

sub address { unpack 'Q', pack 'P', $_[0] }
sub bytes_at { $_[1] ? unpack "P$_[1]", pack 'Q', $_[0] : '' }

sub attach {
  $ffi = FFI::Platypus->new(api => 2, lib => [undef, HERE . '/libmayfly-zygote.so']);
  my %types = (
    mayfly_zygote_preloaded => [['string'] => 'int'],
    mayfly_zygote_refuse => [['string'] => 'void'],
    mayfly_zygote_serve => [['opaque', 'opaque'] => 'int'],
    mayfly_zygote_started => [[] => 'int'],
    memfd_create => [['string', 'uint'] => 'int'],
    dup3 => [['int', 'int', 'int'] => 'int'],
    pthread_getspecific => [['uint'] => 'opaque'],
    # perl's own, exported for its extensions
    Perl_PerlIO_stdout => [['opaque'] => 'opaque'],
    Perl_PerlIO_setlinebuf => [['opaque', 'opaque'] => 'void'],
  );
  $call{$_} = $ffi->function($_ => @{ $types{$_} }) for keys %types;
}

sub refuse {
  my ($why) = @_;
  print STDERR "$why\n";
  $call{mayfly_zygote_refuse}->call($why =~ s/\s+\z//r);
  POSIX::_exit(2);
}

# Each on its own, so that the one that breaks the zygote is named.
sub preload {
  my ($names) = @_;
  $call{mayfly_zygote_preloaded}->call(undef);
  for my $name (@$names) {
    my $file = ($name =~ s{::}{/}gr) . '.pm';
    eval { require $file; 1 } or refuse("preload '$name' failed: $@");
    POSIX::_exit(2) if $call{mayfly_zygote_preloaded}->call($name) != 0;
  }
}

# Whether a preload seeded rand(): then two children draw the same.
sub is_seeded {
  my @drawn;
  for (1 .. 2) {
    pipe my $from, my $to or refuse("pipe: $!");
    my $pid = fork // refuse("fork: $!");
    if (!$pid) {
      syswrite $to, rand;
      POSIX::_exit(0);
    }
    close $to;
    push @drawn, scalar readline $from;
    waitpid $pid, 0;
  }
  return $drawn[0] eq $drawn[1];
}

# The descriptor that perl reads this program from.
sub find_program {
  my ($file) = @_;
  opendir my $dir, '/proc/self/fd' or refuse("/proc/self/fd: $!");
  for my $fd (grep /^\d+$/, readdir $dir) {
    return $fd if (readlink("/proc/self/fd/$fd") // '') eq $file;
  }
  refuse("'$file' is open on no descriptor");
}

# perl reads the task's program where it would have read the rest of zygote.pl.
sub become {
  my ($name, $source) = @_;
  # perl knows the program's first line by this; "#!" works from it on.
  my $text = '#line 1 "' . ($name =~ tr/"\n/?/r) . "\"\n$source";
  my $fd = $call{memfd_create}->call('program', MFD_CLOEXEC);
  for (my $at = 0; $at < length $text;) {
    $at += POSIX::write($fd, substr($text, $at), length($text) - $at) // POSIX::_exit(121);
  }
  POSIX::lseek($fd, 0, POSIX::SEEK_SET());
  return if $fd == $program_fd;
  $call{dup3}->call($fd, $program_fd, O_CLOEXEC) == $program_fd or POSIX::_exit(121);
  POSIX::close($fd);
}

sub read_file {
  my ($name) = @_;
  open my $file, '<:raw', $name or return;
  local $/;
  return readline $file;
}

sub take_task {
  my ($kind, $has_seed, $seed, $argc, undef, undef, $code, $code_bytes, $strings, $strings_bytes) =
    unpack TASK, $_[0];
  my @strings = split /\0/, bytes_at($strings, $strings_bytes), -1;
  pop @strings;  # behind the last NUL
  my @argv = splice @strings, 0, $argc;
  my %wanted = map { split /=/, $_, 2 } @strings;
  # Only what differs is touched.
  delete $ENV{$_} for grep { !exists $wanted{$_} } keys %ENV;
  for (keys %wanted) {
    $ENV{$_} = $wanted{$_} unless defined $environment{$_} && $environment{$_} eq $wanted{$_};
  }
  POSIX::tzset() if ($wanted{TZ} // '') ne ($environment{TZ} // '');
  unshift @INC, split /:/, $ENV{PERL5LIB} if length($ENV{PERL5LIB} // '');

  my $name = shift @argv;
  my $source = bytes_at($code, $code_bytes);
  if ($kind == TASK_FILE) {
    $source = read_file($name) // do {
      $call{mayfly_zygote_started}->call;
      print STDERR qq{Can't open perl script "$name": $!\n};
      POSIX::_exit(2);
    };
  } else {
    $name = '-e' if $kind == TASK_STRING;
  }
  @ARGV = @argv;
  $0 = $program_name = $name;
  $^T = time;
  if ($has_seed) { srand $seed }
  elsif ($seeded) { srand }
  become($name, $source);
}

# perl names the file that it was started with when a program does not compile.
sub on_abort {
  my ($message) = @_;
  my $file = HERE . '/zygote.pl';
  die $message if $message =~ s/^(Execution of )\Q$file\E( aborted)/$1$program_name$2/m;
  die $message if $message =~ s/^\Q$file\E( had (?:compilation errors|too many errors))/$program_name$1/m;
}

# When the task's program is compiled, before its first statement.
INIT {
  delete $SIG{__DIE__} if ($SIG{__DIE__} // 0) == $abort_hook;
}

sub run {
  my ($file) = @_;
  my $template = JSON::PP->new->decode(read_file(HERE . '/template.json') // die "template.json: $!");
  # perl takes its hash seed at its start only.
  if (grep { ($ENV{$_} // '') ne $template->{env}{$_} } keys %{ $template->{env} }) {
    %ENV = (%ENV, %{ $template->{env} });
    exec $^X, $file or die "exec: $!";
  }
  attach();
  preload($template->{preload} // []);
  $seeded = is_seeded();
  $program_fd = find_program($file);
  $SIG{__DIE__} = $abort_hook;
  %environment = %ENV;
  # Lines are seen live: a pipe would be block-buffered.
  my $key = unpack 'L', bytes_at($ffi->find_symbol('PL_thr_key'), 4);
  my $perl = $call{pthread_getspecific}->call($key);
  $call{Perl_PerlIO_setlinebuf}->call($perl, $call{Perl_PerlIO_stdout}->call($perl));

  my $hooks = pack 'L L Q4', ABI, 0, (0) x 4;
  $hooks .= "\0" x (HOOKS_BYTES - length $hooks);
  vec(my $task = '', TASK_BYTES - 1, 8) = 0;  # a buffer of its own, never a shared constant
  my $result = $call{mayfly_zygote_serve}->call(address($hooks), address($task));
  if ($result != 0) {
    print STDERR 'zygote: cannot serve: ', do { local $! = -$result; "$!" }, "\n";
    POSIX::_exit(2);
  }
  take_task($task);
  POSIX::_exit(121) if $call{mayfly_zygote_started}->call != 0;
}

1;
