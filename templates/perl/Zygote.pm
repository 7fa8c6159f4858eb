# The Perl zygote's code: load, serve, become a task. See zygote.pl.
package Mayfly::Zygote;
use strict;
use warnings;

use FFI::Platypus ();
use Filter::Util::Call ();
use JSON::PP ();
use POSIX ();

use constant HERE => '/usr/lib/mayfly';
use constant { ABI => 1, TASK_FILE => 1, TASK_STRING => 2, TASK_STDIN => 3, O_CLOEXEC => 02000000, MFD_CLOEXEC => 1 };
use constant { FOLDER => '/task', ARGUMENT_BYTES_MAX => 131_071, NOT_RUN => 126 };
# Variables that perl, the C library or a loader reads at start; PERL5LIB is applied.
use constant AT_START_ONLY => qr/^(?:PERL(?!5LIB$).*|LANG|LANGUAGE|LC_.*|LD_.*|GLIBC_TUNABLES|MALLOC_.*)$/;
use constant HOOKS_BYTES => 6 * 8;
# mayfly_task of mayfly/zygote.h.
use constant TASK => 'L L Q l x4 Q Q Q Q Q Q';
use constant TASK_BYTES => length pack TASK, (0) x 10;

my ($ffi, %call, %environment, %expected, $seeded, $program_fd, $program_name);
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
    mayfly_zygote_execute => [['string', 'opaque'] => 'void'],
    memfd_create => [['string', 'uint'] => 'int'],
    dup3 => [['int', 'int', 'int'] => 'int'],
    pthread_getspecific => [['uint'] => 'opaque'],
    # perl's own function, exported for extensions
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

# Loads each module on its own, so that the one that breaks the zygote is named.
sub preload {
  my ($names) = @_;
  $call{mayfly_zygote_preloaded}->call(undef);
  for my $name (@$names) {
    my $file = ($name =~ s{::}{/}gr) . '.pm';
    eval { require $file; 1 } or refuse("preload '$name' failed: $@");
    POSIX::_exit(2) if $call{mayfly_zygote_preloaded}->call($name) != 0;
  }
}

# Whether a preload seeded rand(): then two children draw the same numbers.
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

# The descriptor from which perl reads this program.
sub find_program {
  my ($file) = @_;
  opendir my $dir, '/proc/self/fd' or refuse("/proc/self/fd: $!");
  for my $fd (grep /^\d+$/, readdir $dir) {
    return $fd if (readlink("/proc/self/fd/$fd") // '') eq $file;
  }
  refuse("'$file' is open on no descriptor");
}

sub memory_file {
  my ($text) = @_;
  my $fd = $call{memfd_create}->call('program', MFD_CLOEXEC);
  for (my $at = 0; $at < length $text;) {
    $at += POSIX::write($fd, substr($text, $at), length($text) - $at) // POSIX::_exit(121);
  }
  POSIX::lseek($fd, 0, POSIX::SEEK_SET());
  return $fd;
}

# Lets perl read the task's program instead of the rest of zygote.pl.
sub become {
  my ($name, $source) = @_;
  # This line tells perl the program's first line without being part of the program: DATA's offsets
  # are the program's own.
  my $line = '#line 1 "' . ($name =~ tr/"\n/?/r) . "\"\n";
  Filter::Util::Call::filter_add(sub {
    $_ = $line;
    Filter::Util::Call::filter_del();
    return 1;
  });
  my $fd = memory_file($source);
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

# Whether a file in the task's folder, or in a folder of PERL5LIB, would be loaded instead of a
# loaded module.
sub shadows {
  my %names = map { s{.*/}{}r => 1 } keys %INC;
  my @folders = (FOLDER, @_);
  while (defined(my $folder = shift @folders)) {
    opendir my $dir, $folder or next;
    for my $name (grep !/^\.\.?$/, readdir $dir) {
      my $path = "$folder/$name";
      if (!-l $path && -d _) { push @folders, $path }
      elsif ($names{$name}) {
        for (grep { s{.*/}{}r eq $name } keys %INC) {
          return $path if "/$_" eq substr $path, -1 - length;
        }
      }
    }
  }
  return;
}

# Why this task cannot run with the loaded modules, or undef.
sub why_fresh {
  my ($wanted) = @_;
  for (sort keys %$wanted) {
    return $_ if $_ =~ AT_START_ONLY && ($expected{$_} // "\0") ne $wanted->{$_};
  }
  return shadows(split /:/, $wanted->{PERL5LIB} // '');
}

# Runs the task in a new perl, in this box and process.
sub execute {
  my ($task, $kind, $source, $why, $name, @arguments) = @_;
  my @argv = ('perl', $name, @arguments);
  if ($kind == TASK_STRING) {
    if (length $source > ARGUMENT_BYTES_MAX) {
      $call{mayfly_zygote_started}->call;
      print STDERR "mayfly: the program has ", length $source, " bytes, and '$why' needs a new perl, which takes ",
        ARGUMENT_BYTES_MAX, " at most: put the program into a file\n";
      POSIX::_exit(NOT_RUN);
    }
    @argv = ('perl', '-e', $source, @arguments);
  } elsif ($kind == TASK_STDIN) {
    my $fd = memory_file($source);
    POSIX::dup2($fd, 0);
  }
  my $strings = pack 'Q*', map({ address($_) } @argv), 0;
  my @fields = unpack TASK, $task;
  $fields[4] = address($strings);
  my $changed = pack TASK, @fields;
  $call{mayfly_zygote_execute}->call($^X, address($changed));
}

sub take_task {
  my ($kind, $has_seed, $seed, $argc, undef, undef, $code, $code_bytes, $strings, $strings_bytes) =
    unpack TASK, $_[0];
  my @strings = split /\0/, bytes_at($strings, $strings_bytes), -1;
  pop @strings;  # after the last NUL
  my @argv = splice @strings, 0, $argc;
  my %wanted = map { split /=/, $_, 2 } @strings;
  my $why = why_fresh(\%wanted);
  execute($_[0], $kind, bytes_at($code, $code_bytes), $why, @argv) if defined $why;
  # Touches only variables that differ.
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
  $! = 0;  # perl's exit code if a program does not compile
}

# If a program does not compile, perl's message names the file that perl was started with.
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
  # perl reads its hash seed only at its start.
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
  %expected = %{ $template->{task_env} };
  # Lines are seen live: a pipe would be block-buffered.
  my $key = unpack 'L', bytes_at($ffi->find_symbol('PL_thr_key'), 4);
  my $perl = $call{pthread_getspecific}->call($key);
  $call{Perl_PerlIO_setlinebuf}->call($perl, $call{Perl_PerlIO_stdout}->call($perl));

  my $hooks = pack 'L L Q4', ABI, 0, (0) x 4;
  $hooks .= "\0" x (HOOKS_BYTES - length $hooks);
  vec(my $task = '', TASK_BYTES - 1, 8) = 0;  # a separate buffer, never a shared constant
  my $result = $call{mayfly_zygote_serve}->call(address($hooks), address($task));
  if ($result != 0) {
    print STDERR 'zygote: cannot serve: ', do { local $! = -$result; "$!" }, "\n";
    POSIX::_exit(2);
  }
  take_task($task);
  POSIX::_exit(121) if $call{mayfly_zygote_started}->call != 0;
}

1;
