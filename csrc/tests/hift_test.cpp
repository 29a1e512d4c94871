// The vocoder's trunk of odd sizes against plain loops over frames, one sequence at a time.
#include <cmath>
#include <stdexcept>

#include "rows.h"
#include "testing.h"

namespace {

constexpr int64_t kBands = 5, kBase = 10, kSpectrum = 6;

struct Alphas {
  Floats alpha, inverse;

  explicit Alphas(int64_t width) : alpha(randn(width)) {
    for (float& a : alpha) a = std::fabs(a) + 0.2f;
    for (float a : alpha) inverse.push_back(1 / a);
  }
  Snake args() const { return {alpha.data(), inverse.data()}; }
  Rows over(Rows x) const {
    for (int64_t t = 0; t < x.count; t++)
      for (int64_t c = 0; c < x.width; c++) {
        const double sine = std::sin(static_cast<double>(alpha[c]) * x[t][c]);
        x[t][c] += static_cast<float>(sine * sine / alpha[c]);
      }
    return x;
  }
};

Rows dilated(const Layer& conv, const Rows& x, int64_t dilation) {
  Rows y(x.count, conv.out);
  for (int64_t t = 0; t < x.count; t++)
    for (int64_t o = 0; o < conv.out; o++) {
      double sum = conv.bias[o];
      for (int64_t k = 0; k < conv.taps; k++)
        for (int64_t c = 0; c < conv.in; c++)
          sum += static_cast<double>(conv.weight[(o * conv.taps + k) * conv.in + c]) *
                 x.at(t + (k - conv.taps / 2) * dilation, c);
      y[t][o] = static_cast<float>(sum);
    }
  return y;
}

Rows sum(Rows x, const Rows& y) {
  for (size_t i = 0; i < x.values.size(); i++) x.values[i] += y.values[i];
  return x;
}

Rows leaky(Rows x, float slope) {
  for (float& v : x.values) v = v < 0 ? v * slope : v;
  return x;
}

struct Block {
  int64_t taps, dilations[3] = {1, 4, 3};
  std::vector<Alphas> snakes1, snakes2;
  std::vector<Layer> convs1, convs2;

  Block(int64_t width, int64_t taps) : taps(taps) {
    for (int i = 0; i < 3; i++) {
      snakes1.emplace_back(width), snakes2.emplace_back(width);
      convs1.emplace_back(width, width, taps), convs2.emplace_back(width, width, taps);
    }
  }
  HiftBlock args() const {
    HiftBlock block = {};
    block.taps = taps;
    for (int i = 0; i < 3; i++) {
      block.dilations[i] = dilations[i];
      block.snake1[i] = snakes1[i].args(), block.snake2[i] = snakes2[i].args();
      block.conv1[i] = convs1[i].args(), block.conv2[i] = convs2[i].args();
    }
    return block;
  }
  Rows over(Rows x) const {
    for (int i = 0; i < 3; i++)
      x = sum(x, dilated(convs2[i], snakes2[i].over(dilated(convs1[i], snakes1[i].over(x), dilations[i])), 1));
    return x;
  }
};

struct Level {
  int64_t rate, stride, padding;
  Layer up, down;
  Block source_block;
  std::vector<Block> blocks;
  std::vector<HiftBlock> args_of_blocks;

  Level(int64_t in, int64_t width, int64_t rate, int64_t taps, int64_t stride, int64_t padding)
      : rate(rate),
        stride(stride),
        padding(padding),
        up(in, rate * width, 2),
        down(kSpectrum, width, taps),
        source_block(width, 5),
        blocks({Block(width, 3), Block(width, 7)}) {}
  // They point into this level, which must stay where it is.
  HiftLevel args() {
    args_of_blocks.clear();
    for (const Block& each : blocks) args_of_blocks.push_back(each.args());
    HiftLevel level = {};
    level.rate = rate, level.channels = down.out;
    level.up = up.args(), level.source_down = down.args();
    level.source_taps = down.taps, level.source_stride = stride, level.source_padding = padding;
    level.source_block = source_block.args();
    level.blocks = args_of_blocks.data(), level.num_blocks = static_cast<int64_t>(blocks.size());
    return level;
  }
  Rows over(const Rows& before, const Rows& source, float slope, bool is_last) const {
    const Rows x = leaky(before, slope);
    Rows raised(x.count * rate, down.out), made(1, up.out);
    for (int64_t i = 0; i <= x.count; i++) {
      up.apply(x, i - 1, made[0]);
      for (int64_t r = 0; r < rate; r++) {
        const int64_t t = i * rate - rate / 2 + r;
        for (int64_t c = 0; c < down.out && t >= 0 && t < raised.count; c++) raised[t][c] = made[0][r * down.out + c];
      }
    }
    if (is_last) {
      Rows longer(raised.count + 1, down.out);
      for (int64_t t = 0; t < longer.count; t++)
        for (int64_t c = 0; c < down.out; c++) longer[t][c] = raised[t ? t - 1 : 1][c];
      raised = longer;
    }
    Rows excitation(raised.count, down.out);
    for (int64_t t = 0; t < raised.count; t++) down.apply(source, t * stride - padding, excitation[t]);
    const Rows mixed = sum(raised, source_block.over(excitation));
    Rows total(mixed.count, mixed.width);
    for (const Block& each : blocks) total = sum(total, each.over(mixed));
    for (float& v : total.values) v /= static_cast<float>(blocks.size());
    return total;
  }
};

Rows rows_of(const Floats& x, int64_t sequence, int64_t width, int64_t ld, int64_t count) {
  Rows rows(count, width);
  for (int64_t t = 0; t < count; t++)
    for (int64_t c = 0; c < width; c++) rows[t][c] = x[(sequence * width + c) * ld + t];
  return rows;
}

}  // namespace

void test_hift(const KernelTable& table) {
  constexpr int64_t rates = 4 * 2, frames = 19, source_frames = frames * rates + 1;
  constexpr float slope = 0.1f, last_slope = 0.01f;
  std::vector<Level> levels = {Level(kBase, 7, 4, 4, 2, 1), Level(7, 3, 2, 1, 1, 0)};
  const Layer pre(kBands, kBase, 7), post(3, kSpectrum, 5);
  std::vector<HiftLevel> args;
  for (Level& level : levels) args.push_back(level.args());
  const std::vector<int64_t> lengths = {19, 1, 2};
  const int64_t batch = static_cast<int64_t>(lengths.size());
  const Floats mel = randn(batch * kBands * frames), source = randn(batch * kSpectrum * source_frames);
  Floats y(source.size(), -1.0f), expected(source.size());

  HiftArgs a = {};
  a.levels = args.data(), a.num_levels = static_cast<int64_t>(args.size());
  a.conv_pre = pre.args(), a.conv_post = post.args();
  a.mel_bands = kBands, a.base_channels = kBase, a.spectrum = kSpectrum;
  a.pre_taps = pre.taps, a.post_taps = post.taps, a.slope = slope, a.last_slope = last_slope;
  a.mel = mel.data(), a.source = source.data(), a.lengths = lengths.data(), a.y = y.data();
  a.batch = batch, a.frames = frames, a.source_frames = source_frames;
  table.hift(a);

  for (int64_t b = 0; b < batch; b++) {
    const Rows own = rows_of(source, b, kSpectrum, source_frames, lengths[b] * rates + 1);
    Rows x = pre.over(rows_of(mel, b, kBands, frames, lengths[b]));
    for (size_t i = 0; i < levels.size(); i++) x = levels[i].over(x, own, slope, i + 1 == levels.size());
    x = post.over(leaky(x, last_slope));
    for (int64_t t = 0; t < x.count; t++)
      for (int64_t c = 0; c < kSpectrum; c++) expected[(b * kSpectrum + c) * source_frames + t] = x[t][c];
  }
  check_near(y, expected, "HiFT");

  Floats again(y.size(), -1.0f);
  a.y = again.data(), a.is_alone = true;
  table.hift(a);
  check(again == y, "HiFT on one thread");
  a.stop_point = [](void* count) {
    if (++*static_cast<int*>(count) == 3) throw std::runtime_error("stop");
  };
  int count = 0;
  a.caller = &count;
  bool has_stopped = false;
  try {
    table.hift(a);
  } catch (const std::runtime_error&) { has_stopped = true; }
  check(has_stopped && count == 3, "HiFT stops");
}
