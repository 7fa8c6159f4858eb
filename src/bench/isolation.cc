#include "bench/isolation.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "bench/environment.h"

namespace mayfly::bench {
namespace {

using base::Code;
using base::fail;

constexpr uint64_t kNoiseStartMsMax = 30'000;
constexpr uint64_t kNoiseEndNsMax = 10'000'000'000;

constexpr std::string_view kPrograms[] = {
    "import time\nend = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass\nprint(1)",
    "held = [bytearray(b'x') * (1 << 20) for _ in range(64)]\nprint(len(held))",
    "for i in range(8):\n with open(f'/tmp/{i}', 'wb') as f:\n"
    "  for _ in range(8): f.write(b'x' * (1 << 20))\nprint(i)",
    "print(1)",
};

// The noisy tenant at work, on a connection of its own, for as long as it lives.
class NoiseMaker {
 public:
  static base::Result<std::unique_ptr<NoiseMaker>> start(const IsolationVerb& verb, uint64_t nth,
                                                         const Watch& watch);
  ~NoiseMaker() {
    over_ = true;
    if (thread_.joinable()) thread_.join();
  }
  // Ends the noise; what it did.
  base::Result<load::Report> end();

 private:
  void make(load::Plan plan);

  std::unique_ptr<MixTarget> target_;
  std::unique_ptr<Client> client_;  // goes before the target
  std::atomic<bool> over_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t heard_ = 0;  // ends of tasks
  std::optional<base::Result<load::Report>> report_;
  std::thread thread_;  // goes first
};

void NoiseMaker::make(load::Plan plan) {
  load::DriveBounds bounds;
  bounds.stopped = [this] { return over_.load(); };
  bounds.last_answers_ns_max = kNoiseEndNsMax;
  bounds.heard = [this](const load::Ticket&, const load::Outcome&, bool) {
    std::lock_guard lock(mutex_);
    if (heard_++ == 0) changed_.notify_all();
  };
  auto report = load::drive(std::move(plan), *target_, std::move(bounds));
  std::lock_guard lock(mutex_);
  report_ = std::move(report);
  changed_.notify_all();
}

// Returns once the first of its tasks has ended: from then on the noise is there.
base::Result<std::unique_ptr<NoiseMaker>> NoiseMaker::start(const IsolationVerb& verb, uint64_t nth,
                                                            const Watch& watch) {
  auto out = std::make_unique<NoiseMaker>();
  ConnectOptions connect;
  connect.client_name = "mayfly bench noise";
  MAYFLY_TRY(out->client_, Client::connect(verb.socket, connect));
  MAYFLY_TRY(out->target_, MixTarget::make(*out->client_, verb.noise_load));
  LoadShape shape;
  shape.kind = LoadShape::Kind::closed;
  shape.in_flight = verb.noise_in_flight;
  shape.time_s = kTime_s_max;
  shape.warm_up_s = 0;
  out->thread_ = std::thread(
      [its = out.get(), plan = planOf(shape, nth)]() mutable { its->make(std::move(plan)); });
  std::unique_lock lock(out->mutex_);
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(kNoiseStartMsMax);
  while (out->heard_ == 0 && !out->report_ && !watch.stopped() &&
         std::chrono::steady_clock::now() < until)
    out->changed_.wait_for(lock, std::chrono::milliseconds(50));
  if (out->heard_ == 0 && !watch.stopped())
    return fail(Code::deadlineExceeded, fmt::format("no task of the noisy tenant ended within {} s",
                                                    kNoiseStartMsMax / 1000));
  return out;
}

base::Result<load::Report> NoiseMaker::end() {
  over_ = true;
  thread_.join();
  std::lock_guard lock(mutex_);
  return *report_;
}

struct Figure {
  const char* name;
  const load::Histogram load::Report::*of;
  double percent;
};
constexpr Figure kFigures[] = {
    {"claim p50", &load::Report::claim, 50},
    {"claim p99", &load::Report::claim, 99},
    {"first byte p50", &load::Report::first_byte, 50},
    {"first byte p99", &load::Report::first_byte, 99},
    {"receipt p50", &load::Report::latency, 50},
    {"receipt p99", &load::Report::latency, 99},
};

double valueOf(const Figure& figure, const load::Report& r) {
  return ms((r.*figure.of).percentile_ns(figure.percent));
}

// The ratios of a figure, one for each pair that has both sides.
std::vector<double> ratiosOf(const Figure& figure, const Series& quiet, const Series& noisy) {
  std::vector<double> out;
  for (size_t i = 0; i < std::min(quiet.rounds.size(), noisy.rounds.size()); ++i) {
    const double before = valueOf(figure, quiet.rounds[i]),
                 after = valueOf(figure, noisy.rounds[i]);
    if (before > 0 && after > 0) out.push_back(after / before);
  }
  return out;
}

// A figure of both sides, with the p of its ratios.
struct Effect {
  Figure figure;
  std::vector<double> ratios;
  double p = 1;  // corrected

  std::string words() const {
    if (ratios.size() < 2) return "too few pairs";
    if (p > kSignificant) return "within noise";
    return meanRatio(ratios).value > 1 ? "slower" : "faster";
  }
};

std::vector<Effect> effectsOf(const Series& quiet, const Series& noisy) {
  std::vector<Effect> out;
  std::vector<double> p;
  for (const Figure& figure : kFigures) {
    Effect each{figure, ratiosOf(figure, quiet, noisy)};
    if (each.ratios.empty()) continue;
    p.push_back(meanRatioP(each.ratios));
    out.push_back(std::move(each));
  }
  p = holm(p);
  for (size_t i = 0; i < out.size(); ++i) out[i].p = p[i];
  return out;
}

// One phase of the victim, with or without noise.
base::Status phase(const IsolationVerb& verb, Session& session, uint64_t nth, bool noisy,
                   BenchReport& out, const Watch& watch) {
  std::unique_ptr<NoiseMaker> noise;
  if (noisy) {
    MAYFLY_TRY(noise, NoiseMaker::start(verb, nth, watch));
  }
  // The same sequence on both sides of a pair.
  MAYFLY_TRY(RoundResult round, session.round(verb.victim, nth, watch));
  if (noisy) {
    MAYFLY_TRY(load::Report made, noise->end());
    if (!watch.stopped()) out.series[2].add(std::move(made));
  }
  if (watch.stopped()) return base::Unit{};
  Series& side = out.series[noisy ? 1 : 0];
  side.add(round.all);
  if (round.generator.limited) side.notes.push_back(round.generator.words);
  watch.tell(fmt::format("pair {} of {}, {}: first byte {} ms (p99 {}), receipt {} ms (p99 {})",
                         nth + 1, verb.pairs, noisy ? "noisy" : "quiet",
                         msText(ms(round.all.first_byte.percentile_ns(50))),
                         msText(ms(round.all.first_byte.percentile_ns(99))),
                         msText(ms(round.all.latency.percentile_ns(50))),
                         msText(ms(round.all.latency.percentile_ns(99)))));
  return base::Unit{};
}

}  // namespace

config::Mix noiseMix(Noise noise, const std::string& tenant) {
  config::Mix mix;
  mix.name = fmt::format("noise of kind {}", kNoises[static_cast<size_t>(noise)]);
  for (size_t i = 0; i < std::size(kPrograms); ++i) {
    if (noise != Noise::all && static_cast<size_t>(noise) != i) continue;
    config::MixTask task;
    task.name = kNoises[i];
    task.tenant = tenant;
    task.code = kPrograms[i];
    mix.tasks.push_back(std::move(task));
  }
  return mix;
}

// Adds a line for each figure to the table, the JSON and the plot.
void concludeIsolation(const IsolationVerb& verb, BenchReport& out) {
  const Series &quiet = out.series[0], &noisy = out.series[1];
  out.table = fmt::format(
      "victim: {}, {}\nnoise:  {}, {} in flight\n{} pairs of {:g} s, in drawn order; medians in "
      "ms\n\n{:<15}{:>8}{:>8}{:>7}  {:<16}{:>7}\n",
      verb.victim_load.mix->name, textOf(verb.victim), verb.noise_load.mix->name,
      verb.noise_in_flight, std::min(quiet.rounds.size(), noisy.rounds.size()), verb.victim.time_s,
      "", "quiet", "noisy", "ratio", "95 %", "p");
  BarPlot plot;
  plot.title = "A tenant beside a noisy one";
  plot.unit = "ms";
  plot.kinds = {"quiet", "noisy"};
  Json& all = out.extra["isolation"] = Json::array();
  const std::vector<Effect> effects = effectsOf(quiet, noisy);
  for (const Effect& each : effects) {
    const Interval ratio = meanRatio(each.ratios);
    auto pick = [&](const load::Report& r) { return valueOf(each.figure, r); };
    const double before = quiet.median(pick), after = noisy.median(pick);
    out.table +=
        fmt::format("{:<15}{:>8}{:>8}{:>7.2f}  {:<16}{:>7.4f}  {}\n", each.figure.name,
                    msText(before), msText(after), ratio.value,
                    fmt::format("{:.2f} to {:.2f}", ratio.low, ratio.high), each.p, each.words());
    plot.bars.push_back({each.figure.name, {before, after}});
    plot.description += fmt::format("{}: {} ms quiet, {} ms noisy. ", each.figure.name,
                                    msText(before), msText(after));
    all.push_back({{"figure", each.figure.name},
                   {"quiet_ms", before},
                   {"noisy_ms", after},
                   {"pairs", each.ratios.size()},
                   {"ratio", ratio.value},
                   {"low", ratio.low},
                   {"high", std::min(ratio.high, 1e9)},
                   {"p", each.p},
                   {"effect", each.words()}});
  }
  const double noise_per_s = out.series[2].median([](const load::Report& r) { return r.per_s(); });
  out.table +=
      fmt::format(
          "\nthe noisy tenant did {:.1f} tasks/s. Ratios: geometric mean of the pairs, each with\n"
          "Student's 95 % interval of their logarithms. p: of the same t, corrected by Holm over "
          "{}\nfigures; a figure is slower or faster if it is at most {}.\n",
          noise_per_s, effects.size(), kSignificant) +
      seriesNotes(out.series);
  out.plots.emplace_back("isolation", svg(plot));
}

base::Result<BenchReport> isolation(const IsolationVerb& verb, const Watch& watch) {
  Environment environment;
  MAYFLY_TRY(auto session, Session::open(verb.socket, verb.victim_load));
  BenchReport out;
  out.verb = "isolation";
  out.options = {{"victim", toJson(verb.victim)},
                 {"victim_mix", toJson(*verb.victim_load.mix)},
                 {"noise_mix", toJson(*verb.noise_load.mix)},
                 {"noise_in_flight", verb.noise_in_flight},
                 {"pairs", verb.pairs}};
  out.series.resize(3);
  out.series[0] = {"quiet", "the victim alone", verb.victim.stated_per_s(), {}, {}, {}};
  out.series[1] = {"noisy", "the victim beside the noise", verb.victim.stated_per_s(), {}, {}, {}};
  out.series[2] = {"noise", verb.noise_load.mix->name, 0, {}, {}, {}};
  pool::Random order(verb.victim.seed);
  for (uint32_t i = 0; i < verb.pairs && !watch.stopped(); ++i) {
    const bool noisy_first = (order.next() & 1) != 0;
    for (const bool noisy : {noisy_first, !noisy_first})
      if (!watch.stopped()) MAYFLY_CHECK(phase(verb, *session, i, noisy, out, watch));
  }
  out.interrupted = watch.stopped();
  if (auto templates = session->client().templates())
    environment.addDaemon("daemon", session->client().server(), *templates);
  out.environment = environment.stamp();
  concludeIsolation(verb, out);
  return out;
}

}  // namespace mayfly::bench
