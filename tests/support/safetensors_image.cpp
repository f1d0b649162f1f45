#include "support/safetensors_image.hpp"

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

namespace quern {

ImageTensor f32_image_tensor(std::string name, std::vector<std::int64_t> shape, std::span<const float> values) {
  ImageTensor tensor{std::move(name), "F32", std::move(shape), {}};
  tensor.data.assign(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return tensor;
}

std::string safetensors_image(std::string_view header, std::string_view data) {
  const std::uint64_t length = header.size();
  std::string image(sizeof length, '\0');
  std::memcpy(image.data(), &length, sizeof length);
  image += header;
  image += data;
  return image;
}

std::string safetensors_image(const std::vector<ImageTensor>& tensors) {
  std::string header = R"({"__metadata__":{"format":"pt"})";
  std::string data;
  for (const ImageTensor& tensor : tensors) {
    header += ",\"" + tensor.name + R"(":{"dtype":")" + tensor.dtype + R"(","shape":[)";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      header += (i > 0 ? "," : "") + std::to_string(tensor.shape[i]);
    }
    header += R"(],"data_offsets":[)" + std::to_string(data.size()) + ",";
    data += tensor.data;
    header += std::to_string(data.size()) + "]}";
  }
  header += '}';
  while (header.size() % 8 != 0) header += ' ';
  return safetensors_image(header, data);
}

ScratchFolder::ScratchFolder() {
  std::string name = (std::filesystem::temp_directory_path() / "quern-test-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) std::abort();
  folder_ = name;
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string ScratchFolder::path(std::string_view file) const {
  return file.empty() ? folder_.string() : (folder_ / file).string();
}

void ScratchFolder::write(std::string_view file, std::string_view bytes) const {
  const std::filesystem::path target = folder_ / file;
  std::filesystem::create_directories(target.parent_path());
  std::ofstream(target, std::ios::binary) << bytes;
}

}  // namespace quern
