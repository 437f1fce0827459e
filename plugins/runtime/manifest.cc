#include "manifest.h"

#include <algorithm>
#include <array>
#include <limits>

#include "contract.h"
#include "error.h"
#include "ir_metadata.h"
#include "json_fields.h"
#include "onnx_metadata.h"

namespace lit_deploy::runtime {
namespace {

constexpr int64_t kAny = std::numeric_limits<int32_t>::max();
constexpr const char* kTask = contract::kTasks[0];  // that of this library; lit-deploy may know more

// Three numbers between `least` and `most`, or the default's where there are none.
void read_channels(const Fields& fields, const char* key, double least, double most,
                   const std::array<double, 3>& otherwise, float* values) {
  if (!fields.has(key)) {
    std::copy(otherwise.begin(), otherwise.end(), values);
    return;
  }
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
  static_assert(contract::kInputKinds.size() == 2);
  spec.type = fields.choice("kind", contract::kInputKinds) == 0 ? LIT_FLOAT32 : LIT_UINT8;
  spec.height = static_cast<int32_t>(fields.integer("height", 1, contract::kMaxSide));
  spec.width = static_cast<int32_t>(fields.integer("width", 1, contract::kMaxSide));
  const int64_t longer = std::max(spec.height, spec.width);
  spec.resize = static_cast<int32_t>(fields.integer("resize", 1, contract::kMaxResize * longer));
  // Pictures that keep their proportions are for tasks that this library does not run.
  if (fields.has("rule") && fields.choice("rule", contract::kResizeRules) != 0) {
    throw Damaged{fields.name("rule") + " is not a classifier's"};
  }
  if (fields.has("longest") && !fields.at("longest").is_null()) {
    throw Damaged{fields.name("longest") + " is not for the rule of classifiers"};
  }
  const int filter = fields.has("interpolation") ? fields.choice("interpolation", contract::kInterpolations) : 0;
  spec.interpolation = filter == 0 ? LIT_BICUBIC : LIT_BILINEAR;
  read_channels(fields, "mean", -contract::kMaxMean, contract::kMaxMean, contract::kDefaultMean, spec.mean);
  read_channels(fields, "std", contract::kMinStd, contract::kMaxStd, contract::kDefaultStd, spec.std);
  return spec;
}

std::string parse_precision(const Fields& fields, const char* key) {
  return contract::kPrecisions[fields.choice(key, contract::kPrecisions)];
}

// Not used here, and checked all the same: a file that one reader refuses is not to be run by the other.
void check_integers(const Fields& fields, const char* key, size_t count) {
  const Json& list = fields.list(key);
  if (list.size() != count) throw Damaged{fields.name(key) + " has not " + std::to_string(count) + " numbers"};
  for (const Json& item : list) {
    if (!item.is_number_integer()) throw Damaged{fields.name(key) + " has what is no whole number"};
  }
}

void check_texts(const Json& values, const std::string& name) {
  for (const Json& value : values) Fields::text(value, name);
}

void check_model(const Fields& model) {
  model.choice("family", contract::kFamilies);
  for (const char* key : {"embed_dims", "depths", "mlp_ratios"}) check_integers(model, key, 4);
  check_integers(model, "num_heads", 2);
  if (model.has("image_size")) check_integers(model, "image_size", 2);
}

void check_rest(const Json& document, const Fields& fields) {
  for (const char* key : {"source", "source_sha256"}) fields.text(key);
  if (fields.has("created")) fields.text("created");
  check_texts(fields.list("layers"), "layers");
  for (const char* key : {"versions", "parity"}) {
    if (!fields.has(key) || (document[key].is_null() && key[0] == 'p')) continue;
    if (!document[key].is_object()) throw Damaged{std::string(key) + " is no object"};
  }
  if (fields.has("versions")) check_texts(document["versions"], "versions");
}

// The precision of everything that is not quantised.
std::string parse_base(const Fields& quantization) {
  quantization.choice("method", contract::kCalibrationMethods);
  quantization.at("percentile");
  for (const char* key : {"source", "images_sha256"}) quantization.text(key);
  for (const char* key : {"images", "products"}) quantization.integer(key, 0, kAny);
  check_texts(quantization.list("kept"), "kept");
  return parse_precision(quantization, "base");
}

// The rule of lit_deploy/images/labels.py: one line that is not blank, without controls, separators of lines and what
// turns the direction of text. `text` is UTF-8, which the parser has seen to.
bool is_label(const std::string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto at = [&](size_t offset) { return static_cast<unsigned char>(text.c_str()[i + offset]); };
    if (at(0) < 0x20 || at(0) == 0x7f || (at(0) == 0xc2 && at(1) < 0xa0)) return false;
    if (at(0) != 0xe2) continue;
    if (at(1) == 0x80 && at(2) >= 0xa8 && at(2) <= 0xae) return false;  // U+2028 to U+202e
    if (at(1) == 0x81 && at(2) >= 0xa6 && at(2) <= 0xa9) return false;  // U+2066 to U+2069
  }
  return text.find_first_not_of(' ') != text.npos;
}

Manifest parse(const Json& document, const std::string& path) {
  const Fields fields(document, "");
  const int64_t format = fields.integer("format", 0, kAny);
  check_format("the manifest of " + path, format, "upgrade the library, or export the file again");
  Manifest manifest;
  // Format 1 knew one task, and did not name it.
  manifest.task = format == 1 && !fields.has("task") ? kTask : fields.text("task");
  if (manifest.task != kTask) {
    throw Error(LIT_NOT_SUPPORTED, path + " is for the task '" + manifest.task + "', this library runs " + kTask +
                                       " models; upgrade the library");
  }
  const int64_t op_version = fields.integer("op_version", 0, kAny);
  if (op_version != contract::kOpVersion) {
    throw Error(LIT_WRONG_VERSION, path + " uses version " + std::to_string(op_version) +
                                       " of the operator, this library implements version " +
                                       std::to_string(contract::kOpVersion) +
                                       "; use the release that wrote the file, or export it again");
  }
  const Fields model(fields.at("model"), "model");
  manifest.name = model.text("name");
  manifest.precision = parse_precision(fields, "precision");
  const bool quantized = fields.has("quantization") && !document["quantization"].is_null();
  manifest.base = quantized ? parse_base(Fields(document["quantization"], "quantization")) : manifest.precision;
  manifest.input = parse_input(Fields(fields.at("input"), "input"));
  manifest.output = fields.choice("output", contract::kOutputs);
  if (manifest.output > LIT_TOP5 || (fields.has("dense") && !document["dense"].is_null())) {
    throw Damaged{"it promises what no classifier gives"};
  }
  manifest.batch = fields.optional_integer("batch", 1, contract::kMaxBatch).value_or(0);
  manifest.portable = fields.flag("portable");
  for (const Json& label : fields.list("labels")) {
    manifest.labels.push_back(Fields::text(label, "a label"));
    if (!is_label(manifest.labels.back())) throw Damaged{"a label is blank or has control characters"};
  }
  const int64_t classes =
      model.has("num_classes") ? model.integer("num_classes", 1, kAny) : contract::kDefaultClasses;
  if (classes != manifest.classes()) throw Damaged{"it has another number of labels than of classes"};
  const int64_t channels =
      model.has("in_channels") ? model.integer("in_channels", 1, kAny) : contract::kDefaultChannels;
  if (channels != 3) {
    throw Error(LIT_NOT_SUPPORTED, path + " takes images that are not RGB, which this library does not prepare");
  }
  check_model(model);
  check_rest(document, fields);
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
  if (spec.type == LIT_UINT8) return {contract::kInputName, "uint8", {batch, spec.height, spec.width, 3}};
  return {contract::kInputName, "float32", {batch, 3, spec.height, spec.width}};
}

std::vector<TensorSpec> promised_outputs(const Manifest& manifest) {
  const int64_t batch = manifest.batch == 0 ? -1 : manifest.batch;
  std::vector<TensorSpec> outputs = {{manifest.scores_name(), "float32", {batch, manifest.scores()}}};
  if (manifest.output == LIT_TOP5) outputs.push_back({"classes", "int64", {batch, manifest.scores()}});
  return outputs;
}

void check_format(const std::string& what, int64_t format, const char* remedy) {
  if (format >= contract::kOldestFormat && format <= contract::kFormat) return;
  throw Error(LIT_WRONG_VERSION, what + " has format " + std::to_string(format) + ", this library reads " +
                                     std::to_string(contract::kOldestFormat) + " to " +
                                     std::to_string(contract::kFormat) + "; " + remedy);
}

Manifest parse_manifest(const std::string& json, const std::string& path) {
  try {
    Document document(json);
    Manifest manifest = parse(document.root(), path);
    manifest.json = json;
    return manifest;
  } catch (const Damaged& damaged) {
    throw Error(LIT_BAD_MODEL, "the manifest of " + path + " is damaged (" + damaged.what + "); export the file again");
  }
}

Manifest manifest_of_onnx(const std::string& path) {
  return parse_manifest(onnx_metadata(path, contract::kManifestKey), path);
}

Manifest manifest_of_ir(const std::string& path) { return parse_manifest(ir_metadata(path), path); }

}  // namespace lit_deploy::runtime
