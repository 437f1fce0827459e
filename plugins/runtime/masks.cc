// Python computes rows . mask . columns by matrix products in float32, which fuse the second product of each sum with
// it. Here the product is computed in double, where it is exact: the bits are the same on every processor. This file
// must be compiled with -ffp-contract=off all the same, for the places of the pixels.
#include "masks.h"

#include <algorithm>
#include <cmath>

namespace lit_deploy::runtime {
namespace {

constexpr float kThreshold = 0.5f;  // probability from which on a pixel belongs to the object

// The cells of a mask between which a pixel lies, and what either counts.
struct Cells {
  int64_t first = 0, second = 0;
  float first_weight = 0, second_weight = 0;
};

struct Range {
  int32_t begin, end;
};

// Pixels of one axis where the value can differ from 0, with one to spare.
Range range_of(float first, float last, int32_t size) {
  const double begin = std::clamp<double>(std::floor(static_cast<double>(first)) - 1, 0, size);
  const double end = std::max(std::min<double>(std::ceil(static_cast<double>(last)) + 1, size), begin);
  return {static_cast<int32_t>(begin), static_cast<int32_t>(end)};
}

// In the official order of operations: a place in -1..1 first, so that it rounds alike.
Cells cells_of(int32_t pixel, float first, float last, int64_t side) {
  const float cells = static_cast<float>(side);
  float place = (static_cast<float>(pixel) + 0.5f - first) / (last - first) * 2.0f - 1.0f;
  if (std::isinf(place)) place = 0;
  const float at = std::clamp(((place + 1.0f) * cells - 1.0f) / 2.0f, -2.0f, cells + 1.0f);
  Cells found;
  if (std::isnan(at)) return found;  // of a box whose width has no number
  const float low = std::floor(at);
  const float share = at - low;
  const auto index = static_cast<int64_t>(low);
  // What lies outside the mask counts as 0.
  if (index >= 0 && index < side) {
    found.first = index;
    found.first_weight = 1.0f - share;
  }
  if (index >= -1 && index < side - 1) {
    found.second = index + 1;
    found.second_weight = share;
  }
  return found;
}

float between(const Cells& cells, float first, float second) {
  const float before = cells.first_weight * first;
  return static_cast<float>(static_cast<double>(cells.second_weight) * second + before);
}

// COCO's letters of one number: five bits each, the lowest first.
void append(int64_t number, std::string* text) {
  for (bool more = true; more;) {
    const int64_t low = number & 31;
    number >>= 5;
    more = number != ((low & 16) != 0 ? -1 : 0);
    *text += static_cast<char>(low + (more ? 32 : 0) + 48);
  }
}

}  // namespace

void paste(const float* cells, int64_t side, const float* box, int32_t width, int32_t height, PastedMask* mask) {
  mask->pixels.clear();
  mask->left = mask->top = mask->width = mask->height = 0;
  mask->area = 0;
  if (!(box[2] > box[0] && box[3] > box[1])) return;  // without an area, without pixels
  const Range across = range_of(box[0], box[2], width);
  const Range down = range_of(box[1], box[3], height);
  const size_t count = static_cast<size_t>(across.end - across.begin);
  mask->pixels.resize(count * static_cast<size_t>(down.end - down.begin));
  mask->left = across.begin;
  mask->top = down.begin;
  mask->width = across.end - across.begin;
  mask->height = down.end - down.begin;
  std::vector<Cells> columns;
  columns.reserve(count);
  for (int32_t x = across.begin; x < across.end; ++x) columns.push_back(cells_of(x, box[0], box[2], side));
  std::vector<float> row(static_cast<size_t>(side));  // of the mask, at the height of one of the picture's
  uint8_t* pixel = mask->pixels.data();
  for (int32_t y = down.begin; y < down.end; ++y) {
    const Cells rows = cells_of(y, box[1], box[3], side);
    for (int64_t x = 0; x < side; ++x) {
      row[static_cast<size_t>(x)] = between(rows, cells[rows.first * side + x], cells[rows.second * side + x]);
    }
    for (const Cells& column : columns) {
      *pixel = between(column, row[static_cast<size_t>(column.first)], row[static_cast<size_t>(column.second)]) >=
               kThreshold;
      mask->area += *pixel++;
    }
  }
}

std::string run_lengths(const PastedMask& mask, int32_t width, int32_t height) {
  std::vector<int64_t> edges;  // where runs of ones begin and end, in turns; two that touch are one
  for (int32_t x = 0; x < mask.width; ++x) {
    const int64_t column = (int64_t{mask.left} + x) * height + mask.top;
    for (int32_t y = 0; y < mask.height;) {
      const auto is_set = [&](int32_t row) { return mask.pixels[static_cast<size_t>(row) * mask.width + x] != 0; };
      while (y < mask.height && !is_set(y)) ++y;
      if (y == mask.height) break;
      const int64_t begin = column + y;
      while (y < mask.height && is_set(y)) ++y;
      if (!edges.empty() && edges.back() == begin) {
        edges.back() = column + y;
      } else {
        edges.push_back(begin);
        edges.push_back(column + y);
      }
    }
  }
  const int64_t all = int64_t{width} * height;
  if (edges.empty() || edges.back() != all) edges.push_back(all);
  std::string text;
  // Zeros first; from the fourth run on as differences from the run before last of the same value.
  std::vector<int64_t> runs(edges.size());
  for (size_t i = 0; i < edges.size(); ++i) {
    runs[i] = edges[i] - (i == 0 ? 0 : edges[i - 1]);
    append(i < 3 ? runs[i] : runs[i] - runs[i - 2], &text);
  }
  return text;
}

}  // namespace lit_deploy::runtime
