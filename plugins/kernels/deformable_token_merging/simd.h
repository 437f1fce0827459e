// The one implementation of the CPU kernel. Each deformable_token_merging_<isa>.cc defines, in an anonymous namespace,
//
//   Vec                              a GCC/Clang vector of kLanes floats
//   load(p), load_one(p)             kLanes elements or one, from float* or from the bits of halves, as float
//   store(p, v), store_one(p, f)     the same to memory, rounded once
//   sum_lanes(acc, out)              out[i] = sum of the lanes of acc[i], for kOffsets vectors
//   load_shared(p)                   load() of what is used kColumns times
//   kColumns                         columns whose offsets are computed together
//
// and then includes this file, so that everything here has internal linkage: code for AVX can never be the copy that
// the linker keeps for a machine without it. For the same reason no function of the standard library is called.

namespace {

using lit_deploy::MergingJob;
using lit_deploy::MergingShape;

constexpr int kTaps = 4;
constexpr int kOffsets = 2 * kTaps;

// Offsets of N neighbouring columns: kOffsets dot products of length 4 * channels each. A patch is two contiguous runs
// of 2 * channels (its upper and its lower tokens). The columns share each load of the weights.
template <int N, typename T>
inline void project_offsets(const MergingJob<T>& job, const T* patch, float (*offsets)[kOffsets]) {
  const int64_t run = 2 * job.shape.channels;
  const int64_t row_stride = job.shape.width * job.shape.channels;
  Vec acc[N][kOffsets] = {};
  float tail[N][kOffsets] = {};
  for (int half = 0; half < 2; ++half) {
    const T* tokens = patch + half * row_stride;
    const T* weight = job.offset_weight + half * run;
    int64_t k = 0;
    for (; k + kLanes <= run; k += kLanes) {
      Vec token[N];
      for (int n = 0; n < N; ++n) token[n] = load(tokens + n * run + k);
      for (int o = 0; o < kOffsets; ++o) {
        const Vec w = load_shared(weight + o * (2 * run) + k);
        for (int n = 0; n < N; ++n) acc[n][o] += token[n] * w;
      }
    }
    for (; k < run; ++k) {
      for (int o = 0; o < kOffsets; ++o) {
        const float w = load_one(weight + o * (2 * run) + k);
        for (int n = 0; n < N; ++n) tail[n][o] += load_one(tokens + n * run + k) * w;
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    float sum[kOffsets];
    sum_lanes(acc[n], sum);
    for (int o = 0; o < kOffsets; ++o) offsets[n][o] = sum[o] + tail[n][o] + load_one(job.offset_bias + o);
  }
}

// out[c] = sum over n of weight[n] * source[n][c].
template <int N, typename T>
inline void weighted_sum(const T* const* source, const float* weight, int64_t channels, T* out) {
  const T* s[N];
  float w[N];
  for (int n = 0; n < N; ++n) {
    s[n] = source[n];
    w[n] = weight[n];
  }
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    Vec v = load(s[0] + c) * w[0];
    for (int n = 1; n < N; ++n) v += load(s[n] + c) * w[n];
    store(out + c, v);
  }
  for (; c < channels; ++c) {
    float v = load_one(s[0] + c) * w[0];
    for (int n = 1; n < N; ++n) v += load_one(s[n] + c) * w[n];
    store_one(out + c, v);
  }
}

// floor() of a value known to lie in (-1, 2^62).
inline int64_t floor_index(float value) {
  const int64_t truncated = static_cast<int64_t>(value);
  return truncated - (value < static_cast<float>(truncated) ? 1 : 0);
}

// Bilinear sample of one image at (row, column) in pixels; neighbours outside the map count as 0.
template <typename T>
inline void sample(const MergingShape& shape, const T* image, float row, float column, T* out) {
  const int64_t channels = shape.channels;
  const T* source[4];
  float weight[4];
  int count = 0;
  // Written so that NaN fails it: nothing that is not a position on the map is ever converted to an integer.
  if (row > -1.0f && row < static_cast<float>(shape.height) && column > -1.0f &&
      column < static_cast<float>(shape.width)) {
    const int64_t top = floor_index(row);
    const int64_t left = floor_index(column);
    const float fraction_row = row - static_cast<float>(top);
    const float fraction_column = column - static_cast<float>(left);
    const float weight_row[2] = {1.0f - fraction_row, fraction_row};
    const float weight_column[2] = {1.0f - fraction_column, fraction_column};
    for (int i = 0; i < 2; ++i) {
      if (top + i < 0 || top + i >= shape.height) continue;
      for (int j = 0; j < 2; ++j) {
        if (left + j < 0 || left + j >= shape.width) continue;
        source[count] = image + ((top + i) * shape.width + left + j) * channels;
        weight[count] = weight_row[i] * weight_column[j];
        ++count;
      }
    }
  }
  switch (count) {  // 3 cannot happen: what is on the map is a rectangle
    case 4:
      return weighted_sum<4>(source, weight, channels, out);
    case 2:
      return weighted_sum<2>(source, weight, channels, out);
    case 1:
      return weighted_sum<1>(source, weight, channels, out);
    default:
      __builtin_memset(out, 0, static_cast<size_t>(channels) * sizeof(T));
  }
}

// N neighbouring outputs, the first of them at (row, column) of the output map.
template <int N, typename T>
inline void merge_columns(const MergingJob<T>& job, const T* image, int64_t row, int64_t column, T* y) {
  const MergingShape& shape = job.shape;
  float offsets[N][kOffsets];
  project_offsets<N>(job, image + (2 * row * shape.width + 2 * column) * shape.channels, offsets);
  for (int n = 0; n < N; ++n) {
    for (int tap = 0; tap < kTaps; ++tap) {
      const float position_row = static_cast<float>(2 * row + tap / 2) + offsets[n][2 * tap];
      const float position_column = static_cast<float>(2 * (column + n) + tap % 2) + offsets[n][2 * tap + 1];
      sample(shape, image, position_row, position_column, y + (n * kTaps + tap) * shape.channels);
    }
  }
}

template <typename T>
inline void merge_rows(const MergingJob<T>& job) {
  const MergingShape& shape = job.shape;
  const int64_t rows = shape.height / 2;
  const int64_t columns = shape.width / 2;
  const int64_t token = kTaps * shape.channels;
  for (int64_t index = job.row_begin; index < job.row_end; ++index) {
    const T* image = job.x + (index / rows) * shape.height * shape.width * shape.channels;
    T* y = job.y + index * columns * token;
    const int64_t row = index % rows;
    int64_t column = 0;
    for (; column + kColumns <= columns; column += kColumns) {
      merge_columns<kColumns>(job, image, row, column, y + column * token);
    }
    for (; column < columns; ++column) merge_columns<1>(job, image, row, column, y + column * token);
  }
}

}  // namespace
