// Words on a picture, as lit_deploy/tasks/dense/lettering.py (Pillow) draws them: plain layout, whole pixels.
#ifndef LIT_SERVICE_LETTERING_H_
#define LIT_SERVICE_LETTERING_H_

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include <ft2build.h>
#include FT_FREETYPE_H

#include "decode.h"

namespace lit_service {

struct Colour {
  uint8_t red, green, blue;
};

constexpr Colour kBlack{0, 0, 0}, kWhite{255, 255, 255};

// A font of any size. One thread at a time.
class Lettering {
 public:
  // `font`: a TrueType or OpenType file, which must outlive this. Throws std::runtime_error for bytes that are none,
  // and for a font of pixels.
  explicit Lettering(std::string_view font);

  void resize(int letter);  // height of letters in pixels

  double length(std::u32string_view text);  // pixels

  // Draws into a picture, clipped by it; `middle`: the row between ascenders and descenders.
  void draw(Picture& picture, std::u32string_view text, int left, int middle, Colour colour);

 private:
  struct Free {
    void operator()(FT_Library library) const { FT_Done_FreeType(library); }
    void operator()(FT_Face face) const { FT_Done_Face(face); }
  };

  // Places of a text's letters: calls `at` with the pen before each, whose glyph is loaded. The pen after all.
  template <typename At>
  FT_Pos walk(std::u32string_view text, FT_Int32 flags, At at);

  std::unique_ptr<std::remove_pointer_t<FT_Library>, Free> library_;
  std::unique_ptr<std::remove_pointer_t<FT_Face>, Free> face_;
};

// A font's file. Throws std::runtime_error (one sentence) where it cannot be read or is none.
std::string read_font(const std::string& path);

// `colour` over `under` with an opacity of 0..255, rounded as Pillow rounds.
void blend(uint8_t* under, Colour colour, unsigned opacity);

}  // namespace lit_service

#endif  // LIT_SERVICE_LETTERING_H_
