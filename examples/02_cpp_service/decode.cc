#include "decode.h"

#include <algorithm>
#include <iterator>

namespace lit_service {
namespace {

// Formats that are told, and not decoded: which bytes stand where. The boxes of HEIC, AVIF and their kin begin with a
// size; their type is followed by the brand.
struct Format {
  const char* name;
  size_t at;
  std::string_view bytes;
};
constexpr Format kOthers[] = {
    {"WebP", 8, "WEBP"},
    {"GIF", 0, "GIF8"},
    {"BMP", 0, "BM"},
    {"TIFF", 0, {"II*\0", 4}},
    {"TIFF", 0, {"MM\0*", 4}},
    {"AVIF", 4, "ftypavi"},
    {"HEIC", 4, "ftyphei"},
    {"HEIC", 4, "ftyphev"},
    {"HEIF", 4, "ftypmif1"},
    {"HEIF", 4, "ftypmsf1"},
    {"JPEG XL", 0, {"\0\0\0\x0cJXL ", 8}},
    {"JPEG XL", 0, "\xff\x0a"},
    {"JPEG 2000", 0, {"\0\0\0\x0cjP  ", 8}},
    {"PDF", 0, "%PDF-"},
};

}  // namespace

Picture decode(std::string_view file, const Limits& limits) {
  if (file.starts_with("\xff\xd8\xff")) return decode_jpeg(file, limits);
  if (file.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(file, limits);
  const Format* const other = std::find_if(std::begin(kOthers), std::end(kOthers), [&](const Format& format) {
    return file.size() > format.at && file.substr(format.at).starts_with(format.bytes);
  });
  if (other == std::end(kOthers)) {
    throw DecodeError(Fault::kUnknownFormat, "the body is neither a JPEG nor a PNG file: send one of these");
  }
  throw DecodeError(Fault::kUnknownFormat,
                    std::string("the body is ") + other->name + " where JPEG or PNG is expected: convert it");
}

void allocate(Picture& picture, uint32_t width, uint32_t height, int orientation, const Limits& limits) {
  const uint64_t pixels = uint64_t{width} * height;  // 2^31 x 2^31 at most
  if (pixels > limits.max_pixels) {
    throw DecodeError(Fault::kTooLarge, "the picture has " + std::to_string(width) + " x " + std::to_string(height) +
                                            " pixels where at most " + std::to_string(limits.max_pixels) +
                                            " are accepted: scale it down");
  }
  const bool lies = orientation > 4;  // on its side
  if (limits.check) limits.check(static_cast<int>(lies ? height : width), static_cast<int>(lies ? width : height));
  picture.rgb = std::make_unique_for_overwrite<uint8_t[]>(pixels * 3);
  picture.width = static_cast<int>(width);
  picture.height = static_cast<int>(height);
}

}  // namespace lit_service
