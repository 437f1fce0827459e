#include "shared_library.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/stat.h>

#include <climits>
#include <cstdlib>
#include <cstring>

#include "error.h"

namespace lit_deploy::runtime {
namespace {

// Where the file of a candidate is, "" for nowhere. A bare name is the linker's to find, which has to load it for that.
std::string located(const std::string& candidate) {
  if (candidate.find('/') != std::string::npos) return is_file(candidate) ? candidate : "";
  void* const handle = dlopen(candidate.c_str(), RTLD_LAZY | RTLD_LOCAL);
  const link_map* loaded = nullptr;
  return handle != nullptr && dlinfo(handle, RTLD_DI_LINKMAP, &loaded) == 0 ? loaded->l_name : "";
}

std::string variable_value(const Wanted& wanted) {
  // secure_: an environment must not bring code into a program that has more rights than who started it.
  const char* value = wanted.variable == nullptr ? nullptr : secure_getenv(wanted.variable);
  return value == nullptr ? "" : value;
}

bool is_named(const Wanted& wanted) { return !wanted.named.empty() || !variable_value(wanted).empty(); }

std::string joined(const std::vector<std::string>& parts, const char* separator) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

[[gnu::constructor]] void remember_own_folder() { own_folder(); }

}  // namespace

bool is_file(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

const std::string& own_folder() {
  // As the library is loaded: its path may be relative to a folder that the process leaves later.
  static const std::string folder = [] {
    Dl_info info;
    char resolved[PATH_MAX];  // the library itself lies where links to it lead
    if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || info.dli_fname == nullptr ||
        realpath(info.dli_fname, resolved) == nullptr) {
      return std::string();
    }
    return std::string(resolved, std::strrchr(resolved, '/'));
  }();
  return folder;
}

std::vector<std::string> candidates(const Wanted& wanted) {
  if (!wanted.named.empty()) return {wanted.named};
  if (const std::string value = variable_value(wanted); !value.empty()) return {value};
  std::vector<std::string> paths;
  if (!own_folder().empty()) {
    for (const std::string& name : wanted.names) paths.push_back(own_folder() + "/" + name);
  }
  if (wanted.on_linker_path) paths.insert(paths.end(), wanted.names.begin(), wanted.names.end());
  return paths;
}

void* SharedLibrary::symbol(const char* name) const { return dlsym(handle, name); }

SharedLibrary load_library(const Wanted& wanted, const std::string& remedy) {
  std::vector<std::string> problems;
  for (const std::string& path : candidates(wanted)) {
    if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return {handle, path};
    const char* reason = dlerror();
    // dlerror() begins with the path for most reasons, and says nothing of it for others.
    const std::string text = reason == nullptr ? "it does not load" : reason;
    problems.push_back(text.rfind(path, 0) == 0 ? text : path + ": " + text);
  }
  throw Error(LIT_LIBRARY_NOT_FOUND,
              wanted.title + " could not be loaded (searched " + joined(problems, "; ") + "); " + remedy);
}

std::string find_library(const Wanted& wanted, const std::string& remedy) {
  const std::vector<std::string> paths = candidates(wanted);
  for (const std::string& path : paths) {
    if (const std::string file = located(path); !file.empty()) return file;
  }
  if (!is_named(wanted)) return "";
  throw Error(LIT_LIBRARY_NOT_FOUND, wanted.title + " was not found (searched " + joined(paths, ", ") + "); " + remedy);
}

}  // namespace lit_deploy::runtime
