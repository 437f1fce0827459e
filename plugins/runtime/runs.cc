// From the caller's pictures and tensors to a dense batch, and its run.
#include <algorithm>
#include <cstring>
#include <limits>
#include <string>

#include "model.h"
#include "preprocess.h"

namespace lit_deploy::runtime {
namespace {

void check_batch(const lit_model_info& info, int64_t batch, int64_t least) {
  require(batch >= least && batch <= info.max_batch, "the batch has " + std::to_string(batch) +
                                                         " images; this model takes " + std::to_string(least) + " to " +
                                                         std::to_string(info.max_batch));
}

// Runs `batch` images of the file's own type.
void run_batch(lit_context& context, const void* data, int64_t batch, lit_output* output) {
  const Manifest& manifest = context.network->manifest;
  std::vector<Values> inputs(1), outputs;
  inputs[0] = {data, promised_inputs(manifest)[0].shape};
  inputs[0].shape[0] = batch;
  for (const TensorSpec& promised : promised_outputs(manifest)) {
    outputs.push_back({nullptr, promised.shape});
    outputs.back().shape[0] = batch;
  }
  context.runner->run(inputs, &outputs);
  output->scores = static_cast<const float*>(outputs[0].data);
  if (outputs.size() > 1) output->classes = static_cast<const int64_t*>(outputs[1].data);
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
      normalize(spec, pixels + i * image_stride, row_stride, context.floats.data() + i * size);
    }
    return run_batch(context, context.floats.data(), batch, output);
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
  run_batch(context, pixels, batch, output);
}

// `count` steps of `stride` bytes must stay within half of what a ptrdiff_t holds, so that two such sums do within all.
void check_reach(const char* name, ptrdiff_t stride, int64_t count) {
  const ptrdiff_t longest = std::numeric_limits<ptrdiff_t>::max() / 2 / count;
  require(stride <= longest && stride >= -longest, std::string(name) + " is " + std::to_string(stride) +
                                                       " bytes, so that " + std::to_string(count) +
                                                       " of them exceed the address space");
}

}  // namespace

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
    return run_batch(context, input.data, input.batch, output);
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
      preprocess(info.input, images[i], context.pixels.data() + i * size);
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

}  // namespace lit_deploy::runtime
