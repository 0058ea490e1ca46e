// What belongs to one Node environment (the main thread, or a worker): the package's error class, the engines that must
// end before it does, and how calls turn into results, promises and errors.
#pragma once
#include <napi.h>

#include <functional>
#include <new>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"

namespace weightsmith {

class NativeDevice;

struct AddonData {
  Napi::FunctionReference errorClass;
  Napi::FunctionReference deviceClass;
  std::set<NativeDevice*> devices;
};

inline AddonData& data(Napi::Env env) { return *env.GetInstanceData<AddonData>(); }

// The package's error class where it is known already, else a plain Error with the code.
Napi::Value errorValue(Napi::Env env, const Error& error);

// Every entry point runs inside this: what the rooms below throw becomes the package's error class.
template <typename F>
Napi::Value guard(Napi::Env env, F body) {
  try {
    return body();
  } catch (const Error& error) {
    napi_throw(env, errorValue(env, error));
  } catch (const std::bad_alloc&) {
    napi_throw(env, errorValue(env, Error(Code::OUT_OF_MEMORY, "The process has no memory left.")));
  }
  return env.Undefined();
}

// Work off the event loop that ends in a promise. `work` runs on a pool thread, `convert` on the JS thread.
template <typename T>
class PromiseWorker : public Napi::AsyncWorker {
 public:
  using Work = std::function<T()>;
  using Convert = std::function<Napi::Value(Napi::Env, T&)>;

  static Napi::Value start(Napi::Env env, Work work, Convert convert) {
    // node-addon-api deletes a worker itself once it is done.
    auto* worker = new PromiseWorker(env, std::move(work), std::move(convert));
    worker->Queue();
    return worker->deferred_.Promise();
  }

 protected:
  void Execute() override {
    try {
      value_.emplace(work_());
    } catch (const Error& error) {
      error_ = error;
    } catch (const std::exception& error) {
      error_ = Error(Code::INTERNAL, error.what());
    }
  }
  void OnOK() override {
    if (error_)
      deferred_.Reject(errorValue(Env(), *error_));
    else
      deferred_.Resolve(convert_(Env(), *value_));
  }

 private:
  PromiseWorker(Napi::Env env, Work work, Convert convert)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        work_(std::move(work)),
        convert_(std::move(convert)) {}
  Napi::Promise::Deferred deferred_;
  Work work_;
  Convert convert_;
  std::optional<T> value_;
  std::optional<Error> error_;
};

}  // namespace weightsmith
