// The kernel for AVX-512F; compiled with that flag, called only where the CPU has it.
#include "relative_position_attention/avx512.h"
#include "relative_position_attention/simd.h"

namespace lit_deploy::avx512 {
void attend(const AttentionJob& job) noexcept { attend_tasks(job); }
}  // namespace lit_deploy::avx512
