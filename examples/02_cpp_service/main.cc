// lit_service: a file that lit-deploy exported, asked about pictures over HTTP.
#include <csignal>
#include <cstdio>
#include <exception>
#include <string>

#include <lit_runtime.hpp>

#include "log.h"
#include "metrics.h"
#include "options.h"
#include "pipeline.h"
#include "server.h"

namespace {

lit_backend backend_of(const std::string& name) {
  if (name == "onnxruntime") return LIT_BACKEND_ONNXRUNTIME;
  if (name == "openvino") return LIT_BACKEND_OPENVINO;
  if (name == "tensorrt") return LIT_BACKEND_TENSORRT;
  return LIT_BACKEND_AUTO;
}

lit::Model open(const lit_service::Options& options) {
  lit::Options how;
  how.device = options.device == "cuda" ? LIT_CUDA : LIT_CPU;
  how.backend = backend_of(options.backend);
  how.threads = static_cast<int32_t>(options.threads);
  if (!options.precision_hint.empty()) how.precision_hint = options.precision_hint.c_str();
  return lit::Model(options.model, how);
}

}  // namespace

// Exit codes: 0 all that was accepted was answered, 1 something was not in time, 2 usage or environment.
int main(int count, char** arguments) {
  std::signal(SIGPIPE, SIG_IGN);  // whoever reads the log may go; the service stays
  try {
    const lit_service::Options options = lit_service::options_from(count, arguments);
    if (options.help) return std::fputs(lit_service::help_text().c_str(), stdout) < 0 ? 2 : 0;
    const lit::Model model = open(options);
    const lit_model_info& info = model.info();
    lit_service::Metrics metrics(
        {{"model", info.name}, {"precision", info.precision}, {"backend", info.backend}, {"runtime", lit_version()}});
    lit_service::Pipeline pipeline(model, options, metrics);
    lit_service::log(std::string(info.name) + " (" + info.precision + ") on " + info.backend);
    return lit_service::serve(options, pipeline, metrics) ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", lit_service::printable(error.what()).c_str());
    return 2;
  }
}
