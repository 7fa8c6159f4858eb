#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "cli/words.h"
#include "config/limits.h"
#include "config/units.h"
#include "image/cli_image.h"

namespace mayfly::cli {

namespace {

constexpr const char* kAbout =
    "Mayfly runs untrusted code, each task in a brand-new box of its own.";

constexpr const char* kRunFooter = R"(The program:
SCRIPT [ARG...]      a script file; all words after it are the script's
  FOLDER [ARG...]      a folder with a __main__.py, or a zip file with one
  -m MODULE [ARG...]   a module; all words after it are the module's
  - [ARG...]           a program from standard input
  -c CODE [ARG...]     a program from the command line
  -- COMMAND [ARG...]  a command line (templates of mechanism exec, like shell)

mayfly's options stand before SCRIPT, `-` and `--`. The task's working folder is
/task; it holds the input files; --out brings the files that the task leaves in
/task/out. FOLDER's files come along; so do those of ./MODULE or ./MODULE.py, if
there is one. Hidden files and __pycache__ stay behind; a link is refused.
SIZE is like 512M, 64m, 64KiB or 1.5GiB: K, M, G, T and KiB, MiB... count by
1024, kB, MB, GB, TB by 1000, and capitals do not matter. TIME is like 250ms,
30s, 1.5m or 2h. A cap that is not named has the template's default:
`mayfly templates --json`.
docs/SPECIFICATION.md says what happens at each cap. Code has at most 4 MiB.
Input files of more than 1 MiB are uploaded before the task; the daemon keeps
them for ten minutes after their last use, or until others need the room, so
the same file is not sent again.
Standard input is sent in pieces. --input bounds all input together.

Exit code: the task's own, or
  124    killed at its wall time or cpu time
  125    an error of Mayfly or a wrong use: no verdict, or `internal`
  130    cancelled (Ctrl-C, mayfly kill)
  137    killed at another cap: memory, processes, output or disk
  141    our standard output has no reader any more
  128+N  ended by signal N
A task may exit with these codes, too: see the last line on stderr, or --json.

Examples:
  mayfly run -c 'print(6*7)'
  mayfly run -t python-data --file sales.xlsx --out results report.py --all
  cat big.csv | mayfly run --stdin --memory 1G --wall-time 2m crunch.py
  mayfly run -t shell --cpus 0.5 -- bash -c 'echo $((6*7))'
  mayfly run -m json.tool --help
  mayfly run --json -c 'import sys; sys.exit(3)' | jq .verdict
  mayfly run --detach --key nightly long.py && mayfly task wait --key nightly)";

constexpr const char* kFooter = R"(Start:
  mayfly doctor                    what this host offers, and what is missing
  mayfly image build               build the images of the templates
  mayfly snapshot build            make the snapshots of templates that restore
  mayfly run -c 'print(6*7)'       run a task
  mayfly VERB --help               explain a verb

The daemon's socket is --socket, else $MAYFLY_SOCKET, else
/run/mayfly/default.sock.)";

struct Usage {
  const char *verb, *line;
};
constexpr Usage kUsages[] = {
    {"run",
     "mayfly run [OPTIONS] SCRIPT|FOLDER|-|-c CODE|-m MODULE [ARG...]\n"
     "       mayfly run -t TEMPLATE [OPTIONS] -- COMMAND [ARG...]"},
    {"task",
     "mayfly task info|wait|cancel|close ID|--key KEY [OPTIONS]\n"
     "       mayfly task list [--json]"},
    {"blob", "mayfly blob list|remove [OPTIONS]"},
    {"remove", "mayfly blob remove SHA256...|--all"},
    {"info", "mayfly task info ID|--key KEY [--json]"},
    {"wait", "mayfly task wait ID|--key KEY [--out DIR] [--json] [-q]"},
    {"cancel", "mayfly task cancel ID|--key KEY"},
    {"close", "mayfly task close ID|--key KEY"},
    {"ps", "mayfly ps [--json]"},
    {"kill", "mayfly kill ID..."},
    {"templates", "mayfly templates [--json]"},
    {"doctor", "mayfly doctor [--config FILE] [--json] [--quick] [--restore]"},
    {"version", "mayfly version [--json]"},
};

// CLI11 of Debian 12 prints its own usage line, which names only the verb.
std::string helpOf(const CLI::App& app) {
  std::string text = app.help();
  for (const Usage& usage : kUsages) {
    if (app.get_name() != usage.verb) continue;
    size_t at = text.find("Usage: ");
    if (at != std::string::npos)
      text.replace(at, text.find('\n', at) - at, std::string("Usage: ") + usage.line);
  }
  return text;
}

const char* typeName(config::LimitUnit unit) {
  switch (unit) {
    case config::LimitUnit::cores:
      return "CORES";
    case config::LimitUnit::milliseconds:
      return "TIME";
    case config::LimitUnit::bytes:
      return "SIZE";
    case config::LimitUnit::count:
      break;
  }
  return "N";
}

template <class T>
void addCap(CLI::App* app, const char* flag, std::optional<T>& to, const config::LimitField& cap,
            const char* about) {
  app->add_option_function<std::string>(
         flag,
         [&to, flag, &cap](const std::string& text) {
           auto value = cap.parse(text);
           if (!value)
             throw CLI::ValidationError(flag, value.error().message + ". " + value.error().advice);
           if (*value > std::numeric_limits<T>::max() - 1)
             throw CLI::ValidationError(flag, "'" + base::printable(text) + "' is too large");
           to = static_cast<T>(*value);
         },
         about)
      ->type_name(typeName(cap.unit));
}

void addCaps(CLI::App* run, LimitWishes& wishes) {
#define MAYFLY_CAP(member, type, standard, unit, lowest, highest, key, Wire, flag, about) \
  addCap(run, flag, wishes.member, config::limitField(key), about);
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
  for (auto* option : run->get_options())
    if (option->get_group() == "Options" && option->get_name() != "--help") option->group("Caps");
}

struct RunArgs {
  std::vector<std::string> options, rest;
  bool command = false;
  std::string last_file;  // the value of a --file that is the last option, as a word of its own
};

// CLI11 would also parse options after the script. So this splits the words of `run`: words before
// the first one that is neither an option nor an option's value are mayfly's.
RunArgs part(const CLI::App& run, const std::vector<std::string>& words) {
  RunArgs out;
  size_t i = 0;
  for (; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      out.command = true;
      ++i;
      break;
    }
    if (word == "-" || word.empty() || word[0] != '-') break;
    out.options.push_back(word);
    out.last_file.clear();
    bool is_long = word.size() > 2 && word[1] == '-';
    const bool module = word.starts_with("-m");
    if (module && word.size() > 2) {
      ++i;
      break;
    }
    if (is_long ? word.find('=') != std::string::npos : word.size() > 2)
      continue;  // value attached
    const CLI::Option* option = run.get_option_no_throw(word);
    if (option == nullptr && run.get_parent() != nullptr)
      option = run.get_parent()->get_option_no_throw(word);
    if (option != nullptr && option->get_items_expected_max() > 0 && i + 1 < words.size())
      out.options.push_back(words[++i]);
    if (word == "--file") out.last_file = words[i];
    if (module) {
      ++i;
      break;
    }
  }
  out.rest.assign(words.begin() + static_cast<ptrdiff_t>(i), words.end());
  return out;
}

// `--file a b s.py` runs b with the argument s.py. If s.py is a program that is not brought, then b
// was meant to be a second file.
void checkSecondFile(const RunOptions& run, const RunArgs& parts) {
  if (parts.last_file.empty() || parts.command || parts.rest.size() < 2) return;
  const std::string &script = parts.rest[0], &program = parts.rest[1];
  const auto brings = [&](const std::string& file) {
    const size_t from = file.find_last_of("/:");
    return file == program || (from != std::string::npos && file.substr(from + 1) == program);
  };
  if (!isProgramName(program) || std::any_of(run.files.begin(), run.files.end(), brings)) return;
  throw CLI::ValidationError(
      "--file", fmt::format("takes one path, so '{1}' would be the program and '{2}' its argument. "
                            "For two files: --file {0} --file {1} {2}; if it is meant so: "
                            "--file={0} {1} {2}",
                            base::printable(parts.last_file, 80), base::printable(script, 80),
                            base::printable(program, 80)));
}

void finishRun(RunOptions& run, const std::string& code, bool has_code, RunArgs parts) {
  if (has_code) run.code = code;
  if (!run.module.empty()) {
    if (has_code || parts.command)
      throw CLI::ValidationError("run", "-m MODULE, -c CODE and -- COMMAND exclude each other");
  } else if (parts.command) {
    if (has_code) throw CLI::ValidationError("run", "-c CODE and -- COMMAND exclude each other");
    if (parts.rest.empty()) throw CLI::ValidationError("run", "there is no command after --");
    run.command = true;
  } else if (!has_code) {
    if (parts.rest.empty())
      throw CLI::ValidationError(
          "run", "nothing to run: give SCRIPT, FOLDER, `-`, -c CODE, -m MODULE or -- COMMAND");
    checkSecondFile(run, parts);
    run.script = parts.rest.front();
    parts.rest.erase(parts.rest.begin());
  }
  run.args = std::move(parts.rest);
  if (run.script == "-" && run.forward_stdin)
    throw CLI::ValidationError("run",
                               "`-` reads the program from standard input, --stdin reserves it "
                               "for the task: give the program as a file or with -c");
}

void finishDetach(RunOptions& run, bool detach, std::string key, const std::string& lease) {
  if (!detach) {
    if (!key.empty() || !lease.empty() || run.collect)
      throw CLI::ValidationError("run", "--key, --lease and --collect need --detach");
    return;
  }
  if (run.forward_stdin)
    throw CLI::ValidationError("run",
                               "--detach and --stdin exclude each other: the task may "
                               "outlive this command; give the input with --file");
  if (!run.out_dir.empty())
    throw CLI::ValidationError("run",
                               "--detach and --out exclude each other: give --collect, and "
                               "--out to `mayfly task wait`");
  run.detach.emplace();
  run.detach->key = std::move(key);
  if (lease.empty()) return;
  auto value = config::parseDurationMs(lease);
  if (!value) throw CLI::ValidationError("--lease", value.error().message);
  if (*value == 0 || *value > UINT32_MAX)
    throw CLI::ValidationError("--lease", "'" + base::printable(lease) + "' is out of range");
  run.detach->lease_ms = static_cast<uint32_t>(*value);
}

}  // namespace

bool isProgramName(std::string_view word) {
  constexpr std::string_view kEnds[] = {".py", ".pyz", ".pl", ".sh"};
  return std::any_of(std::begin(kEnds), std::end(kEnds),
                     [&](std::string_view end) { return word.ends_with(end); });
}

Options parseCommandLine(const std::vector<std::string>& args, const std::string& socket_default) {
  Options out;
  out.socket = socket_default;

  CLI::App app(kAbout, "mayfly");
  app.require_subcommand(1);
  app.fallthrough();
  app.footer(kFooter);
  app.get_formatter()->column_width(28);
  app.add_option("--socket", out.socket, "The daemon's socket")->type_name("PATH");
  bool version_flag = false;
  app.add_flag("--version", version_flag, "Show the version of this command");

  RunOptions run;
  std::string code;
  std::vector<std::string> env, grants;
  auto* run_app = app.add_subcommand("run", "Run a task, print its output, bring its files");
  addCaps(run_app, run.limits);
  run_app->footer(kRunFooter);
  run_app->add_option("-t,--template", run.template_name, "The template of the box")
      ->capture_default_str()
      ->type_name("NAME");
  auto* code_option = run_app->add_option("-c", code, "The program itself")->type_name("CODE");
  auto* module_option =
      run_app->add_option("-m", run.module, "The module to run; ends mayfly's options")
          ->type_name("MODULE");
  run_app->add_option("--file", run.files, "An input file, put at /task/NAME; repeatable")
      ->type_name("PATH[:NAME]")
      ->allow_extra_args(false);
  run_app->add_option("--out", run.out_dir, "Bring the files of /task/out into this folder")
      ->type_name("DIR");
  run_app->add_option("--env", env, "An environment variable; repeatable")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  run_app->add_option("--grant", grants, "An action of the broker's policy; repeatable")
      ->type_name("NAME[:BOUNDS]")
      ->allow_extra_args(false);
  run_app->add_flag("--stdin", run.forward_stdin, "Give the task our standard input");
  run_app
      ->add_option_function<std::string>(
          "--seed",
          [&](const std::string& text) {
            auto value = config::parseCount(text);
            if (!value) throw CLI::ValidationError("--seed", value.error().message);
            run.seed = *value;
          },
          "Seed the runtime's reproducible generators")
      ->type_name("N");
  run_app
      ->add_option("--tenant", run.tenant, "Whom the task is for; some templates isolate tenants")
      ->type_name("NAME");
  run_app->add_option("--traceparent", run.traceparent, "W3C trace context, for logs and the audit")
      ->type_name("TEXT");
  bool detach = false;
  std::string key, lease;
  run_app->add_flag("--detach", detach, "Print the task's id and exit; see `mayfly task`");
  run_app->add_option("--key", key, "Your name for the run; reuse returns the same task")
      ->type_name("KEY");
  run_app->add_option("--lease", lease, "How long the result is kept [1h]")->type_name("TIME");
  for (const char* each : {"--key", "--lease"}) run_app->get_option(each)->group("With --detach");
  run_app->add_flag("--collect", run.collect, "Keep the files of /task/out for `task wait`")
      ->group("With --detach");
  run_app->add_flag("--json", run.json, "Print one JSON object and nothing else");
  run_app->add_flag("-q,--quiet", run.quiet, "No verdict line on stderr when the task succeeded");

  PsOptions ps;
  auto* ps_app = app.add_subcommand("ps", "List the tasks that are queued, running or ending");
  ps_app->add_flag("--json", ps.json, "Print JSON");
  TaskOptions task;
  auto* task_app = app.add_subcommand("task", "List, show, await, cancel, close detached tasks");
  task_app->require_subcommand(1);
  task_app->footer(
      "A task of `mayfly run --detach` belongs to its user: any call of the same user\n"
      "finds it, until it is closed or its lease is over. `wait` exits like `mayfly\n"
      "run`.");
  const std::tuple<TaskVerb, const char*, const char*> task_verbs[] = {
      {TaskVerb::list, "list", "List your detached tasks, ended ones too"},
      {TaskVerb::info, "info", "Show the task's state"},
      {TaskVerb::wait, "wait", "Wait for its end; print its output, bring its files"},
      {TaskVerb::cancel, "cancel", "End the task as `cancelled`; its result is kept"},
      {TaskVerb::close, "close", "End the task and forget its result"},
  };
  for (const auto& [verb, name, about] : task_verbs) {
    auto* each = task_app->add_subcommand(name, about);
    each->callback([&task, verb = verb] { task.verb = verb; });
    if (verb == TaskVerb::list) {
      each->add_flag("--json", task.json, "Print JSON");
      continue;
    }
    auto* id =
        each->add_option("ID", task.id, "The task's number, as `mayfly run --detach` prints it");
    auto* by_key = each->add_option("--key", task.key, "The key that the task was submitted with");
    by_key->type_name("KEY")->excludes(id);
    if (verb == TaskVerb::wait) {
      each->add_option("--out", task.out_dir, "Bring the files of /task/out into this folder")
          ->type_name("DIR");
      each->add_flag("-q,--quiet", task.quiet, "No verdict line on stderr when it succeeded");
    }
    if (verb == TaskVerb::wait || verb == TaskVerb::info)
      each->add_flag("--json", task.json, "Print JSON");
  }
  BlobOptions blob;
  auto* blob_app = app.add_subcommand("blob", "List and remove uploaded input files");
  blob_app->require_subcommand(1);
  blob_app->footer(
      "Input files of more than 1 MiB are uploaded, and kept for ten minutes after\n"
      "their last use. When a user's share is full, the ones unused for longest give\n"
      "way by themselves. A task that has a blob keeps it.");
  auto* blob_list = blob_app->add_subcommand("list", "List your blobs");
  blob_list->add_flag("--json", blob.json, "Print JSON");
  auto* blob_remove = blob_app->add_subcommand("remove", "Remove blobs");
  auto* hashes =
      blob_remove->add_option("SHA256", blob.hashes, "Hashes, or at least their first 8 digits");
  blob_remove->add_flag("--all", blob.all, "Remove all of your blobs")->excludes(hashes);
  blob_remove->callback([&blob] { blob.verb = BlobVerb::remove; });
  KillOptions kill;
  auto* kill_app = app.add_subcommand("kill", "End tasks, as `cancelled`");
  kill_app->add_option("ID", kill.ids, "A task's number, as `mayfly ps` shows it")->required();
  TemplatesOptions templates;
  auto* templates_app = app.add_subcommand("templates", "List the templates");
  templates_app->add_flag("--json", templates.json, "Print JSON, with every default and maximum");
  DoctorOptions doctor;
  auto* doctor_app = app.add_subcommand("doctor", "Show what the host offers and what is missing");
  doctor_app->footer(
      "Exit code: 0 if the host can keep every promise, else 1. Run it as root:\n"
      "other users may not see everything. It dumps and restores a process of a\n"
      "template that restores, which takes some seconds.");
  doctor_app->add_option("--config", doctor.config, "The daemon's settings, which bound its boxes")
      ->type_name("FILE");
  doctor_app->add_flag("--json", doctor.json, "Print JSON");
  doctor_app->add_flag("--quick", doctor.quick, "Try no dump and restore");
  doctor_app->add_flag("--restore", doctor.restore,
                       "Exit with 1, too, if a restore is not shown to work");
  app.add_subcommand("image", "Build, list, remove and prune the boxes' images");
  app.add_subcommand("snapshot", "Build, list, check, remove dumped zygotes");
  app.add_subcommand("template", "Make, build and check templates of your own");
  app.add_subcommand("broker", "Check the broker's policy, show its log");
  app.add_subcommand("top", "Show pools, latency and tenants of a daemon, live");
  app.add_subcommand("pool", "Simulate the sizing of the warm pool");
  app.add_subcommand("bench", "Measure a daemon under load; compare reports");
  app.add_subcommand("plan", "How many hosts a load needs, and what binds");
  app.add_subcommand("trace", "Record a load from a daemon's log");
  VersionOptions version;
  auto* version_app = app.add_subcommand("version", "Show the version of client and daemon");
  version_app->add_flag("--json", version.json, "Print JSON");

  for (CLI::App* sub : app.get_subcommands([](CLI::App*) { return true; }))
    if (sub->get_footer() == app.get_footer()) sub->footer("");

  int wrong_use = 2;
  try {
    // The first word that is not an option names the verb.
    size_t verb = 0;
    while (verb < args.size() && args[verb].starts_with("-")) {
      if (args[verb] == "--version") {
        out.verb = VersionOptions{.ours_only = true};
        return out;
      }
      verb += args[verb] == "--socket" ? 2 : 1;
    }
    std::vector<std::string> words = args;
    RunArgs parts;
    // These verbs have parsers of their own.
    const auto is = [&](const char* name) { return verb < args.size() && args[verb] == name; };
    const auto socketBefore = [&](size_t end) {
      std::string socket = out.socket;
      for (size_t i = 0; i < end; ++i) {
        if (args[i] == "--socket") socket = args[++i];
        if (args[i].starts_with("--socket=")) socket = args[i].substr(9);
      }
      return socket;
    };
    if ((is("image") || is("template") || is("pool") || is("bench") || is("plan") || is("trace")) &&
        args.back() == "--version") {
      out.verb = VersionOptions{.ours_only = true};
      return out;
    }
    if (is("snapshot")) {
      out.verb = SnapshotOptions{{args.begin() + static_cast<ptrdiff_t>(verb) + 1, args.end()}};
      return out;
    }
    if (is("image")) {
      out.verb = ImageOptions{{args.begin() + static_cast<ptrdiff_t>(verb) + 1, args.end()}};
      return out;
    }
    if (is("template")) {
      out.verb = TemplateOptions{{args.begin() + static_cast<ptrdiff_t>(verb) + 1, args.end()}};
      return out;
    }
    if (is("broker")) {
      out.verb = BrokerOptions{{args.begin() + static_cast<ptrdiff_t>(verb) + 1, args.end()}};
      return out;
    }
    if (is("top")) {
      out.verb = TopWords{{args.begin() + static_cast<ptrdiff_t>(verb) + 1, args.end()}};
      return out;
    }
    if (is("plan") || is("trace")) {
      out.socket = socketBefore(verb);
      out.verb = PlanVerbOptions{is("trace"),
                                 {args.begin() + static_cast<ptrdiff_t>(verb) + 1, args.end()}};
      return out;
    }
    if (is("pool")) {
      out.verb = PoolOptions{{args.begin() + static_cast<ptrdiff_t>(verb) + 1, args.end()}};
      return out;
    }
    if (is("bench")) {
      out.socket = socketBefore(verb);
      out.verb = BenchOptions{{args.begin() + static_cast<ptrdiff_t>(verb) + 1, args.end()}};
      return out;
    }
    if (is("run")) {
      wrong_use = kExitMayfly;
      auto from = args.begin() + static_cast<ptrdiff_t>(verb) + 1;
      parts = part(*run_app, {from, args.end()});
      words.assign(args.begin(), from);
      words.insert(words.end(), parts.options.begin(), parts.options.end());
    }
    std::reverse(words.begin(), words.end());
    app.parse(words);
    if (version_flag) {
      out.verb = VersionOptions{.ours_only = true};
      return out;
    }
    if (run_app->parsed()) {
      for (const std::string& each : grants) {
        const size_t colon = each.find(':');
        if (each.empty() || colon == 0)
          throw CLI::ValidationError("--grant",
                                     "'" + base::printable(each) + "' is not NAME[:BOUNDS]");
        run.grants.push_back(
            {each.substr(0, colon), colon == std::string::npos ? "" : each.substr(colon + 1)});
      }
      for (const std::string& each : env) {
        size_t equals = each.find('=');
        if (equals == std::string::npos || equals == 0)
          throw CLI::ValidationError("--env", "'" + base::printable(each) + "' is not NAME=VALUE");
        run.env.emplace_back(each.substr(0, equals), each.substr(equals + 1));
      }
      if (module_option->count() > 0 && run.module.empty())
        throw CLI::ValidationError("-m", "the module has no name");
      finishRun(run, code, code_option->count() > 0, std::move(parts));
      finishDetach(run, detach, std::move(key), lease);
      out.verb = std::move(run);
    } else if (task_app->parsed()) {
      if (task.verb != TaskVerb::list && !task.id && task.key.empty())
        throw CLI::ValidationError("task", "name the task: give its ID or --key KEY");
      out.verb = std::move(task);
    } else if (blob_app->parsed()) {
      if (blob.verb == BlobVerb::remove && blob.hashes.empty() && !blob.all)
        throw CLI::ValidationError("blob", "name the blobs: give their SHA256, or --all");
      out.verb = std::move(blob);
    } else if (ps_app->parsed()) {
      out.verb = ps;
    } else if (kill_app->parsed()) {
      out.verb = std::move(kill);
    } else if (templates_app->parsed()) {
      out.verb = templates;
    } else if (doctor_app->parsed()) {
      out.verb = doctor;
    } else {
      out.verb = version;
    }
  } catch (const CLI::CallForHelp&) {
    const CLI::App* shown = &app;
    for (const CLI::App* sub : app.get_subcommands()) shown = sub;
    for (const CLI::App* sub : shown->get_subcommands()) shown = sub;
    out.verb = SayAndExit{helpOf(*shown), 0};
  } catch (const CLI::ParseError& e) {
    out.verb = SayAndExit{fmt::format("mayfly: {}\n  `mayfly --help` and `mayfly run --help` "
                                      "explain the usage.\n",
                                      whyWrong(app, e)),
                          wrong_use};
  }
  return out;
}

}  // namespace mayfly::cli
