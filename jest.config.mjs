/** Jest runs the JavaScript that scripts/test.mjs compiled: native ES modules, no transform. */
export default {
  roots: ['<rootDir>/build/test'],
  testMatch: ['**/*.test.js'],
  testEnvironment: 'node',
  transform: {},
  moduleNameMapper: { '^weightsmith$': '<rootDir>/dist/esm/index.js' },
  testTimeout: 60_000,
}
