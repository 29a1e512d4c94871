#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

namespace antiphon {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kSpins = 12000;  // about a hundred microseconds: the gap between two passes of a step
constexpr int kMostThreads = 256;

// A caller that waits for a helper's last chunk lets others run, but not before most chunks would be done: once a busy
// process has the core, it keeps it for a time slice.
constexpr auto kPatience = std::chrono::microseconds(80);

// A helper that keeps the caller waiting for long has been taken off its core in the middle of a chunk, because others
// want that core. If it took every job, it would use up its fair share of the core again and again, and each time the
// caller would have to wait until the others have had theirs, some milliseconds. So it works part-time for a while: in
// shifts shorter than a time slice, after each of which it rests. The scheduler owes it that time, and gives it the
// next shift whole.
constexpr auto kStall = std::chrono::microseconds(300);
constexpr auto kShift = std::chrono::milliseconds(1), kRest = std::chrono::milliseconds(2);
constexpr auto kShortestPartTime = std::chrono::milliseconds(10), kLongestPartTime = std::chrono::milliseconds(320);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

int cores() {
  cpu_set_t set;
  int count = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof set, &set) == 0) count = CPU_COUNT(&set);
  return count < 1 ? 1 : count < kMostThreads ? count : kMostThreads;
}

// A thread and its part of the job.
struct alignas(64) Thread {
  // The chunks of its share that have not begun: the job's number in the high half, then begin and end. Who takes a
  // chunk by compare-and-swap knows that the job is still running, since its caller waits for that chunk. Who comes
  // late finds another number or no chunk, and has touched nothing. To a helper a new number is the call to work.
  std::atomic<uint64_t> left{0};
  std::atomic<bool> at_work{false};
  std::atomic<bool> is_asleep{false};
  std::atomic<bool> is_part_time{false};
  std::atomic<Clock::rep> rests_until{0};
  // Of the owner of the pool.
  Clock::time_point part_time_ends;
  Clock::duration part_time{kShortestPartTime};
  std::mutex sleeping;
  std::condition_variable wake;
};

struct Pool {
  std::mutex owner;                 // held by the caller whose job is running
  uint64_t job = 0;                 // its number, the owner's
  Thread threads[kMostThreads];     // the caller is the first, the others are helpers
  std::atomic<int> num_threads{0};  // of which some may have a share
  std::atomic<int64_t> num_done{0};
  std::atomic<ChunkBody> body{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<bool> has_failed{false};
  std::exception_ptr error;  // of the first chunk that threw, for the caller once all are done
  int num_helpers = 0;       // threads that have been started
  std::atomic<int> num_wanted{cores()};
};

Pool* pool = new Pool;  // never destroyed: helpers may outlive static destruction

thread_local bool is_alone = false;

uint64_t range(uint64_t job, int64_t begin, int64_t end) {
  return job << 32 | static_cast<uint64_t>(begin) << 16 | static_cast<uint64_t>(end);
}

// What a chunk throws is kept for the caller, since no exception may leave a helper's thread. Chunks begun after that
// are skipped: the caller gets no result anyway.
void run_chunk(Pool& p, ChunkBody body, void* context, int64_t chunk, bool goes_on) {
  if (p.has_failed.load(std::memory_order_relaxed)) return;
  try {
    body(context, chunk, goes_on);
  } catch (...) {
    if (!p.has_failed.exchange(true)) p.error = std::current_exception();
  }
}

// Takes the first chunk of the thread's own share, or the last of another's; false if there is none left. After the
// first chunk of its own share, a thread goes on with the next one.
bool take_chunk(Pool& p, Thread& thread, bool is_own) {
  uint64_t left = thread.left.load(std::memory_order_acquire);
  for (;;) {
    const int64_t begin = left >> 16 & kMostChunks, end = left & kMostChunks;
    if (begin == end) return false;
    const ChunkBody body = p.body.load(std::memory_order_relaxed);
    void* context = p.context.load(std::memory_order_relaxed);
    const uint64_t less = is_own ? range(left >> 32, begin + 1, end) : range(left >> 32, begin, end - 1);
    if (!thread.left.compare_exchange_weak(left, less, std::memory_order_acq_rel)) continue;
    run_chunk(p, body, context, is_own ? begin : end - 1, is_own && begin + 1 < end);
    p.num_done.fetch_add(1, std::memory_order_release);
    return true;
  }
}

void work(Pool& p, int self) {
  const int count = p.num_threads.load(std::memory_order_relaxed);
  for (int i = 0; i < count; i++) {
    Thread& thread = p.threads[(self + i) % count];
    while (take_chunk(p, thread, i == 0)) {}
  }
}

// True if a helper that works part-time, and came at `shift_began`, is to rest; tells the caller until when.
bool begins_to_rest(Thread& helper, Clock::time_point shift_began) {
  if (!helper.is_part_time.load(std::memory_order_relaxed)) return false;
  const Clock::time_point now = Clock::now();
  if (now - shift_began < kShift) return false;
  helper.rests_until.store((now + kRest).time_since_epoch().count(), std::memory_order_relaxed);
  return true;
}

void help(Pool* p, int self) {
  Thread& own = p->threads[self];
  uint64_t seen = 0;
  Clock::time_point shift_began;
  for (int spins = 0;;) {
    const uint64_t job = own.left.load(std::memory_order_acquire) >> 32;
    if (job != seen) {
      seen = job;
      own.at_work.store(true, std::memory_order_relaxed);
      work(*p, self);
      own.at_work.store(false, std::memory_order_relaxed);
      spins = begins_to_rest(own, shift_began) ? kSpins : 0;
    }
    if (++spins < kSpins) {
      pause();
      continue;
    }
    std::unique_lock<std::mutex> lock(own.sleeping);
    own.is_asleep.store(true);
    own.wake.wait(lock, [&] { return own.left.load() >> 32 != seen; });
    own.is_asleep.store(false);
    shift_began = Clock::now();
    spins = 0;
  }
}

void call(Thread& helper, uint64_t share) {
  helper.left.store(share);  // sequentially consistent, before it is asked whether it sleeps
  if (!helper.is_asleep.load()) return;
  { std::lock_guard<std::mutex> lock(helper.sleeping); }  // lets it get from its last check to its wait
  helper.wake.notify_one();
}

bool is_available(Thread& helper, Clock::time_point now) {
  const bool is_part_time = now < helper.part_time_ends;
  if (helper.is_part_time.load(std::memory_order_relaxed) != is_part_time)
    helper.is_part_time.store(is_part_time, std::memory_order_relaxed);
  return !is_part_time || now.time_since_epoch().count() >= helper.rests_until.load(std::memory_order_relaxed);
}

// For twice as long as last time, unless it has since worked full-time for longer than that.
void put_on_part_time(Thread& helper, Clock::time_point now) {
  const bool again = now < helper.part_time_ends + helper.part_time;
  helper.part_time = again ? std::min<Clock::duration>(2 * helper.part_time, kLongestPartTime) : kShortestPartTime;
  helper.part_time_ends = now + helper.part_time;
}

// Returns when all chunks of the job that began at `start` are done, and notices who is late.
void wait_for_helpers(Pool& p, int64_t num_chunks, Clock::time_point start) {
  const Clock::time_point finished = Clock::now(), stalled = finished + (finished - start) + kStall;
  for (bool is_late = false; p.num_done.load(std::memory_order_acquire) < num_chunks;) {
    const Clock::time_point now = Clock::now();
    if (now - finished < kPatience) {
      pause();
      continue;
    }
    sched_yield();
    if (is_late || now < stalled) continue;
    is_late = true;
    const int count = p.num_threads.load(std::memory_order_relaxed);
    for (int i = 1; i < count; i++)
      if (p.threads[i].at_work.load(std::memory_order_relaxed)) put_on_part_time(p.threads[i], now);
  }
}

// If the system grants no more threads, the existing ones have to do until another number is asked for.
void start_helpers(Pool& p) {
  try {
    for (; p.num_helpers < p.num_wanted.load() - 1; p.num_helpers++) std::thread(help, &p, p.num_helpers + 1).detach();
  } catch (const std::exception&) { p.num_wanted = p.num_helpers + 1; }
}

// A forked child has none of its parent's threads, but may have a lock that one of them held.
void after_fork() {
  const int wanted = pool->num_wanted.load();
  pool = new Pool;
  pool->num_wanted = wanted;
}

const int registered = pthread_atfork(nullptr, nullptr, after_fork);

}  // namespace

void prepare_to_throw() {
  try {
    throw std::bad_alloc();
  } catch (const std::bad_alloc&) {}
}

void run_chunks(int64_t num_chunks, void* context, ChunkBody body) {
  Pool& p = *pool;
  std::unique_lock<std::mutex> owner(p.owner, std::defer_lock);
  if (!is_alone && owner.try_lock()) start_helpers(p);
  const int count = p.num_wanted.load(std::memory_order_relaxed);
  if (!owner || count < 2) {
    for (int64_t chunk = 0; chunk < num_chunks; chunk++) body(context, chunk, chunk + 1 < num_chunks);
    return;
  }
  const Clock::time_point start = Clock::now();
  int called[kMostThreads], num_called = 0;
  for (int i = 1; i < count; i++)
    if (is_available(p.threads[i], start)) called[num_called++] = i;
  p.body.store(body, std::memory_order_relaxed);
  p.context.store(context, std::memory_order_relaxed);
  p.num_done.store(0, std::memory_order_relaxed);
  p.has_failed.store(false, std::memory_order_relaxed);
  p.num_threads.store(count, std::memory_order_relaxed);
  p.job++;
  const auto share = [&](int i) {
    return range(p.job, num_chunks * i / (num_called + 1), num_chunks * (i + 1) / (num_called + 1));
  };
  p.threads[0].left.store(share(0), std::memory_order_release);
  for (int i = 0; i < num_called; i++) call(p.threads[called[i]], share(i + 1));
  work(p, 0);
  if (p.num_done.load(std::memory_order_acquire) < num_chunks) wait_for_helpers(p, num_chunks, start);
  if (p.has_failed.load(std::memory_order_relaxed)) std::rethrow_exception(std::exchange(p.error, nullptr));
}

Alone::Alone(bool is_wanted) : before_(is_alone) { is_alone = is_alone || is_wanted; }

Alone::~Alone() { is_alone = before_; }

void set_num_threads(int count) { pool->num_wanted = count < 1 ? 1 : count < kMostThreads ? count : kMostThreads; }

int num_threads() { return pool->num_wanted; }

}  // namespace antiphon
