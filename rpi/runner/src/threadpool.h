// The wheel ships libexecutorch_threadpool.so but not its header: these are the two calls that the runner needs, as
// the library exports them (nm -DC). A version that changes them fails to link, not silently.
#pragma once

#include <cstddef>
#include <cstdint>

namespace executorch::extension::threadpool {

class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);  // unsafe: programs that are loaded keep the old pool
};

ThreadPool* get_threadpool();

}  // namespace executorch::extension::threadpool
