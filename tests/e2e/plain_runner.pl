# Runs the programs of row.json one after another, each as a fresh perl; a line of JSON for each.
use strict;
use warnings;
use Cwd ();
use File::Basename ();
use File::Find ();
use File::Path ();
use JSON::PP;
use MIME::Base64 qw(decode_base64 encode_base64);
use POSIX ();

use constant SECONDS_MAX => 60;

my $json = JSON::PP->new->utf8;
my $perl = $^X;
my %environment = %ENV;

sub read_file {
  my ($name) = @_;
  open my $file, '<:raw', $name or return '';
  local $/;
  return readline($file) // '';
}

sub write_file {
  my ($name, $content) = @_;
  File::Path::make_path(File::Basename::dirname($name));
  open my $file, '>:raw', $name or die "$name: $!";
  print $file $content;
  close $file or die "$name: $!";
}

sub prepare {
  my ($case) = @_;
  chdir '/';
  File::Path::remove_tree('/task', '/tmp', { keep_root => 1 });
  mkdir '/task/out';
  write_file("/task/$case->{script}", decode_base64 $case->{source}) if $case->{kind} eq 'file';
  write_file("/task/$_->[0]", decode_base64 $_->[1]) for @{ $case->{files} };
  chdir '/task';
}

sub become {
  my ($case, @pipes) = @_;
  POSIX::dup2(fileno $pipes[$_], $_) for 0 .. 2;
  %ENV = (%environment, map { split /=/, $_, 2 } @{ $case->{env} });
  my $source = decode_base64 $case->{source};
  my @what = $case->{kind} eq 'file' ? $case->{script} : $case->{kind} eq 'string' ? ('-e', $source) : '-';
  { no warnings; exec { $perl } 'perl', @what, map { utf8::encode(my $text = $_); $text } @{ $case->{args} } }
  POSIX::_exit(127);
}

# What the program writes goes to pipes, as a task's does; each is read by a process of its own.
sub reader {
  my ($from, $name, $give) = @_;
  my $pid = fork // die "fork: $!";
  return $pid if $pid;
  close $give;  # the program's stdin ends when the runner closes it
  POSIX::setsid();
  local $/;
  write_file($name, readline($from) // '');
  POSIX::_exit(0);
}

sub run {
  my ($case) = @_;
  prepare($case);
  pipe my $stdin, my $give or die;
  pipe my $out, my $stdout or die;
  pipe my $err, my $stderr or die;
  my $pid = fork // die "fork: $!";
  become($case, $stdin, $stdout, $stderr) if !$pid;
  close $_ for $stdin, $stdout, $stderr;
  my @readers = (reader($out, '/run/out', $give), reader($err, '/run/err', $give));
  close $_ for $out, $err;
  {
    local $SIG{PIPE} = 'IGNORE';
    print $give decode_base64 $case->{source} if $case->{kind} eq 'stdin';
    close $give;
  }
  my $late;
  local $SIG{ALRM} = sub { $late = 1; kill 'KILL', $pid };
  alarm SECONDS_MAX;
  while (waitpid($pid, 0) != $pid) { }
  my $status = $?;
  alarm 0;
  waitpid $_, 0 for @readers;
  my %files;
  File::Find::find({ no_chdir => 1, wanted => sub { $files{ substr $_, length '/task/out/' } = encode_base64 read_file($_), '' if -f } }, '/task/out');
  my $code = $late ? 'it did not end' : $status & 127 ? -($status & 127) : $status >> 8;
  return { code => $code, stdout => encode_base64(read_file('/run/out'), ''), stderr => encode_base64(read_file('/run/err'), ''), files => \%files };
}

my $row = $json->decode(read_file('/task/row.json'));
for my $case (@$row) {
  my $found = run($case);
  $| = 1;
  print $json->encode($found), "\n";
}
