// From a picture to the input of detectors and segmentation networks: the rule of lit_deploy/images/keep_ratio.py.
#ifndef LIT_DEPLOY_RUNTIME_KEEP_RATIO_H_
#define LIT_DEPLOY_RUNTIME_KEEP_RATIO_H_

#include <cstdint>

#include "lit_runtime.h"
#include "manifest.h"

namespace lit_deploy::runtime {

struct PictureSize {
  int32_t width, height;
};

// The size to which a picture is resized. Throws LIT_INVALID_ARGUMENT for one that is empty, too large or too narrow.
PictureSize keep_ratio_size(const Manifest& manifest, int32_t width, int32_t height);

// Resizes a picture, to the bit as OpenCV does with INTER_LINEAR: `pixels` receives dense rows of that size. Throws
// LIT_INVALID_ARGUMENT for a stride too short, too, and std::bad_alloc.
void keep_ratio_picture(const Manifest& manifest, const lit_image& image, uint8_t* pixels);

// (pixel - 255 mean) * (1 / (255 std)), in float32 and in this order: `size` RGB triples to `planes` [3, height,
// width].
void normalize_picture(const Manifest& manifest, const uint8_t* pixels, PictureSize size, float* planes);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_KEEP_RATIO_H_
