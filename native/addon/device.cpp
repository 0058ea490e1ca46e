#include "addon/device.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "addon/engine_registry.h"
#include "addon/environment.h"
#include "addon/from_js.h"
#include "addon/to_js.h"
#include "engine/engine.h"

namespace weightsmith {

// What one run holds on the JS thread: its promise and the arrays it reads and writes.
struct Pending {
  Napi::Promise::Deferred deferred;
  Napi::FunctionReference progress;
  std::vector<Napi::ObjectReference> pins;
};

class NativeDevice : public Napi::ObjectWrap<NativeDevice> {
 public:
  static void define(Napi::Env env) {
    data(env).deviceClass = Napi::Persistent(DefineClass(
        env, "NativeDevice",
        {InstanceMethod("run", &NativeDevice::run), InstanceMethod("allocate", &NativeDevice::allocate),
         InstanceMethod("dispatch", &NativeDevice::dispatch), InstanceMethod("release", &NativeDevice::release),
         InstanceMethod("close", &NativeDevice::close), InstanceMethod("forceLoss", &NativeDevice::forceLoss),
         InstanceAccessor<&NativeDevice::info>("info"), InstanceAccessor<&NativeDevice::slots>("slots"),
         InstanceAccessor<&NativeDevice::id>("id")}));
  }

  explicit NativeDevice(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeDevice>(info) {
    engine_ = std::move(*info[0].As<Napi::External<std::shared_ptr<Engine>>>().Data());
    owner_ = info[1].As<Napi::Boolean>().Value();
    if (owner_) id_ = EngineRegistry::instance().add(engine_);
    data(info.Env()).devices.insert(this);
  }
  ~NativeDevice() override {
    if (auto* state = Napi::Env(Env()).GetInstanceData<AddonData>()) state->devices.erase(this);
    shut();
  }

  // The environment goes: what it has under way ends, and with its owner the engine does too.
  void shut() {
    if (engine_ && owner_) engine_->close();
    for (const auto& weak : tasks_) {
      if (const auto task = weak.lock(); task && engine_) engine_->withdraw(*task);
    }
    engine_.reset();
  }

 private:
  Engine& engine() const {
    if (!engine_) throw Error(Code::DISPOSED, "The engine is closed.");
    return *engine_;
  }

  // Hands work to the engine thread. The promise gets what `convert` makes of `result` on the JS thread.
  template <typename T>
  std::shared_ptr<Task> submit(Engine& engine, std::shared_ptr<Pending> pending, Napi::ThreadSafeFunction calls,
                               std::function<T(const RunContext&, const std::atomic<bool>&)> work,
                               std::function<Napi::Value(Napi::Env, T&)> convert) {
    auto task = std::make_shared<Task>();
    auto result = std::make_shared<T>();
    task->work = [result, work = std::move(work), abort = &task->abort](const RunContext& context) {
      *result = work(context, *abort);
    };
    // A closing environment refuses the call; then nobody is left to hear of the result.
    task->onDone = [calls, pending, result, convert = std::move(convert)](std::optional<Error> error) mutable {
      calls.NonBlockingCall([pending, error, result, convert](Napi::Env env, Napi::Function) {
        pending->progress.Reset();
        pending->pins.clear();
        if (error)
          pending->deferred.Reject(errorValue(env, *error));
        else
          pending->deferred.Resolve(convert(env, *result));
      });
      pending.reset();
      calls.Release();
    };
    std::erase_if(tasks_, [](const auto& weak) { return weak.expired(); });
    tasks_.push_back(task);
    engine.submit(task);
    return task;
  }

  static Napi::ThreadSafeFunction callsOf(Napi::Env env) {
    return Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "weightsmith",
                                         0, 1);
  }

  Napi::Value run(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    return guard(env, [&]() -> Napi::Value {
      Engine& engine = this->engine();  // first: what throws later would leave a function that keeps the process alive
      auto pending = std::make_shared<Pending>(Pending{Napi::Promise::Deferred::New(env), {}, {}});
      auto plan = std::make_shared<Plan>(planFrom(info[0].As<Napi::Object>(), pending->pins));
      const bool progress = info.Length() > 1 && info[1].IsFunction();
      if (progress) pending->progress = Napi::Persistent(info[1].As<Napi::Function>());
      auto calls = callsOf(env);
      std::function<void(const Progress&)> onProgress;
      if (progress) {
        onProgress = [calls, pending](const Progress& event) mutable {
          calls.NonBlockingCall([pending, event](Napi::Env env, Napi::Function) {
            if (!pending->progress.IsEmpty()) pending->progress.Call({toJs(env, event)});
          });
        };
      }
      const auto task = submit<Report>(
          engine, pending, calls,
          [plan, onProgress](const RunContext& context, const std::atomic<bool>& abort) {
            return execute(context, *plan, abort, onProgress);
          },
          [](Napi::Env env, Report& report) -> Napi::Value { return toJs(env, report); });
      Napi::Object job = Napi::Object::New(env);
      job.Set("done", pending->deferred.Promise());
      job.Set("abort", Napi::Function::New(env, [weak = std::weak_ptr<Task>(task)](const Napi::CallbackInfo&) {
                if (auto alive = weak.lock()) alive->abort = true;
              }));
      return job;
    });
  }

  // Work without progress: a promise is all the caller gets.
  template <typename T>
  Napi::Value promise(Napi::Env env, std::function<T(const RunContext&)> work,
                      std::function<Napi::Value(Napi::Env, T&)> convert) {
    Engine& engine = this->engine();
    auto pending = std::make_shared<Pending>(Pending{Napi::Promise::Deferred::New(env), {}, {}});
    submit<T>(
        engine, pending, callsOf(env),
        [work = std::move(work)](const RunContext& context, const std::atomic<bool>&) { return work(context); },
        std::move(convert));
    return pending->deferred.Promise();
  }

  static uint64_t residentNumber(const Napi::CallbackInfo& info) {
    return static_cast<uint64_t>(info[0].ToNumber().Int64Value());
  }

  Napi::Value allocate(const Napi::CallbackInfo& info) {
    return guard(info.Env(), [&]() -> Napi::Value {
      return promise<uint64_t>(
          info.Env(),
          [sizes = sizesFrom(info[0])](const RunContext& context) {
            return context.buffers.add(std::make_unique<DeviceBuffers>(context.device, sizes));
          },
          [](Napi::Env env, uint64_t& id) -> Napi::Value { return Napi::Number::New(env, static_cast<double>(id)); });
    });
  }

  Napi::Value dispatch(const Napi::CallbackInfo& info) {
    using Bytes = std::vector<std::vector<uint8_t>>;
    return guard(info.Env(), [&]() -> Napi::Value {
      return promise<Bytes>(
          info.Env(),
          [id = residentNumber(info), work = workFrom(info[1].As<Napi::Object>())](const RunContext& context) {
            return context.buffers.at(id).run(context.pipelines, context.readers, work);
          },
          [](Napi::Env env, Bytes& reads) -> Napi::Value {
            Napi::Array array = Napi::Array::New(env, reads.size());
            for (uint32_t i = 0; i < reads.size(); i++) {
              auto bytes = Napi::Uint8Array::New(env, reads[i].size());
              std::copy(reads[i].begin(), reads[i].end(), bytes.Data());
              array.Set(i, bytes);
            }
            return array;
          });
    });
  }

  Napi::Value release(const Napi::CallbackInfo& info) {
    return guard(info.Env(), [&]() -> Napi::Value {
      return promise<bool>(
          info.Env(),
          [id = residentNumber(info)](const RunContext& context) {
            context.buffers.remove(id);
            return true;
          },
          [](Napi::Env env, bool&) -> Napi::Value { return env.Undefined(); });
    });
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    auto engine = owner_ ? std::exchange(engine_, nullptr) : nullptr;
    if (!owner_) shut();
    return PromiseWorker<bool>::start(
        info.Env(),
        [engine = std::move(engine)]() mutable {
          if (engine) engine->close();
          return true;
        },
        [](Napi::Env env, bool&) -> Napi::Value { return env.Undefined(); });
  }

  Napi::Value forceLoss(const Napi::CallbackInfo& info) {
    return guard(info.Env(), [&]() -> Napi::Value {
      engine().device().forceLoss();
      return info.Env().Undefined();
    });
  }

  Napi::Value info(const Napi::CallbackInfo& info) {
    return guard(info.Env(), [&]() -> Napi::Value { return toJs(info.Env(), engine().facts()); });
  }

  Napi::Value slots(const Napi::CallbackInfo& info) {
    return guard(info.Env(), [&]() -> Napi::Value {
      return Napi::String::New(info.Env(), engine().mapped() ? "mapped" : "staging");
    });
  }

  Napi::Value id(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), static_cast<double>(id_)); }

  std::shared_ptr<Engine> engine_;
  bool owner_ = true;
  uint64_t id_ = 0;
  std::vector<std::weak_ptr<Task>> tasks_;  // that may not have ended
};

namespace {

Napi::Value deviceOf(Napi::Env env, std::shared_ptr<Engine>& engine, bool owner) {
  return data(env).deviceClass.New(
      {Napi::External<std::shared_ptr<Engine>>::New(env, &engine), Napi::Boolean::New(env, owner)});
}

// The engine of another thread's environment, for as long as that one keeps it open.
Napi::Value join(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&]() -> Napi::Value {
    auto engine = EngineRegistry::instance().find(static_cast<uint64_t>(info[0].ToNumber().Int64Value()));
    return deviceOf(env, engine, false);
  });
}

Napi::Value open(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    return PromiseWorker<std::shared_ptr<Engine>>::start(
        info.Env(), [options = openOptions(info[0].As<Napi::Object>())] { return std::make_shared<Engine>(options); },
        [](Napi::Env env, std::shared_ptr<Engine>& engine) -> Napi::Value { return deviceOf(env, engine, true); });
  });
}

Napi::Value devices(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    return PromiseWorker<DeviceList>::start(
        info.Env(), [options = openOptions(info[0].As<Napi::Object>())] { return Device::list(options); },
        [](Napi::Env env, DeviceList& list) -> Napi::Value { return toJs(env, list); });
  });
}

}  // namespace

void exportDevices(Napi::Env env, Napi::Object exports) {
  NativeDevice::define(env);
  // Engine threads end before the environment goes: nothing may call into it later.
  env.AddCleanupHook([env] {
    auto* state = Napi::Env(env).GetInstanceData<AddonData>();
    if (!state) return;
    for (auto* device : state->devices) device->shut();
  });
  exports.Set("devices", Napi::Function::New(env, devices));
  exports.Set("join", Napi::Function::New(env, join));
  exports.Set("open", Napi::Function::New(env, open));
}

}  // namespace weightsmith
