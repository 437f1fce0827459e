// Deformable token merging (operator version 1): the kernel that every back end calls.
//
// Plain parameters only: nothing here knows ONNX Runtime, TensorRT or a thread pool. The operator is defined in
// docs/deformable_token_merging.md; `lit_deploy/ops/deformable_token_merging/reference.py` computes the same thing in
// PyTorch.
#ifndef LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_KERNEL_H_
#define LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_KERNEL_H_

#include <cstdint>

#include "cpu_isa.h"

namespace lit_deploy {

// Sizes of the token map x[batch, height, width, channels]; height and width at least 2, channels at least 1.
// The output is y[batch, height / 2, width / 2, 4 * channels].
struct MergingShape {
  int64_t batch;
  int64_t height;
  int64_t width;
  int64_t channels;

  int64_t output_height() const { return height / 2; }
  int64_t output_width() const { return width / 2; }
  // Rows of the output over the whole batch: the unit of work that callers split among threads.
  int64_t output_rows() const { return batch * output_height(); }
};

// Computes the output rows [row_begin, row_end) of the `shape.output_rows()` rows.
//
// All arrays are dense and contiguous: x[batch, height, width, channels], offset_weight[8, 4 * channels] (tap-major
// columns), offset_bias[8] (dy, dx of taps 0..3, in pixels), y[batch, height / 2, width / 2, 4 * channels]; y must not
// overlap the inputs. Distinct ranges may run concurrently, and how the rows are split never changes a bit of the
// result. Any value is allowed, NaN and infinities included. An unsupported `isa` falls back to a supported one.
void deformable_token_merging(const MergingShape& shape, const float* x, const float* offset_weight,
                              const float* offset_bias, float* y, int64_t row_begin, int64_t row_end,
                              CpuIsa isa = selected_cpu_isa()) noexcept;

// The same for IEEE half precision, passed as its bits. Computes in float32 and rounds once, to nearest even.
void deformable_token_merging(const MergingShape& shape, const uint16_t* x, const uint16_t* offset_weight,
                              const uint16_t* offset_bias, uint16_t* y, int64_t row_begin, int64_t row_end,
                              CpuIsa isa = selected_cpu_isa()) noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_KERNEL_H_
