// The rule of lit_deploy/images/preprocessing.py, and what it refuses.
#include "preprocess.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "contract.h"
#include "error.h"
#include "resample.h"

namespace lit_deploy::runtime {
namespace {

using contract::kMaxPixels;
using contract::kMaxSide;

std::string size_text(int64_t width, int64_t height) { return std::to_string(width) + " x " + std::to_string(height); }

[[noreturn]] void refuse(std::string sentence) { throw Error(LIT_INVALID_ARGUMENT, std::move(sentence)); }

Filter filter_of(const lit_input_spec& spec) {
  if (spec.interpolation == LIT_BICUBIC) return Filter::kBicubic;
  if (spec.interpolation == LIT_BILINEAR) return Filter::kBilinear;
  refuse("interpolation " + std::to_string(spec.interpolation) +
         " is unknown; use LIT_BICUBIC (0) or LIT_BILINEAR (1)");
}

void check_spec(const lit_input_spec& spec) {
  if (spec.interpolation == LIT_BILINEAR_OPENCV) {
    refuse(
        "the input spec is a detector's or segmentation network's, whose pictures keep their proportions; use "
        "lit_prepared_size() and lit_prepare()");
  }
  const int32_t longer = std::max(spec.height, spec.width);
  if (std::min(spec.height, spec.width) < 1 || longer > kMaxSide) {
    refuse("the input spec's width x height is " + size_text(spec.width, spec.height) + " where 1 to " +
           std::to_string(kMaxSide) + " pixels each are expected; use the spec of lit_model_get_info()");
  }
  if (spec.resize < 1 || spec.resize > 16 * longer) {
    refuse("the input spec's resize is " + std::to_string(spec.resize) + " pixels where 1 to " +
           std::to_string(16 * longer) +
           " are expected, up to 16 times the input's longer side; use the spec of "
           "lit_model_get_info()");
  }
}

struct Size {
  int64_t width, height;
};

// The size before the crop: the picture by the smallest factor that makes the shorter side `resize` and covers the
// crop, rounded down. The factor is a fraction, because floating point would now and then lose the last row or column.
Size resized_size(const lit_input_spec& spec, Size picture) {
  int64_t numerator = spec.resize;
  int64_t denominator = std::min(picture.width, picture.height);
  const auto at_least = [&](int64_t wanted, int64_t side) {  // no overflow: sides are below 2^28, `wanted` below 2^19
    if (wanted * denominator > numerator * side) {
      numerator = wanted;
      denominator = side;
    }
  };
  at_least(spec.height, picture.height);
  at_least(spec.width, picture.width);
  return {picture.width * numerator / denominator, picture.height * numerator / denominator};
}

// Checks spec and picture; returns the size before the crop.
Size checked_size(const lit_input_spec& spec, Size picture) {
  check_spec(spec);
  if (picture.width < 1 || picture.height < 1) {
    refuse("the picture has " + size_text(picture.width, picture.height) +
           " pixels where at least 1 x 1 is expected; pass its width and height");
  }
  if (picture.width * picture.height > kMaxPixels) {
    refuse("the picture has " + size_text(picture.width, picture.height) + " pixels where at most " +
           std::to_string(kMaxPixels) + " are accepted; scale it down");
  }
  const Size resized = resized_size(spec, picture);
  if (resized.width > kMaxPixels || resized.height > kMaxPixels || resized.width * resized.height > kMaxPixels) {
    refuse("a picture of " + size_text(picture.width, picture.height) + " pixels is too narrow: resized to " +
           size_text(resized.width, resized.height) + " it would exceed " + std::to_string(kMaxPixels) +
           " pixels; crop it first");
  }
  return resized;
}

// Where the crop starts: half of what is left over, halves to the even neighbour as Python's round().
int crop_offset(int64_t size, int32_t crop) {
  const int64_t rest = size - crop;
  const int64_t half = rest / 2;
  return static_cast<int>(half + (rest % 2 != 0 && half % 2 != 0));
}

}  // namespace

std::ptrdiff_t checked_stride(const lit_image& image) {
  if (image.pixels == nullptr) refuse("the picture's pixels are NULL; pass the address of its first row");
  const std::ptrdiff_t row_bytes = std::ptrdiff_t{3} * image.width;
  if (image.row_stride == 0) return row_bytes;
  if (image.row_stride > -row_bytes && image.row_stride < row_bytes) {
    refuse("the picture's row_stride is " + std::to_string(image.row_stride) + " bytes where a row of " +
           std::to_string(image.width) + " pixels takes " + std::to_string(row_bytes) +
           "; pass the bytes from one row to the next, or 0");
  }
  const std::ptrdiff_t longest = std::numeric_limits<std::ptrdiff_t>::max() / image.height;
  if (image.row_stride > longest || image.row_stride < -longest) {
    refuse("the picture's row_stride is " + std::to_string(image.row_stride) + " bytes, so that " +
           std::to_string(image.height) + " rows exceed the address space; pass the bytes from one row to the next");
  }
  return image.row_stride;
}

void check_size(const lit_input_spec& spec, int32_t width, int32_t height) { checked_size(spec, {width, height}); }

void preprocess(const lit_input_spec& spec, const lit_image& image, uint8_t* pixels) {
  const auto [width, height] = checked_size(spec, {image.width, image.height});
  const Filter filter = filter_of(spec);
  const std::ptrdiff_t row_stride = checked_stride(image);
  const Axis x{image.width, static_cast<int>(width), crop_offset(width, spec.width), spec.width};
  const Axis y{image.height, static_cast<int>(height), crop_offset(height, spec.height), spec.height};
  resample(filter, image.pixels, row_stride, x, y, pixels);
}

void normalize(const lit_input_spec& spec, const uint8_t* pixels, std::ptrdiff_t row_stride, float* planes) {
  for (int channel = 0; channel < 3; ++channel) {
    float values[256];  // two divisions per pixel would be most of the work
    for (int value = 0; value < 256; ++value) {
      values[value] = (static_cast<float>(value) / 255.0f - spec.mean[channel]) / spec.std[channel];
    }
    for (int32_t y = 0; y < spec.height; ++y) {
      const uint8_t* const row = pixels + y * row_stride + channel;
      for (int32_t x = 0; x < spec.width; ++x) *planes++ = values[row[3 * static_cast<std::ptrdiff_t>(x)]];
    }
  }
}

}  // namespace lit_deploy::runtime
