// The sidecar of an engine, "<engine>.json" (lit_deploy/artifacts/sidecar.py writes it): what the engine is bound to.
#ifndef LIT_DEPLOY_RUNTIME_SIDECAR_H_
#define LIT_DEPLOY_RUNTIME_SIDECAR_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "manifest.h"

namespace lit_deploy::runtime {

// The plugin that an engine calls.
struct EnginePlugin {
  std::vector<std::string> names;  // of all that the engine calls, which one library holds
  std::string version, name_space;
  std::string sha256;  // of the library
  bool embedded;  // the library lies inside the engine
};

// What the builder was told and where it ran.
struct EngineBuild {
  bool rtx;  // by TensorRT-RTX
  std::string backend_version;
  std::optional<std::string> cuda_version, gpu, compute_capability;
  std::vector<std::string> targets;  // compute capabilities; empty: TensorRT-RTX's own choice
  std::string os, arch;              // as Python's platform names them
  bool ampere_plus;                  // runs on compute capability 8.0 and above
  bool version_compatible;           // runs on later releases of the same major version
  std::optional<int64_t> workspace_mib, optimization_level;
  bool layers;  // the outputs of all layers are outputs of the engine
  std::optional<int64_t> nms_candidates;  // of a detector, where its sidecar says so

  const char* title() const { return rtx ? "TensorRT-RTX" : "TensorRT"; }
};

// (least, best, most) of something.
using Range = std::array<int64_t, 3>;

// What the engine of a detector or segmentation network was built for, in pixels.
struct EngineSizes {
  Range height, width;  // of a resized picture, not padded
  Range original;       // of either side of what it was resized from
};

struct Sidecar {
  std::string engine_sha256;
  int64_t engine_size;
  EngineBuild build;
  std::vector<Range> profiles;        // images; empty: a fixed batch
  std::optional<EngineSizes> sizes;  // of all but classifiers
  std::vector<TensorSpec> inputs, outputs;
  std::optional<EnginePlugin> plugin;
  Manifest manifest;
};

// Reads the sidecar of an engine. Throws LIT_FILE_ERROR (engine or sidecar is missing), LIT_BAD_MODEL (damaged) or
// LIT_WRONG_VERSION (a newer layout).
Sidecar read_sidecar(const std::string& engine);

// "build it again on this machine: lit-deploy export ...", from the ONNX file beside the engine. With a GPU's compute
// capability ("": none), for that GPU; with `batch`, for a profile that takes so many images as well.
std::string rebuild(const std::string& engine, const Sidecar& sidecar, const std::string& compute_capability = "",
                    int64_t batch = 0);

// Leading numeric parts of a version: "10.16.0.72" is (10, 16, 0, 72).
std::vector<int64_t> numbers(const std::string& version);

// What TensorRT-RTX builds for by itself (contract::kRtxTargets).
const std::vector<std::string>& rtx_targets();

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_SIDECAR_H_
