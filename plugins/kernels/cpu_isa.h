// Which compilation of a kernel this machine runs: the same answer for every operator.
#ifndef LIT_DEPLOY_KERNELS_CPU_ISA_H_
#define LIT_DEPLOY_KERNELS_CPU_ISA_H_

namespace lit_deploy {

// The instruction sets that the kernels are compiled for, narrowest first. AVX-2 includes FMA and F16C. AMX stands for
// the tiles of bfloat16, beside AVX-512 with BF16; a kernel that has no use for them runs that of AVX-512.
enum class CpuIsa { kPortable, kAvx2, kAvx512, kAmx };

// True if this machine and this build can run `isa`.
bool cpu_isa_supported(CpuIsa isa) noexcept;

// `isa` where it is supported, else the widest that is; at most `widest`, the last one that the kernel is compiled for.
CpuIsa supported_cpu_isa(CpuIsa isa, CpuIsa widest = CpuIsa::kAvx512) noexcept;

// The widest supported instruction set, or the one that the environment variable LIT_DEPLOY_CPU_ISA names (portable,
// avx2, avx512 or amx). A name that is unknown or not supported here is ignored. Read once, at the first call.
CpuIsa selected_cpu_isa() noexcept;

// "portable", "avx2", "avx512" or "amx".
const char* cpu_isa_name(CpuIsa isa) noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_CPU_ISA_H_
