// The CPU kernels without Python, for sanitizers: each op at odd sizes against plain loops, for every instruction set
// and several numbers of threads. All memory is of exact size, so that any access out of bounds is noticed.
//
//   kernels_test [isa ...]   only these instruction sets; the exit status is 1 if a result is wrong
#include "kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "pool.h"
#include "sample.h"
#include "testing.h"

namespace {

// Random panels in a format, as they are read and as the float32 numbers that they stand for.
struct Shortened {
  std::vector<uint8_t> bytes;
  std::vector<uint16_t> halves;
  Floats wide, scales;
  Format format;

  Shortened(Format format, int64_t in, int64_t out) : format(format) {
    const int64_t panels = (out + kPanel - 1) / kPanel;
    for (int64_t i = 0; i < panels * in * kPanel; i++) {
      const uint32_t bits = static_cast<uint32_t>(generator());
      if (format == Format::kInt8) {
        bytes.push_back(static_cast<uint8_t>(bits));
        wide.push_back(static_cast<int8_t>(bits));
        continue;
      }
      // not infinite
      const uint32_t half = bits & 0xbfff, fraction = half & 0x3ff;
      halves.push_back(static_cast<uint16_t>(half));
      if (format == Format::kBfloat16) {
        const uint32_t word = half << 16;
        float value;
        std::memcpy(&value, &word, sizeof value);
        wide.push_back(value);
      } else {
        const int exponent = static_cast<int>(half >> 10 & 31);
        const float size = exponent ? std::ldexp(1024.0f + static_cast<float>(fraction), exponent - 25)
                                    : std::ldexp(static_cast<float>(fraction), -24);
        wide.push_back(half & 0x8000 ? -size : size);
      }
    }
    for (int64_t i = 0; i < panels * kPanel && format == Format::kInt8; i++) scales.push_back(0.01f * (i % 7 + 1));
  }
  PackedWeight weight() const {
    const void* data = format == Format::kInt8 ? static_cast<const void*>(bytes.data()) : halves.data();
    return {data, scales.empty() ? nullptr : scales.data(), format};
  }
};

void rotate(float* x, int64_t head_dim, int32_t position, const Floats& table) {
  const int64_t half = head_dim / 2;
  const float* angles = table.data() + position * head_dim;
  for (int64_t i = 0; i < half; i++) {
    const float a = x[i], b = x[half + i];
    x[i] = a * angles[i] - b * angles[half + i];
    x[half + i] = b * angles[i] + a * angles[half + i];
  }
}

// softmax(q . keys * scale) values, for one head; keys and values lie `stride` apart
void attend(const float* q, const std::vector<const float*>& keys, const std::vector<const float*>& values,
            int64_t head_dim, float* out) {
  std::vector<double> weights(keys.size());
  double top = -1e30, total = 0;
  for (size_t k = 0; k < keys.size(); k++) {
    for (int64_t d = 0; d < head_dim; d++) weights[k] += static_cast<double>(q[d]) * keys[k][d];
    weights[k] /= std::sqrt(static_cast<double>(head_dim));
    top = std::max(top, weights[k]);
  }
  for (double& weight : weights) total += weight = std::exp(weight - top);
  for (int64_t d = 0; d < head_dim; d++) {
    double sum = 0;
    for (size_t k = 0; k < keys.size(); k++) sum += weights[k] / total * values[k][d];
    out[d] = static_cast<float>(sum);
  }
}

void test_linear(const KernelTable& table) {
  for (int64_t rows : {0, 1, 5, 13, 97, 200})
    for (int64_t in : {1, 7, 128, 300})
      for (int64_t out : {1, 31, 33, 160}) {
        const Floats x = randn(rows * in), weight = randn(out * in), residual = randn(rows * out);
        const Floats panels = packed(weight, in, out);
        Floats y(rows * out), expected = product(x, weight, rows, in, out);
        table.linear({x.data(), in_float32(panels), nullptr, y.data(), rows, in, out, in, out});
        check_near(y, expected, "linear");
        for (size_t i = 0; i < expected.size(); i++) expected[i] += residual[i];
        table.linear({x.data(), in_float32(panels), residual.data(), y.data(), rows, in, out, in, out});
        check_near(y, expected, "linear with a residual");
      }
}

// To the last bit what the widened weights give.
void test_formats(const KernelTable& table) {
  for (const Format format : {Format::kBfloat16, Format::kFloat16, Format::kInt8})
    for (int64_t rows : {1, 5, 13, 97})
      for (int64_t in : {1, 130, 300})
        for (int64_t out : {1, 33, 160}) {
          const Floats x = randn(rows * in);
          const Shortened shortened(format, in, out);
          Floats y(rows * out), expected(rows * out);
          table.linear({x.data(), shortened.weight(), nullptr, y.data(), rows, in, out, in, out});
          table.linear({x.data(), in_float32(shortened.wide), nullptr, expected.data(), rows, in, out, in, out});
          for (int64_t i = 0; i < rows * out && format == Format::kInt8; i++) expected[i] *= shortened.scales[i % out];
          check(y == expected, "linear in fewer bits");
        }
}

void test_rows(const KernelTable& table) {
  for (int64_t rows : {0, 1, 9, 300})
    for (int64_t size : {1, 3, 16, 33, 260}) {
      const Floats x = randn(rows * size), residual = randn(rows * size), weight = randn(size);
      Floats out(rows * size), total(rows * size), sums(rows * size), expected(rows * size);
      const auto norm = [&](const Floats& from) {
        for (int64_t r = 0; r < rows; r++) {
          double squares = 0;
          for (int64_t i = 0; i < size; i++) squares += static_cast<double>(from[r * size + i]) * from[r * size + i];
          for (int64_t i = 0; i < size; i++)
            expected[r * size + i] =
                static_cast<float>(from[r * size + i] / std::sqrt(squares / size + 1e-5) * weight[i]);
        }
      };
      norm(x);
      table.rms_norm(x.data(), weight.data(), out.data(), rows, size, 1e-5f);
      check_near(out, expected, "rms_norm");
      for (size_t i = 0; i < x.size(); i++) sums[i] = x[i] + residual[i];
      norm(sums);
      table.rms_norm_residual(x.data(), residual.data(), weight.data(), out.data(), total.data(), rows, size, 1e-5f);
      check_near(out, expected, "rms_norm_residual");
      check(total == sums, "rms_norm_residual's sum");

      const Floats gate_up = randn(rows * 2 * size, 5);
      table.silu_mul(gate_up.data(), out.data(), rows, size);
      for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < size; i++) {
          const double gate = gate_up[r * 2 * size + i], up = gate_up[(r * 2 + 1) * size + i];
          expected[r * size + i] = static_cast<float>(gate / (1 + std::exp(-gate)) * up);
        }
      check_near(out, expected, "silu_mul");

      std::vector<int64_t> ids(rows);
      table.argmax(x.data(), ids.data(), rows, size);
      for (int64_t r = 0; r < rows; r++)
        check(ids[r] == std::max_element(&x[r * size], &x[r * size] + size) - &x[r * size], "argmax");
    }
}

void test_heads(const KernelTable& table) {
  for (int64_t rows : {1, 20, 100})
    for (int64_t in : {7, 130})
      for (int64_t vocab : {3, 70, 1100}) {
        const Floats x = randn(rows * in, 0.3f), head = randn(vocab * in, 0.3f), embedding = randn(vocab * in);
        const Floats panels = packed(head, in, vocab), logits = product(x, head, rows, in, vocab);
        for (const bool has_subset : {false, true}) {
          std::vector<int64_t> subset;
          for (int64_t id = vocab - 1; id >= 0; id -= has_subset ? 2 : 1) subset.push_back(id);
          const int64_t top_k = std::min<int64_t>(5, static_cast<int64_t>(subset.size()));
          std::vector<int64_t> ids(rows * top_k);
          Floats best(rows * top_k);
          table.argmax_head({x.data(), in_float32(panels), has_subset ? subset.data() : nullptr, ids.data(),
                             best.data(), rows, in, vocab, in, top_k, static_cast<int64_t>(subset.size())});
          for (int64_t r = 0; r < rows; r++) {
            std::vector<float> sorted;
            for (int64_t id : subset) sorted.push_back(logits[r * vocab + id]);
            std::sort(sorted.begin(), sorted.end(), std::greater<float>());
            for (int64_t k = 0; k < top_k; k++) {
              const int64_t id = ids[r * top_k + k];
              check(id >= 0 && id < vocab, "argmax_head's ids");
              check(std::fabs(best[r * top_k + k] - sorted[k]) < 1e-3f, "argmax_head's logits");
              check(std::fabs(logits[r * vocab + id] - sorted[k]) < 1e-3f, "argmax_head");
            }
          }
        }
        Floats out(rows * in), expected(rows * in);
        std::vector<int64_t> labels(rows);
        table.soft_embedding({x.data(), in_float32(panels), embedding.data(), Format::kFloat32, nullptr, out.data(),
                              labels.data(), rows, in, vocab, in, in, in});
        for (int64_t r = 0; r < rows; r++) {
          double total = 0;
          std::vector<double> sums(in);
          for (int64_t id = 0; id < vocab; id++) {
            const double weight = std::exp(static_cast<double>(logits[r * vocab + id]));
            total += weight;
            for (int64_t i = 0; i < in; i++) sums[i] += weight * embedding[id * in + i];
          }
          for (int64_t i = 0; i < in; i++) expected[r * in + i] = static_cast<float>(sums[i] / total);
        }
        check_near(out, expected, "soft_embedding");
      }
}

// Sequences of a paged cache: blocks in any order, the last ones shorter than their blocks.
struct Paged {
  int64_t kv_heads, head_dim, block_size, max_blocks = 0;
  std::vector<int32_t> lens, starts{0}, positions, table;
  std::vector<int64_t> slots;
  Floats storage, scales;
  std::vector<int8_t> bytes;
  PagedCache cache;

  // queries: the last ones of each sequence
  Paged(const std::vector<int>& lengths, const std::vector<int>& queries, int64_t kv_heads, int64_t head_dim,
        int64_t block_size)
      : kv_heads(kv_heads), head_dim(head_dim), block_size(block_size) {
    for (int length : lengths) max_blocks = std::max(max_blocks, (length + block_size - 1) / block_size);
    const int64_t width = kv_heads * head_dim, blocks = max_blocks * static_cast<int64_t>(lengths.size());
    storage = randn(blocks * 2 * block_size * width);
    cache = {storage.data(), storage.data() + block_size * width, 2 * block_size * width, width,
             static_cast<int32_t>(block_size)};
    for (int64_t i = 0; i < blocks; i++) table.push_back(static_cast<int32_t>(i));
    std::shuffle(table.begin(), table.end(), generator);
    for (size_t s = 0; s < lengths.size(); s++) {
      lens.push_back(lengths[s]);
      starts.push_back(starts.back() + queries[s]);
      for (int p = lengths[s] - queries[s]; p < lengths[s]; p++) {
        positions.push_back(p);
        slots.push_back(table[s * max_blocks + p / block_size] * block_size + p % block_size);
      }
    }
  }
  // The same in int8, of which this one becomes the copy in float32
  PagedCache in_int8() {
    const int64_t blocks = static_cast<int64_t>(table.size());
    bytes.resize(storage.size()), scales.resize(blocks * 2 * kv_heads * block_size);
    for (size_t i = 0; i < storage.size(); i++)
      bytes[i] = static_cast<int8_t>(std::max(-127.0f, std::min(127.0f, std::round(storage[i] * 40))));
    for (float& scale : scales) scale = 0.01f * static_cast<float>(1 + generator() % 5);
    PagedCache found = cache;
    found.key = bytes.data(), found.value = bytes.data() + block_size * kv_heads * head_dim;
    found.key_scales = scales.data(), found.value_scales = scales.data() + kv_heads * block_size;
    found.scale_stride = 2 * kv_heads * block_size;
    for (int64_t i = 0; i < static_cast<int64_t>(storage.size()); i++) {
      const int64_t head = i / head_dim % kv_heads, offset = i / head_dim / kv_heads % block_size;
      const int64_t half = i / (block_size * kv_heads * head_dim);  // keys of block 0, values of block 0 ...
      storage[i] = bytes[i] * scales[(half * kv_heads + head) * block_size + offset];
    }
    return found;
  }
  int64_t tokens() const { return starts.back(); }
  int64_t num_seqs() const { return static_cast<int64_t>(lens.size()); }
  const float* at(const void* base, int64_t seq, int64_t position, int64_t head) const {
    const int64_t block = table[seq * max_blocks + position / block_size];
    return static_cast<const float*>(base) + block * cache.block_stride + position % block_size * cache.row_stride +
           head * head_dim;
  }
  Floats attention(const Floats& q, int64_t heads) const {
    Floats out(tokens() * heads * head_dim);
    for (int64_t s = 0; s < num_seqs(); s++)
      for (int64_t t = starts[s]; t < starts[s + 1]; t++)
        for (int64_t h = 0; h < heads; h++) {
          std::vector<const float*> keys, values;
          for (int64_t p = 0; p <= positions[t]; p++) {
            keys.push_back(at(cache.key, s, p, h / (heads / kv_heads)));
            values.push_back(at(cache.value, s, p, h / (heads / kv_heads)));
          }
          attend(&q[(t * heads + h) * head_dim], keys, values, head_dim, &out[(t * heads + h) * head_dim]);
        }
    return out;
  }
};

void test_attention(const KernelTable& table) {
  const std::vector<std::vector<int>> lengths = {{1}, {70}, {9, 40, 3}, {5, 80, 2, 30, 17, 1, 33, 8, 64}};
  for (int64_t block_size : {1, 4, 16})
    for (int64_t head_dim : {2, 20, 64})
      for (const auto& of : lengths)
        for (const bool decodes : {true, false}) {
          const int64_t kv_heads = 2, heads = 6, tokens_of = heads * head_dim;
          std::vector<int> queries(of.size(), 1);
          for (size_t i = 0; i < of.size() && !decodes; i++) queries[i] = i % 2 ? 1 : of[i];
          Paged paged(of, queries, kv_heads, head_dim, block_size);
          const Floats q = randn(paged.tokens() * tokens_of);
          Floats out(q.size());
          table.paged_attention({q.data(), paged.cache, paged.starts.data(), paged.lens.data(), paged.table.data(),
                                 out.data(), paged.num_seqs(), paged.max_blocks, heads, kv_heads, head_dim, tokens_of,
                                 1 / std::sqrt(static_cast<float>(head_dim)), nullptr, 0});
          check_near(out, paged.attention(q, heads), "paged_attention");
          const PagedCache cache = paged.in_int8();
          table.paged_attention({q.data(), cache, paged.starts.data(), paged.lens.data(), paged.table.data(),
                                 out.data(), paged.num_seqs(), paged.max_blocks, heads, kv_heads, head_dim, tokens_of,
                                 1 / std::sqrt(static_cast<float>(head_dim)), nullptr, 0});
          check_near(out, paged.attention(q, heads), "paged_attention in int8");
        }
}

void test_int8_write(const KernelTable& table, Paged& paged, const Floats& angles, int64_t heads) {
  const int64_t kv_heads = paged.kv_heads, head_dim = paged.head_dim, width = (heads + 2 * kv_heads) * head_dim;
  const PagedCache cache = paged.in_int8();
  const std::vector<int8_t> before = paged.bytes;
  Floats qkv = randn(paged.tokens() * width), expected = qkv;
  table.rope_cache_write({qkv.data(), paged.positions.data(), angles.data(), paged.slots.data(), cache, paged.tokens(),
                          heads, kv_heads, head_dim});
  for (int64_t t = 0; t < paged.tokens(); t++) {
    if (paged.slots[t] < 0) continue;
    const int64_t block = paged.slots[t] / paged.block_size, offset = paged.slots[t] % paged.block_size;
    for (int64_t h = 0; h < 2 * kv_heads; h++) {
      float* row = &expected[t * width + (heads + h) * head_dim];
      const bool is_key = h < kv_heads;
      if (is_key) rotate(row, head_dim, paged.positions[t], angles);
      const int8_t* found = static_cast<const int8_t*>(is_key ? cache.key : cache.value) + block * cache.block_stride +
                            offset * cache.row_stride + h % kv_heads * head_dim;
      const float* scales = is_key ? cache.key_scales : cache.value_scales;
      const float scale = scales[block * cache.scale_stride + h % kv_heads * paged.block_size + offset];
      for (int64_t d = 0; d < head_dim; d++)
        check(std::fabs(static_cast<float>(found[d]) * scale - row[d]) <= 0.501f * scale, "rope_cache_write in int8");
    }
  }
  const int64_t unwritten = paged.table[0] * cache.block_stride + cache.row_stride;  // whose slot is -1
  check(paged.bytes[unwritten] == before[unwritten], "rope_cache_write's padding in int8");
}

void test_rope(const KernelTable& table) {
  for (int64_t head_dim : {2, 20, 64}) {
    const int64_t heads = 3, kv_heads = 2, width = (heads + 2 * kv_heads) * head_dim;
    Paged paged({60, 7}, {60, 3}, kv_heads, head_dim, 4);
    const Floats angles = randn(60 * head_dim);
    Floats qkv = randn(paged.tokens() * width), expected = qkv;
    paged.slots[1] = -1;
    const Floats before = paged.storage;
    table.rope_cache_write({qkv.data(), paged.positions.data(), angles.data(), paged.slots.data(), paged.cache,
                            paged.tokens(), heads, kv_heads, head_dim});
    for (int64_t s = 0; s < 2; s++)
      for (int64_t t = paged.starts[s]; t < paged.starts[s + 1]; t++) {
        float* row = &expected[t * width];
        for (int64_t h = 0; h < heads + kv_heads; h++) rotate(row + h * head_dim, head_dim, paged.positions[t], angles);
        for (int64_t h = 0; h < kv_heads && paged.slots[t] >= 0; h++)
          for (int64_t d = 0; d < head_dim; d++) {
            const float* key = paged.at(paged.cache.key, s, paged.positions[t], h);
            const float* value = paged.at(paged.cache.value, s, paged.positions[t], h);
            check(std::fabs(key[d] - row[(heads + h) * head_dim + d]) < 1e-4f, "rope_cache_write's keys");
            check(value[d] == row[(heads + kv_heads + h) * head_dim + d], "rope_cache_write's values");
          }
        for (int64_t i = 0; i < heads * head_dim; i++)
          check(std::fabs(qkv[t * width + i] - row[i]) < 1e-4f, "rope_cache_write's queries");
      }
    const float* unwritten = paged.at(paged.cache.key, 0, 1, 0);
    check(*unwritten == before[unwritten - paged.storage.data()], "rope_cache_write's padding");
    test_int8_write(table, paged, angles, heads);
  }
}

void test_fusion(const KernelTable& table) {
  for (int64_t head_dim : {2, 20, 64})
    for (int64_t tokens : {0, 1, 50}) {
      const int64_t heads = 4, width = heads * head_dim, window = 6, rows = 7;
      const Floats q = randn(tokens * width), key = randn(rows * window * width), value = randn(rows * window * width);
      const Floats angles = randn(10 * head_dim);
      std::vector<int64_t> row(tokens);
      std::vector<int32_t> valid(tokens), positions(tokens);
      for (int64_t t = 0; t < tokens; t++)
        row[t] = t % rows, valid[t] = static_cast<int32_t>(t % (window + 1)),
        positions[t] = static_cast<int32_t>(t % 10);
      Floats out(tokens * width), expected(tokens * width);
      table.fusion_attention({q.data(), key.data(), value.data(), row.data(), valid.data(), positions.data(),
                              angles.data(), out.data(), tokens, heads, head_dim, window * width, width,
                              1 / std::sqrt(static_cast<float>(head_dim))});
      Floats turned = q;
      for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++) {
          rotate(&turned[t * width + h * head_dim], head_dim, positions[t], angles);
          std::vector<const float*> keys, values;
          for (int64_t w = 0; w < valid[t]; w++) {
            keys.push_back(&key[(row[t] * window + w) * width + h * head_dim]);
            values.push_back(&value[(row[t] * window + w) * width + h * head_dim]);
          }
          attend(&turned[t * width + h * head_dim], keys, values, head_dim, &expected[t * width + h * head_dim]);
        }
      check_near(out, expected, "fusion_attention");

      const int64_t layers = 2, entries = 60;
      const Floats kv = randn(tokens * layers * 2 * width);
      Floats cache(entries * layers * 2 * width), right = cache;
      std::vector<int64_t> slots(tokens);
      for (int64_t t = 0; t < tokens; t++) slots[t] = entries - 1 - t;
      table.fusion_cache_write(
          {kv.data(), slots.data(), positions.data(), angles.data(), cache.data(), tokens, layers, heads, head_dim});
      for (int64_t t = 0; t < tokens; t++)
        for (int64_t part = 0; part < layers * 2; part++) {
          float* to = &right[(slots[t] * layers * 2 + part) * width];
          std::memcpy(to, &kv[(t * layers * 2 + part) * width], sizeof(float) * width);
          for (int64_t h = 0; h < heads && part % 2 == 0; h++)
            rotate(to + h * head_dim, head_dim, positions[t], angles);
        }
      check_near(cache, right, "fusion_cache_write");
    }
}

// The same rows together and one by one; the sums themselves are tested above.
void test_decoder(const KernelTable& table) {
  const int64_t heads = 4, kv_heads = 2, head_dim = 10, hidden = 40, intermediate = 70, layers = 2;
  const int64_t width = heads * head_dim, qkv = width + 2 * kv_heads * head_dim, window = 3, tokens = 130;
  const auto weight = [](int64_t in, int64_t out) { return packed(randn(out * in, 0.1f), in, out); };
  std::vector<std::vector<Floats>> weights;
  std::vector<DecoderLayer> stack;
  for (int64_t i = 0; i < layers; i++) {
    weights.push_back({randn(hidden), weight(hidden, qkv), weight(width, hidden), randn(hidden),
                       weight(hidden, 2 * intermediate), weight(intermediate, hidden), weight(hidden, width),
                       weight(width, hidden)});
    const auto& w = weights.back();
    stack.push_back({w[0].data(), w[3].data(), in_float32(w[1]), in_float32(w[2]), in_float32(w[4]), in_float32(w[5]),
                     in_float32(w[6]), in_float32(w[7])});
  }
  const Floats norm = randn(hidden), angles = randn(tokens * head_dim), x = randn(tokens * hidden);
  const Floats windows = randn(2 * window * layers * 2 * width);
  const auto run = [&](const std::vector<int>& cuts, const std::vector<int64_t>& wanted) {
    Paged whole({static_cast<int>(tokens)}, {static_cast<int>(tokens)}, kv_heads, head_dim, 4);
    Floats storage(whole.storage.size() * layers), out;
    for (size_t c = 0; c + 1 < cuts.size(); c++) {
      const int begin = cuts[c], end = cuts[c + 1];
      Floats part(x.begin() + begin * hidden, x.begin() + end * hidden);
      const std::vector<int32_t> positions(whole.positions.begin() + begin, whole.positions.begin() + end);
      std::vector<int64_t> slots;
      for (int p = begin; p < end; p++) slots.push_back(p);
      std::vector<int32_t> starts = {0, end - begin}, lens = {end}, blocks;
      for (int64_t b = 0; b < whole.max_blocks; b++) blocks.push_back(static_cast<int32_t>(b));
      std::vector<int64_t> fused, rows;
      std::vector<int32_t> valid, places;
      for (int p = begin; p < end; p++)
        if (p % 3 == 2) fused.push_back(p - begin), rows.push_back(p % 2), valid.push_back(p % 4), places.push_back(p);
      DecoderArgs a = {};
      a.x = part.data(), a.layers = stack.data(), a.final_norm = norm.data(), a.num_layers = layers;
      a.num_tokens = end - begin, a.hidden = hidden, a.intermediate = intermediate;
      a.num_heads = heads, a.num_kv_heads = kv_heads, a.head_dim = head_dim, a.eps = 1e-5f, a.scale = 0.3f;
      a.positions = positions.data(), a.cos_sin = angles.data(), a.slots = slots.data();
      a.layer_stride = 2 * 4 * kv_heads * head_dim;
      a.cache = {storage.data(), storage.data() + 4 * kv_heads * head_dim, layers * a.layer_stride, kv_heads * head_dim,
                 4};
      a.cu_seqlens_q = starts.data(), a.context_lens = lens.data(), a.block_table = blocks.data();
      a.num_seqs = 1, a.max_blocks = whole.max_blocks;
      a.fusion_cache = windows.data(), a.fusion_tokens = fused.data(), a.fusion_rows = rows.data();
      a.fusion_valid = valid.data(), a.fusion_positions = places.data();
      a.num_fused = static_cast<int64_t>(fused.size()), a.window = window;
      if (!wanted.empty()) a.wanted = wanted.data(), a.num_wanted = static_cast<int64_t>(wanted.size());
      table.decoder_layers(a);
      out.insert(out.end(), part.begin(), part.begin() + (wanted.empty() ? end - begin : a.num_wanted) * hidden);
    }
    return out;
  };
  const int last = static_cast<int>(tokens);
  std::vector<int> singly;
  for (int p = 0; p <= last; p++) singly.push_back(p);
  const Floats together = run({0, last}, {});
  check(run({0, 1, 97, last}, {}) == together, "decoder_layers in chunks");
  check(run(singly, {}) == together, "decoder_layers one by one");
  const Floats some = run({0, last}, {2, 5, 129});
  for (int64_t i = 0; i < 3; i++) {
    const int64_t row = i == 0 ? 2 : i == 1 ? 5 : 129;
    check(std::equal(some.begin() + i * hidden, some.begin() + (i + 1) * hidden, together.begin() + row * hidden),
          "decoder_layers of wanted rows");
  }
}

void test_ctc(const KernelTable& table) {
  for (const std::vector<int>& lengths : {std::vector<int>{}, {0}, {1}, {40, 0, 3, 17}, {70000, 3, 80001}}) {
    std::vector<int32_t> bounds = {0}, prev;
    for (int length : lengths) bounds.push_back(bounds.back() + length), prev.push_back(length % 3);
    const int32_t total = bounds.back();
    std::vector<int32_t> labels(total), ids(total), frames(total), cu_out(bounds.size()), last(lengths.size());
    for (int32_t& label : labels) label = static_cast<int32_t>(generator() % 3);
    const int32_t found =
        table.ctc_collapse({labels.data(), bounds.data(), prev.data(), ids.data(), frames.data(), cu_out.data(),
                            last.data(), static_cast<int64_t>(lengths.size()), total, 0});
    std::vector<int32_t> right, places;
    for (size_t r = 0; r < lengths.size(); r++)
      for (int32_t i = bounds[r]; i < bounds[r + 1]; i++) {
        const int32_t before = i > bounds[r] ? labels[i - 1] : prev[r];
        if (labels[i] != before && labels[i] != 0) right.push_back(labels[i]), places.push_back(i - bounds[r]);
      }
    ids.resize(found), frames.resize(found);
    check(ids == right && frames == places, "ctc_collapse");
  }
}

void test_sample() {
  const int64_t rows = 9, vocab = 2000;
  const Floats logits = randn(rows * vocab, 3), temperature(rows, 0.8f), top_p(rows, 0.9f);
  std::vector<int32_t> top_k = {0, 1, 5, 64, 65, 0, 0, 2000, 5000};
  std::vector<int64_t> seeds(rows, 3), positions(rows, 1), ids(rows), again(rows);
  sample({logits.data(), temperature.data(), top_k.data(), top_p.data(), seeds.data(), positions.data(), ids.data(),
          rows, vocab, vocab});
  set_num_threads(1);
  sample({logits.data(), temperature.data(), top_k.data(), top_p.data(), seeds.data(), positions.data(), again.data(),
          rows, vocab, vocab});
  check(ids == again, "sample");
  for (int64_t id : ids) check(id >= 0 && id < vocab, "sample's ids");
}

// --- threads ----------------------------------------------------------------------------------------------------

void test_pool() {
  where = "pool";
  for (int count : {1, 2, 7, 3, 16}) {
    set_num_threads(count);
    for (int64_t chunks : {0, 1, 2, 100, 5000}) {
      std::vector<int> done(chunks);
      parallel_for(chunks, 1, true, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) done[i]++;
      });
      check(std::all_of(done.begin(), done.end(), [](int times) { return times == 1; }), "each chunk once");
    }
  }
  // several callers at the same time, each with results of its own
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int c = 0; c < 4; c++)
    callers.emplace_back([&wrong, c] {
      for (int turn = 0; turn < 50; turn++) {
        std::vector<int> done(97 + c);
        parallel_for(97 + c, 1, true, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; i++) done[i] = static_cast<int>(i);
        });
        for (int i = 0; i < 97 + c; i++) wrong += done[i] != i;
      }
    });
  for (std::thread& caller : callers) caller.join();
  check(wrong == 0, "callers at the same time");
  // what a chunk throws reaches the caller, and the next job runs like any other
  set_num_threads(5);
  for (int turn = 0; turn < 200; turn++) {
    const int64_t bad = turn % 64;
    bool has_thrown = false;
    try {
      parallel_for(64, 1, true, [&](int64_t begin, int64_t) {
        if (begin == bad || begin == 63 - bad) throw std::runtime_error("chunk");
      });
    } catch (const std::runtime_error& error) { has_thrown = std::string(error.what()) == "chunk"; }
    check(has_thrown, "an error reaches the caller");
    std::atomic<int> done{0};
    parallel_for(64, 1, true, [&](int64_t, int64_t) { done++; });
    check(done == 64, "the job after an error");
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> isas(argv + 1, argv + argc);
  if (isas.empty()) isas = {"plain", "avx2", "avx512"};
  test_pool();
  for (const std::string& isa : isas) {
    const KernelTable* table = kernels(isa.c_str());
    if (!table) {
      std::printf("%s: not on this machine\n", isa.c_str());
      continue;
    }
    for (int threads : {1, 3}) {
      set_num_threads(threads);
      where = isa + ", " + std::to_string(threads) + " threads";
      test_linear(*table);
      test_formats(*table);
      for (const char* each : {isa.c_str(), "vnni", "amx"})
        if (kernels(each) == table) test_int8(*table, *int8_kernel(each));
      test_rows(*table);
      test_heads(*table);
      test_attention(*table);
      test_rope(*table);
      test_fusion(*table);
      test_decoder(*table);
      test_unet(*table);
      test_hift(*table);
      test_ctc(*table);
      test_sample();
      std::printf("%s: done\n", where.c_str());
    }
  }
  return failures ? 1 : 0;
}
