#include "web/route.h"

#include <algorithm>
#include <utility>

#include "web/connection.h"

namespace mayfly::web {

namespace {

constexpr size_t kParamBytesMax = 256;

int digitOf(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::optional<std::string> decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i] == '+' ? ' ' : text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? digitOf(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? digitOf(text[i + 2]) : -1;
    if (high < 0 || low < 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

}  // namespace

std::optional<std::string> Request::param(std::string_view name) const {
  std::string_view rest = query;
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(pair.size() + 1, rest.size()));
    const size_t equals = std::min(pair.find('='), pair.size());
    if (pair.substr(0, equals) != name) continue;
    const std::string_view value = pair.substr(std::min(equals + 1, pair.size()));
    if (value.size() > kParamBytesMax) return std::nullopt;
    return decoded(value);
  }
  return std::nullopt;
}

// A weight of 0 refuses it; other weights do not matter to us.
bool Request::accepts(std::string_view encoding) const {
  std::string_view rest = accept_encoding;
  while (!rest.empty()) {
    std::string_view one = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(one.size() + 1, rest.size()));
    one.remove_prefix(std::min(one.find_first_not_of(' '), one.size()));
    const std::string_view word = one.substr(0, one.find_first_of("; "));
    if (word == encoding)
      return one.find("q=0") == std::string_view::npos ||
             one.find("q=0.") != std::string_view::npos;
  }
  return false;
}

Response text(unsigned status, std::string body) {
  Response r;
  r.status = status;
  r.body = std::make_shared<const std::string>(std::move(body));
  return r;
}

Response json(std::string body, unsigned status) {
  Response r = text(status, std::move(body));
  r.type = "application/json";
  return r;
}

std::shared_ptr<const std::string> event(std::string_view type, std::string_view data,
                                         std::string_view id) {
  std::string out;
  const auto line = [&out](std::string_view field, std::string_view value) {
    out.append(field).append(": ");
    for (char c : value)
      if (c != '\r' && c != '\n') out += c;
    out += '\n';
  };
  if (!type.empty()) line("event", type);
  if (!id.empty()) line("id", id);
  for (;;) {
    const size_t end = std::min(data.find('\n'), data.size());
    line("data", data.substr(0, end));
    if (end == data.size()) break;
    data.remove_prefix(end + 1);
  }
  return std::make_shared<const std::string>(out + "\n");
}

// --- routes ---------------------------------------------------------------------------------

void Router::get(std::string path, Handler handler, Access access) {
  entries_.insert_or_assign(std::move(path), Entry{std::move(handler), access});
}

Router::Found Router::find(std::string_view path) const {
  const auto found = [](const Entry& e) { return Found{&e.handler, e.access}; };
  if (const auto exact = entries_.find(path); exact != entries_.end()) return found(exact->second);
  for (size_t slash = path.rfind('/'); slash != std::string_view::npos && slash > 0;
       slash = path.rfind('/', slash - 1)) {
    const auto below = entries_.find(path.substr(0, slash + 1));
    if (below != entries_.end()) return found(below->second);
  }
  return {};
}

// --- replies and streams ----------------------------------------------------------------------

Reply::~Reply() {
  if (connection_) connection_->answer(text(500, "the request got no answer\n"));
}

void Reply::send(Response response) {
  if (const auto to = std::exchange(connection_, nullptr)) to->answer(std::move(response));
}

std::shared_ptr<EventStream> Reply::events() {
  const auto to = std::exchange(connection_, nullptr);
  auto stream = std::make_shared<EventStream>(std::weak_ptr<Connection>(to));
  if (to) to->beginStream();
  return stream;
}

EventStream::~EventStream() {
  if (const auto to = connection_.lock()) to->endStream();
}

bool EventStream::send(std::shared_ptr<const std::string> block) {
  const auto to = connection_.lock();
  return to && to->push(std::move(block));
}

bool EventStream::alive() const {
  const auto to = connection_.lock();
  return to && to->isOpen();
}

size_t EventStream::unsent() const {
  const auto to = connection_.lock();
  return to ? to->unsentBlocks() : 0;
}

void Channel::publish(const std::shared_ptr<const std::string>& block) {
  std::erase_if(listeners_, [&](const std::shared_ptr<EventStream>& one) {
    if (!one->alive()) return true;
    return one->unsent() == 0 && !one->send(block);
  });
}

size_t Channel::size() {
  std::erase_if(listeners_, [](const auto& one) { return !one->alive(); });
  return listeners_.size();
}

}  // namespace mayfly::web
