// lit_service: files that lit-deploy exported, asked about pictures over HTTP.
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>

#include "log.h"
#include "metrics.h"
#include "models.h"
#include "options.h"
#include "server.h"

// Exit codes: 0 all that was accepted was answered, 1 something was not in time, 2 usage or environment.
int main(int count, char** arguments) {
  std::signal(SIGPIPE, SIG_IGN);  // whoever reads the log may go; the service stays
  try {
    const lit_service::Options options = lit_service::options_from(count, arguments);
    if (options.help) return std::fputs(lit_service::help_text().c_str(), stdout) < 0 ? 2 : 0;
    lit_service::Metrics metrics;
    lit_service::Models models(options, metrics);
    return lit_service::serve(options, models, metrics) ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", lit_service::printable(error.what()).c_str());
    return 2;
  }
}
