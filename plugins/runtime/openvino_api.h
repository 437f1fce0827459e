// OpenVINO's C library, loaded at run time, with its objects owned and its errors thrown. What is used of it is
// declared here: this builds where OpenVINO's headers are not.
#ifndef LIT_DEPLOY_RUNTIME_OPENVINO_API_H_
#define LIT_DEPLOY_RUNTIME_OPENVINO_API_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "error.h"

// Objects that only OpenVINO looks into; the names are its own, so that a compiler which sees both declarations can
// compare them (plugins/tests/runtime_openvino_abi.cc).
struct ov_core;
struct ov_model;
struct ov_compiled_model;
struct ov_infer_request;
struct ov_tensor;
struct ov_output_const_port;

namespace lit_deploy::runtime {

// Its plain data, as openvino/c/ov_common.h, ov_core.h, ov_dimension.h, ov_partial_shape.h and ov_shape.h lay it out.
using OvStatus = int32_t;  // 0: done
using OvType = uint32_t;   // an element type
// Up to 2025.0 all numbers of types were one higher.
inline constexpr OvType kOvFloat32 = 4, kOvInt32 = 9, kOvInt64 = 10, kOvUint8 = 16;
struct OvVersion {
  const char* build;
  const char* description;
};
struct OvDimension {
  int64_t min, max;
};
struct OvPartialShape {
  OvDimension rank;
  OvDimension* dimensions;
};
struct OvShape {
  int64_t rank;
  int64_t* dimensions;
};

// The functions: name, result, parameters. They are the same in the headers of 2026.0 and 2026.4, and but for
// ov_core_add_extension in those of 2024.6 and 2025.0. (Of these 2026.4 alone reads exported files.)
#define LIT_DEPLOY_OPENVINO_FUNCTIONS(F)                                                              \
  F(ov_get_last_err_msg, const char*, ())                                                             \
  F(ov_free, void, (const char*))                                                                     \
  F(ov_get_openvino_version, OvStatus, (OvVersion*))                                                  \
  F(ov_version_free, void, (OvVersion*))                                                              \
  F(ov_core_create, OvStatus, (ov_core**))                                                            \
  F(ov_core_free, void, (ov_core*))                                                                   \
  F(ov_core_add_extension, OvStatus, (const ov_core*, const char*))                                   \
  F(ov_core_read_model, OvStatus, (const ov_core*, const char*, const char*, ov_model**))             \
  F(ov_core_compile_model, OvStatus,                                                                  \
    (const ov_core*, const ov_model*, const char*, size_t, ov_compiled_model**, ...))                 \
  F(ov_model_free, void, (ov_model*))                                                                 \
  F(ov_model_inputs_size, OvStatus, (const ov_model*, size_t*))                                       \
  F(ov_model_outputs_size, OvStatus, (const ov_model*, size_t*))                                      \
  F(ov_model_const_input_by_name, OvStatus, (const ov_model*, const char*, ov_output_const_port**))   \
  F(ov_model_const_output_by_name, OvStatus, (const ov_model*, const char*, ov_output_const_port**))  \
  F(ov_model_reshape, OvStatus, (const ov_model*, const char**, const OvPartialShape*, size_t))       \
  F(ov_port_get_partial_shape, OvStatus, (const ov_output_const_port*, OvPartialShape*))              \
  F(ov_port_get_element_type, OvStatus, (const ov_output_const_port*, OvType*))                       \
  F(ov_output_const_port_free, void, (ov_output_const_port*))                                         \
  F(ov_partial_shape_free, void, (OvPartialShape*))                                                   \
  F(ov_compiled_model_free, void, (ov_compiled_model*))                                               \
  F(ov_compiled_model_create_infer_request, OvStatus, (const ov_compiled_model*, ov_infer_request**)) \
  F(ov_infer_request_free, void, (ov_infer_request*))                                                 \
  F(ov_infer_request_set_tensor, OvStatus, (ov_infer_request*, const char*, const ov_tensor*))        \
  F(ov_infer_request_get_tensor, OvStatus, (const ov_infer_request*, const char*, ov_tensor**))       \
  F(ov_infer_request_infer, OvStatus, (ov_infer_request*))                                            \
  F(ov_tensor_create, OvStatus, (OvType, OvShape, ov_tensor**))                                       \
  F(ov_tensor_create_from_host_ptr, OvStatus, (OvType, OvShape, void*, ov_tensor**))                  \
  F(ov_tensor_get_size, OvStatus, (const ov_tensor*, size_t*))                                        \
  F(ov_tensor_get_byte_size, OvStatus, (const ov_tensor*, size_t*))                                   \
  F(ov_tensor_data, OvStatus, (const ov_tensor*, void**))                                             \
  F(ov_tensor_free, void, (ov_tensor*))

struct OvApi {
#define LIT_DEPLOY_DECLARE(name, result, parameters) result(*name) parameters;
  LIT_DEPLOY_OPENVINO_FUNCTIONS(LIT_DEPLOY_DECLARE)
#undef LIT_DEPLOY_DECLARE
};

// One loaded OpenVINO. It stays, with its cores, until the process ends: it keeps plugins and thread pools of its own.
struct OpenVino {
  OvApi api;
  std::string version;  // "2026.4.1"

  // Throws Error(`status`, `before` + what OpenVINO says) for a failed call.
  void check(OvStatus result, lit_status status, const std::string& before) const;

  // The number of a type that NumPy calls so; those of inputs and outputs alone.
  OvType type(const std::string& dtype) const;
  std::string dtype(OvType type) const;
};

// Loads it, or returns the one that is loaded. `named`: path or "". Throws LIT_LIBRARY_NOT_FOUND or LIT_WRONG_VERSION.
const OpenVino& load_openvino(const std::string& named);

// The core that reads and compiles models: one for each OpenVINO and extension (path, "" for none), because a core
// loads its plugin for the CPU once. Throws LIT_WRONG_VERSION for an extension that does not fit.
const ov_core* core_of(const OpenVino& openvino, const std::string& extension);

// An object of OpenVINO and the function that frees its kind: OvOwned<ov_model>(model, api.ov_model_free).
template <typename T>
using OvOwned = std::unique_ptr<T, void (*)(T*)>;

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_OPENVINO_API_H_
