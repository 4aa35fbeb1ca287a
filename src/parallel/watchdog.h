// Ends a process that waits too long for the other ranks: a rank that is stopped, lost or stuck
// must never leave the rest hanging.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace swiattn {

// A thread that watches whoever waits. Thread-safe.
class Watchdog {
 public:
  // `on_timeout` gets what this rank did ("waited for a barrier for more than 100 s; another rank
  // is stuck or gone") and must not return to normal work: it logs and ends the process.
  Watchdog(double timeout_seconds, std::function<void(const std::string&)> on_timeout);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  void set_timeout(double seconds);

  // While it lives, the wait called `what` must end within the timeout. Waits do not nest.
  class Watch {
   public:
    Watch(Watchdog& watchdog, std::string what) : watchdog_(watchdog) { watchdog_.begin(what); }
    ~Watch() { watchdog_.end(); }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

   private:
    Watchdog& watchdog_;
  };

 private:
  void begin(const std::string& what);
  void end();
  void run();

  const std::function<void(const std::string&)> on_timeout_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  double timeout_;
  std::string what_;   // empty: nobody waits
  uint64_t wait_ = 0;  // counts waits, so that the thread notices a new one
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace swiattn
