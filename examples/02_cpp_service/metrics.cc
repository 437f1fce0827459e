#include "metrics.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>

#include "log.h"

namespace lit_service {
namespace {

std::string number(double value) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, value).ptr);
}

// A label's value as Prometheus reads it, on one line.
std::string escaped(const std::string& value) {
  std::string text;
  for (const char c : printable(value)) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text;
}

std::string head(const std::string& name, const char* type, const char* help) {
  return "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
}

std::string single(const std::string& name, const char* type, const char* help, double value) {
  return head(name, type, help) + name + " " + number(value) + "\n";
}

double resident_bytes() {
  uint64_t size = 0, resident = 0;  // pages
  std::ifstream("/proc/self/statm") >> size >> resident;
  return static_cast<double>(resident) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

}  // namespace

void Histogram::observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  ++counts_[static_cast<size_t>(bucket)];
  sum_ += value;
}

std::string Histogram::text(const std::string& name) const {
  std::string lines;
  uint64_t total = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    const std::string bound = i < bounds_.size() ? number(bounds_[i]) : "+Inf";
    lines += name + "_bucket{le=\"" + bound + "\"} " + std::to_string(total) + "\n";
  }
  return lines + name + "_sum " + number(sum_) + "\n" + name + "_count " + std::to_string(total) + "\n";
}

Metrics::Metrics(const std::vector<std::pair<std::string, std::string>>& labels)
    : seconds_({.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}), images_({1, 2, 4, 8, 16, 32, 64}) {
  for (const auto& [name, value] : labels) info_ += (info_.empty() ? "" : ",") + name + "=\"" + escaped(value) + "\"";
}

void Metrics::connections(size_t open) {
  const std::lock_guard lock(mutex_);
  connections_ = open;
}

void Metrics::accepted() {
  const std::lock_guard lock(mutex_);
  ++accepted_;
}

void Metrics::queue_depth(size_t requests) {
  const std::lock_guard lock(mutex_);
  queue_depth_ = requests;
}

void Metrics::ran(size_t images) {
  const std::lock_guard lock(mutex_);
  images_.observe(static_cast<double>(images));
}

void Metrics::finished(double seconds) {
  const std::lock_guard lock(mutex_);
  ++finished_;
  seconds_.observe(seconds);
}

void Metrics::responded(unsigned code) {
  const std::lock_guard lock(mutex_);
  ++responses_[code];
}

void Metrics::undelivered() {
  const std::lock_guard lock(mutex_);
  ++undelivered_;
}

int64_t Metrics::in_flight() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(accepted_ - finished_);
}

std::string Metrics::summary() const {
  const std::lock_guard lock(mutex_);
  return std::to_string(accepted_) + " pictures accepted, " + std::to_string(finished_) + " finished, " +
         std::to_string(undelivered_) + " answers undelivered";
}

std::string Metrics::text() const {
  const std::lock_guard lock(mutex_);
  std::string text = head("lit_service_info", "gauge", "What runs here; always 1.");
  text += "lit_service_info{" + info_ + "} 1\n";
  text += head("lit_service_responses_total", "counter", "Answers sent, by HTTP status code.");
  for (const auto& [code, count] : responses_) {
    text += "lit_service_responses_total{code=\"" + std::to_string(code) + "\"} " + std::to_string(count) + "\n";
  }
  text += single("lit_service_undelivered_total", "counter", "Answers whose client was gone.",
                 static_cast<double>(undelivered_));
  text += single("lit_service_accepted_total", "counter", "Pictures taken into the queue.",
                 static_cast<double>(accepted_));
  text += single("lit_service_in_flight", "gauge", "Accepted pictures without an answer yet.",
                 static_cast<double>(accepted_ - finished_));
  text += single("lit_service_queue_depth", "gauge", "Accepted pictures that are in no run of the model yet.",
                 static_cast<double>(queue_depth_));
  text += single("lit_service_connections", "gauge", "Open connections.", static_cast<double>(connections_));
  text += head("lit_service_request_seconds", "histogram", "From accepting a picture to its answer.");
  text += seconds_.text("lit_service_request_seconds");
  text += head("lit_service_batch_images", "histogram", "Pictures per run of the model.");
  text += images_.text("lit_service_batch_images");
  text += single("process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes());
  return text;
}

}  // namespace lit_service
