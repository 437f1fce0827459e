// Runs the source of the merging's CUDA kernel on the CPU (emulated_device.h).
#ifndef LIT_DEPLOY_TESTS_CUDA_EMULATION_H_
#define LIT_DEPLOY_TESTS_CUDA_EMULATION_H_

#include <cstdint>

#include "deformable_token_merging/cuda_kernel.h"
#include "emulated_device.h"

namespace lit_deploy::cuda {

// The launch of one element type, from block `first` on. Returns null, or what the kernel did wrong (a barrier that not
// all lanes reach, a product whose lanes need not be together, a misaligned access).
const char* emulate(Float32, const Plan& plan, int64_t first, const Merging<float>& merging, Schedule schedule);
const char* emulate(Float16, const Plan& plan, int64_t first, const Merging<uint16_t>& merging, Schedule schedule);
const char* emulate(BFloat16, const Plan& plan, int64_t first, const Merging<uint16_t>& merging, Schedule schedule);

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_TESTS_CUDA_EMULATION_H_
