// Runs the built program as a user would, and keeps what it printed.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace quern {

struct ProgramResult {
  int code = -1;  ///< exit code, or 128 + signal
  std::string out, err;
};

inline std::string read_text_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A folder for one test's files, empty at the start and removed at the end.
class TestFolder {
 public:
  explicit TestFolder(const std::string& name)
      : path_(std::filesystem::path(testing::TempDir()) / (name + "_" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TestFolder() {
    std::error_code code;
    std::filesystem::remove_all(path_, code);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  [[nodiscard]] std::string file(const std::string& name) const { return (path_ / name).string(); }
  [[nodiscard]] std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return file(name);
  }

 private:
  std::filesystem::path path_;
};

/// Runs a line of the shell.
inline ProgramResult run_shell(const std::string& line) {
  const TestFolder folder("quern_shell");
  const std::string out = folder.file("out"), err = folder.file("err");
  const int status = std::system(("(" + line + ") >" + out + " 2>" + err + " </dev/null").c_str());
  ProgramResult result;
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_text_file(out);
  result.err = read_text_file(err);
  return result;
}

/// Runs `quern ARGUMENTS`, with `environment` such as "QUERN_ISA=avx2" in front.
inline ProgramResult run_quern(const std::string& arguments, const std::string& environment = "") {
  return run_shell("env " + environment + " " QUERN_BINARY " " + arguments);
}

}  // namespace quern
