#include "decode.h"

namespace lit_service {

Picture decode(std::string_view file, size_t max_pixels) {
  if (file.starts_with("\xff\xd8\xff")) return decode_jpeg(file, max_pixels);
  if (file.starts_with("\x89PNG\r\n\x1a\n")) return decode_png(file, max_pixels);
  throw DecodeError(Fault::kUnknownFormat, "the body is neither a JPEG nor a PNG file: send one of these");
}

void allocate(Picture& picture, uint32_t width, uint32_t height, size_t max_pixels) {
  const uint64_t pixels = uint64_t{width} * height;  // 2^31 x 2^31 at most
  if (pixels > max_pixels) {
    throw DecodeError(Fault::kTooLarge, "the picture has " + std::to_string(width) + " x " + std::to_string(height) +
                                            " pixels where at most " + std::to_string(max_pixels) +
                                            " are accepted: scale it down");
  }
  picture.rgb = std::make_unique_for_overwrite<uint8_t[]>(pixels * 3);
  picture.width = static_cast<int>(width);
  picture.height = static_cast<int>(height);
}

}  // namespace lit_service
