#include "openvino_api.h"

#include <list>
#include <mutex>
#include <utility>

#include "shared_library.h"

namespace lit_deploy::runtime {
namespace {

constexpr const char* kRemedy =
    "install OpenVINO 2026.4 or newer and name the file in LIT_DEPLOY_OPENVINO or lit_options.backend_library";

struct ElementType {
  OvType number;
  const char* dtype;
  size_t size;  // bytes
};
constexpr ElementType kTypes[] = {
    {kOvFloat32, "float32", 4}, {kOvInt32, "int32", 4}, {kOvInt64, "int64", 8}, {kOvUint8, "uint8", 1}};

// OpenVINO writes several lines; the last names the cause, those before it its own source files.
std::string last_line(const std::string& text) {
  const size_t end = text.find_last_not_of(" \t\r\n");
  if (end == text.npos) return "it gives no reason";
  const size_t before = text.find_last_of('\n', end);
  const size_t begin = text.find_first_not_of(" \t\r\n", before == text.npos ? 0 : before);
  return text.substr(begin, end + 1 - begin);
}

// Bytes of one element of what OpenVINO takes for type `number`, 0 for none.
size_t size_of(const OvApi& api, OvType number) {
  int64_t one = 1;
  ov_tensor* made = nullptr;
  if (api.ov_tensor_create(number, {1, &one}, &made) != 0) return 0;
  const OvOwned<ov_tensor> tensor(made, api.ov_tensor_free);
  size_t bytes = 0;
  return api.ov_tensor_get_byte_size(made, &bytes) == 0 ? bytes : 0;
}

OvApi functions_of(const SharedLibrary& library) {
  OvApi api{};
  const auto find = [&library](const char* name) {
    void* found = library.symbol(name);
    if (found != nullptr) return found;
    throw Error(LIT_WRONG_VERSION,
                library.path + " is too old, or no OpenVINO at all (it has no " + name + "); " + kRemedy);
  };
#define LIT_DEPLOY_FIND(name, result, parameters) api.name = reinterpret_cast<result(*) parameters>(find(#name));
  LIT_DEPLOY_OPENVINO_FUNCTIONS(LIT_DEPLOY_FIND)
#undef LIT_DEPLOY_FIND
  return api;
}

// "2026.4.1" of "2026.4.1-22081-fd0ac70d-releases/2026/4".
std::string version_of(const OvApi& api) {
  OvVersion version{};
  if (api.ov_get_openvino_version(&version) != 0 || version.build == nullptr) return "";
  const std::string build = version.build;
  api.ov_version_free(&version);
  return build.substr(0, build.find('-'));
}

// The library says nothing of how it numbers its types, so that they are tried: a release to which the numbers mean
// types of other sizes must not be handed any.
void check_types(const OvApi& api, const std::string& path, const std::string& version) {
  for (const ElementType& type : kTypes) {
    if (size_of(api, type.number) == type.size) continue;
    throw Error(LIT_WRONG_VERSION,
                path + " is OpenVINO " + version + ", which numbers its types otherwise; " + kRemedy);
  }
}

std::mutex mutex;  // of what is loaded

}  // namespace

void OpenVino::check(OvStatus result, lit_status status, const std::string& before) const {
  if (result == 0) return;
  // Of the process, not of the thread: while calls fail in several threads at once, one may get another's sentence.
  std::string message;
  if (const char* text = api.ov_get_last_err_msg()) {
    message = text;
    api.ov_free(text);
  }
  for (const char* words : {"bad_alloc", "Failed to allocate", "out of memory"}) {  // there is no code for it
    if (message.find(words) != message.npos) status = LIT_OUT_OF_MEMORY;
  }
  throw Error(status, before + " (" + last_line(message) + ")");
}

OvType OpenVino::type(const std::string& dtype) const {
  for (const ElementType& type : kTypes) {
    if (dtype == type.dtype) return type.number;
  }
  throw Error(LIT_INTERNAL_ERROR, "no type of OpenVINO is known for " + dtype);
}

std::string OpenVino::dtype(OvType number) const {
  for (const ElementType& type : kTypes) {
    if (number == type.number) return type.dtype;
  }
  return "a type that no manifest promises";
}

const OpenVino& load_openvino(const std::string& named) {
  // Never destroyed: models of the host program may outlive this library's own objects.
  static auto& known = *new std::list<std::pair<void*, OpenVino>>;
  const std::lock_guard<std::mutex> lock(mutex);
  // Releases carry their number in the name: beside a program, or on the linker's path, is the one that was tried, or a
  // link without a number.
  const Wanted wanted{"OpenVINO", {"libopenvino_c.so", "libopenvino_c.so.2641"}, "LIT_DEPLOY_OPENVINO", named, true};
  const SharedLibrary library = load_library(wanted, kRemedy);
  for (const auto& [handle, openvino] : known) {
    if (handle == library.handle) return openvino;
  }
  const OvApi api = functions_of(library);
  const std::string version = version_of(api);
  check_types(api, library.path, version);
  return known.emplace_back(library.handle, OpenVino{api, version}).second;
}

const ov_core* core_of(const OpenVino& openvino, const std::string& extension) {
  struct Core {
    const OpenVino* openvino;
    std::string extension;
    const ov_core* core;
  };
  static auto& known = *new std::list<Core>;  // never destroyed, as above
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Core& core : known) {
    if (core.openvino == &openvino && core.extension == extension) return core.core;
  }
  const OvApi& api = openvino.api;
  const std::string before = "OpenVINO " + openvino.version + " ";
  ov_core* made = nullptr;
  openvino.check(api.ov_core_create(&made), LIT_INTERNAL_ERROR, before + "could not be started");
  OvOwned<ov_core> core(made, api.ov_core_free);
  if (!extension.empty()) {
    openvino.check(api.ov_core_add_extension(made, extension.c_str()), LIT_WRONG_VERSION,
                   before + "cannot load " + extension + ", which has to be built against this OpenVINO");
  }
  known.push_back({&openvino, extension, made});
  return core.release();
}

}  // namespace lit_deploy::runtime
