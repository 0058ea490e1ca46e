// What JavaScript hands over, as the plain structs of the rooms below; types as in lib/native/border.ts. Throws Error
// ARGUMENT for what is of another type.
#pragma once
#include <napi.h>

#include <cstdint>
#include <vector>

#include "dawn/device.h"
#include "graph/work.h"
#include "plan/plan.h"
#include "stream/forecast.h"

namespace weightsmith {

OpenOptions openOptions(const Napi::Object& value);
DeviceFacts deviceFacts(const Napi::Object& value);
// Memory places point into the caller's arrays; `pins` keeps them alive.
Plan planFrom(const Napi::Object& value, std::vector<Napi::ObjectReference>& pins);

// Sizes of buffers, in bytes.
std::vector<uint64_t> sizesFrom(const Napi::Value& value);
DeviceWork workFrom(const Napi::Object& value);

}  // namespace weightsmith
