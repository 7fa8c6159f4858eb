// Memory for secrets: locked where the host allows, between guard pages, wiped when freed.
//
// Layer: broker. Pure but for the pages that libsodium asks the kernel for.
#pragma once

#include <sodium.h>

#include <cstddef>
#include <limits>
#include <new>
#include <string>
#include <vector>

namespace mayfly::broker {

template <class T>
struct SecretAllocator {
  using value_type = T;
  SecretAllocator() = default;
  template <class U>
  SecretAllocator(const SecretAllocator<U>&) {}
  T* allocate(size_t count) {
    void* memory = sodium_init() >= 0 ? sodium_allocarray(count, sizeof(T)) : nullptr;
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, size_t) { sodium_free(memory); }
  template <class U>
  bool operator==(const SecretAllocator<U>&) const {
    return true;
  }
};

template <class T>
using SecretVector = std::vector<T, SecretAllocator<T>>;

// A std::string keeps short texts in itself, where nothing wipes them.
using SecretBytes = SecretVector<char>;

}  // namespace mayfly::broker
