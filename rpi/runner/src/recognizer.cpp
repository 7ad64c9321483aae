#include "recognizer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "error.h"

namespace edge_lab {

Recognizer::Recognizer(Audio audio, std::vector<std::string> labels, Network network)
    : audio_(std::move(audio)), labels_(std::move(labels)), network_(std::move(network)), window_(audio_.samples) {
  const auto& name = audio_.listen.background;
  background_ = static_cast<size_t>(std::find(labels_.begin(), labels_.end(), name) - labels_.begin());
  if (labels_.empty()) {
    throw Error("this model has no labels.", "a word that is heard needs a name.", "export it with labels.");
  }
  if (!name.empty() && background_ == labels_.size()) {
    throw Error("the background '" + name + "' is no label of this model.", "its labels are others.",
                "make spec.audio.listen.background one of them, or empty, and export the bundle again.");
  }
}

std::vector<Word> Recognizer::push(const float* samples, size_t count) {
  std::vector<Word> words;
  const size_t hop = audio_.listen.hop;
  pending_.insert(pending_.end(), samples, samples + count);
  size_t used = 0;
  for (; pending_.size() - used >= hop; used += hop) {
    const size_t taken = std::min(hop, window_.size());
    std::copy(window_.begin() + static_cast<std::ptrdiff_t>(taken), window_.end(), window_.begin());
    std::copy_n(pending_.begin() + static_cast<std::ptrdiff_t>(used + hop - taken), taken, window_.end() - static_cast<std::ptrdiff_t>(taken));
    now_ += hop;
    step(&words);
  }
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(used));
  return words;
}

void Recognizer::step(std::vector<Word>* words) {
  const Listen& listen = audio_.listen;
  recent_.push_back(probabilities());
  if (recent_.size() > listen.smooth) recent_.pop_front();
  if (recent_.size() < listen.smooth || now_ < silent_until_) return;
  std::vector<double> mean(labels_.size());
  for (const auto& row : recent_) std::transform(mean.begin(), mean.end(), row.begin(), mean.begin(), std::plus<>());
  for (double& value : mean) value /= static_cast<double>(recent_.size());
  if (background_ < mean.size()) mean[background_] = -1;
  const auto best = static_cast<size_t>(std::max_element(mean.begin(), mean.end()) - mean.begin());
  if (mean[best] < listen.threshold) return;
  recent_.clear();
  std::fill(window_.begin(), window_.end(), 0.0f);
  silent_until_ = now_ + static_cast<uint64_t>(listen.quiet);
  words->push_back({best, labels_[best], mean[best], static_cast<double>(now_) / audio_.sample_rate});
}

std::vector<double> Recognizer::probabilities() {
  ++windows_;
  std::vector<double> found(labels_.size());
  if (loudest() < audio_.listen.gate_db) {
    if (background_ < found.size()) found[background_] = 1;
    return found;
  }
  ++calls_;
  found = network_(window_.data());
  if (found.size() != labels_.size()) {
    throw Error("the program gives " + std::to_string(found.size()) + " scores, the bundle has " +
                    std::to_string(labels_.size()) + " labels.",
                "labels and program belong to different models.", "export the bundle again.");
  }
  const double highest = *std::max_element(found.begin(), found.end());
  for (double& value : found) value = std::exp(value - highest);
  const double sum = std::accumulate(found.begin(), found.end(), 0.0);
  for (double& value : found) value /= sum;
  return found;
}

double Recognizer::loudest() const {
  const size_t hop = std::min(audio_.listen.hop, window_.size());
  double power = 1e-10;  // -100 dB: the logarithm of silence
  for (size_t end = window_.size(); end >= hop; end -= hop) {
    double sum = 0;
    for (size_t i = end - hop; i < end; ++i) sum += static_cast<double>(window_[i]) * static_cast<double>(window_[i]);
    power = std::max(power, sum / static_cast<double>(hop));
  }
  return 10 * std::log10(power);
}

}  // namespace edge_lab
