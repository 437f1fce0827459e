// HTTP: connections, limits, routes, shutdown.
#ifndef LIT_SERVICE_SERVER_H_
#define LIT_SERVICE_SERVER_H_

#include "metrics.h"
#include "models.h"
#include "options.h"

namespace lit_service {

// Listens, prints the address, and answers until SIGTERM, SIGINT or SIGHUP; then finishes what was accepted. False if
// --drain-timeout-s was not enough for that. Throws std::runtime_error (one sentence) when it cannot listen.
bool serve(const Options& options, Models& models, Metrics& metrics);

}  // namespace lit_service

#endif  // LIT_SERVICE_SERVER_H_
