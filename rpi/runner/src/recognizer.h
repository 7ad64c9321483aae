// Words in a stream of sound: the window that moves, the gate, the smoothing, as edge_lab/signals/recognize.py defines them.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "audio.h"

namespace edge_lab {

struct Word {
  size_t index;
  std::string label;
  double probability, seconds;
};

class Recognizer {
 public:
  // `network` maps a waveform of audio.samples values to one score per label.
  using Network = std::function<std::vector<double>(const float*)>;

  Recognizer(Audio audio, std::vector<std::string> labels, Network network);

  // Takes any number of samples at the model's rate; returns the words that they complete.
  std::vector<Word> push(const float* samples, size_t count);

  size_t windows() const { return windows_; }  // looked at
  size_t calls() const { return calls_; }      // given to the network

 private:
  void step(std::vector<Word>* words);
  std::vector<double> probabilities();
  double loudest() const;

  Audio audio_;
  std::vector<std::string> labels_;
  Network network_;
  size_t background_;  // labels_.size(): none
  std::vector<float> window_, pending_;
  std::deque<std::vector<double>> recent_;
  uint64_t now_ = 0, silent_until_ = 0;
  size_t windows_ = 0, calls_ = 0;
};

}  // namespace edge_lab
