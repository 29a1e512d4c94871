#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "kernels.h"

// Tensors come as addresses (`Tensor.data_ptr()`): neither torch nor numpy headers are needed, and every dtype can
// pass. The Python wrapper of an op has checked shapes, dtypes and strides; 0 stands for an argument left out.
namespace antiphon {

using Address = std::uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// The kernels of an instruction set by name, "" for the best. Raises ValueError where the machine has no such one.
const KernelTable& pick(const std::string& isa);

// Each in the file of its name; module.cpp calls them all.
void bind_checks(pybind11::module_& m);
void bind_ctc_collapse(pybind11::module_& m);
void bind_heads(pybind11::module_& m);
void bind_kernels(pybind11::module_& m);

}  // namespace antiphon
