#!/bin/sh
# Starts the Node zygote. V8's generators are seeded from a number that the zygote knows, so that it
# finds them in memory and can seed them anew in each clone (src/zygote/v8_random.h). Nobody else
# knows the number: the addresses of V8's memory follow from it.
seed=$(od -An -N3 -tu4 /dev/urandom)
PATH=/usr/bin exec node --random-seed=$((seed + 1)) --require /usr/lib/mayfly/zygote.js /task/main
