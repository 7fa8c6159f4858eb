// Grants and their narrowing, quotas, parameters of statements, the journal's decisions, `GET /`.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "broker/describe.h"
#include "broker/journal_key.h"
#include "broker/limits.h"
#include "broker/narrow.h"
#include "broker/sql_params.h"
#include "broker_policy.h"

namespace mayfly::broker {
namespace {

using ::testing::HasSubstr;
constexpr uint64_t kSecond = 1'000'000'000;

std::string narrowingError(const std::string& action, const std::string& narrowing,
                           const Applicant& who = {1000, "red"}) {
  auto grant = makeGrant(testPolicy(), who, action, narrowing);
  return grant ? "(granted)"
               : std::string(base::name(grant.error().code)) + ": " + grant.error().message;
}

TEST(Narrowing, ItTakesAwayFromThePolicysBounds) {
  const Grant grant = grantOf("api", "calls=2,parallel=1,calls_per_minute=30,bytes=64");
  EXPECT_EQ(grant.quota.calls, 2u);
  EXPECT_EQ(grant.quota.parallel, 1u);
  EXPECT_EQ(grant.quota.calls_per_minute, 30u);
  EXPECT_EQ(grant.quota.bytes, 64u);
  EXPECT_EQ(grantOf("api").quota.calls, 3u);
  EXPECT_EQ(grantOf("orders", "rows=10,param.state=open").narrowing.rows, 10u);
  EXPECT_EQ(grantOf("upload", "time=1m").narrowing.time_ms, 60'000u);
  EXPECT_EQ(grantOf("pypi", "hosts=files.pythonhosted.org").narrowing.hosts[0],
            "files.pythonhosted.org:443");
}

TEST(Narrowing, WhatWidensOrCannotBeReadIsRefusedInWords) {
  const struct {
    const char *action, *narrowing, *error;
  } all[] = {
      {"api", "calls=4", "cannot be widened: calls=4 is more than the policy allows, which is 3"},
      {"api", "calls=0", "the least value is 1"},
      {"api", "calls=-1", "cannot be narrowed by 'calls'"},
      {"api", "calls=1|2", "it takes one value"},
      {"api", "calls=1,calls=1", "it is there twice"},
      {"api", "calls", "a part is KEY=VALUE"},
      {"api", "=1", "a part is KEY=VALUE"},
      {"api", "calls=", "a value is empty"},
      {"api", "methods=GET|", "a value is empty"},
      {"api", ",calls=1", "a part is KEY=VALUE"},
      {"api", "calls=1,", "a part is missing"},
      {"api", "methods=DELETE", "cannot be widened: methods=DELETE"},
      {"api", "methods=get", "cannot be widened: methods=get"},
      {"api", "paths=/**", "cannot be widened: paths=/**"},
      {"api", "paths=/models/a|/admin", "cannot be widened: paths=/admin"},
      {"api", "paths=/models/**", "cannot be widened"},
      {"api", "paths=models", "is no pattern"},
      {"api", "bytes=1GiB", "cannot be widened: bytes=1GiB"},
      {"api", "rows=1",
       "allowed here are calls, bytes, calls_per_minute, parallel, methods, paths"},
      {"api", "hosts=x.org", "allowed here are"},
      {"orders", "methods=GET", "allowed here are calls"},
      {"orders", "rows=100000", "cannot be widened: rows=100000"},
      {"orders", "param.none=1", "has no such parameter"},
      {"orders", "param.tenant=blue", "the policy fixes this parameter itself"},
      {"orders", "param.id=1000", "'id' is greater than 100"},
      {"orders", "param.state=broken", "is none of the allowed values"},
      {"upload", "time=1h", "cannot be widened: time=1h"},
      {"upload", "time=5", "cannot be narrowed by 'time'"},
      {"pypi", "hosts=evil.org", "cannot be widened: hosts=evil.org"},
      {"pypi", "hosts=pypi.org:8443", "cannot be widened"},
  };
  for (const auto& each : all) {
    const std::string error = narrowingError(each.action, each.narrowing);
    EXPECT_THAT(error, HasSubstr(each.error)) << each.narrowing;
    EXPECT_THAT(error, HasSubstr("invalidArgument: ")) << each.narrowing;
  }
  EXPECT_THAT(narrowingError("api", std::string(3'000, 'x')), HasSubstr("it is longer than"));
}

TEST(Grants, OnlyNamedUsersAndTenantsGetThem) {
  EXPECT_THAT(narrowingError("none", ""), HasSubstr("notFound: "));
  EXPECT_THAT(narrowingError("key", ""), HasSubstr("notFound: ")) << "a secret is no action";
  EXPECT_EQ(narrowingError("maps", "", {1000, "red"}), "(granted)");
  EXPECT_EQ(narrowingError("maps", "", {0, "red"}), "(granted)") << "root";
  EXPECT_THAT(narrowingError("maps", "", {1001, "red"}), HasSubstr("permissionDenied: user 1001"));
  EXPECT_THAT(narrowingError("maps", "", {1000, "blue"}), HasSubstr("permissionDenied: "));
  EXPECT_THAT(narrowingError("maps", "", {1000, ""}), HasSubstr("permissionDenied: "));
  EXPECT_THAT(narrowingError("maps", "", {0, "*"}), HasSubstr("permissionDenied: "));
  EXPECT_EQ(narrowingError("api", "", {1, ""}), "(granted)");
  EXPECT_THAT(makeGrants(testPolicy(), {1, ""}, {{"api", ""}, {"api", "calls=1"}}).error().message,
              HasSubstr("twice"));
  std::vector<std::pair<std::string, std::string>> many(kGrantsMax + 1, {"api", ""});
  EXPECT_THAT(makeGrants(testPolicy(), {1, ""}, many).error().message, HasSubstr("64 are allowed"));
}

TEST(Grants, TheTasksVariablesComeFromItsGrants) {
  auto env = environmentOf({grantOf("api"), grantOf("pypi")}, "http://127.0.0.1");
  ASSERT_TRUE(env) << env.error().message;
  const config::Pairs want = {{"API_KEY", "held by the broker"},
                              {"API_URL", "http://127.0.0.1/cap/api"},
                              {"HTTP_PROXY", "http://127.0.0.1"},
                              {"MAYFLY_BROKER", "http://127.0.0.1"}};
  EXPECT_EQ(*env, want);
  auto clash = environmentOf({grantOf("api"), grantOf("maps")}, "http://127.0.0.1");
  ASSERT_FALSE(clash);
  EXPECT_THAT(clash.error().message, HasSubstr("'api' and 'maps' set the variable API_URL"));
}

TEST(TokenBucket, FillsSteadilyAndBearsADebt) {
  TokenBucket bucket(60, 2, 0);
  EXPECT_EQ(bucket.take(0), 0u);
  EXPECT_EQ(bucket.take(0), 0u);
  EXPECT_NEAR(bucket.take(0), kSecond, 2);
  EXPECT_NEAR(bucket.take(kSecond / 2), kSecond / 2, 2);
  EXPECT_EQ(bucket.take(kSecond), 0u);
  EXPECT_NEAR(bucket.take(kSecond / 4), kSecond, 2) << "a clock that goes back fills nothing";
  EXPECT_NEAR(bucket.spend(3, kSecond), 3 * kSecond, 2);
  EXPECT_NEAR(bucket.take(3 * kSecond), 2 * kSecond, 2);
  EXPECT_FALSE(bucket.full(5 * kSecond));
  EXPECT_TRUE(bucket.full(100 * kSecond));
  TokenBucket slow(1, 1, 0);
  EXPECT_GT(slow.spend(UINT64_MAX, 0), 1'000'000'000 * kSecond) << "a debt of more than 64 bits";
}

std::string ruleOf(const Decision<Limits::Call>& call) {
  return call ? "" : std::to_string(call.error().http_status) + " " + call.error().rule;
}

TEST(Limits, EachQuotaHasItsRefusal) {
  const Grant api = grantOf("api"), pypi = grantOf("pypi");
  Limits limits(api.policy->bounds);
  auto begin = [&](uint64_t session, uint32_t uid, const char* tenant, uint64_t now,
                   const Grant& grant) {
    return limits.begin({session, uid, tenant}, grant, now);
  };
  auto a = begin(1, 5, "red", 0, api), b = begin(1, 5, "red", 0, api);
  ASSERT_TRUE(a && b);
  auto c = begin(1, 5, "red", 0, api);
  EXPECT_EQ(ruleOf(c), "429 http.api.task.parallel");
  EXPECT_GT(c.error().retry_after_ms, 0u);
  limits.end(*a);
  limits.end(*b);
  c = begin(1, 5, "red", 0, api);
  EXPECT_EQ(ruleOf(c), "429 http.api.task.calls_per_minute");
  EXPECT_NEAR(c.error().retry_after_ms, 1'000, 2);
  c = begin(1, 5, "red", 2 * kSecond, api);
  ASSERT_TRUE(c);
  limits.end(*c);
  c = begin(1, 5, "red", 60 * kSecond, api);
  EXPECT_EQ(ruleOf(c), "429 http.api.task.calls");
  EXPECT_EQ(c.error().retry_after_ms, 0u) << "a repeat would be refused again";

  // Other tasks of the same tenant, then another user's, then another tenant's.
  const uint64_t later = 100 * kSecond;
  std::vector<Limits::Call> held;
  for (uint64_t session : {2, 3, 4}) held.push_back(*begin(session, 5, "red", later, api));
  EXPECT_EQ(ruleOf(begin(5, 5, "red", later, api)), "429 http.api.tenant.parallel");
  held.push_back(*begin(5, 6, "red", later, api));
  EXPECT_EQ(ruleOf(begin(6, 5, "blue", later, api)), "503 http.api.all.parallel");
  for (int i = 0; i < 3; ++i) held.push_back(*begin(7, 5, "blue", later, pypi));
  EXPECT_EQ(ruleOf(begin(8, 5, "blue", later, pypi)), "429 bounds.calls_per_user_max");
  held.push_back(*begin(8, 6, "", later, pypi));
  EXPECT_EQ(ruleOf(begin(9, 7, "blue", later, pypi)), "503 bounds.calls_max");
  for (const auto& call : held) limits.end(call);
  EXPECT_EQ(limits.inFlight(), 0u);
}

TEST(Limits, TheRatesOfTenantAndActionAreShared) {
  const Grant api = grantOf("api");
  Limits limits(api.policy->bounds);
  auto call = [&](uint64_t session, const char* tenant) {
    auto made = limits.begin({session, 5, tenant}, api, 0);
    if (made) limits.end(*made);
    return ruleOf(made);
  };
  for (uint64_t session = 1; session <= 5; ++session) EXPECT_EQ(call(session, "red"), "");
  EXPECT_EQ(call(6, "red"), "429 http.api.tenant.calls_per_minute");
  for (uint64_t session = 7; session <= 9; ++session) EXPECT_EQ(call(session, "blue"), "");
  EXPECT_EQ(call(10, "green"), "429 http.api.all.calls_per_minute");
}

TEST(Limits, ATaskHasABoundOverAllItsActions) {
  const Grant api = grantOf("api"), pypi = grantOf("pypi"), git = grantOf("git");
  Limits limits(api.policy->bounds);
  std::vector<Limits::Call> held;
  for (const Grant* grant : {&api, &api, &pypi, &git})
    held.push_back(*limits.begin({1, 5, ""}, *grant, 0));
  EXPECT_EQ(ruleOf(limits.begin({1, 5, ""}, pypi, 0)), "429 bounds.calls_per_task_max");
  EXPECT_EQ(ruleOf(limits.beginTool({1, 5, ""}, {}, 0)), "429 bounds.calls_per_task_max");
  EXPECT_TRUE(limits.begin({2, 5, ""}, pypi, 0)) << "another task";
}

TEST(Limits, ARefusedCallTakesNothing) {
  const Grant api = grantOf("api");
  Limits limits(api.policy->bounds);
  auto a = limits.begin({1, 5, ""}, api, 0);
  auto b = limits.begin({1, 5, ""}, api, 0);
  for (int i = 0; i < 50; ++i) EXPECT_FALSE(limits.begin({1, 5, ""}, api, 0));
  limits.end(*a);
  limits.end(*b);
  EXPECT_TRUE(limits.begin({1, 5, ""}, api, 10 * kSecond)) << "the third of three calls";
}

TEST(Limits, BytesDelayTheNextAndEndTheTasksUse) {
  const Grant api = grantOf("api");
  Limits limits(api.policy->bounds);
  auto call = limits.begin({1, 5, ""}, api, 0);
  ASSERT_TRUE(call);
  EXPECT_EQ(limits.spend(*call, 50, 0), 0u);
  // The tenant has 100 bytes a second.
  EXPECT_EQ(limits.spend(*call, 50, 0), 0u);
  auto over = limits.spend(*call, 1, 0);
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().rule, "http.api.task.bytes");
  EXPECT_EQ(over.error().http_status, 429);
  limits.end(*call);
  EXPECT_EQ(ruleOf(limits.begin({1, 5, ""}, api, kSecond)), "429 http.api.task.bytes");
  auto next = limits.begin({2, 5, ""}, api, 0);
  EXPECT_NEAR(*limits.spend(*next, 99, 0), kSecond, 2) << "the tenant's debt of 100 bytes";
}

TEST(Limits, WhatIsHeldIsBounded) {
  const Grant api = grantOf("api");
  Limits limits(api.policy->bounds, 10);
  for (uint64_t i = 0; i < 100; ++i) {
    auto call = limits.begin({i + 1, 5, "t" + std::to_string(i)}, api, i * 100 * kSecond);
    ASSERT_TRUE(call) << i << " " << call.error().rule;
    limits.end(*call);
    limits.forget(i + 1);
    EXPECT_LE(limits.held(), 10u);
  }
  auto first = limits.begin({1, 5, "red"}, api, 1'000'000 * kSecond);
  ASSERT_TRUE(first);
  size_t refused = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    auto call = limits.begin({1'000 + i, static_cast<uint32_t>(i), ""}, api, 1'000'000 * kSecond);
    if (call) limits.end(*call);
    refused += !call;
    limits.forget(1'000 + i);
  }
  EXPECT_GT(refused, 80u) << "uses that are not full are not dropped";
  limits.end(*first);
  limits.forget(1);
  EXPECT_LE(limits.held(), 10u);
}

TEST(Limits, AUserWhoNamesManyTenantsLeavesOthersRoom) {
  const Grant api = grantOf("api");
  Limits limits(api.policy->bounds, 400);
  uint64_t session = 1;
  // The action's own rate refuses most; the tenant's use is held all the same.
  const auto ask = [&](uint32_t uid, const std::string& tenant) {
    auto call = limits.begin({session, uid, tenant}, api, 0);
    if (call) limits.end(*call);
    limits.forget(session++);
    return ruleOf(call);
  };
  const auto tenantsOf = [&](uint32_t uid, int asked) {
    const size_t before = limits.held();
    for (int i = 0; i < asked; ++i) ask(uid, "t" + std::to_string(i));
    return limits.held() - before;
  };
  EXPECT_LE(tenantsOf(1, 1'000), 101u) << "a quarter, and the action's own";
  EXPECT_EQ(ask(1, "one more"), "503 bounds");
  EXPECT_NE(ask(1, "t0"), "503 bounds") << "a known one needs no room";
  for (uint32_t uid : {2, 3, 4, 5}) EXPECT_LE(tenantsOf(uid, 1'000), 100u);
  EXPECT_EQ(tenantsOf(6, 10), 10u) << "the last quarter is for those who have few";
  EXPECT_EQ(tenantsOf(7, 1'000), 16u);
  EXPECT_LE(limits.held(), 400u);
  // A use that equals a new one goes, and is no more counted.
  auto late = limits.begin({session, 1, "one more"}, api, 1'000 * kSecond);
  ASSERT_TRUE(late) << late.error().rule;
  EXPECT_LE(limits.held(), 3u);
}

TEST(Limits, PastCallsOfTheJournalCount) {
  const Grant api = grantOf("api");
  Limits limits(api.policy->bounds);
  limits.addPastCalls(1, api, 3, 0);
  EXPECT_EQ(ruleOf(limits.begin({1, 5, ""}, api, 0)), "429 http.api.task.calls");
}

std::string boundOf(const std::vector<std::pair<std::string, ParamValue>>& given,
                    const std::string& narrowing = "", const SqlSubject& who = {"red", 1000, 7}) {
  auto bound = checkParams(grantOf("orders", narrowing), who, given);
  if (!bound)
    return std::to_string(bound.error().http_status) + " " + bound.error().rule + ": " +
           bound.error().message;
  std::string out;
  for (const auto& each : *bound) out += (out.empty() ? "" : " ") + each.value_or("NULL");
  return out;
}

TEST(SqlParams, TypedValuesBecomeTextsAndFixedOnesAreTheBrokers) {
  using Given = std::vector<std::pair<std::string, ParamValue>>;
  const std::string open = "open";
  EXPECT_EQ(boundOf({{"id", int64_t{5}}, {"state", open}}), "5 red NULL open NULL NULL NULL");
  EXPECT_EQ(boundOf({{"id", std::string("5")}, {"state", open}, {"rate", 1.5}, {"deep", true}}),
            "5 red 1.5 open NULL NULL true");
  EXPECT_EQ(boundOf({{"id", int64_t{5}},
                     {"state", open},
                     {"ids", std::vector<int64_t>{1, 9}},
                     {"names", std::vector<std::string>{"a\"b", "c\\", ""}}}),
            "5 red NULL open {1,9} {\"a\\\"b\",\"c\\\\\",\"\"} NULL");
  EXPECT_EQ(boundOf(Given{{"id", int64_t{5}}}, "param.state=closed"),
            "5 red NULL closed NULL NULL NULL");
  EXPECT_EQ(boundOf({{"id", int64_t{5}},
                     {"state", open},
                     {"ids", std::vector<int64_t>{}},
                     {"names", std::vector<int64_t>{}}}),
            "5 red NULL open {} {} NULL");
}

TEST(SqlParams, EachMistakeHasItsRefusal) {
  const std::pair<std::string, ParamValue> id{"id", int64_t{5}},
      state{"state", std::string("open")};
  auto with = [&](const char* name, ParamValue value) {
    return boundOf({id, state, {name, std::move(value)}});
  };
  EXPECT_THAT(boundOf({state}),
              HasSubstr("400 sql.orders.params.id: the parameter 'id' is missing"));
  EXPECT_THAT(boundOf({{"id", std::monostate()}, state}), HasSubstr("must not be null"));
  for (ParamValue wrong :
       {ParamValue(std::string("5x")), ParamValue(std::string("")),
        ParamValue(std::string("1; drop table x")), ParamValue(true), ParamValue(5.5),
        ParamValue(std::vector<int64_t>{5}), ParamValue(std::string("99999999999999999999"))})
    EXPECT_THAT(boundOf({{"id", wrong}, state}), HasSubstr("must be of type integer"));
  EXPECT_THAT(boundOf({{"id", int64_t{0}}, state}), HasSubstr("is less than 1"));
  EXPECT_THAT(boundOf({{"id", std::string("101")}, state}), HasSubstr("is greater than 100"));
  EXPECT_THAT(with("rate", 0.25), HasSubstr("is less than 0.5"));
  EXPECT_THAT(with("rate", 3.0), HasSubstr("is greater than 2"));
  EXPECT_THAT(with("rate", std::string("nan")), HasSubstr("400 sql.orders.params.rate"));
  EXPECT_THAT(boundOf({id, {"state", std::string("broken")}}), HasSubstr("none of the allowed"));
  EXPECT_THAT(with("ids", std::vector<int64_t>{1, 2, 3, 4}), HasSubstr("more than 3 items"));
  EXPECT_THAT(with("ids", std::vector<int64_t>{10}), HasSubstr("is greater than 9"));
  EXPECT_THAT(with("names", std::vector<std::string>{"12345"}), HasSubstr("longer than 4 bytes"));
  EXPECT_THAT(with("names", std::vector<std::string>{std::string("a\0", 2)}), HasSubstr("NUL"));
  EXPECT_THAT(with("names", std::vector<std::string>{"\xff"}), HasSubstr("UTF-8"));
  EXPECT_THAT(with("deep", std::string("yes")), HasSubstr("must be of type boolean"));
  EXPECT_THAT(with("other", int64_t{1}), HasSubstr("there is no parameter 'other'"));
  EXPECT_THAT(with("id", int64_t{1}), HasSubstr("is there twice"));
  EXPECT_THAT(with("tenant", std::string("blue")), HasSubstr("403 sql.orders.params.tenant: "));
  EXPECT_THAT(boundOf({id, state}, "param.state=closed"), HasSubstr("is fixed for this task"));
  EXPECT_THAT(boundOf({id, state}, "", {"", 1000, 7}), HasSubstr("is the task's tenant"));
}

TEST(Journal, AKeyIsOfTheTaskItsStepAndAllOfTheRequest) {
  auto key = [](uint64_t task, const char* step, const char* action, const char* method,
                const char* target, std::vector<std::string_view> body) {
    JournalHash hash(task, step, action, method, target);
    for (std::string_view part : body) hash.body(part);
    return hash.finish();
  };
  const JournalKey one = key(1, "s", "api", "POST", "/a", {"body"});
  EXPECT_EQ(one, key(1, "s", "api", "POST", "/a", {"bo", "", "dy"}));
  for (const JournalKey& other :
       {key(2, "s", "api", "POST", "/a", {"body"}), key(1, "t", "api", "POST", "/a", {"body"}),
        key(1, "s", "apj", "POST", "/a", {"body"}), key(1, "s", "api", "PUT", "/a", {"body"}),
        key(1, "s", "api", "POST", "/b", {"body"}), key(1, "s", "api", "POST", "/a", {"bodz"}),
        key(1, "sa", "pi", "POST", "/a", {"body"}), key(1, "s", "api", "POST", "/ab", {"ody"})})
    EXPECT_NE(one, other);
}

TEST(Journal, AWriteIsDoneOnceOrItsOutcomeIsUnknown) {
  auto said = [](std::optional<WriteRecord> record, uint32_t epoch, uint32_t newest,
                 bool in_flight) -> std::string {
    auto verdict = decideWrite("http.api", record, epoch, newest, in_flight);
    if (!verdict)
      return std::to_string(verdict.error().http_status) + ": " + verdict.error().message;
    return *verdict == WriteVerdict::run ? "run" : "recorded";
  };
  const WriteRecord begun{1, WriteState::begun}, done{1, WriteState::done};
  EXPECT_EQ(said(std::nullopt, 1, 1, false), "run");
  EXPECT_EQ(said(done, 1, 1, false), "recorded");
  EXPECT_EQ(said(done, 2, 2, false), "recorded") << "of an earlier vault";
  EXPECT_THAT(said(begun, 1, 1, true), HasSubstr("409: the same write is being done"));
  EXPECT_THAT(said(begun, 1, 1, false), HasSubstr("outcome is unknown"));
  EXPECT_THAT(said(begun, 2, 2, false), HasSubstr("outcome is unknown"));
  EXPECT_THAT(said(std::nullopt, 1, 2, false), HasSubstr("a newer session"));
  EXPECT_THAT(said(WriteRecord{2, WriteState::done}, 1, 1, false), HasSubstr("a newer session"));
}

TEST(Describe, ATaskSeesWhatItHasAndNoSecretsName) {
  const std::string text = describe(
      {7, 60'000, "http://127.0.0.1"},
      {grantOf("api", "calls=2,methods=GET"), grantOf("orders", "param.state=open"),
       grantOf("upload"), grantOf("pypi")},
      *describeTools("http://127.0.0.1",
                     {{"lookup", "finds it", R"({"type":"object"})"}, {"raw", "\xff", "no json"}}));
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["task"], 7);
  ASSERT_EQ(json["grants"].size(), 4u);
  EXPECT_EQ(json["grants"][0]["url"], "http://127.0.0.1/cap/api");
  EXPECT_EQ(json["grants"][0]["methods"], nlohmann::json({"GET"}));
  EXPECT_EQ(json["grants"][0]["bounds"]["calls"], 2);
  EXPECT_EQ(json["grants"][1]["url"], "http://127.0.0.1/sql/orders");
  std::string params;
  for (const auto& each : json["grants"][1]["params"])
    params += each["name"].get<std::string>() + " ";
  EXPECT_EQ(params, "id rate ids names deep ") << "without what the task cannot give";
  EXPECT_EQ(json["tools"][0]["schema"]["type"], "object");
  EXPECT_FALSE(json["tools"][1].contains("schema"));
  for (const char* hidden :
       {"api.example.org", "db.example.org", "reader", "/etc/key", "X-Api-Key"})
    EXPECT_EQ(text.find(hidden), std::string::npos) << hidden;
}

// A client's schema is embedded in what each `GET /` of its task is answered.
TEST(Describe, ASchemaCannotMakeTheAnswerLarge) {
  const std::string deep = std::string(8'000, '[') + std::string(8'000, ']');
  auto left_out = describeTools("http://127.0.0.1", {{"deep", "", deep}});
  ASSERT_TRUE(left_out);
  EXPECT_FALSE(nlohmann::json::parse(*left_out)[0].contains("schema"));
  std::string wide = "[1";
  for (int i = 0; i < 8'000; ++i) wide += ",1";
  const std::vector<ToolText> one{{"wide", "", wide + "]"}};
  auto embedded = describeTools("http://127.0.0.1", one);
  ASSERT_TRUE(embedded);
  EXPECT_LT(embedded->size(), 2 * wide.size());
  EXPECT_LT(describe({7, 1, "http://127.0.0.1"}, {}, *embedded).size(), 2 * wide.size());
  const std::vector<ToolText> many(128, one[0]);
  EXPECT_FALSE(describeTools("http://127.0.0.1", many));
  // A short number may be long in another spelling.
  std::string numbers = "[9e15";
  for (int i = 0; i < 2'000; ++i) numbers += ",9e15";
  EXPECT_FALSE(
      describeTools("http://127.0.0.1", std::vector<ToolText>(100, {"n", "", numbers + "]"})));
}

TEST(HeldBytes, NobodyFillsThePoolAlone) {
  HeldBytes held;
  constexpr uint64_t kMax = 1'200;
  EXPECT_TRUE(held.take(1, 5, 400, kMax)) << "a third of it";
  EXPECT_FALSE(held.take(1, 5, 1, kMax)) << "a task leaves twice as much free as it holds";
  EXPECT_TRUE(held.take(2, 5, 200, kMax));
  EXPECT_FALSE(held.take(2, 5, 1, kMax)) << "a user leaves as much free as his tasks hold";
  EXPECT_TRUE(held.take(3, 6, 200, kMax)) << "another user has of the rest";
  EXPECT_FALSE(held.take(3, 6, 1, kMax));
  held.give(1, 5, 400);
  EXPECT_TRUE(held.take(3, 6, 60, kMax));
  held.give(2, 5, 200);
  held.give(3, 6, 260);
  EXPECT_EQ(held.all(), 0u);
  EXPECT_TRUE(held.take(4, 5, 400, kMax));
}

}  // namespace
}  // namespace mayfly::broker
