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
constexpr const char* kFirstTask = contract::kTasks[0];

// Three numbers between `least` and `most`, or the default's where there are none.
void read_channels(const Fields& fields, const char* key, double least, double most,
                   const std::array<double, 3>& otherwise, std::array<double, 3>* values) {
  *values = otherwise;
  if (!fields.has(key)) return;
  const Json& list = fields.list(key);
  if (list.size() != 3) throw Damaged{fields.name(key) + " has not 3 numbers"};
  for (size_t i = 0; i < 3; ++i) {
    const double value = list[i].is_number() ? list[i].get<double>() : std::numeric_limits<double>::quiet_NaN();
    if (!(value >= least && value <= most)) throw Damaged{fields.name(key) + " is out of range"};
    (*values)[i] = value;
  }
}

// A side that may be left open, as 0.
int32_t optional_side(const Fields& fields, const char* key) {
  return static_cast<int32_t>(fields.optional_integer(key, 1, contract::kMaxSide).value_or(0));
}

void parse_input(const Fields& fields, Manifest* manifest) {
  lit_input_spec& spec = manifest->input;
  static_assert(contract::kInputKinds.size() == 2);
  static_assert(contract::kResizeRules.size() == 2);
  spec.type = fields.choice("kind", contract::kInputKinds) == 0 ? LIT_FLOAT32 : LIT_UINT8;
  const bool keeps_ratio = fields.has("rule") && fields.choice("rule", contract::kResizeRules) == 1;
  if (keeps_ratio != manifest->is_dense()) {
    throw Damaged{fields.name("rule") + " is not that of the task " + manifest->task_name()};
  }
  spec.height = optional_side(fields, "height");
  spec.width = optional_side(fields, "width");
  if (!keeps_ratio && (spec.height == 0 || spec.width == 0)) {
    throw Damaged{fields.name("height") + " or width is missing, which a crop needs"};
  }
  manifest->dense.longest = fields.has("longest") ? optional_side(fields, "longest") : 0;
  if (keeps_ratio != (manifest->dense.longest != 0)) {
    throw Damaged{fields.name("longest") + " is for the rule keep_ratio, and for it alone"};
  }
  const int64_t longer = std::max({spec.height, spec.width, manifest->dense.longest});
  spec.resize = static_cast<int32_t>(fields.integer("resize", 1, contract::kMaxResize * longer));
  manifest->dense.pad_multiple =
      fields.has("pad_multiple") ? static_cast<int32_t>(fields.integer("pad_multiple", 1, kAny)) : 1;
  const int filter = fields.has("interpolation") ? fields.choice("interpolation", contract::kInterpolations) : 0;
  spec.interpolation = keeps_ratio ? LIT_BILINEAR_OPENCV : filter == 0 ? LIT_BICUBIC : LIT_BILINEAR;
  read_channels(fields, "mean", -contract::kMaxMean, contract::kMaxMean, contract::kDefaultMean, &manifest->mean);
  read_channels(fields, "std", contract::kMinStd, contract::kMaxStd, contract::kDefaultStd, &manifest->std);
  for (size_t i = 0; i < 3; ++i) {
    spec.mean[i] = static_cast<float>(manifest->mean[i]);
    spec.std[i] = static_cast<float>(manifest->std[i]);
  }
}

// A number, or the default's where there is none; `above`: greater than `least`, which is allowed otherwise.
double parse_threshold(const Fields& fields, const char* key, double otherwise, bool above) {
  if (!fields.has(key)) return otherwise;
  const Json& value = fields.at(key);
  const double number = value.is_number() ? value.get<double>() : -1;
  // Scores are below 1 and may all count; an overlap of 0 is none, and all boxes may overlap.
  if (above ? !(number > 0 && number <= 1) : !(number >= 0 && number < 1)) {
    throw Damaged{fields.name(key) + " is no number within 0 to 1"};
  }
  return number;
}

int64_t parse_count(const Fields& fields, const char* key, int64_t otherwise) {
  return fields.has(key) ? fields.integer(key, 1, contract::kMaxDetections) : otherwise;
}

void parse_dense(const Fields& fields, Dense* dense) {
  for (const Json& number : fields.list("category_ids")) {
    dense->category_ids.push_back(Fields::integer(number, "a category id", std::numeric_limits<int64_t>::min(),
                                                  std::numeric_limits<int64_t>::max()));
  }
  for (const Json& colour : fields.list("palette")) {
    if (!colour.is_array() || colour.size() != 3) throw Damaged{"a colour is no list of 3 numbers"};
    std::array<uint8_t, 3> rgb{};
    for (size_t i = 0; i < 3; ++i) rgb[i] = static_cast<uint8_t>(Fields::integer(colour[i], "a colour", 0, 255));
    dense->palette.push_back(rgb);
  }
  dense->score_threshold = parse_threshold(fields, "score_threshold", contract::kDefaultScoreThreshold, false);
  parse_threshold(fields, "iou_threshold", contract::kDefaultIouThreshold, true);
  dense->max_detections = parse_count(fields, "max_detections", contract::kDefaultMaxDetections);
  parse_count(fields, "candidates", contract::kDefaultCandidates);
  dense->mask_size = fields.has("mask_size") ? fields.integer("mask_size", 0, contract::kMaxSide) : 0;
}

// What a file gives has to be what its task knows.
void check_output(const Manifest& manifest) {
  const bool results = manifest.output == LIT_RESULTS;
  const bool logits = manifest.output == LIT_LOGITS;
  const bool semantic = manifest.task == Task::kSemanticSegmentation;
  const bool known = manifest.is_dense() ? results || (logits && semantic) : !results;
  if (!known) throw Damaged{std::string("its output is none of the task ") + manifest.task_name()};
  if (manifest.task == Task::kInstanceSegmentation && manifest.dense.mask_size == 0) {
    throw Damaged{"its masks have no size"};
  }
}

std::string parse_precision(const Fields& fields, const char* key) {
  return contract::kPrecisions[fields.choice(key, contract::kPrecisions)];
}

// Not used here, and checked all the same: a file that one reader refuses is not to be run by the other.
const Json& check_integers(const Fields& fields, const char* key, size_t count) {
  const Json& list = fields.list(key);
  if (list.size() != count) throw Damaged{fields.name(key) + " has not " + std::to_string(count) + " numbers"};
  for (const Json& item : list) {
    if (!item.is_number_integer()) throw Damaged{fields.name(key) + " has what is no whole number"};
  }
  return list;
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
  Manifest manifest{};
  // Format 1 knew one task, and did not name it.
  manifest.task = task_of(format == 1 && !fields.has("task") ? kFirstTask : fields.text("task"), path);
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
  parse_input(Fields(fields.at("input"), "input"), &manifest);
  manifest.output = fields.choice("output", contract::kOutputs);
  if (manifest.output == LIT_FEATURES) {
    manifest.features = Fields::integer(check_integers(model, "embed_dims", 4)[3], "embed_dims", 1, kAny);
  }
  const bool dense = fields.has("dense") && !document["dense"].is_null();
  if (dense != manifest.is_dense()) throw Damaged{"'dense' is for all tasks but classification, and for these only"};
  if (dense) parse_dense(Fields(document["dense"], "dense"), &manifest.dense);
  check_output(manifest);
  manifest.batch = fields.optional_integer("batch", 1, contract::kMaxBatch).value_or(0);
  manifest.portable = fields.flag("portable");
  for (const Json& label : fields.list("labels")) {
    manifest.labels.push_back(Fields::text(label, "a label"));
    if (!is_label(manifest.labels.back())) throw Damaged{"a label is blank or has control characters"};
  }
  const int64_t classes =
      model.has("num_classes") ? model.integer("num_classes", 1, kAny) : contract::kDefaultClasses;
  if (classes != manifest.classes()) throw Damaged{"it has another number of labels than of classes"};
  if (dense && (static_cast<int64_t>(manifest.dense.category_ids.size()) != classes ||
                static_cast<int64_t>(manifest.dense.palette.size()) != classes)) {
    throw Damaged{"it has another number of category ids or colours than of classes"};
  }
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

bool TensorSpec::equals(const TensorSpec& other) const {
  if (!agrees(other)) return false;
  for (size_t i = 0; i < shape.size(); ++i) {
    if ((shape[i] >= 0) != (other.shape[i] >= 0)) return false;
  }
  return true;
}

std::string TensorSpec::text() const {
  std::string sizes;
  for (const int64_t size : shape) sizes += (sizes.empty() ? "" : ", ") + (size < 0 ? "batch" : std::to_string(size));
  return dtype + " " + name + " [" + sizes + "]";
}

std::vector<TensorSpec> promised_inputs(const Manifest& manifest) {
  const lit_input_spec& spec = manifest.input;
  const bool dense = manifest.is_dense();
  const char* const name = dense ? contract::kImageName : contract::kInputName;
  const int64_t batch = dense ? 1 : manifest.batch == 0 ? -1 : manifest.batch;
  const int64_t height = spec.height == 0 ? -1 : spec.height, width = spec.width == 0 ? -1 : spec.width;
  std::vector<TensorSpec> inputs;
  if (spec.type == LIT_UINT8) inputs.push_back({name, "uint8", {batch, height, width, 3}});
  if (spec.type == LIT_FLOAT32) inputs.push_back({name, "float32", {batch, 3, height, width}});
  if (dense) inputs.push_back({contract::kOriginalSizeName, "int64", {2}});
  return inputs;
}

std::vector<TensorSpec> promised_outputs(const Manifest& manifest) {
  if (manifest.task == Task::kSemanticSegmentation) {
    if (manifest.output == LIT_RESULTS) return {{"labels", "uint8", {1, -1, -1}}};
    return {{"logits", "float32", {1, manifest.classes(), -1, -1}}};
  }
  if (manifest.is_dense()) {
    const int64_t most = manifest.dense.max_detections, side = manifest.dense.mask_size;
    std::vector<TensorSpec> found = {{"boxes", "float32", {1, most, 4}},
                                     {"scores", "float32", {1, most}},
                                     {"labels", "int32", {1, most}},
                                     {"num", "int32", {1}}};
    if (manifest.task == Task::kInstanceSegmentation) found.push_back({"masks", "float32", {1, most, side, side}});
    return found;
  }
  const int64_t batch = manifest.batch == 0 ? -1 : manifest.batch;
  std::vector<TensorSpec> outputs = {{manifest.scores_name(), "float32", {batch, manifest.scores()}}};
  if (manifest.output == LIT_TOP5) outputs.push_back({"classes", "int64", {batch, manifest.scores()}});
  return outputs;
}

Task task_of(const std::string& name, const std::string& path) {
  std::string known;
  for (size_t i = 0; i < contract::kTasks.size(); ++i) {
    if (name == contract::kTasks[i]) return static_cast<Task>(i);
    known += (known.empty() ? "" : ", ") + std::string(contract::kTasks[i]);
  }
  throw Error(LIT_NOT_SUPPORTED,
              path + " is for the task '" + name + "', this library runs " + known + "; upgrade the library");
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
