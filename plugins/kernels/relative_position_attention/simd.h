// The one implementation of the CPU kernel. Each of portable.cc, avx2.cc and avx512.cc defines, in an anonymous
// namespace,
//
//   Vec, Bits                        GCC/Clang vectors of kLanes floats and of as many uint32_t
//   load(p), store(p, v)             kLanes floats
//   load_lanes(v, p, begin, end)     v, but lanes begin ... end - 1 are those of p, of which no others are read
//   load_half(p), load_bfloat16(p)   kLanes elements of a narrower type, from their bits
//   spread(p)                        *p in every lane, loaded once
//   maximum(a, b)                    lane by lane; b where one of them is NaN
//   highest_lane(v), sum_lanes(v)    one number from kLanes
//   exchange<S>(a, b)                lane l of a and lane l - S of b change places wherever l has bit S: a step of a
//                                    transposition; S is a power of two below kLanes
//   kRows, kVectors                  the register tile: queries, and vectors of keys or of values
//
// and then includes this file, so that everything here has internal linkage: code for AVX can never be the copy that
// the linker keeps for a machine without it. For the same reason no function of the standard library is called. amx.cc
// takes over the walk over parts and blocks (attend_task) and has products of its own.
//
// Keys and values are taken in reverse order: key row r', column c' of the map is number (H-1-r') * W + (W-1-c'). The
// bias of the query at (r, c) with the key that then stands at row i, column j is table[r + i, c + j]: runs of the
// table as it lies in memory, without a mirrored copy.

#include "half.h"
#include "relative_position_attention/job.h"

namespace {

using lit_deploy::AttentionJob;
using lit_deploy::AttentionShape;
using lit_deploy::kAttentionQueryTile;
using lit_deploy::kAttentionTile;

// The bits of the two narrow types, told apart by the compiler.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

constexpr int64_t kMaxKeys = 384;  // of a block; more would push the logits of a group out of the first cache
constexpr int64_t kPanel = kVectors * kLanes;
constexpr int64_t kAhead = 16;     // rows between the one that is read and the one that is asked for
constexpr int64_t kSpareQueries = kRows * lit_deploy::kMaxAttentionHeadDim;  // to fill the last group up
constexpr float kNoBias[kMaxKeys] = {};

static_assert(lit_deploy::kAttentionLanes % kLanes == 0, "a padded head must be whole vectors");

// Keys of one vector that stand in one row of the map: lanes begin ... end - 1, whose biases are a run of the table.
struct Run {
  int64_t offset;  // of lane 0, from the window of a query
  int32_t begin, end;
};

// All that a part needs besides its arguments.
struct Scratch {
  static constexpr int64_t kMostKeys = kMaxKeys, kUnit = kPanel, kGroup = kRows;
  alignas(64) float keys[kAttentionTile];         // panels of kPanel keys, each [head_dim][panel]
  alignas(64) float values[kAttentionTile];       // [key][padded head_dim]
  alignas(64) float queries[kAttentionQueryTile + kSpareQueries];  // groups of kRows queries, each [head_dim][kRows]
  alignas(64) float outputs[kAttentionQueryTile + kSpareQueries];  // [query][padded head_dim], not yet divided
  alignas(64) float logits[kRows * kMaxKeys];
  Run runs[kMaxKeys + 1];
  float highest[lit_deploy::kMaxAttentionQueries + kRows];
  float sum[lit_deploy::kMaxAttentionQueries + kRows];
};

// Where the work on one part stands.
struct Part {
  int64_t dim, padded;     // of a head, and rounded up to whole vectors
  int64_t begin, count;    // queries
  int64_t key, keys;       // the block of keys
  int64_t pitch;           // of the logits of one query
  int64_t row, column;     // of the first key, reversed
};

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

inline float widen(float value) { return value; }
inline float widen(Half value) { return lit_deploy::float_from_half(value.bits); }
inline float widen(BFloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline void narrow(float value, float& out) { out = value; }
inline void narrow(float value, Half& out) { out.bits = lit_deploy::half_from_float(value); }
inline void narrow(float value, BFloat16& out) {  // to nearest even; NaN stays NaN
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  out.bits = static_cast<uint16_t>(value != value ? (bits >> 16) | 0x40u : rounded >> 16);
}

inline Vec load_wide(const float* p) { return load(p); }
inline Vec load_wide(const Half* p) { return load_half(p); }
inline Vec load_wide(const BFloat16* p) { return load_bfloat16(p); }

inline Vec all(float value) { return Vec{} + value; }

// e^x for x <= 0, to about one unit in the last place; below -87, where float32 ends, e^-87. x = n ln 2 + r; e^r is a
// minimax polynomial, and n goes into the exponent.
inline Vec exponential(Vec x) {
  x = maximum(all(-87.0f), x);
  const Vec shifted = x * 0x1.715476p+0f + 0x1.8p23f;  // the sum's last bits are n, rounded to nearest
  const Vec n = shifted - 0x1.8p23f;
  Vec r = x - n * 0x1.62e400p-1f;  // ln 2 in two parts, the first with few enough bits for an exact product
  r = r - n * 0x1.7f7d1cp-20f;
  Vec p = r * 0x1.6a23d0p-10f + 0x1.123a20p-7f;
  p = p * r + 0x1.5558f2p-5f;
  p = p * r + 0x1.555492p-3f;
  p = p * r + 0x1.fffffcp-2f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return (Vec)((Bits)p + ((Bits)shifted << 23));
}

// One row of `dim` elements as float32.
template <typename T>
inline void load_row(const T* source, int64_t dim, float* out) {
  int64_t d = 0;
  for (; d + kLanes <= dim; d += kLanes) {
    store(out + d, load_wide(source + d));
    __asm__ volatile("" ::: "memory");  // or the compiler makes this a call of memcpy, for two vectors
  }
  for (; d < dim; ++d) out[d] = widen(source[d]);
}

// Asks for a row that is needed soon. Rows lie a page or more apart, where no processor looks ahead by itself.
template <typename T>
inline void prefetch_row(const T* source, int64_t dim) {
  const char* bytes = reinterpret_cast<const char*>(source);
  for (int64_t i = 0; i < dim * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(bytes + i);
}

template <typename T>
void pack_queries(const Part& part, const T* source, int64_t stride, float scale, Scratch& scratch) {
  alignas(64) float row[lit_deploy::kMaxAttentionHeadDim];
  for (int64_t i = 0; i < round_up(part.count, kRows); ++i) {
    float* out = scratch.queries + i / kRows * kRows * part.dim + i % kRows;
    if (i < part.count) {
      load_row(source + (part.begin + i) * stride, part.dim, row);
    } else {
      for (int64_t d = 0; d < part.dim; ++d) row[d] = 0.0f;
    }
    for (int64_t d = 0; d < part.dim; ++d) out[d * kRows] = row[d] * scale;
    scratch.highest[i] = lit_deploy::kLowestLogit;
    scratch.sum[i] = 0.0f;
  }
  for (int64_t i = 0; i < round_up(part.count, kRows) * part.padded; ++i) scratch.outputs[i] = 0.0f;
}

// Turns kLanes vectors, the rows of a square, into its columns.
template <int S = kLanes / 2>
inline void transpose(Vec* rows) {
  if constexpr (S > 0) {
    for (int i = 0; i < kLanes; ++i) {
      if ((i & S) == 0) exchange<S>(rows[i], rows[i + S]);
    }
    transpose<S / 2>(rows);
  }
}

// Keys part.key onwards, transposed in panels; the last panel is as narrow as it can be, and filled with zeros.
template <typename T>
void pack_keys(const Part& part, const T* last, int64_t stride, Scratch& scratch) {
  for (int64_t begin = 0; begin < part.keys; begin += kLanes) {
    const int64_t panel = begin / kPanel * kPanel;
    const int64_t width = smaller(kPanel, round_up(part.keys - panel, kLanes));
    float* out = scratch.keys + panel * part.dim + begin % kPanel;
    const int64_t count = smaller(kLanes, part.keys - begin);
    const T* first = last - (part.key + begin) * stride;
    for (int64_t j = kAhead; j < kAhead + kLanes && begin + j < part.keys; ++j) {
      prefetch_row(first - j * stride, part.dim);
    }
    int64_t d = 0;
    for (; d + kLanes <= part.dim; d += kLanes) {
      Vec square[kLanes];
      for (int64_t j = 0; j < kLanes; ++j) square[j] = j < count ? load_wide(first - j * stride + d) : Vec{};
      transpose(square);
      for (int64_t i = 0; i < kLanes; ++i) store(out + (d + i) * width, square[i]);
    }
    for (; d < part.dim; ++d) {
      for (int64_t j = 0; j < kLanes; ++j) out[d * width + j] = j < count ? widen(first[d - j * stride]) : 0.0f;
    }
  }
}

template <typename T>
void pack_values(const Part& part, const T* last, int64_t stride, Scratch& scratch) {
  for (int64_t j = 0; j < part.keys; ++j) {
    float* out = scratch.values + j * part.padded;
    if (j + kAhead < part.keys) prefetch_row(last - (part.key + j + kAhead) * stride, part.dim);
    load_row(last - (part.key + j) * stride, part.dim, out);
    for (int64_t d = part.dim; d < part.padded; ++d) out[d] = 0.0f;
  }
}

// logits[kRows][N vectors] = queries . keys, for one group and one panel.
template <int N>
inline void multiply_keys(const float* queries, const float* panel, int64_t dim, float* logits, int64_t pitch) {
  Vec acc[kRows][N] = {};
  for (int64_t d = 0; d < dim; ++d) {
    Vec key[N];
    for (int n = 0; n < N; ++n) key[n] = load(panel + (d * N + n) * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec query = spread(queries + d * kRows + r);
      for (int n = 0; n < N; ++n) acc[r][n] += query * key[n];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < N; ++n) store(logits + r * pitch + n * kLanes, acc[r][n]);
  }
}

// outputs[kRows][N vectors] = outputs * factor + weights . values, for one group and N vectors of the head.
template <int N>
inline void multiply_values(const float* weights, int64_t pitch, const float* values, int64_t keys, int64_t padded,
                            const float* factor, float* outputs) {
  Vec acc[kRows][N];
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < N; ++n) acc[r][n] = load(outputs + r * padded + n * kLanes) * factor[r];
  }
  for (int64_t j = 0; j < keys; ++j) {
    Vec value[N];
    for (int n = 0; n < N; ++n) value[n] = load(values + j * padded + n * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec weight = spread(weights + r * pitch + j);
      for (int n = 0; n < N; ++n) acc[r][n] += weight * value[n];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < N; ++n) store(outputs + r * padded + n * kLanes, acc[r][n]);
  }
}

// Both for a number of vectors that is known at run time alone, 1 ... kVectors.
template <int N = kVectors, typename... Arguments>
inline void multiply_keys_of(int64_t vectors, Arguments... arguments) {
  if (vectors >= N) return multiply_keys<N>(arguments...);
  if constexpr (N > 1) multiply_keys_of<N - 1>(vectors, arguments...);
}

template <int N = kVectors, typename... Arguments>
inline void multiply_values_of(int64_t vectors, Arguments... arguments) {
  if (vectors >= N) return multiply_values<N>(arguments...);
  if constexpr (N > 1) multiply_values_of<N - 1>(vectors, arguments...);
}

// The runs of a block, vector by vector; a run that begins at lane 0 begins a vector.
inline void find_runs(const Part& part, int64_t columns, Run* run) {
  int64_t row = part.row, column = part.column;
  for (int64_t j = 0; j < part.keys;) {
    const int64_t lane = j % kLanes;
    const int64_t end = smaller(kLanes, lane + smaller(part.keys - j, columns - column));
    const int64_t offset = row * (2 * columns - 1) + column - lane;
    *run++ = Run{offset, static_cast<int32_t>(lane), static_cast<int32_t>(end)};
    j += end - lane;
    column += end - lane;
    if (column == columns) ++row, column = 0;
  }
  run->begin = 0;
}

// Scales the products of one query and adds its biases, a window of the table; keys that fill up a vector get the
// lowest logit. Returns the maximum, lane by lane.
// Not inlined: its constants and those of the exponentials together are more than there are registers.
__attribute__((noinline)) Vec finish_logits(int64_t width, float scale, const float* window, const Run* run,
                                            float* logits) {
  const Vec factor = all(scale), lowest = all(lit_deploy::kLowestLogit);
  Vec most = lowest;
  for (int64_t j = 0; j < width; j += kLanes) {
    Vec bias = lowest;
    do {
      const float* biases = window + run->offset;
      bias = run->end - run->begin == kLanes ? load(biases) : load_lanes(bias, biases, run->begin, run->end);
      ++run;
    } while (run->begin > 0);
    const Vec logit = load(logits + j) * factor + bias;
    store(logits + j, logit);
    most = maximum(most, logit);
  }
  return most;
}

// The window of the table that holds the biases of one query; without a table, of a single row of zeros.
inline const float* window_of(const AttentionShape& shape, const float* table, int64_t query) {
  if (table == nullptr) return kNoBias;
  return table + query / shape.columns * (2 * shape.columns - 1) + query % shape.columns;
}

// Turns the logits of one query into weights; returns the factor of what was summed up with the former maximum.
inline float softmax_block(int64_t width, Vec most, float* logits, float& highest, float& sum) {
  const float before = highest;
  highest = highest_lane(maximum(all(before), most));
  const Vec subtract = all(highest);
  Vec total = {};
  for (int64_t j = 0; j < width; j += kLanes) {
    const Vec weight = exponential(load(logits + j) - subtract);
    store(logits + j, weight);
    total += weight;
  }
  const float factor = exponential(all(before) - subtract)[0];
  sum = sum * factor + sum_lanes(total);
  return factor;
}

// One group of queries meets one block of keys.
inline void attend_group(const AttentionJob& job, const Part& part, int64_t first, const float* table,
                         Scratch& scratch) {
  const float* queries = scratch.queries + first * part.dim;
  for (int64_t begin = 0; begin < part.keys; begin += kPanel) {
    const int64_t vectors = round_up(smaller(kPanel, part.keys - begin), kLanes) / kLanes;
    multiply_keys_of(vectors, queries, scratch.keys + begin * part.dim, part.dim, scratch.logits + begin, part.pitch);
  }
  float factor[kRows];
  for (int64_t r = 0; r < kRows; ++r) {
    factor[r] = 0.0f;
    if (first + r >= part.count) continue;  // fills the group up; its logits are zeros, its output is not read
    float* logits = scratch.logits + r * part.pitch;
    const float* window = window_of(job.shape, table, part.begin + first + r);
    const Vec most = finish_logits(part.pitch, 1.0f, window, scratch.runs, logits);
    factor[r] = softmax_block(part.pitch, most, logits, scratch.highest[first + r], scratch.sum[first + r]);
  }
  float* outputs = scratch.outputs + first * part.padded;
  constexpr int64_t kMost = kVectors < 2 ? 1 : 2;  // two divide a head of 32 or 64 evenly, three do not
  for (int64_t d = 0; d < part.padded; d += kMost * kLanes) {
    const int64_t vectors = smaller(kMost, (part.padded - d) / kLanes);
    multiply_values_of(vectors, scratch.logits, part.pitch, scratch.values + d, part.keys, part.padded, factor,
                       outputs + d);
  }
}

// S is a Scratch, or what another file has in its place together with functions for it: pack_queries(), pack_keys(),
// pack_values() and attend_group(), for blocks of at most kMostKeys keys, if they can, of whole kUnits, and for groups
// of kGroup queries.
template <typename T, typename S>
void attend_task(const AttentionJob& job, int64_t task, S& scratch) {
  const AttentionShape& shape = job.shape;
  const int64_t tasks_per_head = (shape.tokens + job.queries - 1) / job.queries;
  const int64_t head = task / tasks_per_head % shape.heads;
  const int64_t image = task / tasks_per_head / shape.heads;
  const int64_t channels = shape.heads * shape.head_dim, stride = 3 * channels;
  const T* qkv = static_cast<const T*>(job.qkv) + image * shape.tokens * stride + head * shape.head_dim;
  const float* table = nullptr;
  if (shape.rows > 0) table = job.table + head * (2 * shape.rows - 1) * (2 * shape.columns - 1);

  Part part{};
  part.dim = shape.head_dim;
  part.padded = round_up(part.dim, lit_deploy::kAttentionLanes);
  part.begin = task % tasks_per_head * job.queries;
  part.count = smaller(job.queries, shape.tokens - part.begin);
  pack_queries(part, qkv, stride, job.scale, scratch);

  // Blocks of about the same size: as many keys as the tiles hold, but no small rest.
  const int64_t fits = smaller(S::kMostKeys, kAttentionTile / part.padded);
  const int64_t unit = fits >= S::kUnit ? S::kUnit : kLanes;
  const int64_t most = fits / unit * unit;
  const int64_t blocks = (shape.tokens + most - 1) / most;
  const int64_t block = round_up((shape.tokens + blocks - 1) / blocks, unit);
  for (part.key = 0; part.key < shape.tokens; part.key += block) {
    part.keys = smaller(block, shape.tokens - part.key);
    part.pitch = round_up(part.keys, kLanes);
    part.row = table == nullptr ? 0 : part.key / shape.columns;
    part.column = table == nullptr ? 0 : part.key % shape.columns;
    const T* last = qkv + (shape.tokens - 1) * stride;
    pack_keys(part, last + channels, stride, scratch);
    pack_values(part, last + 2 * channels, stride, scratch);
    find_runs(part, table == nullptr ? part.keys : shape.columns, scratch.runs);
    for (int64_t first = 0; first < part.count; first += S::kGroup) attend_group(job, part, first, table, scratch);
  }

  T* y = static_cast<T*>(job.y) + (image * shape.tokens + part.begin) * channels + head * shape.head_dim;
  for (int64_t i = 0; i < part.count; ++i) {
    const float* outputs = scratch.outputs + i * part.padded;
    for (int64_t d = 0; d < part.dim; ++d) narrow(outputs[d] / scratch.sum[i], y[i * channels + d]);
  }
}

inline void attend_tasks(const AttentionJob& job) {
  Scratch scratch;
  for (int64_t task = job.task_begin; task < job.task_end; ++task) {
    switch (job.element) {
      case lit_deploy::AttentionElement::kFloat32:
        attend_task<float>(job, task, scratch);
        break;
      case lit_deploy::AttentionElement::kFloat16:
        attend_task<Half>(job, task, scratch);
        break;
      case lit_deploy::AttentionElement::kBFloat16:
        attend_task<BFloat16>(job, task, scratch);
        break;
    }
  }
}

}  // namespace
