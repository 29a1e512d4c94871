#include <string>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {

void bind_argmax_head(py::module_& m) {
  m.def(
      "argmax_head",
      [](Address x, const WeightAddress& head, Address subset, Address ids, Address logits, int64_t rows, int64_t in,
         int64_t out_features, int64_t ldx, int64_t top_k, int64_t subset_size, const std::string& isa) {
        const KernelTable& table = pick(isa);
        const PackedWeight matrix = weight_at(head, isa);
        py::gil_scoped_release release;
        table.argmax_head({.x = at<float>(x),
                           .head = matrix,
                           .subset = at<int64_t>(subset),
                           .ids = at<int64_t>(ids),
                           .logits = at<float>(logits),
                           .rows = rows,
                           .in = in,
                           .out_features = out_features,
                           .ldx = ldx,
                           .top_k = top_k,
                           .subset_size = subset_size});
      },
      py::arg("x"), py::arg("head"), py::arg("subset"), py::arg("ids"), py::arg("logits"), py::arg("rows"),
      py::arg("in_features"), py::arg("out_features"), py::arg("ldx"), py::arg("top_k"), py::arg("subset_size"),
      py::arg("isa") = "");
}

}  // namespace antiphon
