// Damaged files for the C runtime. The environment variable LIT_DEPLOY_FUZZ says what the bytes are:
//   manifest   the JSON of a manifest
//   metadata   an .onnx file, of which only the manifest is read
//   model      an .onnx file that is opened and, where its images are small, run; needs LIT_DEPLOY_ONNXRUNTIME
//   sidecar    the JSON beside an engine (where the TensorRT back end is built)
// Refusing is right and so is taking; only another exception, a status without a sentence or a sanitizer's report is a
// failure. With libFuzzer (-DLIT_DEPLOY_FUZZ=ON, Clang) or with runtime_fuzz_main.cc.
#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "error.h"
#include "lit_runtime.h"
#include "manifest.h"
#if defined(LIT_DEPLOY_FUZZ_SIDECAR)
#include "sidecar.h"
#endif

namespace runtime = lit_deploy::runtime;

namespace {

constexpr int32_t kLargestSide = 128;  // of images that are run: a damaged manifest may promise 16384
constexpr int32_t kLargestBatch = 4;

void fail(const char* what) {
  std::fprintf(stderr, "runtime_fuzz: %s\n", what);
  std::abort();
}

// A folder of this process, in memory where the system has that; removed at the end with the files written to it.
class Scratch {
 public:
  Scratch() {
    char memory[] = "/dev/shm/lit_fuzz_XXXXXX", disk[] = "/tmp/lit_fuzz_XXXXXX";
    const char* made = mkdtemp(memory);
    if (made == nullptr) made = mkdtemp(disk);
    if (made == nullptr) fail("no folder for temporary files");
    folder_ = made;
  }
  ~Scratch() {
    for (const std::string& path : written_) unlink(path.c_str());
    rmdir(folder_.c_str());
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::string write(const char* name, const void* data, size_t size) {
    std::string path = folder_ + "/" + name;
    std::FILE* file = std::fopen(path.c_str(), "wb");
    if (file == nullptr || std::fwrite(data, 1, size, file) != size || std::fclose(file) != 0) fail("cannot write");
    written_.insert(path);
    return path;
  }

 private:
  std::string folder_;
  std::set<std::string> written_;
};

void expect_sentence(const std::string& sentence) {
  if (sentence.size() < 10) fail("a refusal without a sentence");
}

void check_manifest(const runtime::Manifest& manifest) {
  if (manifest.labels.empty() || manifest.input.height < 1 || manifest.input.width < 1 || manifest.batch < 0) {
    fail("an impossible manifest was taken");
  }
}

void run_once(const lit_model* model) {
  const lit_model_info* info = lit_model_get_info(model);
  const lit_input_spec& spec = info->input;
  if (spec.height > kLargestSide || spec.width > kLargestSide || info->min_batch > kLargestBatch) return;
  lit_context* context = nullptr;
  if (lit_context_create(model, &context) != LIT_OK) return expect_sentence(lit_last_error());
  const std::vector<uint8_t> pixels(size_t{3} * spec.height * spec.width * info->min_batch, 100);
  const lit_tensor tensor{LIT_UINT8, pixels.data(), info->min_batch, 0, 0};
  lit_output output;
  if (lit_run(context, &tensor, &output) == LIT_OK) {
    lit_prediction best[5];
    size_t count = 0;
    for (int64_t i = 0; i < output.batch; ++i) {
      if (lit_top_k(model, &output, i, 5, best, &count) != LIT_OK) expect_sentence(lit_last_error());
    }
  } else {
    expect_sentence(lit_last_error());
  }
  lit_context_destroy(context);
}

void open_model(const std::string& path) {
  lit_options options;
  lit_options_init(&options, sizeof(options));
  options.threads = 1;
  options.operator_library = getenv("LIT_DEPLOY_LIBRARY") == nullptr ? "" : nullptr;
  lit_model* model = nullptr;
  const lit_status status = lit_model_open(path.c_str(), &options, &model);
  if ((status == LIT_OK) != (model != nullptr)) fail("status and model do not agree");
  if (status == LIT_LIBRARY_NOT_FOUND || status == LIT_INTERNAL_ERROR) fail(lit_last_error());
  if (status != LIT_OK) return expect_sentence(lit_last_error());
  run_once(model);
  lit_model_close(model);
}

// What is thrown inside must be an Error.
template <typename Function>
void parse(Function&& function) {
  try {
    function();
  } catch (const runtime::Error& error) {
    expect_sentence(error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string target = getenv("LIT_DEPLOY_FUZZ") == nullptr ? "" : getenv("LIT_DEPLOY_FUZZ");
  static Scratch scratch;
  if (target == "manifest") {
    const std::string json(reinterpret_cast<const char*>(data), size);
    parse([&] { check_manifest(runtime::parse_manifest(json, "fuzzed.onnx")); });
  } else if (target == "metadata") {
    const std::string path = scratch.write("fuzzed.onnx", data, size);
    parse([&] { check_manifest(runtime::manifest_of_onnx(path)); });
  } else if (target == "model") {
    open_model(scratch.write("fuzzed.onnx", data, size));
#if defined(LIT_DEPLOY_FUZZ_SIDECAR)
  } else if (target == "sidecar") {
    const std::string engine = scratch.write("fuzzed.engine", "engine", 6);
    scratch.write("fuzzed.engine.json", data, size);
    parse([&] { check_manifest(runtime::read_sidecar(engine).manifest); });
#endif
  } else {
    fail("LIT_DEPLOY_FUZZ is none of manifest, metadata, model, sidecar (where that is built)");
  }
  return 0;
}
