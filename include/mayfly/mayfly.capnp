# Mayfly's RPC: the reference manual of all that a client can ask of the daemon.
#
# Address: a unix stream socket, by default /run/mayfly/default.sock. The daemon checks the peer's
# uid (SO_PEERCRED): it serves root, its own uid and the uids that its configuration names. On a
# connection of another uid every call answers `permissionDenied`; on a connection beyond its user's
# bound, `resourceExhausted`. Each second, only one refused connection of a user gets these answers;
# its others are closed. The bootstrap interface is `Mayfly`.
#
# The shortest use: submit a TaskSpec, keep the Task, wait, close.
#
#   submit(spec, output) -> task        the daemon has checked and queued it
#   output.write(...)*                  live stdout and stderr, while it runs
#   task.wait() -> result               verdict, usage, receipt; after the last write
#   task.readFile(...)*                 the files that the task left in /task/out
#   task.close()                        the daemon forgets it
#
# Larger input: upload(sha256, size), write chunks, finish; then name the sha256 in any number of
# tasks' InputFile. To survive a lost connection: submit with `detach`, later `find` by id or key.
#
# ERRORS. Every answer has a field `error`. `error.code == ok` (an unset field reads so, too) means
# that the call succeeded; otherwise no other field of the answer counts. An exception of Cap'n
# Proto itself has only three meanings: the connection is gone (disconnected); the daemon is older
# than the client and does not know the method (unimplemented); the message was malformed (failed).
# The end of the *task* is never an error: it is the result's `verdict`.
#
# GRANTS. A box starts with nothing worth stealing. A task that must call an API or pull a row names
# grants: actions of the operator's policy, each with bounds that the submitter can narrow and never
# widen. The daemon's broker, outside the box, holds the secret and does the action; the task finds
# MAYFLY_BROKER=http://127.0.0.1:80 set, and the same door at /run/broker.sock. `tools` are functions
# of the submitting client, which the task calls as `POST /tools/NAME`. Both die with the task: they
# are revoked before it is killed, and the receipt says when. A task without grants and tools has no
# door: its connections are refused.
#
# OWNERSHIP. A task belongs to the connection that submitted it. The daemon treats three events
# alike: `close`, the release of a Task on which no call is outstanding, and the end of the
# connection. A task that still runs is then killed (`cancelled` by close or release, `clientGone`
# by a dropped connection), and its result and files are freed. Clients that never release
# capabilities must call `close`. An id is below 2^53, never given twice and not to be guessed; it
# gives no right to the task. A task with `detach` belongs to the user (the peer's uid): it
# outlives its connection, and any connection of that user can `find` it. Blobs belong to the user
# as well.
#
# LEASES. The daemon holds nothing for a client for ever. It forgets an ended task that is not
# closed `resultLeaseMs` after the last call on it (a detached task: after the lease that it asked
# for), an Upload `uploadIdleMs` after its last write, and a blob `blobTtlMs` after its last use, or
# sooner if a new one needs its room. It closes a connection that has no task after
# `connectionIdleMs` without activity, and a connection that leaves a message unfinished for
# `messageMsMax`. Every call on an object renews its lease. A forgotten object answers `notFound`.
#
# FLOW. No method uses `-> stream`: every write is a plain call, and its return means that the
# receiver has taken the data. A client that does not return from `OutputSink.write` slows only its
# own task: the daemon holds at most 256 KiB of each of the task's two streams.
#
# BOUNDS. A message of more than 8 MiB (`messageBytesMax`) or 512 segments ends the connection
# before the daemon stores any of it. While the daemon works on `inFlightBytesPerConnectionMax` of a
# connection's requests, it reads no further message of that connection. At other bounds a call
# answers `resourceExhausted`; `ServerInfo.bounds` has their values.
#
# UNITS stand last in a name: Bytes, Ms, Ns, Milli (thousandths). Times in ns are of the host's
# CLOCK_MONOTONIC; 0 means that the event did not happen. The time that a task may run is its
# `wallTimeMs`; how long a client waits for an answer is its deadline and never on the wire.
#
# VERSIONS. Fields and methods are only added. `hello` compares protocol numbers.

@0x9e811192a3a5e0a1;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("mayfly::schema");

const protocolVersion :UInt16 = 4;
# The version of this file. A daemon speaks every version from 1 up to its own.

const messageBytesMax :UInt32 = 8388608;
# The largest message, either way. Larger data goes in chunks.

const chunkBytesMax :UInt32 = 1048576;
# The largest `data` of writeStdin and Upload.write, and of an answer to readFile.

const default64 :UInt64 = 0xffffffffffffffff;
const default32 :UInt32 = 0xffffffff;
# In LimitWishes: not named; the cap takes the template's default.

# ---------------------------------------------------------------------- calls

interface Mayfly {
  # The bootstrap interface. Its calls may be made in any order, many at a time.

  hello @0 (client :Text, protocol :UInt16) -> (info :ServerInfo, error :Error);
  # Names the client and the version of this file that it was built with (`protocolVersion`). The
  # call is optional, but it tells a newer client, in words, that the daemon is older. `client`:
  # free text for the daemon's log; at most 100 bytes are used.
  # error: failedPrecondition, the daemon does not speak this version.

  templates @1 () -> (templates :List(TemplateInfo), error :Error);
  # The templates that tasks can name.

  submit @2 (spec :TaskSpec, output :OutputSink, toolBox :ToolBox, traceparent :Text) -> (task :Task, id :UInt64, error :Error, existing :Bool, grants :List(Grant));
  # Checks the task and queues it. If `output` is null, the output is captured into the result
  # instead of being sent live. `existing`: this user has submitted a task with the same
  # `detach.key` before; the answer is that task, and nothing runs a second time.
  # `toolBox`: the client's functions, named in `spec.tools`; null: none. `grants`: one for each of
  # `spec.grants`, in their order.
  # `traceparent`: the W3C trace context of the caller; empty: none. It stands in the daemon's lines
  # about the task, and in the broker's audit. It is no part of the spec: a repeated `detach.key`
  # with another one is the same task.
  # error: invalidArgument, notFound (the template, a blob, a grant), permissionDenied (a grant that
  # is not this user's or tenant's), alreadyExists (the key belongs to a
  # task with another spec, or to one of an earlier run of the daemon), unavailable (the template is
  # not ready, the daemon stops, the broker is down), failedPrecondition (grants or tools, and the
  # daemon has no broker), resourceExhausted (a queue or this connection is full, or unclosed tasks hold too much).

  tasks @3 () -> (tasks :List(TaskInfo), error :Error);
  # The asking user's tasks that are queued, running or ending, of all its connections (at most
  # 10,000). Root sees every user's tasks.

  kill @4 (id :UInt64) -> (error :Error);
  # Ends a task of the asking user, whichever connection started it, as `cancelled`, like
  # `Task.cancel`; root may end any user's task. Returns when the end is decided; the owner's `wait` returns when nothing of the
  # task is left.
  # error: notFound, the user has no such task or it has ended. The message says if the id is of an
  # earlier run of the daemon.

  upload @5 (sha256 :Data, sizeBytes :UInt64) -> (upload :Upload, known :Bool, error :Error);
  # Begins a blob: bytes that any number of this user's tasks can take as an input file. `sha256`:
  # the 32 bytes of its hash. `known`: the blob is already stored, its time to live begins anew, and
  # there is nothing to upload. Where there is no room, blobs that no task holds give way, the one
  # unused for longest first.
  # error: invalidArgument (no valid hash, or a size above `blobBytesMax`), resourceExhausted (the
  # store, this user's share of it, or uploads of this connection).

  blobs @6 () -> (blobs :List(BlobInfo), error :Error);
  # This user's complete blobs.

  removeBlob @7 (sha256 :Data) -> (error :Error);
  # Tasks that already name the blob keep it.
  # error: notFound.

  find @8 (id :UInt64, key :Text) -> (task :Task, id :UInt64, error :Error);
  # A detached task of this user, by the key that it was submitted with, or by `id` if `key` is
  # empty. `close` forgets the task for every connection; releasing the object does nothing.
  # error: notFound, there is no such task or its lease is over. The message says if the daemon was
  # restarted since the task was submitted: its result is gone then, and it may have run.

  detached @9 () -> (tasks :List(DetachedTask), error :Error);
  # This user's detached tasks that are kept, ended ones too, by id. Renews no lease.
}

interface Upload {
  # An unfinished blob. Dropping it (close, release, end of the connection) frees the written bytes.

  write @0 (data :Data) -> (error :Error);
  # The next bytes, 1 to `chunkBytesMax`. Returns when they are stored.
  # error: invalidArgument (more than the announced size), failedPrecondition (finished).

  finish @1 () -> (error :Error);
  # Completes the blob: from now on tasks can name it.
  # error: invalidArgument, the bytes have another hash or size; the upload is gone.

  close @2 () -> (error :Error);
  # Drops the upload, unless it is finished. Harmless when repeated.
}

interface Task {
  # A task of this connection, or a detached task of this user.

  wait @0 () -> (result :TaskResult, error :Error);
  # Returns when nothing of the task is left, and after the last OutputSink.write returned. Can be
  # called again, up to 16 times concurrently; the result stays the same.
  # error: cancelled, the task was closed during the wait.

  cancel @1 () -> (error :Error);
  # Ends the task as `cancelled`; `wait` gives the result. A task with a grace (`graceMs`) first gets
  # SIGTERM; a second call ends the grace. Harmless once the task has ended.

  writeStdin @2 (data :Data) -> (error :Error);
  # Returns when the task's stdin has taken all of `data`: this is the back-pressure. Calls keep
  # their order and may overlap up to `chunkBytesMax` of untaken data. Refused data is dropped;
  # earlier data still arrives.
  # error: invalidArgument (more than `chunkBytesMax`, or more than the task's `inputBytes`),
  # resourceExhausted (more than `chunkBytesMax` is untaken, or the daemon holds too much input),
  # failedPrecondition (the task was submitted without `stdinOpen`, stdin was closed, or the task
  # has ended).

  closeStdin @3 () -> (error :Error);
  # The task reads end-of-file after all written data.

  readFile @4 (index :UInt32, offset :UInt64, bytesMax :UInt32) -> (data :Data, end :Bool, error :Error);
  # Bytes of `TaskResult.outFiles[index]`, at most min(bytesMax, chunkBytesMax), from `offset`;
  # `end`: nothing follows. Only after `wait` has returned.
  # error: failedPrecondition (the task runs, or the file was skipped), notFound (index), unavailable
  # (no such index, and `outFilesLost`: run the task again),
  # invalidArgument (bytesMax is 0).

  close @5 () -> (error :Error);
  # Gives up the task: see OWNERSHIP above. Calls in progress return `cancelled`; later calls answer
  # `failedPrecondition` or `cancelled`. Harmless when repeated.

  info @6 () -> (info :TaskInfo, error :Error);
  # The task's current state, without waiting; "done" once `wait` would return at once.
}

interface OutputSink {
  # Made by the client, given to `submit`. The daemon calls it in order, one write at a time. An
  # exception from it means that the client wants no more output: the task is cancelled.

  started @0 () -> ();
  # The task is about to run its first instruction.

  write @1 (stream :Stream, data :Data) -> ();
  # 1 byte to 256 KiB. Returning from it acknowledges the data.
}

interface Grant {
  # One grant of a task. Releasing it does nothing: the grant dies with its task.

  revoke @0 () -> (error :Error);
  # Ends the grant before the task: its calls in flight end, its minted credentials are inactive.
  # Returns when no call under it works any more. Harmless when repeated, and once the task has
  # ended.
  # error: unavailable, the broker did not answer in time; a call may still be on its way.
}

interface ToolBox {
  # Made by the client, given to `submit`. The daemon calls it while the task runs, at most 16 calls
  # at a time for each task; a call beyond them, or one that takes longer than 60 s, fails in the
  # task. The daemon releases the object when the task ends.

  call @0 (name :Text, json :Text) -> (json :Text, error :Error);
  # A call of the tool `name`, one of `spec.tools`. `json`: its arguments as the task sent them, one
  # JSON value of at most 1 MiB; the task chose every byte, and nothing has checked it against the
  # tool's schema. The answer is one JSON value, of at most 1 MiB. Of `error` the task sees code and
  # message.
}

enum Stream {
  stdout @0;
  stderr @1;
}

# --------------------------------------------------------------------- errors

struct Error {
  code @0 :ErrorCode;
  message @1 :Text;     # what failed, on which object, why; for people
  advice @2 :Text;      # what to do; may be empty
  retryable @3 :Bool;   # the same call can succeed later
  retryAfterMs @4 :UInt32;  # if retryable: do not retry sooner; 0: unknown
}

enum ErrorCode {
  ok @0;
  invalidArgument @1;     # this request can never succeed
  notFound @2;            # the named template, task, file... does not exist
  alreadyExists @3;
  resourceExhausted @4;   # others, or earlier calls, hold too much of a resource; retryable.
                          # A request that can never fit is an invalidArgument
  unavailable @5;         # not now: starting, stopping, template not ready; retryable
  failedPrecondition @6;  # the object is not in the state that the call needs
  permissionDenied @7;
  cancelled @8;
  deadlineExceeded @9;
  hostUnfit @10;          # the host cannot keep a promise
  internal @11;           # a fault of Mayfly itself
}

# ----------------------------------------------------------------- the request

struct TaskSpec {
  template @0 :Text;
  # The template's name, as `templates` lists it.

  code :union {
    # The program. At most 4 MiB.
    command @1 :Void;     # `args` is a whole command line; templates of mechanism `exec` only
    file :group {         # a script: put at /task/NAME and run from there
      name @2 :Text;      # e.g. "script.py"; a plain file name
      text @3 :Data;
    }
    string @4 :Data;      # the program, as after the runtime's -c
    stdin @5 :Data;       # the program, as if piped into the runtime
    module @17 :Text;     # a module's name, as after Python's -m; /task is its first place
    path @18 :Text;       # the program is among `files`: a script's path, or that of an archive or
                          # a folder with a `__main__.py`, as in `python3 PATH`. Modules, archives
                          # and folders: templates of Python only
  }

  args @6 :List(Text);
  # The arguments after the script in argv; for `command` the whole argv. At most 1,024, 128 KiB.

  env @7 :List(EnvVar);
  # Added to the template's short fixed list; a variable of the same name replaces the template's.
  # Of the variables that come with grants, MAYFLY_BROKER replaces the task's own; for any other
  # name, the task's own stands. At most 1,024.

  files @8 :List(InputFile);
  # At most 1,000; they count for the task's memory and disk.

  stdinData @9 :Data;
  # The first bytes of the task's stdin.

  stdinOpen @10 :Bool;
  # true: writeStdin and closeStdin follow. false: stdin ends after `stdinData`.

  limits @11 :LimitWishes;

  seed :union {
    # Seeds the runtime's reproducible generators (Python: random and numpy's legacy
    # one). Kernel randomness always differs between tasks.
    none @12 :Void;
    value @13 :UInt64;
  }

  collectOutFiles @14 :Bool;
  # Keep the files that the task leaves in /task/out, for readFile.

  detach @15 :Detach;
  # Let the task outlive this connection. Its output is captured: `output` must be null,
  # `stdinOpen` false.

  tenant @16 :Text;
  # The person or service that the task is for, if one user's client serves several: at most 64
  # bytes, printable. If a template gives each tenant a zygote (zygote.tenants_max in its manifest),
  # tasks of different users or tenants never share one; else the field has no effect on zygotes.

  grants @19 :List(GrantWish);
  # The actions of the broker's policy that this task may use. Empty: none. At most 64, each named
  # once.

  tools @20 :List(Tool);
  # The functions of `toolBox` that the task may call. Empty: none. At most 128, each named once.
  # A detached task has none: nobody may be there to answer.
}

struct GrantWish {
  name @0 :Text;
  # The action's name in the policy: at most 64 letters, digits, "_", "-" and "."

  narrowing @1 :Text;
  # This task's own bounds, e.g. "calls=10,methods=GET,paths=/models/*"; at most 1,024 bytes. Empty:
  # the policy's. A bound that is wider than the policy's is an invalidArgument.
}

struct Tool {
  name @0 :Text;         # at most 64 letters, digits, "_", "-" and "."
  description @1 :Text;  # for people and models; at most 4 KiB
  schemaJson @2 :Text;   # JSON schema of the arguments; at most 16 KiB; empty: any
}

struct Detach {
  leaseMs @0 :UInt32;
  # How long the result is kept after the task's end and the last call on it: 1 to
  # `detachLeaseMsMax`. 0: the task is not detached.

  key @1 :Text;
  # Optional, at most 128 bytes: the user's own name for this run. A submit that repeats a kept
  # task's key returns that task instead of running a second one. Keys outlive the daemon, results
  # do not: after a restart a repeated key is refused for `leaseMs`, for its task may have run.
}

struct EnvVar {
  name @0 :Text;    # no "=", no NUL, not empty
  value @1 :Text;   # no NUL
}

struct InputFile {
  path @0 :Text;             # relative to /task; no "..", no empty part, no NUL; at most
                             # 1,024 bytes and 32 parts; missing folders are made
  data @1 :Data;
  mode @2 :UInt16 = 420;     # permission bits; 0644
  blob @3 :Data;             # instead of `data`: the sha256 of a blob of this user; a task may
                             # name at most 64 different ones
}

struct LimitWishes {
  # The caps that this task wants. An unset field takes the template's default; 0 (but for `graceMs`),
  # or more than the template's maximum, is an invalidArgument. The table in docs/SPECIFICATION.md says what happens
  # when a task reaches a cap.
  cpuMilli @0 :UInt32 = .default32;          # thousandths of one core: 1500 = 1.5 cores
  cpuTimeMs @1 :UInt64 = .default64;         # user + system of the whole box
  wallTimeMs @2 :UInt64 = .default64;        # from its first instruction
  memoryBytes @3 :UInt64 = .default64;       # all pages of the box, files in memory included
  processes @4 :UInt32 = .default32;         # processes and threads
  openFiles @5 :UInt32 = .default32;         # per process
  fileSizeBytes @6 :UInt64 = .default64;     # of one file
  diskBytes @7 :UInt64 = .default64;         # /tmp, /task, /run, /dev/shm together
  diskInodes @8 :UInt64 = .default64;        # /tmp, /task, /run, /dev/shm together
  outputBytes @9 :UInt64 = .default64;       # stdout and stderr, each
  inputBytes @10 :UInt64 = .default64;       # stdin and input files together
  outFilesBytes @11 :UInt64 = .default64;    # collected files together
  outFiles @12 :UInt32 = .default32;         # their number
  queueTimeMs @13 :UInt64 = .default64;      # in the queue, before its box
  graceMs @14 :UInt64 = .default64;          # at wall time and at a cancel: from SIGTERM to the kill
}

# ------------------------------------------------------------------ the result

struct TaskResult {
  id @0 :UInt64;
  template @1 :Text;
  verdict @2 :Verdict;
  exitCode @3 :Int32;       # succeeded (0), failed, and if `inGrace`
  signal @4 :Int32;         # signaled, and if `inGrace`; 0: none
  reason @5 :Text;          # one line for people: which cap and its value, or what failed
  capValue @6 :UInt64;      # the cap that the task reached, in its unit; 0: none
  limits @7 :Limits;        # the caps that were in force
  usage @8 :Usage;
  phases @9 :Phases;
  receipt @10 :Receipt;
  stdout @11 :Data;         # captured if `output` was null; the first 1 MiB
  stderr @12 :Data;         # the same
  stdoutTruncated @13 :Bool;  # the task wrote more than was captured
  stderrTruncated @14 :Bool;
  outFiles @15 :List(OutFile);
  outFilesNote @16 :Text;   # why files are missing from the collection; empty if none are
  outFilesLost @17 :Bool;   # Mayfly lost files that the task may have left: their collector failed, was
                            # killed or ran out of time. The verdict stays the task's own. Another run
                            # can give the files
  inGrace @18 :Bool;        # wallTime, cancelled, daemonStopping: the task's main process was sent
                            # SIGTERM and ended by itself, before the kill; `exitCode` and `signal`
                            # say how
}

enum Verdict {
  # How a task ended, as the kernel reports it; no code in the box can forge it.
  succeeded @0;       # exit code 0
  failed @1;          # another exit code
  signaled @2;        # killed by a signal that no cap sent
  wallTime @3;        # ended at this cap, from here...
  cpuTime @4;
  memory @5;
  processes @6;
  output @7;
  disk @8;            # ...to here
  cancelled @9;       # by cancel, kill, close, or an exception from OutputSink
  clientGone @10;     # the connection ended
  daemonStopping @11;
  internal @12;       # Mayfly's own failure; never the task's
  queueTime @13;      # no box was free within this cap: the task never ran
}

struct Limits {
  cpuMilli @0 :UInt32;
  cpuTimeMs @1 :UInt64;
  wallTimeMs @2 :UInt64;
  memoryBytes @3 :UInt64;
  processes @4 :UInt32;
  openFiles @5 :UInt32;
  fileSizeBytes @6 :UInt64;
  diskBytes @7 :UInt64;
  diskInodes @8 :UInt64;
  outputBytes @9 :UInt64;
  inputBytes @10 :UInt64;
  outFilesBytes @11 :UInt64;
  outFiles @12 :UInt32;
  queueTimeMs @13 :UInt64;
  graceMs @14 :UInt64;
}

struct Usage {
  wallNs @0 :UInt64;          # first instruction to exit or kill
  userCpuNs @1 :UInt64;
  systemCpuNs @2 :UInt64;
  memoryPeakBytes @3 :UInt64;
  processesPeak @4 :UInt32;
  stdoutBytes @5 :UInt64;
  stderrBytes @6 :UInt64;
  diskBytes @7 :UInt64;       # held at death
  diskInodes @8 :UInt64;      # held at death
  freshRuntime @9 :Bool;      # the task got a new runtime, without the template's preloads: its
                              # environment or files need one
}

struct Phases {
  # When each step was reached.
  queuedNs @0 :UInt64;     # the daemon accepted the task
  boxNs @1 :UInt64;        # the daemon asked for the box
  boxReadyNs @2 :UInt64;   # cgroups, namespaces and mounts are complete
  cloneNs @3 :UInt64;      # the clone runs in it, all walls up
  claimedNs @4 :UInt64;    # the clone got the task
  startedNs @5 :UInt64;    # the clone is about to run the task's first instruction
  firstByteNs @6 :UInt64;  # the daemon read the first byte of output
  exitedNs @7 :UInt64;     # the task's main process ended, or the kill was decided
  reapedNs @8 :UInt64;     # no process of the box is left
  receiptNs @9 :UInt64;    # nothing of the box is left
}

struct Receipt {
  # The proof that the box is gone, each point with its time.
  box @0 :UInt64;
  complete @1 :Bool;
  reapedNs @2 :UInt64;       # init and clone reaped by their parent: no process is left
  unpopulatedNs @3 :UInt64;  # the kernel says `populated 0`
  fdsClosedNs @4 :UInt64;    # no descriptor of the daemon on the box is open
  cgroupsGoneNs @5 :UInt64;  # every cgroup of the box removed
  uidFreeNs @6 :UInt64;      # its uid may serve another box
  missing @7 :Text;          # which points are not proven, and why; empty when complete
  # Of a task with grants or tools; else 0:
  revokedNs @8 :UInt64;      # no call of the task works any more; 0 as well if it never started
  brokerClosedNs @9 :UInt64; # the broker's front has no socket of the box open
  note @10 :Text;            # which process of the broker was restarted, because it did not confirm
                             # in time; empty: none
}

struct OutFile {
  path @0 :Data;        # relative to /task/out; bytes that the task chose: not always UTF-8,
                        # never to be trusted as a path or printed raw
  sizeBytes @1 :UInt64; # apparent size
  mode @2 :UInt16;      # permission bits; setuid, setgid and sticky dropped
  skipped @3 :Text;     # why the file was not collected ("symbolic link"...); empty if it was
}

# -------------------------------------------------------------------- the lists

struct ServerInfo {
  version @0 :Text;            # of the daemon, e.g. "0.1.0"
  protocol @1 :UInt16;         # the newest version that the daemon speaks
  instance @2 :Text;           # the daemon's name on this host
  bounds @3 :Bounds;
}

struct Bounds {
  # This daemon's bounds. At each, calls answer resourceExhausted (for messages: the connection
  # ends).
  connectionsMax @0 :UInt32;
  tasksPerConnectionMax @1 :UInt32;   # unclosed Task objects
  tasksMax @2 :UInt32;                # the same, of all connections together
  callsPerConnectionMax @3 :UInt32;   # unreturned calls
  messageBytesMax @4 :UInt32;
  inFlightBytesPerConnectionMax @5 :UInt64;  # of requests; at this bound the daemon reads no more
  blobBytesMax @6 :UInt64;            # of one blob, and of all blobs of one user
  blobStoreBytesMax @7 :UInt64;       # of all users together
  blobsPerUserMax @8 :UInt32;
  uploadsPerConnectionMax @9 :UInt32; # unfinished uploads
  detachedPerUserMax @10 :UInt32;     # tasks that are not forgotten
  detachLeaseMsMax @11 :UInt32;
  resultLeaseMs @12 :UInt32;
  uploadIdleMs @13 :UInt32;
  blobTtlMs @14 :UInt32;
  connectionIdleMs @15 :UInt32;
  messageMsMax @16 :UInt32;
  inFlightBytesMax @17 :UInt64;       # of all connections; each always has a share of its own
  outputHeldBytesMax @18 :UInt64;     # of unclosed tasks: output that is held, or may still come
  handlesPerConnectionMax @19 :UInt32;  # unreleased Task and Upload objects
  outFilesHeldBytesMax @20 :UInt64;   # collected output files of unclosed tasks
  accounts @21 :List(ResourceBounds); # all bounds on users; some fields above repeat one
}

struct ResourceBounds {
  # The bounds on one resource. A user is the peer's identity as the daemon proves it (on a unix
  # socket: the uid), however many connections it has. TaskSpec.tenant names one of its tenants.
  resource @0 :Text;       # "queuedTasks", "openTasks", "connections", ...; unit last
  allMax @1 :UInt64;       # of all users together, beyond each one's userOwn; 2^64 - 1: unbounded
  userMax @2 :UInt64;      # of one user, its tenants included
  userOwn @3 :UInt64;      # a user always gets this much, whatever the others hold
  tenantMax @4 :UInt64;    # of one tenant
}

struct BlobInfo {
  sha256 @0 :Data;
  sizeBytes @1 :UInt64;
  expiresMs @2 :UInt32;    # from now, unless a task uses the blob
}

struct TemplateInfo {
  name @0 :Text;
  description @1 :Text;
  mechanism @2 :Text;      # how a clone is made: "fork", "restore" or "exec"
  state @3 :Text;          # "starting", "ready", "unhealthy", "missingImage"
  stateText @4 :Text;      # the reason, and what to do
  imageDigest @5 :Text;
  defaults @6 :Limits;
  maximum @7 :Limits;
  boxes @8 :UInt32;        # alive now
  parked @9 :UInt32;       # of them: with a clone that is ready for a task
  stocked @10 :UInt32;     # of them: without a clone yet
  parkedTarget @11 :UInt32;   # the number that the pool holds or is being filled to
  stockedTarget @12 :UInt32;
  making @13 :UInt32;      # clones being made
  waiting @14 :UInt32;     # tasks that have a place but no clone yet
  zygotes @15 :UInt32;     # alive: serving, starting, or draining
  renewals @16 :UInt32;    # zygotes replaced by a successor, since the daemon's start
  hits @17 :UInt64;        # tasks that found a clone parked, since the daemon's start
  misses @18 :UInt64;      # tasks that had to wait for their clone to be made
}

struct TaskInfo {
  id @0 :UInt64;
  template @1 :Text;
  state @2 :Text;          # "queued", "making", "running", "ending"; by Task.info also "done"
  queuedNs @3 :UInt64;
  startedNs @4 :UInt64;
  nowNs @5 :UInt64;        # the daemon's clock at the answer, to compute ages with
  pidHost @6 :UInt32;      # of the box's init, for people; 0: none
  yours @7 :Bool;          # of this connection, or detached and of this user
}

struct DetachedTask {
  task @0 :TaskInfo;       # its state may be "done"
  key @1 :Text;            # empty: it was submitted without one
  leaseLeftMs @2 :UInt32;  # until an ended task is forgotten; the whole lease before its end
}
