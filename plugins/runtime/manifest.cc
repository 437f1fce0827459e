#include "manifest.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "error.h"
#include "onnx_metadata.h"

namespace lit_deploy::runtime {
namespace {

using Json = nlohmann::json;

constexpr const char* kMetadataKey = "lit_deploy.manifest";  // MANIFEST_KEY of lit_deploy/artifact.py
constexpr int64_t kFormat = 1;                               // FORMAT
constexpr int64_t kOpVersion = 1;                            // OP_VERSION of lit_deploy/specs.py
constexpr int64_t kMostPixels = 1 << 14;                     // a side of the network's input
constexpr int64_t kMostBatch = 1024;                         // MAX_BATCH

struct Damaged {
  std::string what;
};

const Json& member(const Json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  if (found == object.end()) throw Damaged{std::string("it has no '") + name + "'"};
  return *found;
}

std::string text(const Json& object, const char* name) {
  const Json& value = member(object, name);
  if (!value.is_string()) throw Damaged{std::string("'") + name + "' is no text"};
  return value.get<std::string>();
}

int64_t integer(const Json& object, const char* name, int64_t least, int64_t most) {
  const Json& value = member(object, name);
  // An unsigned number beyond int64_t would come out as another one.
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= static_cast<uint64_t>(most)
                                               : value.is_number_integer() && value.get<int64_t>() <= most;
  if (!fits || value.get<int64_t>() < least) {
    throw Damaged{std::string("'") + name + "' is not a whole number from " + std::to_string(least) + " to " +
                  std::to_string(most)};
  }
  return value.get<int64_t>();
}

// One of `names`, as its index.
int choice(const Json& object, const char* name, std::initializer_list<const char*> names) {
  const std::string value = text(object, name);
  int index = 0;
  for (const char* known : names) {
    if (value == known) return index;
    ++index;
  }
  throw Damaged{std::string("'") + name + "' has a value that is not known here"};
}

// Three numbers between `least` and `most`; the bounds are those of lit_deploy/specs.py.
void channels(const Json& object, const char* name, double least, double most, float* values) {
  const Json& list = member(object, name);
  if (!list.is_array() || list.size() != 3) throw Damaged{std::string("'") + name + "' is not a list of 3 numbers"};
  for (size_t i = 0; i < 3; ++i) {
    const double value = list[i].is_number() ? list[i].get<double>() : std::numeric_limits<double>::quiet_NaN();
    if (!(value >= least && value <= most)) throw Damaged{std::string("'") + name + "' is out of range"};
    values[i] = static_cast<float>(value);
  }
}

lit_input_spec parse_input(const Json& object) {
  lit_input_spec spec{};
  spec.type = choice(object, "kind", {"uint8", "float"}) == 0 ? LIT_UINT8 : LIT_FLOAT32;
  spec.height = static_cast<int32_t>(integer(object, "height", 1, kMostPixels));
  spec.width = static_cast<int32_t>(integer(object, "width", 1, kMostPixels));
  spec.resize = static_cast<int32_t>(integer(object, "resize", 1, 16 * int64_t{std::max(spec.height, spec.width)}));
  spec.interpolation = choice(object, "interpolation", {"bicubic", "bilinear"}) == 0 ? LIT_BICUBIC : LIT_BILINEAR;
  channels(object, "mean", -1e4, 1e4, spec.mean);
  channels(object, "std", 1e-4, 1e4, spec.std);
  return spec;
}

Manifest parse(const Json& object, const std::string& path) {
  const int64_t format = integer(object, "format", 0, std::numeric_limits<int64_t>::max());
  if (format != kFormat) {
    throw Error(LIT_WRONG_VERSION, "the manifest of " + path + " has format " + std::to_string(format) +
                                       ", this library reads " + std::to_string(kFormat) +
                                       "; upgrade the library, or export the file again");
  }
  const int64_t op_version = integer(object, "op_version", 0, std::numeric_limits<int64_t>::max());
  if (op_version != kOpVersion) {
    throw Error(LIT_WRONG_VERSION, path + " uses version " + std::to_string(op_version) +
                                       " of the operator, this library implements version " +
                                       std::to_string(kOpVersion) + "; use the release that wrote the file, or export it again");
  }
  Manifest manifest;
  const Json& model = member(object, "model");
  manifest.name = text(model, "name");
  manifest.precision = text(object, "precision");
  const auto quantization = object.find("quantization");
  const bool quantized = quantization != object.end() && !quantization->is_null();
  manifest.base = quantized ? text(*quantization, "base") : manifest.precision;
  manifest.input = parse_input(member(object, "input"));
  manifest.output = static_cast<lit_output_kind>(choice(object, "output", {"logits", "probabilities", "top5"}));
  const Json& batch = member(object, "batch");
  manifest.batch = batch.is_null() ? 0 : integer(object, "batch", 1, kMostBatch);
  const Json& portable = member(object, "portable");
  if (!portable.is_boolean()) throw Damaged{"'portable' is neither true nor false"};
  manifest.portable = portable.get<bool>();
  const Json& labels = member(object, "labels");
  if (!labels.is_array()) throw Damaged{"'labels' is no list"};
  for (const Json& label : labels) {
    if (!label.is_string()) throw Damaged{"a label is no text"};
    manifest.labels.push_back(label.get<std::string>());
  }
  if (integer(model, "num_classes", 1, std::numeric_limits<int32_t>::max()) != manifest.classes()) {
    throw Damaged{"it has another number of labels than of classes"};
  }
  if (integer(model, "in_channels", 1, std::numeric_limits<int32_t>::max()) != 3) {
    throw Error(LIT_NOT_SUPPORTED, path + " takes images that are not RGB, which this library does not prepare");
  }
  return manifest;
}

}  // namespace

Manifest parse_manifest(const std::string& json, const std::string& path) {
  const Json object = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  try {
    if (object.is_discarded()) throw Damaged{"it is no JSON"};
    Manifest manifest = parse(object, path);
    manifest.json = json;
    return manifest;
  } catch (const Damaged& damaged) {
    throw Error(LIT_BAD_MODEL, "the manifest of " + path + " is damaged (" + damaged.what + "); export the file again");
  }
}

Manifest manifest_of_onnx(const std::string& path) { return parse_manifest(onnx_metadata(path, kMetadataKey), path); }

}  // namespace lit_deploy::runtime
