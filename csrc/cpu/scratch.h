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
  explicit Scratch(int64_t count) {
    if (count < 0 || count > INT64_MAX / static_cast<int64_t>(sizeof(T))) throw std::bad_alloc();
    begin_ = static_cast<T*>(std::malloc(sizeof(T) * static_cast<size_t>(count > 0 ? count : 1)));
    if (!begin_) throw std::bad_alloc();
  }
  ~Scratch() { std::free(begin_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* get() const { return begin_; }
  T& operator[](int64_t i) const { return begin_[i]; }

 private:
  T* begin_;
};

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
