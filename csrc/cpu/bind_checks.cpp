// What the Python wrappers ask about index tensors, in one pass: an op of a decoding step takes only microseconds.
#include <algorithm>
#include <functional>
#include <vector>

#include "bindings.h"

namespace py = pybind11;

namespace antiphon {
namespace {

template <class T>
py::tuple range_of(Address address, int64_t count) {
  const T* values = at<T>(address);
  T least = values[0], most = values[0];
  for (int64_t i = 1; i < count; i++) least = std::min(least, values[i]), most = std::max(most, values[i]);
  return py::make_tuple(least, most);
}

// Does any value of `least` or more occur twice?
template <class T>
bool repeats(Address address, int64_t count, int64_t least) {
  constexpr int64_t few = 32;  // up to this many are compared pair by pair
  const T* values = at<T>(address);
  if (count <= few) {
    for (int64_t i = 1; i < count; i++)
      for (int64_t j = 0; j < i; j++)
        if (values[i] == values[j] && values[i] >= least) return true;
    return false;
  }
  if (std::adjacent_find(values, values + count, std::greater_equal<T>()) == values + count) return false;
  std::vector<T> sorted(values, values + count);
  std::sort(sorted.begin(), sorted.end());
  const auto begin = std::lower_bound(sorted.begin(), sorted.end(), least);
  return std::adjacent_find(begin, sorted.end()) != sorted.end();
}

template <class T>
bool rises(Address address, int64_t count, int64_t most) {
  const T* values = at<T>(address);
  if (values[0] < 0 || values[count - 1] > most) return false;
  return std::adjacent_find(values, values + count, std::greater_equal<T>()) == values + count;
}

// Do the bounds of sequences rise from 0 to `end`?
bool spans(const int32_t* bounds, int64_t count, int64_t end) {
  if (bounds[0] != 0 || bounds[count - 1] != end) return false;
  return std::is_sorted(bounds, bounds + count);
}

}  // namespace

void bind_checks(py::module_& m) {
  m.def(
      "index_range",
      [](Address values, int64_t count, int itemsize) {
        return itemsize == 4 ? range_of<int32_t>(values, count) : range_of<int64_t>(values, count);
      },
      py::arg("values"), py::arg("count"), py::arg("itemsize"),
      "The smallest and the largest of one or more integers.");
  m.def(
      "index_rises",
      [](Address values, int64_t count, int itemsize, int64_t most) {
        return itemsize == 4 ? rises<int32_t>(values, count, most) : rises<int64_t>(values, count, most);
      },
      py::arg("values"), py::arg("count"), py::arg("itemsize"), py::arg("most"),
      "Do one or more integers lie within 0 to `most`, each larger than the one before?");
  m.def(
      "index_repeats",
      [](Address values, int64_t count, int itemsize, int64_t least) {
        return itemsize == 4 ? repeats<int32_t>(values, count, least) : repeats<int64_t>(values, count, least);
      },
      py::arg("values"), py::arg("count"), py::arg("itemsize"), py::arg("least"),
      "Does any integer of `least` or more occur twice?");
  m.def(
      "wrong_sequences",
      [](Address cu_seqlens_q, Address context_lens, Address block_table, int64_t num_seqs, int64_t max_blocks,
         int64_t num_tokens, int64_t block_size, int64_t num_blocks) -> const char* {
        const int32_t *bounds = at<int32_t>(cu_seqlens_q), *lens = at<int32_t>(context_lens);
        if (!spans(bounds, num_seqs + 1, num_tokens)) return "cu_seqlens_q";
        for (int64_t s = 0; s < num_seqs; s++)
          if (lens[s] != 0 && (lens[s] < bounds[s + 1] - bounds[s] || lens[s] > max_blocks * block_size))
            return "context_lens";
        for (int64_t s = 0; s < num_seqs; s++) {
          const int32_t* row = at<int32_t>(block_table) + s * max_blocks;
          for (int64_t i = 0; i < (lens[s] + block_size - 1) / block_size; i++)
            if (row[i] < 0 || row[i] >= num_blocks) return "block_table";
        }
        return "";
      },
      py::arg("cu_seqlens_q"), py::arg("context_lens"), py::arg("block_table"), py::arg("num_seqs"),
      py::arg("max_blocks"), py::arg("num_tokens"), py::arg("block_size"), py::arg("num_blocks"),
      "The field of a batch of sequences that does not fit the others and the cache; empty if all fit.");
}

}  // namespace antiphon
