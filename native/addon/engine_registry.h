// Process-wide registry of open engines, by number: lets a worker thread join its parent's engine. Nothing else is
// shared by the Node environments of a process.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "engine/engine.h"

namespace weightsmith {

class EngineRegistry {
 public:
  static EngineRegistry& instance();
  uint64_t add(const std::shared_ptr<Engine>& engine);
  // Throws Error DISPOSED where the engine is closed.
  std::shared_ptr<Engine> find(uint64_t id);

 private:
  void halt();

  std::mutex mutex_;
  std::map<uint64_t, std::weak_ptr<Engine>> engines_;
  uint64_t last_ = 0;
};

}  // namespace weightsmith
