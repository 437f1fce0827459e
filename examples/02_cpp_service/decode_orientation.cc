// EXIF's orientation, as lit_deploy/images/containers.py reads it and Pillow's Image.transpose() follows it.
#include <algorithm>
#include <cstring>
#include <string_view>

#include "decode.h"

namespace lit_service {
namespace {

constexpr uint64_t kOrientation = 0x0112, kShort = 3;
constexpr int kTile = 16;  // rows that are written together, so that columns are not read pixel by pixel

}  // namespace

int orientation_of(std::string_view exif) {
  constexpr std::string_view kWords("Exif\0\0", 6), kLittle("II*\0", 4), kBig("MM\0*", 4);
  std::string_view block = exif.substr(0, kMaxExif);
  if (block.starts_with(kWords)) block.remove_prefix(kWords.size());
  const bool little = block.starts_with(kLittle);
  if (!little && !block.starts_with(kBig)) return 1;
  const auto number = [&](uint64_t place, uint64_t size) {
    uint64_t value = 0;
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t at = place + (little ? size - 1 - i : i);
      value = value << 8 | (at < block.size() ? static_cast<uint8_t>(block[at]) : 0);
    }
    return value;
  };
  const uint64_t first = number(4, 4), entries = number(first, 2);
  for (uint64_t entry = first + 2; entry < first + 2 + 12 * entries && entry + 12 <= block.size(); entry += 12) {
    if (number(entry, 2) != kOrientation || number(entry + 2, 2) != kShort) continue;
    const uint64_t value = number(entry + 8, 2);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Picture turned(Picture picture, int orientation) {
  if (orientation == 1) return picture;
  const ptrdiff_t width = picture.width, height = picture.height, last_row = (height - 1) * width;
  // Where the pixel of the first row and column comes from, and how far its neighbours' lie from it, in pixels.
  struct Way {
    ptrdiff_t begin, column, row;
  };
  const Way ways[] = {
      {width - 1, -1, width},              // 2: left and right change places
      {last_row + width - 1, -1, -width},  // 3: half a turn
      {last_row, 1, -width},               // 4: top and bottom change places
      {0, width, 1},                       // 5: rows become columns
      {last_row, -width, 1},               // 6: a quarter to the right
      {last_row + width - 1, -width, -1},  // 7: rows become columns, both from the end
      {width - 1, width, -1},              // 8: a quarter to the left
  };
  const Way& way = ways[orientation - 2];
  Picture result;
  result.width = orientation < 5 ? picture.width : picture.height;
  result.height = orientation < 5 ? picture.height : picture.width;
  result.rgb = std::make_unique_for_overwrite<uint8_t[]>(static_cast<size_t>(width * height) * 3);
  for (int top = 0; top < result.height; top += kTile) {
    const int bottom = std::min(top + kTile, result.height);
    for (ptrdiff_t x = 0; x < result.width; ++x) {
      for (ptrdiff_t y = top; y < bottom; ++y) {
        std::memcpy(result.rgb.get() + 3 * (y * result.width + x),
                    picture.rgb.get() + 3 * (way.begin + y * way.row + x * way.column), 3);
      }
    }
  }
  return result;
}

}  // namespace lit_service
