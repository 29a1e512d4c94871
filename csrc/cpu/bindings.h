#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <tuple>

#include "kernels.h"

// Tensors come as addresses (`Tensor.data_ptr()`), so neither torch nor numpy headers are needed. An address says
// nothing of its dtype, shape or strides: the op's Python wrapper has checked them. 0 stands for an argument left out.
namespace antiphon {

using Address = std::uintptr_t;

template <typename T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// The kernels of an instruction set by name, "" for the best. Raises ValueError if this machine cannot run it.
const KernelTable& pick(const std::string& isa);

// A packed weight as Python has it: the addresses of its numbers and scales, and its format's place in `Format`.
using WeightAddress = std::tuple<Address, Address, int32_t>;

// Raises ValueError if there is no such format. isa: as for `pick`, which has been called with it.
PackedWeight weight_at(const WeightAddress& weight, const std::string& isa = "");

// A cache as Python has it: the addresses of keys and values, from block to block, from position to position, positions
// in a block; then, or 0 for float32, the addresses of their scales, and from block to block of these.
using CacheAddress = std::tuple<Address, Address, int64_t, int64_t, int32_t, Address, Address, int64_t>;

inline PagedCache paged(const CacheAddress& cache) {
  const auto& [key, value, block_stride, row_stride, block_size, key_scales, value_scales, scale_stride] = cache;
  return {.key = at<void>(key),
          .value = at<void>(value),
          .block_stride = block_stride,
          .row_stride = row_stride,
          .block_size = block_size,
          .key_scales = at<float>(key_scales),
          .value_scales = at<float>(value_scales),
          .scale_stride = scale_stride};
}

// Each is in the file of its name; module.cpp calls them all.
void bind_argmax(pybind11::module_& m);
void bind_argmax_head(pybind11::module_& m);
void bind_checks(pybind11::module_& m);
void bind_ctc_collapse(pybind11::module_& m);
void bind_decode_step(pybind11::module_& m);
void bind_decoder_layers(pybind11::module_& m);
void bind_fusion_attention(pybind11::module_& m);
void bind_hift(pybind11::module_& m);
void bind_linear(pybind11::module_& m);
void bind_machine(pybind11::module_& m);
void bind_paged_attention(pybind11::module_& m);
void bind_rms_norm(pybind11::module_& m);
void bind_rope_cache_write(pybind11::module_& m);
void bind_sample(pybind11::module_& m);
void bind_silu_mul(pybind11::module_& m);
void bind_soft_embedding(pybind11::module_& m);
void bind_unet(pybind11::module_& m);

}  // namespace antiphon
