// What the addon exports. This folder is the only one that sees napi.h.
#include <napi.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "addon/adapters.h"
#include "addon/device.h"
#include "addon/environment.h"
#include "addon/files.h"
#include "addon/from_js.h"
#include "addon/to_js.h"
#include "gpu/kernel_source.h"
#include "linalg/cholesky.h"
#include "linalg/orthonormal.h"
#include "linalg/qr.h"
#include "linalg/svd.h"
#include "steps/cpu_step.h"

namespace weightsmith {
namespace {

Napi::Value forecastOf(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    std::vector<Napi::ObjectReference> pins;
    return toJs(info.Env(),
                forecast(planFrom(info[0].As<Napi::Object>(), pins), deviceFacts(info[1].As<Napi::Object>())));
  });
}

Napi::Value floatsToJs(Napi::Env env, std::vector<float>& values) {
  auto result = Napi::Float32Array::New(env, values.size());
  std::copy(values.begin(), values.end(), result.Data());
  return result;
}

// A Gram matrix, its size and damping; see linalg/cholesky.h.
Napi::Value factorOf(const Napi::CallbackInfo& info) {
  const auto values = info[0].As<Napi::Float32Array>();
  return PromiseWorker<std::vector<float>>::start(
      info.Env(),
      [gram = std::vector<float>(values.Data(), values.Data() + values.ElementLength()),
       n = static_cast<size_t>(info[1].ToNumber().Int64Value()),
       damping = info[2].ToNumber().DoubleValue()] { return inverseFactor(gram, n, damping); },
      floatsToJs);
}

std::vector<double> doublesOf(const Napi::Value& value) {
  const auto array = value.As<Napi::TypedArray>();
  if (array.TypedArrayType() == napi_float32_array) {
    const auto values = value.As<Napi::Float32Array>();
    return {values.Data(), values.Data() + values.ElementLength()};
  }
  const auto values = value.As<Napi::Float64Array>();
  return {values.Data(), values.Data() + values.ElementLength()};
}

Napi::Value toJs(Napi::Env env, const std::vector<double>& values) {
  auto result = Napi::Float64Array::New(env, values.size());
  std::copy(values.begin(), values.end(), result.Data());
  return result;
}

// A matrix, its rows and columns; see linalg/qr.h.
Napi::Value qrOf(const Napi::CallbackInfo& info) {
  return PromiseWorker<Qr>::start(
      info.Env(),
      [matrix = doublesOf(info[0]), rows = static_cast<size_t>(info[1].ToNumber().Int64Value()),
       columns = static_cast<size_t>(info[2].ToNumber().Int64Value())] { return thinQr(matrix, rows, columns); },
      [](Napi::Env env, Qr& qr) -> Napi::Value {
        Napi::Object result = Napi::Object::New(env);
        result.Set("q", toJs(env, qr.q));
        result.Set("r", toJs(env, qr.r));
        return result;
      });
}

// A matrix of f32, its rows and columns; see linalg/orthonormal.h.
Napi::Value basisOf(const Napi::CallbackInfo& info) {
  const auto values = info[0].As<Napi::Float32Array>();
  return PromiseWorker<std::vector<float>>::start(
      info.Env(),
      [matrix = std::vector<float>(values.Data(), values.Data() + values.ElementLength()),
       rows = static_cast<size_t>(info[1].ToNumber().Int64Value()),
       columns = static_cast<size_t>(info[2].ToNumber().Int64Value())] { return orthonormal(matrix, rows, columns); },
      floatsToJs);
}

// A matrix, its rows and columns; see linalg/svd.h.
Napi::Value svdOf(const Napi::CallbackInfo& info) {
  return PromiseWorker<Svd>::start(
      info.Env(),
      [matrix = doublesOf(info[0]), rows = static_cast<size_t>(info[1].ToNumber().Int64Value()),
       columns = static_cast<size_t>(info[2].ToNumber().Int64Value())] { return smallSvd(matrix, rows, columns); },
      [](Napi::Env env, Svd& svd) -> Napi::Value {
        Napi::Object result = Napi::Object::New(env);
        result.Set("u", toJs(env, svd.u));
        result.Set("s", toJs(env, svd.s));
        result.Set("v", toJs(env, svd.v));
        return result;
      });
}

// The text of a kernel as Dawn gets it; of a folder, where one is named.
Napi::Value sourceOf(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    const KernelSource source(info[0].ToString().Utf8Value(), info[1].IsString() ? info[1].ToString().Utf8Value() : "");
    return Napi::String::New(info.Env(), source.text());
  });
}

// One thread, bytes read + written a second, best of five: the yardstick of the benches.
Napi::Value memcpyBandwidth(const Napi::CallbackInfo& info) {
  const size_t bytes = static_cast<size_t>(info[0].ToNumber().Int64Value());
  return PromiseWorker<double>::start(
      info.Env(),
      [bytes] {
        std::vector<uint8_t> from(bytes, 1), to(bytes, 2);
        double best = 0;
        for (int i = 0; i < 5; i++) {
          const auto start = std::chrono::steady_clock::now();
          std::memcpy(to.data(), from.data(), bytes);
          const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
          from[to[bytes / 2]]++;  // the copy has a use, so it is not optimised away
          best = std::max(best, 2.0 * static_cast<double>(bytes) / time.count());
        }
        return best;
      },
      [](Napi::Env env, double& rate) -> Napi::Value {
        Napi::Object object = Napi::Object::New(env);
        object.Set("bytesPerSecond", rate);
        return object;
      });
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new AddonData());  // node-addon-api deletes it with the environment
  exportDevices(env, exports);
  exportFiles(env, exports);
  const auto strings = [env](const auto& values) {
    Napi::Array array = Napi::Array::New(env, values.size());
    for (uint32_t i = 0; i < values.size(); i++) array.Set(i, Napi::String::New(env, values[i]));
    return array;
  };
  exports.Set("version", WEIGHTSMITH_VERSION);
  std::vector<std::string> codes;
  for (const char* code : allCodes()) codes.emplace_back(code);
  exports.Set("errorCodes", strings(codes));
  exports.Set("kernels", strings(kernelNames()));
  exports.Set("cpuSteps", strings(cpuStepNames()));
  exports.Set("setErrorClass", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                data(info.Env()).errorClass = Napi::Persistent(info[0].As<Napi::Function>());
              }));
  exports.Set("forecast", Napi::Function::New(env, forecastOf));
  exportAdapters(env, exports);
  exports.Set("inverseFactor", Napi::Function::New(env, factorOf));
  exports.Set("thinQr", Napi::Function::New(env, qrOf));
  exports.Set("orthonormal", Napi::Function::New(env, basisOf));
  exports.Set("smallSvd", Napi::Function::New(env, svdOf));
  exports.Set("kernelSource", Napi::Function::New(env, sourceOf));
  exports.Set("memcpyBandwidth", Napi::Function::New(env, memcpyBandwidth));
  return exports;
}

}  // namespace
}  // namespace weightsmith

Napi::Object initWeightsmith(Napi::Env env, Napi::Object exports) { return weightsmith::init(env, exports); }
NODE_API_MODULE(weightsmith, initWeightsmith)
