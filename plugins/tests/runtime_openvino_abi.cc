// Compares the runtime's declarations of OpenVINO's C library with OpenVINO's own, where its headers are found: what
// differs does not compile. tests/plugins/test_runtime_openvino.py does so with the headers of Python's wheel:
//
//   c++ -std=c++17 -fsyntax-only -I plugins/runtime -I plugins/runtime/include -I <openvino>/include <this file>
#include <openvino/c/openvino.h>

#include <cstddef>
#include <type_traits>

#include "openvino_api.h"

namespace ours = lit_deploy::runtime;

namespace {

template <typename Theirs, typename Ours>
constexpr bool same_value() {
  if constexpr (std::is_enum_v<Theirs> && std::is_integral_v<Ours>) return sizeof(Theirs) == sizeof(Ours);
  return std::is_same_v<Theirs, Ours>;
}

// Whether a value of `Theirs` is handed over exactly as one of `Ours`.
template <typename Theirs, typename Ours>
struct Same : std::bool_constant<same_value<Theirs, Ours>()> {};

template <typename Theirs, typename Ours>
struct Same<Theirs*, Ours*> : Same<Theirs, Ours> {};

template <typename Theirs, typename Ours>
struct Same<const Theirs, const Ours> : Same<Theirs, Ours> {};

template <typename TheirResult, typename... Theirs, typename OurResult, typename... Ours>
struct Same<TheirResult(Theirs...), OurResult(Ours...)> {
  template <bool alike>
  static constexpr bool all() {
    if constexpr (alike) return Same<TheirResult, OurResult>::value && (Same<Theirs, Ours>::value && ...);
    return false;
  }
  static constexpr bool value = all<sizeof...(Theirs) == sizeof...(Ours)>();
};

template <typename TheirResult, typename... Theirs, typename OurResult, typename... Ours>
struct Same<TheirResult(Theirs..., ...), OurResult(Ours..., ...)> : Same<TheirResult(Theirs...), OurResult(Ours...)> {};

// Plain data: as large, and each member at the same place and of the same type.
#define LIT_DEPLOY_SAME_MEMBER(theirs, their_member, ours, our_member) \
  (offsetof(theirs, their_member) == offsetof(ours, our_member) &&     \
   Same<decltype(theirs::their_member), decltype(ours::our_member)>::value)

template <>
struct Same<ov_version_t, ours::OvVersion>
    : std::bool_constant<sizeof(ov_version_t) == sizeof(ours::OvVersion) &&
                         LIT_DEPLOY_SAME_MEMBER(ov_version_t, buildNumber, ours::OvVersion, build) &&
                         LIT_DEPLOY_SAME_MEMBER(ov_version_t, description, ours::OvVersion, description)> {};

template <>
struct Same<ov_dimension_t, ours::OvDimension>
    : std::bool_constant<sizeof(ov_dimension_t) == sizeof(ours::OvDimension) &&
                         LIT_DEPLOY_SAME_MEMBER(ov_dimension_t, min, ours::OvDimension, min) &&
                         LIT_DEPLOY_SAME_MEMBER(ov_dimension_t, max, ours::OvDimension, max)> {};

template <>
struct Same<ov_partial_shape_t, ours::OvPartialShape>
    : std::bool_constant<sizeof(ov_partial_shape_t) == sizeof(ours::OvPartialShape) &&
                         LIT_DEPLOY_SAME_MEMBER(ov_partial_shape_t, rank, ours::OvPartialShape, rank) &&
                         LIT_DEPLOY_SAME_MEMBER(ov_partial_shape_t, dims, ours::OvPartialShape, dimensions)> {};

template <>
struct Same<ov_shape_t, ours::OvShape>
    : std::bool_constant<sizeof(ov_shape_t) == sizeof(ours::OvShape) &&
                         LIT_DEPLOY_SAME_MEMBER(ov_shape_t, rank, ours::OvShape, rank) &&
                         LIT_DEPLOY_SAME_MEMBER(ov_shape_t, dims, ours::OvShape, dimensions)> {};

#define LIT_DEPLOY_COMPARE(name, result, parameters)                                                  \
  static_assert(Same<decltype(::name), std::remove_pointer_t<decltype(ours::OvApi::name)>>::value,    \
                #name " is declared otherwise by OpenVINO");
namespace in_runtime {
using namespace lit_deploy::runtime;
LIT_DEPLOY_OPENVINO_FUNCTIONS(LIT_DEPLOY_COMPARE)
}  // namespace in_runtime

static_assert(ov_status_e::OK == 0);
static_assert(ov_element_type_e::F32 == ours::kOvFloat32 && ov_element_type_e::I32 == ours::kOvInt32 &&
              ov_element_type_e::I64 == ours::kOvInt64 && ov_element_type_e::U8 == ours::kOvUint8);

}  // namespace
