// Joules by counters of the machine, or the reason why there are none: edge_lab.measure.energy in C++.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "files.h"

namespace edge_lab {

struct Energy {
  std::string tier = "not available", source, reason;
  std::optional<double> joules, watts;  // per call; meanwhile
};

// Runs `call` for so many seconds if RAPL (under `sys`/class/powercap) or a Raspberry Pi 5's PMIC can be read.
Energy energy(const std::function<void()>& call, const fs::path& sys, double seconds);

// Volts times amperes over the rails in the answer of `vcgencmd pmic_read_adc`; nullopt if no rail has both.
std::optional<double> pmic_watts(const std::string& text);

}  // namespace edge_lab
