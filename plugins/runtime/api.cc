// The C boundary: arguments are checked here, and every exception becomes a status and a sentence.
#include <pthread.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "backend.h"
#include "error.h"
#include "lit_runtime.h"
#include "preprocess.h"

using lit_deploy::runtime::Backend;
using lit_deploy::runtime::BackendContext;
using lit_deploy::runtime::Error;
using lit_deploy::runtime::Manifest;
using lit_deploy::runtime::Options;

namespace {

// What a model and its contexts share.
struct Network {
  Manifest manifest;
  std::unique_ptr<Backend> backend;
  lit_model_info info;
};

}  // namespace

struct lit_model {
  std::shared_ptr<const Network> network;
};

struct lit_context {
  std::shared_ptr<const Network> network;  // first: `runner` must go before its backend
  std::unique_ptr<BackendContext> runner;
  std::vector<uint8_t> pixels;  // of a batch that has to be put together
  std::vector<float> floats;    // the same, normalised
};

namespace {

thread_local std::string last_error;

lit_status fail(lit_status status, const char* sentence) noexcept {
  try {
    last_error = sentence;
  } catch (...) {
    last_error.clear();  // no memory even for the sentence
  }
  return status;
}

// While it lives, pthread_cancel() waits: unwinding may pass neither a back end nor this boundary.
class Uncancelled {
 public:
  Uncancelled() { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
  ~Uncancelled() { pthread_setcancelstate(before_, nullptr); }
  Uncancelled(const Uncancelled&) = delete;
  Uncancelled& operator=(const Uncancelled&) = delete;

 private:
  int before_ = PTHREAD_CANCEL_ENABLE;
};

template <typename Function>
lit_status guarded(Function&& function) noexcept {
  const Uncancelled uncancelled;
  try {
    function();
    return LIT_OK;
  } catch (const Error& error) {
    return fail(error.status(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(LIT_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(LIT_INTERNAL_ERROR, error.what());
  } catch (...) {
    return fail(LIT_INTERNAL_ERROR, "an exception of an unknown kind");
  }
}

void require(bool condition, const std::string& sentence) {
  if (!condition) throw Error(LIT_INVALID_ARGUMENT, sentence);
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// No release's lit_options comes near this; what a stack holds by chance does.
constexpr size_t kLargestOptions = 4096;

Options parse_options(const lit_options* given) {
  Options parsed;
  if (given == nullptr) return parsed;
  // A program that was compiled against other declarations: fields it does not know keep their defaults, fields that
  // are not known here must not ask for anything.
  lit_options options{};
  const size_t size = given->struct_size;
  require(size >= offsetof(lit_options, threads) && size <= kLargestOptions,
          "options were not initialised; call lit_options_init() first");
  std::memcpy(&options, given, std::min(size, sizeof(options)));
  const char* bytes = reinterpret_cast<const char*>(given);
  if (size > sizeof(options) && std::any_of(bytes + sizeof(options), bytes + size, [](char byte) { return byte; })) {
    throw Error(LIT_WRONG_VERSION, "an option was set that this library (" + std::string(lit_version()) +
                                       ") does not have; use the library that came with the header");
  }
  require(options.device == LIT_CPU || options.device == LIT_CUDA, "the device is neither LIT_CPU nor LIT_CUDA");
  require(options.device_index >= 0, "device_index is negative; expected 0 or more");
  require(options.threads >= 0 && options.threads <= 1024, "threads is outside 0..1024");
  parsed.device = options.device;
  parsed.device_index = options.device_index;
  parsed.threads = options.threads;
  if (options.backend_library != nullptr) parsed.backend_library = options.backend_library;
  if (options.operator_library != nullptr) {
    parsed.operator_library = options.operator_library;
    parsed.use_operator = !parsed.operator_library.empty();
  }
  parsed.allow_engine_code = options.allow_engine_code != 0;
  parsed.cuda_graph = options.cuda_graph != 0;
  return parsed;
}

lit_model_info describe(const Network& network) {
  lit_model_info info{};
  info.struct_size = sizeof(info);
  info.task = "classification";
  info.name = network.manifest.name.c_str();
  info.precision = network.manifest.precision.c_str();
  info.backend = network.backend->description().c_str();
  info.manifest = network.manifest.json.c_str();
  info.input = network.manifest.input;
  info.output = network.manifest.output;
  info.num_classes = static_cast<int32_t>(network.manifest.classes());
  info.min_batch = static_cast<int32_t>(network.backend->min_batch());
  info.max_batch = static_cast<int32_t>(network.backend->max_batch());
  return info;
}

std::unique_ptr<lit_model> open_model(const std::string& path, const Options& options) {
  lit_deploy::runtime::Loaded loaded;
  if (ends_with(path, ".onnx")) {
    loaded = lit_deploy::runtime::open_onnx(path, options);
  } else if (ends_with(path, ".engine") || ends_with(path, ".plan")) {
    loaded = lit_deploy::runtime::open_engine(path, options);
  } else {
    require(false, path + " is no file of lit-deploy by its name; expected .onnx, .engine or .plan");
  }
  auto network = std::make_shared<Network>();
  network->manifest = std::move(loaded.manifest);
  network->backend = std::move(loaded.backend);
  network->info = describe(*network);
  return std::unique_ptr<lit_model>(new lit_model{std::move(network)});
}

void check_batch(const lit_model_info& info, int64_t batch, int64_t least) {
  require(batch >= least && batch <= info.max_batch, "the batch has " + std::to_string(batch) +
                                                         " images; this model takes " + std::to_string(least) + " to " +
                                                         std::to_string(info.max_batch));
}

// Runs `batch` images of pixels, with strides as in lit_tensor, whatever type the file takes.
void run_pixels(lit_context& context, const uint8_t* pixels, int64_t batch, ptrdiff_t row_stride,
                ptrdiff_t image_stride, lit_output* output) {
  const lit_input_spec& spec = context.network->info.input;
  const ptrdiff_t row_bytes = ptrdiff_t{3} * spec.width;
  const size_t size = static_cast<size_t>(spec.height * row_bytes);
  if (spec.type == LIT_FLOAT32) {
    context.floats.resize(size * batch);
    for (int64_t i = 0; i < batch; ++i) {
      lit_deploy::runtime::normalize(spec, pixels + i * image_stride, row_stride, context.floats.data() + i * size);
    }
    return context.runner->run(context.floats.data(), batch, output);
  }
  if (row_stride != row_bytes || image_stride != spec.height * row_bytes) {
    context.pixels.resize(size * batch);
    uint8_t* target = context.pixels.data();
    for (int64_t i = 0; i < batch; ++i) {
      for (int32_t y = 0; y < spec.height; ++y, target += row_bytes) {
        std::memcpy(target, pixels + i * image_stride + y * row_stride, row_bytes);
      }
    }
    pixels = context.pixels.data();
  }
  context.runner->run(pixels, batch, output);
}

// `count` steps of `stride` bytes must stay within half of what a ptrdiff_t holds, so that two such sums do within all.
void check_reach(const char* name, ptrdiff_t stride, int64_t count) {
  const ptrdiff_t longest = std::numeric_limits<ptrdiff_t>::max() / 2 / count;
  require(stride <= longest && stride >= -longest, std::string(name) + " is " + std::to_string(stride) +
                                                       " bytes, so that " + std::to_string(count) +
                                                       " of them exceed the address space");
}

void run_tensor(lit_context& context, const lit_tensor& input, lit_output* output) {
  const lit_model_info& info = context.network->info;
  const lit_input_spec& spec = info.input;
  require(input.data != nullptr, "the input's data is NULL");
  require(input.type == LIT_UINT8 || input.type == LIT_FLOAT32,
          "the input's type is neither LIT_UINT8 nor LIT_FLOAT32");
  check_batch(info, input.batch, info.min_batch);
  if (input.type == LIT_FLOAT32) {
    require(spec.type == LIT_FLOAT32,
            "the input is LIT_FLOAT32, this model takes LIT_UINT8: its normalisation is inside the file");
    require(input.row_stride == 0 && input.image_stride == 0,
            "a LIT_FLOAT32 input has strides; expected dense data and strides of 0");
    return context.runner->run(input.data, input.batch, output);
  }
  const ptrdiff_t row_bytes = ptrdiff_t{3} * spec.width;
  const ptrdiff_t row_stride = input.row_stride == 0 ? row_bytes : input.row_stride;
  require(row_stride >= row_bytes || row_stride <= -row_bytes,
          "row_stride is " + std::to_string(row_stride) + " bytes, a row has " + std::to_string(row_bytes));
  check_reach("row_stride", row_stride, spec.height);
  const ptrdiff_t image_stride = input.image_stride == 0 ? spec.height * row_stride : input.image_stride;
  check_reach("image_stride", image_stride, input.batch);
  run_pixels(context, static_cast<const uint8_t*>(input.data), input.batch, row_stride, image_stride, output);
}

void run_images(lit_context& context, const lit_image* images, size_t count, lit_output* output) {
  const lit_model_info& info = context.network->info;
  check_batch(info, count > INT32_MAX ? INT32_MAX : static_cast<int64_t>(count), 1);
  const size_t size = size_t{3} * info.input.height * info.input.width;
  const size_t batch = std::max<size_t>(count, info.min_batch);
  context.pixels.resize(batch * size);
  for (size_t i = 0; i < count; ++i) {
    try {
      lit_deploy::runtime::preprocess(info.input, images[i], context.pixels.data() + i * size);
    } catch (const Error& error) {
      throw Error(error.status(), "image " + std::to_string(i) + ": " + error.what());
    }
  }
  for (size_t i = count; i < batch; ++i) {
    std::memcpy(context.pixels.data() + i * size, context.pixels.data() + (count - 1) * size, size);
  }
  run_pixels(context, context.pixels.data(), static_cast<int64_t>(batch), ptrdiff_t{3} * info.input.width,
             static_cast<ptrdiff_t>(size), output);
  output->batch = static_cast<int64_t>(count);
}

// Runs `function`, which gives the output its pointers; on failure the output is empty.
template <typename Function>
lit_status run(lit_context* context, lit_output* output, Function&& function) noexcept {
  if (output != nullptr) *output = {};
  return guarded([&] {
    require(context != nullptr, "the context is NULL");
    require(output != nullptr, "the output is NULL");
    lit_output result{};
    function(&result);
    result.count = context->network->manifest.scores();
    *output = result;
  });
}

void find_top_k(const Network& network, const lit_output& output, int64_t image, size_t k, lit_prediction* predictions,
                size_t* count) {
  const Manifest& manifest = network.manifest;
  const bool top5 = manifest.output == LIT_TOP5;
  require(output.scores != nullptr && (output.classes != nullptr) == top5 && output.count == manifest.scores(),
          "the output is not one of this model");
  require(image >= 0 && image < output.batch,
          "image is " + std::to_string(image) + "; the output has " + std::to_string(output.batch) + " of them");
  const float* scores = output.scores + image * output.count;
  std::vector<double> probabilities(scores, scores + output.count);
  if (manifest.output == LIT_LOGITS) {
    const double highest = *std::max_element(probabilities.begin(), probabilities.end());
    double sum = 0;
    for (double& value : probabilities) {
      value = std::exp(value - highest);
      sum += value;
    }
    for (double& value : probabilities) value /= sum;
  }
  std::vector<int64_t> order(probabilities.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  const size_t best = std::min(k, order.size());
  if (!top5) {
    std::partial_sort(order.begin(), order.begin() + best, order.end(), [&](int64_t a, int64_t b) {
      const double left = probabilities[a], right = probabilities[b];
      if (std::isnan(left) || std::isnan(right))
        return std::isnan(left) == std::isnan(right) ? a < b : std::isnan(right);
      return left != right ? left > right : a < b;
    });
  }
  for (size_t i = 0; i < best; ++i) {
    const int64_t index = top5 ? output.classes[image * output.count + order[i]] : order[i];
    require(index >= 0 && index < manifest.classes(),
            "the output names class " + std::to_string(index) + ", which the model does not have");
    predictions[i] = {index, static_cast<float>(probabilities[order[i]]), manifest.labels[index].c_str()};
  }
  *count = best;
}

}  // namespace

extern "C" {

int32_t lit_abi_version(void) { return LIT_ABI_VERSION; }

const char* lit_version(void) { return LIT_DEPLOY_VERSION; }

const char* lit_status_name(lit_status status) {
  switch (status) {
    case LIT_OK: return "LIT_OK";
    case LIT_INVALID_ARGUMENT: return "LIT_INVALID_ARGUMENT";
    case LIT_FILE_ERROR: return "LIT_FILE_ERROR";
    case LIT_BAD_MODEL: return "LIT_BAD_MODEL";
    case LIT_NOT_SUPPORTED: return "LIT_NOT_SUPPORTED";
    case LIT_LIBRARY_NOT_FOUND: return "LIT_LIBRARY_NOT_FOUND";
    case LIT_WRONG_VERSION: return "LIT_WRONG_VERSION";
    case LIT_NO_DEVICE: return "LIT_NO_DEVICE";
    case LIT_OUT_OF_MEMORY: return "LIT_OUT_OF_MEMORY";
    case LIT_RUN_FAILED: return "LIT_RUN_FAILED";
    case LIT_INTERNAL_ERROR: return "LIT_INTERNAL_ERROR";
  }
  return "LIT_UNKNOWN_STATUS";
}

const char* lit_last_error(void) { return last_error.c_str(); }

lit_status lit_options_init(lit_options* options, size_t struct_size) {
  return guarded([&] {
    require(options != nullptr && struct_size >= offsetof(lit_options, threads) && struct_size <= kLargestOptions,
            "expected lit_options_init(&options, sizeof(options))");
    std::memset(options, 0, struct_size);
    options->struct_size = struct_size;
  });
}

lit_status lit_model_open(const char* path, const lit_options* options, lit_model** model) {
  if (model != nullptr) *model = nullptr;
  return guarded([&] {
    require(path != nullptr, "the path is NULL");
    require(model != nullptr, "the place for the model is NULL");
    *model = open_model(path, parse_options(options)).release();
  });
}

void lit_model_close(lit_model* model) {
  const Uncancelled uncancelled;
  delete model;
}

const lit_model_info* lit_model_get_info(const lit_model* model) {
  return model == nullptr ? nullptr : &model->network->info;
}

const char* lit_model_label(const lit_model* model, int64_t class_index) {
  if (model == nullptr) return nullptr;
  const Manifest& manifest = model->network->manifest;
  return class_index < 0 || class_index >= manifest.classes() ? nullptr : manifest.labels[class_index].c_str();
}

lit_status lit_preprocess(const lit_input_spec* spec, const lit_image* image, uint8_t* pixels) {
  return guarded([&] {
    require(spec != nullptr && image != nullptr && image->pixels != nullptr && pixels != nullptr,
            "lit_preprocess() received NULL; expected a spec, an image with pixels and memory for the result");
    lit_deploy::runtime::preprocess(*spec, *image, pixels);
  });
}

lit_status lit_context_create(const lit_model* model, lit_context** context) {
  if (context != nullptr) *context = nullptr;
  return guarded([&] {
    require(model != nullptr && context != nullptr,
            "lit_context_create() received NULL; expected a model and a place for the context");
    auto made = std::make_unique<lit_context>();
    made->network = model->network;
    made->runner = model->network->backend->create_context();
    *context = made.release();
  });
}

void lit_context_destroy(lit_context* context) {
  const Uncancelled uncancelled;
  delete context;
}

lit_status lit_run(lit_context* context, const lit_tensor* input, lit_output* output) {
  return run(context, output, [&](lit_output* result) {
    require(input != nullptr, "the input is NULL");
    run_tensor(*context, *input, result);
    result->batch = input->batch;
  });
}

lit_status lit_run_images(lit_context* context, const lit_image* images, size_t count, lit_output* output) {
  return run(context, output, [&](lit_output* result) {
    require(images != nullptr || count == 0, "the images are NULL");
    run_images(*context, images, count, result);
  });
}

lit_status lit_top_k(const lit_model* model, const lit_output* output, int64_t image, size_t k,
                     lit_prediction* predictions, size_t* count) {
  if (count != nullptr) *count = 0;
  return guarded([&] {
    require(model != nullptr && output != nullptr && count != nullptr && (predictions != nullptr || k == 0),
            "lit_top_k() received NULL; expected a model, its output and places for the result");
    find_top_k(*model->network, *output, image, k, predictions, count);
  });
}

}  // extern "C"
