#include "addon/engine_registry.h"

#include <cstdlib>
#include <utility>
#include <vector>

#include "base/error.h"

namespace weightsmith {

EngineRegistry& EngineRegistry::instance() {
  static EngineRegistry registry;
  return registry;
}

uint64_t EngineRegistry::add(const std::shared_ptr<Engine>& engine) {
  // process.exit runs no cleanup hooks, but the destructors of drivers, which must find nobody at work. What is
  // registered after a driver was loaded runs before them.
  std::atexit([] { instance().halt(); });
  std::lock_guard lock(mutex_);
  std::erase_if(engines_, [](const auto& entry) { return entry.second.expired(); });
  engines_[++last_] = engine;
  return last_;
}

std::shared_ptr<Engine> EngineRegistry::find(uint64_t id) {
  std::lock_guard lock(mutex_);
  const auto found = engines_.find(id);
  auto engine = found == engines_.end() ? nullptr : found->second.lock();
  if (!engine) throw Error(Code::DISPOSED, "The engine is closed.");
  return engine;
}

void EngineRegistry::halt() {
  std::vector<std::shared_ptr<Engine>> open;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, weak] : engines_) {
      if (auto engine = weak.lock()) open.push_back(std::move(engine));
    }
  }
  for (const auto& engine : open) engine->halt();
}

}  // namespace weightsmith
