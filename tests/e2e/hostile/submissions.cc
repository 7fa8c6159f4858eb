// Well-formed messages with wrong requests: each must get a typed error, and after all of them the
// connection must serve a good request.
#include <functional>

#include "edge/convert.h"
#include "hostile/cases.h"

namespace mayfly::hostile {

namespace {

using Spec = schema::TaskSpec::Builder;

kj::StringPtr text(const std::string& s) { return {s.c_str(), s.size()}; }

void good(Spec spec) {
  spec.setTemplate("python");
  spec.getCode().setString(edge::data("print('good')"));
}

struct Case {
  std::string name;
  std::function<void(Spec)> fill;  // after good()
};

void addNames(std::vector<Case>& all) {
  const std::pair<const char*, std::string> names[] = {
      {"dotdot", ".."},
      {"inner dotdot", "a/../../b"},
      {"absolute", "/etc/passwd"},
      {"slash", "/"},
      {"empty", ""},
      {"empty part", "a//b"},
      {"ends in slash", "a/"},
      {"dot", "."},
      {"NUL", std::string("a\0b", 3)},
      {"newline", "a\nb"},
      {"escape", "a\x1b[2Jb"},
      {"not UTF-8", "a\xff\xfe"},
      {"overlong UTF-8", "a\xc0\xaf"},
      {"surrogate", "a\xed\xa0\x80"},
      {"7 MB", std::string(7'000'000, 'n')},
      {"33 folders",
       [] {
         std::string deep;
         for (int i = 0; i < 33; ++i) deep += "d/";
         return deep + "f";
       }()},
      {"256 byte part", std::string(256, 'p')},
      {"out", "out"},
      {"device", "aux"},
  };
  for (const auto& [what, name] : names) {
    all.push_back({std::string("file name: ") + what, [name](Spec spec) {
                     auto file = spec.initFiles(1)[0];
                     file.setPath(text(name));
                     file.setData(edge::data("x"));
                   }});
    if (name.size() > 1'000'000 && name[0] == 'n') continue;
    all.push_back({std::string("script name: ") + what, [name](Spec spec) {
                     auto script = spec.getCode().initFile();
                     script.setName(text(name));
                     script.setText(edge::data("print(1)"));
                   }});
    all.push_back({std::string("program among the files: ") + what,
                   [name](Spec spec) { spec.getCode().setPath(text(name)); }});
  }
}

void addModules(std::vector<Case>& all) {
  const std::pair<const char*, std::string> names[] = {
      {"empty", ""}, {"NUL", std::string("a\0b", 3)}, {"2 kB", std::string(2'000, 'm')}};
  for (const auto& [what, name] : names)
    all.push_back({std::string("module: ") + what,
                   [name](Spec spec) { spec.getCode().setModule(text(name)); }});
  all.push_back({"module: of a template without", [](Spec spec) {
                   spec.setTemplate("shell");
                   spec.getCode().setModule("json.tool");
                 }});
  all.push_back({"program: a folder in a template without modules", [](Spec spec) {
                   spec.setTemplate("shell");
                   spec.initFiles(1)[0].setPath("app/__main__.py");
                   spec.getCode().setPath("app");
                 }});
  all.push_back({"program: a part of a file's name", [](Spec spec) {
                   spec.initFiles(1)[0].setPath("application");
                   spec.getCode().setPath("app");
                 }});
}

void addFiles(std::vector<Case>& all) {
  auto files = [](std::vector<std::string> names) {
    return [names](Spec spec) {
      auto list = spec.initFiles(static_cast<unsigned>(names.size()));
      for (unsigned i = 0; i < names.size(); ++i) list[i].setPath(text(names[i]));
    };
  };
  all.push_back({"files: the same twice", files({"a", "a"})});
  all.push_back({"files: one is the folder of another", files({"a", "a/b"})});
  std::vector<std::string> many;
  for (int i = 0; i < 10'000; ++i) many.push_back("f" + std::to_string(i));
  all.push_back({"files: 10,000", files(many)});
  all.push_back({"files: setuid mode", [](Spec spec) {
                   auto file = spec.initFiles(1)[0];
                   file.setPath("a");
                   file.setMode(04755);
                 }});
  all.push_back({"files: a hash of 31 bytes", [](Spec spec) {
                   auto file = spec.initFiles(1)[0];
                   file.setPath("a");
                   file.initBlob(31);
                 }});
  all.push_back({"files: an unknown blob", [](Spec spec) {
                   auto file = spec.initFiles(1)[0];
                   file.setPath("a");
                   file.initBlob(32);
                 }});
  all.push_back({"files: blob and data", [](Spec spec) {
                   auto file = spec.initFiles(1)[0];
                   file.setPath("a");
                   file.setData(edge::data("x"));
                   file.initBlob(32);
                 }});
}

void addLimits(std::vector<Case>& all) {
  using Wishes = schema::LimitWishes::Builder;
  const std::pair<const char*, std::function<void(Wishes, uint64_t)>> caps[] = {
      {"cpuMilli", [](Wishes w, uint64_t v) { w.setCpuMilli(static_cast<uint32_t>(v)); }},
      {"cpuTimeMs", [](Wishes w, uint64_t v) { w.setCpuTimeMs(v); }},
      {"wallTimeMs", [](Wishes w, uint64_t v) { w.setWallTimeMs(v); }},
      {"memoryBytes", [](Wishes w, uint64_t v) { w.setMemoryBytes(v); }},
      {"processes", [](Wishes w, uint64_t v) { w.setProcesses(static_cast<uint32_t>(v)); }},
      {"openFiles", [](Wishes w, uint64_t v) { w.setOpenFiles(static_cast<uint32_t>(v)); }},
      {"fileSizeBytes", [](Wishes w, uint64_t v) { w.setFileSizeBytes(v); }},
      {"diskBytes", [](Wishes w, uint64_t v) { w.setDiskBytes(v); }},
      {"diskInodes", [](Wishes w, uint64_t v) { w.setDiskInodes(v); }},
      {"outputBytes", [](Wishes w, uint64_t v) { w.setOutputBytes(v); }},
      {"inputBytes", [](Wishes w, uint64_t v) { w.setInputBytes(v); }},
      {"outFilesBytes", [](Wishes w, uint64_t v) { w.setOutFilesBytes(v); }},
      {"outFiles", [](Wishes w, uint64_t v) { w.setOutFiles(static_cast<uint32_t>(v)); }},
      {"queueTimeMs", [](Wishes w, uint64_t v) { w.setQueueTimeMs(v); }},
      {"graceMs", [](Wishes w, uint64_t v) { w.setGraceMs(v); }},
  };
  for (const auto& [name, set] : caps) {
    if (std::string_view(name) != "graceMs")  // there, 0 means none
      all.push_back({std::string("cap of 0: ") + name,
                     [set = set](Spec spec) { set(spec.initLimits(), 0); }});
    all.push_back({std::string("cap above the maximum: ") + name,
                   [set = set](Spec spec) { set(spec.initLimits(), 0xfffffffffffffffe); }});
  }
}

void addRest(std::vector<Case>& all) {
  auto named = [](std::string name) { return [name](Spec spec) { spec.setTemplate(text(name)); }; };
  all.push_back({"template: unknown", named("nope")});
  all.push_back({"template: empty", named("")});
  all.push_back({"template: NUL", named(std::string("python\0", 7))});
  all.push_back({"template: a path", named("../python")});
  all.push_back({"template: 5 MB", named(std::string(5'000'000, 't'))});
  all.push_back({"template: not UTF-8", named("\xff\xff")});
  all.push_back({"code: empty", [](Spec spec) { spec.getCode().setString(nullptr); }});
  all.push_back({"code: an empty stdin", [](Spec spec) { spec.getCode().setStdin(nullptr); }});
  all.push_back(
      {"code: an empty file", [](Spec spec) { spec.getCode().initFile().setName("a.py"); }});
  all.push_back({"code: a command", [](Spec spec) { spec.getCode().setCommand(); }});
  all.push_back({"code: an empty command", [](Spec spec) {
                   spec.setTemplate("shell");
                   spec.getCode().setCommand();
                 }});
  all.push_back({"code: 5 MB", [](Spec spec) {
                   spec.getCode().setString(edge::data(std::string(5'000'000, '#')));
                 }});
  all.push_back({"code: of an unknown kind", [](Spec spec) {
                   auto bytes = capnp::AnyStruct::Builder(capnp::toAny(spec)).getDataSection();
                   bytes[0] = 77;  // the union's tag
                 }});
  all.push_back({"args: 1,025", [](Spec spec) { spec.initArgs(1'025); }});
  all.push_back({"args: 200 KB",
                 [](Spec spec) { spec.initArgs(1).set(0, text(std::string(200'000, 'a'))); }});
  all.push_back(
      {"args: NUL", [](Spec spec) { spec.initArgs(1).set(0, text(std::string("a\0b", 3))); }});
  auto env = [](std::string name, std::string value, unsigned count) {
    return [=](Spec spec) {
      auto list = spec.initEnv(count);
      for (auto each : list) {
        each.setName(text(name));
        each.setValue(text(value));
      }
    };
  };
  all.push_back({"env: the same twice", env("A", "1", 2)});
  all.push_back({"env: 1,025", env("A", "1", 1'025)});
  all.push_back({"env: an empty name", env("", "1", 1)});
  all.push_back({"env: =", env("A=B", "1", 1)});
  all.push_back({"env: NUL in the name", env(std::string("A\0", 2), "1", 1)});
  all.push_back({"env: NUL in the value", env("A", std::string("\0", 1), 1)});
  all.push_back({"env: 1 MB", env("A", std::string(1'000'000, 'v'), 1)});
  all.push_back({"env: not UTF-8 in the name", env("\xff", "1", 1)});
  all.push_back(
      {"detach: a key without a lease", [](Spec spec) { spec.initDetach().setKey("k"); }});
  all.push_back(
      {"detach: a lease of 25 h", [](Spec spec) { spec.initDetach().setLeaseMs(25 * 3'600'000); }});
  all.push_back({"detach: a key of 129 bytes", [](Spec spec) {
                   spec.initDetach().setLeaseMs(1'000);
                   spec.getDetach().setKey(text(std::string(129, 'k')));
                 }});
  all.push_back({"grants: one, without a broker",
                 [](Spec spec) { spec.initGrants(1)[0].setName("openai"); }});
  all.push_back({"grants: 65", [](Spec spec) { spec.initGrants(65); }});
  all.push_back({"grants: not a name", [](Spec spec) { spec.initGrants(1)[0].setName("../x"); }});
  all.push_back({"grants: bounds of 1 MB", [](Spec spec) {
                   auto grant = spec.initGrants(1)[0];
                   grant.setName("openai");
                   grant.setNarrowing(text(std::string(1'000'000, 'v')));
                 }});
  all.push_back({"tools: one, without a tool box",
                 [](Spec spec) { spec.initTools(1)[0].setName("lookup"); }});
  all.push_back({"tools: 129", [](Spec spec) { spec.initTools(129); }});
  all.push_back({"detach: with stdinOpen", [](Spec spec) {
                   spec.initDetach().setLeaseMs(1'000);
                   spec.setStdinOpen(true);
                 }});
}

void otherCalls(Raw& raw) {
  using M = schema::Mayfly;
  auto answer = [&](const char* name, Question question, unsigned error_at) {
    say(name, raw.answer(question, error_at));
    raw.finish(question);
  };
  answer(
      "kill: unknown",
      raw.call<M, M::KillParams>(0, 4, [](M::KillParams::Builder p) { p.setId(0xffffffffffff); }),
      0);
  answer(
      "find: unknown id",
      raw.call<M, M::FindParams>(0, 8, [](M::FindParams::Builder p) { p.setId(0xffffffffffff); }),
      1);
  answer("find: nothing", raw.call<M, M::FindParams>(0, 8, [](auto) {}), 1);
  answer("find: a key of 1 MB",
         raw.call<M, M::FindParams>(
             0, 8, [](M::FindParams::Builder p) { p.setKey(text(std::string(1'000'000, 'k'))); }),
         1);
  answer("removeBlob: 3 bytes",
         raw.call<M, M::RemoveBlobParams>(0, 7, [](auto p) { p.initSha256(3); }), 0);
  answer("removeBlob: unknown",
         raw.call<M, M::RemoveBlobParams>(0, 7, [](auto p) { p.initSha256(32); }), 0);
  auto upload = [&](uint64_t bytes, unsigned hash_bytes) {
    return raw.call<M, M::UploadParams>(0, 5, [&](M::UploadParams::Builder p) {
      p.initSha256(hash_bytes);
      p.setSizeBytes(bytes);
    });
  };
  answer("upload: 5 GB", upload(5'000'000'000, 32), 1);
  answer("upload: 2^64-1 bytes", upload(0xffffffffffffffff, 32), 1);
  answer("upload: a hash of 3 bytes", upload(10, 3), 1);
  using U = schema::Upload;
  auto write = [&](Question on, size_t bytes) {
    return raw.call<U, U::WriteParams>(
        on, 0, [&](U::WriteParams::Builder p) { p.initData(static_cast<unsigned>(bytes)); });
  };
  Question lie = upload(10, 32);
  say("upload: begun", raw.answer(lie, 1));
  answer("upload: more than was told", write(lie, 11), 0);
  answer("upload: an empty chunk", write(lie, 0), 0);
  answer("upload: a chunk of 2 MB", write(lie, 2'000'000), 0);
  answer("upload: less than was told", raw.call<U, U::FinishParams>(lie, 1, [](auto) {}), 0);
  Question other = upload(10, 32);
  say("upload: begun again", raw.answer(other, 1));
  say("upload: all bytes", raw.answer(write(other, 10), 0));
  answer("upload: another hash", raw.call<U, U::FinishParams>(other, 1, [](auto) {}), 0);

  using T = schema::Task;
  auto stdin_of = [&](Question task, size_t bytes) {
    return raw.call<T, T::WriteStdinParams>(
        task, 2, [&](T::WriteStdinParams::Builder p) { p.initData(static_cast<unsigned>(bytes)); });
  };
  Question closed = raw.submit([](Spec spec) { good(spec); });
  say("stdin: the task has none", raw.answer(stdin_of(closed, 1), 0));
  say("a good task", raw.answer(raw.wait(closed), 1));
  auto read = [&](Question task, uint32_t index, uint32_t bytes) {
    return raw.call<T, T::ReadFileParams>(task, 4, [&](T::ReadFileParams::Builder p) {
      p.setIndex(index);
      p.setBytesMax(bytes);
    });
  };
  answer("readFile: no such file", read(closed, 7, 1), 1);
  answer("readFile: no bytes", read(closed, 0, 0), 1);
  raw.answer(raw.close(closed), 1);
  answer("closed: readFile", read(closed, 0, 1), 1);
  answer("closed: wait", raw.wait(closed), 1);
  answer("closed: close", raw.close(closed), 1);
  Question open = raw.submit([](Spec spec) {
    good(spec);
    spec.getCode().setString(edge::data("import sys; sys.stdin.read()"));
    spec.setStdinOpen(true);
  });
  answer("stdin: a chunk of 2 MB", stdin_of(open, 2'000'000), 0);
  answer("stdin closed", raw.call<T, T::CloseStdinParams>(open, 3, [](auto) {}), 0);
  answer("stdin: closed", stdin_of(open, 1), 0);
  say("its end", raw.answer(raw.wait(open), 1));
  // The task runs on, whatever it does with its streams.
  Question mute = raw.submit([](Spec spec) {
    good(spec);
    spec.getCode().setString(
        edge::data("import os, time\nfor f in 0, 1, 2: os.close(f)\n"
                   "time.sleep(0.3)\nos._exit(7)"));
    spec.setStdinOpen(true);
  });
  raw.answer(stdin_of(mute, 1'000'000), 0);  // taken, refused or dropped, but answered
  Question waits = raw.wait(mute);
  say("a task that closes its streams", raw.answer(waits, 1));
  auto result = raw.results(waits).getAs<T::WaitResults>().getResult();
  say("a task that closes its streams: exit code", "value",
      static_cast<uint64_t>(result.getExitCode()));

  answer("unknown method", raw.call<M, M::HelloParams>(0, 99, [](auto) {}), 1);
  answer("unknown interface", raw.call<schema::OutputSink, M::HelloParams>(0, 0, [](auto) {}), 1);
  answer("hello: protocol 0", raw.call<M, M::HelloParams>(0, 0, [](auto) {}), 1);
  answer("hello: protocol 999",
         raw.call<M, M::HelloParams>(0, 0,
                                     [](M::HelloParams::Builder p) {
                                       p.setProtocol(999);
                                       p.setClient(text(std::string(1'000'000, '\x1b')));
                                     }),
         1);
}

}  // namespace

int submissions(const std::string& socket) {
  std::vector<Case> all;
  addNames(all);
  addModules(all);
  addFiles(all);
  addLimits(all);
  addRest(all);
  Raw raw(socket);
  raw.bootstrap();
  for (const Case& each : all) {
    Question question = raw.submit([&](Spec spec) {
      good(spec);
      each.fill(spec);
    });
    Answer got = raw.answer(question, 1);
    say(each.name, got);
    if (got.code == "ok") raw.answer(raw.close(question), 1);
    raw.finish(question);
    if (!raw.alive()) return 1;
  }
  Question live = raw.submitLive([](Spec spec) {
    good(spec);
    spec.initDetach().setLeaseMs(1'000);
  });
  say("detach: with an output", raw.answer(live, 1));
  otherCalls(raw);
  return raw.alive() ? 0 : 1;
}

}  // namespace mayfly::hostile
