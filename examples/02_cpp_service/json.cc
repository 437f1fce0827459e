#include "json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <utility>

namespace lit_service {
namespace {

// The shortest text that reads back as the same number.
template <typename Number>
std::string number(Number value) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, value).ptr);
}

std::string size_json(int32_t width, int32_t height) {
  return "{\"height\": " + std::to_string(height) + ", \"width\": " + std::to_string(width);
}

std::string category_json(const lit::Category& category) {
  return "{\"category_id\": " + std::to_string(category.id) + ", \"label\": " + quoted(category.label);
}

std::string segmentation_json(const lit::Rle& rle) {
  return ", \"segmentation\": {\"size\": [" + std::to_string(rle.height) + ", " + std::to_string(rle.width) +
         "], \"counts\": " + quoted(rle.counts) + "}";
}

}  // namespace

std::string quoted(std::string_view text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      json += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      json += escape;
    } else {
      json += c;
    }
  }
  return json + "\"";
}

std::string error_json(std::string_view sentence) { return "{\"error\": " + quoted(sentence) + "}\n"; }

std::string model_json(std::string_view name, std::string_view path, const lit_model_info& info) {
  const auto side = [](int32_t pixels) { return pixels > 0 ? std::to_string(pixels) : "null"; };
  std::string json = "{\"name\": " + quoted(name) + ", \"network\": " + quoted(info.name) +
                     ", \"task\": " + quoted(info.task) + ", \"precision\": " + quoted(info.precision) +
                     ", \"backend\": " + quoted(info.backend) + ", \"path\": " + quoted(path) +
                     ", \"classes\": " + std::to_string(info.num_classes) +
                     ", \"input\": {\"height\": " + side(info.input.height) +
                     ", \"width\": " + side(info.input.width) + "}";
  if (info.max_detections > 0) {
    json += ", \"max_detections\": " + std::to_string(info.max_detections) +
            ", \"score_threshold\": " + number(info.score_threshold) +
            ", \"masks\": " + (info.mask_size > 0 ? "true" : "false");
  }
  return json + "}";
}

std::string predictions_json(const std::vector<lit::Prediction>& predictions) {
  std::string json = "{\"predictions\": [";
  for (const lit::Prediction& prediction : predictions) {
    if (json.back() != '[') json += ", ";
    json += "{\"class\": " + std::to_string(prediction.class_index) + ", \"label\": " + quoted(prediction.label) +
            ", \"probability\": " + number(prediction.probability) + "}";
  }
  return json + "]}\n";
}

std::string detections_json(lit::Context& context, const lit::Detections& found, size_t top) {
  const bool masks = context.model().info().mask_size > 0;
  std::string json = size_json(found.width, found.height) + ", \"detections\": [";
  for (int64_t i = 0; i < std::min(found.count, static_cast<int64_t>(top)); ++i) {
    const float* const box = found.boxes + 4 * i;
    if (i > 0) json += ", ";
    json += category_json(context.model().category(found.labels[i])) + ", \"score\": " + number(found.scores[i]) +
            ", \"bbox\": [" + number(box[0]) + ", " + number(box[1]) + ", " + number(double{box[2]} - box[0]) + ", " +
            number(double{box[3]} - box[1]) + "]";
    if (masks) {
      const lit::Rle rle = context.encode_mask(i);
      json += segmentation_json(rle) + ", \"area\": " + std::to_string(rle.area);
    }
    json += "}";
  }
  return json + (context.warning().empty() ? "]}\n" : "], \"complete\": false}\n");
}

std::string label_map_json(lit::Context& context, const lit::LabelMap& map, size_t top) {
  const size_t size = static_cast<size_t>(map.width) * static_cast<size_t>(map.height);
  std::array<size_t, 256> pixels{};
  for (size_t i = 0; i < size; ++i) ++pixels[map.labels[i]];
  std::vector<int64_t> present;
  for (size_t label = 0; label < pixels.size(); ++label) {
    if (pixels[label] > 0) present.push_back(static_cast<int64_t>(label));
  }
  const auto of = [&](int64_t label) { return pixels[static_cast<size_t>(label)]; };
  std::stable_sort(present.begin(), present.end(), [&](int64_t a, int64_t b) { return of(a) > of(b); });
  present.resize(std::min(present.size(), top));
  std::string json = size_json(map.width, map.height) + ", \"classes\": [";
  for (const int64_t label : present) {
    if (json.back() != '[') json += ", ";
    json += category_json(context.model().category(label)) + ", \"pixels\": " + std::to_string(of(label)) +
            ", \"share\": " + number(static_cast<double>(of(label)) / static_cast<double>(size)) +
            segmentation_json(context.encode_label(label)) + "}";
  }
  return json + "]}\n";
}

}  // namespace lit_service
