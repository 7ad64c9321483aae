#include "stats.h"

#include <algorithm>
#include <cmath>

namespace edge_lab {

double percentile(std::vector<double> samples, double q) {
  std::sort(samples.begin(), samples.end());
  const double place = q / 100.0 * static_cast<double>(samples.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, samples.size() - 1);
  const double share = place - static_cast<double>(below);
  return samples[below] + share * (samples[above] - samples[below]);
}

Ratio paired_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> pairs;
  for (size_t i = 0; i < a.size(); ++i) pairs.push_back(a[i] / b[i]);
  std::sort(pairs.begin(), pairs.end());
  const double n = static_cast<double>(pairs.size());
  size_t k = 0;  // with probability 95 %, the median lies between the k-th smallest and the k-th largest pair
  double tail = std::pow(0.5, n), term = tail;
  while (2 * (k + 1) < pairs.size()) {
    term *= (n - static_cast<double>(k)) / static_cast<double>(k + 1);
    if (!(2 * (tail + term) <= 0.05) || term == 0) break;
    tail += term;
    ++k;
  }
  return {percentile(pairs, 50), pairs[k], pairs[pairs.size() - 1 - k]};
}

}  // namespace edge_lab
