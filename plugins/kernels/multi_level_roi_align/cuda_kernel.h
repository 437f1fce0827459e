// The CUDA kernel, one thread's view of it; cuda_element.h says what Device offers.
//
// A thread computes one bin of one region, in a few channels at a time: they share the bin's positions and weights, and
// their loads are under way together. Neighbouring threads have neighbouring bins, which read neighbouring cells and
// write neighbouring elements. Nothing is kept per region: working out its level and grid is little beside its samples.
#ifndef LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_KERNEL_H_
#define LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_KERNEL_H_

#include <cmath>
#include <cstdint>

#include "multi_level_roi_align/cuda_plan.h"

namespace lit_deploy::cuda {

constexpr float kRoiLargest = 16777216.0f;  // coordinates beyond it are no pixels; NaN is not below it either

// One axis of one region, in cells; the centre of a cell is an integer. In the arithmetic of
// docs/multi_level_roi_align.md, one rounding an operation: how often a bin is sampled hangs on single bits.
struct RoiAxis {
  float start, per_bin, samples;
  int32_t cells;
};

// `scale` is a power of two, so that fusing its products would change nothing.
LIT_DEVICE RoiAxis axis_of(float low, float high, float scale, int32_t cells, uint32_t bins) {
  RoiAxis axis;
  axis.start = low * scale - 0.5f;
  axis.per_bin = (high * scale - 0.5f - axis.start) / static_cast<float>(bins);
  axis.samples = ceilf(axis.per_bin);
  axis.cells = cells;
  return axis;
}

template <typename Device>
LIT_DEVICE float position_of(Device& device, const RoiAxis& axis, uint32_t bin, int32_t sample) {
  const float within = device.product(static_cast<float>(sample) + 0.5f, axis.per_bin) / axis.samples;
  return axis.start + device.product(static_cast<float>(bin), axis.per_bin) + within;
}

LIT_DEVICE bool on_map(const RoiAxis& axis, float position) {
  return position >= -1.0f && position <= static_cast<float>(axis.cells);
}

// The samples of a bin that lie on the map: a run, as positions grow with the sample's number.
struct RoiRun {
  int32_t begin, end;
};

LIT_DEVICE int32_t rounded_down_within(double value, float most) {
  return static_cast<int32_t>(value < 0.0 ? 0.0 : value > static_cast<double>(most) ? static_cast<double>(most) : value);
}

template <typename Device>
LIT_DEVICE RoiRun run_of(Device& device, const RoiAxis& axis, uint32_t bin) {
  const int32_t count = static_cast<int32_t>(axis.samples);  // coordinates up to 2^24 make it at most 2^23
  RoiRun run{0, count};
  const float first = position_of(device, axis, bin, 0);
  if (on_map(axis, first) && on_map(axis, position_of(device, axis, bin, count - 1))) return run;
  // What a region has far off the map must cost nothing, so the search starts from a guess that is too wide.
  const double step = static_cast<double>(axis.per_bin) / static_cast<double>(axis.samples);
  const double until_map = (-1.0 - static_cast<double>(first)) / step;
  const double until_end = (static_cast<double>(axis.cells) - static_cast<double>(first)) / step;
  const int32_t begin = rounded_down_within(until_map, axis.samples) - 4;
  const int32_t end = rounded_down_within(until_end, axis.samples) + 4;
  if (begin > 0) run.begin = begin;
  if (end < count) run.end = end;
  while (run.begin < run.end && !on_map(axis, position_of(device, axis, bin, run.begin))) ++run.begin;
  while (run.begin < run.end && !on_map(axis, position_of(device, axis, bin, run.end - 1))) --run.end;
  return run;
}

// The two cells that a sample lies between, and their weights.
struct RoiSample {
  int32_t cell[2];
  float weight[2];
};

template <typename Device>
LIT_DEVICE RoiSample sample_of(Device& device, const RoiAxis& axis, uint32_t bin, int32_t number) {
  const float last = static_cast<float>(axis.cells - 1);
  float position = position_of(device, axis, bin, number);
  position = position < 0.0f ? 0.0f : position > last ? last : position;
  RoiSample sample;
  sample.cell[0] = static_cast<int32_t>(position);
  sample.cell[1] = sample.cell[0] + 1 < axis.cells ? sample.cell[0] + 1 : axis.cells - 1;
  sample.weight[1] = position - static_cast<float>(sample.cell[0]);
  sample.weight[0] = 1.0f - sample.weight[1];
  return sample;
}

// One region on its level; without an area, `level` is negative and nothing else is set.
template <typename T>
struct RoiPlace {
  int32_t level;
  RoiAxis rows, columns;
  const T* map;
};

template <typename Device, typename T>
LIT_DEVICE RoiPlace<T> place_of(Device& device, const RoiAlign<T>& r, uint32_t region) {
  RoiPlace<T> place{};
  place.level = -1;
  float side[4];
  bool finite = true;
  LIT_UNROLL
  for (int i = 0; i < 4; ++i) {
    side[i] = device.load(r.rois + int64_t{4} * region + i);
    finite = finite && fabsf(side[i]) <= kRoiLargest;
  }
  const float width = side[2] - side[0], height = side[3] - side[1];
  if (!finite || !(width > 0.0f && height > 0.0f)) return place;
  const float size = sqrtf(width * height) / 56.0f + 1e-6f;
  const int32_t level = (size >= 2.0f ? 1 : 0) + (size >= 4.0f ? 1 : 0) + (size >= 8.0f ? 1 : 0);
  // Not by an index: arguments that are indexed at run time would be copied to the thread's own memory.
  int32_t map_height = r.height[0], map_width = r.width[0];
  place.map = r.levels[0];
  LIT_UNROLL
  for (int i = 1; i < kRoiLevels; ++i) {
    if (level == i) {
      map_height = r.height[i];
      map_width = r.width[i];
      place.map = r.levels[i];
    }
  }
  const float scale = 1.0f / static_cast<float>(4 << level);
  place.rows = axis_of(side[1], side[3], scale, map_height, r.output_size);
  place.columns = axis_of(side[0], side[2], scale, map_width, r.output_size);
  // Narrower than the last place of a coordinate, a bin has no samples.
  if (place.rows.per_bin > 0.0f && place.columns.per_bin > 0.0f) place.level = level;
  return place;
}

template <typename E, typename Device, typename T>
LIT_DEVICE void pool_regions(Device& device, const RoiAlign<T>& r) {
  const uint32_t region = device.block() / r.blocks_per_region;
  const uint32_t item = (device.block() - region * r.blocks_per_region) * device.threads() + device.thread();
  if (item >= r.items) return;
  const uint32_t bins = r.output_size * r.output_size, group = item / bins, bin = item - group * bins;
  const uint32_t row = bin / r.output_size, column = bin - row * r.output_size;
  const uint32_t channel = group * kRoiChannels;
  const uint32_t channels = r.channels - channel < kRoiChannels ? r.channels - channel : kRoiChannels;

  float sum[kRoiChannels] = {};
  const RoiPlace<T> place = place_of(device, r, region);
  if (place.level >= 0) {
    const RoiRun down = run_of(device, place.rows, row), right = run_of(device, place.columns, column);
    const int64_t plane = int64_t{place.rows.cells} * place.columns.cells;
    const T* const map = place.map + channel * plane;
    for (int32_t i = down.begin; i < down.end; ++i) {
      const RoiSample y = sample_of(device, place.rows, row, i);
      const T* const upper = map + int64_t{y.cell[0]} * place.columns.cells;
      const T* const lower = map + int64_t{y.cell[1]} * place.columns.cells;
      for (int32_t j = right.begin; j < right.end; ++j) {
        const RoiSample x = sample_of(device, place.columns, column, j);
        LIT_UNROLL
        for (uint32_t c = 0; c < kRoiChannels; ++c) {
          const int64_t offset = c < channels ? c * plane : 0;  // in place of one that does not exist, the first
          float value[4];
          LIT_UNROLL
          for (int n = 0; n < 4; ++n) {
            value[n] = load_float<E>(device, (n < 2 ? upper : lower) + offset + x.cell[n % 2]);
          }
          sum[c] += y.weight[0] * (x.weight[0] * value[0] + x.weight[1] * value[1]) +
                    y.weight[1] * (x.weight[0] * value[2] + x.weight[1] * value[3]);
        }
      }
    }
    const float share = 1.0f / (place.rows.samples * place.columns.samples);
    LIT_UNROLL
    for (uint32_t c = 0; c < kRoiChannels; ++c) sum[c] *= share;
  }
  T* const y = r.y + (int64_t{region} * r.channels + channel) * bins + bin;
  LIT_UNROLL
  for (uint32_t c = 0; c < kRoiChannels; ++c) {
    if (c < channels) store_float<E>(device, y + int64_t{c} * bins, sum[c]);
  }
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_KERNEL_H_
