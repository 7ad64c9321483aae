// Percentiles and paired ratios, as edge_lab.measure.timing computes them.
#pragma once

#include <vector>

namespace edge_lab {

// The q-th percentile (0-100), interpolated linearly between samples; `samples` must not be empty.
double percentile(std::vector<double> samples, double q);

// Median of a/b over paired samples, and an interval that holds the true median with 95 % (order statistics).
struct Ratio {
  double value, low, high;
};
Ratio paired_ratio(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace edge_lab
