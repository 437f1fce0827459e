#include "pipeline.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <new>
#include <stdexcept>
#include <utility>

#include "decode.h"
#include "drawing.h"
#include "json.h"
#include "log.h"

namespace lit_service {
namespace {

// `form`: as Question has it.
Answer refusal_of(const DecodeError& error, bool form) {
  if (error.fault() == Fault::kTooLarge) return {413, error_json(error.what())};
  std::string sentence = error.what();
  if (form) sentence += "; it came as a form: send the file alone and as it is, curl --data-binary @FILE";
  return {error.fault() == Fault::kUnknownFormat ? 415u : 422u, error_json(sentence)};
}

Answer short_of_memory() { return {503, error_json("memory is short here: try again")}; }

void check_drawable(int width, int height) {
  if (size_t{1} * static_cast<size_t>(width) * static_cast<size_t>(height) <= kMostDrawnPixels) return;
  throw DecodeError(Fault::kTooLarge, "the picture has " + std::to_string(width) + " x " + std::to_string(height) +
                                          " pixels where at most " + std::to_string(kMostDrawnPixels) +
                                          " are drawn into: scale it down, or accept application/json");
}

// What the operator has to know goes to the log, too; clients get no details of this machine.
Answer internal_error(const char* what) {
  log_error(what);
  return {500, error_json("the model could not be run: see the service's log")};
}

// A size that the model does not take: too large for the task, or so narrow that it would be huge after resizing. What an
// engine says of one that it was not built for names files of this machine: the operator's.
Answer unfit(const lit::Model& model, int width, int height, const char* what) {
  if (!std::string_view(model.info().backend).starts_with("TensorRT")) return {413, error_json(what)};
  log_error(what);
  return {413, error_json("this model was not built for a picture of " + std::to_string(width) + " x " +
                          std::to_string(height) + ": send another size")};
}

}  // namespace

Pipeline::Pipeline(const lit::Model& model, const Options& options, std::string_view font, ModelMetrics& metrics)
    : model_(model),
      options_(options),
      task_(task_of(model)),
      font_(font),
      least_batch_(static_cast<size_t>(model.info().min_batch)),
      most_batch_(static_cast<size_t>(
          std::clamp<int64_t>(options.max_batch, model.info().min_batch, model.info().max_batch))),
      metrics_(metrics) {
  for (long i = 0; i < options.instances; ++i) contexts_.emplace_back(model_);
  try {
    for (lit::Context& context : contexts_) threads_.emplace_back([this, &context] { run_batches(context); });
    for (long i = 0; i < options.workers; ++i) threads_.emplace_back([this] { decode_jobs(); });
  } catch (const std::exception& error) {
    const std::string started = std::to_string(threads_.size());
    stop();
    throw std::runtime_error("only " + started + " threads could be started (" + error.what() +
                             "): lower --workers or --instances, or raise the limits of this process");
  }
}

Pipeline::~Pipeline() { stop(); }

void Pipeline::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool Pipeline::submit(Question question, Done done) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_ >= static_cast<size_t>(options_.queue)) return false;
    undecoded_jobs_.push_back({std::move(question), std::move(done), {}, 0, 0, Clock::now(), {}});
    count_waiting(1);
    metrics_.accepted();
  }
  work_.notify_one();
  return true;
}

void Pipeline::hurry() {
  {
    const std::lock_guard lock(mutex_);
    hurry_ = true;
  }
  ready_.notify_all();
}

size_t Pipeline::abandon() {
  std::deque<Job> jobs;
  {
    const std::lock_guard lock(mutex_);
    jobs.swap(undecoded_jobs_);
    std::move(ready_jobs_.begin(), ready_jobs_.end(), std::back_inserter(jobs));
    ready_jobs_.clear();
    count_waiting(-static_cast<long>(jobs.size()));
  }
  for (Job& job : jobs) finish(job, {503, error_json("the service is shutting down: try again")});
  return jobs.size();
}

void Pipeline::decode_jobs() {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return stopping_ || !undecoded_jobs_.empty(); });
    if (undecoded_jobs_.empty()) return;
    Job job = std::move(undecoded_jobs_.front());
    undecoded_jobs_.pop_front();
    ++decoding_;
    lock.unlock();

    Answer refusal{};
    try {
      const auto check = [&](int width, int height) {
        job.width = width;
        job.height = height;
        model_.check_size(width, height);
        if (job.draws(task_)) check_drawable(width, height);
      };
      const bool upright = task_ != Task::kClassify;
      const Picture picture = decode(job.question.file, {static_cast<size_t>(options_.max_pixels), check, upright});
      job.pixels = model_.preprocess({picture.rgb.get(), picture.width, picture.height, 0});
      job.width = picture.width;
      job.height = picture.height;
      if (!job.draws(task_)) job.question.file = std::string();  // so that only small pictures wait for their run
    } catch (const DecodeError& error) {
      refusal = refusal_of(error, job.question.is_form);
    } catch (const lit::Error& error) {
      const bool theirs = error.status() == LIT_INVALID_ARGUMENT;
      refusal = theirs ? unfit(model_, job.width, job.height, error.what()) : internal_error(error.what());
    } catch (const std::bad_alloc&) {
      refusal = short_of_memory();
    } catch (const std::exception& error) {
      refusal = internal_error(error.what());
    }

    lock.lock();
    --decoding_;
    if (refusal.status == 0) {
      job.ready = Clock::now();
      ready_jobs_.push_back(std::move(job));
    } else {
      count_waiting(-1);
    }
    ready_.notify_all();
    if (refusal.status == 0) continue;
    lock.unlock();
    finish(job, std::move(refusal));
    lock.lock();
  }
}

std::vector<Pipeline::Job> Pipeline::next_batch() {
  std::unique_lock lock(mutex_);
  std::vector<Job> batch;
  while (batch.empty()) {
    ready_.wait(lock, [this] {
      return !ready_jobs_.empty() || (stopping_ && undecoded_jobs_.empty() && decoding_ == 0);
    });
    if (ready_jobs_.empty()) break;
    const Clock::time_point latest = ready_jobs_.front().ready + std::chrono::milliseconds(options_.max_delay_ms);
    ready_.wait_until(lock, latest, [this] { return hurry_ || stopping_ || ready_jobs_.size() >= most_batch_; });
    // Another runner may have been faster, and taken some or all.
    const auto end = ready_jobs_.begin() + static_cast<std::ptrdiff_t>(std::min(most_batch_, ready_jobs_.size()));
    std::move(ready_jobs_.begin(), end, std::back_inserter(batch));
    ready_jobs_.erase(ready_jobs_.begin(), end);
  }
  count_waiting(-static_cast<long>(batch.size()));
  return batch;
}

void Pipeline::run_batches(lit::Context& context) {
  for (std::vector<Job> batch = next_batch(); !batch.empty(); batch = next_batch()) {
    try {
      run(context, batch);
    } catch (const std::exception& error) {
      const bool memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
      for (Job& job : batch) {
        if (job.done) finish(job, memory ? short_of_memory() : internal_error(error.what()));
      }
    }
  }
}

// Of a detector or segmentation network, whose batches are of one.
void Pipeline::run_picture(lit::Context& context, Job& job) {
  const auto [width, height] = model_.prepared_size(job.width, job.height);
  const lit::Prepared picture{job.pixels.data(), width, height, job.width, job.height};
  metrics_.ran(1);
  const size_t top = job.question.top;
  const bool json = job.question.media == Media::kJson;
  std::string body;
  if (task_ == Task::kSegment) {
    const lit::LabelMap map = context.segment_prepared(picture);
    body = json ? label_map_json(context, map, top) : png_of(map, model_);
  } else {
    const lit::Detections found = context.detect_prepared(picture);
    if (const std::string warning = context.warning(); !warning.empty()) log("warning: " + warning);
    if (json) {
      body = detections_json(context, found, top);
    } else {  // decoded again: to keep it that long would take more memory than its file does
      Picture drawn = decode(job.question.file, {static_cast<size_t>(options_.max_pixels), {}, true});
      draw_detections(drawn, context, found, top, font_);
      body = png_of(drawn);
    }
  }
  finish(job, {200, std::move(body), job.question.media});
}

void Pipeline::run(lit::Context& context, std::vector<Job>& batch) {
  if (task_ != Task::kClassify) return run_picture(context, batch.front());
  const size_t size = batch.front().pixels.size();
  const size_t images = std::max(batch.size(), least_batch_);
  std::vector<uint8_t> pixels;
  pixels.reserve(images * size);
  for (const Job& job : batch) pixels.insert(pixels.end(), job.pixels.begin(), job.pixels.end());
  const std::vector<uint8_t>& last = batch.back().pixels;
  while (pixels.size() < images * size) pixels.insert(pixels.end(), last.begin(), last.end());

  metrics_.ran(batch.size());
  const lit::Output output = context.run({LIT_UINT8, pixels.data(), static_cast<int64_t>(images), 0, 0});
  for (size_t i = 0; i < batch.size(); ++i) {
    const std::vector<lit::Prediction> best = model_.top_k(output, static_cast<int64_t>(i), batch[i].question.top);
    const bool finite =
        std::all_of(best.begin(), best.end(), [](const lit::Prediction& p) { return std::isfinite(p.probability); });
    finish(batch[i], finite ? Answer{200, predictions_json(best)} : internal_error("the model returned no numbers"));
  }
}

void Pipeline::finish(Job& job, Answer answer) {
  metrics_.finished(std::chrono::duration<double>(Clock::now() - job.accepted).count());
  std::exchange(job.done, nullptr)(std::move(answer));
}

void Pipeline::count_waiting(long change) {
  waiting_ += static_cast<size_t>(change);
  metrics_.queue_depth(waiting_);
}

}  // namespace lit_service
