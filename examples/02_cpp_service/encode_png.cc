#include <algorithm>
#include <csetjmp>
#include <cstdlib>
#include <exception>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include <png.h>

#include "drawing.h"

namespace lit_service {
namespace {

// As in decode_png.cc: what outlives a longjmp() lies in here, above the frame that called setjmp().
class Writer {
 public:
  Writer() {
    png_ = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, this, fail, [](png_structp, png_const_charp) {}, this,
                                     allocate, [](png_structp, png_voidp memory) { std::free(memory); });
    info_ = png_ == nullptr ? nullptr : png_create_info_struct(png_);
    if (info_ == nullptr) {
      png_destroy_write_struct(&png_, nullptr);
      throw std::bad_alloc();
    }
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // its own is a million pixels a side
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() { png_destroy_write_struct(&png_, &info_); }

  // `palette`: of a picture of one byte a pixel, empty for one of three.
  std::string write(const uint8_t* pixels, int width, int height, const std::vector<png_color>& palette) {
    if (!write_or_jump(pixels, width, height, palette)) {
      if (short_of_memory_) throw std::bad_alloc();
      throw std::runtime_error("the picture cannot be written as PNG: " + message_);
    }
    return std::move(file_);
  }

 private:
  [[noreturn]] static void fail(png_structp png, png_const_charp message) {
    Writer& writer = *static_cast<Writer*>(png_get_error_ptr(png));
    try {
      writer.message_ = message;
    } catch (const std::exception&) {
      writer.short_of_memory_ = true;
    }
    std::longjmp(writer.jump_, 1);
  }

  static png_voidp allocate(png_structp png, png_alloc_size_t size) {
    void* const memory = std::malloc(size);
    if (memory == nullptr) static_cast<Writer*>(png_get_mem_ptr(png))->short_of_memory_ = true;
    return memory;
  }

  static void append(png_structp png, png_bytep data, size_t size) {
    Writer& writer = *static_cast<Writer*>(png_get_io_ptr(png));
    try {
      writer.file_.append(reinterpret_cast<const char*>(data), size);
      return;
    } catch (const std::exception&) {
      writer.short_of_memory_ = true;
    }
    png_error(png, "memory");
  }

  bool write_or_jump(const uint8_t* pixels, int width, int height, const std::vector<png_color>& palette) {
    if (setjmp(jump_)) return false;
    png_set_write_fn(png_, this, append, [](png_structp) {});
    const size_t colours = palette.size();
    const bool rgb = colours == 0;
    // Few colours need few bits: the same as Pillow writes.
    const int bits = rgb || colours > 16 ? 8 : colours > 4 ? 4 : colours > 2 ? 2 : 1;
    png_set_IHDR(png_, info_, static_cast<png_uint_32>(width), static_cast<png_uint_32>(height), bits,
                 rgb ? PNG_COLOR_TYPE_RGB : PNG_COLOR_TYPE_PALETTE, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    if (!rgb) png_set_PLTE(png_, info_, palette.data(), static_cast<int>(colours));
    if (rgb) {  // a third of the default's time for a photograph, and hardly larger
      png_set_filter(png_, PNG_FILTER_TYPE_BASE, PNG_FILTER_SUB);
      png_set_compression_level(png_, 3);
    }
    png_write_info(png_, info_);
    png_set_packing(png_);
    const size_t stride = static_cast<size_t>(width) * (rgb ? 3 : 1);
    for (int row = 0; row < height; ++row) png_write_row(png_, pixels + static_cast<size_t>(row) * stride);
    png_write_end(png_, info_);
    return true;
  }

  std::string file_, message_;
  bool short_of_memory_ = false;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::jmp_buf jump_;
};

}  // namespace

std::string png_of(const Picture& picture) {
  return Writer().write(picture.rgb.get(), picture.width, picture.height, {});
}

std::string png_of(const lit::LabelMap& map, const lit::Model& model) {
  std::vector<png_color> palette;
  for (int64_t label = 0; label < std::min(model.info().num_classes, 256); ++label) {
    const lit::Category category = model.category(label);
    palette.push_back({category.colour[0], category.colour[1], category.colour[2]});
  }
  return Writer().write(map.labels, map.width, map.height, palette);
}

}  // namespace lit_service
