// A loaded program: preprocessed input in, outputs out. The only header that stands for ExecuTorch.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.h"

namespace edge_lab {

// Version of the ExecuTorch that this was built against.
std::string executorch_version();

class Session {
 public:
  struct Output {
    const void* data;  // valid until the next run
    size_t bytes;
  };

  // Loads the program and holds its method against bundle.json. `threads` is process-wide in ExecuTorch: a second
  // session with another count is refused while the first is open, because changing it would end the first's threads.
  Session(const Bundle& bundle, int threads);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // `input` holds bundle.input.bytes() bytes. Not for two threads at once.
  const std::vector<Output>& run(const void* input);

 private:
  struct Engine;
  std::unique_ptr<Engine> engine_;
};

}  // namespace edge_lab
