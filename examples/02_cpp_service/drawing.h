// What was found, drawn into its picture as `lit-deploy predict --out` draws it, and label maps.
#ifndef LIT_SERVICE_DRAWING_H_
#define LIT_SERVICE_DRAWING_H_

#include <cstddef>
#include <string>
#include <string_view>

#include <lit_runtime.hpp>

#include "decode.h"

namespace lit_service {

// Most pixels of a picture that is drawn into: it, and its PNG, are held until the client has the answer.
constexpr size_t kMostDrawnPixels = size_t{1} << 24;

// Draws the best `top` of what the context's last run found into the picture that it was found in: masks, then boxes,
// then names with scores, the best last. Without a font no names. Equal to the bit to Python's picture where the font
// is Pillow's own, but for letters where another FreeType renders.
void draw_detections(Picture& picture, lit::Context& context, const lit::Detections& found, size_t top,
                     std::string_view font);

// A PNG file, RGB. Throws std::bad_alloc.
std::string png_of(const Picture& picture);

// A PNG file of the label of every pixel, whose palette has the classes' colours. Throws std::bad_alloc.
std::string png_of(const lit::LabelMap& map, const lit::Model& model);

}  // namespace lit_service

#endif  // LIT_SERVICE_DRAWING_H_
