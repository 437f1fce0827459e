// The one exception of the runtime; api.cc turns it into a status and a sentence.
#ifndef LIT_DEPLOY_RUNTIME_ERROR_H_
#define LIT_DEPLOY_RUNTIME_ERROR_H_

#include <exception>
#include <string>
#include <utility>

#include "lit_runtime.h"

namespace lit_deploy::runtime {

class Error : public std::exception {
 public:
  // `sentence`: what was received, what was expected, and what mends it.
  Error(lit_status status, std::string sentence) : status_(status), sentence_(std::move(sentence)) {}
  lit_status status() const noexcept { return status_; }
  const char* what() const noexcept override { return sentence_.c_str(); }

 private:
  lit_status status_;
  std::string sentence_;
};

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_ERROR_H_
