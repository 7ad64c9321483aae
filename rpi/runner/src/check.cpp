#include "check.h"

#include <cmath>
#include <cstdio>
#include <optional>

#include "error.h"
#include "predict.h"
#include "session.h"

namespace edge_lab {
namespace {

std::string count(size_t good, size_t all) { return std::to_string(good) + " of " + std::to_string(all); }

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2g", value);
  return text;
}

CheckLine preprocessing(const Bundle& bundle) {
  size_t good = 0, all = 0;
  std::string first_bad;
  for (const GoldenCase& one : bundle.golden) {
    if (!one.input) continue;
    ++all;
    const bool same = input_of(bundle.file(*one.input), bundle) == bundle.tensor(one.tensor, bundle.input);
    good += same;
    if (!same && first_bad.empty()) first_bad = *one.input;
  }
  if (all == 0) return {"preprocessing", true, "no encoded inputs to try"};
  return {"preprocessing", good == all,
          count(good, all) + " inputs bit-equal" + (first_bad.empty() ? "" : "; the first that is not: " + first_bad)};
}

// Whether two rankings are the same, where classes whose recorded scores lie within the tolerance may swap.
bool same_ranking(const std::vector<double>& expected, const std::vector<double>& found, size_t places, double atol) {
  const auto a = best(expected, places), b = best(found, places);
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i] && !(std::abs(expected[a[i]] - expected[b[i]]) <= atol)) return false;
  }
  return a.size() == b.size();
}

struct Outcome {
  size_t within = 0, top1 = 0, top5 = 0;
  double worst = -1, difference = 0, allowed = 0;  // `worst`: of all outputs, the largest share of what is allowed
  size_t output = 0;                               // whose difference that is
};

// The largest difference between two lists; NaN if one is in it.
double difference_of(const std::vector<double>& expected, const std::vector<double>& found) {
  double largest = 0;
  for (size_t k = 0; k < found.size(); ++k) {
    const double apart = std::abs(found[k] - expected[k]);
    if (std::isnan(apart) || apart > largest) largest = apart;
    if (std::isnan(largest)) break;
  }
  return largest;
}

Outcome run_golden(const Bundle& bundle, Session& session) {
  Outcome total;
  for (const GoldenCase& one : bundle.golden) {
    const auto x = bundle.tensor(one.tensor, bundle.input);
    const auto& outputs = session.run(x.data());
    bool within = true;
    for (size_t i = 0; i < outputs.size(); ++i) {
      const auto expected = values_of(bundle.tensor(one.outputs[i], bundle.outputs[i]).data(), bundle.outputs[i]);
      const auto found = values_of(outputs[i].data, bundle.outputs[i]);
      const double difference = difference_of(expected, found), share = difference / one.atols[i];
      within = within && difference <= one.atols[i];
      if (!std::isnan(total.worst) && !(share <= total.worst)) {
        total.worst = share, total.difference = difference, total.allowed = one.atols[i], total.output = i;
      }
      if (i == 0) {
        total.top1 += same_ranking(expected, found, 1, one.atols[0]);
        total.top5 += same_ranking(expected, found, 5, one.atols[0]);
      }
    }
    total.within += within;
  }
  return total;
}

std::vector<CheckLine> golden(const Bundle& bundle, Session& session) {
  const size_t all = bundle.golden.size();
  if (all == 0) return {{"golden", false, "the bundle holds no golden vectors: nothing says what it should answer"}};
  const Outcome found = run_golden(bundle, session);
  std::string detail = count(found.within, all) + " within tolerance; largest difference " +
                       short_number(found.difference) + ", allowed " + short_number(found.allowed);
  if (bundle.outputs.size() > 1) detail += ", at output '" + bundle.outputs[found.output].name + "'";
  std::vector<CheckLine> lines{{"golden", found.within == all, detail}};
  if (bundle.task == "classify" || bundle.task == "keyword") {
    lines.push_back({"answers", found.top1 == all && found.top5 == all,
                     "top-1 equal in " + count(found.top1, all) + ", top-5 in " + count(found.top5, all)});
  }
  return lines;
}

// Runs `step`; an Error becomes a failed line.
template <class Step>
bool guarded(std::vector<CheckLine>& lines, const char* name, const Step& step) {
  try {
    step();
    return true;
  } catch (const Error& error) {
    std::string text = error.what();
    for (size_t at = text.find('\n'); at != std::string::npos; at = text.find('\n')) text[at] = ' ';
    lines.push_back({name, false, text});
    return false;
  }
}

}  // namespace

std::vector<CheckLine> check(const fs::path& path, int threads) {
  std::error_code none;
  if (!fs::is_regular_file(path / "bundle.json", none)) load_bundle(path, executorch_version());  // says what is missing
  std::vector<CheckLine> lines;
  Bundle bundle;
  if (!guarded(lines, "intact", [&] { bundle = load_bundle(path, executorch_version()); })) return lines;
  lines.push_back({"intact", true,
                   std::to_string(bundle.files.size()) + " checksums, schema " + std::to_string(bundle.schema_version) +
                       ", executorch " + bundle.min_version + " or newer"});
  warn_of_difference(bundle);
  std::optional<Session> session;
  if (!guarded(lines, "runs here", [&] { session.emplace(bundle, threads); })) return lines;
  lines.push_back({"runs here", true, "executorch " + executorch_version()});
  guarded(lines, "preprocessing", [&] { lines.push_back(preprocessing(bundle)); });
  guarded(lines, "golden", [&] {
    for (auto& line : golden(bundle, *session)) lines.push_back(std::move(line));
  });
  return lines;
}

}  // namespace edge_lab
