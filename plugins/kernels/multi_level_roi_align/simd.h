// The one implementation of the kernel. Each <isa>.cc defines, in an anonymous namespace,
//
//   kLanes                           columns of the map that are loaded together
//   Vec                              a GCC/Clang vector of kLanes floats
//   load(p)                          kLanes elements, from float* or from the bits of halves, as float
//   load_one(p), store_one(p, f)     one element, rounded once
//
// and then includes this file, so that everything here has internal linkage (see deformable_token_merging/simd.h).

namespace {

using lit_deploy::RoiAlignJob;
using lit_deploy::RoiAlignPlan;
using lit_deploy::RoiRows;
using lit_deploy::RoiWindow;

constexpr int64_t kTile = 64;     // columns at a time: what is summed over rows stays in the first cache
constexpr int64_t kBinRows = 7;   // rows of bins at a time: 7 x 7 and 14 x 14 are whole numbers of them
constexpr int64_t kChannels = 4;  // channels of one region in a row: they share its weights while those are near

// The bins of a panel that are summed together: 7 of these, the weights and a factor have to fit the registers.
template <int64_t Panel>
struct PanelPart {
  static constexpr int64_t kSize = Panel < kLanes ? Panel : kLanes;
  typedef float Vec __attribute__((vector_size(kSize * sizeof(float))));
};

// The first `count` of kLanes elements: nothing behind the end of a map is touched.
template <typename T>
inline Vec load_some(const T* p, int64_t count) {
  Vec v = {};
  for (int64_t i = 0; i < count; ++i) v[i] = load_one(p + i);
  return v;
}

// sums[column] = sum of weight[row] * map[row, column] over the rows of one row of bins. `roomy`: as many elements may
// be read behind a row as fill its last vector.
template <typename T>
inline void sum_rows(const T* map, int64_t stride, const RoiRows& rows, const float* weight, int64_t columns,
                     bool roomy, float* sums) {
  const T* const first = map + rows.first * stride;
  for (int64_t column = 0; column < columns; column += kLanes) {
    const int64_t left = columns - column;
    Vec sum = {};
    if (left >= kLanes || roomy) {
      for (int32_t row = 0; row < rows.count; ++row) sum += weight[row] * load(first + row * stride + column);
    } else {
      for (int32_t row = 0; row < rows.count; ++row) {
        sum += weight[row] * load_some(first + row * stride + column, left);
      }
    }
    __builtin_memcpy(sums + column, &sum, sizeof sum);
  }
}

// values[bin][panel] += sum of sums[bin][column] * weights[column][panel].
template <int64_t Bins, int64_t Panel>
inline void sum_columns(const float (*sums)[kTile], const float* weights, int64_t columns, float (*values)[Panel]) {
  using Part = PanelPart<Panel>;
  for (int64_t part = 0; part < Panel; part += Part::kSize) {
    typename Part::Vec total[Bins], weight;
    for (int64_t bin = 0; bin < Bins; ++bin) __builtin_memcpy(&total[bin], values[bin] + part, sizeof weight);
    for (int64_t column = 0; column < columns; ++column) {
      __builtin_memcpy(&weight, weights + column * Panel + part, sizeof weight);
      for (int64_t bin = 0; bin < Bins; ++bin) total[bin] += sums[bin][column] * weight;
    }
    for (int64_t bin = 0; bin < Bins; ++bin) __builtin_memcpy(values[bin] + part, &total[bin], sizeof weight);
  }
}

template <typename T>
inline void store_some(T* y, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) store_one(y + i, values[i]);
}

// The usual counts as constants, which the compiler turns into two moves.
inline void store_some(float* y, const float* values, int64_t count) {
  if (count == 7) {
    __builtin_memcpy(y, values, 7 * sizeof(float));
  } else if (count == 14) {
    __builtin_memcpy(y, values, 14 * sizeof(float));
  } else {
    __builtin_memcpy(y, values, static_cast<size_t>(count) * sizeof(float));
  }
}

// `Bins` rows of bins of one region and channel, from the one that `rows` and `weight` begin with.
template <int64_t Bins, int64_t Panel, typename T>
inline void pool_bins(const RoiAlignPlan& plan, const RoiWindow& window, const T* map, bool roomy, const RoiRows* rows,
                      const float* weight, T* y) {
  const int64_t size = plan.shape.output_size, stride = plan.shape.width[window.level];
  float sums[Bins][kTile];
  for (int64_t panel = 0; panel * Panel < size; ++panel) {
    const float* const column_weights = plan.weights + window.column_weights + panel * window.columns * Panel;
    float values[Bins][Panel] = {};
    for (int64_t tile = 0; tile < window.columns; tile += kTile) {
      const int64_t columns = window.columns - tile < kTile ? window.columns - tile : kTile;
      const float* row_weight = weight;
      for (int64_t bin = 0; bin < Bins; ++bin) {
        sum_rows(map + window.column + tile, stride, rows[bin], row_weight, columns, roomy, sums[bin]);
        row_weight += rows[bin].count;
      }
      sum_columns<Bins, Panel>(sums, column_weights + tile * Panel, columns, values);
    }
    const int64_t width = size - panel * Panel < Panel ? size - panel * Panel : Panel;
    for (int64_t bin = 0; bin < Bins; ++bin) store_some(y + bin * size + panel * Panel, values[bin], width);
  }
}

template <int64_t Panel, typename T>
inline void pool_region(const RoiAlignPlan& plan, int64_t roi, const T* map, bool roomy, T* y) {
  const int64_t size = plan.shape.output_size;
  const RoiWindow& window = plan.windows[roi];
  const RoiRows* rows = plan.rows + roi * size;
  const float* weight = plan.weights + window.row_weights;
  int64_t bin = 0;
  for (; bin + kBinRows <= size; bin += kBinRows) {
    pool_bins<kBinRows, Panel>(plan, window, map, roomy, rows + bin, weight, y + bin * size);
    for (int64_t i = 0; i < kBinRows; ++i) weight += rows[bin + i].count;
  }
  for (; bin < size; ++bin) {
    pool_bins<1, Panel>(plan, window, map, roomy, rows + bin, weight, y + bin * size);
    weight += rows[bin].count;
  }
}

template <int64_t Panel, typename T>
inline void pool_channels(const RoiAlignJob<T>& job, int64_t begin, int64_t end) {
  const RoiAlignPlan& plan = *job.plan;
  const int64_t channels = plan.shape.channels, bins = plan.shape.output_size * plan.shape.output_size;
  for (int64_t roi = 0; roi < plan.shape.rois; ++roi) {
    const RoiWindow& window = plan.windows[roi];
    if (roi + 1 < plan.shape.rois) {  // the next region's output lies on pages that no prefetcher guesses
      const char* const next = reinterpret_cast<const char*>(job.y + ((roi + 1) * channels + begin) * bins);
      const size_t bytes = static_cast<size_t>((end - begin) * bins) * sizeof(T);
      for (size_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(next + byte, 1);
    }
    for (int64_t channel = begin; channel < end; ++channel) {
      T* const y = job.y + (roi * channels + channel) * bins;
      if (window.columns == 0) {
        __builtin_memset(y, 0, static_cast<size_t>(bins) * sizeof(T));
        continue;
      }
      const int64_t height = plan.shape.height[window.level], width = plan.shape.width[window.level];
      // What the last vector of the last row may read lies inside the map of a later channel, or there is none.
      const int64_t reach = (channel * height + window.row_end - 1) * width + window.column + window.columns + kLanes;
      const bool roomy = reach <= channels * height * width;
      pool_region<Panel>(plan, roi, job.levels[window.level] + channel * height * width, roomy, y);
    }
  }
}

template <typename T>
inline void pool_all(const RoiAlignJob<T>& job) {
  for (int64_t channel = job.channel_begin; channel < job.channel_end; channel += kChannels) {
    const int64_t end = job.channel_end - channel < kChannels ? job.channel_end : channel + kChannels;
    if (lit_deploy::roi_panel(job.plan->shape.output_size) == 8) {
      pool_channels<8>(job, channel, end);
    } else {
      pool_channels<16>(job, channel, end);
    }
  }
}

}  // namespace
