// The CUDA kernels, one thread's view of each; cuda_element.h says what Device offers.
//
// A number for each candidate, the better the larger, is sorted by CUB. Then the candidates are taken in rounds of a few
// thousand, from the best on: compare_boxes() writes for each of them, as bits, which of the worse ones it suppresses,
// and which of them a box of an earlier round does; settle_round(), one block, walks over them in order, keeps and
// removes. A round begins with what the ones before have kept, and ends at once where nothing is left to do: the host
// launches all of them without waiting for an answer. Nothing depends on the order in which threads run.
#ifndef LIT_DEPLOY_KERNELS_NMS_CUDA_KERNEL_H_
#define LIT_DEPLOY_KERNELS_NMS_CUDA_KERNEL_H_

#include <cstdint>
#include <cstring>

#include "nms/cuda_plan.h"

namespace lit_deploy::cuda {

LIT_DEVICE uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

LIT_DEVICE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The key of one box, as in cpu.cc: the score's bits in an order that integers compare, above the index counted from the
// end, as of two equal scores the lower index is better. Never 0, which stands for a box that is no candidate.
LIT_DEVICE uint64_t key_of(float score, uint32_t box) {
  uint32_t bits = float_bits(score + 0.0f);  // -0 and 0 are one score
  bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - box);
}

LIT_DEVICE uint32_t box_of(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

// One thread a box: its key, and the largest coordinate of all candidates.
template <typename Device>
LIT_DEVICE void rank_candidates(Device& device, const Suppression& s) {
  const uint32_t box = device.block() * kNmsRankThreads + device.thread();
  float largest = 0.0f;
  if (box < s.count) {
    const float score = device.load(s.scores + box);
    const bool candidate = score > s.score_threshold;
    for (int side = 0; candidate && side < 4; ++side) {
      const float value = device.load(s.boxes + int64_t{4} * box + side);
      largest = value > largest ? value : largest;
    }
    s.keys[box] = candidate ? key_of(score, box) : 0;
  }
  for (int mask = kWarpLanes / 2; mask > 0; mask /= 2) {
    const float other = device.shuffle_xor(largest, mask);
    largest = other > largest ? other : largest;
  }
  if (device.thread() % kWarpLanes == 0 && largest > 0.0f) device.atomic_max(&s.state->largest, float_bits(largest));
}

LIT_DEVICE float least(float a, float b) { return a < b ? a : b; }
LIT_DEVICE float most(float a, float b) { return a > b ? a : b; }

// The shifted box of a key; all zeros for one of 0.
template <typename Device>
LIT_DEVICE NmsCorners corners_of(Device& device, const Suppression& s, uint64_t key) {
  NmsCorners corners{0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
  if (key == 0) return corners;
  const uint32_t box = box_of(key);
  const float offset =
      device.product(static_cast<float>(device.load(s.classes + box)), float_of_bits(s.state->largest) + 1.0f);
  float side[4];
  for (int i = 0; i < 4; ++i) side[i] = device.load(s.boxes + int64_t{4} * box + i) + offset;
  corners = {least(side[0], side[2]), least(side[1], side[3]), most(side[0], side[2]), most(side[1], side[3]), 0.0f};
  corners.area = device.product(corners.right - corners.left, corners.bottom - corners.top);
  return corners;
}

// The candidate at a place of the order, 0 behind the last.
LIT_DEVICE uint64_t key_at(const Suppression& s, uint32_t place) { return place < s.count ? s.sorted[place] : 0; }

template <typename Device>
LIT_DEVICE bool overlap(Device& device, const NmsCorners& a, const NmsCorners& b, float iou_threshold) {
  const float width = least(a.right, b.right) - most(a.left, b.left);
  const float height = least(a.bottom, b.bottom) - most(a.top, b.top);
  if (!(width > 0.0f && height > 0.0f && a.area > 0.0f && b.area > 0.0f)) return false;
  const float intersection = device.product(width, height), joined = a.area + b.area - intersection;
  return joined > 0.0f && intersection / joined > iou_threshold;
}

// A block compares one tile of the round's boxes, a thread each: with the boxes of one tile that are worse, or with a
// share of those kept before.
template <typename Device>
LIT_DEVICE void compare_boxes(Device& device, const NmsRound& r, NmsCorners (&others)[kNmsTile]) {
  const Suppression& s = r.suppression;
  const uint32_t across = s.tiles + kNmsKeptSlices, thread = device.thread();
  const uint32_t tile = device.block() / across, other = device.block() - tile * across;
  // The last condition: where a tile's first box is no candidate, none of it is.
  if (s.state->done != 0 || other < tile || key_at(s, r.first + tile * kNmsTile) == 0) return;
  const NmsCorners own = corners_of(device, s, key_at(s, r.first + tile * kNmsTile + thread));
  if (other < s.tiles) {
    others[thread] = corners_of(device, s, key_at(s, r.first + other * kNmsTile + thread));
    device.sync();
    uint64_t word = 0;
    for (uint32_t j = other == tile ? thread + 1 : 0; j < kNmsTile; ++j) {
      if (overlap(device, own, others[j], s.iou_threshold)) word |= uint64_t{1} << j;
    }
    s.mask[(uint64_t{tile} * kNmsTile + thread) * s.tiles + other] = word;
    return;
  }
  const uint32_t kept = s.state->kept;
  bool removed = false;
  for (uint32_t first = (other - s.tiles) * kNmsTile; first < kept; first += kNmsKeptSlices * kNmsTile) {
    device.sync();  // the tile before is read
    if (first + thread < kept) others[thread] = s.kept[first + thread];
    device.sync();
    for (uint32_t j = 0; j < kNmsTile && first + j < kept && !removed; ++j) {
      removed = overlap(device, others[j], own, s.iou_threshold);
    }
  }
  if (removed) device.atomic_or(s.removed + tile, uint64_t{1} << thread);
}

struct SettleShared {
  uint64_t suppresses[kNmsTile];  // of the tile's boxes, which it suppresses of the same tile
  uint64_t removed;               // of the tile's boxes
  bool candidate[kNmsTile];
};

// One block of kNmsTile threads. A thread has one box of the tile at hand, and one word of removed boxes.
template <typename Device>
LIT_DEVICE void settle_round(Device& device, const NmsRound& r, SettleShared& shared) {
  const Suppression& s = r.suppression;
  const uint32_t thread = device.thread();
  if (s.state->done != 0) return;
  uint64_t removed = 0;
  if (thread < s.tiles) {
    removed = s.removed[thread];
    s.removed[thread] = 0;  // for the next round
  }
  uint32_t kept = s.state->kept;
  bool done = false;
  for (uint32_t tile = 0; tile < s.tiles && !done; ++tile) {
    const uint64_t key = key_at(s, r.first + tile * kNmsTile + thread);
    const uint64_t* const words = s.mask + uint64_t{tile} * kNmsTile * s.tiles;
    device.sync();  // the tile before is read
    shared.candidate[thread] = key != 0;
    shared.suppresses[thread] = key != 0 ? words[uint64_t{thread} * s.tiles + tile] : 0;
    if (thread == tile) shared.removed = removed;
    device.sync();
    // Every thread walks over the tile: that costs no more than one, and all know the result.
    uint64_t gone = shared.removed, stay = 0;
    uint32_t place = s.most;
    for (uint32_t i = 0; i < kNmsTile; ++i) {
      done = kept == s.most || !shared.candidate[i];
      if (done) break;
      if ((gone >> i & 1u) != 0) continue;
      if (i == thread) place = kept;
      ++kept;
      stay |= uint64_t{1} << i;
      gone |= shared.suppresses[i];
    }
    if (place < s.most) {
      s.indices[place] = box_of(key);
      s.kept[place] = corners_of(device, s, key);
    }
    if (done || thread <= tile || thread >= s.tiles) continue;
    for (uint32_t i = 0; i < kNmsTile; ++i) {
      if ((stay >> i & 1u) != 0) removed |= words[uint64_t{i} * s.tiles + thread];
    }
  }
  if (thread == 0) {
    s.state->kept = kept;
    s.state->done = done ? 1 : 0;
  }
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_NMS_CUDA_KERNEL_H_
