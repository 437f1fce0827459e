#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace lit_deploy::runtime {

bool computes_bf16() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (1u << 22)) != 0) return true;  // AMX-BF16
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 5)) != 0;             // AVX512_BF16
#else
  return false;
#endif
}

bool int8_saturates() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__builtin_cpu_supports("avx2") || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  const bool avx512_vnni = (c & (1u << 11)) != 0;
  const bool avx_vnni = __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 4)) != 0;
  return !avx512_vnni && !avx_vnni;
#else
  return false;
#endif
}

}  // namespace lit_deploy::runtime
