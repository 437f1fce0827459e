// What GET /metrics shows: counters, gauges and histograms in Prometheus' text format.
#ifndef LIT_SERVICE_METRICS_H_
#define LIT_SERVICE_METRICS_H_

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace lit_service {

class Histogram {
 public:
  // `bounds`: upper bounds of the buckets, ascending; one without a bound follows them.
  explicit Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void observe(double value);
  std::string text(const std::string& name, const std::string& label) const;

 private:
  std::vector<double> bounds_;
  std::vector<uint64_t> counts_;
  double sum_ = 0;
};

// Of what a model was asked. One lock for all: it is taken a handful of times per request, for less than a microsecond.
// Any thread.
class ModelMetrics {
 public:
  struct Counts {
    Histogram seconds{{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}};
    Histogram images{{1, 2, 4, 8, 16, 32, 64}};
    uint64_t accepted = 0;
    uint64_t finished = 0;
    size_t queue_depth = 0;
  };

  void accepted();                    // a picture was taken into the queue
  void queue_depth(size_t requests);  // accepted and in no run yet
  void ran(size_t images);            // a run of the model
  void finished(double seconds);      // an accepted request has its answer, so long after it was accepted
  Counts counts() const;

 private:
  mutable std::mutex mutex_;
  Counts counts_;
};

// Of all models and of the connections. Any thread, once the models are there.
class Metrics {
 public:
  // A model of this name; `facts`: name and value. Lives as long as this does.
  ModelMetrics& add(const std::string& name, const std::vector<std::pair<std::string, std::string>>& facts);

  void connections(size_t open);
  void responded(unsigned code);  // an answer to any request was handed to the kernel
  void undelivered();             // an answer could not be: the client is gone
  int64_t in_flight() const;      // accepted and not finished

  std::string text() const;     // all of it, for Prometheus
  std::string summary() const;  // one line, for the log

 private:
  struct Labelled {
    std::string label, info;  // the model's name, and all facts
    ModelMetrics metrics;
  };

  std::deque<Labelled> models_;
  mutable std::mutex mutex_;
  std::map<unsigned, uint64_t> responses_;
  uint64_t undelivered_ = 0;
  size_t connections_ = 0;
};

}  // namespace lit_service

#endif  // LIT_SERVICE_METRICS_H_
