// Functions marked WEIGHTSMITH_WIDE are compiled twice where the system can choose between them when the addon is
// loaded: for any processor of the kind, and for those with vectors of 256 bits. They add and multiply numbers of f32
// one by one, so both give the same.
#pragma once

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__)
#define WEIGHTSMITH_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WEIGHTSMITH_WIDE
#endif
