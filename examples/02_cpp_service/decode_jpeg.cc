#include <algorithm>
#include <csetjmp>
#include <cstdio>

#include <jerror.h>
#include <jpeglib.h>

#include "decode.h"

namespace lit_service {
namespace {

// More than any encoder writes; lit_deploy/images/containers.py has the same. Every scan of a progressive file costs a
// pass over the whole picture, and takes a few bytes of the file: without a limit, a small file keeps a thread busy for
// hours. Some tables are slow to read, and segments are read one by one.
constexpr int kMaxScans = 100, kMaxSegments = 2000;
constexpr size_t kMaxTables = 1 << 20;

// What is known of a file before anything is decoded.
struct Survey {
  std::string fault;  // why it is refused, as part of a sentence; "": it is not
  std::string_view exif;
};

// Goes along the markers up to the end of the first picture; what follows are previews and depth maps.
Survey survey(std::string_view file) {
  constexpr uint8_t kStart = 0xd8, kEnd = 0xd9, kScan = 0xda, kExif = 0xe1, kAdobe = 0xee, kComment = 0xfe;
  constexpr std::string_view kExifWords("Exif\0\0", 6);
  const auto byte = [&](size_t at) { return at < file.size() ? static_cast<uint8_t>(file[at]) : uint8_t{0}; };
  const auto is_marker = [&](size_t at) {  // but for stuffed bytes, restarts and what stands alone
    const uint8_t kind = byte(at + 1);
    return at + 1 < file.size() && kind > 0x01 && kind != 0xff && (kind < 0xd0 || kind > 0xd7);
  };
  Survey found;
  int scans = 0;
  size_t tables = 0, at = 2;
  for (int segments = 0; segments < kMaxSegments; ++segments) {
    at = file.find('\xff', at);
    while (at != file.npos && !is_marker(at)) at = file.find('\xff', at + 1);
    if (at == file.npos || byte(at + 1) == kEnd) return found;
    const uint8_t marker = byte(at + 1);
    const size_t length = marker == kStart ? 0 : std::max(2, byte(at + 2) << 8 | byte(at + 3));
    const std::string_view segment = file.substr(at, 2 + length);
    at += 2 + length;
    const bool metadata = (marker >= kExif && marker < 0xf0 && marker != kAdobe) || marker == kComment;
    if (!metadata) tables += length;
    const bool is_exif = marker == kExif && segment.size() >= 10 && segment.substr(4, 6) == kExifWords;
    if (is_exif && found.exif.empty()) found.exif = segment.substr(10);
    scans += marker == kScan;
    if (scans > kMaxScans) found.fault = "more than " + std::to_string(kMaxScans) + " scans";
    else if (tables > kMaxTables) found.fault = "more than " + std::to_string(kMaxTables >> 20) + " MiB of tables";
    if (!found.fault.empty()) return found;
  }
  found.fault = "more than " + std::to_string(kMaxSegments) + " segments";
  return found;
}

DecodeError damaged(const std::string& fault) {
  return DecodeError(Fault::kDamaged, "the JPEG file is damaged or incomplete (" + fault + "): send the whole file");
}

// Everything that outlives a longjmp() lies in here, in the frame above the one that called setjmp(): its destructor
// runs whatever happened, and no frame that libjpeg jumps over holds an object that has one.
class Reader {
 public:
  Reader(std::string_view file, const Limits& limits, int orientation)
      : file_(file), limits_(limits), orientation_(orientation) {
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
    if (!read_or_jump()) throw damaged(message_);
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
    // May throw, and libjpeg is not below it.
    allocate(picture_, jpeg_.image_width, jpeg_.image_height, orientation_, limits_);
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
  const int orientation_;
  Picture picture_;
  jpeg_decompress_struct jpeg_{};
  jpeg_error_mgr errors_{};
  std::jmp_buf jump_;
  char message_[JMSG_LENGTH_MAX] = "";
};

}  // namespace

Picture decode_jpeg(std::string_view file, const Limits& limits) {
  const Survey found = survey(file);
  if (!found.fault.empty()) throw damaged(found.fault);
  const int orientation = limits.upright ? orientation_of(found.exif) : 1;
  return turned(Reader(file, limits, orientation).read(), orientation);
}

}  // namespace lit_service
