#include <csetjmp>
#include <cstdio>

#include <jerror.h>
#include <jpeglib.h>

#include "decode.h"

namespace lit_service {
namespace {

// More than any encoder writes. Every scan of a progressive file costs a pass over the whole picture, and takes a
// few bytes of the file: without a limit, a small file keeps a thread busy for hours.
constexpr int kMaxScans = 100;

// Everything that outlives a longjmp() lies in here, in the frame above the one that called setjmp(): its destructor
// runs whatever happened, and no frame that libjpeg jumps over holds an object that has one.
class Reader {
 public:
  Reader(std::string_view file, size_t max_pixels) : file_(file), max_pixels_(max_pixels) {
    jpeg_.err = jpeg_std_error(&errors_);
    jpeg_.client_data = this;
    errors_.error_exit = fail;
    errors_.emit_message = fail_on_warning;
    errors_.output_message = [](j_common_ptr) {};
    progress_.progress_monitor = limit_scans;
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader() { jpeg_destroy_decompress(&jpeg_); }  // also when it was never created: all zero then

  Picture read() {
    if (!read_or_jump()) {
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

  static void limit_scans(j_common_ptr jpeg) {
    if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number <= kMaxScans) return;
    Reader& reader = self(jpeg);
    std::snprintf(reader.message_, sizeof reader.message_, "more than %d scans", kMaxScans);
    std::longjmp(reader.jump_, 1);
  }

  bool read_or_jump() {
    if (setjmp(jump_)) return false;
    jpeg_create_decompress(&jpeg_);
    jpeg_.progress = &progress_;
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(file_.data()), file_.size());
    jpeg_read_header(&jpeg_, TRUE);
    allocate(picture_, jpeg_.image_width, jpeg_.image_height, max_pixels_);  // may throw, and libjpeg is not below it
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
  size_t max_pixels_;
  Picture picture_;
  jpeg_decompress_struct jpeg_{};
  jpeg_error_mgr errors_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf jump_;
  char message_[JMSG_LENGTH_MAX] = "";
};

}  // namespace

Picture decode_jpeg(std::string_view file, size_t max_pixels) { return Reader(file, max_pixels).read(); }

}  // namespace lit_service
