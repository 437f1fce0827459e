#include "models.h"

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <utility>

#include "json.h"
#include "lettering.h"
#include "log.h"

namespace lit_service {
namespace {

lit_backend backend_of(const std::string& name) {
  if (name == "onnxruntime") return LIT_BACKEND_ONNXRUNTIME;
  if (name == "openvino") return LIT_BACKEND_OPENVINO;
  if (name == "tensorrt") return LIT_BACKEND_TENSORRT;
  return LIT_BACKEND_AUTO;
}

void append(std::string& list, std::string_view item) {
  if (!list.empty()) list += ", ";
  list += item;
}

}  // namespace

Models::Models(const Options& options, Metrics& metrics) {
  lit::Options how;
  how.device = options.device == "cuda" ? LIT_CUDA : LIT_CPU;
  how.backend = backend_of(options.backend);
  how.threads = static_cast<int32_t>(options.threads);
  if (!options.precision_hint.empty()) how.precision_hint = options.precision_hint.c_str();
  // Debian's font need not be there; one that was asked for has to.
  const bool missing = options.font == Options().font && !std::filesystem::exists(options.font);
  if (!missing && !options.font.empty()) font_ = read_font(options.font);
  for (const ModelFile& file : options.models) {
    lit::Model model(file.path, how);
    const lit_model_info& info = model.info();
    if (info.output == LIT_FEATURES) {
      throw std::runtime_error(file.path + " gives features, which are no answer to a question about a picture; "
                               "export its checkpoint with another --output");
    }
    ModelMetrics& counts = metrics.add(file.name, {{"network", info.name},
                                                   {"precision", info.precision},
                                                   {"backend", info.backend},
                                                   {"runtime", lit_version()}});
    const Served& served = served_.emplace_back(file.name, std::move(model), options, font_, counts);
    log(served.path() + ": " + info.name + " (" + info.precision + ") on " + info.backend);
    if (missing && served.task == Task::kDetect) {
      log("there is no " + options.font + ": pictures are drawn without names; --font FILE brings them");
    }
  }
}

Served* Models::named(std::string_view name) {
  const auto found = std::find_if(served_.begin(), served_.end(), [&](const Served& one) { return one.name == name; });
  return found == served_.end() ? nullptr : &*found;
}

Served* Models::first_of(Task task) {
  const auto found = std::find_if(served_.begin(), served_.end(), [&](const Served& one) { return one.task == task; });
  return found == served_.end() ? nullptr : &*found;
}

std::string Models::names() const {
  std::string list;
  for (const Served& one : served_) append(list, one.name);
  return list;
}

std::string Models::paths() const {
  std::string list;
  for (const Task task : {Task::kClassify, Task::kDetect, Task::kSegment}) {
    const bool any = std::any_of(served_.begin(), served_.end(), [&](const Served& one) { return one.task == task; });
    if (any) append(list, path_of(task));
  }
  return list;
}

std::string Models::json() const {
  std::string list;
  for (const Served& one : served_) append(list, model_json(one.name, one.path(), one.model.info()));
  return "{\"models\": [" + list + "]}\n";
}

void Models::hurry() {
  for (Served& one : served_) one.pipeline.hurry();
}

size_t Models::abandon() {
  size_t jobs = 0;
  for (Served& one : served_) jobs += one.pipeline.abandon();
  return jobs;
}

}  // namespace lit_service
