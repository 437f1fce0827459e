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

std::string Histogram::text(const std::string& name, const std::string& label) const {
  std::string lines;
  uint64_t total = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    const std::string bound = i < bounds_.size() ? number(bounds_[i]) : "+Inf";
    lines += name + "_bucket{" + label + ",le=\"" + bound + "\"} " + std::to_string(total) + "\n";
  }
  return lines + name + "_sum{" + label + "} " + number(sum_) + "\n" + name + "_count{" + label + "} " +
         std::to_string(total) + "\n";
}

void ModelMetrics::accepted() {
  const std::lock_guard lock(mutex_);
  ++counts_.accepted;
}

void ModelMetrics::queue_depth(size_t requests) {
  const std::lock_guard lock(mutex_);
  counts_.queue_depth = requests;
}

void ModelMetrics::ran(size_t images) {
  const std::lock_guard lock(mutex_);
  counts_.images.observe(static_cast<double>(images));
}

void ModelMetrics::finished(double seconds) {
  const std::lock_guard lock(mutex_);
  ++counts_.finished;
  counts_.seconds.observe(seconds);
}

ModelMetrics::Counts ModelMetrics::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

ModelMetrics& Metrics::add(const std::string& name, const std::vector<std::pair<std::string, std::string>>& facts) {
  Labelled& model = models_.emplace_back();
  model.info = model.label = "model=\"" + escaped(name) + "\"";
  for (const auto& [fact, value] : facts) model.info += "," + fact + "=\"" + escaped(value) + "\"";
  return model.metrics;
}

void Metrics::connections(size_t open) {
  const std::lock_guard lock(mutex_);
  connections_ = open;
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
  uint64_t open = 0;
  for (const Labelled& model : models_) {
    const ModelMetrics::Counts counts = model.metrics.counts();
    open += counts.accepted - counts.finished;
  }
  return static_cast<int64_t>(open);
}

std::string Metrics::summary() const {
  uint64_t accepted = 0, finished = 0;
  for (const Labelled& model : models_) {
    const ModelMetrics::Counts counts = model.metrics.counts();
    accepted += counts.accepted;
    finished += counts.finished;
  }
  const std::lock_guard lock(mutex_);
  return std::to_string(accepted) + " pictures accepted, " + std::to_string(finished) + " finished, " +
         std::to_string(undelivered_) + " answers undelivered";
}

std::string Metrics::text() const {
  std::vector<std::pair<std::string, ModelMetrics::Counts>> models;
  std::string text = head("lit_service_info", "gauge", "What runs here; always 1.");
  for (const Labelled& model : models_) {
    text += "lit_service_info{" + model.info + "} 1\n";
    models.emplace_back(model.label, model.metrics.counts());
  }
  {
    const std::lock_guard lock(mutex_);
    text += head("lit_service_responses_total", "counter", "Answers sent, by HTTP status code.");
    for (const auto& [code, count] : responses_) {
      text += "lit_service_responses_total{code=\"" + std::to_string(code) + "\"} " + std::to_string(count) + "\n";
    }
    text += single("lit_service_undelivered_total", "counter", "Answers whose client was gone.",
                   static_cast<double>(undelivered_));
    text += single("lit_service_connections", "gauge", "Open connections.", static_cast<double>(connections_));
  }
  // All samples of a name follow its head.
  const auto each = [&](const std::string& name, const char* type, const char* help, auto value) {
    text += head(name, type, help);
    for (const auto& [label, counts] : models) text += name + "{" + label + "} " + std::to_string(value(counts)) + "\n";
  };
  const auto histograms = [&](const std::string& name, const char* help, Histogram ModelMetrics::Counts::*which) {
    text += head(name, "histogram", help);
    for (const auto& [label, counts] : models) text += (counts.*which).text(name, label);
  };
  using Counts = ModelMetrics::Counts;
  each("lit_service_accepted_total", "counter", "Pictures taken into the queue.",
       [](const Counts& counts) { return counts.accepted; });
  each("lit_service_in_flight", "gauge", "Accepted pictures without an answer yet.",
       [](const Counts& counts) { return counts.accepted - counts.finished; });
  each("lit_service_queue_depth", "gauge", "Accepted pictures that are in no run of the model yet.",
       [](const Counts& counts) { return counts.queue_depth; });
  histograms("lit_service_request_seconds", "From accepting a picture to its answer.", &Counts::seconds);
  histograms("lit_service_batch_images", "Pictures per run of the model.", &Counts::images);
  text += single("process_resident_memory_bytes", "gauge", "Resident memory.", resident_bytes());
  return text;
}

}  // namespace lit_service
