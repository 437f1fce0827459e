// Antialiased resampling of 8-bit RGB, to the bit as Pillow's Image.resize().
#ifndef LIT_DEPLOY_RUNTIME_RESAMPLE_H_
#define LIT_DEPLOY_RUNTIME_RESAMPLE_H_

#include <cstddef>
#include <cstdint>

namespace lit_deploy::runtime {

enum class Filter { kBicubic, kBilinear };

// One axis of a resize of which only a part is wanted: pixels offset..offset+count-1 of `output` that are made of
// `input`. All in pixels, 1 <= input and output <= 2^27, count >= 1.
struct Axis {
  int input;
  int output;
  int offset;
  int count;
};

// Resizes a picture, and computes only the pixels that are wanted.
//   source      y.input rows of x.input RGB triples, `row_stride` bytes (of either sign) apart
//   target      receives y.count dense rows of x.count triples
// Throws std::bad_alloc.
void resample(Filter filter, const uint8_t* source, std::ptrdiff_t row_stride, const Axis& x, const Axis& y,
              uint8_t* target);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_RESAMPLE_H_
