// Python's two ways to format text: 'x %s' % value and 'x {}'.format(value).
#pragma once

#include <functional>
#include <string_view>

#include "infer/jinja_value.hpp"

namespace quern::jinja {

/// `format % arguments`: a tuple gives one argument each, a dict named ones.
[[nodiscard]] Value format_percent(Heap& heap, std::string_view format, const Value& arguments);

/// str.format(): `look_up` finds what a field names: "", "0", "name", with .attributes and [subscripts] behind.
[[nodiscard]] Value format_braces(Heap& heap, std::string_view format,
                                  const std::function<Value(std::string_view field)>& look_up);

}  // namespace quern::jinja
