// Memory that a kernel writes to meanwhile.
//
// In the namespace of the instruction set, since the linker would keep one copy of a template for all of them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace antiphon {
namespace ANTIPHON_ISA {

// `count` numbers without values, given back at the end of the scope. Throws std::bad_alloc, which Python sees as
// MemoryError, where there is no memory; so does a `count` that no memory could hold.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : Scratch(count, std::nothrow) {
    if (!begin_) throw std::bad_alloc();
  }
  // Null where there is no memory: for helpers' threads, see ShortMemory.
  Scratch(int64_t count, std::nothrow_t) {
    const bool fits = count >= 0 && count <= INT64_MAX / static_cast<int64_t>(sizeof(T));
    begin_ = fits ? static_cast<T*>(std::malloc(sizeof(T) * static_cast<size_t>(count > 0 ? count : 1))) : nullptr;
  }
  ~Scratch() { std::free(begin_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  explicit operator bool() const { return begin_; }
  T* get() const { return begin_; }
  T& operator[](int64_t i) const { return begin_[i]; }

 private:
  T* begin_;
};

// That a chunk had no memory, said by any thread and thrown by the caller. A helper could throw it itself, but a
// thread's first exception takes memory of the C library's, which ends the process where there is none.
class ShortMemory {
 public:
  void set() { __atomic_store_n(&is_set_, true, __ATOMIC_RELAXED); }
  void rethrow() const {
    if (__atomic_load_n(&is_set_, __ATOMIC_RELAXED)) throw std::bad_alloc();
  }

 private:
  bool is_set_ = false;
};

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
