#include <string>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {

void bind_silu_mul(py::module_& m) {
  m.def(
      "silu_mul",
      [](Address gate_up, Address out, int64_t rows, int64_t size, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.silu_mul(at<float>(gate_up), at<float>(out), rows, size);
      },
      py::arg("gate_up"), py::arg("out"), py::arg("rows"), py::arg("size"), py::arg("isa") = "");
}

}  // namespace antiphon
