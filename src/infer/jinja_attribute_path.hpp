// The `attribute` argument of filters: "a.b.0" leads from an element to what the filter looks at.
#pragma once

#include <vector>

#include "infer/jinja_interpreter.hpp"

namespace quern::jinja {

class AttributePath {
 public:
  /// No `attribute`: the element itself. `fallback` replaces what is undefined on the way.
  explicit AttributePath(const Value* attribute, const Value* fallback = nullptr);
  [[nodiscard]] Value of(Interpreter& run, const Value& element) const;

 private:
  std::vector<Value> parts_;
  const Value* fallback_;
};

}  // namespace quern::jinja
