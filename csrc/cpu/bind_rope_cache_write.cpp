#include <string>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {

void bind_rope_cache_write(py::module_& m) {
  m.def(
      "rope_cache_write",
      [](Address qkv, Address positions, Address cos_sin, Address slots, const CacheAddress& cache, int64_t num_tokens,
         int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.rope_cache_write({.qkv = at<float>(qkv),
                                .positions = at<int32_t>(positions),
                                .cos_sin = at<float>(cos_sin),
                                .slots = at<int64_t>(slots),
                                .cache = paged(cache),
                                .num_tokens = num_tokens,
                                .num_heads = num_heads,
                                .num_kv_heads = num_kv_heads,
                                .head_dim = head_dim});
      },
      py::arg("qkv"), py::arg("positions"), py::arg("cos_sin"), py::arg("slots"), py::arg("cache"),
      py::arg("num_tokens"), py::arg("num_heads"), py::arg("num_kv_heads"), py::arg("head_dim"), py::arg("isa") = "");
}

}  // namespace antiphon
