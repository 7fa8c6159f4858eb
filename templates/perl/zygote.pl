# The Perl zygote: a thin program over libmayfly-zygote.
#
# All of it runs in one BEGIN block, while perl still compiles this file. In a clone the block ends
# with the task's program in place of the rest of this file, so perl compiles and runs it as its
# main program: exit codes, END blocks, DATA and messages are those of `perl script.pl`.
BEGIN {
  package Mayfly::Zygote;
  require '/usr/lib/mayfly/Zygote.pm';
  run(__FILE__);
}
