#include "drawing.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

#include <boost/locale/encoding_utf.hpp>

#include "lettering.h"
#include "log.h"

namespace lit_service {
namespace {

constexpr unsigned kTint = 115;  // opacity of a mask, of 255
constexpr int kSmallest = 7;     // to which letters shrink before words are cut

// To the even neighbour from the middle, as Python rounds.
int rounded(double value) { return static_cast<int>(std::nearbyint(value)); }

// Sizes that suit a picture; pixels.
struct Style {
  int letter, line, row;
};

Style style_for(int width, int height) {
  const int side = std::min(width, height);
  const int letter = std::clamp(rounded(side / 36.0), 10, 72);
  return {letter, std::max(side < 120 ? 1 : 2, rounded(side / 250.0)), rounded(letter * 1.3)};
}

Colour colour_of(const lit::Context& context, int64_t label) {
  const lit::Category category = context.model().category(label);
  return {category.colour[0], category.colour[1], category.colour[2]};
}

// All pixels of x1..x2 and y1..y2 that are in the picture; none where an end is before its start.
void fill(Picture& picture, int x1, int y1, int x2, int y2, Colour colour) {
  for (int y = std::max(y1, 0); y <= std::min(y2, picture.height - 1); ++y) {
    for (int x = std::max(x1, 0); x <= std::min(x2, picture.width - 1); ++x) {
      blend(picture.rgb.get() + size_t{3} * (size_t{1} * picture.width * y + x), colour, 255);
    }
  }
}

void outline(Picture& picture, int x1, int y1, int x2, int y2, Colour colour, int line) {
  fill(picture, x1, y1, x2, y1 + line - 1, colour);
  fill(picture, x1, y2 - line + 1, x2, y2, colour);
  // Sides between them; of boxes that are smaller than their lines they overlap, upwards, as Pillow draws them.
  const int from = y1 + line, to = y2 - line + 1;  // the end is not drawn
  if (from == to) return;
  const int first = from < to ? from : to + 1, last = from < to ? to - 1 : from;
  fill(picture, x1, first, x1 + line - 1, last, colour);
  fill(picture, x2 - line + 1, first, x2, last, colour);
}

// In its colour, with a black hairline around it.
void draw_box(Picture& picture, const float* box, Colour colour, int line) {
  const auto inside = [](double place, int size) {
    return static_cast<int>(std::clamp(std::nearbyint(place), 0.0, size - 1.0));
  };
  // Corners the wrong way round are a box all the same.
  const auto [x1, x2] = std::minmax({inside(box[0], picture.width), inside(box[2], picture.width)});
  const auto [y1, y2] = std::minmax({inside(box[1], picture.height), inside(box[3], picture.height)});
  outline(picture, x1 - 1, y1 - 1, x2 + 1, y2 + 1, kBlack, 1);
  outline(picture, x1, y1, x2, y2, colour, line);
}

// How many steps over the edges of pixels lead from each one of a mask out of it, 255 at most; 0 outside.
std::vector<uint8_t> depths(const lit::Mask& mask) {
  const size_t width = static_cast<size_t>(mask.width), height = static_cast<size_t>(mask.height);
  std::vector<uint8_t> steps(mask.pixels, mask.pixels + width * height);
  for (size_t y = 0; y < height; ++y) {
    for (size_t x = 0; x < width; ++x) {
      uint8_t& here = steps[y * width + x];
      const int above = y == 0 ? 0 : steps[(y - 1) * width + x], left = x == 0 ? 0 : steps[y * width + x - 1];
      if (here != 0) here = static_cast<uint8_t>(std::min({255, above + 1, left + 1}));
    }
  }
  for (size_t y = height; y-- > 0;) {
    for (size_t x = width; x-- > 0;) {
      uint8_t& here = steps[y * width + x];
      const int below = y + 1 == height ? 0 : steps[(y + 1) * width + x];
      const int right = x + 1 == width ? 0 : steps[y * width + x + 1];
      if (here != 0) here = static_cast<uint8_t>(std::min({int{here}, below + 1, right + 1}));
    }
  }
  return steps;
}

// Tints the pixels of a mask, and draws its outline inside it.
void draw_mask(Picture& picture, const lit::Mask& mask, Colour colour, int line) {
  const std::vector<uint8_t> steps = depths(mask);
  for (int y = 0; y < mask.height; ++y) {
    const size_t row = static_cast<size_t>(mask.top + y) * static_cast<size_t>(picture.width);
    uint8_t* const target = picture.rgb.get() + 3 * (row + static_cast<size_t>(mask.left));
    const uint8_t* const depth = steps.data() + static_cast<size_t>(y) * static_cast<size_t>(mask.width);
    for (int x = 0; x < mask.width; ++x) {
      if (depth[x] > 0) blend(target + 3 * x, colour, depth[x] > line ? kTint : 255);
    }
  }
}

// As many letters of a text as fit into so many pixels, in a size that is set.
std::u32string fitted(Lettering& letters, const Style& style, std::u32string text, int room) {
  for (int letter = style.letter; letter >= kSmallest; --letter) {
    letters.resize(letter);
    if (letters.length(text) <= room) return text;
  }
  while (!text.empty() && letters.length(text) > room) {
    const size_t space = text.rfind(U' ');  // no number that lacks its last digits
    text.resize(space == text.npos || space == 0 ? text.size() - 1 : space);
  }
  return text;
}

// Words on a plate: above a place where there is room, else below it, and always inside the picture.
void draw_tag(Picture& picture, Lettering& letters, const Style& style, const std::string& text, const float* place,
              Colour colour) {
  std::u32string whole = boost::locale::conv::utf_to_utf<char32_t>(printable(text));
  const std::u32string words = fitted(letters, style, std::move(whole), picture.width - 2 * style.line);
  if (words.empty() || style.row > picture.height) return;
  const int plate = rounded(letters.length(words)) + 2 * style.line;
  const double x = std::nearbyint(place[0]), y = std::nearbyint(place[1]);
  const int left = static_cast<int>(std::min(std::max(x, 0.0), double(picture.width - plate)));
  const double above = y >= style.row ? y - style.row : std::max(y, 0.0);
  const int top = static_cast<int>(std::min(above, double(picture.height - style.row)));
  fill(picture, left, top, left + plate - 1, top + style.row - 1, colour);
  const bool bright = 0.299 * colour.red + 0.587 * colour.green + 0.114 * colour.blue > 128;
  letters.draw(picture, words, left + style.line, top + style.row / 2, bright ? kBlack : kWhite);
}

}  // namespace

void draw_detections(Picture& picture, lit::Context& context, const lit::Detections& found, size_t top,
                     std::string_view font) {
  const Style style = style_for(picture.width, picture.height);
  const int64_t count = std::min(found.count, static_cast<int64_t>(top));
  const bool masks = context.model().info().mask_size > 0;
  for (int64_t i = count; masks && i-- > 0;) {
    draw_mask(picture, context.paste_mask(i), colour_of(context, found.labels[i]), style.line);
  }
  for (int64_t i = count; i-- > 0;) {
    draw_box(picture, found.boxes + 4 * i, colour_of(context, found.labels[i]), style.line);
  }
  if (font.empty()) return;
  Lettering letters(font);
  for (int64_t i = count; i-- > 0;) {
    char score[16];
    std::snprintf(score, sizeof score, " %.2f", double{found.scores[i]});
    draw_tag(picture, letters, style, context.model().label(found.labels[i]) + score, found.boxes + 4 * i,
             colour_of(context, found.labels[i]));
  }
}

}  // namespace lit_service
