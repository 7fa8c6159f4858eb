#include "front/route.h"

#include <algorithm>

#include "base/text.h"

namespace mayfly::front {

namespace {

using Kind = Route::Kind;

constexpr size_t kNameBytesMax = 64;
constexpr size_t kHostBytesMax = 253;
constexpr size_t kQueryParamsMax = 64;

bool isName(std::string_view text) {
  return !text.empty() && text.size() <= kNameBytesMax && text != "." && text != ".." &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '_' || c == '.';
         });
}

tl::unexpected<Refusal> noSuchPath() {
  return refuse(
      {404, base::Code::notFound, "the broker has no such path",
       "GET / says what this task has: /cap/NAME/..., /sql/NAME, /mint/NAME, /tools/NAME.",
       "front.path", 0, false});
}
tl::unexpected<Refusal> badRequest(std::string message, std::string advice = {}) {
  return refuse({400, base::Code::invalidArgument, std::move(message), std::move(advice),
                 "front.target", 0, false});
}

int hexOf(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

Passed readQuery(std::string_view query, Route& route) {
  while (!query.empty()) {
    const size_t end = query.find('&');
    const std::string_view pair = query.substr(0, end);
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
    if (pair.empty()) continue;
    const size_t equals = pair.find('=');
    auto name = decoded(pair.substr(0, equals));
    auto value =
        decoded(equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1));
    if (!name || !value)
      return badRequest("the query cannot be decoded", "Percent-encode its UTF-8, without NUL.");
    if (*name == "format") {
      if (*value != "csv" && *value != "json") return badRequest("`format` is `csv` or `json`");
      route.csv = *value == "csv";
    } else {
      const auto same = [&](const auto& other) { return other.first == *name; };
      if (std::any_of(route.query.begin(), route.query.end(), same))
        return badRequest("parameter '" + base::printable(*name, 64) + "' is there twice",
                          "Send lists as JSON, by POST.");
      if (route.query.size() >= kQueryParamsMax) return badRequest("too many parameters");
      route.query.emplace_back(std::move(*name), std::move(*value));
    }
  }
  return base::Unit{};
}

bool wantsCsv(const Request& request) {
  const std::string* accept = request.field("accept");
  if (accept == nullptr) return false;
  const size_t at = accept->find("text/csv");
  return at != std::string::npos && accept->find("application/json") > at;
}

Checked<Route> allowed(const Request& request, Route route) {
  const std::string_view methods = methodsOf(route.kind);
  // A method's case counts; no method has a comma.
  if (methods.empty() ||
      (", " + std::string(methods) + ",").find(", " + request.method + ",") != std::string::npos)
    return route;
  return refuse({405, base::Code::invalidArgument,
                 "this path has no method " + base::printable(request.method, 32),
                 "Allowed: " + std::string(methods) + ".", "front.method", 0, false, methods});
}

Checked<Route> ofPath(const Request& request, std::string_view target) {
  const size_t mark = target.find('?');
  const std::string_view path = target.substr(0, mark);
  const std::string_view query =
      mark == std::string_view::npos ? std::string_view() : target.substr(mark + 1);
  Route route;
  if (path == "/") return allowed(request, route);
  if (path == "/tools" || path == "/tools/") {
    route.kind = Kind::tools;
    return allowed(request, route);
  }
  const size_t slash = path.find('/', 1);
  if (slash == std::string_view::npos) return noSuchPath();
  const std::string_view room = path.substr(1, slash - 1);
  std::string_view name = path.substr(slash + 1);
  if (room == "cap") {
    name = name.substr(0, name.find('/'));
    route.kind = Kind::cap;
    route.target = target.substr(slash + 1 + name.size());
    if (route.target.empty() || route.target[0] != '/') route.target.insert(0, "/");
  } else if (room == "sql") {
    route.kind = Kind::sql;
    route.csv = wantsCsv(request);
    auto sound = readQuery(query, route);
    if (!sound) return refuse(std::move(sound).error());
    if (!route.query.empty() && request.method == "POST")
      return badRequest("parameters in the query of a POST", "Send them in the JSON body.");
  } else if (room == "mint") {
    route.kind = Kind::mint;
  } else if (room == "tools") {
    route.kind = Kind::tool;
  } else {
    return noSuchPath();
  }
  if (!isName(name)) return noSuchPath();
  route.name = name;
  return allowed(request, std::move(route));
}

bool isOwnAuthority(std::string_view authority) {
  for (std::string_view own : {"127.0.0.1", "127.0.0.1:80", "localhost", "localhost:80"})
    if (sameWord(authority, own)) return true;
  return false;
}

// http://AUTHORITY/path
Checked<Route> ofAbsolute(const Request& request) {
  const std::string_view target = request.target;
  const size_t colon = target.find("://");
  if (!sameWord(target.substr(0, colon), "http"))
    return badRequest("the broker fetches `http://` only, and asks the upstream by https",
                      "For https:// use CONNECT, as HTTPS_PROXY makes programs do.");
  std::string_view rest = target.substr(colon + 3);
  const size_t end = rest.find_first_of("/?");
  const std::string_view authority = rest.substr(0, end);
  std::string path(end == std::string_view::npos ? std::string_view("/") : rest.substr(end));
  if (path[0] == '?') path.insert(0, "/");
  if (authority.empty() || authority.size() > kHostBytesMax + 6 ||
      authority.find_first_of("@[]%") != std::string_view::npos)
    return badRequest("the target names no host", "Write http://NAME[:PORT]/..., without a user.");
  if (const std::string* host = request.field("host");
      host != nullptr && !sameWord(*host, authority))
    return refuseFraming("Host is not the host of the target");
  if (isOwnAuthority(authority)) return ofPath(request, path);
  Route route;
  route.kind = Kind::proxy;
  route.host = authority;
  route.target = std::move(path);
  return route;
}

// CONNECT NAME:PORT
Checked<Route> ofConnect(const Request& request) {
  const std::string_view target = request.target;
  const size_t colon = target.rfind(':');
  const std::string_view host = target.substr(0, colon);
  const std::string_view port =
      colon == std::string_view::npos ? std::string_view() : target.substr(colon + 1);
  Route route;
  route.kind = Kind::tunnel;
  const bool digits =
      !port.empty() && port.size() <= 5 && port[0] != '0' &&
      std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
  const unsigned long number = digits ? std::stoul(std::string(port)) : 0;
  const bool letters = std::all_of(host.begin(), host.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_';
  });
  if (host.empty() || host.size() > kHostBytesMax || !letters || number == 0 || number > 65'535)
    return badRequest("CONNECT names no host and port", "Write CONNECT NAME:PORT.");
  if (request.body != Request::Body::none) return refuseFraming("CONNECT with a body");
  const std::string* named = request.field("host");
  if (named != nullptr && !named->empty() && !sameWord(*named, target) && !sameWord(*named, host))
    return refuseFraming("Host is not the host of the target");
  route.host = host;
  std::transform(route.host.begin(), route.host.end(), route.host.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  route.port = static_cast<uint16_t>(number);
  return route;
}

}  // namespace

std::string_view methodsOf(Route::Kind kind) {
  switch (kind) {
    case Kind::describe:
    case Kind::tools:
      return "GET, HEAD";
    case Kind::sql:
      return "GET, POST";
    case Kind::mint:
    case Kind::tool:
      return "POST";
    case Kind::cap:
    case Kind::proxy:
    case Kind::tunnel:
      return {};
  }
  return {};
}

std::optional<std::string> decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '+') {
      out += ' ';
    } else if (text[i] == '%') {
      if (i + 2 >= text.size()) return std::nullopt;
      const int high = hexOf(text[i + 1]), low = hexOf(text[i + 2]);
      if (high < 0 || low < 0 || (high == 0 && low == 0)) return std::nullopt;
      out += static_cast<char>(high * 16 + low);
      i += 2;
    } else {
      out += text[i];
    }
  }
  if (!base::isUtf8(out)) return std::nullopt;
  return out;
}

Checked<Route> routeOf(const Request& request) {
  if (request.method == "CONNECT") return ofConnect(request);
  if (request.target[0] == '/') return ofPath(request, request.target);
  if (request.target.find("://") != std::string::npos) return ofAbsolute(request);
  return badRequest("the target is neither a path nor a URL");
}

}  // namespace mayfly::front
