// The machine's instruction sets, the kernels' threads and memory.
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "huge_pages.h"
#include "kernels.h"
#include "pool.h"

namespace py = pybind11;

namespace antiphon {

const KernelTable& pick(const std::string& isa) {
  const KernelTable* table = kernels(isa.c_str());
  if (!table) throw std::invalid_argument("isa: this machine cannot run '" + isa + "'");
  return *table;
}

PackedWeight weight_at(const WeightAddress& weight, const std::string& isa) {
  const auto [data, scales, number] = weight;
  if (number < 0 || number > static_cast<int32_t>(Format::kInt8Both))
    throw std::invalid_argument("weight: no format has the number " + std::to_string(number));
  const auto format = static_cast<Format>(number);
  return {at<void>(data), at<float>(scales), format, format == Format::kInt8Both ? int8_kernel(isa.c_str()) : nullptr};
}

void bind_machine(py::module_& m) {
  m.def("best_isa", &best_isa, "The best instruction set of this machine: avx512, avx2 or plain.");

  m.def(
      "best_int8", [] { return int8_kernel("")->name; },
      "What multiplies int8 by int8 on this machine: amx, vnni, avx512, avx2 or plain.");

  m.def("set_num_threads", &set_num_threads, py::arg("count"), "Threads of later kernels, the caller included.");
  m.def("num_threads", &num_threads);

  m.def(
      "advise_huge_pages", [](Address begin, int64_t size) { advise_huge_pages(at<void>(begin), size); },
      py::arg("begin"), py::arg("size"),
      "Asks for huge pages for memory that has not been written to; a hint, which may do nothing.");
}

}  // namespace antiphon
