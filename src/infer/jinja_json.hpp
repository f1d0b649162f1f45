// JSON text to the values of a template, straight into a Heap.
#pragma once

#include <string_view>

#include "infer/jinja_value.hpp"

namespace quern::jinja {

/// Objects become dicts in their order, numbers int or float as they are written. Fails (jinja::Failure) on text that is no
/// JSON, integers beyond 64 bits and nesting beyond kValueDepth.
[[nodiscard]] Value read_json(Heap& heap, std::string_view text);

}  // namespace quern::jinja
