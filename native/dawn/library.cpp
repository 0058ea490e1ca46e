#include "dawn/library.h"

#include <dlfcn.h>
#include <webgpu/webgpu.h>

#include <cstring>
#include <fstream>
#include <mutex>
#include <vector>

#include "base/error.h"

#if defined(__linux__)
#include <elf.h>
#include <link.h>
#elif defined(__APPLE__)
#include <mach-o/dyld.h>
#include <mach-o/loader.h>
#include <mach-o/nlist.h>
#endif

namespace weightsmith {
namespace {

constexpr char kGetProcAddress[] = "_ZN4dawn6native20NativeGetProcAddressE14WGPUStringView";
using GetProcAddress = WGPUProc (*)(WGPUStringView);

// A true process fact: the trampolines cache what this gave them.
struct Loaded {
  std::mutex mutex;
  std::string path;
  GetProcAddress getProcAddress = nullptr;
};

Loaded& loaded() {
  static Loaded instance;
  return instance;
}

[[noreturn]] void fail(const std::string& message) { throw Error(Code::LOAD, message); }

#if defined(__linux__)
// Value of a local symbol in the ELF .symtab of `path`, 0 if it is not there.
uint64_t symbolValue(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr header{};
  file.read(reinterpret_cast<char*>(&header), sizeof header);
  if (!file || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return 0;
  std::vector<Elf64_Shdr> sections(header.e_shnum);
  file.seekg(static_cast<std::streamoff>(header.e_shoff));
  file.read(reinterpret_cast<char*>(sections.data()),
            static_cast<std::streamsize>(sections.size() * sizeof(Elf64_Shdr)));
  for (const auto& section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    std::vector<Elf64_Sym> symbols(section.sh_size / sizeof(Elf64_Sym));
    file.seekg(static_cast<std::streamoff>(section.sh_offset));
    file.read(reinterpret_cast<char*>(symbols.data()),
              static_cast<std::streamsize>(symbols.size() * sizeof(Elf64_Sym)));
    const auto& strings = sections[section.sh_link];
    std::vector<char> names(strings.sh_size);
    file.seekg(static_cast<std::streamoff>(strings.sh_offset));
    file.read(names.data(), static_cast<std::streamsize>(names.size()));
    if (!file) return 0;
    for (const auto& symbol : symbols) {
      if (symbol.st_name + sizeof kGetProcAddress <= names.size() &&
          std::memcmp(&names[symbol.st_name], kGetProcAddress, sizeof kGetProcAddress) == 0) {
        return symbol.st_value;
      }
    }
  }
  return 0;
}

void* findLocal(void* handle, const std::string& path) {
  link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) return nullptr;
  const uint64_t value = symbolValue(path);
  return value == 0 ? nullptr : reinterpret_cast<void*>(map->l_addr + value);
}
#elif defined(__APPLE__)
void* findLocal(void*, const std::string& path) {
  for (uint32_t i = 0; i < _dyld_image_count(); i++) {
    const char* name = _dyld_get_image_name(i);
    if (!name || path != name) continue;
    const auto* header = reinterpret_cast<const mach_header_64*>(_dyld_get_image_header(i));
    const intptr_t slide = _dyld_get_image_vmaddr_slide(i);
    const auto* command = reinterpret_cast<const load_command*>(header + 1);
    const symtab_command* table = nullptr;
    const segment_command_64* linkedit = nullptr;
    for (uint32_t c = 0; c < header->ncmds; c++) {
      if (command->cmd == LC_SYMTAB) table = reinterpret_cast<const symtab_command*>(command);
      if (command->cmd == LC_SEGMENT_64) {
        const auto* segment = reinterpret_cast<const segment_command_64*>(command);
        if (std::strcmp(segment->segname, SEG_LINKEDIT) == 0) linkedit = segment;
      }
      command = reinterpret_cast<const load_command*>(reinterpret_cast<const char*>(command) + command->cmdsize);
    }
    if (!table || !linkedit) return nullptr;
    const uintptr_t base = static_cast<uintptr_t>(slide) + linkedit->vmaddr - linkedit->fileoff;
    const auto* symbols = reinterpret_cast<const nlist_64*>(base + table->symoff);
    const char* names = reinterpret_cast<const char*>(base + table->stroff);
    for (uint32_t s = 0; s < table->nsyms; s++) {
      const char* symbol = names + symbols[s].n_un.n_strx;
      // Mach-O puts one more underscore before every C symbol.
      if (symbol[0] == '_' && std::strcmp(symbol + 1, kGetProcAddress) == 0) {
        return reinterpret_cast<void*>(static_cast<uintptr_t>(slide) + symbols[s].n_value);
      }
    }
  }
  return nullptr;
}
#else
void* findLocal(void*, const std::string&) { return nullptr; }
#endif

}  // namespace

void loadDawn(const std::string& path) {
  auto& state = loaded();
  std::lock_guard lock(state.mutex);
  if (state.getProcAddress) {
    if (state.path != path) {
      fail("Dawn is already loaded from " + state.path + ", so it cannot be loaded from " + path +
           " in the same process.");
    }
    return;
  }
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* reason = dlerror();
    fail("The Dawn library " + path + " cannot be loaded: " + (reason ? reason : "no reason given") + ".");
  }
  void* symbol = dlsym(handle, "wgpuGetProcAddress");
  if (!symbol) symbol = findLocal(handle, path);
  if (!symbol) {
    fail("The library " + path + " neither exports wgpuGetProcAddress nor has " + kGetProcAddress +
         " in its symbol table, so it is not a Dawn that this version can use (the pinned one is webgpu 0.6.2).");
  }
  state.getProcAddress = reinterpret_cast<GetProcAddress>(symbol);
  state.path = path;
}

}  // namespace weightsmith

extern "C" void* weightsmith_dawn_symbol(const char* name) {
  using namespace weightsmith;
  const auto get = loaded().getProcAddress;
  if (!get) throw Error(Code::LOAD, std::string("Dawn is asked for ") + name + " before it is loaded.");
  auto* proc = reinterpret_cast<void*>(get(WGPUStringView{name, std::strlen(name)}));
  if (!proc) throw Error(Code::LOAD, std::string("This Dawn has no function ") + name + ".");
  return proc;
}
