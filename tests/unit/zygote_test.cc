// The gate of a zygote: it names the thread that a preload started, whose code runs in it, and the
// way out.
#include <gtest/gtest.h>
#include <pthread.h>
#include <string.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "zygote/hygiene.h"

namespace mayfly::zygote {
namespace {

// A thread of this program, while the object lives.
class Worker {
 public:
  explicit Worker(const char* name, bool spins = false) {
    thread_ = std::thread([this, spins] {
      started_ = true;
      std::unique_lock lock(mutex_);
      if (!spins) end_.wait(lock, [this] { return over_.load(); });
      lock.unlock();
      while (!over_) {
      }
    });
    if (name != nullptr) pthread_setname_np(thread_.native_handle(), name);
    while (!started_) std::this_thread::yield();
  }
  Worker(const Worker&) = delete;
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    end_.notify_all();
    thread_.join();
  }

 private:
  std::atomic<bool> started_ = false, over_ = false;
  std::mutex mutex_;
  std::condition_variable end_;
  std::thread thread_;
};

TEST(Hygiene, AThreadIsToldByItsNameItsCodeAndTheWayOut) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer has a thread of its own, and every wait is in its library";
#endif
  char fault[kFaultBytes];
  ASSERT_EQ(findHygieneFault(fault), 0) << fault;
  {
    const Worker worker("tokio-worker-7");
    EXPECT_EQ(findHygieneFault(fault), -EUSERS);
    EXPECT_EQ(
        std::string(fault),
        "started a thread 'tokio-worker-7', in zygote_test; take it out of zygote.preload: the "
        "task loads it");
  }
  {
    const Worker worker(nullptr);  // it has the program's name, which says nothing
    EXPECT_EQ(findHygieneFault(fault), -EUSERS);
    EXPECT_EQ(std::string(fault).rfind("started a thread, in zygote_test; ", 0), 0u) << fault;
  }
  EXPECT_EQ(findHygieneFault(fault), 0) << fault;
}

TEST(Hygiene, AThreadThatNeverSleepsIsAFaultToo) {
  const Worker worker("busy", true);
  char fault[kFaultBytes];
  EXPECT_EQ(findHygieneFault(fault), -EUSERS);
  EXPECT_EQ(std::string(fault).rfind("started a thread 'busy'", 0), 0u) << fault;
}

TEST(Hygiene, KnownLibrariesHaveAVariableThatPreventsTheirThreads) {
  const std::string site = "/usr/local/lib/python3.13/dist-packages/";
  EXPECT_EQ(std::string(wayOut((site + "numpy.libs/libscipy_openblas64_-56d6093b.so").c_str())),
            "OPENBLAS_NUM_THREADS = \"1\" in [zygote.env] prevents it");
  EXPECT_NE(strstr(wayOut((site + "scikit_learn.libs/libgomp-a34b3233.so.1.0.0").c_str()),
                   "OMP_NUM_THREADS"),
            nullptr);
  EXPECT_NE(strstr(wayOut((site + "numexpr/interpreter.so").c_str()), "NUMEXPR_NUM_THREADS"),
            nullptr);
  for (const std::string& path :
       {site + "polars/polars.abi3.so", site + "pyarrow/libarrow.so.2100", std::string()})
    EXPECT_EQ(std::string(wayOut(path.c_str())),
              "take it out of zygote.preload: the task loads it");
}

}  // namespace
}  // namespace mayfly::zygote
