#include "sidecar.h"

#include <algorithm>
#include <cctype>
#include <climits>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "contract.h"
#include "error.h"
#include "json_fields.h"
#include "shared_library.h"

namespace lit_deploy::runtime {
namespace {

constexpr int64_t kMostSize = INT32_MAX;  // of a tensor's dimension

// Where links lead; the path itself where that cannot be told.
std::string resolved(const std::string& path) {
  char buffer[PATH_MAX];
  return realpath(path.c_str(), buffer) == nullptr ? path : buffer;
}

std::vector<TensorSpec> parse_tensors(const Fields& fields, const char* key) {
  std::vector<TensorSpec> tensors;
  for (const Json& item : fields.list(key)) {
    const Fields tensor(item, fields.name(key) + "[]");
    TensorSpec spec{tensor.text("name"), tensor.text("dtype"), {}};
    for (const Json& size : tensor.list("shape")) {
      spec.shape.push_back(size.is_string() ? -1 : Fields::integer(size, tensor.name("shape"), 1, kMostSize));
    }
    if (spec.shape.empty() || spec.shape.size() > contract::kMaxRank) {
      throw Damaged{tensor.name("shape") + " has a wrong rank"};
    }
    tensors.push_back(std::move(spec));
  }
  return tensors;
}

EngineBuild parse_build(const Fields& fields) {
  EngineBuild build{};
  build.rtx = fields.choice("backend", contract::kBackends) == 1;
  build.ampere_plus = fields.choice("hardware_compatible", contract::kCompatibilities) == 1;
  build.backend_version = fields.text("backend_version");
  build.cuda_version = fields.optional_text("cuda_version");
  build.gpu = fields.optional_text("gpu");
  build.compute_capability = fields.optional_text("compute_capability");
  for (const Json& target : fields.list("targets")) build.targets.push_back(Fields::text(target, "a target"));
  build.os = fields.text("os");
  build.arch = fields.text("arch");
  build.version_compatible = fields.flag("version_compatible");
  build.workspace_mib = fields.optional_integer("workspace_mib", 0, INT64_MAX);
  build.optimization_level = fields.optional_integer("optimization_level", 0, INT64_MAX);
  fields.flag("timing_cache");
  build.layers = fields.flag("layers");
  if (fields.has("nms_candidates")) build.nms_candidates = fields.optional_integer("nms_candidates", 0, INT64_MAX);
  return build;
}

// Throws LIT_NOT_SUPPORTED for a task that is not known here: what else its sidecar says is not known, either.
void check_task(const Fields& fields, const std::string& path) {
  const Fields manifest(fields.at("manifest"), "manifest");
  if (manifest.has("task")) task_of(manifest.text("task"), path);
}

Range parse_range(const Json& list, const std::string& name, int64_t most) {
  if (!list.is_array() || list.size() != 3) throw Damaged{name + " is no list of 3 numbers"};
  Range range{};
  for (size_t i = 0; i < range.size(); ++i) range[i] = Fields::integer(list[i], name, 1, most);
  if (!std::is_sorted(range.begin(), range.end())) throw Damaged{name + " is out of order"};
  return range;
}

// Of a task that is not known yet: whether there have to be any is checked with the manifest.
std::optional<EngineSizes> parse_sizes(const Fields& fields) {
  if (!fields.has("sizes") || fields.at("sizes").is_null()) return std::nullopt;
  const Fields sizes(fields.at("sizes"), "sizes");
  const auto range = [&](const char* key) { return parse_range(sizes.at(key), sizes.name(key), contract::kMaxSide); };
  return EngineSizes{range("height"), range("width"), range("original")};
}

// What tells people about the engine: not used here, and checked all the same.
void check_remarks(const Fields& fields) {
  for (const char* key : {"onnx", "onnx_sha256"}) fields.text(key);
  if (const Json& parity = fields.at("parity"); !parity.is_null() && !parity.is_object()) {
    throw Damaged{"parity is no object"};
  }
  for (const Json& item : fields.list("inspections")) {
    const Fields inspection(item, "inspections[]");
    const std::string source = inspection.text("source");
    if (source != "network" && source != "engine") throw Damaged{inspection.name("source") + " is not known here"};
    for (const char* key : {"plugin_layers", "layers"}) inspection.integer(key, INT64_MIN, INT64_MAX);
    const Json& products = inspection.at("products");
    if (!products.is_object()) throw Damaged{"inspections[].products is no object"};
    for (const Json& count : products) Fields::integer(count, "inspections[].products", INT64_MIN, INT64_MAX);
  }
}

Sidecar parse(Json& document, const std::string& path) {
  const Fields fields(document, "");
  const int64_t format = fields.integer("format", 0, INT64_MAX);
  check_format(path, format, "use a newer library, or build the engine again");
  check_task(fields, path);
  Sidecar sidecar{};
  sidecar.engine_sha256 = fields.text("engine_sha256");
  sidecar.engine_size = fields.integer("engine_size", 0, INT64_MAX);
  check_remarks(fields);
  sidecar.build = parse_build(Fields(fields.at("build"), "build"));
  for (const Json& item : fields.list("profiles")) {
    sidecar.profiles.push_back(parse_range(item, "profiles[]", contract::kMaxBatch));
  }
  sidecar.sizes = parse_sizes(fields);
  sidecar.inputs = parse_tensors(fields, "inputs");
  sidecar.outputs = parse_tensors(fields, "outputs");
  if (!fields.at("plugin").is_null()) {
    const Fields plugin(fields.at("plugin"), "plugin");
    plugin.text("library");
    sidecar.plugin = EnginePlugin{{plugin.text("name")}, plugin.text("version"), plugin.text("namespace"),
                                  plugin.text("sha256"), plugin.flag("embedded")};
    // Sidecars of before an engine could call two plugins have none.
    if (plugin.has("others")) {
      for (const Json& name : plugin.list("others")) {
        sidecar.plugin->names.push_back(Fields::text(name, "plugin.others[]"));
      }
    }
  }
  // Alone among the objects, an .onnx file's manifest says its format itself.
  if (!fields.at("manifest").is_object()) throw Damaged{"manifest is no object"};
  Json& manifest = document["manifest"];
  manifest["format"] = format;
  sidecar.manifest = parse_manifest(manifest.dump(), path);
  if (sidecar.profiles.empty() && sidecar.manifest.batch == 0) throw Damaged{"neither profiles nor a fixed batch"};
  if (sidecar.sizes.has_value() != sidecar.manifest.is_dense()) {
    throw Damaged{"'sizes' are for all tasks but classification, and for these only"};
  }
  return sidecar;
}

std::string text_of(const Range& range) {
  return std::to_string(range[0]) + ":" + std::to_string(range[1]) + ":" + std::to_string(range[2]);
}

// As Python's shlex.quote().
std::string quoted(const std::string& word) {
  const auto safe = [](unsigned char c) {
    return (c < 128 && std::isalnum(c)) || std::string("@%+=:,./-_").find(static_cast<char>(c)) != std::string::npos;
  };
  if (!word.empty() && std::all_of(word.begin(), word.end(), safe)) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\"'\"'") : std::string(1, c);
  return text + "'";
}

}  // namespace

Sidecar read_sidecar(const std::string& engine) {
  if (!is_file(engine)) {
    throw Error(LIT_FILE_ERROR,
                engine + " is not a file; expected an engine written by lit-deploy export --format trt");
  }
  std::string path = engine + ".json";
  if (!is_file(path)) path = resolved(engine) + ".json";  // a link, as current.engine: beside what it leads to
  // Tested before it is opened: opening a pipe would wait for somebody to write.
  std::ifstream file;
  if (is_file(path)) file.open(path, std::ios::binary | std::ios::ate);
  const int64_t size = file.is_open() ? static_cast<int64_t>(file.tellg()) : -1;
  const auto damaged = [&](const std::string& what) {
    return Error(LIT_BAD_MODEL, path + " is damaged (" + what + "); build the engine again");
  };
  // One byte above the limit is enough to be told so.
  std::string text(static_cast<size_t>(std::clamp<int64_t>(size, 0, contract::kMaxJsonBytes + 1)), '\0');
  file.seekg(0);
  if (size < 0 || !file.read(text.data(), static_cast<std::streamsize>(text.size()))) {
    throw Error(LIT_FILE_ERROR, engine + " has no readable sidecar " + path.substr(path.rfind('/') + 1) +
                                    "; copy it from where the engine was built, or build it again with "
                                    "lit-deploy export --format trt");
  }
  try {
    Document document(text);
    return parse(document.root(), path);
  } catch (const Damaged& damage) {
    throw damaged(damage.what);
  } catch (const Json::exception& error) {
    throw damaged(error.what());
  }
}

std::vector<int64_t> numbers(const std::string& version) {
  std::vector<int64_t> parts;
  std::istringstream words(version);
  for (std::string word; std::getline(words, word, '.');) {
    const size_t digits = std::min(word.find_first_not_of("0123456789"), word.size());
    if (digits == 0) break;
    parts.push_back(std::stoll(word.substr(0, std::min<size_t>(digits, 18))));  // 18 digits always fit
  }
  return parts;
}

const std::vector<std::string>& rtx_targets() {
  static const std::vector<std::string> targets(contract::kRtxTargets.begin(), contract::kRtxTargets.end());
  return targets;
}

std::string rebuild(const std::string& engine, const Sidecar& sidecar, const std::string& compute_capability,
                    int64_t batch) {
  const std::string file = is_file(engine + ".onnx") ? engine : resolved(engine);
  const EngineBuild& build = sidecar.build;
  bool rtx = build.rtx;
  std::vector<std::string> targets = build.targets;
  if (rtx && !compute_capability.empty()) {
    const std::vector<std::string>& known = rtx_targets();
    rtx = std::find(known.begin(), known.end(), compute_capability) != known.end();
    targets.clear();
    if (rtx) targets.push_back(compute_capability);
  }
  std::vector<std::string> words = {"lit-deploy", "export", "--ckpt", file + ".onnx", "--format", "trt",
                                    "--out",      file,     "--builder", contract::kBackends[rtx ? 1 : 0]};
  const auto add = [&](std::initializer_list<std::string> more) { words.insert(words.end(), more); };
  if (!sidecar.profiles.empty()) {
    auto [least, best, most] = sidecar.profiles.front();
    for (const auto& profile : sidecar.profiles) {
      if (batch == 0) break;
      least = std::min({least, profile[0], batch});
      most = std::max({most, profile[2], batch});
      best = batch;
    }
    add({"--batch", text_of({least, best, most})});
  }
  if (sidecar.sizes) {
    const EngineSizes& sizes = *sidecar.sizes;
    if (sidecar.manifest.input.height == 0) add({"--size", text_of(sizes.height) + "x" + text_of(sizes.width)});
    add({"--max-original", std::to_string(sizes.original[2])});
  }
  if (build.nms_candidates) add({"--nms-candidates", std::to_string(*build.nms_candidates)});
  add({!sidecar.plugin ? "--no-plugin" : sidecar.plugin->embedded ? "--embed-plugin" : "--plugin"});
  if (build.ampere_plus) add({"--hardware-compatible"});
  if (build.version_compatible) add({"--version-compatible"});
  if (!targets.empty()) {
    std::string list;
    for (const std::string& target : targets) list += (list.empty() ? "" : ",") + target;
    add({"--target", list});
  }
  if (build.workspace_mib) add({"--workspace", std::to_string(*build.workspace_mib)});
  if (build.optimization_level) add({"--optimization-level", std::to_string(*build.optimization_level)});
  if (build.layers) add({"--layers"});
  std::string command;
  for (const std::string& word : words) command += (command.empty() ? "" : " ") + quoted(word);
  return "build it again on this machine: " + command;
}

}  // namespace lit_deploy::runtime
