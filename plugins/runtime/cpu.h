// What this CPU computes, and how.
#ifndef LIT_DEPLOY_RUNTIME_CPU_H_
#define LIT_DEPLOY_RUNTIME_CPU_H_

namespace lit_deploy::runtime {

// Whether it multiplies bfloat16 itself, by AMX or AVX512_BF16.
bool computes_bf16();

// Whether int8 kernels, left to themselves, add pairs of products in 16 bits and clip what does not fit: so do ONNX
// Runtime's and OpenVINO's on x86 without integer dot products (VNNI). Source: ONNX Runtime's
// onnxruntime_session_options_config_keys.h; OpenVINO: seen.
bool int8_saturates();

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_CPU_H_
