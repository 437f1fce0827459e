// A document of JSON as a tree that can be taken apart without memory.
#ifndef LIT_DEPLOY_RUNTIME_JSON_DOCUMENT_H_
#define LIT_DEPLOY_RUNTIME_JSON_DOCUMENT_H_

#include <nlohmann/json.hpp>
#include <string>

namespace lit_deploy::runtime {

using Json = nlohmann::json;

// What is wrong, as part of a sentence; the reader of a file says which file.
struct Damaged {
  std::string what;
};

// Owns the tree. nlohmann/json takes memory to destroy a value that has members, and ends the process where there is
// none; the values of a Document have lost their members before they are destroyed, also those of half a document whose
// reading failed. For the same reason no value that has members may be copied out of it. It nests no deeper than
// contract::kMaxNesting: values are taken apart by recursion, on small stacks.
class Document {
 public:
  explicit Document(const std::string& text) : Document() { read(text); }  // throws Damaged
  ~Document();
  Document(const Document&) = delete;
  Document& operator=(const Document&) = delete;

  Json& root() { return root_; }

 private:
  Document() = default;  // whole from here on: if read() throws, the destructor runs
  void read(const std::string& text);

  Json root_;
};

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_JSON_DOCUMENT_H_
