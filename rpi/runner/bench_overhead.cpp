// What does the runner add to the engine's own call? Bare Module::forward, the same again in a second Module (the
// noise floor), and Session::run, in turn and in changing order; ratios are paired round by round. Where a program's
// memory lies decides percents, so all three are loaded anew, in another order, eight times.
//
//   bench_overhead BUNDLE [ROUNDS]
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>

#include "error.h"
#include "machine.h"
#include "session.h"
#include "stats.h"

namespace {

using edge_lab::Clocks;
using executorch::extension::Module;

using Times = std::array<std::vector<double>, 3>;  // CPU seconds: bare, bare again, session
constexpr int kLoads = 8, kWarmup = 5;

// One Module each for `bare` and `again`, and a Session, loaded in random order and called in turn.
void sample(const edge_lab::Bundle& bundle, std::vector<uint8_t>& x, int rounds, std::mt19937& random, Times& times) {
  const std::string program = bundle.file(bundle.program).string();
  const std::vector<executorch::aten::SizesType> sizes(bundle.input.shape.begin(), bundle.input.shape.end());
  const auto tensor = executorch::extension::from_blob(x.data(), sizes);
  edge_lab::Session session(bundle, 1);  // sets the number of threads, so it comes first; again below
  std::array<std::unique_ptr<Module>, 2> bare;
  std::unique_ptr<edge_lab::Session> ours;
  std::array<size_t, 3> order = {0, 1, 2};
  std::shuffle(order.begin(), order.end(), random);
  bool good = true;
  for (const size_t which : order) {
    if (which == 2) {
      ours = std::make_unique<edge_lab::Session>(bundle, 1);
    } else {
      bare[which] = std::make_unique<Module>(program, Module::LoadMode::Mmap);
      good = good && bare[which]->load_forward() == executorch::runtime::Error::Ok;
    }
  }
  for (int round = -kWarmup; round < rounds; ++round) {
    std::shuffle(order.begin(), order.end(), random);
    for (const size_t which : order) {
      const double before = Clocks::now().cpu;
      good = good && (which == 2 ? ours->run(x.data())[0].data != nullptr : bare[which]->forward(tensor).ok());
      if (round >= 0) times[which].push_back(Clocks::now().cpu - before);
    }
  }
  if (!good) throw edge_lab::Error("a bare call failed.", "executorch says so.", "run edge-lab-runner check.");
}

void measure(const char* path, int rounds) {
  const auto bundle = edge_lab::load_bundle(path, edge_lab::executorch_version());
  auto x = bundle.golden.empty() ? std::vector<uint8_t>(bundle.input.bytes())
                                 : bundle.tensor(bundle.golden[0].tensor, bundle.input);
  Times times;
  std::mt19937 random(0);
  for (int i = 0; i < kLoads; ++i) sample(bundle, x, (rounds + kLoads - 1) / kLoads, random, times);
  const auto noise = edge_lab::paired_ratio(times[1], times[0]), ours = edge_lab::paired_ratio(times[2], times[0]);
  std::printf("%s: p50 bare %.3f ms, session %.3f ms, %zu rounds, CPU time, 1 thread\n", bundle.name().c_str(),
              1e3 * edge_lab::percentile(times[0], 50), 1e3 * edge_lab::percentile(times[2], 50), times[0].size());
  std::printf("  session / bare      %.4f [%.4f, %.4f]\n", ours.value, ours.low, ours.high);
  std::printf("  bare again / bare   %.4f [%.4f, %.4f]\n", noise.value, noise.low, noise.high);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc < 2) throw edge_lab::Error("no bundle is named.", "it times one.", "bench_overhead BUNDLE [ROUNDS]");
    measure(argv[1], argc > 2 ? std::max(8, std::atoi(argv[2])) : 400);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_overhead: %s\n", error.what());
  }
  return 2;
}
