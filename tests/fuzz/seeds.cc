// fuzz_seeds FOLDER: the fuzzers' first inputs, in a folder for each: whole sessions, whole specs,
// the messages of the spawner's side, a spool, scripts for the spawner and requests of
// boxes.
#include <capnp/serialize.h>
#include <sys/stat.h>

#include <fstream>
#include <functional>
#include <random>
#include <string>

#include "broker_policy_text.h"
#include "edge/convert.h"
#include "hostile/raw.h"
#include "wire/front.h"
#include "wire/spawner.h"
#include "wire/spool.h"
#include "wire/zygote.h"

namespace {

using namespace mayfly;
using hostile::Raw;
using M = schema::Mayfly;
using T = schema::Task;
using U = schema::Upload;
using Spec = schema::TaskSpec::Builder;

void small(Spec spec) {
  spec.setTemplate("python");
  spec.getCode().setString(edge::data("print(1)"));
}

void full(Spec spec) {
  spec.setTemplate("python");
  auto script = spec.getCode().initFile();
  script.setName("dir/script.py");
  script.setText(edge::data("import sys"));
  auto args = spec.initArgs(2);
  args.set(0, "-v");
  args.set(1, "x y");
  auto env = spec.initEnv(2);
  env[0].setName("A");
  env[0].setValue("1");
  env[1].setName("B_2");
  auto files = spec.initFiles(2);
  files[0].setPath("in/a.txt");
  files[0].setData(edge::data("bytes"));
  files[1].setPath("in/b");
  files[1].setMode(0700);
  spec.setStdinData(edge::data("stdin"));
  auto limits = spec.initLimits();
  limits.setCpuMilli(500);
  limits.setWallTimeMs(900);
  limits.setMemoryBytes(32 << 20);
  spec.getSeed().setValue(7);
  spec.setCollectOutFiles(true);
}

void command(Spec spec) {
  spec.setTemplate("python");
  spec.getCode().setCommand();
  spec.initArgs(1).set(0, "true");
}

void detached(Spec spec) {
  small(spec);
  spec.initDetach().setLeaseMs(1'000);
  spec.getDetach().setKey("key");
}

void granted(Spec spec) {
  small(spec);
  auto grants = spec.initGrants(2);
  grants[0].setName("openai");
  grants[0].setNarrowing("calls=10,paths=/models/*");
  grants[1].setName("orders");
  auto tool = spec.initTools(1)[0];
  tool.setName("lookup");
  tool.setSchemaJson("{}");
}

void open(Spec spec) {
  small(spec);
  spec.setStdinOpen(true);
}

void withBlob(Spec spec) {
  small(spec);
  auto file = spec.initFiles(1)[0];
  file.setPath("blob");
  file.initBlob(32);
}

constexpr std::pair<const char*, void (*)(Spec)> kSpecs[] = {
    {"small", small},     {"full", full}, {"command", command}, {"detached", detached},
    {"granted", granted}, {"open", open}, {"blob", withBlob}};

struct Session {
  Session() : raw("") {
    capnp::MallocMessageBuilder message;
    message.initRoot<capnp::rpc::Message>().initBootstrap().setQuestionId(0);
    bytes = hostile::bytesOf(message);
  }
  template <class Interface, class Params, class Fill>
  uint32_t call(uint32_t on, uint16_t method, Fill fill) {
    uint32_t question = raw.next();
    bytes += raw.callBytes<Params>(question, on, capnp::typeId<Interface>(), method, fill);
    return question;
  }
  void root(std::function<void(capnp::rpc::Message::Builder)> fill) {
    capnp::MallocMessageBuilder message;
    fill(message.initRoot<capnp::rpc::Message>());
    bytes += hostile::bytesOf(message);
  }
  Raw raw;
  std::string bytes;
};

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

template <class T>
std::string raw(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// In the form of wire_fuzz: which message, how many descriptors, the message.
void writeWire(const std::string& folder) {
  auto put = [&](const char* name, char which, char fds, const std::string& message) {
    write(folder + "/" + name, std::string{which, fds} + message);
  };
  wire::Request r;
  r.box = 1;
  r.zygote_id = 1;
  constexpr std::pair<const char*, wire::Op> kOps[] = {
      {"retire", wire::Op::retire}, {"make", wire::Op::make}, {"clone", wire::Op::clone},
      {"claim", wire::Op::claim},   {"end", wire::Op::end},   {"sample", wire::Op::sample}};
  for (const auto& [name, op] : kOps) {
    r.op = op;
    put(name, 0, 0, raw(r));
  }
  r.op = wire::Op::publish;
  std::string(64, 'a').copy(r.digest, 64);
  std::string("/bin/zygote").copy(r.zygote[0], 63);
  put("publish", 0, 2, raw(r));
  wire::Event e;
  e.kind = wire::Kind::boxMade;
  put("event", 1, 4, raw(e));
  put("make-init", 2, 4, raw(wire::MakeInit{}));
  put("init-made", 3, 1, raw(wire::InitMade{}));
  put("init-ready", 4, 0, raw(wire::InitReady{}));
  put("init-ready-doors", 4, 2, raw(wire::InitReady{}));
  put("make-clone", 5, wire::kCloneFds, raw(wire::MakeClone{}));
  put("hello", 6, 0, raw(wire::CloneMade{}));
  put("clone-ready", 7, 0, raw(wire::CloneReady{}));
  put("the-claim", 8, 1, raw(wire::Claim{}));
  wire::DoorRequest door;
  door.kind = wire::DoorRequest::Kind::open;
  door.session = door.connections_max = 1;
  put("door", 9, 2, raw(door));
  wire::DoorEvent closed;
  closed.kind = wire::DoorEvent::Kind::closed;
  closed.session = 1;
  put("door-closed", 10, 0, raw(closed));
  put("started", 11, 0, raw(wire::Started{}));
}

void writeSpool(const std::string& folder) {
  write(folder + "/empty", raw(wire::SpoolHeader{.index_offset = sizeof(wire::SpoolHeader)}));
  wire::SpoolEntry file{
      .offset = sizeof(wire::SpoolHeader), .size = 5, .mode = 0644, .path_bytes = 3};
  wire::SpoolEntry skipped{.path_bytes = 1, .skipped_bytes = 4};
  std::string index = raw(file) + "a/b" + raw(skipped) + "cfifo";
  wire::SpoolHeader header{
      .count = 2, .index_offset = sizeof(wire::SpoolHeader) + 5, .index_bytes = index.size()};
  write(folder + "/files", raw(header) + "bytes" + index);
}

// The first byte says in which pieces the parsers get the rest.
void writeFront(const std::string& folder) {
  int count = 0;
  const auto put = [&](const std::string& bytes) {
    write(folder + "/" + std::to_string(count++), "\x05" + bytes);
  };
  const std::string host = " HTTP/1.1\r\nHost: 127.0.0.1\r\n";
  put("GET /" + host + "\r\nGET /tools" + host + "\r\n");
  put("GET /cap/fixed/a?b=c" + host + "Accept: */*\r\nConnection: X\r\nX: y\r\n\r\n");
  put("POST /cap/echo/" + host + "Content-Length: 5\r\n\r\nhello");
  put("POST /cap/sink/" + host +
      "Transfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nX: y\r\n\r\n");
  put("POST /sql/a?format=csv" + host +
      "Content-Length: 24\r\n\r\n{\"a\":1,\"b\":[\"x\"],\"c\":0.5}");
  put("GET /sql/a?b=%41+c&d" + host + "\r\n");
  put("POST /tools/a" + host +
      "Expect: 100-continue\r\nContent-Length: 13\r\n\r\n{\"a\":[null,{}]}");
  put("POST /mint/a" + host + "Connection: close\r\nContent-Length: 0\r\n\r\n");
  put("HEAD http://127.0.0.1/cap/large/" + host + "\r\n");
  put("GET http://a.example:80/b HTTP/1.1\r\nHost: a.example:80\r\n\r\n");
  put("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n" +
      std::string("\x16\x03\x01\0\x05\x01\0\0\x01\0", 10));
  put("GET /cap/cut/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  put("GET /cap/short/" + host + "Upgrade: h2c\r\n\r\n");
}

// Whatever its bytes are, a script runs.
void writeScripts(const std::string& folder) {
  std::mt19937 random(1);
  for (int n = 0; n < 16; ++n) {
    std::string bytes(1'000, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    write(folder + "/" + std::to_string(n), bytes);
  }
}

// In the form of policy_fuzz: the policy, a narrowing, a target, a header's value; NULs between.
void writePolicies(const std::string& folder) {
  const std::string zero(1, '\0');
  write(folder + "/plain", broker::kTestPolicy);
  write(folder + "/request", broker::kTestPolicy + zero + "calls=1,paths=/models/*" + zero +
                                 "/models/a%20b?limit=1" + zero + "text/plain");
}

// In the form of stream_fuzz: which part, the size of pieces, the bytes.
void writeStreams(const std::string& folder) {
  auto number = [](size_t value, size_t bytes) {
    std::string out;
    while (bytes-- > 0) out += static_cast<char>(value >> 8 * bytes);
    return out;
  };
  auto field = [&](const std::string& body, size_t bytes) {
    return number(body.size(), bytes) + body;
  };
  const std::string name = number(0, 2) + field(field(number(0, 1) + field("a.org", 2), 2), 2);
  const std::string hello = number(0x303, 2) + std::string(32, 'r') + field("", 1) +
                            field(number(0x1301, 2), 2) + field(number(0, 1), 1) + field(name, 2);
  const std::string record =
      number(22, 1) + number(0x301, 2) + field(number(1, 1) + field(hello, 3), 2);
  write(folder + "/hello", number(0, 1) + number(7, 1) + record);
  write(folder + "/secret", number(1, 1) + number(3, 1) + "\x0csecret-token" +
                                "x secret-token c2VjcmV0LXRva2Vu secret-tok");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::string folder = argv[1];
  for (const char* each :
       {"", "/request", "/spec", "/wire", "/spool", "/spawner", "/front", "/policy", "/stream"})
    ::mkdir((folder + each).c_str(), 0755);
  writeWire(folder + "/wire");
  writeSpool(folder + "/spool");
  writeScripts(folder + "/spawner");
  writeFront(folder + "/front");
  writePolicies(folder + "/policy");
  writeStreams(folder + "/stream");
  for (const auto& [name, fill] : kSpecs) {
    capnp::MallocMessageBuilder message;
    fill(message.initRoot<schema::TaskSpec>());
    write(folder + "/spec/" + name, hostile::bytesOf(message));

    Session session;
    session.call<M, M::HelloParams>(0, 0, [](M::HelloParams::Builder p) {
      p.setClient("seed");
      p.setProtocol(2);
    });
    uint32_t task = session.call<M, M::SubmitParams>(
        0, 2, [fill = fill](M::SubmitParams::Builder p) { fill(p.initSpec()); });
    session.call<T, T::WaitParams>(task, 0, [](auto) {});
    session.call<T, T::InfoParams>(task, 6, [](auto) {});
    session.call<T, T::WriteStdinParams>(
        task, 2, [](T::WriteStdinParams::Builder p) { p.setData(edge::data("line\n")); });
    session.call<T, T::CloseStdinParams>(task, 3, [](auto) {});
    session.call<T, T::ReadFileParams>(task, 4,
                                       [](T::ReadFileParams::Builder p) { p.setBytesMax(100); });
    session.call<T, T::CancelParams>(task, 1, [](auto) {});
    session.call<T, T::CloseParams>(task, 5, [](auto) {});
    write(folder + "/request/task-" + name, session.bytes);
  }
  {
    Session live;
    uint32_t question = live.raw.next();
    live.bytes += Raw::submitLiveBytes(
        question, small, [](capnp::rpc::CapDescriptor::Builder cap) { cap.setSenderHosted(5); });
    live.call<T, T::WaitParams>(question, 0, [](auto) {});
    // The daemon's calls of the sink are the questions 0 and 1.
    for (uint32_t i = 0; i < 2; ++i)
      live.root([i](capnp::rpc::Message::Builder m) {
        m.initReturn().setAnswerId(i);
        m.getReturn().initResults();
      });
    live.root([&](capnp::rpc::Message::Builder m) { m.initFinish().setQuestionId(question); });
    write(folder + "/request/live", live.bytes);
  }
  {
    Session lists;
    lists.call<M, M::TemplatesParams>(0, 1, [](auto) {});
    lists.call<M, M::TasksParams>(0, 3, [](auto) {});
    lists.call<M, M::KillParams>(0, 4, [](M::KillParams::Builder p) { p.setId(1); });
    lists.call<M, M::FindParams>(0, 8, [](M::FindParams::Builder p) { p.setKey("key"); });
    lists.call<M, M::BlobsParams>(0, 6, [](auto) {});
    lists.call<M, M::RemoveBlobParams>(0, 7,
                                       [](M::RemoveBlobParams::Builder p) { p.initSha256(32); });
    write(folder + "/request/lists", lists.bytes);
  }
  {
    Session upload;
    uint32_t to = upload.call<M, M::UploadParams>(0, 5, [](M::UploadParams::Builder p) {
      p.initSha256(32);
      p.setSizeBytes(4);
    });
    upload.call<U, U::WriteParams>(
        to, 0, [](U::WriteParams::Builder p) { p.setData(edge::data("blob")); });
    upload.call<U, U::FinishParams>(to, 1, [](auto) {});
    upload.call<U, U::CloseParams>(to, 2, [](auto) {});
    write(folder + "/request/upload", upload.bytes);
  }
  {
    Session rest;
    rest.root([](capnp::rpc::Message::Builder m) {
      auto resolve = m.initResolve();
      resolve.setPromiseId(3);
      resolve.initCap().setSenderHosted(4);
    });
    rest.root([](capnp::rpc::Message::Builder m) {
      m.initRelease().setId(0);
      m.getRelease().setReferenceCount(1);
    });
    rest.root([](capnp::rpc::Message::Builder m) {
      auto loop = m.initDisembargo();
      loop.initTarget().setImportedCap(0);
      loop.getContext().setSenderLoopback(1);
    });
    rest.root([](capnp::rpc::Message::Builder m) { m.initAbort().setReason("enough"); });
    write(folder + "/request/rest", rest.bytes);
  }
  return 0;
}
