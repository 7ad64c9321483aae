// Where sound comes from, in pieces: a WAV file, a pipe, the microphone.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "files.h"
#include "wav.h"

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

// Standard input or another pipe: a WAV file says at its start what it is; other bytes are raw 16-bit mono samples.
class PipeReader {
 public:
  explicit PipeReader(int fd) : fd_(fd) {}
  // Waits for the first bytes, of a WAV until its samples begin; true: a signal came. Throws Error for other formats.
  bool open(const StopSignals& stop);
  uint32_t rate() const { return wav_ ? wav_->rate() : 0; }  // 0: raw samples don't say it
  // Replaces `out` by more samples; true: a signal came. At the end it is empty.
  bool read(const StopSignals& stop, std::vector<float>& out);

 private:
  size_t more(const StopSignals& stop, bool* stopped);  // appends bytes to held_; 0: the end
  void take(std::vector<float>& out);

  int fd_;
  std::optional<WavStream> wav_;
  std::vector<uint8_t> held_;
};

using TakeSamples = std::function<void(const float*, size_t)>;

// Each gives its samples in pieces until the source ends (false) or a signal came (true). Throws Error if it fails.
bool from_wav(WavReader& wav, const StopSignals& stop, const TakeSamples& take);
bool from_pipe(PipeReader& pipe, const StopSignals& stop, const TakeSamples& take);
bool from_microphone(uint32_t rate, const StopSignals& stop, const TakeSamples& take);  // ALSA's arecord

}  // namespace edge_lab
