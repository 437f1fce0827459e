// Which cells each bin is made of, and with what weights; in the arithmetic of docs/multi_level_roi_align.md, without
// contraction, as a region that is one bit wider can be sampled one time more.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "multi_level_roi_align/plan.h"

namespace lit_deploy {
namespace {

constexpr float kScales[kRoiLevels] = {1.0f / 4, 1.0f / 8, 1.0f / 16, 1.0f / 32};
constexpr float kLargest = 16777216.0f;  // coordinates beyond it are no pixels; NaN is not below it either

// An array that grows, and says when it cannot.
template <typename T>
struct Buffer {
  T* data = nullptr;
  int64_t size = 0, capacity = 0;

  ~Buffer() { std::free(data); }

  // Room for `more` elements behind the last one, set to zero.
  bool grow(int64_t more) {
    if (size + more > capacity) {
      const int64_t larger = std::max(size + more, 2 * capacity);
      void* const moved = std::realloc(data, static_cast<size_t>(larger) * sizeof(T));
      if (moved == nullptr) return false;
      data = static_cast<T*>(moved);
      capacity = larger;
    }
    std::memset(data + size, 0, static_cast<size_t>(more) * sizeof(T));
    size += more;
    return true;
  }

  T* release() {
    T* const released = data;
    data = nullptr;
    return released;
  }
};

// One axis of one region, in cells; the centre of a cell is an integer.
struct Axis {
  float start, per_bin, samples;
  int64_t size;

  Axis(float low, float high, float scale, int64_t cells, int64_t bins) : size(cells) {
    start = low * scale - 0.5f;
    per_bin = (high * scale - 0.5f - start) / static_cast<float>(bins);
    samples = std::ceil(per_bin);
  }

  float position(int64_t bin, int64_t sample) const {
    return start + static_cast<float>(bin) * per_bin + (static_cast<float>(sample) + 0.5f) * per_bin / samples;
  }

  bool on_map(float position) const { return position >= -1.0f && position <= static_cast<float>(size); }
};

// The samples of a bin that lie on the map: a run, as positions grow with the sample's number. The search starts from a
// guess that is too wide, so that what a region has far off the map costs nothing.
struct Run {
  int64_t begin, end;

  Run(const Axis& axis, int64_t bin) {
    const double first = axis.position(bin, 0);
    const double step = static_cast<double>(axis.per_bin) / axis.samples;
    const auto guess = [&](double position) {
      return static_cast<int64_t>(std::min(std::max((position - first) / step, 0.0), double{axis.samples}));
    };
    begin = std::max(guess(-1.0) - 4, int64_t{0});
    end = std::min(guess(static_cast<double>(axis.size)) + 4, static_cast<int64_t>(axis.samples));
    while (begin < end && !axis.on_map(axis.position(bin, begin))) ++begin;
    while (begin < end && !axis.on_map(axis.position(bin, end - 1))) --end;
  }
};

// Appends the weights of one bin to `weights`, and says which cells they are for.
bool append_bin(const Axis& axis, int64_t bin, Buffer<float>& weights, RoiRows& cells) {
  const Run run(axis, bin);
  cells = RoiRows{0, 0};
  if (run.begin == run.end) return true;
  const float last_cell = static_cast<float>(axis.size - 1);
  const auto clamped = [&](int64_t sample) {
    return std::min(std::max(axis.position(bin, sample), 0.0f), last_cell);
  };
  const int64_t first = static_cast<int64_t>(clamped(run.begin));
  const int64_t last = std::min(static_cast<int64_t>(clamped(run.end - 1)) + 1, axis.size - 1);
  cells = RoiRows{static_cast<int32_t>(first), static_cast<int32_t>(last - first + 1)};
  const int64_t at = weights.size;
  if (!weights.grow(cells.count)) return false;
  const float share = 1.0f / axis.samples;
  for (int64_t sample = run.begin; sample < run.end; ++sample) {
    const float position = clamped(sample);
    const int64_t below = static_cast<int64_t>(position);
    const int64_t above = std::min(below + 1, axis.size - 1);
    const float fraction = position - static_cast<float>(below);
    weights.data[at + below - first] += share * (1.0f - fraction);
    weights.data[at + above - first] += share * fraction;
  }
  return true;
}

int level_of(float width, float height) {
  const float scale = std::sqrt(std::max(width * height, 0.0f)) / 56.0f + 1e-6f;
  return (scale >= 2.0f) + (scale >= 4.0f) + (scale >= 8.0f);
}

// Plans are made one region after the other into these.
struct Builder {
  const RoiAlignShape& shape;
  Buffer<RoiWindow> windows;
  Buffer<RoiRows> rows;
  Buffer<float> weights;
  Buffer<float> scratch;  // the columns' weights bin by bin, before they are turned
  Buffer<RoiRows> columns;

  explicit Builder(const RoiAlignShape& s) : shape(s) {}

  bool add(const float* roi) {
    if (!windows.grow(1) || !rows.grow(shape.output_size)) return false;
    RoiWindow& window = windows.data[windows.size - 1];
    const float width = roi[2] - roi[0], height = roi[3] - roi[1];
    for (int side = 0; side < 4; ++side) {
      if (!(std::fabs(roi[side]) <= kLargest)) return true;
    }
    if (!(width > 0.0f && height > 0.0f)) return true;
    window.level = level_of(width, height);
    const float scale = kScales[window.level];
    const Axis vertical(roi[1], roi[3], scale, shape.height[window.level], shape.output_size);
    const Axis horizontal(roi[0], roi[2], scale, shape.width[window.level], shape.output_size);
    if (!(vertical.per_bin > 0.0f && horizontal.per_bin > 0.0f)) return true;  // narrower than the last place of x
    return add_rows(vertical, window) && add_columns(horizontal, window);
  }

  bool add_rows(const Axis& axis, RoiWindow& window) {
    window.row_weights = weights.size;
    RoiRows* const bins = rows.data + rows.size - shape.output_size;
    for (int64_t bin = 0; bin < shape.output_size; ++bin) {
      if (!append_bin(axis, bin, weights, bins[bin])) return false;
      window.row_end = std::max(window.row_end, bins[bin].first + bins[bin].count);
    }
    return true;
  }

  bool add_columns(const Axis& axis, RoiWindow& window) {
    scratch.size = columns.size = 0;
    if (!columns.grow(shape.output_size)) return false;
    int32_t begin = INT32_MAX, end = 0;
    for (int64_t bin = 0; bin < shape.output_size; ++bin) {
      RoiRows& cells = columns.data[bin];
      if (!append_bin(axis, bin, scratch, cells)) return false;
      if (cells.count == 0) continue;
      begin = std::min(begin, cells.first);
      end = std::max(end, cells.first + cells.count);
    }
    if (end == 0 || window.row_end == 0) return true;
    const int64_t panel = roi_panel(shape.output_size), panels = (shape.output_size + panel - 1) / panel;
    window.column = begin;
    window.columns = end - begin;
    window.column_weights = weights.size;
    if (!weights.grow(panels * window.columns * panel)) return false;
    const float* weight = scratch.data;
    for (int64_t bin = 0; bin < shape.output_size; ++bin) {
      const RoiRows& cells = columns.data[bin];
      float* const out = weights.data + window.column_weights + bin / panel * window.columns * panel + bin % panel;
      for (int32_t i = 0; i < cells.count; ++i) out[(cells.first - begin + i) * panel] = *weight++;
    }
    return true;
  }
};

}  // namespace

RoiAlignPlan* make_roi_align_plan(const RoiAlignShape& shape, const float* rois) noexcept {
  Builder builder(shape);
  for (int64_t roi = 0; roi < shape.rois; ++roi) {
    if (!builder.add(rois + 4 * roi)) return nullptr;
  }
  RoiAlignPlan* const plan = static_cast<RoiAlignPlan*>(std::malloc(sizeof(RoiAlignPlan)));
  if (plan != nullptr) {
    *plan = RoiAlignPlan{shape, builder.windows.release(), builder.rows.release(), builder.weights.release()};
  }
  return plan;
}

void free_roi_align_plan(RoiAlignPlan* plan) noexcept {
  if (plan == nullptr) return;
  std::free(const_cast<RoiWindow*>(plan->windows));
  std::free(const_cast<RoiRows*>(plan->rows));
  std::free(const_cast<float*>(plan->weights));
  std::free(plan);
}

}  // namespace lit_deploy
