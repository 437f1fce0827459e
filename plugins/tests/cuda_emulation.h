// Runs the source of the CUDA kernel on the CPU: every thread of a block is a fiber, barriers and warp exchanges happen
// as CUDA defines them, and the tensor-core product follows the fragment layout of the PTX ISA (mma.m16n8k16).
//
// What this proves is the kernel's logic: indices, tails, masks, alignment, which lane holds what, that all lanes reach
// every barrier, that there is one between the loads and a tensor-core product, and, under the sanitizers, that nothing
// outside the tensors is touched. What it cannot show is speed,
// and what real hardware does differently: rounding inside the tensor cores, memory ordering within a warp, the
// compiler's own mistakes. tests/plugins/test_cuda_kernel.py runs the kernel itself where there is a GPU.
#ifndef LIT_DEPLOY_TESTS_CUDA_EMULATION_H_
#define LIT_DEPLOY_TESTS_CUDA_EMULATION_H_

#include <cstdint>

#include "deformable_token_merging/cuda_kernel.h"

namespace lit_deploy::cuda {

// The order in which the fibers of a block run between two barriers. A result that depends on it is a missing barrier.
enum class Schedule { kForward, kBackward, kShuffled };

// The launch of one element type, from block `first` on. Returns null, or what the kernel did wrong (a barrier that not
// all lanes reach, a product whose lanes need not be together, a misaligned access).
const char* emulate(Float32, const Plan& plan, int64_t first, const Merging<float>& merging, Schedule schedule);
const char* emulate(Float16, const Plan& plan, int64_t first, const Merging<uint16_t>& merging, Schedule schedule);
const char* emulate(BFloat16, const Plan& plan, int64_t first, const Merging<uint16_t>& merging, Schedule schedule);

// The bits of a bfloat16 <-> float; rounds to nearest even, NaN stays NaN.
float float_from_bfloat16(uint16_t bits);
uint16_t bfloat16_from_float(float value);

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_TESTS_CUDA_EMULATION_H_
