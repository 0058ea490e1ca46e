// Calls about low-rank changes of weights: what they begin with, and how large they are.
#pragma once
#include <napi.h>

namespace weightsmith {

// Adds them to what the addon exports.
void exportAdapters(Napi::Env env, Napi::Object exports);

}  // namespace weightsmith
