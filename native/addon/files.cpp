#include "addon/files.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "addon/environment.h"
#include "addon/to_js.h"
#include "base/thread_pool.h"
#include "io/file.h"
#include "io/lock.h"
#include "io/scan.h"

namespace weightsmith {
namespace {

std::string pathArgument(const Napi::CallbackInfo& info) {
  if (info.Length() < 1 || !info[0].IsString()) throw Error(Code::ARGUMENT, "The native border got no path.");
  return info[0].As<Napi::String>().Utf8Value();
}

std::vector<std::string> pathList(const Napi::Value& value) {
  if (!value.IsArray()) throw Error(Code::ARGUMENT, "The native border got no list of paths.");
  const auto array = value.As<Napi::Array>();
  std::vector<std::string> paths;
  for (uint32_t i = 0; i < array.Length(); i++) paths.push_back(array.Get(i).ToString().Utf8Value());
  return paths;
}

Napi::Value headerOf(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    return PromiseWorker<Header>::start(
        info.Env(), [path = pathArgument(info)] { return readHeader(path); },
        [](Napi::Env env, Header& header) -> Napi::Value { return toJs(env, header); });
  });
}

Napi::Value indexOf(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    return PromiseWorker<Index>::start(
        info.Env(), [path = pathArgument(info)] { return readIndex(path); },
        [](Napi::Env env, Index& index) -> Napi::Value { return toJs(env, index); });
  });
}

Napi::Value hashOf(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    return PromiseWorker<std::string>::start(
        info.Env(), [path = pathArgument(info)] { return sha256File(path); },
        [](Napi::Env env, std::string& hash) -> Napi::Value { return Napi::String::New(env, hash); });
  });
}

Napi::Value scan(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&]() -> Napi::Value {
    auto control = std::make_shared<ScanControl>();
    Napi::Object object = Napi::Object::New(env);
    object.Set("done", PromiseWorker<Scan>::start(
                           env,
                           [path = pathArgument(info), weights = info[1].ToBoolean().Value(), control] {
                             return scanFile(path, weights, *control);
                           },
                           [](Napi::Env env, Scan& scan) -> Napi::Value { return toJs(env, scan); }));
    object.Set("abort", Napi::Function::New(env, [control](const Napi::CallbackInfo&) { control->abort = true; }));
    object.Set("bytes", Napi::Function::New(env, [control](const Napi::CallbackInfo& info) -> Napi::Value {
                 return Napi::Number::New(info.Env(), static_cast<double>(control->bytes));
               }));
    return object;
  });
}

// The lock lives until `release` is called or JavaScript has forgotten it; with the process it ends in any case.
Napi::Value lockFile(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&]() -> Napi::Value {
    auto lock = std::make_shared<std::optional<FileLock>>();
    lock->emplace(pathArgument(info));
    Napi::Object object = Napi::Object::New(env);
    object.Set("release", Napi::Function::New(env, [lock](const Napi::CallbackInfo&) { lock->reset(); }));
    return object;
  });
}

// Files in several threads: the first fsync makes the file system write for all of them, the others hardly wait.
constexpr size_t kSyncThreads = 8;

Napi::Value syncFiles(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    return PromiseWorker<bool>::start(
        info.Env(),
        [paths = pathList(info[0])] {
          Completion all;
          ThreadPool pool(std::min(kSyncThreads, paths.size()));
          for (const auto& path : paths) pool.submit(all, [&path] { File::syncPath(path); });
          all.wait();
          return true;
        },
        [](Napi::Env env, bool&) -> Napi::Value { return env.Undefined(); });
  });
}

}  // namespace

void exportFiles(Napi::Env env, Napi::Object exports) {
  exports.Set("readHeader", Napi::Function::New(env, headerOf));
  exports.Set("readIndex", Napi::Function::New(env, indexOf));
  exports.Set("sha256File", Napi::Function::New(env, hashOf));
  exports.Set("scanFile", Napi::Function::New(env, scan));
  exports.Set("lockFile", Napi::Function::New(env, lockFile));
  exports.Set("syncFiles", Napi::Function::New(env, syncFiles));
}

}  // namespace weightsmith
