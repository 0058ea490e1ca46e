// Calls about files: headers, hashes, scans, locks, syncs.
#pragma once
#include <napi.h>

namespace weightsmith {

// Adds them to what the addon exports.
void exportFiles(Napi::Env env, Napi::Object exports);

}  // namespace weightsmith
