// Writes JSON: objects and lists in the order of the calls.
#pragma once

#include <string>
#include <vector>

namespace edge_lab {

class Json {
 public:
  // With a key inside an object, without one inside a list or at the top.
  Json& object(const char* key = nullptr) { return open(key, '{', '}'); }
  Json& list(const char* key = nullptr) { return open(key, '[', ']'); }
  Json& end();

  Json& put(const char* key, const std::string& value);
  Json& put(const char* key, const char* value) { return put(key, std::string(value)); }
  Json& put(const char* key, double value);  // NaN and infinity become null: JSON has neither
  Json& put(const char* key, bool value) { return raw(key, value ? "true" : "false"); }
  Json& put(const char* key, int value) { return raw(key, std::to_string(value)); }
  Json& put(const char* key, long value) { return raw(key, std::to_string(value)); }
  Json& put(const char* key, unsigned long value) { return raw(key, std::to_string(value)); }
  Json& null(const char* key) { return raw(key, "null"); }
  template <class T>
  Json& all(const char* key, const std::vector<T>& values) {
    list(key);
    for (const auto& value : values) put(nullptr, value);
    return end();
  }

  const std::string& text() const { return text_; }

 private:
  Json& open(const char* key, char first, char last);
  Json& raw(const char* key, const std::string& value);

  std::string text_, closers_;
  bool first_ = true;
};

}  // namespace edge_lab
