// Compares an engine with this machine before anything of it is opened.
#ifndef LIT_DEPLOY_RUNTIME_TENSORRT_PREFLIGHT_H_
#define LIT_DEPLOY_RUNTIME_TENSORRT_PREFLIGHT_H_

#include <string>

#include "backend.h"
#include "cuda_driver.h"
#include "sidecar.h"
#include "tensorrt_library.h"

namespace lit_deploy::runtime {

// What an engine needs, found and checked.
struct Preflight {
  TensorRT tensorrt;
  std::string plugin;  // path of the plugin library to load, "" for none
  std::string bytes;   // the engine: what is deserialised is what was hashed
  Gpu gpu;
};

// In the order of lit_deploy/artifacts/preflight.py, from what costs nothing to what costs most. Throws every status of
// lit_model_open(); the sentence ends with what mends it.
Preflight preflight(const std::string& engine, const Sidecar& sidecar, const Options& options);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_TENSORRT_PREFLIGHT_H_
