// What an exported file says about itself (lit_deploy/artifacts/manifest.py writes it, docs/format.md describes it).
#ifndef LIT_DEPLOY_RUNTIME_MANIFEST_H_
#define LIT_DEPLOY_RUNTIME_MANIFEST_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "contract.h"
#include "lit_runtime.h"

namespace lit_deploy::runtime {

// An input or output of a network.
struct TensorSpec {
  std::string name;
  std::string dtype;           // as NumPy names it
  std::vector<int64_t> shape;  // -1: dynamic

  // Whether name, type, rank and all sizes that both fix agree.
  bool agrees(const TensorSpec& other) const;
  // The same, and the same sizes are fixed: of an input whose size one of both fixes alone, nobody knows whether the
  // graph can run it.
  bool equals(const TensorSpec& other) const;
  std::string text() const;  // "float32 logits [batch, 1000]", for messages
  bool fixed() const { return std::find(shape.begin(), shape.end(), -1) == shape.end(); }
};

// TensorSpec::agrees or equals.
using Compare = bool (TensorSpec::*)(const TensorSpec&) const;

// In the order of contract::kTasks.
enum class Task { kClassification, kDetection, kInstanceSegmentation, kSemanticSegmentation };

// How detectors and segmentation networks take their pictures, and what becomes of what they find; nothing of it counts
// for a classifier.
struct Dense {
  int32_t longest;      // what the longer side of a resized picture may have at most, pixels
  int32_t pad_multiple;  // zeros that the graph adds make both sides a multiple of it; 1 for none
  std::vector<int64_t> category_ids;            // per class
  std::vector<std::array<uint8_t, 3>> palette;  // per class, RGB
  double score_threshold;
  int64_t max_detections;
  int64_t mask_size;  // rows and columns of a mask inside its box; 0 where there are none
};

struct Manifest {
  std::string json;  // all of it, as it was read
  Task task;
  std::string name;
  std::string precision;  // of an 8-bit file, that of its quantised products
  std::string base;       // of everything else
  lit_input_spec input;  // height or width 0: any
  std::array<double, 3> mean, std;  // those of `input`, as they were written
  lit_output_kind output;
  std::vector<std::string> labels;
  int64_t features;  // length of the vector before the classifier's head: the channels of the last stage
  int64_t batch;     // 0: dynamic
  bool portable;
  Dense dense;

  const char* task_name() const { return contract::kTasks[static_cast<size_t>(task)]; }
  bool is_dense() const { return task != Task::kClassification; }
  int64_t classes() const { return static_cast<int64_t>(labels.size()); }
  // Scores per image that the file returns, or the length of its feature vector.
  int64_t scores() const {
    if (output == LIT_FEATURES) return features;
    return output == LIT_TOP5 ? std::min(classes(), contract::kBestClasses) : classes();
  }
  // Name of the output that holds them; that of LIT_TOP5's indices is "classes".
  const char* scores_name() const {
    return output == LIT_TOP5 ? "scores" : contract::kOutputs[output];
  }
};

// The inputs and outputs that a manifest promises, those of layers left out.
std::vector<TensorSpec> promised_inputs(const Manifest& manifest);
std::vector<TensorSpec> promised_outputs(const Manifest& manifest);

// A task by its name in a manifest; `path` is for messages. Throws LIT_NOT_SUPPORTED.
Task task_of(const std::string& name, const std::string& path);

// Throws LIT_WRONG_VERSION unless this library reads the layout of `what`, a manifest or sidecar.
void check_format(const std::string& what, int64_t format, const char* remedy);

// Reads a manifest's JSON; `path` is for messages. Throws LIT_BAD_MODEL (damaged, impossible values) or
// LIT_WRONG_VERSION (a newer layout, another version of the operator).
Manifest parse_manifest(const std::string& json, const std::string& path);

// Reads the manifest inside an .onnx file, without reading its weights. Throws LIT_FILE_ERROR, too.
Manifest manifest_of_onnx(const std::string& path);

// Reads the manifest inside an OpenVINO IR, whose weights lie beside it. Throws LIT_FILE_ERROR, too.
Manifest manifest_of_ir(const std::string& path);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_MANIFEST_H_
