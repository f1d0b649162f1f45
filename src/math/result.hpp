// Result<T>: a value, or an error whose sentence a user can act on.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace quern {

/// What kind of failure an Error is. The program maps `bad_input` to exit code 2 and the others to 1.
enum class ErrorCode {
  bad_input,   ///< a file, key, tensor or argument is not what it must be
  io,          ///< the system refused to open, read, write, sync or rename
  no_memory,   ///< a planned size does not fit
  unsupported  ///< valid, but this build or machine cannot do it
};

/// One clear sentence: which file, key or tensor, what was expected, what was found.
struct Error {
  ErrorCode code = ErrorCode::bad_input;
  std::string message;
};

/// A value of type T or an Error. Check `has_value()` (or `if (!result)`) before `*result`.
template <class T>
using Result = tl::expected<T, Error>;

/// Builds the failing side of any Result: `return bad_input("x.yaml:3:5: ...")`.
[[nodiscard]] inline tl::unexpected<Error> bad_input(std::string message) {
  return tl::make_unexpected(Error{ErrorCode::bad_input, std::move(message)});
}
[[nodiscard]] inline tl::unexpected<Error> io_error(std::string message) {
  return tl::make_unexpected(Error{ErrorCode::io, std::move(message)});
}
[[nodiscard]] inline tl::unexpected<Error> no_memory(std::string message) {
  return tl::make_unexpected(Error{ErrorCode::no_memory, std::move(message)});
}
[[nodiscard]] inline tl::unexpected<Error> unsupported(std::string message) {
  return tl::make_unexpected(Error{ErrorCode::unsupported, std::move(message)});
}

}  // namespace quern
