// A thread pool for kernels that last microseconds.
//
// Not OpenMP, for two reasons. A barrier waits for every thread, so a thread that the system has taken off its core
// stalls the kernel, whereas here the caller takes over all chunks that have not begun. And torch brings an OpenMP
// runtime of its own, with which a second one in the process would fight for cores.
#pragma once

#include <cstdint>
#include <type_traits>

namespace antiphon {

constexpr int64_t kMostChunks = 0xffff;

using ChunkBody = void (*)(void* context, int64_t chunk, bool goes_on);

// Calls body(context, chunk, goes_on) for every chunk of [0, num_chunks), at most kMostChunks of them, on this thread
// and idle helpers; returns when all are done. Each thread has a share of neighbouring chunks and walks it from the
// front, so it knows whether it `goes_on` with the chunk after this one. A thread that has finished takes chunks from
// the ends of others' shares. A call from a second thread at the same time runs on that thread alone. What a chunk
// throws, on whichever thread, is thrown here once all threads have left the job; chunks that had not begun by then are
// skipped.
void run_chunks(int64_t num_chunks, void* context, ChunkBody body);

// A thread's first exception takes memory from the C library, which ends the process if none is left. So a thread that
// may have to report that memory has run out throws once beforehand.
void prepare_to_throw();

// While it exists, the jobs of the thread that made it run on that thread alone, if `is_wanted`: for work of which
// several threads have some each.
class Alone {
 public:
  explicit Alone(bool is_wanted);
  ~Alone();
  Alone(const Alone&) = delete;
  Alone& operator=(const Alone&) = delete;

 private:
  const bool before_;
};

// The number of threads of later calls, including the caller's. The default is the number of cores that this process
// may use, or fewer if the system grants no more threads.
void set_num_threads(int count);
int num_threads();

// Calls f(begin, end) for slices of [0, size) of at most `grain`, or once for all of it unless threads are
// `worthwhile`. Or f(begin, end, goes_on), where `goes_on` means that this thread will most likely take the slice after
// `end`.
template <class F>
void parallel_for(int64_t size, int64_t grain, bool worthwhile, const F& f) {
  constexpr bool asks = std::is_invocable_v<F, int64_t, int64_t, bool>;
  const auto call = [&f](int64_t begin, int64_t end, bool goes_on) {
    if constexpr (asks) f(begin, end, goes_on);
    else f(begin, end);
  };
  if (!worthwhile || size <= grain) {
    if (size > 0) call(0, size, false);
    return;
  }
  if (size > grain * kMostChunks) grain = (size + kMostChunks - 1) / kMostChunks;
  struct Context {
    decltype(call)& f;
    int64_t size, grain;
  } context{call, size, grain};
  run_chunks((size + grain - 1) / grain, &context, [](void* p, int64_t chunk, bool goes_on) {
    const Context& c = *static_cast<Context*>(p);
    const int64_t begin = chunk * c.grain;
    c.f(begin, begin + c.grain < c.size ? begin + c.grain : c.size, goes_on);
  });
}

}  // namespace antiphon
