// What GET /metrics shows: counters, gauges and histograms in Prometheus' text format.
#ifndef LIT_SERVICE_METRICS_H_
#define LIT_SERVICE_METRICS_H_

#include <cstdint>
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
  std::string text(const std::string& name) const;

 private:
  std::vector<double> bounds_;
  std::vector<uint64_t> counts_;
  double sum_ = 0;
};

// One lock for all: it is taken a handful of times per request, for less than a microsecond. Any thread.
class Metrics {
 public:
  // `labels`: of lit_service_info, name and value.
  explicit Metrics(const std::vector<std::pair<std::string, std::string>>& labels);

  void connections(size_t open);
  void accepted();                     // a picture was taken into the queue
  void queue_depth(size_t requests);   // accepted and in no run yet
  void ran(size_t images);             // a run of the model
  void finished(double seconds);       // an accepted request has its answer, so long after it was accepted
  void responded(unsigned code);       // an answer to any request was handed to the kernel
  void undelivered();                  // an answer could not be: the client is gone
  int64_t in_flight() const;           // accepted and not finished

  std::string text() const;     // all of it, for Prometheus
  std::string summary() const;  // one line, for the log

 private:
  mutable std::mutex mutex_;
  std::string info_;
  std::map<unsigned, uint64_t> responses_;
  Histogram seconds_;
  Histogram images_;
  uint64_t accepted_ = 0;
  uint64_t finished_ = 0;
  uint64_t undelivered_ = 0;
  size_t queue_depth_ = 0;
  size_t connections_ = 0;
};

}  // namespace lit_service

#endif  // LIT_SERVICE_METRICS_H_
