#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <new>

#include <png.h>

#include "decode.h"

namespace lit_service {
namespace {

// The last EXIF block before the end, wherever it stands. libpng would tell of it when it has passed, which is too late
// to ask whether a picture on its side is taken.
std::string_view exif_of(std::string_view file) {
  std::string_view exif;
  for (size_t at = 8; file.size() - at >= 12;) {
    const auto byte = [&](size_t i) { return size_t{static_cast<uint8_t>(file[at + i])}; };
    const size_t length = byte(0) << 24 | byte(1) << 16 | byte(2) << 8 | byte(3);
    const std::string_view kind = file.substr(at + 4, 4);
    if (length > file.size() - at - 12 || kind == "IEND") break;
    if (kind == "eXIf") exif = file.substr(at + 8, std::min(length, kMaxExif));
    at += 12 + length;
  }
  return exif;
}

// As in decode_jpeg.cc: what outlives a longjmp() lies in here, above the frame that called setjmp().
class Reader {
 public:
  Reader(std::string_view file, const Limits& limits, int orientation)
      : rest_(file), limits_(limits), orientation_(orientation) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, fail, [](png_structp, png_const_charp) {});
    info_ = png_ == nullptr ? nullptr : png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      throw std::bad_alloc();
    }
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  Picture read() {
    if (!read_or_jump()) {
      throw DecodeError(Fault::kDamaged, std::string("the PNG file is damaged or incomplete (") + message_ +
                                             "): send the whole file");
    }
    return std::move(picture_);
  }

 private:
  [[noreturn]] static void fail(png_structp png, png_const_charp message) {
    Reader& reader = *static_cast<Reader*>(png_get_error_ptr(png));
    std::snprintf(reader.message_, sizeof reader.message_, "%s", message);
    std::longjmp(reader.jump_, 1);
  }

  static void copy(png_structp png, png_bytep target, size_t size) {
    Reader& reader = *static_cast<Reader*>(png_get_io_ptr(png));
    if (size > reader.rest_.size()) png_error(png, "the file ends too early");
    std::memcpy(target, reader.rest_.data(), size);
    reader.rest_.remove_prefix(size);
  }

  bool read_or_jump() {
    if (setjmp(jump_)) return false;
    png_set_read_fn(png_, this, copy);
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION  // a fuzzer hardly ever finds a checksum
    png_set_crc_action(png_, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);
#else
    png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);  // as Pillow; libpng would let some pass
#endif
    // Metadata is never read: texts, colour profiles and the like are not needed, and may be bombs of their own. A
    // negative number stands for all chunks that change no pixel.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_set_user_limits(png_, 0x7fffffff, 0x7fffffff);  // allocate() has the limit, and the better sentence
    png_read_info(png_, info_);
    const png_uint_32 width = png_get_image_width(png_, info_);
    const png_uint_32 height = png_get_image_height(png_, info_);
    allocate(picture_, width, height, orientation_, limits_);  // may throw, and libpng is not below it

    png_set_strip_16(png_);
    png_set_palette_to_rgb(png_);  // nothing for pictures without a palette, and so on
    png_set_expand_gray_1_2_4_to_8(png_);
    png_set_gray_to_rgb(png_);
    png_set_strip_alpha(png_);
    const int passes = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    const size_t stride = size_t{3} * width;
    if (png_get_rowbytes(png_, info_) != stride) png_error(png_, "no RGB can be made of it");
    if (passes > 1) std::memset(picture_.rgb.get(), 0, stride * height);
    for (int pass = 0; pass < passes; ++pass) {
      for (png_uint_32 row = 0; row < height; ++row) {
        png_read_row(png_, picture_.rgb.get() + row * stride, nullptr);
      }
    }
    png_read_end(png_, nullptr);
    return true;
  }

  std::string_view rest_;
  const Limits& limits_;
  const int orientation_;
  Picture picture_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::jmp_buf jump_;
  char message_[160] = "";
};

}  // namespace

Picture decode_png(std::string_view file, const Limits& limits) {
  const int orientation = limits.upright ? orientation_of(exif_of(file)) : 1;
  return turned(Reader(file, limits, orientation).read(), orientation);
}

}  // namespace lit_service
