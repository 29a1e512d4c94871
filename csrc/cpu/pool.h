// A thread pool for kernels that last microseconds.
//
// Not OpenMP, for two reasons: a barrier waits for every thread, so one that the system has taken off
// its core stalls the kernel, where here the caller takes over whatever chunks nobody has begun; and
// torch brings an OpenMP runtime of its own, which a second one in the process would fight for cores.
#pragma once

#include <cstdint>

namespace antiphon {

using ChunkBody = void (*)(void* context, int64_t chunk);

// body(context, chunk) for every chunk of [0, num_chunks), on this thread and idle helpers; returns
// when all are done. A call from a second thread at the same time runs on that thread alone.
void run_chunks(int64_t num_chunks, void* context, ChunkBody body);

// Threads of later calls, the caller included. The default is the number of cores this process may use.
void set_num_threads(int count);
int num_threads();

// f(begin, end) over slices of [0, size) of at most `grain`; in one piece where it is not worth more.
template <class F>
void parallel_for(int64_t size, int64_t grain, bool worthwhile, const F& f) {
  if (!worthwhile || size <= grain) {
    if (size > 0) f(static_cast<int64_t>(0), size);
    return;
  }
  struct Context {
    const F& f;
    int64_t size, grain;
  } context{f, size, grain};
  run_chunks((size + grain - 1) / grain, &context, [](void* p, int64_t chunk) {
    const Context& c = *static_cast<Context*>(p);
    const int64_t begin = chunk * c.grain;
    c.f(begin, begin + c.grain < c.size ? begin + c.grain : c.size);
  });
}

}  // namespace antiphon
