#include "tensorrt_library.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "error.h"

namespace lit_deploy::runtime {
namespace {

#ifdef TRT_MAJOR_RTX  // defined by TensorRT-RTX's own headers
constexpr bool kRtxHeaders = true;
#else
constexpr bool kRtxHeaders = false;
#endif
constexpr int64_t kMajor = NV_TENSORRT_MAJOR, kMinor = NV_TENSORRT_MINOR;

std::string headers() {
  return std::string(kRtxHeaders ? "TensorRT-RTX " : "TensorRT ") + std::to_string(kMajor) + "." +
         std::to_string(kMinor);
}

// Whether objects of a release are laid out as these headers say. Within a major version of TensorRT virtual functions
// are only added at the end (10.0, 10.9, 10.16; 11.0, 11.1: compared), and nothing newer than 10.0 is called here.
// TensorRT-RTX counts from 1 while its classes follow TensorRT's. 1.7 lays out as TensorRT 11 does: IRuntime and
// IPluginRegistry were called (1.7.1.116), the entries of ICudaEngine and IExecutionContext were read from its Python
// module, which calls them. Engines of it were not run on a GPU by this code. Other releases: not known.
bool laid_out_alike(bool rtx, const std::vector<int64_t>& release) {
  const int64_t major = release.empty() ? 0 : release[0], minor = release.size() < 2 ? 0 : release[1];
  if (kRtxHeaders) return rtx && major == kMajor && minor == kMinor;
  if (rtx) return kMajor == 11 && major == 1 && minor == 7;
  return major == kMajor;
}

void require_layout(const std::string& engine, bool rtx, const char* title, const std::string& version) {
  if (laid_out_alike(rtx, numbers(version))) return;
  const std::string fitting = rtx ? "TensorRT-RTX " + version + ", or for 1.7 those of TensorRT 11"
                                  : "TensorRT " + version.substr(0, version.find('.'));
  throw Error(LIT_NOT_SUPPORTED, engine + " needs " + title + " " + version +
                                     "; this liblit_deploy_runtime.so was compiled with the headers of " + headers() +
                                     ", whose classes differ; build it with -DTensorRT_ROOT=<headers of " + fitting +
                                     ">");
}

class Logger final : public nvinfer1::ILogger {
 public:
  static thread_local std::string first;

  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR || !first.empty() || message == nullptr) return;
    try {
      first = message;
    } catch (...) {  // no memory even for the sentence; nothing may be thrown through TensorRT
    }
  }
};
thread_local std::string Logger::first;

// Never destroyed: TensorRT keeps a pointer to it, and its own threads may outlive everything here.
Logger& logger() {
  static Logger& logger = *new Logger;
  return logger;
}

template <typename Function>
Function* function(const SharedLibrary& library, const char* name) {
  void* symbol = library.symbol(name);
  if (symbol == nullptr) {
    throw Error(LIT_WRONG_VERSION,
                library.path + " has no " + name + "(); expected TensorRT 10 or newer, or TensorRT-RTX");
  }
  return reinterpret_cast<Function*>(symbol);
}

std::string version_of(const SharedLibrary& library) {
  std::string version;
  for (const char* part : {"Major", "Minor", "Patch", "Build"}) {
    const std::string name = std::string("getInferLib") + part + "Version";
    version += (version.empty() ? "" : ".") + std::to_string(function<int32_t() noexcept>(library, name.c_str())());
  }
  return version;
}

}  // namespace

TensorRT load_tensorrt(const std::string& engine, const EngineBuild& build, const Options& options) {
  require_layout(engine, build.rtx, build.title(), build.backend_version);
  Wanted wanted{build.title(), {}, "LIT_DEPLOY_TENSORRT", options.backend_library, true};
  if (build.rtx) {
    wanted.names = {"libtensorrt_rtx.so.1", "libtensorrt_rtx.so"};
  } else {
    wanted.names = {"libnvinfer.so." + std::to_string(numbers(build.backend_version)[0])};
  }
  TensorRT tensorrt;
  tensorrt.library = load_library(
      wanted, engine + " needs " + build.title() + " " + build.backend_version +
                  ": install it and name it with LIT_DEPLOY_TENSORRT, or put its folder on LD_LIBRARY_PATH");
  tensorrt.version = version_of(tensorrt.library);
  // The library may be another one than the engine's. Releases of TensorRT-RTX are told by their numbers, from 1 on.
  const std::vector<int64_t> found = numbers(tensorrt.version);
  if ((found[0] < 10) != build.rtx) {
    throw Error(LIT_WRONG_VERSION, tensorrt.library.path + " is " + tensorrt.version + ", which is not " +
                                       build.title() + "; " + engine + " needs " + build.title() + " " +
                                       build.backend_version);
  }
  require_layout(engine, build.rtx, build.title(), tensorrt.version);
  return tensorrt;
}

std::unique_ptr<nvinfer1::IRuntime> TensorRT::create_runtime(const char* title) const {
  // The version is the library's own, not the headers': that they fit was checked above, better than it does.
  const auto library_version = function<int32_t() noexcept>(library, "getInferLibVersion");
  const auto create = function<void*(void*, int32_t) noexcept>(library, "createInferRuntime_INTERNAL");
  forget_errors();
  nvinfer1::ILogger& log = logger();
  std::unique_ptr<nvinfer1::IRuntime> runtime(static_cast<nvinfer1::IRuntime*>(create(&log, library_version())));
  if (runtime == nullptr) {
    throw Error(status_of_first_error(LIT_NOT_SUPPORTED),
                std::string(title) + " " + version + " (" + library.path + ") does not start (" + first_error() +
                    "); check its installation");
  }
  return runtime;
}

bool can_capture(const EngineBuild& build) { return !build.rtx || kRtxHeaders; }

std::unique_ptr<nvinfer1::IExecutionContext> create_execution_context(nvinfer1::ICudaEngine& engine, bool own_graph) {
#ifdef TRT_MAJOR_RTX
  // Not compiled anywhere yet: no package brings these headers.
  if (own_graph) {
    std::unique_ptr<nvinfer1::IRuntimeConfig> config(engine.createRuntimeConfig());
    constexpr auto kWhole = nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE;
    if (config == nullptr || !config->setCudaGraphStrategy(kWhole)) return nullptr;
    return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContext(config.get()));
  }
#else
  static_cast<void>(own_graph);
#endif
  return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContext());
}

void forget_errors() noexcept { Logger::first.clear(); }

std::string first_error() {
  const std::string& text = Logger::first;
  const size_t begin = std::min(text.find_first_not_of(" \t\r\n"), text.size());
  return text.substr(begin, std::min(text.find('\n', begin), text.size()) - begin);
}

lit_status status_of_first_error(lit_status otherwise) {
  std::string text = Logger::first;
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  const std::array<const char*, 3> words = {"out of memory", "outofmemory", "memory allocation"};
  const bool memory = std::any_of(words.begin(), words.end(), [&](const char* w) { return text.find(w) != text.npos; });
  return memory ? LIT_OUT_OF_MEMORY : otherwise;
}

}  // namespace lit_deploy::runtime
