// Between JavaScript values and the plain structs of the rooms below. The only rooms' border: lib/native/border.ts.
#pragma once
#include <napi.h>

#include "base/error.h"
#include "dawn/device.h"
#include "io/safetensors.h"
#include "io/scan.h"
#include "resident/work.h"
#include "run/forecast.h"
#include "run/plan.h"

namespace weightsmith {

OpenOptions openOptions(const Napi::Object& value);
DeviceFacts deviceFacts(const Napi::Object& value);
// Memory places point into the caller's arrays; `pins` keeps them alive.
Plan planFrom(const Napi::Object& value, std::vector<Napi::ObjectReference>& pins);

// Sizes of buffers, in bytes.
std::vector<uint64_t> sizesFrom(const Napi::Value& value);
ResidentWork workFrom(const Napi::Object& value);

Napi::Object toJs(Napi::Env env, const AdapterFacts& facts);
Napi::Object toJs(Napi::Env env, const Report& report);
Napi::Object toJs(Napi::Env env, const Forecast& forecast);
Napi::Object toJs(Napi::Env env, const Progress& progress);
Napi::Object toJs(Napi::Env env, const Header& header);
Napi::Object toJs(Napi::Env env, const Index& index);
Napi::Object toJs(Napi::Env env, const Scan& scan);

}  // namespace weightsmith
