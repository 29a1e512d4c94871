// The U-Net of odd sizes against plain loops over frames, one sequence at a time.
#include <cstring>
#include <memory>
#include <stdexcept>

#include "pool.h"
#include "rows.h"
#include "testing.h"

namespace {

struct Norm {
  Floats weight, bias;

  explicit Norm(int64_t width) : weight(randn(width)), bias(randn(width)) {}
  Affine args() const { return {weight.data(), bias.data()}; }
  // Mean and variance over rows [r0, r1) and channels [c0, c1)
  void apply(Rows& x, int64_t r0, int64_t r1, int64_t c0, int64_t c1) const {
    double mean = 0, squares = 0;
    const double count = static_cast<double>((r1 - r0) * (c1 - c0));
    for (int64_t r = r0; r < r1; r++)
      for (int64_t c = c0; c < c1; c++) mean += x[r][c] / count;
    for (int64_t r = r0; r < r1; r++)
      for (int64_t c = c0; c < c1; c++) squares += (x[r][c] - mean) * (x[r][c] - mean) / count;
    for (int64_t r = r0; r < r1; r++)
      for (int64_t c = c0; c < c1; c++)
        x[r][c] = static_cast<float>((x[r][c] - mean) / std::sqrt(squares + 1e-5) * weight[c] + bias[c]);
  }
};

constexpr int64_t kGroups = 2, kHeads = 2, kHeadDim = 5, kInner = kHeads * kHeadDim;

struct Block {
  Layer conv;
  Norm norm;

  Block(int64_t in, int64_t out) : conv(in, out, 3), norm(out) {}
  UNetBlock args() const { return {conv.args(), norm.args()}; }
  Rows over(const Rows& x) const {
    Rows y = conv.over(x);
    const int64_t width = y.width / kGroups;
    for (int64_t g = 0; g < kGroups; g++) norm.apply(y, 0, y.count, g * width, (g + 1) * width);
    for (float& v : y.values) v *= static_cast<float>(std::tanh(std::log1p(std::exp(static_cast<double>(v)))));
    return y;
  }
};

struct Transformer {
  Norm norm1, norm3;
  Layer qkv, out, project, back;

  explicit Transformer(int64_t width)
      : norm1(width),
        norm3(width),
        qkv(width, 3 * kInner, 1, false),
        out(kInner, width),
        project(width, 4 * width),
        back(4 * width, width) {}
  UNetTransformer args() const {
    return {norm1.args(), norm3.args(), qkv.args(), out.args(), project.args(), back.args()};
  }
  static Rows normed(Rows x, const Norm& norm) {
    for (int64_t t = 0; t < x.count; t++) norm.apply(x, t, t + 1, 0, x.width);
    return x;
  }
  static void add(Rows& x, const Rows& y) {
    for (size_t i = 0; i < x.values.size(); i++) x.values[i] += y.values[i];
  }
  void over(Rows& x) const {
    Rows parts = qkv.over(normed(x, norm1)), mixed(x.count, kInner);
    for (int64_t head = 0; head < kHeads; head++)
      for (int64_t t = 0; t < x.count; t++) {
        Floats weights(x.count);
        double total = 0;
        for (int64_t key = 0; key < x.count; key++) {
          double score = 0;
          for (int64_t d = head * kHeadDim; d < (head + 1) * kHeadDim; d++)
            score += static_cast<double>(parts[t][d]) * parts[key][kInner + d];
          total += weights[key] = static_cast<float>(std::exp(score / std::sqrt(static_cast<double>(kHeadDim))));
        }
        for (int64_t d = head * kHeadDim; d < (head + 1) * kHeadDim; d++)
          for (int64_t key = 0; key < x.count; key++)
            mixed[t][d] += static_cast<float>(weights[key] / total) * parts[key][2 * kInner + d];
      }
    add(x, out.over(mixed));
    Rows hidden = project.over(normed(x, norm3));
    for (float& v : hidden.values) v *= static_cast<float>(0.5 * (1 + std::erf(v / std::sqrt(2.0))));
    add(x, back.over(hidden));
  }
};

struct Stage {
  Block block1, block2;
  Layer res_conv;
  std::vector<Transformer> transformers;
  std::vector<UNetTransformer> layers;
  Leave leave;
  std::vector<Layer> next;

  Stage(int64_t in, int64_t out, int count, Leave leave)
      : block1(in, out), block2(out, out), res_conv(in, out), leave(leave) {
    for (int i = 0; i < count; i++) transformers.emplace_back(out);
    if (leave == Leave::kSame || leave == Leave::kHalf) next.emplace_back(out, out, 3);
    if (leave == Leave::kDouble) next = {Layer(out, out, 2), Layer(out, out, 2)};
  }
  // They point into this stage, which must stay where it is.
  UNetStage args() {
    layers.clear();
    for (const Transformer& each : transformers) layers.push_back(each.args());
    UNetStage stage = {};
    stage.in = block1.conv.in, stage.out = block1.conv.out;
    stage.block1 = block1.args(), stage.block2 = block2.args(), stage.res_conv = res_conv.args();
    stage.transformers = layers.data(), stage.num_transformers = static_cast<int64_t>(layers.size());
    stage.leave = leave;
    for (size_t i = 0; i < next.size(); i++) stage.next[i] = next[i].args();
    return stage;
  }
  Rows over(const Rows& x, const float* time) const {
    Rows h = block1.over(x);
    for (int64_t t = 0; t < h.count; t++)
      for (int64_t c = 0; c < h.width; c++) h[t][c] += time[c];
    Rows y = block2.over(h);
    Transformer::add(y, res_conv.over(x));
    for (const Transformer& each : transformers) each.over(y);
    return y;
  }
  Rows leaves(const Rows& x, int64_t length) const {
    if (leave == Leave::kAtOnce) return x;
    if (leave == Leave::kSame) return next[0].over(x);
    Rows y(length, x.width);
    for (int64_t t = 0; t < length; t++) {
      if (leave == Leave::kHalf) next[0].apply(x, 2 * t - 1, y[t]);
      else next[t % 2].apply(x, t / 2 - 1 + t % 2, y[t]);
    }
    return y;
  }
};

Rows beside(const Rows& a, const Rows& b) {
  Rows both(b.count, a.width + b.width);
  for (int64_t t = 0; t < b.count; t++) {
    for (int64_t c = 0; c < a.width; c++) both[t][c] = a.at(t, c);
    for (int64_t c = 0; c < b.width; c++) both[t][a.width + c] = b.at(t, c);
  }
  return both;
}

}  // namespace

void test_unet(const KernelTable& table) {
  constexpr int64_t in = 7, out = 3, wide = 6, deep = 34, frames = 27;
  std::vector<Stage> stages = {Stage(in, wide, 1, Leave::kHalf), Stage(wide, deep, 0, Leave::kSame),
                               Stage(deep, deep, 2, Leave::kAtOnce), Stage(2 * deep, wide, 1, Leave::kDouble),
                               Stage(2 * wide, wide, 0, Leave::kSame)};
  const Block final_block(wide, wide);
  const Layer final_proj(wide, out);
  std::vector<UNetStage> args;
  int64_t num_biases = 0;
  for (Stage& stage : stages) args.push_back(stage.args()), num_biases += args.back().out;
  const Floats time = randn(num_biases);
  const std::vector<int64_t> lengths = {27, 1, 2, 26, 13};
  const int64_t batch = static_cast<int64_t>(lengths.size());
  const Floats x = randn(batch * in * frames);
  Floats y(batch * out * frames, -1.0f), expected(batch * out * frames);

  UNetArgs a = {};
  a.stages = args.data(), a.num_stages = static_cast<int64_t>(args.size());
  a.final_block = final_block.args(), a.final_proj = final_proj.args();
  a.in = in, a.out = out, a.num_heads = kHeads, a.head_dim = kHeadDim, a.num_groups = kGroups, a.eps = 1e-5f;
  a.x = x.data(), a.time_bias = time.data(), a.lengths = lengths.data(), a.y = y.data();
  a.batch = batch, a.frames = frames;
  table.unet(a);

  for (int64_t b = 0; b < batch; b++) {
    Rows h(lengths[b], in);
    for (int64_t t = 0; t < lengths[b]; t++)
      for (int64_t c = 0; c < in; c++) h[t][c] = x[(b * in + c) * frames + t];
    std::vector<Rows> skips;
    const float* bias = time.data();
    for (size_t i = 0; i < stages.size(); i++) {
      if (i + 2 >= stages.size()) h = beside(h, skips[stages.size() - 1 - i]);
      const Rows result = stages[i].over(h, bias);
      bias += result.width;
      if (i < 2) skips.push_back(result);
      h = stages[i].leaves(result, i ? lengths[b] : (lengths[b] + 1) / 2);
    }
    h = final_proj.over(final_block.over(h));
    for (int64_t t = 0; t < lengths[b]; t++)
      for (int64_t c = 0; c < out; c++) expected[(b * out + c) * frames + t] = h[t][c];
  }
  check_near(y, expected, "U-Net");

  Floats again(y.size(), -1.0f);
  a.y = again.data(), a.is_alone = true;
  table.unet(a);
  check(again == y, "the U-Net on one thread");
  a.stop_point = [](void* count) {
    if (++*static_cast<int*>(count) == 3) throw std::runtime_error("stop");
  };
  int count = 0;
  a.caller = &count;
  bool has_stopped = false;
  try {
    table.unet(a);
  } catch (const std::runtime_error&) { has_stopped = true; }
  check(has_stopped && count == 3, "the U-Net stops");
}
