# The broker's inner RPC: mayflyd -> vault (`Vault`) and front -> vault (`Calls`). Both ends are built
# together; there is no other version. Clients of Mayfly never see this file.
#
# The vault trusts neither side's bytes more than their type: every text is checked again where it is
# used. It trusts mayflyd with who the user is and when a task lives; it trusts the front with which
# door a call came through, and with nothing else.

@0xb3f0a9d1c65e7a42;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("mayfly::broker::schema");

struct Error {
  code @0 :UInt16;      # base::Code; 0: no error
  message @1 :Text;
  advice @2 :Text;
  rule @3 :Text;        # the rule that refused, e.g. "http.openai.paths"; may be empty
  httpStatus @4 :UInt16;  # what the front answers: 400, 403, 404, 408, 413, 429, 502, 503, 504
  retryAfterMs @5 :UInt32;
}

# ------------------------------------------------------------------- mayflyd

interface Vault {
  # The bootstrap of mayflyd's link.

  open @0 (spec :SessionSpec) -> (session :Session, number :UInt64, env :List(Pair), grants :List(Text), error :Error,
                                   connectionsMax :UInt32);
  # Checks every grant against the policy for this user and tenant, narrows its bounds, and reserves
  # the session's number. Calls are refused until `activate`. `env`: the variables that the task is
  # to be given (never a secret). `connectionsMax`: of its door. Dropping `session` revokes it.
  # error: notFound (no such action), permissionDenied (not this tenant's), invalidArgument (a
  # narrowing that widens or cannot be read), resourceExhausted, unavailable.

  status @1 () -> (sessions :UInt32, calls :UInt32, policySha256 :Data, loadedNs :UInt64,
                   decisions :List(UInt64), took :List(UInt64));
  # `decisions`: since the vault's start, as base::BrokerCounts: for each kind, how many calls were
  # allowed, refused, failed. `took`: for each kind, the buckets of base::Histogram and the sum in ns,
  # of every call with a line.
}

struct Pair { name @0 :Text; value @1 :Text; }

struct SessionSpec {
  uid @0 :UInt32;
  tenant @1 :Text;          # empty: none named
  grants @2 :List(Wish);    # at most 64
  tools @3 :Tools;          # null: none
  toolNames @4 :List(Tool); # at most 128
  template @5 :Text;
  epoch @6 :UInt32;         # 1; each time that mayflyd opens it again at another vault, one more
  task @7 :UInt64;          # 0 until the task has an id
  trace @8 :Text;           # the submitter's W3C trace context, for the audit; empty: none
}

struct Wish {
  name @0 :Text;        # the action, e.g. "openai"
  narrowing @1 :Text;   # "calls=10,methods=GET,paths=/models/*"; empty: the policy's own bounds
}

struct Tool { name @0 :Text; description @1 :Text; schemaJson @2 :Text; }

interface Session {
  activate @0 (task :UInt64, expiresMs :UInt64) -> (error :Error);
  # From now on calls are allowed, until `expiresMs` from now.

  revoke @1 (name :Text) -> (error :Error);
  # Ends one grant, or all if `name` is empty: calls in flight are ended, minted credentials are
  # inactive, and the answer comes when no upstream connection works for the grant any more.
}

interface Tools {
  # The submitting client's functions, bounded by mayflyd.
  call @0 (name :Text, json :Text) -> (json :Text, error :Error);
}

# --------------------------------------------------------------------- front

interface Calls {
  # The bootstrap of the front's link.

  describe @0 (session :UInt64) -> (json :Text, error :Error);
  # What the session has, for people and models: `GET /`.

  http @1 (session :UInt64, request :HttpRequest, down :Down) -> (up :Up, error :Error, answer :Answer);
  # /cap/NAME/... The vault calls `down.head` once, `down.write` any number of times, then `down.end`.
  # An `error` or `answer` here means that `down` is never called. A request without a body returns once
  # its answer has begun: as `answer` if it is whole by then. Until it returns, to drop the call is to
  # give it up.

  sql @2 (session :UInt64, name :Text, params :List(Param), csv :Bool, down :Down, step :Text) -> (error :Error);
  # /sql/NAME. The answer's body flows through `down` like an upstream's. `step`: the header
  # Idempotency-Key; may be empty.

  mint @3 (session :UInt64, name :Text) -> (credential :Text, expiresMs :UInt64, audience :Text, scope :Text, error :Error);
  # /mint/NAME.

  tool @4 (session :UInt64, name :Text, json :Text) -> (json :Text, error :Error);
  # /tools/NAME.

  tunnel @5 (session :UInt64, host :Text, port :UInt16, down :Down) -> (up :Up, error :Error);
  # CONNECT. Asked before the front answers it, so that a refusal is a 403 in words. Then the front
  # reads a whole ClientHello; if its SNI is `host`, its bytes are the first `up.write`, else there is
  # none and `up` is dropped. `down.head` is not called.

  proxy @6 (session :UInt64, request :HttpRequest, authority :Text, down :Down)
    -> (up :Up, error :Error, answer :Answer);
  # Absolute-form `http://AUTHORITY/...`: upgraded to https.
}

struct HttpRequest {
  action @0 :Text;            # NAME of /cap/NAME; empty for `proxy`
  method @1 :Text;            # a token
  target @2 :Text;            # path and query behind /cap/NAME, origin-form, as sent: starts with "/"
  headers @3 :List(Header);   # as sent, hop-by-hop headers already dropped
  bodyBytes @4 :Int64;        # -1: of unknown length (chunked); 0: none
}

struct Header { name @0 :Text; value @1 :Text; }

struct Answer {  # a whole one
  status @0 :UInt16;
  headers @1 :List(Header);
  bodyBytes @2 :Int64;
  data @3 :Data;
}

struct Param {
  name @0 :Text;
  value :union {
    null @1 :Void;
    bool @2 :Bool;
    integer @3 :Int64;
    number @4 :Float64;
    text @5 :Text;
    integers @6 :List(Int64);
    texts @7 :List(Text);
  }
}

interface Up {
  # The request's body. The return of a write is the back-pressure.
  write @0 (data :Data) -> (error :Error);
  end @1 () -> ();
}   # The front keeps it until the answer has ended. Dropped before: the box gave up; the vault ends the
    # call. A request without a body (`bodyBytes` 0) has no `end` of its own.

interface Down {
  # The answer. The return of a write is the back-pressure.
  head @0 (status :UInt16, headers :List(Header), bodyBytes :Int64, data :Data, ended :Bool) -> ();
  # With what is there of the body already. `ended`: that is all, and no `end` follows.
  write @1 (data :Data) -> ();
  end @2 (error :Error) -> ();  # code 0: the answer is whole. Else the front resets the connection
}   # dropped: the box's connection is gone, or the door closed
