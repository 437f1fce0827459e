// Which compilation of a kernel this machine runs: the same answer for every operator.
#ifndef LIT_DEPLOY_KERNELS_CPU_ISA_H_
#define LIT_DEPLOY_KERNELS_CPU_ISA_H_

namespace lit_deploy {

// The instruction sets that the kernels are compiled for, narrowest first. AVX-2 includes FMA and F16C.
enum class CpuIsa { kPortable, kAvx2, kAvx512 };

// True if this machine and this build can run `isa`.
bool cpu_isa_supported(CpuIsa isa) noexcept;

// `isa` where it is supported, else the widest that is.
CpuIsa supported_cpu_isa(CpuIsa isa) noexcept;

// The widest supported instruction set, or the one that the environment variable LIT_DEPLOY_CPU_ISA names (portable,
// avx2 or avx512). A name that is unknown or not supported here is ignored. Read once, at the first call.
CpuIsa selected_cpu_isa() noexcept;

// "portable", "avx2" or "avx512".
const char* cpu_isa_name(CpuIsa isa) noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_CPU_ISA_H_
