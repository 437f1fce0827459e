// Libraries that are loaded at run time, and where they are looked for.
#ifndef LIT_DEPLOY_RUNTIME_SHARED_LIBRARY_H_
#define LIT_DEPLOY_RUNTIME_SHARED_LIBRARY_H_

#include <string>
#include <vector>

namespace lit_deploy::runtime {

// What is looked for, in words of lit_runtime.h.
struct Wanted {
  std::string title;               // "ONNX Runtime", for messages
  std::vector<std::string> names;  // file names, best first
  const char* variable;            // environment variable; nullptr for none
  std::string named;               // by lit_options, "" if not
  bool on_linker_path;             // whether the dynamic linker may look for the bare names, last
};

// Whether a path leads to a regular file.
bool is_file(const std::string& path);

// Folder of liblit_deploy_runtime.so itself; "" where that cannot be told.
const std::string& own_folder();

// Where `wanted` is looked for, in order: what was named alone if it was, else what the variable names alone if it is
// set, else the names in own_folder(), then, with `on_linker_path`, the bare names. What has a slash is a path; what
// has none goes to the dynamic linker, so that nothing is loaded from the current folder unless a path leads there.
std::vector<std::string> candidates(const Wanted& wanted);

struct SharedLibrary {
  void* handle = nullptr;  // of dlopen(); never closed: libraries of this kind do not survive that
  std::string path;        // the file that was loaded

  // A function, or nullptr.
  void* symbol(const char* name) const;
};

// Loads the first candidate that loads. Throws LIT_LIBRARY_NOT_FOUND with all candidates and what was wrong with each;
// `remedy` ends the sentence.
SharedLibrary load_library(const Wanted& wanted, const std::string& remedy);

// The path of the first candidate that is there; for libraries that somebody else loads. Nobody named one: "" where
// there is none. Somebody did, and it is missing: throws LIT_LIBRARY_NOT_FOUND; `remedy` ends the sentence.
std::string find_library(const Wanted& wanted, const std::string& remedy);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_SHARED_LIBRARY_H_
