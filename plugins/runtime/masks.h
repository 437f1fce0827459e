// From a mask inside its box to pixels of the picture, and COCO's run lengths of them: the rules of
// lit_deploy/tasks/instance_segmentation/pasting.py and rle.py.
#ifndef LIT_DEPLOY_RUNTIME_MASKS_H_
#define LIT_DEPLOY_RUNTIME_MASKS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace lit_deploy::runtime {

// The pixels of one object, in the part of the picture where they can lie.
struct PastedMask {
  std::vector<uint8_t> pixels;  // [height, width], 0 or 1
  int32_t left = 0, top = 0, width = 0, height = 0;
  int64_t area = 0;
};

// Pastes one mask.
//   cells        [side, side], probabilities inside the box; finite
//   box          x1, y1, x2, y2 in pixels of the picture; finite
//   width, height  of the picture
//   mask         what was in it is overwritten; its memory is used again
// Throws std::bad_alloc.
void paste(const float* cells, int64_t side, const float* box, int32_t width, int32_t height, PastedMask* mask);

// The compressed run lengths of the whole picture, read column by column. Throws std::bad_alloc.
std::string run_lengths(const PastedMask& mask, int32_t width, int32_t height);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_MASKS_H_
