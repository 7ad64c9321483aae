// Where sound comes from, in pieces: a WAV file, a pipe, the microphone.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "files.h"

namespace edge_lab {

// Turns SIGINT and SIGTERM into something to ask for. Threads that start later don't get them either.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  bool came() const { return wait(-1, 0); }
  // Waits until there is something to read from `fd`, or a signal came (true).
  bool wait(int fd, int milliseconds = -1) const;

 private:
  int fd_;
};

using TakeSamples = std::function<void(const float*, size_t)>;

// Each gives its samples in pieces until the source ends (false) or a signal came (true). Throws Error if it fails.
bool from_wav(class WavReader& wav, const StopSignals& stop, const TakeSamples& take);
bool from_pipe(int fd, const StopSignals& stop, const TakeSamples& take);
bool from_microphone(uint32_t rate, const StopSignals& stop, const TakeSamples& take);  // ALSA's arecord

}  // namespace edge_lab
