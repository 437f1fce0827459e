#include "tensorrt_preflight.h"

#include <dlfcn.h>
#include <sys/utsname.h>

#include <algorithm>
#include <fstream>

#include "contract.h"
#include "error.h"
#include "sha256.h"

namespace lit_deploy::runtime {
namespace {

constexpr char kRtxName[] = "libtensorrt_rtx.so";
// Not the name in the sidecar: which file is loaded is not for an engine to say.
constexpr char kPluginLibrary[] = "liblit_deploy_tensorrt.so";
using contract::kFp8Least;

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

const std::vector<std::string>& targets_of(const EngineBuild& build) {
  return build.targets.empty() ? rtx_targets() : build.targets;
}

// The same release, or, for a version-compatible engine, a later one of the same major version.
bool release_fits(const EngineBuild& build, const std::string& version) {
  const std::vector<int64_t> built = numbers(build.backend_version), here = numbers(version);
  if (!build.version_compatible) return built == here;
  return !built.empty() && !here.empty() && built[0] == here[0] && built <= here;
}

bool gpu_fits(const EngineBuild& build, const Gpu& gpu) {
  if (build.ampere_plus) return numbers(gpu.compute_capability) >= std::vector<int64_t>{8, 0};
  if (build.rtx) {
    const std::vector<std::string>& targets = targets_of(build);
    return std::find(targets.begin(), targets.end(), gpu.compute_capability) != targets.end();
  }
  // TensorRT warns that engines are not to be moved between models, even where the compute capability is the same.
  return build.gpu == gpu.name && build.compute_capability == gpu.compute_capability;
}

// The GPUs that an engine runs on, in words.
std::string target_of(const EngineBuild& build) {
  if (build.ampere_plus) return "compute capability 8.0 and above";
  if (build.rtx) return "RTX GPUs of compute capability " + joined(targets_of(build));
  return build.gpu.value_or("an unknown GPU") + " (compute capability " +
         build.compute_capability.value_or("unknown") + ")";
}

void check_platform(const std::string& engine, const Sidecar& sidecar) {
  utsname here;
  if (uname(&here) != 0) throw Error(LIT_INTERNAL_ERROR, "uname() fails");
  const EngineBuild& build = sidecar.build;
  if (build.os == here.sysname && build.arch == here.machine) return;
  throw Error(LIT_NOT_SUPPORTED, engine + " was built for " + build.os + " " + build.arch + ", this is " +
                                     here.sysname + " " + here.machine + "; " + rebuild(engine, sidecar));
}

// TensorRT-RTX looks for itself by this name as soon as a plugin is used, and ends the process when there is no such
// file; its Python packages hold libtensorrt_rtx.so.1 only.
void check_rtx_name(const std::string& engine, const TensorRT& tensorrt) {
  void* handle = dlopen(kRtxName, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw Error(LIT_LIBRARY_NOT_FOUND,
                engine + " calls a plugin, for which TensorRT-RTX looks for " + kRtxName +
                    " and ends the process when it is not found; put a link of that name to " + tensorrt.library.path +
                    " into a folder, and that folder on LD_LIBRARY_PATH before the process starts");
  }
  const char* entry = "createInferRuntime_INTERNAL";
  if (dlsym(handle, entry) != tensorrt.library.symbol(entry)) {
    throw Error(LIT_WRONG_VERSION,
                engine + " calls a plugin, for which TensorRT-RTX looks for " + kRtxName +
                    ", and that leads to another file than " + tensorrt.library.path + "; make it a link to that file");
  }
}

// The path of the plugin library to load, "" for none.
std::string check_plugin(const std::string& engine, const Sidecar& sidecar, const Options& options,
                         const TensorRT& tensorrt) {
  std::string inside = sidecar.plugin && sidecar.plugin->embedded ? "its plugin" : "";
  if (sidecar.build.version_compatible) inside += inside.empty() ? "a runtime" : " and a runtime";
  if (!inside.empty() && !options.allow_engine_code) {
    throw Error(LIT_NOT_SUPPORTED, engine + " carries " + inside +
                                       " inside, so opening it runs code from the file; if you trust it, set "
                                       "allow_engine_code of lit_options");
  }
  if (!sidecar.plugin) return "";
  if (!options.use_operator) {
    throw Error(LIT_NOT_SUPPORTED, engine + " calls the plugin, which cannot be left out any more; build it with "
                                       "--no-plugin, or do not set operator_library to \"\"");
  }
  if (sidecar.build.rtx) check_rtx_name(engine, tensorrt);
  const EnginePlugin& plugin = *sidecar.plugin;
  if (plugin.embedded) return "";
  const Wanted wanted{"the plugin library", {kPluginLibrary}, "LIT_DEPLOY_PLUGIN", options.operator_library, false};
  const std::string remedy = "copy it there or set LIT_DEPLOY_PLUGIN; it is built by "
                             "TensorRT_ROOT=/path/to/TensorRT pip install .";
  const std::string path = find_library(wanted, remedy);
  if (path.empty()) {
    throw Error(LIT_LIBRARY_NOT_FOUND, engine + " needs the plugin library " + kPluginLibrary +
                                           ", which was not found (searched " + joined(candidates(wanted)) + "); " +
                                           remedy);
  }
  if (sha256_of_file(path) != plugin.sha256) {
    throw Error(LIT_WRONG_VERSION, engine + " was built with another plugin library than " + path + " (SHA-256 " +
                                       plugin.sha256.substr(0, 12) +
                                       " expected); set LIT_DEPLOY_PLUGIN to the one it was built with, or " +
                                       rebuild(engine, sidecar));
  }
  return path;
}

std::string read_engine(const std::string& engine, const Sidecar& sidecar) {
  std::ifstream file(engine, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0) throw Error(LIT_FILE_ERROR, engine + " cannot be read");
  std::string bytes;
  bool whole = size == sidecar.engine_size;
  if (whole) {
    bytes.resize(static_cast<size_t>(size));
    file.seekg(0);
    if (!file.read(bytes.data(), size)) throw Error(LIT_FILE_ERROR, engine + " cannot be read");
    whole = sha256_of(bytes.data(), bytes.size()) == sidecar.engine_sha256;
  }
  if (!whole) {
    throw Error(LIT_BAD_MODEL, engine + " is not the file its sidecar describes (damaged or replaced; " +
                                   std::to_string(size) + " bytes); " + rebuild(engine, sidecar));
  }
  return bytes;
}

void check_gpu(const std::string& engine, const Sidecar& sidecar, const Gpu& gpu) {
  const EngineBuild& build = sidecar.build;
  const auto major = [](const std::string& version) {
    const std::vector<int64_t> parts = numbers(version);
    return parts.empty() ? int64_t{-1} : parts[0];
  };
  if (build.cuda_version && major(gpu.driver_cuda) < major(*build.cuda_version)) {
    throw Error(LIT_WRONG_VERSION, engine + " was built with CUDA " + *build.cuda_version + ", the driver here knows " +
                                       gpu.driver_cuda + "; update the driver");
  }
  const std::string here = gpu.name + " (compute capability " + gpu.compute_capability + ")";
  if (sidecar.manifest.precision == "fp8" && numbers(gpu.compute_capability) < numbers(kFp8Least)) {
    // so a new build would not mend it
    throw Error(LIT_NOT_SUPPORTED, engine + " is of fp8, which needs compute capability " + kFp8Least +
                                       " and above, here is " + here +
                                       "; export the checkpoint again with --precision int8 or fp16");
  }
  if (!gpu_fits(build, gpu)) {
    throw Error(LIT_NO_DEVICE, engine + " was built for " + target_of(build) + ", here is " + here + "; " +
                                   rebuild(engine, sidecar, gpu.compute_capability));
  }
}

}  // namespace

Preflight preflight(const std::string& engine, const Sidecar& sidecar, const Options& options) {
  check_platform(engine, sidecar);
  Preflight found;
  found.tensorrt = load_tensorrt(engine, sidecar.build, options);
  if (!release_fits(sidecar.build, found.tensorrt.version)) {
    throw Error(LIT_WRONG_VERSION, engine + " was built by " + sidecar.build.title() + " " +
                                       sidecar.build.backend_version + ", here is " + found.tensorrt.version + " (" +
                                       found.tensorrt.library.path + "); " + rebuild(engine, sidecar));
  }
  found.plugin = check_plugin(engine, sidecar, options, found.tensorrt);
  found.bytes = read_engine(engine, sidecar);
  found.gpu = describe_gpu(options.device_index);
  check_gpu(engine, sidecar, found.gpu);
  return found;
}

}  // namespace lit_deploy::runtime
