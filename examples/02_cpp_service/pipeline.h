// From the bytes of a picture to its answer: a bounded queue, threads that decode, threads that run batches.
//
//     submit() -> [undecoded] -> worker: decode, resize, crop -> [ready] -> runner: a batch through the model -> done()
#ifndef LIT_SERVICE_PIPELINE_H_
#define LIT_SERVICE_PIPELINE_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <lit_runtime.hpp>

#include "metrics.h"
#include "options.h"
#include "task.h"

namespace lit_service {

struct Answer {
  unsigned status;  // HTTP
  std::string body;
};

// Takes the answer to one request; called once, from any thread, and must not throw.
using Done = std::function<void(Answer)>;

class Pipeline {
 public:
  // Starts the threads. Throws lit::Error when the model gives no context, std::runtime_error when threads are short.
  Pipeline(const lit::Model& model, const Options& options, ModelMetrics& metrics);
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;
  ~Pipeline();  // answers what was accepted first

  // Takes a picture's file for the model's task, or returns false when the queue is full: `done` is never called then.
  // `form`: it may be a form with a file in it. Any thread; returns at once.
  bool submit(std::string file, size_t top, bool form, Done done);

  // From now on nothing waits for company: no more is to come. Any thread.
  void hurry();

  // Answers with 503 all that is in no run yet; how many those were. Any thread.
  size_t abandon();

 private:
  using Clock = std::chrono::steady_clock;

  struct Job {
    std::string file;             // until it is decoded
    std::vector<uint8_t> pixels;  // from then on: what the network takes
    int32_t width, height;        // of the picture, as it was decoded
    size_t top;
    bool form;
    Done done;
    Clock::time_point accepted, ready;
  };

  void stop();
  void decode_jobs();
  void run_batches(lit::Context& context);
  std::vector<Job> next_batch();
  void run(lit::Context& context, std::vector<Job>& batch);
  void run_picture(lit::Context& context, Job& job);
  void finish(Job& job, Answer answer);
  void count_waiting(long change);  // with mutex_ held

  const lit::Model model_;
  const Options options_;
  const Task task_;
  const size_t least_batch_, most_batch_;
  ModelMetrics& metrics_;

  std::mutex mutex_;
  std::condition_variable work_;   // for workers
  std::condition_variable ready_;  // for runners
  std::deque<Job> undecoded_jobs_, ready_jobs_;
  size_t waiting_ = 0;   // in undecoded_jobs_, in a worker's hands or in ready_jobs_
  size_t decoding_ = 0;  // in a worker's hands
  bool hurry_ = false;
  bool stopping_ = false;

  std::vector<lit::Context> contexts_;
  std::vector<std::thread> threads_;
};

}  // namespace lit_service

#endif  // LIT_SERVICE_PIPELINE_H_
