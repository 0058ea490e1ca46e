// Engines as JavaScript sees them: objects that run plans and keep buffers, and end with their environment.
#pragma once
#include <napi.h>

namespace weightsmith {

// Adds `devices`, `open` and `join` to what the addon exports.
void exportDevices(Napi::Env env, Napi::Object exports);

}  // namespace weightsmith
