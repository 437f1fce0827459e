// Where the bits come from is said in lit_deploy/images/keep_ratio.py. The shares are computed in double and float as
// there, so this file must be compiled with -ffp-contract=off; all behind them is integer arithmetic.
#include "keep_ratio.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "contract.h"
#include "error.h"
#include "preprocess.h"

namespace lit_deploy::runtime {
namespace {

constexpr float kOne = 2048.0f;  // 1.0 as OpenCV's fixed-point weights have it

std::string size_text(int64_t width, int64_t height) { return std::to_string(width) + " x " + std::to_string(height); }

// Between which two pixels of an axis one of the result lies, and what either counts in 1/2048.
struct Neighbours {
  int32_t first, second;
  int32_t first_weight, second_weight;
};

// Beyond the first and the last pixel both neighbours are that pixel. There OpenCV sets the share of the second to 0
// along rows, and leaves it along columns (`keep_share`), where the two products are then rounded one by one.
std::vector<Neighbours> make_neighbours(int32_t size, int32_t wanted, bool keep_share) {
  const double scale = 1.0 / (static_cast<double>(wanted) / size);  // twice divided, as OpenCV does
  std::vector<Neighbours> all(static_cast<size_t>(wanted));
  for (int32_t i = 0; i < wanted; ++i) {
    const float place = static_cast<float>((i + 0.5) * scale - 0.5);
    const float low = std::floor(place);
    const int32_t index = static_cast<int32_t>(low);
    float share = place - low;
    if (!keep_share && (index < 0 || index >= size - 1)) share = 0;
    all[static_cast<size_t>(i)] = {std::clamp(index, 0, size - 1), std::clamp(index + 1, 0, size - 1),
                                   static_cast<int32_t>(std::rint((1.0f - share) * kOne)),
                                   static_cast<int32_t>(std::rint(share * kOne))};
  }
  return all;
}

// One row of the picture at the result's columns, in 1/128.
void filter_row(const std::vector<Neighbours>& columns, const uint8_t* row, int32_t* __restrict filtered) {
  for (const Neighbours& column : columns) {
    const uint8_t* const left = row + 3 * static_cast<ptrdiff_t>(column.first);
    const uint8_t* const right = row + 3 * static_cast<ptrdiff_t>(column.second);
    for (int channel = 0; channel < 3; ++channel) {
      *filtered++ = (left[channel] * column.first_weight + right[channel] * column.second_weight) >> 4;
    }
  }
}

int32_t rounded(double side) { return std::max(1, static_cast<int32_t>(side + 0.5)); }

}  // namespace

PictureSize keep_ratio_size(const Manifest& manifest, int32_t width, int32_t height) {
  const int64_t most = manifest.task == Task::kSemanticSegmentation ? contract::kMaxSegmentationPixels
                                                                    : contract::kMaxDetectionPixels;
  if (width < 1 || height < 1 || int64_t{width} * height > most) {
    throw Error(LIT_INVALID_ARGUMENT, "the picture has " + size_text(width, height) + " pixels where 1 x 1 to " +
                                          std::to_string(most) + " are accepted; scale it down");
  }
  const lit_input_spec& spec = manifest.input;
  const double factor = std::min(static_cast<double>(manifest.dense.longest) / std::max(height, width),
                                 static_cast<double>(spec.resize) / std::min(height, width));
  const PictureSize size{spec.width != 0 ? spec.width : rounded(width * factor),
                         spec.height != 0 ? spec.height : rounded(height * factor)};
  if (manifest.dense.pad_multiple == 1 && std::min(size.width, size.height) < contract::kMinSide) {
    throw Error(LIT_INVALID_ARGUMENT, "the picture is too narrow: of " + size_text(width, height) + " pixels " +
                                          size_text(size.width, size.height) +
                                          " are left after resizing where this network needs at least " +
                                          std::to_string(contract::kMinSide) + " each way; crop it first");
  }
  return size;
}

void keep_ratio_picture(const Manifest& manifest, const lit_image& image, uint8_t* pixels) {
  const PictureSize size = keep_ratio_size(manifest, image.width, image.height);
  const ptrdiff_t row_stride = checked_stride(image);
  const std::vector<Neighbours> columns = make_neighbours(image.width, size.width, false);
  const std::vector<Neighbours> rows = make_neighbours(image.height, size.height, true);
  const size_t row_bytes = 3 * columns.size();
  // Two rows of the picture at a time, each filtered once: where they are needed again the next row tells.
  std::vector<int32_t> filtered[2];
  int32_t holds[2] = {-1, -1};
  for (std::vector<int32_t>& row : filtered) row.resize(row_bytes);
  for (const Neighbours& row : rows) {
    if (holds[0] != row.first && holds[1] == row.first) {
      std::swap(filtered[0], filtered[1]);
      std::swap(holds[0], holds[1]);
    }
    const int32_t needed[2] = {row.first, row.second};
    for (int i = 0; i < 2; ++i) {
      if (holds[i] == needed[i]) continue;
      filter_row(columns, image.pixels + needed[i] * row_stride, filtered[i].data());
      holds[i] = needed[i];
    }
    const int32_t* const above = filtered[0].data();
    const int32_t* const below = filtered[1].data();
    // The order and width of OpenCV's shifts: each of them drops bits.
    for (size_t x = 0; x < row_bytes; ++x) {
      const int32_t sum = (row.first_weight * above[x] >> 16) + (row.second_weight * below[x] >> 16);
      pixels[x] = static_cast<uint8_t>((sum + 2) >> 2);
    }
    pixels += row_bytes;
  }
}

void normalize_picture(const Manifest& manifest, const uint8_t* pixels, PictureSize size, float* planes) {
  const size_t count = static_cast<size_t>(size.width) * static_cast<size_t>(size.height);
  for (size_t channel = 0; channel < 3; ++channel) {
    const float mean = static_cast<float>(255 * manifest.mean[channel]);
    const float factor = static_cast<float>(1 / (255 * manifest.std[channel]));
    float values[256];
    for (int value = 0; value < 256; ++value) values[value] = (static_cast<float>(value) - mean) * factor;
    for (size_t i = 0; i < count; ++i) *planes++ = values[pixels[3 * i + channel]];
  }
}

}  // namespace lit_deploy::runtime
