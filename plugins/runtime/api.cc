// The C boundary: arguments are checked here, and every exception becomes a status and a sentence.
#include <pthread.h>

#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "backend.h"
#include "contract.h"
#include "error.h"
#include "keep_ratio.h"
#include "last_error.h"
#include "lit_runtime.h"
#include "model.h"
#include "preprocess.h"

using lit_deploy::runtime::Error;
using lit_deploy::runtime::kLargestOptions;
using lit_deploy::runtime::Manifest;
using lit_deploy::runtime::Network;
using lit_deploy::runtime::Options;
using lit_deploy::runtime::require;
using lit_deploy::runtime::Task;

static_assert(LIT_ABI_VERSION == lit_deploy::contract::kAbiVersion, "lit_deploy/artifacts/contract.py has another ABI");

namespace {

lit_status fail(lit_status status, const char* sentence) noexcept {
  lit_deploy::runtime::keep_last_error(sentence);
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

lit_model_info describe(const Network& network) {
  lit_model_info info{};
  info.struct_size = sizeof(info);
  info.task = network.manifest.task_name();
  info.name = network.manifest.name.c_str();
  info.precision = network.manifest.precision.c_str();
  info.backend = network.backend->description().c_str();
  info.manifest = network.manifest.json.c_str();
  info.input = network.manifest.input;
  info.output = network.manifest.output;
  info.num_classes = static_cast<int32_t>(network.manifest.classes());
  info.min_batch = static_cast<int32_t>(network.backend->min_batch());
  info.max_batch = static_cast<int32_t>(network.backend->max_batch());
  if (network.manifest.is_dense()) {
    const lit_deploy::runtime::Dense& dense = network.manifest.dense;
    info.min_batch = info.max_batch = 1;
    info.longest = dense.longest;
    if (network.manifest.task == Task::kSemanticSegmentation) return info;
    info.max_detections = static_cast<int32_t>(dense.max_detections);
    info.score_threshold = static_cast<float>(dense.score_threshold);
    if (network.manifest.task == Task::kInstanceSegmentation) info.mask_size = static_cast<int32_t>(dense.mask_size);
  }
  return info;
}

std::unique_ptr<lit_model> open_model(const std::string& path, const Options& options) {
  lit_deploy::runtime::Loaded loaded = lit_deploy::runtime::open_file(path, options);
  auto network = std::make_shared<Network>();
  network->manifest = std::move(loaded.manifest);
  network->backend = std::move(loaded.backend);
  network->info = describe(*network);
  return std::unique_ptr<lit_model>(new lit_model{std::move(network)});
}

// Runs `function`, which gives the output its pointers; on failure the output is empty.
template <typename Function>
lit_status run(lit_context* context, lit_output* output, Function&& function) noexcept {
  if (output != nullptr) *output = {};
  return guarded([&] {
    require(context != nullptr, "the context is NULL");
    require(output != nullptr, "the output is NULL");
    context->network->require_task(!context->network->manifest.is_dense(), "lit_run()");
    lit_output result{};
    function(&result);
    result.count = context->network->manifest.scores();
    *output = result;
  });
}

bool finds_objects(Task task) { return task == Task::kDetection || task == Task::kInstanceSegmentation; }

bool labels_pixels(Task task) { return task == Task::kSemanticSegmentation; }

lit_rle encoded(lit_context& context, const lit_deploy::runtime::PastedMask& mask) {
  lit_deploy::runtime::Objects& objects = context.objects;
  objects.counts = lit_deploy::runtime::run_lengths(mask, objects.width, objects.height);
  return {objects.counts.c_str(), objects.width, objects.height, mask.area};
}

// Runs `function`, called `name` by its users, on one picture of a model of the right task; on failure the result is
// empty.
template <typename Picture, typename Result, typename Function>
lit_status answer(lit_context* context, const Picture* picture, Result* result, const char* name, bool (*right)(Task),
                  Function&& function) noexcept {
  if (result != nullptr) *result = {};
  return guarded([&] {
    require(context != nullptr && picture != nullptr && result != nullptr,
            std::string(name) + " received NULL; expected a context, a picture and a place for the result");
    context->network->require_task(right(context->network->manifest.task), name);
    function();
  });
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

const char* lit_last_error(void) { return lit_deploy::runtime::last_error(); }

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
    *model = open_model(path, lit_deploy::runtime::parse_options(options)).release();
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

lit_status lit_check_size(const lit_input_spec* spec, int32_t width, int32_t height) {
  return guarded([&] {
    require(spec != nullptr, "the input spec is NULL");
    lit_deploy::runtime::check_size(*spec, width, height);
  });
}

lit_status lit_preprocess(const lit_input_spec* spec, const lit_image* image, uint8_t* pixels) {
  return guarded([&] {
    require(spec != nullptr && image != nullptr && image->pixels != nullptr && pixels != nullptr,
            "lit_preprocess() received NULL; expected a spec, an image with pixels and memory for the result");
    lit_deploy::runtime::preprocess(*spec, *image, pixels);
  });
}

lit_status lit_model_category(const lit_model* model, int64_t class_index, lit_category* category) {
  if (category != nullptr) *category = {};
  return guarded([&] {
    require(model != nullptr && category != nullptr,
            "lit_model_category() received NULL; expected a model and a place for the category");
    const Manifest& manifest = model->network->manifest;
    require(manifest.is_dense(), "this model is for classification, whose classes have no category ids; use "
                                 "lit_model_label()");
    require(class_index >= 0 && class_index < manifest.classes(),
            "the class is " + std::to_string(class_index) + "; the model has 0 to " +
                std::to_string(manifest.classes() - 1));
    const auto& colour = manifest.dense.palette[class_index];
    *category = {manifest.labels[class_index].c_str(), manifest.dense.category_ids[class_index],
                 {colour[0], colour[1], colour[2]}};
  });
}

lit_status lit_prepared_size(const lit_model* model, int32_t width, int32_t height, int32_t* prepared_width,
                             int32_t* prepared_height) {
  if (prepared_width != nullptr) *prepared_width = 0;
  if (prepared_height != nullptr) *prepared_height = 0;
  return guarded([&] {
    require(model != nullptr && prepared_width != nullptr && prepared_height != nullptr,
            "lit_prepared_size() received NULL; expected a model and places for width and height");
    const Manifest& manifest = model->network->manifest;
    if (!manifest.is_dense()) lit_deploy::runtime::check_size(manifest.input, width, height);
    auto size = lit_deploy::runtime::PictureSize{manifest.input.width, manifest.input.height};
    if (manifest.is_dense()) {
      size = lit_deploy::runtime::keep_ratio_size(manifest, width, height);
      model->network->backend->check_picture(size, {width, height});
    }
    *prepared_width = size.width;
    *prepared_height = size.height;
  });
}

lit_status lit_prepare(const lit_model* model, const lit_image* image, uint8_t* pixels) {
  return guarded([&] {
    require(model != nullptr && image != nullptr && image->pixels != nullptr && pixels != nullptr,
            "lit_prepare() received NULL; expected a model, an image with pixels and memory for the result");
    const Manifest& manifest = model->network->manifest;
    if (manifest.is_dense()) return lit_deploy::runtime::keep_ratio_picture(manifest, *image, pixels);
    lit_deploy::runtime::preprocess(manifest.input, *image, pixels);
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

const char* lit_context_warning(const lit_context* context) {
  return context == nullptr ? "" : context->runner->warning().c_str();
}

lit_status lit_run(lit_context* context, const lit_tensor* input, lit_output* output) {
  return run(context, output, [&](lit_output* result) {
    require(input != nullptr, "the input is NULL");
    lit_deploy::runtime::run_tensor(*context, *input, result);
    result->batch = input->batch;
  });
}

lit_status lit_run_images(lit_context* context, const lit_image* images, size_t count, lit_output* output) {
  return run(context, output, [&](lit_output* result) {
    require(images != nullptr || count == 0, "the images are NULL");
    lit_deploy::runtime::run_images(*context, images, count, result);
  });
}

lit_status lit_detect(lit_context* context, const lit_image* image, lit_detections* detections) {
  return answer(context, image, detections, "lit_detect()", finds_objects, [&] {
    lit_deploy::runtime::detect(*context, lit_deploy::runtime::prepare(*context, *image), detections);
  });
}

lit_status lit_detect_prepared(lit_context* context, const lit_prepared* picture, lit_detections* detections) {
  return answer(context, picture, detections, "lit_detect_prepared()", finds_objects,
                [&] { lit_deploy::runtime::detect(*context, *picture, detections); });
}

lit_status lit_paste_mask(lit_context* context, int64_t index, lit_mask* mask) {
  if (mask != nullptr) *mask = {};
  return guarded([&] {
    require(context != nullptr && mask != nullptr,
            "lit_paste_mask() received NULL; expected a context and a place for the mask");
    const auto& pasted = lit_deploy::runtime::paste_mask(*context, index);
    *mask = {pasted.pixels.data(), pasted.left, pasted.top, pasted.width, pasted.height, pasted.area};
  });
}

lit_status lit_encode_mask(lit_context* context, int64_t index, lit_rle* rle) {
  if (rle != nullptr) *rle = {};
  return guarded([&] {
    require(context != nullptr && rle != nullptr,
            "lit_encode_mask() received NULL; expected a context and a place for the run lengths");
    *rle = encoded(*context, lit_deploy::runtime::paste_mask(*context, index));
  });
}

lit_status lit_encode_label(lit_context* context, int64_t label, lit_rle* rle) {
  if (rle != nullptr) *rle = {};
  return guarded([&] {
    require(context != nullptr && rle != nullptr,
            "lit_encode_label() received NULL; expected a context and a place for the run lengths");
    context->network->require_task(labels_pixels(context->network->manifest.task), "lit_encode_label()");
    *rle = encoded(*context, lit_deploy::runtime::pixels_of_label(*context, label));
  });
}

lit_status lit_segment(lit_context* context, const lit_image* image, lit_label_map* map) {
  return answer(context, image, map, "lit_segment()", labels_pixels, [&] {
    lit_deploy::runtime::segment(*context, lit_deploy::runtime::prepare(*context, *image), map);
  });
}

lit_status lit_segment_prepared(lit_context* context, const lit_prepared* picture, lit_label_map* map) {
  return answer(context, picture, map, "lit_segment_prepared()", labels_pixels,
                [&] { lit_deploy::runtime::segment(*context, *picture, map); });
}

lit_status lit_top_k(const lit_model* model, const lit_output* output, int64_t image, size_t k,
                     lit_prediction* predictions, size_t* count) {
  if (count != nullptr) *count = 0;
  return guarded([&] {
    require(model != nullptr && output != nullptr && count != nullptr && (predictions != nullptr || k == 0),
            "lit_top_k() received NULL; expected a model, its output and places for the result");
    lit_deploy::runtime::find_top_k(*model->network, *output, image, k, predictions, count);
  });
}

}  // extern "C"
