// The sentence about each thread's last failure.
#ifndef LIT_DEPLOY_RUNTIME_LAST_ERROR_H_
#define LIT_DEPLOY_RUNTIME_LAST_ERROR_H_

namespace lit_deploy::runtime {

// Keeps a copy for this thread; "out of memory" where there is no memory for it.
void keep_last_error(const char* sentence) noexcept;

// What was kept last in this thread; "" before the first.
const char* last_error() noexcept;

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_LAST_ERROR_H_
