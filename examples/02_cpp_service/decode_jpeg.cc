#include <algorithm>
#include <csetjmp>
#include <cstdio>

#include <jerror.h>
#include <jpeglib.h>

#include "decode.h"

namespace lit_service {
namespace {

// More than any encoder writes. Every scan of a progressive file costs a pass over the whole picture, and takes a
// few bytes of the file: without a limit, a small file keeps a thread busy for hours. lit_deploy/images has the same.
constexpr int kMaxScans = 100;

// Counted before any is decoded, in the markers that libjpeg would go along.
bool has_too_many_scans(std::string_view file) {
  constexpr uint8_t kEnd = 0xd9, kScan = 0xda;
  const auto byte = [&](size_t at) { return at < file.size() ? static_cast<uint8_t>(file[at]) : uint8_t{0}; };
  int scans = 0;
  for (size_t at = file.find('\xff', 2); at != file.npos; at = file.find('\xff', at)) {
    const uint8_t marker = byte(at + 1);
    if (marker == 0xff) {  // the one before a marker may be repeated
      ++at;
    } else if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) {  // no marker, or one that stands alone
      at += 2;
    } else if (marker == kEnd || (marker == kScan && ++scans > kMaxScans)) {
      break;
    } else {
      at += 2 + std::max(2, byte(at + 2) << 8 | byte(at + 3));
    }
  }
  return scans > kMaxScans;
}

// Everything that outlives a longjmp() lies in here, in the frame above the one that called setjmp(): its destructor
// runs whatever happened, and no frame that libjpeg jumps over holds an object that has one.
class Reader {
 public:
  Reader(std::string_view file, const Limits& limits) : file_(file), limits_(limits) {
    jpeg_.err = jpeg_std_error(&errors_);
    jpeg_.client_data = this;
    errors_.error_exit = fail;
    errors_.emit_message = fail_on_warning;
    errors_.output_message = [](j_common_ptr) {};
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { jpeg_destroy_decompress(&jpeg_); }  // also when it was never created: all zero then

  Picture read() {
    if (has_too_many_scans(file_)) std::snprintf(message_, sizeof message_, "more than %d scans", kMaxScans);
    if (message_[0] != '\0' || !read_or_jump()) {
      throw DecodeError(Fault::kDamaged, std::string("the JPEG file is damaged or incomplete (") + message_ +
                                             "): send the whole file");
    }
    return std::move(picture_);
  }

 private:
  static Reader& self(j_common_ptr jpeg) { return *static_cast<Reader*>(jpeg->client_data); }

  [[noreturn]] static void fail(j_common_ptr jpeg) {
    Reader& reader = self(jpeg);
    reader.errors_.format_message(jpeg, reader.message_);
    std::longjmp(reader.jump_, 1);
  }

  // A gray patch instead of an error would be classified like a picture. Three warnings are of no damage to pixels: an
  // unknown version of JFIF or of Adobe's marker, and parameters of a progressive scan that a baseline one ignores.
  static void fail_on_warning(j_common_ptr jpeg, int level) {
    const int code = self(jpeg).errors_.msg_code;
    const bool harmless = code == JWRN_JFIF_MAJOR || code == JWRN_ADOBE_XFORM || code == JWRN_NOT_SEQUENTIAL;
    if (level < 0 && !harmless) fail(jpeg);
  }

  bool read_or_jump() {
    if (setjmp(jump_)) return false;
    jpeg_create_decompress(&jpeg_);
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(file_.data()), file_.size());
    jpeg_read_header(&jpeg_, TRUE);
    allocate(picture_, jpeg_.image_width, jpeg_.image_height, limits_);  // may throw, and libjpeg is not below it
    const bool cmyk = jpeg_.num_components == 4;
    jpeg_.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&jpeg_);
    const size_t stride = size_t{3} * jpeg_.output_width;
    JSAMPARRAY inks = nullptr;
    if (cmyk) {
      inks = (*jpeg_.mem->alloc_sarray)(reinterpret_cast<j_common_ptr>(&jpeg_), JPOOL_IMAGE, 4 * jpeg_.output_width, 1);
    }
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW row = picture_.rgb.get() + jpeg_.output_scanline * stride;
      jpeg_read_scanlines(&jpeg_, cmyk ? inks : &row, 1);
      if (cmyk) rgb_from_inverted_cmyk(inks[0], row);
    }
    jpeg_finish_decompress(&jpeg_);  // reads up to the end marker
    return true;
  }

  // Files with four components hold their inks inverted, as Adobe's do; Pillow takes that for granted, too.
  void rgb_from_inverted_cmyk(const uint8_t* inks, uint8_t* rgb) const {
    for (JDIMENSION column = 0; column < jpeg_.output_width; ++column, inks += 4, rgb += 3) {
      const int light = inks[3];  // 255 - black
      for (int i = 0; i < 3; ++i) {
        const int product = (255 - inks[i]) * light + 128;
        rgb[i] = static_cast<uint8_t>(light - ((product + (product >> 8)) >> 8));
      }
    }
  }

  std::string_view file_;
  const Limits& limits_;
  Picture picture_;
  jpeg_decompress_struct jpeg_{};
  jpeg_error_mgr errors_{};
  std::jmp_buf jump_;
  char message_[JMSG_LENGTH_MAX] = "";
};

}  // namespace

Picture decode_jpeg(std::string_view file, const Limits& limits) { return Reader(file, limits).read(); }

}  // namespace lit_service
