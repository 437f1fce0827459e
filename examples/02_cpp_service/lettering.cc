#include "lettering.h"

#include <array>
#include <fstream>
#include <iterator>
#include <new>
#include <stdexcept>

namespace lit_service {
namespace {

void check(FT_Error error, const char* what) {
  if (error == FT_Err_Out_Of_Memory) throw std::bad_alloc();
  if (error != 0) throw std::runtime_error(what);
}

// From 26.6 to whole pixels.
int pixels(FT_Pos value) { return static_cast<int>((value + 32) >> 6); }

}  // namespace

std::string read_font(const std::string& path) {
  try {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("it cannot be opened");
    std::string font{std::istreambuf_iterator<char>(file), {}};
    Lettering{font};  // or it throws
    return font;
  } catch (const std::runtime_error& error) {
    throw std::runtime_error("--font received '" + path + "' where a TrueType or OpenType file is expected: " +
                             error.what());
  }
}

Lettering::Lettering(std::string_view font) {
  FT_Library library = nullptr;
  check(FT_Init_FreeType(&library), "FreeType cannot be started");
  library_.reset(library);
  FT_Face face = nullptr;
  check(FT_New_Memory_Face(library, reinterpret_cast<const FT_Byte*>(font.data()), static_cast<FT_Long>(font.size()), 0,
                           &face),
        "it is no such file");
  face_.reset(face);
  if (!FT_IS_SCALABLE(face)) throw std::runtime_error("its letters are pixels, of fixed sizes");
}

void Lettering::resize(int letter) {
  check(FT_Set_Char_Size(face_.get(), 0, letter * 64, 0, 0), "the font has no letters of this size");
}

template <typename At>
FT_Pos Lettering::walk(std::u32string_view text, FT_Int32 flags, At at) {
  FT_Pos pen = 0;
  FT_UInt before = 0;
  for (const char32_t letter : text) {
    const FT_UInt glyph = FT_Get_Char_Index(face_.get(), letter);
    FT_Vector closer{};
    if (before != 0 && glyph != 0) FT_Get_Kerning(face_.get(), before, glyph, FT_KERNING_DEFAULT, &closer);
    pen += closer.x;
    check(FT_Load_Glyph(face_.get(), glyph, flags), "the font has a letter that cannot be drawn");
    at(pen);
    pen += face_->glyph->metrics.horiAdvance;
    before = glyph;
  }
  return pen;
}

double Lettering::length(std::u32string_view text) {
  return static_cast<double>(walk(text, FT_LOAD_DEFAULT | FT_LOAD_BITMAP_METRICS_ONLY, [](FT_Pos) {})) / 64;
}

void Lettering::draw(Picture& picture, std::u32string_view text, int left, int middle, Colour colour) {
  const FT_Size_Metrics& metrics = face_->size->metrics;
  const int line = middle + pixels((metrics.ascender + metrics.descender) / 2);
  walk(text, FT_LOAD_RENDER, [&](FT_Pos pen) {
    const FT_GlyphSlot glyph = face_->glyph;
    const FT_Bitmap& bitmap = glyph->bitmap;
    if (bitmap.pixel_mode != FT_PIXEL_MODE_GRAY) return;  // of fonts that are made of pixels
    const int first = left + pixels(pen) + glyph->bitmap_left, top = line - glyph->bitmap_top;
    for (int row = 0; row < static_cast<int>(bitmap.rows); ++row) {
      if (top + row < 0 || top + row >= picture.height) continue;
      uint8_t* const target = picture.rgb.get() + size_t{3} * picture.width * (top + row);
      for (int column = 0; column < static_cast<int>(bitmap.width); ++column) {
        const int x = first + column;
        if (x >= 0 && x < picture.width) blend(target + 3 * x, colour, bitmap.buffer[row * bitmap.pitch + column]);
      }
    }
  });
}

void blend(uint8_t* under, Colour colour, unsigned opacity) {
  const std::array<unsigned, 3> over{colour.red, colour.green, colour.blue};
  for (size_t channel = 0; channel < over.size(); ++channel) {
    const unsigned sum = under[channel] * (255 - opacity) + over[channel] * opacity + 128;
    under[channel] = static_cast<uint8_t>((sum + (sum >> 8)) >> 8);
  }
}

}  // namespace lit_service
