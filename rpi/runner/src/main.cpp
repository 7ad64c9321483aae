// edge-lab-runner: run, check and time a bundle without Python.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "args.h"
#include "bench.h"
#include "check.h"
#include "error.h"
#include "json.h"
#include "listen.h"
#include "predict.h"
#include "session.h"
#include "wav.h"

namespace edge_lab {
namespace {

constexpr const char* kUsage = R"(usage: edge-lab-runner COMMAND BUNDLE [options]

  run BUNDLE [FILE ...]   answers for pictures (JPEG, PNG), recordings (WAV) or raw tensors (.bin);
                          without any, for the bundle's own golden inputs. A file that can't be read
                          is told on standard error; the others are answered, and the exit code is 2
      --threads N         CPU threads (1)
      --json              print JSON
  check BUNDLE            intact, runs here, preprocesses and answers as recorded
      --threads N, --json as above
  bench BUNDLE            time it; the form is schema/measurement.schema.json
      --scenario NAME     single_stream, offline_batch or cold_start; may be repeated (single_stream)
      --threads N         CPU threads (1)
      --rounds N          samples (30; 10 for offline_batch and cold_start)
      --warmup N          calls before the first sample (5)
      --batch N           inputs in one sample of offline_batch (one of each golden case)
      --pin CPU,CPU       bind the process to these cores
      --energy-ms N       how long to read the counters of energy, where there are any (2000)
      --json FILE         write the measurements
  listen BUNDLE [SOURCE]  say the words of a WAV file, or of a pipe (-): a WAV, or raw 16-bit little-endian mono samples
      --microphone        record with arecord instead
      --rate HZ           of the raw samples, or of the microphone (the bundle's)
      --stats             at the end, what it cost, on standard error
      --threads N as above, --json: an object a line
  --version, --help

example: edge-lab-runner run artifacts/efficientnet_lite0/xnnpack-int8 cat.jpg
exit codes: 0 good, 1 a check failed, 2 wrong usage or an error
)";

fs::path bundle_of(const Args& args) {
  if (args.rest.empty()) throw Error("no bundle is named.", "every command works on one.", "edge-lab-runner run BUNDLE");
  return args.rest[0];
}

void no_more(const Args& args) {
  if (args.rest.size() > 1) throw Error("'" + args.rest[1] + "' is one argument too many.", "one bundle is enough.",
                                        "edge-lab-runner --help shows the arguments.");
}

// One input's way through the model, with what it took.
struct Answer {
  std::string input;
  double prepare_ms, run_ms;
  std::vector<Prediction> top;  // of classifiers
  std::vector<std::vector<double>> values;
};

Answer answer(const std::string& name, const std::vector<uint8_t>& x, double prepare_ms, const Bundle& bundle,
              Session& session) {
  const Clocks before = Clocks::now();
  const auto& outputs = session.run(x.data());
  Answer found{name, prepare_ms, 1e3 * (Clocks::now().wall - before.wall), {}, {}};
  for (size_t i = 0; i < outputs.size(); ++i) found.values.push_back(values_of(outputs[i].data, bundle.outputs[i]));
  if (bundle.task == "classify" || bundle.task == "keyword") found.top = predict(found.values[0], bundle);
  return found;
}

// What can be read is answered; of the rest the errors go to standard error, and `failed` counts them.
std::vector<Answer> answers(const Args& args, const Bundle& bundle, Session& session, size_t* failed) {
  std::vector<Answer> all;
  std::vector<std::string> files(args.rest.begin() + 1, args.rest.end());
  if (files.empty()) {
    for (const GoldenCase& one : bundle.golden) files.push_back(bundle.file(one.input.value_or(one.tensor)).string());
  }
  for (const std::string& file : files) {
    const Clocks before = Clocks::now();
    try {
      const auto x = input_of(file, bundle);
      all.push_back(answer(file, x, 1e3 * (Clocks::now().wall - before.wall), bundle, session));
    } catch (const Error& error) {
      std::fprintf(stderr, "edge-lab-runner: %s\n", error.what());
      ++*failed;
    }
  }
  return all;
}

void range_of(const std::vector<double>& values, double* least, double* most) {
  *least = *most = values.empty() ? 0 : values[0];
  for (const double value : values) *least = std::min(*least, value), *most = std::max(*most, value);
}

std::string as_json(const std::vector<Answer>& all, const Bundle& bundle, int threads) {
  Json json;
  json.object().put("bundle", bundle.name()).put("executorch", executorch_version()).put("threads", threads);
  json.list("results");
  for (const Answer& one : all) {
    json.object().put("input", one.input).put("preprocess_ms", one.prepare_ms).put("run_ms", one.run_ms).list("top");
    for (const Prediction& p : one.top) {
      json.object().put("index", p.index).put("label", p.label).put("score", p.score).end();
    }
    json.end().list("outputs");
    for (size_t i = 0; i < one.values.size(); ++i) {
      double least = 0, most = 0;
      range_of(one.values[i], &least, &most);
      json.object().put("name", bundle.outputs[i].name).all("shape", bundle.outputs[i].shape);
      json.put("dtype", name_of(bundle.outputs[i].dtype)).put("min", least).put("max", most).end();
    }
    json.end().end();
  }
  return json.end().end().text() + "\n";
}

void print_text(const std::vector<Answer>& all, const Bundle& bundle) {
  for (const Answer& one : all) {
    std::printf("%s\n", one.input.c_str());
    for (const Prediction& p : one.top) {
      std::printf(bundle.softmax ? "  %6.2f %%  %4zu  %s\n" : "  %8.4f  %4zu  %s\n", (bundle.softmax ? 100 : 1) * p.score,
                  p.index, p.label.c_str());
    }
    for (size_t i = 0; one.top.empty() && i < one.values.size(); ++i) {
      double least = 0, most = 0;
      range_of(one.values[i], &least, &most);
      std::printf("  %s: %zu values from %g to %g\n", bundle.outputs[i].name.c_str(), one.values[i].size(), least, most);
    }
  }
}

int run(const std::vector<std::string>& words) {
  const Args args = Args::parse(words, {"--threads"}, {"--json"});
  const int threads = args.whole("--threads", 1, 1, 1024);
  const Bundle bundle = load_bundle(bundle_of(args), executorch_version());
  warn_of_difference(bundle);
  Session session(bundle, threads);
  size_t failed = 0;
  const auto all = answers(args, bundle, session, &failed);
  if (args.has("--json")) {
    std::fputs(as_json(all, bundle, threads).c_str(), stdout);
  } else {
    print_text(all, bundle);
  }
  return failed == 0 ? 0 : 2;
}

int check(const std::vector<std::string>& words) {
  const Args args = Args::parse(words, {"--threads"}, {"--json"});
  no_more(args);
  const auto lines = edge_lab::check(bundle_of(args), args.whole("--threads", 1, 1, 1024));
  bool good = true;
  Json json;
  json.object().put("bundle", bundle_of(args).string()).list("lines");
  for (const CheckLine& line : lines) {
    good = good && line.ok;
    json.object().put("name", line.name).put("ok", line.ok).put("detail", line.detail).end();
    if (!args.has("--json")) std::printf("%s  %-13s  %s\n", line.ok ? "PASS" : "FAIL", line.name.c_str(), line.detail.c_str());
  }
  json.end().put("ok", good).end();
  if (args.has("--json")) std::printf("%s\n", json.text().c_str());
  return good ? 0 : 1;
}

int bench(const std::vector<std::string>& words) {
  const Args args = Args::parse(
      words, {"--scenario", "--threads", "--rounds", "--warmup", "--batch", "--pin", "--json", "--sys", "--energy-ms"}, {});
  no_more(args);
  BenchConfig config;
  if (args.has("--scenario")) config.scenarios = args.options.at("--scenario");
  for (const std::string& name : config.scenarios) {
    if (name != "single_stream" && name != "offline_batch" && name != "cold_start") {
      throw Error("there is no scenario '" + name + "'.", "it names how inputs arrive.",
                  "scenarios are single_stream, offline_batch and cold_start.");
    }
  }
  config.threads = args.whole("--threads", 1, 1, 1024);
  config.warmup = args.whole("--warmup", config.warmup, 0, 1000000);
  if (args.has("--rounds")) config.rounds = args.whole("--rounds", 1, 1, 1000000);
  if (args.has("--batch")) config.batch = args.whole("--batch", 1, 1, 100000);
  if (args.has("--pin")) config.cpus = whole_numbers("--pin", args.text("--pin", ""), 1023);
  config.energy_seconds = args.whole("--energy-ms", 2000, 1, 600000) / 1e3;
  config.sys = args.text("--sys", "/sys");
  std::string command = "edge-lab-runner bench " + fs::path(bundle_of(args)).filename().string();
  for (const auto& [name, values] : args.options) {
    for (const auto& value : values) {
      if (name != "--json" && name != "--sys") command += " " + name + " " + value;  // no path of this machine
    }
  }
  const BenchResult found = edge_lab::bench(bundle_of(args), config, command);
  if (args.has("--json")) write_file(args.text("--json", ""), found.json);
  std::fputs(found.table.c_str(), stdout);
  return 0;
}

// JSON without its line ends; those inside texts are escaped.
std::string one_line(const std::string& json) {
  std::string line;
  for (size_t i = 0; i < json.size(); ++i) {
    if (json[i] != '\n') {
      line += json[i];
      continue;
    }
    if (line.back() == ',') line += ' ';
    while (i + 1 < json.size() && json[i + 1] == ' ') ++i;
  }
  return line;
}

void print_word(const Word& word, bool as_json) {
  if (as_json) {
    Json json;
    json.object().put("label", word.label).put("probability", word.probability).put("seconds", word.seconds).end();
    std::printf("%s\n", one_line(json.text()).c_str());
  } else {
    std::printf("%9.2f s  %s  %.0f %%\n", word.seconds, word.label.c_str(), 100 * word.probability);
  }
  if (std::fflush(stdout) != 0) throw Error("a word could not be written.", "standard output is closed.", "pipe it into something that reads.");
}

int listen(const std::vector<std::string>& words) {
  const Args args = Args::parse(words, {"--threads", "--rate"}, {"--json", "--stats", "--microphone"});
  const fs::path bundle = bundle_of(args);
  ListenConfig config;
  config.microphone = args.has("--microphone");
  if (args.rest.size() != (config.microphone ? 1 : 2)) {
    throw Error("one source is needed.", "a WAV file, - for a pipe, or --microphone; not several.",
                "arecord -q -t raw -f S16_LE -c 1 -r 16000 | edge-lab-runner listen BUNDLE -");
  }
  if (!config.microphone) config.source = args.rest[1];
  if (args.has("--rate")) config.rate = args.whole("--rate", 0, kLeastRate, kMostRate);
  config.threads = args.whole("--threads", 1, 1, 1024);
  const Heard heard = listen(bundle, config, [&](const Word& word) { print_word(word, args.has("--json")); });
  if (args.has("--stats")) {
    const double share = heard.seconds > 0 ? heard.cpu_s / heard.seconds : 0;
    std::fprintf(stderr, "%.1f s of sound: %lld windows, the network called for %lld; %.5f CPU seconds a second\n",
                 heard.seconds, static_cast<long long>(heard.windows), static_cast<long long>(heard.calls), share);
  }
  return 0;
}

int command(const std::vector<std::string>& words) {
  const std::string name = words.empty() ? "" : words[0];
  const std::vector<std::string> rest(words.begin() + !words.empty(), words.end());
  for (const std::string& word : words) {
    if (word == "--help" || word == "-h") return std::fputs(kUsage, stdout), 0;
  }
  if (name == "run") return run(rest);
  if (name == "check") return check(rest);
  if (name == "bench") return bench(rest);
  if (name == "listen") return listen(rest);
  if (name == "_cold" && rest.size() == 2) return cold_child(rest[0], std::atoi(rest[1].c_str())), 0;
  if (name == "--version") return std::printf("edge-lab-runner, executorch %s\n", executorch_version().c_str()), 0;
  throw Error(name.empty() ? "no command is named." : "there is no command '" + name + "'.",
              "commands are run, check, bench and listen.", "edge-lab-runner --help shows the arguments and an example.");
}

}  // namespace
}  // namespace edge_lab

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOFBF, 1 << 16);
  try {
    const int code = edge_lab::command({argv + 1, argv + argc});
    if (std::fflush(stdout) != 0) throw edge_lab::Error("the answer could not be written.", "standard output is closed.", "pipe it into something that reads.");
    return code;
  } catch (const edge_lab::Error& error) {
    std::fprintf(stderr, "edge-lab-runner: %s\n", error.what());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "edge-lab-runner: something unforeseen happened.\n  why: %s.\n  fix: report it, with the command.\n",
                 error.what());
  }
  return 2;
}
