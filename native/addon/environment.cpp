#include "addon/environment.h"

namespace weightsmith {

Napi::Value errorValue(Napi::Env env, const Error& error) {
  auto& cls = data(env).errorClass;
  if (cls.IsEmpty()) {
    Napi::Error plain = Napi::Error::New(env, error.message);
    plain.Value().Set("code", codeName(error.code));
    return plain.Value();
  }
  return cls.New({Napi::String::New(env, codeName(error.code)), Napi::String::New(env, error.message)});
}

}  // namespace weightsmith
