#include <string>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {

void bind_soft_embedding(py::module_& m) {
  m.def(
      "soft_embedding",
      [](Address x, const WeightAddress& head, const WeightAddress& embedding, Address out, Address labels,
         int64_t rows, int64_t in, int64_t vocab, int64_t width, int64_t ldx, int64_t lde, const std::string& isa) {
        const KernelTable& table = pick(isa);
        const PackedWeight matrix = weight_at(head, isa), table_rows = weight_at(embedding);
        py::gil_scoped_release release;
        table.soft_embedding({.x = at<float>(x),
                              .head = matrix,
                              .embedding = table_rows.data,
                              .embedding_format = table_rows.format,
                              .embedding_scales = table_rows.scales,
                              .out = at<float>(out),
                              .labels = at<int64_t>(labels),
                              .rows = rows,
                              .in = in,
                              .vocab = vocab,
                              .width = width,
                              .ldx = ldx,
                              .lde = lde});
      },
      py::arg("x"), py::arg("head"), py::arg("embedding"), py::arg("out"), py::arg("labels"), py::arg("rows"),
      py::arg("in_features"), py::arg("vocab"), py::arg("width"), py::arg("ldx"), py::arg("lde"), py::arg("isa") = "");
}

}  // namespace antiphon
