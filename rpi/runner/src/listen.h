// Listening with a bundle: to a WAV file, to raw samples from a pipe, or to the microphone.
#pragma once

#include <functional>
#include <string>

#include "bundle.h"
#include "recognizer.h"
#include "session.h"

namespace edge_lab {

// A recognizer over an open bundle, both of which must outlive it. Throws Error if the bundle does not hear.
Recognizer recognizer_of(const Bundle& bundle, Session& session);

struct ListenConfig {
  std::string source;       // a WAV file, or "-" for standard input: a WAV, or raw 16-bit mono samples
  bool microphone = false;  // instead of a source
  int rate = 0;             // of those samples, in Hz; 0: the bundle's
  int threads = 1;
};

struct Heard {
  double seconds = 0, cpu_s = 0;  // of sound, and what it took
  size_t windows = 0, calls = 0;
};

// Hands out every word as soon as it is complete, until the source ends or SIGINT or SIGTERM comes (call it before
// anything has started a thread). Throws Error if the source can't be read.
Heard listen(const fs::path& bundle, const ListenConfig& config, const std::function<void(const Word&)>& tell);

}  // namespace edge_lab
