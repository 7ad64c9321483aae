// The command line: options with and without a value, in any order, and the rest.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace edge_lab {

struct Args {
  std::vector<std::string> rest;
  std::map<std::string, std::vector<std::string>> options;

  // `with_value` and `flags` name what is known, such as "--json". Throws Error for anything else.
  static Args parse(const std::vector<std::string>& words, const std::vector<std::string>& with_value,
                    const std::vector<std::string>& flags);

  bool has(const std::string& name) const { return options.count(name) != 0; }
  // The last value given, or `otherwise`.
  std::string text(const std::string& name, const std::string& otherwise) const;
  int whole(const std::string& name, int otherwise, int least, int most) const;
};

// "0,2" to {0, 2}. Throws Error for anything else.
std::vector<int> whole_numbers(const std::string& name, const std::string& text, int most);

}  // namespace edge_lab
