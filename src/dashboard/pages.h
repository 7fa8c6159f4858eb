// The routes of the dashboard: the built-in page, its messages one at a time, and the same live.
//
//   /              the page, with its styles and scripts; in the program, read from no file
//   /api/v1/now    one message; ?rows=N: with so many rows of the past
//   /api/v1/live   server-sent events: `state` with the whole past, then `update` each second
//
// The page itself says nothing, so it needs no token; the messages do.
//
// Layer: dashboard. HTTP thread.
#pragma once

#include <memory>

#include "metrics/board.h"
#include "web/route.h"
#include "web/server.h"

namespace mayfly::dashboard {

void addPages(web::Server& server, web::Router& router, std::shared_ptr<metrics::Board> board);

}  // namespace mayfly::dashboard
