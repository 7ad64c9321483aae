// Errors in three lines, as in edge_lab.core.errors: what happened, why, what to do.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace edge_lab {

class Error : public std::exception {
 public:
  Error(std::string what, std::string why, std::string fix)
      : text_(std::move(what) + "\n  why: " + std::move(why) + "\n  fix: " + std::move(fix)) {}
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  std::string text_;
};

}  // namespace edge_lab
