#include <string>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {

void bind_rms_norm(py::module_& m) {
  m.def(
      "rms_norm",
      [](Address x, Address weight, Address out, int64_t rows, int64_t size, float eps, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.rms_norm(at<float>(x), at<float>(weight), at<float>(out), rows, size, eps);
      },
      py::arg("x"), py::arg("weight"), py::arg("out"), py::arg("rows"), py::arg("size"), py::arg("eps"),
      py::arg("isa") = "");

  m.def(
      "rms_norm_residual",
      [](Address x, Address residual, Address weight, Address out, Address total, int64_t rows, int64_t size, float eps,
         const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.rms_norm_residual(at<float>(x), at<float>(residual), at<float>(weight), at<float>(out), at<float>(total),
                                rows, size, eps);
      },
      py::arg("x"), py::arg("residual"), py::arg("weight"), py::arg("out"), py::arg("total"), py::arg("rows"),
      py::arg("size"), py::arg("eps"), py::arg("isa") = "");
}

}  // namespace antiphon
