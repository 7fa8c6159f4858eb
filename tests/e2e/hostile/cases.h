// The attacks of hostile_client; each prints one JSON object a line.
#pragma once

#include <string>
#include <vector>

#include "hostile/raw.h"

namespace mayfly::hostile {

void say(const std::string& name, const Answer& answer);
void say(const std::string& name, const std::string& key, uint64_t value);
// Blocks until the test closes our standard input.
void awaitTest();

// submissions.cc: well-formed messages with wrong requests, all on one connection.
int submissions(const std::string& socket);
// wire.cc: messages that no encoder makes. Each has its own connection.
int wire_attacks(const std::string& socket);
// floods.cc
int calls(const std::string& socket, uint32_t count);
int bootstraps(const std::string& socket, uint32_t count);
int connections(const std::string& socket, uint32_t count);
int unread(const std::string& socket, uint32_t clients, uint32_t tasks);
int unread_answers(const std::string& socket, uint32_t clients, uint32_t calls);
int half_messages(const std::string& socket, uint32_t clients);
int promises(const std::string& socket, uint32_t clients);
int spools(const std::string& socket, uint32_t count);
int cancels(const std::string& socket, uint32_t seed, uint32_t ms);

}  // namespace mayfly::hostile
