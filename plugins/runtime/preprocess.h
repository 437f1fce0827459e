// Resize and centre crop as Pillow computes them, and the normalisation that exported files expect.
#ifndef LIT_DEPLOY_RUNTIME_PREPROCESS_H_
#define LIT_DEPLOY_RUNTIME_PREPROCESS_H_

#include <cstddef>
#include <cstdint>

#include "lit_runtime.h"

namespace lit_deploy::runtime {

// lit_check_size(), with exceptions (Error).
void check_size(const lit_input_spec& spec, int32_t width, int32_t height);

// The bytes from one row of a picture to the next, the default filled in; its width and height are at least 1. Throws
// LIT_INVALID_ARGUMENT for a stride too short or too long, and for pixels that are NULL.
std::ptrdiff_t checked_stride(const lit_image& image);

// lit_preprocess(), with exceptions (Error, std::bad_alloc). Pointers are not NULL; everything else is checked here.
void preprocess(const lit_input_spec& spec, const lit_image& image, uint8_t* pixels);

// (pixel / 255 - mean) / std, in float32 and in this order, as images.preprocessing.normalize: one image of RGB
// triples with rows `row_stride` bytes apart to `planes` [3, height, width].
void normalize(const lit_input_spec& spec, const uint8_t* pixels, std::ptrdiff_t row_stride, float* planes);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_PREPROCESS_H_
