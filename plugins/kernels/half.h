// IEEE half precision <-> float32 without hardware support.
//
// The functions are `static` on purpose: this header is compiled with several instruction sets, and a function
// shared by the linker could be the copy that the machine cannot run.
#ifndef LIT_DEPLOY_KERNELS_HALF_H_
#define LIT_DEPLOY_KERNELS_HALF_H_

#include <cstdint>
#include <cstring>

namespace lit_deploy {

[[maybe_unused]] static inline float float_from_half(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t exponent = half & 0x7c00u;
  const uint32_t mantissa = half & 0x03ffu;
  uint32_t bits;
  float value;
  if (exponent == 0) {  // zero and subnormals: units of 2^-24, exact in float32
    value = static_cast<float>(mantissa) * 0x1p-24f;
    std::memcpy(&bits, &value, sizeof bits);
  } else if (exponent == 0x7c00u) {
    bits = 0x7f800000u | (mantissa << 13);
  } else {  // the exponent's bias grows from 15 to 127
    bits = ((exponent | mantissa) << 13) + (112u << 23);
  }
  bits |= sign;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounds to nearest even; NaN stays NaN.
[[maybe_unused]] static inline uint16_t half_from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {  // below 2^-14: one unit in the last place of 0.5f is the half's 2^-24
    float aligned;
    std::memcpy(&aligned, &magnitude, sizeof aligned);
    aligned += 0.5f;
    std::memcpy(&magnitude, &aligned, sizeof magnitude);
    return static_cast<uint16_t>(sign | (magnitude - 0x3f000000u));
  }
  magnitude += 0x0fffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((magnitude - (112u << 23)) >> 13));
}

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_HALF_H_
