// A decode step from ids to ids in one call. Its numbers come as lists of Python integers: for a few rows, tensors of
// them take longer to make than a layer takes to compute.
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "kernels.h"

namespace py = pybind11;

namespace antiphon {
namespace {

// The table's numbers, their scales or 0, and their format.
using TableAddress = std::tuple<Address, Address, int32_t>;

struct Table {
  const void* values;
  const float* scales;
  Format format;
  int64_t num_rows, width;

  void rows(const KernelTable& kernels, const std::vector<int64_t>& ids, float* out) const {
    kernels.embed({.table = values,
                   .scales = scales,
                   .format = format,
                   .ids = ids.data(),
                   .out = out,
                   .rows = static_cast<int64_t>(ids.size()),
                   .width = width});
  }
};

Table table_at(const TableAddress& address, int64_t num_rows, int64_t width) {
  const auto& [values, scales, format] = address;
  if (format < 0 || format > static_cast<int32_t>(Format::kInt8)) throw py::value_error("no such format of a table");
  return {at<void>(values), at<float>(scales), static_cast<Format>(format), num_rows, width};
}

template <class T>
std::vector<T> numbers(const py::list& list) {
  std::vector<T> found(list.size());
  for (size_t i = 0; i < found.size(); i++) {
    const long long number = PyLong_AsLongLong(PyList_GET_ITEM(list.ptr(), static_cast<py::ssize_t>(i)));
    if (number == -1 && PyErr_Occurred()) throw py::error_already_set();
    found[i] = static_cast<T>(number);
  }
  return found;
}

void check(bool fits, const char* what) {
  if (!fits) throw py::value_error(what);
}

// Rows of one position each: where they stand, and the blocks of their keys.
struct Places {
  std::vector<int32_t> positions, starts, contexts, blocks;
  std::vector<int64_t> slots;
  int64_t max_blocks = 0;

  Places(const py::list& positions_, const py::list& slots_, const py::list& tables)
      : positions(numbers<int32_t>(positions_)), slots(numbers<int64_t>(slots_)) {
    const size_t count = positions.size();
    check(slots.size() == count && tables.size() == count, "positions, slots and block tables differ in number");
    std::vector<std::vector<int32_t>> rows;
    for (const py::handle row : tables) rows.push_back(numbers<int32_t>(py::reinterpret_borrow<py::list>(row)));
    for (const auto& row : rows) max_blocks = std::max(max_blocks, static_cast<int64_t>(row.size()));
    blocks.assign(count * static_cast<size_t>(max_blocks), 0);
    for (size_t i = 0; i < count; i++) {
      std::copy(rows[i].begin(), rows[i].end(), blocks.begin() + static_cast<int64_t>(i) * max_blocks);
      starts.push_back(static_cast<int32_t>(i));
      contexts.push_back(positions[i] + 1);
    }
    starts.push_back(static_cast<int32_t>(count));
  }
};

// What each fused row of a step looks at; empty lists where no row is fused.
struct Fused {
  std::vector<int64_t> tokens, rows;
  std::vector<int32_t> valid, positions;
};

struct DecodeStep {
  const Decoder& decoder;
  Table source;
  PackedWeight head;
  int64_t out_features;
  PagedCache cache;
  int64_t layer_stride, layer_scale_stride;
  float* kept;  // (rows, hidden), or null
  int64_t num_kept;
  const float* windows;  // or null
  int64_t window;

  std::vector<int64_t> run(const std::vector<int64_t>& ids, const Places& places, const std::vector<int64_t>& keep,
                           const Fused& fused) const {
    const int64_t count = static_cast<int64_t>(ids.size()), hidden = decoder.args.hidden;
    std::vector<float> x(static_cast<size_t>(count * hidden)), logits(ids.size());
    std::vector<int64_t> picked(ids.size());
    source.rows(decoder.table, ids, x.data());
    DecoderArgs a = decoder.args;
    a.layers = decoder.layers.data(), a.num_layers = static_cast<int64_t>(decoder.layers.size());
    a.x = x.data(), a.num_tokens = count;
    a.positions = places.positions.data(), a.slots = places.slots.data();
    a.cache = cache, a.layer_stride = layer_stride, a.layer_scale_stride = layer_scale_stride;
    a.cu_seqlens_q = places.starts.data(), a.context_lens = places.contexts.data();
    a.block_table = places.blocks.data(), a.num_seqs = count, a.max_blocks = places.max_blocks;
    a.fusion_cache = windows, a.window = window;
    a.fusion_tokens = fused.tokens.data(), a.fusion_rows = fused.rows.data();
    a.fusion_valid = fused.valid.data(), a.fusion_positions = fused.positions.data();
    a.num_fused = static_cast<int64_t>(fused.tokens.size());
    a.wanted = nullptr, a.num_wanted = 0;
    decoder.table.decoder_layers(a);
    for (size_t i = 0; i < keep.size(); i++)
      std::copy_n(x.data() + static_cast<int64_t>(i) * hidden, hidden, kept + keep[i] * hidden);
    decoder.table.argmax_head({.x = x.data(),
                               .head = head,
                               .subset = nullptr,
                               .ids = picked.data(),
                               .logits = logits.data(),
                               .rows = count,
                               .in = hidden,
                               .out_features = out_features,
                               .ldx = hidden,
                               .top_k = 1,
                               .subset_size = 0});
    return picked;
  }
};

// Writes text tokens' keys and values of all top layers to their window slots.
struct WindowEntries {
  const KernelTable& kernels;
  Table source;
  PackedWeight product;
  const float* cos_sin;
  float* windows;
  int64_t num_slots, num_layers, num_heads, head_dim;

  void write(const std::vector<int64_t>& ids, const std::vector<int64_t>& slots,
             const std::vector<int32_t>& positions) const {
    const int64_t count = static_cast<int64_t>(ids.size()), out = num_layers * 2 * num_heads * head_dim;
    std::vector<float> x(static_cast<size_t>(count * source.width)), kv(static_cast<size_t>(count * out));
    source.rows(kernels, ids, x.data());
    kernels.linear({.x = x.data(),
                    .weight = product,
                    .residual = nullptr,
                    .out = kv.data(),
                    .rows = count,
                    .in = source.width,
                    .out_features = out,
                    .ldx = source.width,
                    .ldo = out});
    kernels.fusion_cache_write({.kv = kv.data(),
                                .slots = slots.data(),
                                .positions = positions.data(),
                                .cos_sin = cos_sin,
                                .cache = windows,
                                .num_tokens = count,
                                .num_layers = num_layers,
                                .num_heads = num_heads,
                                .head_dim = head_dim});
  }
};

bool lie_within(const std::vector<int64_t>& values, int64_t end) {
  return std::all_of(values.begin(), values.end(), [end](int64_t value) { return value >= 0 && value < end; });
}

}  // namespace

void bind_decode_step(py::module_& m) {
  py::class_<DecodeStep>(m, "DecodeStep", "Rows of a table through a run of layers to a head's likeliest outputs.")
      .def(py::init([](const Decoder& decoder, const TableAddress& source, int64_t num_rows, const WeightAddress& head,
                       int64_t out_features, const CacheAddress& cache, int64_t layer_stride,
                       int64_t layer_scale_stride, Address kept, int64_t num_kept, Address windows, int64_t window) {
             return DecodeStep{decoder,
                               table_at(source, num_rows, decoder.args.hidden),
                               weight_at(head),
                               out_features,
                               paged(cache),
                               layer_stride,
                               layer_scale_stride,
                               at<float>(kept),
                               num_kept,
                               at<float>(windows),
                               window};
           }),
           py::arg("decoder"), py::arg("source"), py::arg("num_rows"), py::arg("head"), py::arg("out_features"),
           py::arg("cache"), py::arg("layer_stride"), py::arg("layer_scale_stride"), py::arg("kept") = 0,
           py::arg("num_kept") = 0, py::arg("windows") = 0, py::arg("window") = 0, py::keep_alive<1, 2>())
      .def(
          "run",
          [](const DecodeStep& step, const py::list& ids, const py::list& positions, const py::list& slots,
             const py::list& block_tables, const py::list& keep, const py::list& fused_tokens,
             const py::list& fused_rows, const py::list& fused_valid) {
            const auto given = numbers<int64_t>(ids), kept = numbers<int64_t>(keep);
            const Places places(positions, slots, block_tables);
            Fused fused{
                numbers<int64_t>(fused_tokens), numbers<int64_t>(fused_rows), numbers<int32_t>(fused_valid), {}};
            check(places.positions.size() == given.size(), "ids and positions differ in number");
            check(lie_within(given, step.source.num_rows), "an id lies outside of its table");
            check(kept.empty() || kept.size() == given.size(), "rows to keep and ids differ in number");
            check(lie_within(kept, step.num_kept), "a row to keep lies outside");
            check(fused.rows.size() == fused.tokens.size() && fused.valid.size() == fused.tokens.size(),
                  "tokens, rows and entries of fusion differ in number");
            check(lie_within(fused.tokens, static_cast<int64_t>(given.size())), "a fused token lies outside");
            for (const int64_t token : fused.tokens)
              fused.positions.push_back(places.positions[static_cast<size_t>(token)]);
            py::gil_scoped_release release;
            return step.run(given, places, kept, fused);
          },
          py::arg("ids"), py::arg("positions"), py::arg("slots"), py::arg("block_tables"), py::arg("keep"),
          py::arg("fused_tokens"), py::arg("fused_rows"), py::arg("fused_valid"));
  py::class_<WindowEntries>(m, "WindowEntries", "Text ids' keys and values of all top layers, for their windows.")
      .def(py::init([](const TableAddress& source, int64_t num_rows, int64_t width, const WeightAddress& product,
                       Address cos_sin, Address windows, int64_t num_slots, int64_t num_layers, int64_t num_heads,
                       int64_t head_dim) {
             return WindowEntries{pick(""),
                                  table_at(source, num_rows, width),
                                  weight_at(product),
                                  at<float>(cos_sin),
                                  at<float>(windows),
                                  num_slots,
                                  num_layers,
                                  num_heads,
                                  head_dim};
           }),
           py::arg("source"), py::arg("num_rows"), py::arg("width"), py::arg("product"), py::arg("cos_sin"),
           py::arg("windows"), py::arg("num_slots"), py::arg("num_layers"), py::arg("num_heads"), py::arg("head_dim"))
      .def(
          "write",
          [](const WindowEntries& entries, const py::list& ids, const py::list& slots, const py::list& positions) {
            const auto given = numbers<int64_t>(ids), places = numbers<int64_t>(slots);
            const auto at_positions = numbers<int32_t>(positions);
            check(places.size() == given.size() && at_positions.size() == given.size(),
                  "ids, slots and positions differ in number");
            check(lie_within(given, entries.source.num_rows), "an id lies outside of its table");
            check(lie_within(places, entries.num_slots), "a slot lies outside of the windows");
            py::gil_scoped_release release;
            entries.write(given, places, at_positions);
          },
          py::arg("ids"), py::arg("slots"), py::arg("positions"));
}

}  // namespace antiphon
