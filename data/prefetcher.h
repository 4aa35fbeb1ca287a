// Reads batches ahead on a thread, so that the training step does not wait for the disk.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "data/batch_stream.h"

namespace swiattn {

// Hands out the micro-batches of a stream in order, beginning with the first of `first_step`: to
// resume is to begin at another step. The thread keeps up to `depth` batches ready and ends with
// the destructor. One consumer.
class Prefetcher {
 public:
  Prefetcher(BatchStream stream, int64_t first_step, size_t depth = 4);
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // The next micro-batch. Throws what reading it threw, then and at every later call.
  Batch next();

  // How long next() has waited since the beginning.
  double waited_seconds() const { return waited_seconds_; }

 private:
  void run(int64_t step);
  bool put(Batch batch);  // false when the thread is to end

  BatchStream stream_;
  size_t depth_;
  double waited_seconds_ = 0;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr error_;
  bool stopping_ = false;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace swiattn
