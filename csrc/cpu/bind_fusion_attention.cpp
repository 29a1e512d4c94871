#include <string>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {

void bind_fusion_attention(py::module_& m) {
  m.def(
      "fusion_attention",
      [](Address q, Address key, Address value, Address rows, Address num_valid, Address positions, Address cos_sin,
         Address out, int64_t num_tokens, int64_t num_heads, int64_t head_dim, int64_t row_stride, int64_t entry_stride,
         float scale, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.fusion_attention({.q = at<float>(q),
                                .key = at<float>(key),
                                .value = at<float>(value),
                                .rows = at<int64_t>(rows),
                                .num_valid = at<int32_t>(num_valid),
                                .positions = at<int32_t>(positions),
                                .cos_sin = at<float>(cos_sin),
                                .out = at<float>(out),
                                .num_tokens = num_tokens,
                                .num_heads = num_heads,
                                .head_dim = head_dim,
                                .row_stride = row_stride,
                                .entry_stride = entry_stride,
                                .scale = scale});
      },
      py::arg("q"), py::arg("key"), py::arg("value"), py::arg("rows"), py::arg("num_valid"), py::arg("positions"),
      py::arg("cos_sin"), py::arg("out"), py::arg("num_tokens"), py::arg("num_heads"), py::arg("head_dim"),
      py::arg("row_stride"), py::arg("entry_stride"), py::arg("scale"), py::arg("isa") = "");

  m.def(
      "fusion_cache_write",
      [](Address kv, Address slots, Address positions, Address cos_sin, Address cache, int64_t num_tokens,
         int64_t num_layers, int64_t num_heads, int64_t head_dim, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.fusion_cache_write({.kv = at<float>(kv),
                                  .slots = at<int64_t>(slots),
                                  .positions = at<int32_t>(positions),
                                  .cos_sin = at<float>(cos_sin),
                                  .cache = at<float>(cache),
                                  .num_tokens = num_tokens,
                                  .num_layers = num_layers,
                                  .num_heads = num_heads,
                                  .head_dim = head_dim});
      },
      py::arg("kv"), py::arg("slots"), py::arg("positions"), py::arg("cos_sin"), py::arg("cache"),
      py::arg("num_tokens"), py::arg("num_layers"), py::arg("num_heads"), py::arg("head_dim"), py::arg("isa") = "");
}

}  // namespace antiphon
