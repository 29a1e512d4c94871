// Thin binding of the kernel table: addresses come in as integers, the Python wrappers own the checks.
#include <pybind11/stl.h>
#include <sys/mman.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.h"
#include "kernels.h"
#include "pool.h"

namespace py = pybind11;

namespace antiphon {
namespace {

PagedCache paged(Address key, Address value, int64_t block_stride, int64_t row_stride, int32_t block_size) {
  return {at<float>(key), at<float>(value), block_stride, row_stride, block_size};
}

struct Decoder {
  const KernelTable& table;
  std::vector<DecoderLayer> layers;
  DecoderArgs args;  // what does not change between calls
};

}  // namespace

const KernelTable& pick(const std::string& isa) {
  const KernelTable* table = kernels(isa.c_str());
  if (!table) throw std::invalid_argument("isa: this machine cannot run '" + isa + "'");
  return *table;
}

void bind_kernels(py::module_& m) {
  m.def("best_isa", &best_isa, "The best instruction set of this machine: avx512, avx2 or plain.");

  m.def("set_num_threads", &set_num_threads, py::arg("count"), "Threads of later kernels, the caller included.");
  m.def("num_threads", &num_threads);

  m.def(
      "advise_huge_pages",
      [](Address begin, int64_t size) {
        // whole huge pages within; elsewhere, and where the system has none to give, nothing changes
        constexpr Address huge = 2 << 20;
        const Address first = (begin + huge - 1) / huge * huge, last = (begin + size) / huge * huge;
        if (first < last) madvise(at<void>(first), last - first, MADV_HUGEPAGE);
      },
      py::arg("begin"), py::arg("size"),
      "Asks for huge pages for memory that has not been written to; a hint, which may do nothing.");

  m.def(
      "linear",
      [](Address x, Address weight, Address residual, Address out, int64_t rows, int64_t in, int64_t out_features,
         int64_t ldx, int64_t ldo, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.linear({at<float>(x), at<float>(weight), at<float>(residual), at<float>(out), rows, in, out_features,
                      ldx, ldo});
      },
      py::arg("x"), py::arg("weight"), py::arg("residual"), py::arg("out"), py::arg("rows"), py::arg("in_features"),
      py::arg("out_features"), py::arg("ldx"), py::arg("ldo"), py::arg("isa") = "");

  m.def(
      "paged_attention",
      [](Address q, int64_t ldq, Address key, Address value, int64_t block_stride, int64_t row_stride,
         int32_t block_size, Address cu_seqlens_q, Address context_lens, Address block_table, int64_t num_seqs,
         int64_t max_blocks, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, float scale, Address out,
         const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.paged_attention({at<float>(q), paged(key, value, block_stride, row_stride, block_size),
                               at<int32_t>(cu_seqlens_q), at<int32_t>(context_lens), at<int32_t>(block_table),
                               at<float>(out), num_seqs, max_blocks, num_heads, num_kv_heads, head_dim, ldq, scale, nullptr, 0});
      },
      py::arg("q"), py::arg("ldq"), py::arg("key"), py::arg("value"), py::arg("block_stride"), py::arg("row_stride"),
      py::arg("block_size"), py::arg("cu_seqlens_q"), py::arg("context_lens"), py::arg("block_table"),
      py::arg("num_seqs"), py::arg("max_blocks"), py::arg("num_heads"), py::arg("num_kv_heads"), py::arg("head_dim"),
      py::arg("scale"), py::arg("out"), py::arg("isa") = "");

  m.def(
      "rope_cache_write",
      [](Address qkv, Address positions, Address cos_sin, Address slots, Address key, Address value,
         int64_t block_stride, int64_t row_stride, int32_t block_size, int64_t num_tokens, int64_t num_heads,
         int64_t num_kv_heads, int64_t head_dim, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.rope_cache_write({at<float>(qkv), at<int32_t>(positions), at<float>(cos_sin), at<int64_t>(slots),
                                paged(key, value, block_stride, row_stride, block_size), num_tokens, num_heads,
                                num_kv_heads, head_dim});
      },
      py::arg("qkv"), py::arg("positions"), py::arg("cos_sin"), py::arg("slots"), py::arg("key"), py::arg("value"),
      py::arg("block_stride"), py::arg("row_stride"), py::arg("block_size"), py::arg("num_tokens"),
      py::arg("num_heads"), py::arg("num_kv_heads"), py::arg("head_dim"), py::arg("isa") = "");

  m.def(
      "fusion_attention",
      [](Address q, Address key, Address value, Address rows, Address num_valid, Address positions, Address cos_sin,
         Address out, int64_t num_tokens, int64_t num_heads, int64_t head_dim, int64_t row_stride,
         int64_t entry_stride, float scale, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.fusion_attention({at<float>(q), at<float>(key), at<float>(value), at<int64_t>(rows),
                                at<int32_t>(num_valid), at<int32_t>(positions), at<float>(cos_sin), at<float>(out),
                                num_tokens, num_heads, head_dim, row_stride, entry_stride, scale});
      },
      py::arg("q"), py::arg("key"), py::arg("value"), py::arg("rows"), py::arg("num_valid"), py::arg("positions"),
      py::arg("cos_sin"), py::arg("out"), py::arg("num_tokens"), py::arg("num_heads"),
      py::arg("head_dim"), py::arg("row_stride"), py::arg("entry_stride"), py::arg("scale"), py::arg("isa") = "");

  m.def(
      "fusion_cache_write",
      [](Address kv, Address slots, Address positions, Address cos_sin, Address cache, int64_t num_tokens,
         int64_t num_layers, int64_t num_heads, int64_t head_dim, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.fusion_cache_write({at<float>(kv), at<int64_t>(slots), at<int32_t>(positions), at<float>(cos_sin),
                                  at<float>(cache), num_tokens, num_layers, num_heads, head_dim});
      },
      py::arg("kv"), py::arg("slots"), py::arg("positions"), py::arg("cos_sin"), py::arg("cache"),
      py::arg("num_tokens"), py::arg("num_layers"), py::arg("num_heads"), py::arg("head_dim"), py::arg("isa") = "");

  py::class_<Decoder>(m, "Decoder", "A run of decoder layers whose weights stay where they are.")
      .def(py::init([](const std::vector<std::vector<Address>>& layers, int64_t hidden, int64_t intermediate,
                       int64_t num_heads, int64_t num_kv_heads, int64_t head_dim, float eps, Address cos_sin,
                       Address final_norm, const std::string& isa) {
             Decoder decoder{pick(isa), {}, {}};
             for (const auto& p : layers) {
               if (p.size() != 8) throw std::invalid_argument("Decoder: a layer is eight addresses");
               decoder.layers.push_back({at<float>(p[0]), at<float>(p[1]), at<float>(p[2]), at<float>(p[3]),
                                         at<float>(p[4]), at<float>(p[5]), at<float>(p[6]), at<float>(p[7])});
             }
             DecoderArgs& a = decoder.args;
             a.hidden = hidden, a.intermediate = intermediate;
             a.num_heads = num_heads, a.num_kv_heads = num_kv_heads, a.head_dim = head_dim;
             a.eps = eps, a.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
             a.cos_sin = at<float>(cos_sin), a.final_norm = at<float>(final_norm);
             return decoder;
           }),
           py::arg("layers"), py::arg("hidden"), py::arg("intermediate"), py::arg("num_heads"),
           py::arg("num_kv_heads"), py::arg("head_dim"), py::arg("eps"), py::arg("cos_sin"), py::arg("final_norm"), py::arg("isa") = "")
      .def(
          "run",
          [](const Decoder& decoder, Address x, int64_t num_tokens, Address positions, Address slots, Address key,
             Address value, int64_t block_stride, int64_t row_stride, int32_t block_size, int64_t layer_stride,
             Address cu_seqlens_q, Address context_lens, Address block_table, int64_t num_seqs, int64_t max_blocks,
             Address fusion_cache, Address fusion_tokens, Address fusion_rows, Address fusion_valid,
             Address fusion_positions, int64_t num_fused, int64_t window, Address wanted, int64_t num_wanted) {
            DecoderArgs a = decoder.args;
            a.layers = decoder.layers.data(), a.num_layers = static_cast<int64_t>(decoder.layers.size());
            a.x = at<float>(x), a.num_tokens = num_tokens;
            a.positions = at<int32_t>(positions), a.slots = at<int64_t>(slots);
            a.cache = paged(key, value, block_stride, row_stride, block_size), a.layer_stride = layer_stride;
            a.cu_seqlens_q = at<int32_t>(cu_seqlens_q), a.context_lens = at<int32_t>(context_lens);
            a.block_table = at<int32_t>(block_table), a.num_seqs = num_seqs, a.max_blocks = max_blocks;
            a.fusion_cache = at<float>(fusion_cache), a.fusion_tokens = at<int64_t>(fusion_tokens);
            a.fusion_rows = at<int64_t>(fusion_rows), a.fusion_valid = at<int32_t>(fusion_valid);
            a.fusion_positions = at<int32_t>(fusion_positions), a.num_fused = num_fused, a.window = window;
            a.wanted = at<int64_t>(wanted), a.num_wanted = num_wanted;
            py::gil_scoped_release release;
            decoder.table.decoder_layers(a);
          },
          py::arg("x"), py::arg("num_tokens"), py::arg("positions"), py::arg("slots"), py::arg("key"),
          py::arg("value"), py::arg("block_stride"), py::arg("row_stride"), py::arg("block_size"),
          py::arg("layer_stride"), py::arg("cu_seqlens_q"), py::arg("context_lens"), py::arg("block_table"),
          py::arg("num_seqs"), py::arg("max_blocks"), py::arg("fusion_cache") = 0, py::arg("fusion_tokens") = 0,
          py::arg("fusion_rows") = 0, py::arg("fusion_valid") = 0, py::arg("fusion_positions") = 0,
          py::arg("num_fused") = 0, py::arg("window") = 0, py::arg("wanted") = 0, py::arg("num_wanted") = 0);

  m.def(
      "rms_norm_residual",
      [](Address x, Address residual, Address weight, Address out, Address total, int64_t rows, int64_t size,
         float eps, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.rms_norm_residual(at<float>(x), at<float>(residual), at<float>(weight), at<float>(out),
                                at<float>(total), rows, size, eps);
      },
      py::arg("x"), py::arg("residual"), py::arg("weight"), py::arg("out"), py::arg("total"), py::arg("rows"),
      py::arg("size"), py::arg("eps"), py::arg("isa") = "");

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
      "silu_mul",
      [](Address gate_up, Address out, int64_t rows, int64_t size, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.silu_mul(at<float>(gate_up), at<float>(out), rows, size);
      },
      py::arg("gate_up"), py::arg("out"), py::arg("rows"), py::arg("size"), py::arg("isa") = "");

  m.def(
      "argmax",
      [](Address x, Address out, int64_t rows, int64_t size, const std::string& isa) {
        const KernelTable& table = pick(isa);
        py::gil_scoped_release release;
        table.argmax(at<float>(x), at<int64_t>(out), rows, size);
      },
      py::arg("x"), py::arg("out"), py::arg("rows"), py::arg("size"), py::arg("isa") = "");
}

}  // namespace antiphon
