// Non-maximum suppression against the definition written out, index by index, for every kernel. Compiled without
// contraction: which boxes stay hangs on single bits.
#ifndef LIT_DEPLOY_TESTS_NMS_CASES_H_
#define LIT_DEPLOY_TESTS_NMS_CASES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "nms/kernel.h"

namespace nms_cases {

using lit_deploy::NmsOptions;

struct Boxes {
  std::vector<float> corners, scores;
  std::vector<int64_t> classes;

  void add(float x1, float y1, float x2, float y2, float score, int64_t label = 0) {
    for (float side : {x1, y1, x2, y2}) corners.push_back(side);
    scores.push_back(score);
    classes.push_back(label);
  }

  // docs/nms.md, step by step; this file is compiled without contraction.
  std::vector<int64_t> expected(const NmsOptions& options) const {
    std::vector<size_t> order(scores.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const auto below = [&](size_t i) { return !(scores[i] > options.score_threshold); };
    order.erase(std::remove_if(order.begin(), order.end(), below), order.end());
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    float largest = 0.0f;
    for (size_t i : order) largest = std::max(largest, *std::max_element(&corners[4 * i], &corners[4 * i] + 4));
    std::vector<int64_t> kept;
    for (size_t i : order) {
      if (static_cast<int64_t>(kept.size()) == options.max_output) break;
      const auto suppresses = [&](int64_t k) {
        return iou(static_cast<size_t>(k), i, largest + 1.0f) > options.iou_threshold;
      };
      if (std::none_of(kept.begin(), kept.end(), suppresses)) kept.push_back(static_cast<int64_t>(i));
    }
    kept.resize(static_cast<size_t>(options.max_output), -1);
    return kept;
  }

  float iou(size_t a, size_t b, float extent) const {
    float low[2][2], high[2][2], area[2];
    const size_t both[2] = {a, b};
    for (int n = 0; n < 2; ++n) {
      const float offset = static_cast<float>(classes[both[n]]) * extent;
      const float* c = &corners[4 * both[n]];
      for (int axis = 0; axis < 2; ++axis) {
        const float first = c[axis] + offset, second = c[axis + 2] + offset;
        low[n][axis] = std::min(first, second);
        high[n][axis] = std::max(first, second);
      }
      area[n] = (high[n][0] - low[n][0]) * (high[n][1] - low[n][1]);
    }
    const float width = std::min(high[0][0], high[1][0]) - std::max(low[0][0], low[1][0]);
    const float height = std::min(high[0][1], high[1][1]) - std::max(low[0][1], low[1][1]);
    if (!(width > 0.0f && height > 0.0f && area[0] > 0.0f && area[1] > 0.0f)) return 0.0f;
    const float intersection = width * height, joined = area[0] + area[1] - intersection;
    return joined > 0.0f ? intersection / joined : 0.0f;
  }
};

// What is tested: its name, and a call of it.
struct Kernel {
  const char* name;
  std::function<std::vector<int64_t>(const Boxes&, const NmsOptions&)> run;
};

inline void check_equal(const Boxes& boxes, const NmsOptions& options, const Kernel& kernel, const char* what) {
  const std::vector<int64_t> got = kernel.run(boxes, options), want = boxes.expected(options);
  const auto differs = std::mismatch(got.begin(), got.end(), want.begin());
  const bool equal = differs.first == got.end();
  CHECK(equal, "%s, %s, %zu boxes: place %td is %lld, expected %lld", what, kernel.name, boxes.scores.size(),
        differs.first - got.begin(), static_cast<long long>(*differs.first), static_cast<long long>(*differs.second));
}

// Crowded boxes with many equal scores; whole numbers, of which many pairs lie exactly on a threshold, or any.
inline Boxes random_boxes(std::mt19937& generator, int64_t count, int classes, int span, bool whole) {
  const auto pick = [&](int most) { return std::uniform_int_distribution<int>(0, most)(generator); };
  std::uniform_real_distribution<float> any;
  Boxes boxes;
  for (int64_t i = 0; i < count; ++i) {
    float c[4];
    for (int side = 0; side < 4; ++side) {
      c[side] = static_cast<float>(pick(side < 2 ? span : 12)) + (whole ? 0.0f : any(generator));
    }
    boxes.add(c[0], c[1], c[0] + c[2], c[1] + c[3], static_cast<float>(pick(200)) / 200.0f, pick(classes - 1));
  }
  return boxes;
}

// Up to `largest` random boxes; few of them, several classes and thresholds that are met exactly.
inline void test_random(const Kernel& kernel, int64_t largest) {
  std::mt19937 generator(3);
  const float thresholds[] = {0.5f, 0.7f, 1.0f / 3.0f, 0.0f, 1.0f};
  for (int i = 0; i < largest; ++i) {
    const Boxes boxes = random_boxes(generator, i, 1 + i % 80, 5 + 13 * i % 1300, i % 2 == 0);
    check_equal(boxes, {thresholds[i % 5], 0.05f, 1 + i % 120}, kernel, "random boxes");
  }
}

inline void test_edges(const Kernel& kernel) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const NmsOptions options{0.5f, 0.05f, 4};
  Boxes none;
  check_equal(none, options, kernel, "no box");
  none.add(0, 0, 4, 4, 0.05f);
  none.add(0, 0, 4, 4, nan);
  check_equal(none, options, kernel, "no candidate");
  CHECK(kernel.run(none, options) == (std::vector<int64_t>{-1, -1, -1, -1}), "no candidate must give -1");

  Boxes ties;  // 2 and 1 overlap by 8 / 16, which is not above 0.5, and by the same next to it
  ties.add(0, 0, 4, 3, 0.5f);
  ties.add(0, 1, 4, 4, 0.5f);
  ties.add(0, 0, 4, 3, 0.9f, 1);
  check_equal(ties, options, kernel, "IoU at the threshold");
  CHECK(kernel.run(ties, options) == (std::vector<int64_t>{2, 0, 1, -1}), "IoU of 0.5 must not suppress at 0.5");
  CHECK(kernel.run(ties, {std::nextafter(0.5f, 0.0f), 0.05f, 4}) == (std::vector<int64_t>{2, 0, -1, -1}),
        "IoU of 0.5 must suppress just below 0.5");

  Boxes zero;  // equal boxes without an area
  for (int i = 0; i < 3; ++i) zero.add(2, 2, 2, 9, 0.5f);
  CHECK(kernel.run(zero, {0.0f, 0.05f, 4}) == (std::vector<int64_t>{0, 1, 2, -1}), "a zero area must not suppress");

  Boxes signs;  // -0 and 0 are one score, below which only negative ones lie
  signs.add(0, 0, 1, 1, -0.0f);
  signs.add(5, 5, 6, 6, 0.0f);
  signs.add(3, 3, 2, 2, -1.0f);
  signs.add(9, 9, 8, 8, infinity);
  CHECK(kernel.run(signs, {0.5f, -2.0f, 4}) == (std::vector<int64_t>{3, 0, 1, 2}), "order of scores");

  Boxes negative;  // boxes left of 0 reach into the class before theirs: the offsets are what counts
  negative.add(0, 0, 10, 10, 0.9f, 0);
  negative.add(-11, -11, -1, -1, 0.8f, 1);
  check_equal(negative, options, kernel, "negative coordinates");
  CHECK(kernel.run(negative, options) == (std::vector<int64_t>{0, -1, -1, -1}), "offsets must be added as they are");

  Boxes wild;  // nothing is promised for these but that memory stays whole
  for (float value : {nan, infinity, -infinity, 3e38f}) {
    wild.add(value, 0, 1, value, 0.5f, 3);
    wild.add(0, value, value, 1, 0.6f, int64_t{1} << 62);
  }
  CHECK(kernel.run(wild, {0.5f, 0.05f, 20}).size() == 20, "wild boxes");
}

}  // namespace nms_cases

#endif  // LIT_DEPLOY_TESTS_NMS_CASES_H_
