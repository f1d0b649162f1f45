#include "math/gpu_devices.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "support/tests_paths.hpp"

namespace quern {
namespace {

void add_device(const TemporaryFolder& root, const std::string& address, const std::string& device_class,
                const std::string& vendor, const std::string& device) {
  const std::string folder = "sys/bus/pci/devices/" + address + "/";
  (void)root.write(folder + "class", device_class + "\n");
  (void)root.write(folder + "vendor", vendor + "\n");
  (void)root.write(folder + "device", device + "\n");
}

constexpr const char* kIds =
    "#\n# a list\n10de  NVIDIA Corporation\n\t1eb8  TU104GL [Tesla T4]\n\t\t10de 12a2  a board\n\t2330  GH100 [H100 SXM5 "
    "80GB]\n8086  Intel Corporation\n\t1eb8  not this one\n\nC 03  Display controller\n\t02  3D controller\n";

TEST(GpuDevices, NamedFromTheList) {
  const TemporaryFolder root;
  (void)root.write("usr/share/misc/pci.ids", kIds);
  add_device(root, "0000:00:00.0", "0x060000", "0x8086", "0x0d57");  // a bridge
  add_device(root, "0000:41:00.0", "0x030200", "0x10de", "0x2330");
  add_device(root, "0000:01:00.0", "0x030000", "0x10de", "0x1eb8");
  (void)root.write("sys/bus/pci/devices/0000:41:00.0/numa_node", "1\n");
  std::filesystem::create_directories(root / "sys/bus/pci/drivers/nvidia");
  std::filesystem::create_symlink("../../drivers/nvidia", root / "sys/bus/pci/devices/0000:41:00.0/driver");
  const auto gpus = read_gpus(root.path());
  ASSERT_EQ(gpus.size(), 2U);
  EXPECT_EQ(gpus[0].address, "0000:01:00.0");
  EXPECT_EQ(gpus[0].kind, "VGA controller");
  EXPECT_EQ(gpus[0].name, "NVIDIA Corporation TU104GL [Tesla T4]");
  EXPECT_EQ(gpus[0].driver, "");
  EXPECT_EQ(gpus[0].numa_node, -1);
  EXPECT_EQ(gpus[1].name, "NVIDIA Corporation GH100 [H100 SXM5 80GB]");
  EXPECT_EQ(gpus[1].kind, "3D controller");
  EXPECT_EQ(gpus[1].driver, "nvidia");
  EXPECT_EQ(gpus[1].numa_node, 1);
}

TEST(GpuDevices, WithoutAListVendorsByNameAndModelsByNumber) {
  const TemporaryFolder root;
  add_device(root, "0000:03:00.0", "0x038000", "0x1002", "0x74a1");
  add_device(root, "0000:04:00.0", "0x120000", "0xabcd", "0x0001");
  (void)root.write("sys/bus/pci/devices/0000:03:00.0/mem_info_vram_total", "206141652992\n");
  const auto gpus = read_gpus(root.path());
  ASSERT_EQ(gpus.size(), 2U);
  EXPECT_EQ(gpus[0].name, "AMD, device 74a1");
  EXPECT_EQ(gpus[0].kind, "display controller");
  EXPECT_EQ(gpus[0].memory_bytes, 206141652992U);
  EXPECT_EQ(gpus[1].name, "vendor abcd, device 0001");
  EXPECT_EQ(gpus[1].kind, "processing accelerator");
}

TEST(GpuDevices, TheDriversOwnNameComesFirst) {
  const TemporaryFolder root;
  (void)root.write("usr/share/misc/pci.ids", kIds);
  add_device(root, "0000:41:00.0", "0x030200", "0x10de", "0x2330");
  (void)root.write("proc/driver/nvidia/gpus/0000:41:00.0/information",
                   "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 45\n");
  const auto gpus = read_gpus(root.path());
  ASSERT_EQ(gpus.size(), 1U);
  EXPECT_EQ(gpus[0].name, "NVIDIA H100 80GB HBM3");
}

TEST(GpuDevices, NoneWithoutABusOrWithNonsenseOnIt) {
  const TemporaryFolder root;
  EXPECT_TRUE(read_gpus(root.path()).empty());
  (void)root.write("sys/bus/pci/devices/0000:00:02.0/class", "display\n");
  (void)root.write("sys/bus/pci/devices/0000:00:03.0/vendor", "0x10de\n");
  EXPECT_TRUE(read_gpus(root.path()).empty());
}

}  // namespace
}  // namespace quern
