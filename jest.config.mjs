/** Jest runs the JavaScript that scripts/test.mjs compiled: native ES modules, no transform. */
export default {
  roots: ['<rootDir>/build/test'],
  testMatch: ['**/*.test.js'],
  testEnvironment: 'node',
  transform: {},
  moduleNameMapper: { '^weightsmith$': '<rootDir>/dist/esm/index.js' },
  // Several times what the slowest test takes on two cores and the bundled driver.
  testTimeout: 240_000,
}
