// The plain structs of the rooms below as JavaScript values; types as in lib/native/border.ts.
#pragma once
#include <napi.h>

#include "dawn/device.h"
#include "io/safetensors.h"
#include "io/scan.h"
#include "plan/plan.h"
#include "stream/forecast.h"

namespace weightsmith {

Napi::Object toJs(Napi::Env env, const DeviceInfo& facts);
Napi::Object toJs(Napi::Env env, const DeviceList& list);
Napi::Object toJs(Napi::Env env, const Report& report);
Napi::Object toJs(Napi::Env env, const Forecast& forecast);
Napi::Object toJs(Napi::Env env, const Progress& progress);
Napi::Object toJs(Napi::Env env, const Header& header);
Napi::Object toJs(Napi::Env env, const Index& index);
Napi::Object toJs(Napi::Env env, const Scan& scan);

}  // namespace weightsmith
