# The same addon built with node-gyp: same sources, same settings as CMakeLists.txt.
{
  'targets': [{
    'target_name': 'weightsmith',
    'sources': ['<!@(node scripts/generate.mjs --list)'],
    'include_dirs': [
      'native',
      'build/generated',
      'build/generated/include',
      '<!(node -p "require(\'node-addon-api\').include_dir")'
    ],
    'defines': ['NAPI_VERSION=9', 'NAPI_CPP_EXCEPTIONS', 'NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS', 'NDEBUG',
                'WEIGHTSMITH_VERSION="<!(node -p "require(\'./package.json\').version")"'],
    'cflags!': ['-fno-exceptions'],
    'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20'],
    'cflags_cc': ['-std=c++20', '-O3', '-fexceptions', '-frtti', '-fvisibility=hidden', '-fvisibility-inlines-hidden', '-Wall', '-Wextra'],
    'libraries': ['-ldl', '-lpthread'],
    'xcode_settings': {
      'CLANG_CXX_LANGUAGE_STANDARD': 'c++20',
      'GCC_ENABLE_CPP_EXCEPTIONS': 'YES',
      'GCC_ENABLE_CPP_RTTI': 'YES',
      'GCC_OPTIMIZATION_LEVEL': '3',
      'GCC_SYMBOLS_PRIVATE_EXTERN': 'YES',
      'MACOSX_DEPLOYMENT_TARGET': '12.0'
    }
  }]
}
