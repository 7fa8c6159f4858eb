#!/bin/sh
# Starts the Node zygote. V8's generators are seeded from a number that the zygote knows, so that it
# finds them in memory and can seed them anew in each clone (src/zygote/v8_random.h). The addresses of
# V8's memory follow from it: it is random, and of all bits that the flag takes. A clone can read it in
# its own memory, as it can read those addresses.
set -e
seed=$(od -An -N4 -tu4 /dev/urandom)
PATH=/usr/bin exec node --random-seed=$((seed % 2147483647 + 1)) --require /usr/lib/mayfly/zygote.js /task/main
