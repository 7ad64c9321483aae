#include "args.h"

#include <algorithm>
#include <charconv>

#include "error.h"

namespace edge_lab {
namespace {

constexpr const char* kHelp = "edge-lab-runner --help shows the arguments and an example.";

int whole_number(const std::string& name, const std::string& text, int least, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
    throw Error(name + " '" + text + "' can't be used.",
                "a whole number from " + std::to_string(least) + " to " + std::to_string(most) + " is needed.", kHelp);
  }
  return value;
}

}  // namespace

Args Args::parse(const std::vector<std::string>& words, const std::vector<std::string>& with_value,
                 const std::vector<std::string>& flags) {
  const auto known = [](const std::vector<std::string>& list, const std::string& name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  Args found;
  bool options_end = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (options_end || word.size() < 2 || word[0] != '-') {
      found.rest.push_back(word);
      continue;
    }
    if (word == "--") {
      options_end = true;
      continue;
    }
    const size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    if (known(with_value, name)) {
      if (equals == std::string::npos && i + 1 == words.size()) throw Error(name + " needs a value.", "none follows.", kHelp);
      found.options[name].push_back(equals == std::string::npos ? words[++i] : word.substr(equals + 1));
    } else if (known(flags, name) && equals == std::string::npos) {
      found.options[name].push_back("");
    } else {
      throw Error("unknown option " + word + ".", "this command does not have it.", kHelp);
    }
  }
  return found;
}

std::string Args::text(const std::string& name, const std::string& otherwise) const {
  const auto found = options.find(name);
  return found == options.end() ? otherwise : found->second.back();
}

int Args::whole(const std::string& name, int otherwise, int least, int most) const {
  return has(name) ? whole_number(name, text(name, ""), least, most) : otherwise;
}

std::vector<int> whole_numbers(const std::string& name, const std::string& text, int most) {
  std::vector<int> found;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find(',', start), text.size());
    found.push_back(whole_number(name, text.substr(start, end - start), 0, most));
    start = end + 1;
  }
  return found;
}

}  // namespace edge_lab
