#include "addon/to_js.h"

#include <string>
#include <vector>

namespace weightsmith {
namespace {

Napi::Array names(Napi::Env env, const std::vector<std::string>& values) {
  Napi::Array array = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); i++) array.Set(i, values[i]);
  return array;
}

// For keys that come from a file: without a prototype, `__proto__` is a key like any other.
Napi::Object dictionary(Napi::Env env) {
  const auto create = env.Global().Get("Object").As<Napi::Object>().Get("create").As<Napi::Function>();
  return create.Call({env.Null()}).As<Napi::Object>();
}

Napi::Value toJs(Napi::Env env, const json::Value& value) {
  if (const auto* flagged = value.boolean()) return Napi::Boolean::New(env, *flagged);
  if (const auto figure = value.number()) return Napi::Number::New(env, *figure);
  if (const auto* string = value.string()) return Napi::String::New(env, *string);
  if (const auto* array = value.array()) {
    Napi::Array result = Napi::Array::New(env, array->size());
    for (uint32_t i = 0; i < array->size(); i++) result.Set(i, toJs(env, (*array)[i]));
    return result;
  }
  if (const auto* object = value.object()) {
    Napi::Object result = dictionary(env);
    for (const auto& [key, member] : *object) result.Set(key, toJs(env, member));
    return result;
  }
  return env.Null();
}

}  // namespace

Napi::Object toJs(Napi::Env env, const DeviceInfo& facts) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", facts.name);
  object.Set("vendor", facts.vendor);
  object.Set("architecture", facts.architecture);
  object.Set("driver", facts.driver);
  object.Set("type", facts.type);
  object.Set("backend", facts.backend);
  object.Set("features", names(env, facts.features));
  Napi::Object limits = Napi::Object::New(env);
  for (const auto& [name, value] : facts.limits) limits.Set(name, value);
  object.Set("limits", limits);
  object.Set("problem", facts.problem);
  return object;
}

Napi::Object toJs(Napi::Env env, const DeviceList& list) {
  Napi::Array devices = Napi::Array::New(env, list.devices.size());
  for (uint32_t i = 0; i < list.devices.size(); i++) devices.Set(i, toJs(env, list.devices[i]));
  Napi::Object object = Napi::Object::New(env);
  object.Set("devices", devices);
  object.Set("refused", names(env, list.refused));
  return object;
}

Napi::Object toJs(Napi::Env env, const Report& report) {
  Napi::Object time = Napi::Object::New(env);
  time.Set("total", report.total);
  time.Set("read", report.read);
  time.Set("compute", report.compute);
  time.Set("write", report.write);
  time.Set("wait", report.wait);
  time.Set("sync", report.sync);
  time.Set("cpuSteps", report.cpuSteps);
  Napi::Object object = Napi::Object::New(env);
  object.Set("time", time);
  object.Set("bytesRead", static_cast<double>(report.bytesRead));
  object.Set("bytesWritten", static_cast<double>(report.bytesWritten));
  object.Set("tiles", static_cast<double>(report.tiles));
  object.Set("nonFinite", static_cast<double>(report.nonFinite));
  object.Set("resumed", static_cast<double>(report.resumed));
  Napi::Array jobs = Napi::Array::New(env, report.counts.size());
  for (uint32_t i = 0; i < report.counts.size(); i++) {
    Napi::Object entry = Napi::Object::New(env);
    const Counts& counts = report.counts[i];
    entry.Set("job", counts.job);
    entry.Set("variant", counts.variant);
    entry.Set("nonFinite", static_cast<double>(counts.nonFinite));
    entry.Set("changed", static_cast<double>(counts.changed));
    entry.Set("swallowed", static_cast<double>(counts.swallowed));
    jobs.Set(i, entry);
  }
  object.Set("counts", jobs);
  object.Set("checksums", names(env, report.checksums));
  Napi::Array results = Napi::Array::New(env, report.results.size());
  for (uint32_t i = 0; i < report.results.size(); i++) {
    auto row = Napi::Float64Array::New(env, report.results[i].size());
    std::copy(report.results[i].begin(), report.results[i].end(), row.Data());
    results.Set(i, row);
  }
  object.Set("results", results);
  return object;
}

Napi::Object toJs(Napi::Env env, const Forecast& forecast) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("bytesRead", static_cast<double>(forecast.bytesRead));
  object.Set("bytesWritten", static_cast<double>(forecast.bytesWritten));
  object.Set("tiles", static_cast<double>(forecast.tiles));
  object.Set("memory", static_cast<double>(forecast.memory));
  auto passes = Napi::Uint32Array::New(env, forecast.passes.size());
  std::copy(forecast.passes.begin(), forecast.passes.end(), passes.Data());
  object.Set("passes", passes);
  return object;
}

Napi::Object toJs(Napi::Env env, const Progress& progress) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("bytesRead", static_cast<double>(progress.bytesRead));
  object.Set("bytesWritten", static_cast<double>(progress.bytesWritten));
  object.Set("totalRead", static_cast<double>(progress.totalRead));
  object.Set("totalWrite", static_cast<double>(progress.totalWrite));
  object.Set("tensor", progress.tensor);
  return object;
}

Napi::Object toJs(Napi::Env env, const Header& header) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("fileSize", static_cast<double>(header.fileSize));
  object.Set("dataStart", static_cast<double>(header.dataStart));
  object.Set("headerHash", header.headerHash);
  Napi::Object metadata = dictionary(env);
  for (const auto& [key, value] : header.metadata) metadata.Set(key, value);
  object.Set("metadata", metadata);
  Napi::Array tensors = Napi::Array::New(env, header.tensors.size());
  for (uint32_t i = 0; i < header.tensors.size(); i++) {
    Napi::HandleScope scope(env);
    const Tensor& tensor = header.tensors[i];
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", tensor.name);
    entry.Set("dtype", dtypeName(tensor.dtype));
    Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
    for (uint32_t d = 0; d < tensor.shape.size(); d++) shape.Set(d, static_cast<double>(tensor.shape[d]));
    entry.Set("shape", shape);
    entry.Set("begin", static_cast<double>(tensor.begin));
    entry.Set("end", static_cast<double>(tensor.end));
    tensors.Set(i, entry);
  }
  object.Set("tensors", tensors);
  return object;
}

Napi::Object toJs(Napi::Env env, const Index& index) {
  Napi::Object object = Napi::Object::New(env);
  Napi::Object metadata = dictionary(env);
  for (const auto& [key, value] : index.metadata) metadata.Set(key, toJs(env, value));
  object.Set("metadata", metadata);
  Napi::Object map = dictionary(env);
  for (const auto& [tensor, file] : index.weightMap) map.Set(tensor, file);
  object.Set("weightMap", map);
  return object;
}

Napi::Object toJs(Napi::Env env, const Scan& scan) {
  Napi::Object object = Napi::Object::New(env);
  object.Set("sha256", scan.sha256);
  if (scan.header) object.Set("header", toJs(env, *scan.header));
  Napi::Array list = Napi::Array::New(env, scan.nonFinite.size());
  for (uint32_t i = 0; i < scan.nonFinite.size(); i++) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("tensor", scan.nonFinite[i].first);
    entry.Set("count", static_cast<double>(scan.nonFinite[i].second));
    list.Set(i, entry);
  }
  object.Set("nonFinite", list);
  return object;
}

}  // namespace weightsmith
