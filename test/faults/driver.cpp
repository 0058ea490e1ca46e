// A Vulkan driver with a fault, for tests of which devices are taken: it hands every call on to the driver that
// WEIGHTSMITH_TEST_DRIVER names, but for one. WEIGHTSMITH_TEST_DRIVER_FAULT says which: `old` offers no optional
// feature, as old drivers do, and `idle` takes every dispatch and runs none.
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

namespace {

using Function = void (*)();
using Find = Function (*)(void*, const char*);

constexpr uint32_t kFeatures = 55;  // Members of VkPhysicalDeviceFeatures, each a word.

bool hasFault(const char* name) {
  const char* fault = getenv("WEIGHTSMITH_TEST_DRIVER_FAULT");
  return fault && strcmp(fault, name) == 0;
}

Function symbol(const char* name) {
  static void* const library = dlopen(getenv("WEIGHTSMITH_TEST_DRIVER"), RTLD_NOW);
  return reinterpret_cast<Function>(dlsym(library, name));
}

Find find() {
  static const auto real = reinterpret_cast<Find>(symbol("vk_icdGetInstanceProcAddr"));
  return real;
}

void* instance = nullptr;
Find findOfDevice = nullptr;

void features(void* device, uint32_t* values) {
  reinterpret_cast<void (*)(void*, uint32_t*)>(find()(instance, "vkGetPhysicalDeviceFeatures"))(device, values);
  memset(values, 0, kFeatures * sizeof(uint32_t));
}

void features2(void* device, uint8_t* values) {
  reinterpret_cast<void (*)(void*, uint8_t*)>(find()(instance, "vkGetPhysicalDeviceFeatures2"))(device, values);
  memset(values + 16, 0, kFeatures * sizeof(uint32_t));
}

void dispatch(void*, uint32_t, uint32_t, uint32_t) {}

Function ofDevice(void* device, const char* name) {
  if (hasFault("idle") && strcmp(name, "vkCmdDispatch") == 0) return reinterpret_cast<Function>(dispatch);
  return findOfDevice(device, name);
}

}  // namespace

extern "C" {

Function vk_icdGetInstanceProcAddr(void* of, const char* name) {
  if (of) instance = of;
  if (hasFault("old")) {
    if (strcmp(name, "vkGetPhysicalDeviceFeatures") == 0) return reinterpret_cast<Function>(features);
    if (strncmp(name, "vkGetPhysicalDeviceFeatures2", 28) == 0) return reinterpret_cast<Function>(features2);
  }
  if (hasFault("idle")) {
    if (strcmp(name, "vkCmdDispatch") == 0) return reinterpret_cast<Function>(dispatch);
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) {
      findOfDevice = reinterpret_cast<Find>(find()(of, name));
      return reinterpret_cast<Function>(ofDevice);
    }
  }
  return find()(of, name);
}

int32_t vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t* version) {
  const auto real = symbol("vk_icdNegotiateLoaderICDInterfaceVersion");
  return reinterpret_cast<int32_t (*)(uint32_t*)>(real)(version);
}

Function vk_icdGetPhysicalDeviceProcAddr(void* of, const char* name) {
  if (hasFault("old") && strncmp(name, "vkGetPhysicalDeviceFeatures", 27) == 0) return vk_icdGetInstanceProcAddr(of, name);
  const auto real = symbol("vk_icdGetPhysicalDeviceProcAddr");
  return real ? reinterpret_cast<Find>(real)(of, name) : nullptr;
}
}
