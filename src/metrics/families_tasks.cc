// Metrics of tasks, the queue and tenants.
#include <algorithm>
#include <iterator>

#include "base/result.h"
#include "metrics/families.h"

namespace mayfly::metrics {

namespace {

constexpr std::string_view kOther = "other";

double d(uint64_t n) { return static_cast<double>(n); }
double seconds(uint64_t ns) { return static_cast<double>(ns) / 1e9; }

void partsOf(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates)
    for (size_t l = 0; l < base::kLaunches; ++l)
      for (size_t o = 0; o < kOutcomes; ++o) {
        if (!t.parts[l][o]) continue;
        for (size_t p = 0; p < kParts; ++p) {
          const Histogram& h = (*t.parts[l][o])[p];
          if (h.count() == 0) continue;
          out.add({t.name, t.mechanism, name(static_cast<base::Launch>(l)),
                   name(static_cast<Outcome>(o)), name(static_cast<Part>(p))},
                  h);
        }
      }
}

struct Refusal {
  base::Code code;
  base::RefusedBy by;
};
// A usual refusal has its series from the start: to rate(), a counter's first value is no rise.
constexpr Refusal kUsual[] = {
    {base::Code::invalidArgument, base::RefusedBy::request},
    {base::Code::notFound, base::RefusedBy::request},
    {base::Code::unavailable, base::RefusedBy::stopping},
    {base::Code::unavailable, base::RefusedBy::notServing},
    {base::Code::unavailable, base::RefusedBy::quarantine},
    {base::Code::resourceExhausted, base::RefusedBy::notServing},
    {base::Code::resourceExhausted, base::RefusedBy::quarantine},
    {base::Code::resourceExhausted, base::RefusedBy::connection},
    {base::Code::resourceExhausted, base::RefusedBy::tenant},
    {base::Code::resourceExhausted, base::RefusedBy::user},
    {base::Code::resourceExhausted, base::RefusedBy::host},
};

bool isUsual(size_t code, size_t by) {
  return std::any_of(std::begin(kUsual), std::end(kUsual), [&](const Refusal& r) {
    return static_cast<size_t>(r.code) == code && static_cast<size_t>(r.by) == by;
  });
}

void refusals(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates)
    for (size_t c = 0; c < kCodes; ++c)
      for (size_t b = 0; b < base::kRefusedBys; ++b)
        if (t.refused[c][b] != 0 || isUsual(c, b))
          out.add({t.name, codeName(c), name(static_cast<base::RefusedBy>(b))}, d(t.refused[c][b]));
  out.add({kOther, "notFound", "unknownTemplate"}, d(s.refused_unknown_template));
}

void verdicts(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates)
    for (size_t v = 0; v < base::kVerdicts; ++v)
      out.add({t.name, t.mechanism, base::name(static_cast<base::Verdict>(v))}, d(t.verdicts[v]));
}

void launches(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates)
    for (size_t l = 0; l < base::kLaunches; ++l)
      out.add({t.name, name(static_cast<base::Launch>(l))}, d(t.launches[l]));
}

// One figure of each template, of each tenant.
template <auto kMember>
void ofTemplates(const Snapshot& s, const Scrape&, Series& out) {
  for (const Template& t : s.templates) out.add({t.name}, d(t.*kMember));
}

struct Names {
  std::string_view user, tenant;
};
Names namesOf(const Tenant& t) {
  return t.others ? Names{kOther, kOther} : Names{t.user, t.tenant};
}

template <auto kMember>
void ofTenants(const Snapshot& s, const Scrape&, Series& out) {
  for (const Tenant& t : s.tenants) out.add({namesOf(t).user, namesOf(t).tenant}, d(t.*kMember));
}

template <auto kMember>
void timesOfTenants(const Snapshot& s, const Scrape&, Series& out) {
  for (const Tenant& t : s.tenants) out.add({namesOf(t).user, namesOf(t).tenant}, t.*kMember);
}

void tenantsEnded(const Snapshot& s, const Scrape&, Series& out) {
  for (const Tenant& t : s.tenants)
    for (size_t o = 0; o < kOutcomes; ++o)
      out.add({namesOf(t).user, namesOf(t).tenant, name(static_cast<Outcome>(o))}, d(t.ended[o]));
}

void tenantsNow(const Snapshot& s, const Scrape&, Series& out) {
  for (const Tenant& t : s.tenants) {
    out.add({namesOf(t).user, namesOf(t).tenant, "queued"}, t.queued);
    out.add({namesOf(t).user, namesOf(t).tenant, "running"}, t.running);
  }
}

template <auto kMember>
void cpuOf(const Snapshot& s, const Scrape&, Series& out) {
  for (const auto& each : s.*kMember) {
    if constexpr (requires { each.others; })
      out.add({namesOf(each).user, namesOf(each).tenant}, seconds(each.cpu_ns));
    else
      out.add({each.name}, seconds(each.cpu_ns));
  }
}

constexpr Family kTaskFamilies[] = {
    {"mayfly_tasks_accepted_total", Type::counter, "template", "Tasks that were queued.",
     ofTemplates<&Template::accepted>},
    {"mayfly_tasks_refused_total", Type::counter, "template code reason",
     "Submissions that the core refused, by error code and by whose bound or which state it was; "
     "template other: unknown names.",
     refusals},
    {"mayfly_tasks_ended_total", Type::counter, "template mechanism verdict",
     "Tasks with a result, by verdict; wallTime to disk name the cap that ended it.", verdicts},
    {"mayfly_task_launches_total", Type::counter, "template launch",
     "Ended tasks by what they got: a parked clone, a stocked box, a box made for them, or none.",
     launches},
    {"mayfly_tasks_open", Type::gauge, "template", "Tasks that were accepted and have no result.",
     ofTemplates<&Template::open>},
    {"mayfly_tasks_running", Type::gauge, "template", "Tasks that have a box.",
     ofTemplates<&Template::running>},
    {"mayfly_task_phase_seconds", Type::histogram, "template mechanism launch outcome phase",
     "The parts of a task's time: queue, claim, start (both), first_byte, run, kill, reap, "
     "receipt, whole.",
     partsOf},
    {"mayfly_task_cpu_seconds_total", Type::counter, "template",
     "User and system time of ended tasks.", cpuOf<&Snapshot::templates>},
    {"mayfly_task_output_bytes_total", Type::counter, "template",
     "Bytes of stdout and stderr of ended tasks.", ofTemplates<&Template::output_bytes>},
    {"mayfly_task_fresh_runtimes_total", Type::counter, "template",
     "Tasks that got a new runtime, without the template's preloads.",
     ofTemplates<&Template::fresh_runtimes>},
    {"mayfly_slow_tasks_total", Type::counter, "", "Tasks that took longer than slow_task.",
     [](const Snapshot& s, const Scrape&, Series& out) { out.add({}, d(s.slow_tasks)); }},
    {"mayfly_slow_task_threshold_seconds", Type::gauge, "",
     "The setting slow_task; 0: no task counts as slow.",
     [](const Snapshot& s, const Scrape&, Series& out) { out.add({}, seconds(s.slow_task_ns)); }},
    {"mayfly_queue_tasks", Type::gauge, "", "Tasks that wait for their turn.",
     [](const Snapshot& s, const Scrape&, Series& out) { out.add({}, s.queued); }},
    {"mayfly_queue_oldest_age_seconds", Type::gauge, "",
     "How long the oldest task in the queue waits.",
     [](const Snapshot& s, const Scrape&, Series& out) { out.add({}, seconds(s.queue_age_ns)); }},
    {"mayfly_queue_wait_seconds", Type::histogram, "",
     "How long ended tasks waited for their turn, of all templates.",
     [](const Snapshot& s, const Scrape&, Series& out) { out.add({}, s.queue_wait); }},
    {"mayfly_tenant_tasks_accepted_total", Type::counter, "user tenant",
     "Tasks that were queued, of the busiest tenants and of all others.",
     ofTenants<&Tenant::accepted>},
    {"mayfly_tenant_tasks_refused_total", Type::counter, "user tenant",
     "Submissions that the core refused.", ofTenants<&Tenant::refused>},
    {"mayfly_tenant_tasks_ended_total", Type::counter, "user tenant outcome",
     "Tasks with a result.", tenantsEnded},
    {"mayfly_tenant_cpu_seconds_total", Type::counter, "user tenant",
     "User and system time of ended tasks.", cpuOf<&Snapshot::tenants>},
    {"mayfly_tenant_tasks", Type::gauge, "user tenant state", "Tasks now: queued, running.",
     tenantsNow},
    {"mayfly_tenant_start_seconds", Type::histogram, "user tenant",
     "From a task's acceptance to its first instruction.", timesOfTenants<&Tenant::start>},
    {"mayfly_tenant_whole_seconds", Type::histogram, "user tenant",
     "From a task's acceptance to its receipt.", timesOfTenants<&Tenant::whole>},
};

}  // namespace

std::span<const Family> taskFamilies() { return kTaskFamilies; }

}  // namespace mayfly::metrics
