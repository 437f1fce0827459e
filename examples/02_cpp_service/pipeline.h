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
#include <string_view>
#include <thread>
#include <vector>

#include <lit_runtime.hpp>

#include "accept.h"
#include "metrics.h"
#include "options.h"
#include "task.h"

namespace lit_service {

struct Question {
  std::string file;            // of a picture
  size_t top = 0;              // most classes or objects
  Media media = Media::kJson;  // of the answer; kPng only where gives_picture()
  bool is_form = false;        // the file may be a form with a file in it
};

struct Answer {
  unsigned status;  // HTTP
  std::string body;
  Media media = Media::kJson;
};

// Takes the answer to one request; called once, from any thread, and must not throw.
using Done = std::function<void(Answer)>;

class Pipeline {
 public:
  // Starts the threads. `font`: a file for names on pictures, empty for none; outlives this. Throws lit::Error when the
  // model gives no context, std::runtime_error when threads are short.
  Pipeline(const lit::Model& model, const Options& options, std::string_view font, ModelMetrics& metrics);
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;
  ~Pipeline();  // answers what was accepted first

  // Takes a picture for the model's task, or returns false when the queue is full: `done` is never called then. Any
  // thread; returns at once.
  bool submit(Question question, Done done);

  // From now on nothing waits for company: no more is to come. Any thread.
  void hurry();

  // Answers with 503 all that is in no run yet; how many those were. Any thread.
  size_t abandon();

 private:
  using Clock = std::chrono::steady_clock;

  struct Job {
    Question question;            // its file until it is decoded, or drawn into: pictures are large
    Done done;
    std::vector<uint8_t> pixels;  // from decoding on: what the network takes
    int32_t width, height;        // of the picture, as it was decoded
    Clock::time_point accepted, ready;

    // Whether the picture itself is wanted again, with what was found in it.
    bool draws(Task task) const { return task == Task::kDetect && question.media == Media::kPng; }
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
  const std::string_view font_;
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
