// The kernel for bfloat16 on AMX: both products on tiles, in bfloat16 with sums in float32; the softmax between them in
// float32 on AVX-512. Compiled with those flags, called only where the CPU has them and Linux has granted the tiles.
//
// A tile is 16 rows of 64 bytes. One product of tiles adds A[16][32] B[32][16] to C[16][16]: the elements of A lie row
// by row, those of B in pairs of rows (element [k][n] at [k / 2][n][k % 2]), those of C are float32.
#include "relative_position_attention/avx512.h"
#include "relative_position_attention/simd.h"

namespace {

constexpr int64_t kSide = 16;                 // rows of a tile, and columns of a result
constexpr int64_t kDepth = 32;                // what one product sums over
constexpr int64_t kTileElements = 512;        // of bfloat16
constexpr int64_t kMaxTileKeys = 256;         // of a block: the logits of a group stay in the first cache
constexpr int64_t kPitch = kMaxTileKeys + 16;  // of the logits of a query; no power of two, for the cache's sake
constexpr int64_t kTileGroup = 2 * kSide;

static_assert(lit_deploy::kAttentionGroup % kTileGroup == 0, "a part must hold whole groups");

// All that a part needs besides its arguments. Heads are padded with zeros to whole products.
struct TileScratch {
  static constexpr int64_t kMostKeys = kMaxTileKeys, kUnit = kDepth, kGroup = kTileGroup;
  alignas(64) uint16_t keys[2 * kAttentionTile];           // panels of kSide keys, each a B for every kDepth channels
  alignas(64) uint16_t values[2 * kAttentionTile];         // kDepth keys, each a B for every kSide channels
  alignas(64) uint16_t queries[2 * kAttentionQueryTile];   // [query][head_dim padded to kDepth]
  alignas(64) float outputs[kAttentionQueryTile];          // [query][head_dim padded to kSide], not yet divided
  alignas(64) float logits[kTileGroup * kPitch];           // and in their place the weights, bfloat16
  alignas(64) float highest[lit_deploy::kMaxAttentionQueries];
  alignas(64) float sum[lit_deploy::kMaxAttentionQueries];
  Run runs[kMaxTileKeys + 1];
  float scale;
};

// GCC's intrinsics do not tell the compiler that tiles are read from memory.
inline void memory_is_read() { __asm__ volatile("" ::: "memory"); }

// Every register a whole tile.
struct TileShapes {
  TileShapes() {
    alignas(64) unsigned char config[64] = {1};  // palette 1
    for (int tile = 0; tile < 8; ++tile) {
      config[16 + 2 * tile] = 64;  // bytes of a row
      config[48 + tile] = kSide;
    }
    memory_is_read();
    _tile_loadconfig(config);
  }
  ~TileShapes() { _tile_release(); }  // or every switch of threads would save 8 KiB
};

inline __mmask32 first_halves(int64_t count) {
  return count >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((1u << count) - 1u);
}

// Up to kDepth elements of a row; the rest is 0.
inline __m512i load_elements(const BFloat16* source, int64_t count) {
  return _mm512_maskz_loadu_epi16(first_halves(count), source);
}

void pack_queries(const Part& part, const BFloat16* source, int64_t stride, float scale, TileScratch& scratch) {
  const int64_t deep = round_up(part.dim, kDepth), count = round_up(part.count, kTileGroup);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t d = 0; d < deep; d += kDepth) {
      const __m512i row = i < part.count ? load_elements(source + (part.begin + i) * stride + d, part.dim - d)
                                         : _mm512_setzero_si512();
      _mm512_store_si512(scratch.queries + i * deep + d, row);
    }
    scratch.highest[i] = lit_deploy::kLowestLogit;
    scratch.sum[i] = 0.0f;
  }
  for (int64_t i = 0; i < count * part.padded; i += kLanes) store(scratch.outputs + i, Vec{});
  scratch.scale = scale;
}

// Pairs of channels are what is transposed.
void pack_keys(const Part& part, const BFloat16* last, int64_t stride, TileScratch& scratch) {
  uint16_t* out = scratch.keys;
  for (int64_t begin = 0; begin < round_up(part.keys, kDepth); begin += kSide) {
    const int64_t count = smaller(kSide, part.keys - begin);
    const BFloat16* first = last - (part.key + begin) * stride;
    for (int64_t j = kAhead; j < kAhead + kSide && begin + j < part.keys; ++j) {
      prefetch_row(first - j * stride, part.dim);
    }
    for (int64_t d = 0; d < part.dim; d += kDepth) {
      Vec square[kSide];
      for (int64_t j = 0; j < kSide; ++j) {
        square[j] = j < count ? _mm512_castsi512_ps(load_elements(first - j * stride + d, part.dim - d)) : Vec{};
      }
      transpose(square);
      for (int64_t i = 0; i < kSide; ++i, out += 2 * kSide) _mm512_store_ps(out, square[i]);
    }
  }
}

void pack_values(const Part& part, const BFloat16* last, int64_t stride, TileScratch& scratch) {
  __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36,
                                 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  const int64_t tiles = part.padded / kSide;
  for (int64_t j = 0; j < round_up(part.keys, kDepth); j += 2) {
    const BFloat16* first = last - (part.key + j) * stride;
    if (j + kAhead + 1 < part.keys) {
      prefetch_row(first - kAhead * stride, part.dim);
      prefetch_row(first - (kAhead + 1) * stride, part.dim);
    }
    uint16_t* out = scratch.values + j / kDepth * tiles * kTileElements + j % kDepth / 2 * kDepth;
    for (int64_t d = 0; d < part.padded; d += kDepth, out += 2 * kTileElements) {
      __m512i even = _mm512_setzero_si512(), odd = even;
      if (j < part.keys) even = load_elements(first + d, part.dim - d);
      if (j + 1 < part.keys) odd = load_elements(first - stride + d, part.dim - d);
      _mm512_store_si512(out, _mm512_permutex2var_epi16(even, low, odd));
      if (d + kSide < part.padded) {
        _mm512_store_si512(out + kTileElements, _mm512_permutex2var_epi16(even, high, odd));
      }
    }
  }
}

// logits[kTileGroup][keys] = queries . keys
inline void multiply_keys(const Part& part, const uint16_t* queries, TileScratch& scratch) {
  const int64_t deep = round_up(part.dim, kDepth), bytes = 2 * deep, panel = kSide * deep;
  const uint16_t* key = scratch.keys;
  float *upper = scratch.logits, *lower = upper + kSide * kPitch;
  memory_is_read();
  for (int64_t begin = 0; begin < part.keys; begin += 2 * kSide, key += 2 * panel) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t d = 0; d < deep; d += kDepth) {
      _tile_loadd(4, queries + d, bytes);
      _tile_loadd(5, queries + kSide * deep + d, bytes);
      _tile_loadd(6, key + d * kSide, 64);
      _tile_loadd(7, key + panel + d * kSide, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, upper + begin, 4 * kPitch);
    _tile_stored(1, lower + begin, 4 * kPitch);
    _tile_stored(2, upper + begin + kSide, 4 * kPitch);
    _tile_stored(3, lower + begin + kSide, 4 * kPitch);
  }
}

// outputs[kTileGroup][padded head_dim] += weights . values
inline void multiply_values(const Part& part, float* outputs, TileScratch& scratch) {
  const int64_t tiles = part.padded / kSide, bytes = 4 * part.padded;
  const float *upper = scratch.logits, *lower = upper + kSide * kPitch;
  for (int64_t tile = 0; tile < tiles; tile += 2) {
    const bool two = tile + 1 < tiles;
    float* out = outputs + tile * kSide;
    memory_is_read();
    _tile_loadd(0, out, bytes);
    _tile_loadd(1, out + kSide * part.padded, bytes);
    if (two) {
      _tile_loadd(2, out + kSide, bytes);
      _tile_loadd(3, out + kSide * part.padded + kSide, bytes);
    }
    const uint16_t* value = scratch.values + tile * kTileElements;
    for (int64_t j = 0; j < part.keys; j += kDepth, value += tiles * kTileElements) {
      _tile_loadd(4, upper + j / 2, 4 * kPitch);
      _tile_loadd(5, lower + j / 2, 4 * kPitch);
      _tile_loadd(6, value, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 5, 6);
      if (two) {
        _tile_loadd(7, value + kTileElements, 64);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, out, bytes);
    _tile_stored(1, out + kSide * part.padded, bytes);
    if (two) {
      _tile_stored(2, out + kSide, bytes);
      _tile_stored(3, out + kSide * part.padded + kSide, bytes);
    }
  }
}

// e^x for x <= 0, to about 3e-6 of it, which is little beside the rounding of a weight to bfloat16; below -87, e^-87.
// x log2(e) = n + r; 2^r is a minimax polynomial with 2^0 = 1, and n goes into the exponent.
inline Vec coarse_exponential(Vec x) {
  constexpr float kLog2E = 0x1.715476p+0f;
  x = maximum(all(-87.0f), x);
  const Vec shifted = x * kLog2E + 0x1.8p23f;
  const Vec n = shifted - 0x1.8p23f;
  const Vec r = x * kLog2E - n;
  Vec p = r * 0x1.3a02a8p-7f + 0x1.c9fc40p-5f;
  p = p * r + 0x1.ec0378p-3f;
  p = p * r + 0x1.62e12cp-1f;
  p = p * r + 1.0f;
  return (Vec)((Bits)p + ((Bits)shifted << 23));
}

// Turns the logits of one query into weights, at the beginning of the same memory; returns their sums, lane by lane.
__attribute__((noinline)) Vec exponentials(const Part& part, float highest, float* logits) {
  const Vec subtract = all(highest);
  Vec even = {}, odd = {};
  for (int64_t j = 0; j < part.keys; j += kDepth) {
    const Vec a = coarse_exponential(load(logits + j) - subtract);
    const bool both = j + kLanes < part.keys;
    const Vec b = both ? coarse_exponential(load(logits + j + kLanes) - subtract) : Vec{};
    even += a;
    odd += b;
    _mm512_store_ps(logits + j / 2, (Vec)_mm512_cvtne2ps_pbh(b, a));
  }
  return even + odd;
}

// The sixteen queries of one tile: logits become weights, and the outputs so far are brought to the new maximum.
inline void softmax_tile(const AttentionJob& job, const Part& part, int64_t first, const float* table, float* logits,
                         TileScratch& scratch) {
  const int64_t count = smaller(kSide, part.count - first);
  if (count <= 0) return;  // fills a group up: what its outputs become is not read
  const int64_t width = round_up(part.keys, kLanes);
  const Vec before = load(scratch.highest + first);
  Vec rows[kSide] = {};
  for (int64_t r = 0; r < count; ++r) {
    const float* window = window_of(job.shape, table, part.begin + first + r);
    rows[r] = finish_logits(width, scratch.scale, window, scratch.runs, logits + r * kPitch);
  }
  transpose(rows);
  Vec highest = before;
  for (const Vec& row : rows) highest = maximum(highest, row);
  store(scratch.highest + first, highest);

  for (int64_t r = 0; r < count; ++r) rows[r] = exponentials(part, scratch.highest[first + r], logits + r * kPitch);
  transpose(rows);
  Vec total = {};
  for (const Vec& row : rows) total += row;
  const Vec factor = coarse_exponential(before - highest);
  store(scratch.sum + first, load(scratch.sum + first) * factor + total);
  if (part.key == 0) return;  // the outputs are zeros
  for (int64_t r = 0; r < count; ++r) {
    float* output = scratch.outputs + (first + r) * part.padded;
    for (int64_t d = 0; d < part.padded; d += kLanes) store(output + d, load(output + d) * factor[r]);
  }
}

// One group of queries meets one block of keys.
void attend_group(const AttentionJob& job, const Part& part, int64_t first, const float* table, TileScratch& scratch) {
  multiply_keys(part, scratch.queries + first * round_up(part.dim, kDepth), scratch);
  softmax_tile(job, part, first, table, scratch.logits, scratch);
  softmax_tile(job, part, first + kSide, table, scratch.logits + kSide * kPitch, scratch);
  multiply_values(part, scratch.outputs + first * part.padded, scratch);
}

}  // namespace

namespace lit_deploy::amx {
void attend(const AttentionJob& job) noexcept {
  const TileShapes shapes;
  TileScratch scratch;
  for (int64_t task = job.task_begin; task < job.task_end; ++task) attend_task<BFloat16>(job, task, scratch);
}
}  // namespace lit_deploy::amx
