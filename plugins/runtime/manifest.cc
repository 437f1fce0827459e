#include "manifest.h"

#include <algorithm>
#include <limits>

#include "error.h"
#include "json_fields.h"
#include "onnx_metadata.h"
#include "preprocess.h"

namespace lit_deploy::runtime {
namespace {

constexpr const char* kMetadataKey = "lit_deploy.manifest";  // MANIFEST_KEY of lit_deploy/artifact.py
constexpr int64_t kOpVersion = 1;                            // OP_VERSION of lit_deploy/specs.py
constexpr int64_t kAny = std::numeric_limits<int32_t>::max();

// Three numbers between `least` and `most`; the bounds are those of lit_deploy/specs.py.
void read_channels(const Fields& fields, const char* key, double least, double most, float* values) {
  const Json& list = fields.list(key);
  if (list.size() != 3) throw Damaged{fields.name(key) + " has not 3 numbers"};
  for (size_t i = 0; i < 3; ++i) {
    const double value = list[i].is_number() ? list[i].get<double>() : std::numeric_limits<double>::quiet_NaN();
    if (!(value >= least && value <= most)) throw Damaged{fields.name(key) + " is out of range"};
    values[i] = static_cast<float>(value);
  }
}

lit_input_spec parse_input(const Fields& fields) {
  lit_input_spec spec{};
  spec.type = fields.choice("kind", {"uint8", "float"}) == 0 ? LIT_UINT8 : LIT_FLOAT32;
  spec.height = static_cast<int32_t>(fields.integer("height", 1, kMaxSide));
  spec.width = static_cast<int32_t>(fields.integer("width", 1, kMaxSide));
  spec.resize = static_cast<int32_t>(fields.integer("resize", 1, 16 * int64_t{std::max(spec.height, spec.width)}));
  spec.interpolation = fields.choice("interpolation", {"bicubic", "bilinear"}) == 0 ? LIT_BICUBIC : LIT_BILINEAR;
  read_channels(fields, "mean", -1e4, 1e4, spec.mean);
  read_channels(fields, "std", 1e-4, 1e4, spec.std);
  return spec;
}

std::string parse_precision(const Fields& fields, const char* key) {
  fields.choice(key, {"fp32", "fp16", "bf16", "int8", "fp8"});
  return fields.text(key);
}

Manifest parse(const Json& document, const std::string& path) {
  const Fields fields(document, "");
  const int64_t format = fields.integer("format", 0, kAny);
  if (format != kFormat) {
    throw Error(LIT_WRONG_VERSION, "the manifest of " + path + " has format " + std::to_string(format) +
                                       ", this library reads " + std::to_string(kFormat) +
                                       "; upgrade the library, or export the file again");
  }
  const int64_t op_version = fields.integer("op_version", 0, kAny);
  if (op_version != kOpVersion) {
    throw Error(LIT_WRONG_VERSION, path + " uses version " + std::to_string(op_version) +
                                       " of the operator, this library implements version " +
                                       std::to_string(kOpVersion) +
                                       "; use the release that wrote the file, or export it again");
  }
  Manifest manifest;
  const Fields model(fields.at("model"), "model");
  manifest.name = model.text("name");
  manifest.precision = parse_precision(fields, "precision");
  const bool quantized = document.contains("quantization") && !document["quantization"].is_null();
  manifest.base =
      quantized ? parse_precision(Fields(document["quantization"], "quantization"), "base") : manifest.precision;
  manifest.input = parse_input(Fields(fields.at("input"), "input"));
  manifest.output = fields.choice("output", {"logits", "probabilities", "top5"});
  manifest.batch = fields.optional_integer("batch", 1, kMostBatch).value_or(0);
  manifest.portable = fields.flag("portable");
  for (const Json& label : fields.list("labels")) manifest.labels.push_back(Fields::text(label, "a label"));
  if (model.integer("num_classes", 1, kAny) != manifest.classes()) {
    throw Damaged{"it has another number of labels than of classes"};
  }
  if (model.integer("in_channels", 1, kAny) != 3) {
    throw Error(LIT_NOT_SUPPORTED, path + " takes images that are not RGB, which this library does not prepare");
  }
  return manifest;
}

}  // namespace

bool TensorSpec::agrees(const TensorSpec& other) const {
  if (name != other.name || dtype != other.dtype || shape.size() != other.shape.size()) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] >= 0 && other.shape[i] >= 0 && shape[i] != other.shape[i]) return false;
  }
  return true;
}

std::string TensorSpec::text() const {
  std::string sizes;
  for (const int64_t size : shape) sizes += (sizes.empty() ? "" : ", ") + (size < 0 ? "batch" : std::to_string(size));
  return dtype + " " + name + " [" + sizes + "]";
}

TensorSpec promised_input(const Manifest& manifest) {
  const int64_t batch = manifest.batch == 0 ? -1 : manifest.batch;
  const lit_input_spec& spec = manifest.input;
  if (spec.type == LIT_UINT8) return {kInputName, "uint8", {batch, spec.height, spec.width, 3}};
  return {kInputName, "float32", {batch, 3, spec.height, spec.width}};
}

std::vector<TensorSpec> promised_outputs(const Manifest& manifest) {
  const int64_t batch = manifest.batch == 0 ? -1 : manifest.batch;
  std::vector<TensorSpec> outputs = {{manifest.scores_name(), "float32", {batch, manifest.scores()}}};
  if (manifest.output == LIT_TOP5) outputs.push_back({"classes", "int64", {batch, manifest.scores()}});
  return outputs;
}

Manifest parse_manifest(const std::string& json, const std::string& path) {
  try {
    Manifest manifest = parse(parsed(json), path);
    manifest.json = json;
    return manifest;
  } catch (const Damaged& damaged) {
    throw Error(LIT_BAD_MODEL, "the manifest of " + path + " is damaged (" + damaged.what + "); export the file again");
  }
}

Manifest manifest_of_onnx(const std::string& path) { return parse_manifest(onnx_metadata(path, kMetadataKey), path); }

}  // namespace lit_deploy::runtime
