#include <string>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {

void bind_linear(py::module_& m) {
  m.def(
      "linear",
      [](Address x, const WeightAddress& weight, Address residual, Address out, int64_t rows, int64_t in,
         int64_t out_features, int64_t ldx, int64_t ldo, const std::string& isa) {
        const KernelTable& table = pick(isa);
        const PackedWeight matrix = weight_at(weight, isa);
        py::gil_scoped_release release;
        table.linear({.x = at<float>(x),
                      .weight = matrix,
                      .residual = at<float>(residual),
                      .out = at<float>(out),
                      .rows = rows,
                      .in = in,
                      .out_features = out_features,
                      .ldx = ldx,
                      .ldo = ldo});
      },
      py::arg("x"), py::arg("weight"), py::arg("residual"), py::arg("out"), py::arg("rows"), py::arg("in_features"),
      py::arg("out_features"), py::arg("ldx"), py::arg("ldo"), py::arg("isa") = "");
}

}  // namespace antiphon
