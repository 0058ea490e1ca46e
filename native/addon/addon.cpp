// N-API: promises, errors, and the lifetime of engines inside one Node environment. The only room that sees napi.h.
#include <napi.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "addon/convert.h"
#include "base/factor.h"
#include "gpu/kernel_source.h"
#include "io/file.h"
#include "io/lock.h"
#include "io/scan.h"
#include "io/thread_pool.h"
#include "run/coefficients/host_step.h"
#include "run/engine.h"

namespace weightsmith {
namespace {

class NativeDevice;

// State of one environment (main thread or worker): the error class, and the engines that must end before it does.
struct AddonData {
  Napi::FunctionReference errorClass;
  Napi::FunctionReference deviceClass;
  std::set<NativeDevice*> devices;
};

AddonData& data(Napi::Env env) { return *env.GetInstanceData<AddonData>(); }

Napi::Value errorValue(Napi::Env env, const Error& error) {
  auto& cls = data(env).errorClass;
  if (cls.IsEmpty()) {
    Napi::Error plain = Napi::Error::New(env, error.message);
    plain.Value().Set("code", codeName(error.code));
    return plain.Value();
  }
  return cls.New({Napi::String::New(env, codeName(error.code)), Napi::String::New(env, error.message)});
}

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

// What one run holds on the JS thread: its promise and the arrays it reads and writes.
struct Pending {
  Napi::Promise::Deferred deferred;
  Napi::FunctionReference progress;
  std::vector<Napi::ObjectReference> pins;
};

// Open engines by number. It is the one thing all environments of the process share: they have nothing else to hand an
// engine over with.
class Lobby {
 public:
  static Lobby& instance() {
    static Lobby lobby;
    return lobby;
  }
  uint64_t add(const std::shared_ptr<Engine>& engine) {
    // process.exit runs no cleanup hooks, but the destructors of drivers, which must find nobody at work. What is
    // registered after a driver was loaded runs before them.
    std::atexit([] { instance().halt(); });
    std::lock_guard lock(mutex_);
    std::erase_if(engines_, [](const auto& entry) { return entry.second.expired(); });
    engines_[++last_] = engine;
    return last_;
  }
  std::shared_ptr<Engine> find(uint64_t id) {
    std::lock_guard lock(mutex_);
    const auto found = engines_.find(id);
    auto engine = found == engines_.end() ? nullptr : found->second.lock();
    if (!engine) throw Error(Code::DISPOSED, "The engine is closed.");
    return engine;
  }

 private:
  void halt() {
    std::vector<std::shared_ptr<Engine>> open;
    {
      std::lock_guard lock(mutex_);
      for (const auto& [id, weak] : engines_) {
        if (auto engine = weak.lock()) open.push_back(std::move(engine));
      }
    }
    for (const auto& engine : open) engine->halt();
  }

  std::mutex mutex_;
  std::map<uint64_t, std::weak_ptr<Engine>> engines_;
  uint64_t last_ = 0;
};

class NativeDevice : public Napi::ObjectWrap<NativeDevice> {
 public:
  static void define(Napi::Env env) {
    data(env).deviceClass = Napi::Persistent(DefineClass(
        env, "NativeDevice",
        {InstanceMethod("run", &NativeDevice::run), InstanceMethod("allocate", &NativeDevice::allocate),
         InstanceMethod("dispatch", &NativeDevice::dispatch), InstanceMethod("release", &NativeDevice::release),
         InstanceMethod("close", &NativeDevice::close), InstanceMethod("forceLoss", &NativeDevice::forceLoss),
         InstanceAccessor<&NativeDevice::adapter>("adapter"), InstanceAccessor<&NativeDevice::slots>("slots"),
         InstanceAccessor<&NativeDevice::id>("id")}));
  }

  explicit NativeDevice(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeDevice>(info) {
    engine_ = std::move(*info[0].As<Napi::External<std::shared_ptr<Engine>>>().Data());
    owner_ = info[1].As<Napi::Boolean>().Value();
    if (owner_) id_ = Lobby::instance().add(engine_);
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
            return context.residents.add(std::make_unique<Resident>(context.device, sizes));
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
            return context.residents.at(id).run(context.pipelines, context.readers, work);
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
            context.residents.remove(id);
            context.device.reclaim();
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

  Napi::Value adapter(const Napi::CallbackInfo& info) {
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

// The engine of another thread's environment, for as long as that one keeps it open.
Napi::Value join(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guard(env, [&]() -> Napi::Value {
    auto engine = Lobby::instance().find(static_cast<uint64_t>(info[0].ToNumber().Int64Value()));
    return data(env).deviceClass.New(
        {Napi::External<std::shared_ptr<Engine>>::New(env, &engine), Napi::Boolean::New(env, false)});
  });
}

Napi::Value open(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    return PromiseWorker<std::shared_ptr<Engine>>::start(
        info.Env(), [options = openOptions(info[0].As<Napi::Object>())] { return std::make_shared<Engine>(options); },
        [](Napi::Env env, std::shared_ptr<Engine>& engine) -> Napi::Value {
          return data(env).deviceClass.New(
              {Napi::External<std::shared_ptr<Engine>>::New(env, &engine), Napi::Boolean::New(env, true)});
        });
  });
}

Napi::Value adapters(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    return PromiseWorker<std::vector<AdapterFacts>>::start(
        info.Env(), [options = openOptions(info[0].As<Napi::Object>())] { return Device::list(options); },
        [](Napi::Env env, std::vector<AdapterFacts>& list) -> Napi::Value {
          Napi::Array array = Napi::Array::New(env, list.size());
          for (uint32_t i = 0; i < list.size(); i++) array.Set(i, toJs(env, list[i]));
          return array;
        });
  });
}

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

Napi::Value forecastOf(const Napi::CallbackInfo& info) {
  return guard(info.Env(), [&]() -> Napi::Value {
    std::vector<Napi::ObjectReference> pins;
    return toJs(info.Env(),
                forecast(planFrom(info[0].As<Napi::Object>(), pins), deviceFacts(info[1].As<Napi::Object>())));
  });
}

// A Gram matrix, its size and damping; see base/factor.h.
Napi::Value factorOf(const Napi::CallbackInfo& info) {
  const auto values = info[0].As<Napi::Float32Array>();
  return PromiseWorker<std::vector<float>>::start(
      info.Env(),
      [gram = std::vector<float>(values.Data(), values.Data() + values.ElementLength()),
       n = static_cast<size_t>(info[1].ToNumber().Int64Value()),
       damping = info[2].ToNumber().DoubleValue()] { return inverseFactor(gram, n, damping); },
      [](Napi::Env env, std::vector<float>& factor) -> Napi::Value {
        auto result = Napi::Float32Array::New(env, factor.size());
        std::copy(factor.begin(), factor.end(), result.Data());
        return result;
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
  NativeDevice::define(env);
  // Engine threads end before the environment goes: nothing may call into it later.
  env.AddCleanupHook([env] {
    auto* state = Napi::Env(env).GetInstanceData<AddonData>();
    if (!state) return;
    for (auto* device : state->devices) device->shut();
  });
  const auto strings = [env](const auto& values) {
    Napi::Array array = Napi::Array::New(env, values.size());
    for (uint32_t i = 0; i < values.size(); i++) array.Set(i, Napi::String::New(env, values[i]));
    return array;
  };
  exports.Set("version", "0.1.0");
  std::vector<std::string> codes;
  for (const char* code : allCodes()) codes.emplace_back(code);
  exports.Set("errorCodes", strings(codes));
  exports.Set("kernels", strings(kernelNames()));
  exports.Set("hostSteps", strings(hostStepNames()));
  exports.Set("setErrorClass", Napi::Function::New(env, [](const Napi::CallbackInfo& info) {
                data(info.Env()).errorClass = Napi::Persistent(info[0].As<Napi::Function>());
              }));
  exports.Set("readHeader", Napi::Function::New(env, headerOf));
  exports.Set("readIndex", Napi::Function::New(env, indexOf));
  exports.Set("sha256File", Napi::Function::New(env, hashOf));
  exports.Set("scanFile", Napi::Function::New(env, scan));
  exports.Set("lockFile", Napi::Function::New(env, lockFile));
  exports.Set("syncFiles", Napi::Function::New(env, syncFiles));
  exports.Set("forecast", Napi::Function::New(env, forecastOf));
  exports.Set("adapters", Napi::Function::New(env, adapters));
  exports.Set("join", Napi::Function::New(env, join));
  exports.Set("open", Napi::Function::New(env, open));
  exports.Set("inverseFactor", Napi::Function::New(env, factorOf));
  exports.Set("memcpyBandwidth", Napi::Function::New(env, memcpyBandwidth));
  return exports;
}

}  // namespace
}  // namespace weightsmith

Napi::Object initWeightsmith(Napi::Env env, Napi::Object exports) { return weightsmith::init(env, exports); }
NODE_API_MODULE(weightsmith, initWeightsmith)
