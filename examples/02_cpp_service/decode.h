// From the bytes of a JPEG or PNG file to RGB, as lit_deploy/images/decoding.py (Pillow) decodes them.
#ifndef LIT_SERVICE_DECODE_H_
#define LIT_SERVICE_DECODE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace lit_service {

struct Picture {
  int width = 0;
  int height = 0;
  std::unique_ptr<uint8_t[]> rgb;  // height rows of width R, G, B triples
};

enum class Fault {
  kUnknownFormat,  // neither JPEG nor PNG
  kTooLarge,       // more pixels than allowed
  kDamaged         // damaged, truncated, or of a kind that is not decoded
};

// A file that gives no picture; what() is one sentence.
class DecodeError : public std::runtime_error {
 public:
  DecodeError(Fault fault, const std::string& sentence) : std::runtime_error(sentence), fault_(fault) {}
  Fault fault() const noexcept { return fault_; }

 private:
  Fault fault_;
};

// Which sizes are decoded; asked when the header is read, before memory is asked for and anything is decoded.
struct Limits {
  size_t max_pixels;
  std::function<void(int width, int height)> check;  // throws for a size that is of no use; empty: all are
  // Turn and mirror the picture as its EXIF orientation says, and ask `check` of it so: the rule of detectors and
  // segmentation networks. That of classifiers takes pictures as they are stored.
  bool upright = false;
};

// Decodes a whole file; its first bytes tell the format. Alpha is dropped, 16 bits become the higher 8; of its metadata
// the orientation alone is read. What libjpeg warns of counts as damage where it may concern
// pixels. Throws DecodeError, std::bad_alloc, or what `limits.check` throws. Any thread.
Picture decode(std::string_view file, const Limits& limits);

// The two formats; decode() chooses.
Picture decode_jpeg(std::string_view file, const Limits& limits);
Picture decode_png(std::string_view file, const Limits& limits);

// Sets `picture` to an undefined picture of this size, to be turned(). Throws DecodeError (kTooLarge), or what
// `limits.check` throws.
void allocate(Picture& picture, uint32_t width, uint32_t height, int orientation, const Limits& limits);

// Bytes of an EXIF block that are looked at, as many as a JPEG segment can hold.
inline constexpr size_t kMaxExif = 1 << 16;

// The orientation that an EXIF block gives to the picture beside it, 1 to 8; 1, upright, where nothing that can be read
// says otherwise.
int orientation_of(std::string_view exif);

// A stored picture as it is to be seen. Throws std::bad_alloc.
Picture turned(Picture picture, int orientation);

}  // namespace lit_service

#endif  // LIT_SERVICE_DECODE_H_
