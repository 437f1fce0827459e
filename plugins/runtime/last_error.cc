// By pthread's keys and not thread_local: a thread's first use of that takes memory, and so does its destructor's
// registration; where there is none the C library ends the process.
#include "last_error.h"

#include <pthread.h>

#include <cstdlib>
#include <cstring>

namespace lit_deploy::runtime {
namespace {

char no_memory[] = "out of memory";

void forget(void* sentence) {
  if (sentence != no_memory) std::free(sentence);
}

struct Key {
  pthread_key_t key{};
  bool made;
  Key() : made(pthread_key_create(&key, forget) == 0) {}
};
const Key sentences;  // made while the library is loaded; it is never unloaded

}  // namespace

void keep_last_error(const char* sentence) noexcept {
  if (!sentences.made) return;
  char* copy = strdup(sentence);
  if (copy == nullptr) copy = no_memory;
  void* const before = pthread_getspecific(sentences.key);
  if (pthread_setspecific(sentences.key, copy) == 0) {
    forget(before);
  } else {
    forget(copy);
  }
}

const char* last_error() noexcept {
  if (!sentences.made) return no_memory;
  const void* const sentence = pthread_getspecific(sentences.key);
  return sentence == nullptr ? "" : static_cast<const char*>(sentence);
}

}  // namespace lit_deploy::runtime
