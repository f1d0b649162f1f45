// Classes: PCI Code and ID Assignment, 03h and 12h. The list of names: pci.ids(5).
#include "math/gpu_devices.hpp"

#include <fmt/format.h>

#include <fstream>
#include <map>
#include <system_error>
#include <utility>

#include "math/system_files.hpp"

namespace quern {
namespace {

std::string kind_of(std::int64_t device_class) {
  const std::int64_t base = device_class >> 16, sub = (device_class >> 8) & 0xFF;
  if (base == 0x12) return "processing accelerator";
  if (base != 0x03) return "";
  switch (sub) {
    case 0x00:
      return "VGA controller";
    case 0x02:
      return "3D controller";
    default:
      return "display controller";
  }
}

/// Makers of GPUs, for machines without a list of names.
std::string_view known_vendor(std::int64_t vendor) {
  switch (vendor) {
    case 0x10DE:
      return "NVIDIA";
    case 0x1002:
      return "AMD";
    case 0x8086:
      return "Intel";
    case 0x1A03:
      return "ASPEED";
    case 0x102B:
      return "Matrox";
    case 0x1AF4:
      return "Red Hat (virtio)";
    case 0x1DA3:
      return "Habana Labs";
    default:
      return "";
  }
}

struct Ids {
  std::int64_t vendor = 0, device = 0;
  bool operator<(const Ids& other) const { return std::pair(vendor, device) < std::pair(other.vendor, other.device); }
};

/// Names of the wanted ids. Lines of the list: "10de  NVIDIA Corporation", "\t2330  GH100 [H100]", "\t\t..." for subsystems;
/// it ends with classes, "C 03 ...".
void look_up(const std::filesystem::path& list, std::map<Ids, std::string>& names) {
  std::ifstream stream(list);
  std::int64_t vendor = -1;
  std::string vendor_name;
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("C ")) break;
    const bool is_device = line.starts_with('\t');
    if (line.size() < 7 || line.starts_with('#') || line.starts_with("\t\t")) continue;
    const std::size_t at = is_device ? 1 : 0;
    const auto id = whole_number("0x" + line.substr(at, 4));
    if (!id) continue;
    const std::string name = line.substr(at + 6);
    if (!is_device) {
      vendor = *id;
      vendor_name = name;
    } else if (const auto wanted = names.find({vendor, *id}); wanted != names.end()) {
      wanted->second = fmt::format("{} {}", vendor_name, name);
    }
  }
}

}  // namespace

std::vector<GpuDevice> read_gpus(const std::filesystem::path& root) {
  std::vector<GpuDevice> gpus;
  std::vector<Ids> ids;
  std::map<Ids, std::string> names;
  const std::filesystem::path bus = root / "sys/bus/pci/devices";
  for (const std::string& address : entries_of(bus)) {
    const std::filesystem::path folder = bus / address;
    const std::string kind = kind_of(number_in(folder / "class").value_or(0));
    if (kind.empty()) continue;
    std::error_code error;
    const auto driver = std::filesystem::read_symlink(folder / "driver", error);
    const auto memory = number_in(folder / "mem_info_vram_total");
    gpus.push_back({.address = address,
                    .kind = kind,
                    .name = field_in(root / "proc/driver/nvidia/gpus" / address / "information", "Model"),
                    .driver = error ? "" : driver.filename().string(),
                    .memory_bytes = memory && *memory > 0 ? static_cast<std::uint64_t>(*memory) : 0,
                    .numa_node = number_in(folder / "numa_node").value_or(-1)});
    ids.push_back({number_in(folder / "vendor").value_or(0), number_in(folder / "device").value_or(0)});
    names[ids.back()];
  }
  if (gpus.empty()) return gpus;
  for (const char* list : {"usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids"}) look_up(root / list, names);
  for (std::size_t i = 0; i < gpus.size(); ++i) {
    if (gpus[i].name.empty()) gpus[i].name = names[ids[i]];
    if (!gpus[i].name.empty()) continue;
    const std::string_view vendor = known_vendor(ids[i].vendor);
    gpus[i].name = vendor.empty() ? fmt::format("vendor {:04x}, device {:04x}", ids[i].vendor, ids[i].device)
                                  : fmt::format("{}, device {:04x}", vendor, ids[i].device);
  }
  return gpus;
}

}  // namespace quern
