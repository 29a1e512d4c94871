// The trunk of HiFT (arXiv 2309.09493) in one call: upsampling convolutions, and residual blocks of dilated ones.
//
// A convolution is a product whose rows overlap in memory. If it is dilated by d, every d-th frame lies side by side:
// what comes before it writes frames to where it wants them, and what comes after writes them back, so that no copy is
// made. Sequences are computed one after the other, since a single one has hundreds of rows.
#pragma once

#include <algorithm>

#include "frames.h"

namespace antiphon {
namespace ANTIPHON_ISA {

// sin(y)^2. Its period is pi, so y is reduced to [-pi/2, pi/2], by parts of pi whose products are exact up to 25,000;
// the polynomial is fitted to the sine at Chebyshev's points. Beyond 4 million, where neighbouring numbers are farther
// apart than half a period, it is 0.
static inline vf sine_squared(vf y) {
  const vf magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf n = (y * 0.318309886f + magic) - magic;
  vf r = y - n * 3.140625f;
  r = r - n * 0.0009675025939941406f;
  r = r - n * 1.5099579909783764e-07f;
  r = select(r > 2.0f, vf{}, select(r < -2.0f, vf{}, r));
  const vf square = r * r;
  vf p = splat(-2.388949819e-8f);
  p = p * square + 2.752528712e-6f;
  p = p * square - 1.984086155e-4f;
  p = p * square + 8.333330978e-3f;
  p = p * square - 1.666666662e-1f;
  const vf sine = r + r * square * p;
  return sine * sine;
}

static inline vf leaky(vf x, float slope) { return select(x < 0.0f, x * slope, x); }

// Where the frames of a sequence lie for a convolution that is dilated by `step`: frames 0, step, 2 step, ..., then 1,
// step + 1, ...; with `gap` empty frames before, between and after these groups.
struct Strided {
  int64_t length, step, gap;

  int64_t rows() const { return length + (std::min(step, length) + 1) * gap; }
  // Of group `phase`: its first row, and how many frames it has
  int64_t size(int64_t phase) const { return (length - phase + step - 1) / step; }
  int64_t first(int64_t phase) const {
    const int64_t longer = length % step;  // groups that have one frame more than the others
    return (phase + 1) * gap + phase * (length / step) + std::min(phase, longer);
  }
  int64_t row_of(int64_t frame) const { return first(frame % step) + frame / step; }

  void clear_gaps(float* x, int64_t channels) const {
    const int64_t groups = std::min(step, length);
    for (int64_t phase = 0; phase <= groups; phase++) {
      const int64_t begin = phase < groups ? first(phase) - gap : rows() - gap;
      std::memset(x + begin * channels, 0, sizeof(float) * static_cast<size_t>(gap * channels));
    }
  }
};

// store(row, column, sum + bias, count) for the rows of x W^T, of which threads take neighbouring ones.
template <class Store>
static void row_product(const float* x, int64_t ldx, int64_t rows, int64_t in, const FrameProduct& product,
                        int64_t width, const Store& store) {
  const LinearArgs a = {.x = x,
                        .weight = product.weight,
                        .residual = nullptr,
                        .out = nullptr,
                        .rows = rows,
                        .in = in,
                        .out_features = width,
                        .ldx = ldx,
                        .ldo = 0};
  const int64_t panels = (width + kPanel - 1) / kPanel;
  const Int8Rows whole = int8_rows_of(a);
  parallel_for((rows + kRowChunk - 1) / kRowChunk, 1, is_large(a), [&](int64_t begin, int64_t end) {
    for (int64_t row0 = begin * kRowChunk; row0 < std::min(end * kRowChunk, rows); row0 += kRowChunk) {
      const int64_t row1 = std::min(row0 + kRowChunk, rows);
      for (int64_t panel = 0; panel < panels; panel++)
        linear_panel(a, whole, panel, panel + 1 < panels, row0, row1,
                     [&](int64_t column, int64_t count, int64_t, int64_t, const float* sums) {
                       for (int64_t v = 0; v < count; v += kLanes) {
                         const int64_t left = count - v;
                         const vf bias = product.bias ? load_upto(product.bias + column + v, left) : vf{};
                         for (int64_t m = row0; m < row1; m++)
                           store(m, column + v, load(sums + (m - row0) * kPanel + v) + bias, left);
                       }
                     });
    }
  });
}

class HiftRun {
 public:
  explicit HiftRun(const HiftArgs& a) : a_(a), memory_(size()), places_(num_places()) {
    float* next = memory_.get();
    for (float** each : {&x_, &up_, &total_, &block_, &strided_, &plain_}) *each = next, next += widest();
    source_ = next;
  }

  void run() {
    for (int64_t b = 0; b < a_.batch; b++) run_sequence(b);
  }

 private:
  const HiftArgs& a_;
  const Scratch<float> memory_;
  const Scratch<int64_t> places_;  // of a convolution's rows: which frame each is, or -1
  float *x_, *up_, *total_, *block_, *strided_, *plain_, *source_;

  int64_t longest() const { return *std::max_element(a_.lengths, a_.lengths + a_.batch); }
  // The most empty frames that any convolution wants before, between and after its groups, in all
  int64_t most_gaps() const {
    int64_t most = a_.pre_taps + a_.post_taps;
    for (int64_t i = 0; i < a_.num_levels; i++) {
      const HiftLevel& level = a_.levels[i];
      most = std::max(most, 2 * level.rate);
      for (int64_t j = -1; j < level.num_blocks; j++) {
        const HiftBlock& block = j < 0 ? level.source_block : level.blocks[j];
        for (int64_t dilation : block.dilations) most = std::max(most, (dilation + 1) * block.taps);
      }
    }
    return most;
  }
  int64_t num_places() const {
    int64_t frames = longest();
    for (int64_t i = 0; i < a_.num_levels; i++) frames *= a_.levels[i].rate;
    return frames + 1 + most_gaps();
  }
  // Numbers in each of the buffers: the frames of a level, one more, and the empty ones
  int64_t widest() const {
    int64_t frames = longest(), most = (frames + most_gaps()) * std::max(a_.base_channels, a_.mel_bands);
    for (int64_t i = 0; i < a_.num_levels; i++) {
      frames *= a_.levels[i].rate;
      most = std::max(most, (frames + 1 + most_gaps()) * std::max(a_.levels[i].channels, a_.spectrum));
    }
    return most;
  }
  int64_t most_padding() const {
    int64_t most = 0;
    for (int64_t i = 0; i < a_.num_levels; i++) most = std::max(most, a_.levels[i].source_taps);
    return most;
  }
  int64_t size() const { return 6 * widest() + (a_.source_frames + 2 * most_padding()) * a_.spectrum; }
  void stop_point() const {
    if (a_.stop_point) a_.stop_point(a_.caller);
  }

  // to = f(x) for every number of `frames` frames; f takes the vector and its channel.
  template <class F>
  static void map(const float* x, int64_t frames, int64_t channels, float* to, const F& f) {
    parallel_for(frames, 16, frames * channels > 65536, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++)
        for (int64_t c = 0; c < channels; c += kLanes) {
          const int64_t left = channels - c, at = t * channels + c;
          store_upto(to + at, f(load_upto(x + at, left), at, left), left);
        }
    });
  }

  static vf snaked(vf x, const Snake& snake, int64_t channel, int64_t left) {
    return x + sine_squared(x * load_upto(snake.alpha + channel, left)) * load_upto(snake.inverse + channel, left);
  }

  // Three times x += conv2(snake2(conv1(snake1(x))))
  void run_block(const HiftBlock& block, float* x, int64_t frames, int64_t channels) {
    const int64_t gap = block.taps / 2, depth = block.taps * channels;
    const Strided plain = {frames, 1, gap};
    plain.clear_gaps(plain_, channels);
    for (int i = 0; i < kNumDilations; i++) {
      stop_point();
      const Strided strided = {frames, block.dilations[i], gap};
      strided.clear_gaps(strided_, channels);
      const Snake &snake1 = block.snake1[i], &snake2 = block.snake2[i];
      parallel_for(frames, 16, frames * channels > 16384, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; t++) {
          const float* from = x + t * channels;
          float* to = strided_ + strided.row_of(t) * channels;
          for (int64_t c = 0; c < channels; c += kLanes)
            store_upto(to + c, snaked(load_upto(from + c, channels - c), snake1, c, channels - c), channels - c);
        }
      });
      const int64_t rows = strided.rows() - 2 * gap;
      std::fill(places_.get(), places_.get() + rows, -1);
      for (int64_t t = 0; t < frames; t++) places_[strided.row_of(t) - gap] = t;
      row_product(strided_, channels, rows, depth, block.conv1[i], channels,
                  [&](int64_t row, int64_t c, vf sum, int64_t left) {
                    const int64_t t = places_[row];
                    if (t >= 0) store_upto(plain_ + (gap + t) * channels + c, snaked(sum, snake2, c, left), left);
                  });
      row_product(plain_, channels, frames, depth, block.conv2[i], channels,
                  [&](int64_t row, int64_t c, vf sum, int64_t left) {
                    float* to = x + row * channels + c;
                    store_upto(to, load_upto(to, left) + sum, left);
                  });
    }
  }

  // up_ = the frames that `frames` frames of x_ become; returns how many. The last level repeats one of them at the
  // beginning, since the inverse STFT has a frame more than its hops.
  int64_t go_up(const HiftLevel& level, int64_t frames, int64_t channels, float slope, bool is_last) {
    // An empty frame before and after: the row of frame i has frames i - 1 and i, and makes frames i * rate - padding
    // to (i + 1) * rate - padding - 1.
    std::memset(plain_, 0, sizeof(float) * static_cast<size_t>(channels));
    map(x_, frames, channels, plain_ + channels, [&](vf v, int64_t, int64_t) { return leaky(v, slope); });
    std::memset(plain_ + (frames + 1) * channels, 0, sizeof(float) * static_cast<size_t>(channels));
    const int64_t padding = level.rate / 2, width = level.channels, count = frames * level.rate;
    float* to = up_ + (is_last ? width : 0);
    row_product(plain_, channels, frames + 1, 2 * channels, level.up, level.rate * width,
                [&](int64_t row, int64_t column, vf sum, int64_t left) {
                  // a vector may hold numbers of several frames, if they have few channels
                  for (int64_t i = 0; i < std::min<int64_t>(left, kLanes);) {
                    const int64_t t = row * level.rate - padding + (column + i) / width, c = (column + i) % width;
                    const int64_t some = std::min({left - i, kLanes - i, width - c});
                    if (t >= 0 && t < count && some == kLanes) store(to + t * width + c, sum);
                    else if (t >= 0 && t < count)
                      std::memcpy(to + t * width + c, reinterpret_cast<const char*>(&sum) + i * sizeof(float),
                                  static_cast<size_t>(some) * sizeof(float));
                    i += some;
                  }
                });
    if (is_last) std::memcpy(up_, up_ + 2 * width, sizeof(float) * static_cast<size_t>(width));
    return count + is_last;
  }

  void run_sequence(int64_t b) {
    int64_t frames = a_.lengths[b], channels = a_.base_channels, source_frames = frames;
    for (int64_t i = 0; i < a_.num_levels; i++) source_frames *= a_.levels[i].rate;
    source_frames++;
    float* source = source_ + most_padding() * a_.spectrum;
    std::memset(source_, 0, sizeof(float) * static_cast<size_t>(most_padding() * a_.spectrum));
    to_rows(a_.source + b * a_.spectrum * a_.source_frames, a_.source_frames, a_.spectrum, source_frames, source);
    std::memset(source + source_frames * a_.spectrum, 0,
                sizeof(float) * static_cast<size_t>(most_padding() * a_.spectrum));

    const Strided mel = {frames, 1, a_.pre_taps / 2};
    mel.clear_gaps(plain_, a_.mel_bands);
    to_rows(a_.mel + b * a_.mel_bands * a_.frames, a_.frames, a_.mel_bands, frames, plain_ + mel.gap * a_.mel_bands);
    row_product(plain_, a_.mel_bands, frames, a_.pre_taps * a_.mel_bands, a_.conv_pre, channels,
                [&](int64_t row, int64_t c, vf sum, int64_t left) { store_upto(x_ + row * channels + c, sum, left); });

    for (int64_t i = 0; i < a_.num_levels; i++) {
      const HiftLevel& level = a_.levels[i];
      const int64_t width = level.channels;
      frames = go_up(level, frames, channels, a_.slope, i + 1 == a_.num_levels);
      channels = width;
      row_product(source - level.source_padding * a_.spectrum, level.source_stride * a_.spectrum, frames,
                  level.source_taps * a_.spectrum, level.source_down, width,
                  [&](int64_t row, int64_t c, vf sum, int64_t left) { store_upto(x_ + row * width + c, sum, left); });
      run_block(level.source_block, x_, frames, width);
      map(up_, frames, width, x_, [&](vf v, int64_t at, int64_t left) { return v + load_upto(x_ + at, left); });
      for (int64_t j = 0; j < level.num_blocks; j++) {
        float* own = j ? block_ : total_;
        std::memcpy(own, x_, sizeof(float) * static_cast<size_t>(frames * width));
        run_block(level.blocks[j], own, frames, width);
        if (j)
          map(total_, frames, width, total_,
              [&](vf v, int64_t at, int64_t left) { return v + load_upto(own + at, left); });
      }
      const float count = static_cast<float>(level.num_blocks);
      map(total_, frames, width, x_, [&](vf v, int64_t, int64_t) { return v / count; });
    }

    const Strided post = {frames, 1, a_.post_taps / 2};
    post.clear_gaps(plain_, channels);
    map(x_, frames, channels, plain_ + post.gap * channels,
        [&](vf v, int64_t, int64_t) { return leaky(v, a_.last_slope); });
    row_product(
        plain_, channels, frames, a_.post_taps * channels, a_.conv_post, a_.spectrum,
        [&](int64_t row, int64_t c, vf sum, int64_t left) { store_upto(up_ + row * a_.spectrum + c, sum, left); });
    for (int64_t c = 0; c < a_.spectrum; c++) {
      float* to = a_.y + (b * a_.spectrum + c) * a_.source_frames;
      for (int64_t t = 0; t < frames; t++) to[t] = up_[t * a_.spectrum + c];
      std::fill(to + frames, to + a_.source_frames, 0.0f);
    }
  }
};

static void hift(const HiftArgs& a) {
  const Alone alone(a.is_alone);
  HiftRun(a).run();
}

}  // namespace ANTIPHON_ISA
}  // namespace antiphon
