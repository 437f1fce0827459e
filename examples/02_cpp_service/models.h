// The models of this process: each has a queue and threads of its own, and none waits for another.
#ifndef LIT_SERVICE_MODELS_H_
#define LIT_SERVICE_MODELS_H_

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>

#include <lit_runtime.hpp>

#include "metrics.h"
#include "options.h"
#include "pipeline.h"
#include "task.h"

namespace lit_service {

struct Served {
  Served(std::string called, lit::Model opened, const Options& options, std::string_view font, ModelMetrics& metrics)
      : name(std::move(called)),
        model(std::move(opened)),
        task(task_of(model)),
        pipeline(model, options, font, metrics) {}

  std::string path() const { return std::string(path_of(task)) + "?model=" + name; }

  const std::string name;  // as ModelFile has it
  const lit::Model model;
  const Task task;
  Pipeline pipeline;
};

// Unchanging: any thread.
class Models {
 public:
  // Opens the files in their order, starts their threads and tells the log. Throws lit::Error for a file that cannot be
  // opened, std::runtime_error when threads are short or the font is none.
  Models(const Options& options, Metrics& metrics);

  // nullptr where there is none.
  Served* named(std::string_view name);
  Served* first_of(Task task);

  std::string names() const;  // "lit_s, retinanet"
  std::string paths() const;  // "/v1/classify, /v1/detect": those that a model answers
  std::string json() const;   // of all models what GET /v1/models tells

  // What Pipeline has, of all.
  void hurry();
  size_t abandon();

 private:
  std::string font_;
  std::deque<Served> served_;
};

}  // namespace lit_service

#endif  // LIT_SERVICE_MODELS_H_
