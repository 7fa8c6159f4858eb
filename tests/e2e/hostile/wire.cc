// Messages that no encoder makes, each on a connection of its own: the daemon may end that
// connection, and nothing else may happen.
#include <string.h>

#include <functional>

#include "edge/convert.h"
#include "hostile/cases.h"

namespace mayfly::hostile {

namespace {

using Submit = schema::Mayfly::SubmitParams;

std::string words(std::initializer_list<uint64_t> all) {
  std::string bytes(all.size() * 8, '\0');
  memcpy(bytes.data(), std::data(all), bytes.size());
  return bytes;
}

// One segment with these words.
std::string message(std::initializer_list<uint64_t> all) {
  return words({static_cast<uint64_t>(all.size()) << 32}) + words(all);
}

// A call of submit, question 1. `fill(call, spec)`.
std::string submitWith(std::function<void(wire::Call::Builder, schema::TaskSpec::Builder)> fill) {
  // All in one segment, with the last-made object at its end, where a test patches it.
  capnp::MallocMessageBuilder builder(1 << 20);
  auto call = builder.initRoot<wire::Message>().initCall();
  call.setQuestionId(1);
  call.initTarget().initPromisedAnswer().setQuestionId(0);
  call.setInterfaceId(capnp::typeId<schema::Mayfly>());
  call.setMethodId(2);
  call.initSendResultsTo().setCaller();
  auto content = call.initParams().getContent();
  auto params = content.initAsAnyStruct(1, 2);
  // A spec of a far future: more fields than the daemon knows.
  params.getPointerSection()[0].initAsAnyStruct(32, 64);
  auto spec = content.getAs<Submit>().getSpec();
  spec.setTemplate("python");
  spec.getCode().setString(edge::data("print('wire')"));
  fill(call, spec);
  return bytesOf(builder);
}

capnp::AnyPointer::Builder futureField(schema::TaskSpec::Builder spec) {
  return capnp::AnyStruct::Builder(capnp::toAny(spec)).getPointerSection()[63];
}

// The pointer field that `make` fills.
template <class Make>
capnp::AnyPointer::Builder fieldOf(schema::TaskSpec::Builder spec, Make make) {
  auto pointers = capnp::AnyStruct::Builder(capnp::toAny(spec)).getPointerSection();
  std::vector<bool> before;
  for (auto each : pointers) before.push_back(each.isNull());
  make();
  for (unsigned i = 0; i < pointers.size(); ++i)
    if (before[i] && !pointers[i].isNull()) return pointers[i];
  abort();
}

void nest(capnp::AnyPointer::Builder at, unsigned depth) {
  for (unsigned i = 0; i < depth; ++i) at = at.initAsAnyStruct(0, 1).getPointerSection()[0];
}

// 1,024 arguments that are all the same 200 KB.
std::string manyToOne() {
  constexpr uint64_t kCount = 1'024, kBytes = 200'000;
  std::string bytes = submitWith([&](wire::Call::Builder, schema::TaskSpec::Builder spec) {
    std::string text(kBytes - 1, 'a');
    spec.initArgs(kCount).set(0, kj::StringPtr(text.c_str(), text.size()));
  });
  uint64_t first = bytes.size() - kBytes / 8 * 8 - kCount * 8;
  for (uint64_t i = 0; i < kCount; ++i) {
    uint64_t pointer = 1 | (kCount - 1 - i) << 2 | 2ull << 32 | kBytes << 35;
    memcpy(bytes.data() + first + i * 8, &pointer, 8);
  }
  return bytes;
}

constexpr uint32_t kVoids = (1u << 29) - 1;

struct Attack {
  std::string name;
  std::string bytes;
};

std::vector<Attack> segmentTables() {
  std::string noise(100'000, '\0');
  uint32_t state = 12'345;
  for (char& each : noise)
    each = static_cast<char>((state = state * 1'664'525 + 1'013'904'223) >> 24);
  return {
      {"table: a message of 10 MB",
       words({10'000'000ull / 8 << 32}) + std::string(10'000'000, 'x')},
      {"table: 8 MiB and a word", words({((8ull << 20) / 8 + 1) << 32})},
      {"table: 513 segments", words({512})},
      {"table: 2^32 segments", words({0xffffffff})},
      {"table: two of 2^32 words", words({0xffffffff'00000001, 0xffffffff})},
      {"table: 512 segments of 2^32 words", words({511}) + std::string(256 * 8, '\xff')},
      {"an empty message", words({0})},
      {"no root", message({0})},
      {"noise", noise},
      {"text", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"},
  };
}

std::vector<Attack> pointers() {
  return {
      {"far pointer: no such segment", message({7ull << 32 | 2})},
      {"far pointer: to itself", message({2})},
      {"far pointer: a double one to itself", message({2 | 4, 0})},
      {"far pointer: a ring", words({1ull | 1ull << 32, 1}) + words({1ull << 32 | 2, 2})},
      {"far pointer: beyond the segment", message({0x7ffffff8 | 2})},
      {"struct pointer: beyond the message", message({4 | 0xffffull << 32 | 0xffffull << 48})},
      {"struct pointer: before the message", message({0xfffffff0ull | 1ull << 32})},
      {"list pointer as the root", message({1 | 7ull << 32 | 0x1ffffffful << 35, 0})},
      {"capability as the root", message({3})},
      {"an unknown kind of message", message({1ull << 32, 0xffff})},
  };
}

std::vector<Attack> contents() {
  using Call = wire::Call::Builder;
  using Spec = schema::TaskSpec::Builder;
  std::vector<Attack> all;
  auto add = [&](const char* name, std::function<void(Call, Spec)> fill) {
    all.push_back({name, submitWith(std::move(fill))});
  };
  add("a spec from the future", [](Call, Spec) {});
  add("nesting: 100,000 deep in a field that nobody reads",
      [](Call, Spec spec) { nest(futureField(spec), 100'000); });
  add("nesting: 100,000 deep where the spec is hashed", [](Call, Spec spec) {
    spec.initDetach().setLeaseMs(1'000);
    spec.getDetach().setKey("deep");
    nest(futureField(spec), 100'000);
  });
  add("nesting: lists in lists", [](Call, Spec spec) {
    auto at = fieldOf(spec, [&] { spec.initArgs(1); });
    auto list =
        at.initAsAnyList(capnp::ElementSize::POINTER, 1).as<capnp::List<capnp::AnyPointer>>();
    for (int i = 0; i < 10'000; ++i)
      list = list[0]
                 .initAsAnyList(capnp::ElementSize::POINTER, 1)
                 .as<capnp::List<capnp::AnyPointer>>();
  });
  all.push_back({"amplification: 1,024 pointers to 200 KB", manyToOne()});
  add("amplification: 2^29 arguments of no size", [](Call, Spec spec) {
    fieldOf(spec, [&] { spec.initArgs(1); }).initAsAnyList(capnp::ElementSize::VOID, kVoids);
  });
  add("amplification: 2^29 files of no size", [](Call, Spec spec) {
    fieldOf(spec, [&] { spec.initFiles(1); }).initAsAnyList(capnp::ElementSize::VOID, kVoids);
  });
  add("amplification: 2^29 variables of no size", [](Call, Spec spec) {
    fieldOf(spec, [&] { spec.initEnv(1); }).initAsAnyList(capnp::ElementSize::VOID, kVoids);
  });
  add("amplification: 2^29 things of no size where the spec is hashed", [](Call, Spec spec) {
    spec.initDetach().setLeaseMs(1'000);
    spec.getDetach().setKey("void");
    futureField(spec).initAsAnyList(capnp::ElementSize::VOID, kVoids);
  });
  add("a text that does not end", [](Call, Spec spec) {
    spec.initDetach().setLeaseMs(1'000);
    auto key = capnp::AnyStruct::Builder(capnp::toAny(spec.getDetach())).getPointerSection()[0];
    memset(key.initAs<capnp::Data>(8).begin(), 'x', 8);
  });
  add("capabilities: 100,000", [](Call call, Spec) {
    auto caps = call.getParams().initCapTable(100'000);
    for (uint32_t i = 0; i < caps.size(); ++i) caps[i].setSenderHosted(i);
  });
  add("capabilities: third party", [](Call call, Spec) {
    call.getParams().initCapTable(1)[0].initThirdPartyHosted().setVineId(3);
  });
  add("results to a third party",
      [](Call call, Spec) { call.getSendResultsTo().initThirdParty(); });
  add("results to yourself", [](Call call, Spec) { call.getSendResultsTo().setYourself(); });
  add("a target that was never asked for",
      [](Call call, Spec) { call.getTarget().getPromisedAnswer().setQuestionId(4'000'000'000); });
  add("a target that was never given",
      [](Call call, Spec) { call.getTarget().setImportedCap(4'000'000'000); });
  add("a target 100,000 fields deep", [](Call call, Spec) {
    auto ops = call.getTarget().getPromisedAnswer().initTransform(100'000);
    for (auto op : ops) op.setGetPointerField(0);
  });
  return all;
}

// One of the daemon's own objects as a task's output sink.
void ownSinks(const std::string& socket) {
  using Fill = std::function<void(wire::CapDescriptor::Builder)>;
  const std::pair<const char*, Fill> sinks[] = {
      {"a sink that is the daemon itself", [](auto cap) { cap.setReceiverHosted(0); }},
      {"a sink that is the task's own answer",
       [](auto cap) { cap.initReceiverAnswer().setQuestionId(1); }},
      {"a sink that is no capability", [](auto cap) { cap.setNone(); }},
      {"a sink that is promised for ever", [](auto cap) { cap.setSenderPromise(9); }},
  };
  for (const auto& [name, fill] : sinks) {
    Raw raw(socket);
    raw.bootstrap();
    raw.send(Raw::submitLiveBytes(
        1,
        [](schema::TaskSpec::Builder spec) {
          spec.setTemplate("python");
          spec.getCode().setString(edge::data("print('to whom?')"));
        },
        fill));
    say(name, raw.answer(1, 1));
  }
}

}  // namespace

int wire_attacks(const std::string& socket) {
  std::vector<Attack> all = segmentTables();
  for (auto& part : {pointers(), contents()}) all.insert(all.end(), part.begin(), part.end());
  for (const Attack& each : all) {
    Raw raw(socket);
    raw.bootstrap();
    raw.send(each.bytes);
    // Nothing more is sent: half a message stays half a message.
    say(each.name, raw.answer(1, 1, 30'000));
    // Unanswered calls end with the connection.
  }
  ownSinks(socket);
  return 0;
}

}  // namespace mayfly::hostile
