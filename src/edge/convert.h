// Converts base's values to and from the schema's structs, and KJ's exceptions to errors.
//
// Layer: edge. Pure.
#pragma once

#include <capnp/blob.h>
#include <kj/exception.h>
#include <mayfly/mayfly.capnp.h>

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/task.h"

namespace mayfly::edge {

inline std::string_view view(capnp::Text::Reader text) { return {text.begin(), text.size()}; }
inline std::string_view view(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}
inline std::string str(capnp::Text::Reader text) { return std::string(view(text)); }
inline std::string str(capnp::Data::Reader data) { return std::string(view(data)); }
inline kj::StringPtr text(const std::string& s) { return kj::StringPtr(s.c_str(), s.size()); }
inline capnp::Data::Reader data(std::string_view s) {
  return {reinterpret_cast<const kj::byte*>(s.data()), s.size()};
}

void put(schema::Error::Builder out, const base::Error& error);
// The error in an answer, or ok.
base::Status get(schema::Error::Reader in);

void put(schema::Limits::Builder out, const base::Limits& limits);
void put(schema::Usage::Builder out, const base::Usage& usage);
void put(schema::Phases::Builder out, const base::Phases& phases);
void put(schema::Receipt::Builder out, const base::Receipt& receipt);
base::Limits get(schema::Limits::Reader in);
base::Usage get(schema::Usage::Reader in);
base::Phases get(schema::Phases::Reader in);
base::Receipt get(schema::Receipt::Reader in);
schema::Verdict put(base::Verdict verdict);
base::Verdict get(schema::Verdict verdict);

// The error for an exception of KJ: a lost connection, an overload, an unknown call or a fault.
base::Error errorOf(const kj::Exception& exception);

}  // namespace mayfly::edge
